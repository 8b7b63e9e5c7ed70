"""Rows from the Hugging Face hub, or from a local folder in its format, through `datasets`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from preface.hub import SECONDS, hub_error
from preface.tasks.lines import brief
from preface.tasks.read import Row
from preface.tasks.task import HubSource


class NotOnHubError(Exception):
    """The hub does not give these rows; the text says why."""


def hub_rows(hub: HubSource, split: str, folder: Path | None) -> tuple[Iterator[Row], str | None]:
    """The rows of a split of a data set, and the commit that they come from (None for a local folder).

    `folder` is where a local folder's relative path begins. Raises NotOnHubError if there are no such rows,
    or the hub is out of reach and the data set is not in the local cache.
    """
    local = (folder or Path()) / hub.id
    is_local = local.is_dir()
    why = None if is_local else _out_of_reach(hub)
    with _quiet_datasets(offline=why is not None) as datasets:
        try:
            path = str(local) if is_local else hub.id
            if hub.folder and not is_local:
                path = _download(hub, cached=why is not None)
            revision = None if path != hub.id else hub.revision
            data = datasets.load_dataset(path, hub.config, data_dir=hub.folder, revision=revision, split=split)
        except Exception as error:  # many libraries' errors, all of which mean that there are no rows
            raise NotOnHubError(f"not available ({why or brief(error)})") from error
    rows = (Row(f"{hub.id} {split}", number, fields, "row") for number, fields in enumerate(data, 1))
    return rows, None if is_local else _commit(path, data)


def _download(hub: HubSource, cached: bool) -> str:
    """Where the files of the data set's folder lie; `datasets` would not find them in its cache again."""
    from huggingface_hub import snapshot_download

    wanted = f"{hub.folder}/*"
    return snapshot_download(
        hub.id, repo_type="dataset", revision=hub.revision, allow_patterns=wanted, local_files_only=cached
    )


def _out_of_reach(hub: HubSource) -> str | None:
    """Why the hub does not answer for this data set, None if it does; there may still be a copy in the local cache."""
    error = hub_error(lambda api: api.dataset_info(hub.id, revision=hub.revision, timeout=SECONDS))
    return None if error is None else f"{brief(error) or type(error).__name__}, and it is not in the local cache"


@contextmanager
def _quiet_datasets(offline: bool) -> Iterator[Any]:
    """The `datasets` library without progress bars and warnings and, if `offline`, with its cache only."""
    import datasets
    from huggingface_hub import constants, utils

    level, bars = datasets.logging.get_verbosity(), datasets.is_progress_bar_enabled()
    downloads_bar = not utils.are_progress_bars_disabled()
    was = (constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE)
    datasets.logging.set_verbosity_error()
    datasets.disable_progress_bars()
    utils.disable_progress_bars()
    if offline:
        constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
    try:
        yield datasets
    finally:
        constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE = was
        datasets.logging.set_verbosity(level)
        if bars:
            datasets.enable_progress_bars()
        if downloads_bar:
            utils.enable_progress_bars()


def _commit(path: str, data: Any) -> str | None:
    """Both caches name a folder after the commit: that of the downloaded files, and that of the rows."""
    folders = [Path(path).name, *(Path(file["filename"]).parent.name for file in data.cache_files)]
    return next((name for name in folders if re.fullmatch("[0-9a-f]{40}", name)), None)
