"""`serve`: prompts over HTTP."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated, Any

import typer

from preface.cli.app import verb
from preface.cli.common import Backbone, Device, Dtype, Quantize
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

`curl localhost:8000/classify -d '{"model": "film", "input": "a warm, funny film"}' -H 'content-type: application/json'`
""",
)
def serve(
    limits: dict[str, Any],
    folder: Annotated[Path, typer.Argument(help="A folder of prompts, as train writes them, or of runs.")],
    backbone: Backbone = None,
    dtype: Dtype = "auto",
    quantize: Quantize = None,
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
) -> None:
    """Answer requests over HTTP, for all prompts in a folder, from one frozen model."""
    if not _is_loopback(host) and keys is None and not open_to_all:
        raise UserError(
            f"host {host}: others could use and replace the prompts; give --keys FILE, or say --open-to-all"
        )
    if runs is not None and not runs.is_dir():
        raise UserError(f"runs {runs}: no folder here")
    import uvicorn

    from preface.backbones.base import size_in_bytes
    from preface.labelling.fit import loaded
    from preface.options import validated
    from preface.records.hub import prompt_folder
    from preface.serving.engine import Engine
    from preface.serving.http.access import Access
    from preface.serving.http.app import create_app
    from preface.serving.http.limits import Limits
    from preface.serving.store import Store
    from preface.terminal.progress import say

    access, bounds = Access() if keys is None else Access.read(keys), validated(Limits, limits)
    elsewhere = {_name_of(prompt): prompt_folder(prompt) for prompt in also or ()}
    if len(elsewhere) < len(also or ()):
        raise UserError(f"also: two prompts have the same name: {', '.join(also or ())}; copy one under another name")
    store = Store(folder, loaded(backbone, dtype, device), size_in_bytes(keep_prompts), elsewhere)
    engine = Engine(store, keep_texts=size_in_bytes(keep_texts), most_waiting=bounds.max_waiting)
    count = len(store.names())
    say(f"{count:,} {'prompt' if count == 1 else 'prompts'} of {folder}, answered by {store.backbone.name}")
    config = uvicorn.Config(
        create_app(engine, access, bounds, runs, local=_is_loopback(host)),
        host,
        port,
        log_level="info",
        access_log=False,
        timeout_graceful_shutdown=60,
    )
    uvicorn.Server(config).run()


def _name_of(prompt: str) -> str:
    """The last part of `hub:OWNER/NAME@REVISION`, or of a folder's path."""
    from preface.records.hub import is_of_hub

    return Path(prompt.partition("@")[0] if is_of_hub(prompt) else Path(prompt).resolve()).name


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
