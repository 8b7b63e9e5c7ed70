"""`serve`: prompts over HTTP."""

from __future__ import annotations

import ipaddress
import os
import platform
from pathlib import Path
from typing import Annotated, Any

import typer

from preface.cli.app import verb
from preface.cli.common import Backbone, Device, Dtype, Ray
from preface.cli.options import Fields, fields
from preface.errors import UserError
from preface.extras import check_installed


def _options() -> dict[str, Fields]:
    check_installed("serve", "serve")
    from preface.serving.http.limits import Limits

    return {"limits": fields(Limits)}


@verb(
    options=_options,
    epilog="""
Examples:

`preface serve prompts --also hub:OWNER/NAME` (one of the hub beside them)

`preface serve prompts --backbone smollm2` (each folder in `prompts` is a prompt, or a run)

`preface serve prompts --replicas 1-8 --ray HOST:6379` (replicas over a Ray cluster, by load)

`curl localhost:8000/classify -d '{"model": "film", "input": "a warm, funny film"}' -H 'content-type: application/json'`
""",
)
def serve(
    limits: dict[str, Any],
    folder: Annotated[Path, typer.Argument(help="A folder of prompts, as train writes them, or of runs.")],
    backbone: Backbone = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
    host: Annotated[str, typer.Option("--host", help="The address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", help="0: any that is free.", min=0, max=65535)] = 8000,
    keys: Annotated[Path | None, typer.Option("--keys", help="A YAML file of the keys that may be used.")] = None,
    open_to_all: Annotated[
        bool,
        typer.Option("--open-to-all", help="Listen beyond this machine without keys, for everybody."),
    ] = False,
    also: Annotated[
        list[str] | None,
        typer.Option("--also", metavar="PROMPT", help="A prompt elsewhere: hub:OWNER/NAME, or a folder. Any number."),
    ] = None,
    runs: Annotated[Path | None, typer.Option("--runs", help="A folder whose runs the page shows.")] = None,
    keep_texts: Annotated[
        str, typer.Option("--keep-texts", metavar="SIZE", help="Memory for what was read of texts.")
    ] = "2GB",
    keep_prompts: Annotated[
        str, typer.Option("--keep-prompts", metavar="SIZE", help="Memory for prompts that stay loaded.")
    ] = "1GB",
    ray: Ray = None,
    replicas: Annotated[
        str | None,
        typer.Option(
            "--replicas",
            metavar="N[-MOST]",
            help="With --ray: how many answer, or between which numbers by load. Default: 1 to one a machine.",
        ),
    ] = None,
) -> None:
    """Answer requests over HTTP, for all prompts in a folder, from one frozen model."""
    if not _is_loopback(host) and keys is None and not open_to_all:
        raise UserError(
            f"host {host}: others could use and replace the prompts; give --keys FILE, or say --open-to-all"
        )
    if runs is not None and not runs.is_dir():
        raise UserError(f"runs {runs}: no folder here")
    if replicas is not None and ray is None:
        raise UserError("replicas: are of a Ray cluster; give --ray too")
    import uvicorn

    from preface.backbones.base import size_in_bytes
    from preface.options import validated
    from preface.serving.http.access import Access
    from preface.serving.http.app import create_app
    from preface.serving.http.limits import Limits
    from preface.serving.http.setup import Setup
    from preface.terminal.progress import say

    access = Access() if keys is None else Access.read(keys)
    setup = Setup(
        folder,
        backbone,
        dtype,
        device,
        size_in_bytes(keep_texts, "keep-texts"),
        size_in_bytes(keep_prompts, "keep-prompts"),
        tuple(also or ()),
        runs,
        access.keys,
        validated(Limits, limits),
    )
    local = _is_loopback(host)

    def listen(app: Any, lifespan: Any = "on") -> None:
        config = uvicorn.Config(
            app,
            host,
            port,
            log_level="info",
            access_log=False,
            timeout_graceful_shutdown=60,
            lifespan=lifespan,
            ws="none",
        )
        uvicorn.Server(config).run()

    if ray is not None:
        from preface.cluster.serve import on_cluster

        name = f"preface {platform.node()}:{port or os.getpid()}"
        with on_cluster(setup, name, address=ray or None, replicas=_bounds(replicas), local=local) as app:
            say(f"prompts of {folder}, answered over a Ray cluster as {name!r}")
            listen(app, lifespan="off")
        return
    engine = setup.engine()
    count = len(engine.store.names())
    say(f"{count:,} {'prompt' if count == 1 else 'prompts'} of {folder}, answered by {engine.backbone.name}")
    listen(create_app(engine, access, setup.limits, runs, local))


def _bounds(replicas: str | None) -> tuple[int, int] | None:
    """The least and the most of `2`, or of `1-8`. Raises UserError."""
    if replicas is None:
        return None
    least, dash, most = replicas.partition("-")
    if not least.isdecimal() or (dash and not most.isdecimal()) or not 0 < int(least) <= int(most or least):
        raise UserError(f"replicas {replicas}: write how many, as 2, or the least and the most, as 1-8")
    return int(least), int(most or least)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
