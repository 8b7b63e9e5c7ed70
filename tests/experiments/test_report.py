"""The report against NumPy, and against what a parser of HTML, of XML and of pictures reads back."""

import json
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from io import StringIO
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image
from rich.console import Console

from preface.errors import UserError
from preface.experiments.plot import figure_of_dots
from preface.experiments.report import SAID, markdown, pivot, rich_table, write_report
from preface.experiments.section import Section
from preface.pages import write_page
from preface.pages.drawing import picture, styles_of
from preface.records.results import Cell, read_cells

TASKS = {"sst2": 872, "imdb": 25_000, "financial_phrasebank": 1_967, "tweets": 6_347}
SIZES = {"tf-idf": 74_056, "prefix-tuning": 122_880, "prompt-tuning": 10_240, "zero-shot": 0}
SEEDED = ("prefix-tuning", "prompt-tuning")


def cell(method: str = "prefix-tuning", task: str = "sst2", value: float = 0.5, **changes: object) -> Cell:
    given = {
        "backbone": "" if method == "tf-idf" else "small",
        "method": method,
        "train_task": None if method == "zero-shot" else "sst2",
        "eval_task": task,
        "metric": "accuracy",
        "value": value,
        "n": TASKS.get(task, 10),
        "seed": 0 if method in SEEDED else None,
        "trained_parameters": SIZES.get(method, 1),
        "seconds": 1.5,
        "details": {"learning_rate": 0.03} if method in SEEDED else {},
        "versions": {"python": "3.11.9"},
    }
    return Cell(**(given | changes))


@pytest.fixture
def cells() -> list[Cell]:
    """Four tasks, four methods, three seeds; the tuned methods' numbers are random."""
    random = np.random.default_rng(0)
    found = []
    for task in TASKS:
        found.append(cell("zero-shot", task, 0.55))
        for seed in range(3):
            found += [cell(method, task, random.uniform(0.6, 0.9), seed=seed) for method in SEEDED]
        found.append(cell("tf-idf", task, 0.7))
    return found


def html(cells: list[Cell], title: str, path: Path, *said: list[str]) -> None:
    write_page(path, "report.html", section=Section(title, cells, *said))


def plot(cells: list[Cell], path: Path) -> None:
    path.write_bytes(picture(lambda: figure_of_dots(pivot(cells)), path.suffix[1:]))


def terminal(cells: list[Cell], width: int = 200) -> str:
    console = Console(file=StringIO(), width=width)
    console.print(rich_table(pivot(cells), width))
    return console.file.getvalue()


class Page(HTMLParser):
    """What a browser would show: tables as lists of rows of texts, and all elements with their attributes."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.bold: list[str] = []
        self.text = ""
        self.inside = ""
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.inside = tag
        if tag == "table":
            self.table = self.tables.setdefault(dict(attrs)["id"], [])
        elif tag == "tr":
            self.table.append([])
        elif tag in {"td", "th"}:
            self.table[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        self.inside = "" if tag != "strong" else "td"

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.inside in {"td", "th", "strong"}:
            self.table[-1][-1] += data
        if self.inside == "strong":
            self.bold.append(data)


def test_pivot_agrees_with_numpy(cells: list[Cell]) -> None:
    table = pivot(cells)
    assert table.columns == ("zero-shot", "prefix-tuning", "prompt-tuning", "tf-idf")
    assert [row.task for row in table.rows] == list(TASKS)
    assert [row.n for row in table.rows] == ["872", "25,000", "1,967", "6,347"]
    for row in table.rows:
        for method, entry in row.entries.items():
            values = [c.value for c in cells if (c.method, c.eval_task) == (method, row.task)]
            assert entry.mean == pytest.approx(np.mean(values), abs=1e-12)
            if method in SEEDED:
                assert entry.deviation == pytest.approx(np.std(values, ddof=1), abs=1e-12)
                assert str(entry) == f"{100 * np.mean(values):.1f} ± {100 * np.std(values, ddof=1):.1f}"
            else:
                assert entry.deviation is None


def test_the_caption_says_seeds_training_task_backbone_and_sizes(cells: list[Cell]) -> None:
    assert pivot(cells).caption == (
        "Accuracy in percent, mean ± sample standard deviation over 3 seeds. Trained on sst2. Frozen: small. "
        "Trained parameters: prefix-tuning 122,880, prompt-tuning 10,240, tf-idf 74,056."
    )
    assert "one seed, so no deviation is known" in pivot([cell()]).caption
    assert pivot([cell("zero-shot")]).caption == ("Accuracy in percent, no seeds. Frozen: small. Nothing is trained.")
    uneven = [cell(seed=0), cell(seed=1), cell("prompt-tuning")]
    assert "over seeds (prefix-tuning: 2, prompt-tuning: 1)" in pivot(uneven).caption


def test_the_last_measurement_of_a_seed_counts(tmp_path: Path) -> None:
    measured = [cell(value=0.1, seed=0), cell(value=0.4, seed=1), cell(value=0.8, seed=0)]
    assert pivot(measured).rows[0].entries["prefix-tuning"].values == (0.8, 0.4)
    html(measured, "Title", tmp_path / "page.html")
    assert len(Page(tmp_path / "page.html").tables["cells"]) == 1 + 2


def test_splits_and_metrics_are_rows_of_their_own() -> None:
    table = pivot([cell(), cell(split="dev"), cell(metric="f1"), cell(split="dev", metric="f1")])
    assert [row.label for row in table.rows] == ["sst2", "sst2 (dev)", "sst2 (f1)", "sst2 (dev, f1)"]
    assert table.metric == "score (%)"
    table = pivot([cell(metric="macro_f1")])
    assert (table.metric, table.rows[0].label) == ("macro-F1 (%)", "sst2 (macro-F1)")


def test_backbones_and_training_tasks_are_columns_of_their_own() -> None:
    table = pivot([cell("zero-shot"), cell(), cell(backbone="large"), cell("tf-idf"), cell("tf-idf", "imdb")])
    assert table.columns == ("zero-shot · small", "prefix-tuning · small", "prefix-tuning · large", "tf-idf")
    table = pivot([cell("zero-shot"), cell(), cell(train_task="imdb"), cell("tf-idf")])
    assert table.columns == (
        "zero-shot",
        "prefix-tuning · from sst2",
        "prefix-tuning · from imdb",
        "tf-idf · from sst2",
    )


def test_labels_never_collide_whatever_a_cell_says() -> None:
    measured = [cell(), cell("tf-idf", backbone="x"), cell("tf-idf"), cell("zero-shot", train_task="imdb")]
    table = pivot([*measured, cell("zero-shot", "imdb"), cell(train_task=None), cell("tf-idf", "imdb")])
    assert len(set(table.columns)) == len(table.columns) == 6
    assert sum(len(entry.values) for row in table.rows for entry in row.entries.values()) == 7


def test_a_method_that_nobody_has_heard_of_has_its_column_where_its_cells_stand() -> None:
    measured = [
        cell("zero-shot"),
        cell("soft-adapters", details={"depth": 3}),
        cell("tf-idf"),
        cell("ensemble", seed=1),
    ]
    table = pivot([*measured, cell("bag-of-words", "imdb", backbone="", train_task=None)])
    assert table.columns == ("zero-shot", "soft-adapters", "tf-idf", "ensemble", "bag-of-words")
    assert "Frozen: small." in table.caption


def test_cells_that_differ_only_in_learning_rate_are_all_reported(tmp_path: Path) -> None:
    measured = [
        cell(value=value, seed=seed, details={"learning_rate": rate})
        for rate, value in ((0.01, 0.6), (0.1, 0.8))
        for seed in (0, 1)
    ]
    write_report(measured, tmp_path, "All rates")
    table = pivot(measured)
    assert table.columns == ("prefix-tuning · learning rate 0.01", "prefix-tuning · learning rate 0.1")
    assert [entry.values for entry in table.rows[0].entries.values()] == [(0.6, 0.6), (0.8, 0.8)]
    assert len(Page(tmp_path / "report.html").tables["cells"]) == 1 + 4


def test_settings_stand_in_the_head_where_nothing_else_tells_columns_apart() -> None:
    short, long = ({"learning_rate": 0.1, "method": {"length": n, "init": "random"}} for n in (5, 20))
    table = pivot([cell(details=short), cell(details=long), cell("prompt-tuning", details={"learning_rate": 0.3})])
    assert table.columns == ("prefix-tuning · length 5", "prefix-tuning · length 20", "prompt-tuning")


def test_differing_row_counts_are_shown_as_a_range() -> None:
    table = pivot([cell(n=6_347), cell("tf-idf", n=500), cell("zero-shot", n=1_000)])
    assert table.rows[0].n == "500–6,347"


def test_best_is_by_shown_figure_and_needs_a_rival() -> None:
    assert pivot([cell()]).rows[0].best == frozenset()
    near = pivot([cell(value=0.70001), cell("tf-idf", value=0.70004), cell("zero-shot", value=0.69)])
    assert near.rows[0].best == {"prefix-tuning", "tf-idf"}


def test_markdown_numbers_read_back(cells: list[Cell]) -> None:
    lines = markdown(pivot(cells)).splitlines()
    head, rule, *rows = [[field.strip() for field in line.strip("|").split("|")] for line in lines[:6]]
    assert head == ["accuracy (%)", "rows", "zero-shot", "prefix-tuning", "prompt-tuning", "tf-idf"]
    assert set(rule) == {"---", "---:"}
    for task, row in zip(TASKS, rows, strict=True):
        assert row[0] == task
        means = [float(field.strip("*").split(" ± ")[0]) for field in row[2:]]
        expected = [
            100 * np.mean([c.value for c in cells if (c.eval_task, c.method) == (task, method)]) for method in head[2:]
        ]
        np.testing.assert_allclose(means, expected, atol=0.05001)
        assert [field.startswith("**") for field in row[2:]] == [mean == max(means) for mean in means]
    assert lines[-1] == pivot(cells).caption


def test_markdown_keeps_a_hostile_name_in_its_field() -> None:
    (row,) = markdown(pivot([cell(task="a|b\n<script>")])).splitlines()[2:3]
    assert row == "| a\\|b &lt;script> | 10 | 50.0 |"


def test_missing_cells_are_dashes(tmp_path: Path) -> None:
    measured = [cell(), cell("tf-idf", "imdb")]
    assert markdown(pivot(measured)).splitlines()[2:4] == [
        "| sst2 | 872 | 50.0 | – |",
        "| imdb | 25,000 | – | 50.0 |",
    ]
    assert terminal(measured).count("–") == 2
    plot(measured, tmp_path / "plot.png")


def test_terminal_fits_eighty_columns_and_takes_brackets_for_brackets(cells: list[Cell]) -> None:
    lines = [line.split() for line in terminal(cells, width=80).splitlines()]
    assert ["accuracy", "(%)", "rows", "zero-shot", "prefix-tuning", "prompt-tuning", "tf-idf"] in lines
    assert any(line[:3] == ["financial_phrasebank", "1,967", "55.0"] for line in lines)
    assert "[bold]sst2[/x]" in terminal([cell(task="[bold]sst2[/x]")])


@pytest.mark.parametrize(("width", "lines"), [(50, 72), (80, 18), (120, 18), (300, 18), (700, 4)])
def test_a_wide_table_is_turned_in_a_terminal_and_no_word_of_it_broken(width: int, lines: int) -> None:
    """Tasks as rows where all columns fit, then columns as rows, then a line for each number."""
    names = ["zero-shot · calibration contextual", "p-tuning", *(f"prefix-tuning · length {n}" for n in range(16))]
    tasks = ("film", "reviews", "company_news", "posts")
    measured = [cell(name, task, 0.8 + seed / 9, seed=seed) for name in names for task in tasks for seed in (0, 1)]
    shown = terminal(measured, width)
    table = shown[: shown.index("Accuracy in")]
    assert max(map(len, table.splitlines())) <= width
    assert len([line for line in table.splitlines() if "85.6 ± 7.9" in line]) == lines
    assert {"contextual", *tasks, "length", "p-tuning"} <= set(table.split())


def test_a_table_of_many_rows_parts_its_names(cells: list[Cell]) -> None:
    measured = [cell(name, task, 0.5, metric="matthews") for name in SIZES for task in TASKS]
    lines = terminal(measured, 70).splitlines()
    assert any(line.split()[:2] == ["financial_phrasebank", "1,967"] for line in lines)
    assert max(map(len, lines)) <= 70


def test_terminal_sets_the_best_bold() -> None:
    console = Console(file=StringIO(), width=100, force_terminal=True, color_system="standard")
    console.print(rich_table(pivot([cell(value=0.9), cell("tf-idf", value=0.8)])))
    assert re.search(r"\x1b\[1m *90\.0", console.file.getvalue())
    assert not re.search(r"\x1b\[1m *80\.0", console.file.getvalue())


def test_page_shows_the_same_table(cells: list[Cell], tmp_path: Path) -> None:
    html(cells, "A title", tmp_path / "report.html", ["a note"], ["preface one", "preface two"])
    page, table = Page(tmp_path / "report.html"), pivot(cells)
    assert page.tables["results"] == [
        [table.metric, "rows", *table.columns],
        *([row.label, row.n, *(row.text(column) for column in table.columns)] for row in table.rows),
    ]
    assert page.bold == [row.text(c) for row in table.rows for c in table.columns if c in row.best]
    for said in ("A title", "a note", "preface one\npreface two", "3.11.9", table.caption):
        assert said in page.text


def test_page_lists_every_cell(cells: list[Cell], tmp_path: Path) -> None:
    html(cells, "Title", tmp_path / "report.html")
    rows = Page(tmp_path / "report.html").tables["cells"][1:]
    assert len(rows) == len(cells)
    for row, one in zip(rows, cells, strict=True):
        tuned = one.method in SEEDED
        assert row == [
            one.method,
            one.backbone or "–",
            one.train_task or "–",
            f"{one.eval_task}, test",
            str(one.seed) if tuned else "–",
            "0.03" if tuned else "–",
            f"{one.trained_parameters:,}",
            "accuracy",
            f"{100 * one.value:.1f}",
            f"{one.n:,}",
            "1.5",
        ]


def test_page_is_accessible_and_needs_no_network(cells: list[Cell], tmp_path: Path) -> None:
    html(cells, "Title", tmp_path / "report.html")
    page = Page(tmp_path / "report.html")
    assert all(attributes.get("scope") in {"col", "row"} for tag, attributes in page.elements if tag == "th")
    (image,) = [attributes for _, attributes in page.elements if attributes.get("role") == "img"]
    assert "prefix-tuning" in image["aria-label"]
    assert "sst2" in image["aria-label"]
    assert ("html", {"lang": "en"}) in page.elements
    loading = {"src", "href", "xlink:href", "srcset", "data", "action"}
    links = [value for _, attributes in page.elements for name, value in attributes.items() if name in loading]
    assert all(link.startswith("#") for link in links)
    assert not {"script", "link", "iframe", "img"} & {tag for tag, _ in page.elements}
    assert "@import" not in page.source
    assert "prefers-color-scheme: dark" in page.source


def test_page_escapes_names(tmp_path: Path) -> None:
    evil = "<script>alert('x')</script>"
    measured = [
        cell(task=evil, method=evil, backbone=evil, details={"learning_rate": evil}, versions={evil: evil}),
        cell(task="$\\frac$", metric=evil, split=evil, train_task=evil),
    ]
    html(measured, evil, tmp_path / "report.html", [evil], [evil])
    page = Page(tmp_path / "report.html")
    assert "script" not in {tag for tag, _ in page.elements}
    assert page.tables["results"][1][0] == evil
    assert page.text.count(evil) > 10


def test_versions_that_differ_are_all_shown(tmp_path: Path) -> None:
    html([cell(versions={"torch": "2.8"}), cell(seed=1, versions={"torch": "2.9"})], "T", tmp_path / "r.html")
    assert "2.8, 2.9" in Page(tmp_path / "r.html").text


def test_plot_places_every_mean_and_seed(cells: list[Cell], tmp_path: Path) -> None:
    """Positions in the SVG are an affine picture of the percentages, which the tick labels give away."""
    plot(cells, tmp_path / "plot.svg")
    space = "{http://www.w3.org/2000/svg}"
    root = ElementTree.parse(tmp_path / "plot.svg").getroot()
    texts = ["".join(text.itertext()).strip() for text in root.iter(f"{space}text")]
    assert {*TASKS, *SIZES, "accuracy (%)"} <= set(texts)
    ticks = {}
    for group in root.iter(f"{space}g"):
        if group.get("id", "").startswith("xtick"):
            text = next(group.iter(f"{space}text"))
            ticks[float(text.text)] = float(text.get("x"))
    slope, start = np.polyfit(list(ticks), list(ticks.values()), 1)

    def drawn(style: str) -> list[float]:
        uses = [use for use in root.iter(f"{space}use") if use.get("style") == style]
        return [(float(use.get("x")) - start) / slope for use in sorted(uses, key=lambda use: float(use.get("y")))]

    values = 100 * np.array(
        [[c.value for c in cells if (c.method, c.eval_task) == ("prefix-tuning", task)] for task in TASKS]
    )
    means, deviations = values.mean(1), values.std(1, ddof=1)
    np.testing.assert_allclose(drawn("fill: #2f8fdb; fill-opacity: 0.6"), values.ravel(), atol=0.001)
    np.testing.assert_allclose(drawn("fill: #2f8fdb")[1:], means, atol=0.001)  # the first is the legend's
    caps = np.array(drawn("fill: #2f8fdb; stroke: #2f8fdb")).reshape(-1, 2)
    np.testing.assert_allclose(caps, np.stack([means - deviations, means + deviations], 1), atol=0.001)


@pytest.mark.filterwarnings("error")
def test_letters_that_a_font_lacks_are_nothing_to_warn_of() -> None:
    def draw() -> Figure:
        figure = Figure()
        figure.text(0.5, 0.5, "\u0e01\u4e2d")
        return figure

    assert "\u0e01\u4e2d" in picture(draw, "svg").decode()


def test_a_plot_is_always_the_same_picture(cells: list[Cell], tmp_path: Path) -> None:
    for name in ("a.png", "b.png", "a.svg", "b.svg"):
        plot(cells, tmp_path / name)
    assert Image.open(tmp_path / "a.png").format == "PNG"
    for suffix in ("png", "svg"):
        assert (tmp_path / f"a.{suffix}").read_bytes() == (tmp_path / f"b.{suffix}").read_bytes()


def test_plot_labels_do_not_overlap(cells: list[Cell]) -> None:
    many = [cell(f"method-{i}", task, value=i / 20, backbone=f"backbone-{i}") for i in range(12) for task in TASKS]
    for measured in (cells, many, [cell()]):
        figure = figure_of_dots(pivot(measured))
        figure.draw_without_rendering()
        (axes,), (legend,) = figure.axes, figure.legends
        boxes = [label.get_window_extent() for label in axes.get_yticklabels()]
        assert all(not one.overlaps(other) for one, other in pairwise(boxes))
        assert legend.get_window_extent().y0 >= axes.get_window_extent().y1
        inside = figure.bbox
        for box in (*boxes, legend.get_window_extent(), axes.xaxis.label.get_window_extent()):
            assert box.x0 >= inside.x0 - 1
            assert box.x1 <= inside.x1 + 1
            assert box.y1 <= inside.y1 + 1


def test_a_report_leaves_its_files(cells: list[Cell], tmp_path: Path) -> None:
    write_report(cells, tmp_path / "out", "Title")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "results.json",
        "table.md",
        "plot.png",
        "report.html",
        SAID,
    }
    assert read_cells(tmp_path / "out/results.json") == cells
    assert json.loads((tmp_path / "out/results.json").read_text())[0]["method"] == "zero-shot"
    assert (tmp_path / "out/table.md").read_text(encoding="utf-8") == markdown(pivot(cells))


def test_ninety_columns_look_different() -> None:
    assert len(set(styles_of(map(str, range(90))).values())) == 90


def test_no_cells_is_an_error_that_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="run an experiment"):
        write_report([], tmp_path / "out", "Title")
    assert not (tmp_path / "out").exists()
