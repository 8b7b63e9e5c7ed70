"""A prompt on the Hugging Face hub, beside a page that says what it is for, how good it is, and how it is used."""

from __future__ import annotations

import re
import shlex
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from preface.backbones.quantized import split_name
from preface.errors import UserError, first_line
from preface.records.card import PromptCard, SavedPrompt, load_prompt, save_ensemble, save_prompt
from preface.records.hub import HUB, prompt_folder
from preface.records.results import Cell
from preface.records.run import cells_of, command_of
from preface.tasks.load import OWN_DATA

JOINTS = re.compile(r"([=:+,])")
"""What a word of a command may be put together with: `--init=prompt:FOLDER`, `FILE+FILE`, `FILE:cue=…`."""


def push(run: str | Path, name: str, private: bool = False) -> str:
    """Upload a prompt as `hub:NAME`, in the place of one that is there.

    The token is the one of `hf auth login`, or of the environment's HF_TOKEN. Folders of this machine that the prompt's
    card names, as where its backbone lies, are left out.

    Args:
        run: a finished run's folder, or a prompt's.
        name: `OWNER/NAME`.
        private: only for those whom the hub lets see it; counts where the repository is new.

    Returns:
        The address of its page.

    Raises:
        UserError: no prompt there, one of several tasks, or the hub does not take it.
    """
    from huggingface_hub import HfApi

    folder = prompt_folder(run)
    saved = load_prompt(folder)
    saved.refuse_shared()
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary) / "prompt"
        save_public(place, saved)
        page = model_page(saved.card, name.removeprefix(HUB), cells_of(folder, saved.card), command_of(folder))
        (place / "README.md").write_text(page, encoding="utf-8")
        try:
            api = HfApi()
            repository = api.create_repo(name.removeprefix(HUB), private=private, exist_ok=True)
            api.upload_folder(
                repo_id=repository.repo_id, folder_path=place, commit_message=f"A prompt for {saved.card.task.name}"
            )
        except Exception as error:  # the hub's libraries have errors of their own for whatever it does not take
            status = getattr(getattr(error, "response", None), "status_code", None)
            advice = "; `hf auth login` tells the hub who you are" if status in (401, 403) else ""
            raise UserError(f"push {name}: {first_line(error)}{advice}") from error
    return str(repository)


def save_public(folder: Path, saved: SavedPrompt) -> None:
    """Write a prompt without the folders of this machine."""
    card = without_folders(saved.card)
    if card.ensemble is None:
        save_prompt(folder, saved.prompts, card)
    else:
        save_ensemble(folder, [saved.prompts.select([index]) for index in range(saved.prompts.size)], card)


def without_folders(card: PromptCard) -> PromptCard:
    """A card in which of every file and folder only its own name stands."""
    content = card.as_json()
    content["backbone"] = _last(content["backbone"])
    init = content["method"]["config"].get("init")
    if isinstance(init, str) and init.startswith("prompt:"):
        content["method"]["config"]["init"] = f"prompt:{_last(init.removeprefix('prompt:'))}"
    if (imported := content["method"]["config"].get("imported")) is not None:
        content["method"]["config"]["imported"] = _last(imported)
    if content.get("ensemble"):
        content["ensemble"]["runs"] = [_last(run) for run in content["ensemble"]["runs"]]
    _forget_folders(content["task"])
    return PromptCard.model_validate(content)


def _forget_folders(task: dict[str, Any]) -> None:
    """Leave of a task's files their names alone, and of those that it is made of."""
    task.pop("folder", None)
    begun, own, path = task.get("description", "").partition(OWN_DATA)
    task["description"] = begun + own + _last(path)
    source = task.get("source") or {}
    files, hub = source.get("files") or {}, source.get("hub") or {}
    for parts in (files.get("parts") or {}, files.get("labels") or {}):
        for part, paths in parts.items():
            parts[part] = _last(paths) if isinstance(paths, str) else [_last(path) for path in paths]
    if "id" in hub:
        hub["id"] = _last(hub["id"])
    for one in task.get("mixture") or ():
        _forget_folders(one)


def _last(path: str) -> str:
    return Path(path).name if Path(path).is_absolute() else path


def model_page(card: PromptCard, name: str, cells: list[Cell], command: str | None) -> str:
    """The page of the repository, in Markdown, with what the hub reads of it above."""
    from huggingface_hub import EvalResult, ModelCardData

    backbone = _hub_name(card)
    kind = "text-classification" if card.label_words else "text-generation"
    results = [
        EvalResult(
            task_type=kind,
            dataset_type=cell.eval_task,
            dataset_name=cell.eval_task,
            dataset_split=cell.split,
            metric_type=cell.metric,
            metric_value=round(cell.value, 4),
        )
        for cell in cells
    ]
    data = ModelCardData(
        library_name="preface",
        base_model=backbone if backbone is not None and "/" in backbone else None,
        pipeline_tag=kind,
        tags=["soft-prompt", card.method.name],
        model_name=name,
        eval_results=results or None,
    )
    frozen = backbone or Path(card.backbone).name
    rows = [
        ("task", f"{card.task.name}: {card.task.description}" if card.task.description else card.task.name),
        ("fields of a row", ", ".join(card.task.text_fields)),
        ("answers", ", ".join(card.label_words) or "free text"),
        ("frozen model", f"`{frozen}`, unchanged"),
        ("method", f"{card.method.name}: {_settings(card.method.config)}"),
        ("trained parameters", f"{card.trained_parameters:,}"),
    ]
    if (score := card.development_score) is not None and card.ensemble is None:  # which has its best member's
        rows.append(("development split", f"{card.task.metric} {score:.3f}"))
    parts = [
        f"---\n{data.to_yaml()}\n---\n",
        f"# {name}\n",
        f"A soft prompt for {card.task.name}: all that was trained. The language model is as it was.\n",
        _table(("", ""), rows),
        "## Scores\n\n" + _table(("task", "metric", "value", "rows"), _scores(cells)) if cells else "",
        f"## Use\n\n```sh\npip install preface\npreface predict {HUB}{name} texts.csv\n```\n",
        f"```python\nimport preface\n\nlist(preface.predict('{HUB}{name}', ['a text']))\n```\n",
        f"## Made by\n\n```sh\n{_public(command)}\n```\n" if command else "",
    ]
    return "\n".join(part for part in parts if part)


def _public(command: str) -> str:
    """A command in which of every file and folder only its own name stands."""
    return shlex.join("".join(map(_last, JOINTS.split(word))) for word in shlex.split(command))


def _hub_name(card: PromptCard) -> str | None:
    """The backbone's name on the hub, or a package's; None: it is a folder of somebody's machine."""
    from preface.backbones import gguf

    name, _ = split_name(card.backbone)
    if Path(name).is_absolute():
        return None
    return gguf.HUB_NAME if name == gguf.SMOLLM2 else name


def _settings(config: dict[str, Any]) -> str:
    said = {name: ", ".join(value) if isinstance(value, list) else value for name, value in config.items()}
    return "; ".join(f"{name} {value}" for name, value in said.items() if value is not None)


def _scores(cells: list[Cell]) -> list[tuple[str, ...]]:
    return [(cell.eval_task, _measure(cell), f"{cell.value:.3f}", f"{cell.n:,}") for cell in cells]


def _measure(cell: Cell) -> str:
    """The metric, on which split if not the test's, and how the prompt was asked if not as usual."""
    split = [f"on {cell.split}"] if cell.split != "test" else []
    return ", ".join([cell.metric, *split, *(f"{name} {value}" for name, value in cell.unusual.items())])


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', '&#124;') for cell in line)} |\n" for line in lines)
