"""Write a prompt for other programs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, get_args

from preface.backbones.base import Backbone
from preface.errors import UserError
from preface.exchange.numpy import write_numpy
from preface.exchange.peft import CONFIG, TENSORS, write_peft
from preface.exchange.vllm import write_vllm
from preface.labelling.fit import backbone_of
from preface.records.atomic import check_replaceable
from preface.records.card import load_prompt
from preface.records.hub import is_of_hub, prompt_folder
from preface.records.run import Run
from preface.tasks import iter_examples, load_task

Format = Literal["peft", "numpy", "vllm"]
NAMES: dict[Format, str] = {"peft": "peft", "numpy": "prompt.npy", "vllm": "requests.jsonl"}
"""What is written into the prompt's folder where no other place is named."""
BEGINS: dict[Format, bytes] = {"numpy": b"\x93NUMPY", "vllm": b'{"model": '}
"""How the files begin that an earlier one may be replaced by."""


def export_prompt(
    run: Run | str | Path,
    format: Format,
    out: str | Path | None = None,
    *,
    texts: str | Path | None = None,
    input: str | None = None,
    encoding: str = "utf-8",
    skip_bad_rows: bool = False,
    on_skip: Callable[[str], None] | None = None,
    backbone: Backbone | str | None = None,
    dtype: str = "auto",
    device: str = "auto",
) -> Path:
    """Write the best prompt of a run so that another program answers as it does here.

    Args:
        run: a run, its folder, a prompt's folder, or a prompt of the hub.
        format: `peft`: a folder that PEFT loads; `numpy`: a `.npy` file `[length, d]`; `vllm`: request bodies, a line
            of JSON for each text.
        out: what is written (default: `NAMES`, in the folder of `run`).
        texts: for `vllm`, a data file; `-`: standard input.
        input, encoding, skip_bad_rows, on_skip: of that, as for `predict`.
        backbone, dtype, device: of the model, which a prefix for PEFT and requests are made with, as for `predict`;
            `numpy` takes none.

    Returns:
        Where it lies.

    Raises:
        UserError: the format cannot hold the prompt, or whatever else the user can put right.
    """
    if format not in get_args(Format):
        raise UserError(f"format {format}: one of {', '.join(get_args(Format))}")
    if (texts is not None) != (format == "vllm"):
        raise UserError("texts: --format vllm makes requests about texts, given by --texts; no other format does")
    reading = {"input": input is not None, "encoding": encoding != "utf-8", "skip-bad-rows": skip_bad_rows}
    if format != "vllm":
        _refuse(reading, f"says how texts are read, and --format {format} reads none; leave it out")
    if format == "numpy":
        model = {"backbone": backbone is not None, "dtype": dtype != "auto", "device": device != "auto"}
        _refuse(model, "--format numpy writes the prompt as it is, without a model; leave it out")
    if out is None and not isinstance(run, Run) and is_of_hub(run):
        raise UserError(f"{run}: is kept in the hub's cache, where nothing else is written; name a place with --out")
    folder, known = (run.folder, run.backbone) if isinstance(run, Run) else (prompt_folder(run), None)
    saved = load_prompt(folder)
    path = Path(out) if out is not None else folder / NAMES[format]
    if path.is_dir() and not (format == "peft" and {file.name for file in path.iterdir()} <= {CONFIG, TENSORS}):
        raise UserError(f"{path}: is a folder that holds something else; give another --out")
    if path.is_file() and format == "peft":
        raise UserError(f"{path}: is a file, and PEFT's format is a folder; give another --out")
    if format in BEGINS:
        check_replaceable(path, BEGINS[format], f"none of --format {format}")

    def load() -> Backbone:
        model = backbone_of(saved.card, backbone, known, dtype, device)
        saved.check_sizes(model)
        return model

    if format == "peft":
        write_peft(saved, path, load)
    elif format == "numpy":
        write_numpy(saved, path)
    else:
        task = saved.card.task if input is None else load_task(saved.card.task, input=input)
        assert texts is not None
        examples = iter_examples(
            task, texts, skip_bad_rows=skip_bad_rows, on_skip=on_skip, encoding=encoding, guess=input is None
        )
        write_vllm(saved, path, load, (example for _, example in examples))
    return path


def _refuse(options: Mapping[str, bool], why: str) -> None:
    """Raise UserError for one that was given."""
    for name, given in options.items():
        if given:
            raise UserError(f"{name}: {why}")
