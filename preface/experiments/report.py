"""From cells to what people read: a table for the terminal, for Markdown and for a page, and a plot."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

from preface.errors import UserError
from preface.records.results import Cell, write_atomically, write_cells

if TYPE_CHECKING:  # drawing libraries are imported where they draw: they would slow every other command down
    from matplotlib.figure import Figure
    from rich.table import Table as RichTable

MISSING = "–"
SEPARATOR = " · "
PLACES = {"zero-shot": 0, "tf-idf": 2}
"""Where a method's column stands; every other method stands between, at 1."""

INK = "#24303c"
"""Colour of the plot's text and lines, which a page replaces by that of its own text."""
LOOKS = {
    "zero-shot": ("#8b949e", "D"),
    "prompt-tuning": ("#2f8fdb", "o"),
    "prefix-tuning": ("#d9480f", "s"),
    "tf-idf": ("#12a150", "^"),
}
SPARE_COLOURS = ("#9c5fd0", "#c99700", "#d6458f", "#1aa3a3", "#7a6a55")
SPARE_MARKERS = ("v", "P", "X", "<", ">", "p")
"""Colour and marker by method, and those left for other methods: unlike in both, for the colour-blind."""

Column = tuple[str, str, str | None]
"""Method, backbone, training task: numbers that differ in any of these never share a mean."""


@dataclass(frozen=True)
class Entry:
    """What one method scores in one row of the table."""

    values: tuple[float, ...]
    """In [0, 1], one a seed."""

    @property
    def mean(self) -> float:
        """Mean over the seeds, in [0, 1]."""
        return mean(self.values)

    @property
    def deviation(self) -> float | None:
        """Sample standard deviation over the seeds, in [0, 1]; None for a single one."""
        return stdev(self.values) if len(self.values) > 1 else None

    def __str__(self) -> str:
        """In percent: `81.3`, or `81.3 ± 0.4`."""
        deviation = "" if self.deviation is None else f" ± {100 * self.deviation:.1f}"
        return f"{100 * self.mean:.1f}{deviation}"


@dataclass(frozen=True)
class Row:
    """One evaluation: a task's split under a metric."""

    task: str
    split: str
    metric: str
    counts: tuple[int, ...]
    """Distinct numbers of evaluated rows: one, unless some cells were measured on a part of the split."""
    entries: dict[str, Entry]
    """By column; a column that was not measured is absent."""

    @property
    def label(self) -> str:
        """The task, and the split and the metric where they are not the usual ones: `mrpc (dev, f1)`."""
        usual = {"test", "accuracy"}
        unusual = _join(name for name in (self.split, self.metric) if name not in usual)
        return f"{self.task} ({unusual})" if unusual else self.task

    @property
    def n(self) -> str:
        """`1,821`, or `500–1,821`."""
        return _span(self.counts)

    @property
    def best(self) -> frozenset[str]:
        """Columns with the highest mean as shown, so that equal figures fare alike; never a lone column."""
        shown = {column: round(100 * entry.mean, 1) for column, entry in self.entries.items()}
        return frozenset(name for name in shown if len(shown) > 1 and shown[name] == max(shown.values()))

    def text(self, column: str) -> str:
        """The entry as shown, or a dash."""
        return str(self.entries.get(column, MISSING))


@dataclass(frozen=True)
class Table:
    """Evaluations by methods."""

    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    caption: str
    """What the numbers are: metric, seeds, training task, what is frozen and how much is trained."""

    @property
    def metric(self) -> str:
        """The head of the first column: `accuracy (%)`, with all metrics where there are several."""
        return f"{_join(row.metric for row in self.rows)} (%)"


def pivot(cells: Sequence[Cell]) -> Table:
    """Arrange cells in rows (task, split, metric) and columns (methods), both in order of first appearance.

    Zero-shot moves to the first column and TF-IDF to the last. Of cells that measure the same thing twice the
    last counts. Where there are several backbones or training tasks, each gets columns of its own.
    Raises `UserError` for no cells.
    """
    if not cells:
        raise UserError("there are no results to report yet: run an experiment first, then report its results")
    cells = _latest(cells)
    keys = sorted(dict.fromkeys(map(_column, cells)), key=lambda key: PLACES.get(key[0], 1))
    labels = {key: _column_label(key, keys) for key in keys}
    groups: dict[tuple[str, str, str], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.eval_task, cell.split, cell.metric), []).append(cell)
    rows = tuple(_row(group, labels) for group in groups.values())
    return Table(tuple(labels.values()), rows, _caption(cells, rows, labels))


def rich_table(table: Table) -> RichTable:
    """The table for a terminal; the best of each row is bold."""
    from rich import box
    from rich.table import Table as RichTable
    from rich.text import Text

    # Text, not str: a name in square brackets is a name and no markup
    drawn = RichTable(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), caption=Text(table.caption), caption_justify="left")
    drawn.add_column(Text(table.metric), overflow="fold")
    for name in ("rows", *table.columns):
        drawn.add_column(Text(name), justify="right", overflow="fold")
    for row in table.rows:
        entries = [Text(row.text(name), style="bold" if name in row.best else "") for name in table.columns]
        drawn.add_row(Text(row.label), Text(row.n, style="dim"), *entries)
    return drawn


def markdown(table: Table) -> str:
    """The table in GitHub's Markdown, its caption below; the best of each row is bold."""
    lines = [
        [table.metric, "rows", *table.columns],
        ["---", *["---:"] * (1 + len(table.columns))],
    ]
    for row in table.rows:
        entries = [f"**{row.text(c)}**" if c in row.best else row.text(c) for c in table.columns]
        lines.append([row.label, row.n, *entries])
    drawn = "\n".join(f"| {' | '.join(map(_escape, line))} |" for line in lines)
    return f"{drawn}\n\n{_escape(table.caption)}\n"


def plot(table: Table, path: Path, chance: float | None = None) -> None:
    """Draw the table as dots with error bars, single seeds as small dots, into a `.png` or a `.svg`.

    `chance`, in [0, 1], draws a line at what guessing would score. Raises `UserError` for another suffix.
    """
    if path.suffix.lower() not in {".png", ".svg"}:
        raise UserError(f"cannot draw {path.name}: a plot's name ends in .png or .svg")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_drawn(table, chance, path.suffix.lower()[1:]))


def html(
    cells: Sequence[Cell],
    title: str,
    path: Path,
    notes: Sequence[str] = (),
    commands: Sequence[str] = (),
    chance: float | None = None,
) -> None:
    """Write one page that needs nothing else: summary, table, plot, notes, every cell, versions and commands.

    Raises `UserError` for no cells.
    """
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    table, cells = pivot(cells), _latest(cells)
    svg = _drawn(table, chance, "svg", transparent=True).decode().replace(INK, "currentColor")
    template = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    page = template.from_string(Path(__file__).with_name("report.html").read_text(encoding="utf-8")).render(
        title=title,
        summary=_summary(table),
        table=table,
        # matplotlib has escaped the names in it; the XML declaration before it has no place in a page
        plot=Markup(svg[svg.index("<svg") :]),
        notes=notes,
        cells=[(cell, _learning_rate(cell)) for cell in cells],
        versions=_versions(cells),
        commands=commands,
        missing=MISSING,
    )
    write_atomically(path, page)


def write_report(
    cells: Sequence[Cell],
    folder: Path,
    title: str,
    notes: Sequence[str] = (),
    commands: Sequence[str] = (),
    chance: float | None = None,
) -> None:
    """Write `results.json`, `table.md`, `plot.png` and `report.html` into `folder`.

    `chance`, in [0, 1], draws a line at what guessing would score. Raises `UserError` for no cells, and then
    writes nothing.
    """
    table = pivot(cells)
    write_cells(folder / "results.json", cells)
    write_atomically(folder / "table.md", markdown(table))
    plot(table, folder / "plot.png", chance)
    html(cells, title, folder / "report.html", notes, commands, chance)


def _join(names: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(names))


def _span(numbers: Iterable[int]) -> str:
    """`3`, or `1–3`."""
    numbers = set(numbers)
    return "–".join(f"{number:,}" for number in sorted({min(numbers), max(numbers)}))


def _latest(cells: Sequence[Cell]) -> list[Cell]:
    """Drop each cell that a later one measured again."""
    return list({(_column(c), c.eval_task, c.split, c.metric, c.seed): c for c in cells}.values())


def _column(cell: Cell) -> Column:
    """A cell's column: TF-IDF has no backbone and zero-shot no training task, whatever the cell says."""
    backbone = "" if cell.method == "tf-idf" else cell.backbone
    return cell.method, backbone, None if cell.method == "zero-shot" else cell.train_task


def _column_label(key: Column, keys: Sequence[Column]) -> str:
    """The method, with its backbone and its training task where the table has several of them."""
    method, backbone, task = key
    parts = [method]
    if backbone and len({other[1] for other in keys if other[0] != "tf-idf"}) > 1:
        parts.append(backbone)
    if task and len({other[2] for other in keys if other[0] != "zero-shot"}) > 1:
        parts.append(f"from {task}")
    return SEPARATOR.join(parts)


def _row(group: Sequence[Cell], labels: dict[Column, str]) -> Row:
    """Gather the cells of one task, split and metric."""
    values: dict[str, list[float]] = {}
    for cell in group:
        values.setdefault(labels[_column(cell)], []).append(cell.value)
    return Row(
        group[0].eval_task,
        group[0].split,
        group[0].metric,
        tuple(dict.fromkeys(cell.n for cell in group)),
        {label: Entry(tuple(found)) for label, found in values.items()},
    )


def _caption(cells: Sequence[Cell], rows: Sequence[Row], labels: dict[Column, str]) -> str:
    """Say how many seeds a number stands for, what was trained, on what, and what stayed as it was."""
    seeds, sizes = {}, {}
    for key, label in labels.items():
        column = [cell for cell in cells if _column(cell) == key]
        if any(cell.seed is not None for cell in column):
            seeds[label] = _span(len(row.entries[label].values) for row in rows if label in row.entries)
        if any(cell.trained_parameters for cell in column):
            sizes[label] = _span(cell.trained_parameters for cell in column)
    spread = "mean ± sample standard deviation"
    match sorted(set(seeds.values())):
        case []:
            said = "no seeds"
        case ["1"]:
            said = "one seed, so no deviation is known"
        case [count]:
            said = f"{spread} over {count} seeds"
        case _:
            said = f"{spread} over seeds ({_join(f'{label}: {count}' for label, count in seeds.items())})"
    sentences = [f"{_join(row.metric for row in rows)} in percent, {said}"]
    if trained_on := _join(task for _, _, task in labels if task):
        sentences.append(f"Trained on {trained_on}")
    if backbones := _join(backbone for _, backbone, _ in labels if backbone):
        sentences.append(f"Frozen: {backbones}")
    sizes_said = _join(f"{label} {size}" for label, size in sizes.items())
    sentences.append(f"Trained parameters: {sizes_said}" if sizes_said else "Nothing is trained")
    text = ". ".join(sentences) + "."
    return text[0].upper() + text[1:]


def _summary(table: Table) -> str:
    """One line: how much was measured, and which methods lead in how many rows."""
    size = f"{len(table.rows)} evaluation{'s'[: len(table.rows) > 1]}"
    size += f", {len(table.columns)} method{'s'[: len(table.columns) > 1]}."
    leads = {c: sum(c in row.best for row in table.rows) for c in table.columns}
    led = _join(f"{column} in {count}" for column, count in leads.items() if count)
    return f"{size} Highest mean: {led}." if led else size


def _escape(text: str) -> str:
    """Keep a name from ending a table's field or its line, or from being taken for HTML."""
    return " ".join(text.replace("|", "\\|").replace("<", "&lt;").split())


def _learning_rate(cell: Cell) -> str:
    rate = cell.details.get("learning_rate", MISSING)
    return f"{rate:g}" if isinstance(rate, float) else str(rate)


def _versions(cells: Sequence[Cell]) -> dict[str, str]:
    """Each library's version; all of them, where cells were measured with several."""
    names = dict.fromkeys(name for cell in cells for name in cell.versions)
    return {name: _join(c.versions[name] for c in cells if name in c.versions) for name in names}


def _drawn(table: Table, chance: float | None, kind: str, transparent: bool = False) -> bytes:
    """The plot as a file's bytes; the same table gives the same bytes."""
    from matplotlib import rc_context

    settings: dict[Any, Any] = {
        "svg.fonttype": "none",  # text stays text: smaller, and in the page's own font
        "svg.hashsalt": "preface",
        "text.parse_math": False,  # a dollar in a name is a dollar
        "font.size": 10,
        **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
    }
    metadata = dict.fromkeys(("Date", "Creator", "Format", "Type")) if kind == "svg" else None
    file = io.BytesIO()
    with rc_context(settings):
        figure = _figure(table, chance)
        figure.savefig(file, format=kind, dpi=160, transparent=transparent, metadata=metadata)
    return file.getvalue()


def _figure(table: Table, chance: float | None) -> Figure:
    """Rows downwards, so that a long task name has room; dots and no bars, which would have to start at 0."""
    from matplotlib.figure import Figure

    spare = zip(cycle(SPARE_COLOURS), cycle(SPARE_MARKERS), strict=False)
    looks: dict[str, tuple[str, str]] = {}
    for column in table.columns:
        named = LOOKS.get(column.split(SEPARATOR)[0])
        looks[column] = named if named and named not in looks.values() else next(spare)
    step = 0.7 / len(table.columns)  # of a row's height, between one method and the next
    height = len(table.rows) * (0.3 + 0.17 * len(table.columns)) + 1.1
    figure = Figure(figsize=(7.2, height), layout="constrained")
    axes = figure.subplots()

    for index, row in enumerate(table.rows):
        if index % 2 == 0:
            axes.axhspan(index - 0.5, index + 0.5, color=INK, alpha=0.05, linewidth=0)
        for place, column in enumerate(table.columns):
            if (entry := row.entries.get(column)) is None:
                continue
            y = index + (place - (len(table.columns) - 1) / 2) * step
            colour, marker = looks[column]
            look: dict[str, Any] = {"color": colour, "markeredgewidth": 0}
            if entry.deviation is not None:
                axes.errorbar(100 * entry.mean, y, xerr=100 * entry.deviation, color=colour, capsize=2.5)
                below = [y + 0.38 * step] * len(entry.values)  # where neither bar nor mean hides a seed
                axes.plot([100 * v for v in entry.values], below, "o", markersize=3, alpha=0.6, **look)
            axes.plot(100 * entry.mean, y, marker, markersize=7, clip_on=False, **look)

    handles = [
        axes.plot([], [], marker, color=colour, markersize=7, markeredgewidth=0, label=column)[0]
        for column, (colour, marker) in looks.items()
    ]
    if chance is not None:
        handles.append(axes.axvline(100 * chance, color=INK, alpha=0.6, linestyle="--", label="chance"))
    widths = [len(str(handle.get_label())) + 6 for handle in handles]  # in letters, the marker's room included
    figure.legend(
        handles=handles,
        loc="outside upper center",
        ncols=len(handles) if sum(widths) < 85 else max(1, 85 // max(widths)),
        frameon=False,
        handletextpad=0.5,
        columnspacing=1.6,
    )
    axes.set_yticks(range(len(table.rows)), labels=[row.label for row in table.rows])
    axes.set_ylim(len(table.rows) - 0.5, -0.5)
    axes.set_xlabel(table.metric)
    axes.grid(axis="x", color=INK, alpha=0.15, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return figure
