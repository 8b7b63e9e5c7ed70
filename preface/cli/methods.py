"""`methods`: what each costs on a backbone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from preface.cli.app import verb
from preface.cli.common import Backbone, Device, Dtype, Json, empty_table, show, show_json
from preface.cli.options import Fields, fields

if TYPE_CHECKING:
    from rich.table import Table

    from preface.backbones.base import Backbone as Model


def _options() -> dict[str, Fields]:
    from preface.methods import METHODS

    return {"method_options": fields(*METHODS.values(), only=("length", "sites"))}


@verb(options=_options)
def methods(
    method_options: dict[str, Any],
    backbone: Backbone = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """List the methods with their trained, stored and gradient-receiving parameters on a backbone."""
    import preface

    model = preface.load_backbone(backbone, dtype, device)
    rows = preface.list_methods(model, **method_options)
    if as_json:
        show_json(rows)
    else:
        show(methods_table(rows, model))


def methods_table(rows: Sequence[dict[str, Any]], backbone: Model) -> Table:
    table = empty_table(
        f"Parameters of one prompt on {backbone.name}, {backbone.parameters:,} frozen",
        ("method", "length", "trained", "stored", "with gradient"),
        "with gradient: measured by backward passes",
        text={"method"},
    )
    for row in rows:
        through = f"\n  through an MLP of {row['reparametrize']}" if "reparametrize" in row else ""
        numbers = (row["length"], row["trained"], row["stored"], row["gradient_receiving"])
        table.add_row(f"{row['method']}\n  {row['summary']}{through}", *(f"{number:,}" for number in numbers))
    return table
