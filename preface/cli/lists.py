"""`tasks`, `methods` and `bench`: what there is, and what it costs here."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from preface.cli.app import (
    Backbone,
    Data,
    Device,
    Dtype,
    Encoding,
    Input,
    Json,
    Label,
    LabelWordsOption,
    Length,
    Sites,
    app,
    called,
    label_words_of,
    show,
    show_json,
)


@app.command()
def tasks(data: Data = None, as_json: Json = False) -> None:
    """List the shipped tasks, and where their data are found."""
    import preface
    from preface.cli.show import tasks_table

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
    from preface.cli.show import methods_table

    model = preface.load_backbone(backbone or preface.DEFAULT, dtype, device)
    rows = preface.list_methods(model, length=length, sites=sites)
    if as_json:
        show_json(rows)
    else:
        show(methods_table(rows, model))


@app.command(
    epilog="""
Examples:

`preface bench`

`preface bench --backbone google/t5-large-lm-adapt --task reviews.csv --input text --label stars`
"""
)
def bench(
    backbone: Backbone = None,
    task: Annotated[str, typer.Option("--task", help="A shipped task, a YAML, or a data file.")] = "film",
    batch_size: Annotated[int, typer.Option("--batch-size", help="Rows a step and prompt.")] = 32,
    steps: Annotated[int, typer.Option("--steps", help="Timed of each setting.")] = 8,
    input: Input = None,
    label: Label = None,
    label_words: LabelWordsOption = None,
    encoding: Encoding = None,
    data: Data = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Time training steps of your backbone on your data, and tell which setting is fastest here."""
    import preface
    from preface.cli.show import timings_table
    from preface.tuning.bench import fastest

    timings = preface.bench(
        backbone or preface.DEFAULT,
        task,
        input=input,
        label=label,
        label_words=label_words_of(label_words),
        encoding=encoding,
        data=data,
        batch_size=batch_size,
        steps=steps,
        device=device,
    )
    if as_json:
        show_json([asdict(timing) for timing in timings])
        return
    show(timings_table(timings, backbone or preface.DEFAULT))
    best = fastest(timings)
    threads = f"OMP_NUM_THREADS={best.threads} " if best.device == "cpu" else ""
    same = f" --backbone {backbone}" if backbone else ""
    typer.echo(
        f"  {threads}{called()} train{same} --task {task} {best.options} --dtype {best.dtype} --batch-size {batch_size}"
    )
