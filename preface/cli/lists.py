"""`tasks` and `methods`: what there is."""

from __future__ import annotations

from dataclasses import asdict

from preface.cli.app import Backbone, Data, Device, Dtype, Json, Length, Sites, app, show, show_json


@app.command()
def tasks(data: Data = None, as_json: Json = False) -> None:
    """List the shipped tasks, and where their data are found."""
    import preface
    from preface.show import tasks_table

    found = preface.list_tasks(data)
    if as_json:
        show_json([asdict(task) for task in found])
    else:
        show(tasks_table(found))


@app.command()
def methods(
    backbone: Backbone = None,
    length: Length = None,
    sites: Sites = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """List the methods with their trained, stored and gradient-receiving parameters on a backbone."""
    import preface
    from preface.show import methods_table

    model = preface.load_backbone(backbone or preface.DEFAULT, dtype, device)
    rows = preface.list_methods(model, length=length, sites=sites)
    if as_json:
        show_json(rows)
    else:
        show(methods_table(rows, model))
