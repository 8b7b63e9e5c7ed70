"""Labels for a large file over a cluster: part after part of it, each a file of its own, by Ray Data.

Which rows a part has follows from the file alone, not from how Ray would split it: so a later call, on a cluster of
another size, finds the parts that are whole.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from preface.cluster.join import joined, share, work_in
from preface.errors import UserError
from preface.extras import check_installed
from preface.labelling.predict import CHUNK, Predictor
from preface.records.atomic import write_atomically
from preface.records.card import TENSORS, load_prompt
from preface.tasks.read import count_parquet, format_of, iter_rows, raise_bad
from preface.terminal.interrupt import Interrupted
from preface.terminal.progress import progress, warn

PART = 64 * CHUNK
"""Rows of a part: whole chunks, so that rows are batched as they are on one machine."""
RECORD = "predict.json"
"""What the parts of a folder are."""


@dataclass(frozen=True)
class Work:
    """What is labelled, and with what."""

    run: str
    source: str
    input: str | None = None
    backbone: str | None = None
    dtype: str = "auto"
    device: str = "auto"
    skip_bad_rows: bool = False


def predict_on_cluster(
    run: str | Path, source: str | Path, out: str | Path, *, address: str | None = None, **how: Any
) -> list[Path]:
    """Label the rows of a Parquet file over a Ray cluster, as `preface.predict` does on one machine.

    Parts that are in `out` already are not labelled again: the same call goes on where one was stopped.

    Args:
        run: a run's folder, a prompt's, or `hub:OWNER/NAME`.
        source: a Parquet file.
        out: a folder for `part-00000.jsonl`, …: one after the other, they are the lines of all rows, in their order.
        address: of the cluster (`preface.cluster.join.joined`).
        how: `input`, `backbone`, `dtype`, `device`, `skip_bad_rows`, as for `preface.predict`.

    Returns:
        The parts, in order.

    Raises:
        UserError: what the user can put right.
        Interrupted: after Ctrl-C.
    """
    check_installed("cluster", "ray")
    work, folder = Work(str(run), str(source), **how), Path(out)
    if work.source == "-" or format_of(source) != "parquet":
        raise UserError(
            f"{source}: over a cluster a Parquet file is labelled, which can be read from any row on; save it as one"
        )
    saved = load_prompt(work.run)
    saved.refuse_shared()
    prompt = hashlib.sha256((saved.folder / TENSORS).read_bytes()).hexdigest()
    total = count_parquet(source)
    size = Path(source).stat().st_size
    _claim(folder, asdict(work) | {"prompt": prompt, "rows": total, "bytes": size, "rows_a_part": PART})
    parts = {
        folder / f"part-{number:05}.jsonl": range(first, min(first + PART, total))
        for number, first in enumerate(range(0, total, PART))
    }
    try:
        _label(work, {path: rows for path, rows in parts.items() if not path.exists()}, total, address)
    except KeyboardInterrupt as stopped:
        whole = sum(path.exists() for path in parts)
        raise Interrupted(f"stopped: {whole} of {len(parts)} parts are whole; the same command goes on") from stopped
    return [*parts]


def _claim(folder: Path, fields: Mapping[str, Any]) -> None:
    """Write down what the parts are. Raises UserError if those that are there are something else."""
    record, said = folder / RECORD, json.dumps(fields, indent=1) + "\n"
    begun = record.exists() and any(folder.glob("part-*.jsonl"))  # after a mistake there is the record alone
    if begun and record.read_text(encoding="utf-8") != said:
        raise UserError(f"{folder}: holds other labels (see {record}); give another --out, or remove it")
    write_atomically(record, said)


def _label(work: Work, parts: Mapping[Path, range], total: int, address: str | None) -> None:
    """Have every part labelled, as many at a time as the cluster has room for. Raises UserError."""
    if not parts:
        return
    import ray.data

    logging.getLogger("ray.data").setLevel(logging.ERROR)  # its warnings are for those who program it
    skipped = cut = 0
    with joined(address):
        ray.data.DataContext.get_current().enable_progress_bars = False
        items = [{"path": str(path), "first": rows.start, "end": rows.stop} for path, rows in parts.items()]
        written = ray.data.from_items(items, override_num_blocks=len(items)).map(
            _Labeller,  # type: ignore[arg-type]
            fn_constructor_args=(work, os.getcwd()),
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=len(items)),
            **share(len(items), work.device),
        )
        with progress("labelling", total, "rows", done=total - sum(map(len, parts.values()))) as advance:
            for part in written.iter_rows():
                if part["error"]:
                    raise UserError(part["error"])
                for line in part["skipped"].splitlines():
                    warn(f"left out: {line}")
                    skipped += 1
                cut += part["cut"]
                advance(part["rows"])
    if skipped:
        warn(f"{skipped:,} bad rows were left out")
    if cut:
        warn(f"{cut:,} inputs were cut")


class _Labeller:
    """In a worker: a prompt and its backbone, loaded once, which label one part after another."""

    def __init__(self, work: Work, folder: str) -> None:
        self.work, self.folder = work, folder
        self.predictor: Predictor | None = None

    def __call__(self, part: Mapping[str, Any]) -> dict[str, Any]:
        """Write a part; say how many rows it has, how many were cut, which were left out, or what the user can put
        right."""
        path, rows = Path(part["path"]), range(part["first"], part["end"])
        skipped: list[str] = []
        try:
            work_in(self.folder, path.with_name(RECORD))
            lines = self._lines(rows, skipped)
        except UserError as error:
            return {"error": str(error), "rows": 0, "cut": 0, "skipped": ""}
        write_atomically(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
        cut = sum(bool(line.get("cut")) for line in lines)
        return {"error": "", "rows": len(rows), "cut": cut, "skipped": "\n".join(skipped)}

    def _lines(self, rows: range, skipped: list[str]) -> list[dict[str, Any]]:
        """What is said of some rows of the file. Raises UserError."""
        work = self.work
        if self.predictor is None:
            self.predictor = Predictor(work.run, work.input, work.backbone, work.dtype, work.device)
        read = iter_rows(work.source, part=rows, on_bad=skipped.append if work.skip_bad_rows else raise_bad)
        return [*self.predictor(read, skip_bad_rows=work.skip_bad_rows, on_skip=skipped.append)]
