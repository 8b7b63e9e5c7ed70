"""The commands and the Python in the documentation, run as written with trainings cut to two steps."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

import preface
from preface import cli
from preface.cli.app import app
from preface.pretraining.settings import Settings
from preface.tasks import load_split
from preface.tuning.schedules import Budget

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
NEEDS_MORE = ("--data DIR", "paper-a", "--resume", "smollm2", "--recipe demo", "OWNER/", "--track")
"""Commands that want data, a hub, a package or an interrupted run: they are parsed, not run."""


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)


def commands(page: Path) -> list[str]:
    return [line for block in blocks(page, "sh") for line in block.splitlines() if line.startswith("preface ")]


def every_command() -> list[str]:
    lines = [line for page in PAGES for block in blocks(page, "[a-z]*") for line in block.splitlines()]
    return [line for line in lines if line.startswith("preface ")]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, two_steps: None) -> Path:
    """A folder with the files that the documentation names; trainings of two steps, and a short bench."""
    rows = [f'"{("a lovely film", "a dull film")[i % 2]}, number {i}"' for i in range(30)]
    (tmp_path / "reviews.csv").write_text("text,stars\n" + "".join(f"{row},{i % 2}\n" for i, row in enumerate(rows)))
    (tmp_path / "new.csv").write_text("text\n" + "\n".join(rows) + "\n")
    labelled = (f'{{"text": {row}, "label": "{("positive", "negative")[i % 2]}"}}\n' for i, row in enumerate(rows))
    (tmp_path / "my.jsonl").write_text("".join(labelled))
    films = [example.text for example in load_split("film", "train").examples]
    (tmp_path / "books.txt").write_text("\n".join(films) + "\n")
    monkeypatch.setattr(Settings, "budget", property(lambda self: Budget(2)))
    bench = preface.bench
    monkeypatch.setattr(preface, "bench", lambda *given, **options: bench(*given, **options | {"seconds": 5}))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(command: str, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> str:
    arguments = shlex.split(command)
    target = None
    if ">" in arguments:
        arguments, target = arguments[: arguments.index(">")], arguments[-1]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0, command
    output: str = capsys.readouterr().out
    if target:
        Path(target).write_text(output)
    return output


def check_understood(command: str) -> None:
    """Fail unless the command line takes these arguments."""
    arguments = shlex.split(command.split(" > ")[0])[1:]
    get_command(app).make_context("preface", arguments, resilient_parsing=False)
    verb = get_command(app)
    while hasattr(verb, "commands"):
        verb = verb.commands[arguments.pop(0)]
    verb.make_context(verb.name, arguments)


@pytest.mark.parametrize("command", every_command())
def test_every_command_is_understood(command: str) -> None:
    check_understood(command)


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)], ids=lambda page: page.name)
def test_the_commands_of_a_page_run_in_their_order(
    page: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    if "runs/film" in page.read_text() and "--out runs/film" not in page.read_text():
        run("preface train --task film --out runs/film", monkeypatch, capsys)
    for command in commands(page):
        if not any(need in command for need in NEEDS_MORE) and "runs/sst2" not in command:
            output = run(command, monkeypatch, capsys)
            assert output or ">" in command, command


def test_the_python_of_the_readme_runs(folder: Path, capsys: Any) -> None:
    (code,) = blocks(ROOT / "README.md", "python")
    variables: dict[str, Any] = {}
    exec(code, variables)
    assert {cell.eval_task for cell in variables["cells"]} == {"film", "reviews", "posts"}
    assert len(capsys.readouterr().out.splitlines()) == 30


def test_every_public_name_is_in_the_reference() -> None:
    described = re.findall(
        r"^::: preface\.(\w+)$", (ROOT / "docs" / "api.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert sorted(described) == sorted(preface.__all__)


def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert 'href="serving.html"' in page
    assert "freeze the book" in page
    assert "learning_rates" in (tmp_path / "api.html").read_text(encoding="utf-8")


def test_the_python_of_the_page_on_scikit_learn_runs(folder: Path, capsys: Any) -> None:
    variables: dict[str, Any] = {}
    for code in blocks(ROOT / "docs" / "scikit-learn.md", "python"):
        exec(code, variables)
    lines = [line["original"] for line in preface.predict("prompts/stars", "new.csv")]
    assert lines == [str(label) for label in variables["search"].predict(variables["reviews"]["text"])]


def test_links_lead_somewhere() -> None:
    for page in [*PAGES, ROOT / "CONTRIBUTING.md"]:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
            assert target.startswith("http") or (page.parent / target).exists(), f"{page.name}: {target}"


def test_results_name_no_folder_of_a_machine() -> None:
    for file in sorted((ROOT / "docs" / "results").rglob("*.json")):
        assert not re.search(r'"/[A-Za-z]', file.read_text(encoding="utf-8")), file.relative_to(ROOT)
