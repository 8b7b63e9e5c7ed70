"""The files for deployment: their commands are understood, and they agree with each other and with the package."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from typing import Any

import pytest
import yaml

from preface.serving.http import guard
from tests.test_docs import ROOT, check_understood

KUBERAY = sorted((ROOT / "deploy" / "kuberay").glob("*.yaml"))
PLACES = {"${STATE_DIRECTORY}": "prompts", "${CREDENTIALS_DIRECTORY}": "credentials"}


def dockerfile() -> list[str]:
    """Its instructions, each on a line."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", "")
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def instruction(name: str) -> str:
    """What the last one of that name says."""
    return [line.partition(" ")[2].strip() for line in dockerfile() if line.startswith(f"{name} ")][-1]


def unit() -> dict[str, list[str]]:
    """The settings of the service, each with its values."""
    found: dict[str, list[str]] = {}
    for line in (ROOT / "deploy" / "preface.service").read_text(encoding="utf-8").splitlines():
        if line and line[0] not in "#[":
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


def documents() -> list[dict[str, Any]]:
    return [document for file in KUBERAY for document in yaml.safe_load_all(file.read_text(encoding="utf-8"))]


def of_kind(kind: str) -> list[dict[str, Any]]:
    return [document for document in documents() if document["kind"] == kind]


def service_command() -> str:
    (command,) = unit()["ExecStart"]
    for name, place in PLACES.items():
        command = command.replace(name, place)
    return command.removeprefix("/opt/preface/bin/")


def in_the_shared_folder(job: dict[str, Any]) -> tuple[str, str]:
    """The folder and the command of a job: one word, since KubeRay hands the whole to a shell before Ray does."""
    shell, option, words = shlex.split(job["spec"]["entrypoint"])
    assert (shell, option) == ("bash", "-c")
    folder, _, command = words.removeprefix("cd ").partition(" && ")
    return folder, command


COMMANDS = [
    shlex.join(json.loads(instruction("ENTRYPOINT")) + json.loads(instruction("CMD"))),
    service_command(),
    *[in_the_shared_folder(job)[1] for job in of_kind("RayJob")],
]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_understood(command: str) -> None:
    check_understood(command)


def test_a_container_and_a_service_ask_for_keys() -> None:
    for command in COMMANDS[:2]:
        assert "--keys" in command
        assert "--open-to-all" not in command


def test_the_health_of_a_container_is_asked_where_no_key_is_needed() -> None:
    path = re.search(r"http://127\.0\.0\.1:(\d+)(/\w+)", instruction("HEALTHCHECK"))
    assert path is not None
    assert path[1] == instruction("EXPOSE")
    assert path[2] in guard.OPEN


def test_an_image_is_made_of_what_docker_is_given() -> None:
    given = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    copied = [
        word
        for line in dockerfile()
        if line.startswith("COPY ") and "--from" not in line
        for word in line.split()[1:-1]
    ]
    assert {f"!{name}" for name in copied} == {line for line in given if line.startswith("!")}
    assert all((ROOT / name).exists() for name in copied)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = {project["readme"], *project["license-files"], "pyproject.toml", "preface"}
    assert needed <= {*copied}, "the wheel is built of these"
    extras = re.findall(r'"\$1\[(\w+)\]"', "\n".join(dockerfile()))
    assert {*extras} <= {*project["optional-dependencies"]}


def test_no_program_runs_as_root() -> None:
    assert instruction("USER").isdecimal()
    assert unit()["DynamicUser"] == ["yes"]


def test_the_cluster_and_its_jobs_fit_together() -> None:
    (cluster,) = of_kind("RayCluster")
    (claim,) = of_kind("PersistentVolumeClaim")
    pods = [
        group["template"]["spec"] for group in (cluster["spec"]["headGroupSpec"], *cluster["spec"]["workerGroupSpecs"])
    ]
    for pod in pods:
        (container,) = pod["containers"]
        assert [mount["name"] for mount in container["volumeMounts"]] == [volume["name"] for volume in pod["volumes"]]
        assert pod["volumes"][0]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    assert len({pod["containers"][0]["image"] for pod in pods}) == 1, "one image: the same Python, Ray and Preface"
    ray = next(line for line in dockerfile() if line.endswith("AS ray"))
    assert f"ray:{cluster['spec']['rayVersion']}-" in ray
    shared = pods[0]["containers"][0]["volumeMounts"][0]["mountPath"]
    for job in of_kind("RayJob"):
        assert job["spec"]["clusterSelector"] == {"ray.io/cluster": cluster["metadata"]["name"]}
        assert in_the_shared_folder(job)[0] == shared
