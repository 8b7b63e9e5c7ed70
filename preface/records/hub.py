"""Prompts on the Hugging Face hub, by `hub:OWNER/NAME`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from preface.errors import UserError, first_line
from preface.hub import SECONDS, hub_error

HUB = "hub:"
FILES = ("prompt.json", "prompt.safetensors")
"""What a prompt consists of, wherever it lies."""


def is_of_hub(name: object) -> bool:
    return str(name).startswith(HUB)


def prompt_folder(name: str | Path) -> Path:
    """Where a prompt lies: `hub:OWNER/NAME`, or `hub:OWNER/NAME@REVISION`, in the hub's cache, downloaded if it is not
    there yet or has changed; any other is a folder.

    Raises UserError if the hub has no such prompt, or is out of reach and none is in the cache.
    """
    if not is_of_hub(name):
        return Path(name)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError, RepositoryNotFoundError
    from tqdm import tqdm

    class Quiet(tqdm):
        """Two small files are no progress to be shown, and where they lie in the cache, none."""

        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **{**options, "disable": True})

    repository, _, revision = str(name).removeprefix(HUB).partition("@")
    error = hub_error(lambda api: api.model_info(repository, revision=revision or None, timeout=SECONDS))
    if isinstance(error, RepositoryNotFoundError | HFValidationError):
        raise UserError(f"prompt {name}: not on the Hugging Face hub; it is called hub:OWNER/NAME there") from error
    try:
        folder = snapshot_download(
            repository,
            revision=revision or None,
            allow_patterns=list(FILES),
            local_files_only=error is not None,
            tqdm_class=Quiet,
        )
    except LocalEntryNotFoundError as missing:
        reason = first_line(error or missing)
        raise UserError(f"prompt {name}: the hub is out of reach, and it is not in its cache ({reason})") from missing
    except Exception as failure:  # whatever goes wrong on the way, the hub's libraries have errors of their own for it
        raise UserError(f"prompt {name}: cannot be fetched ({first_line(failure)})") from failure
    return Path(folder)
