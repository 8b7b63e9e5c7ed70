"""Pages that need nothing else: light and dark, readable on a phone, without scripts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from preface.pages.drawing import INK, picture
from preface.records.atomic import check_replaceable, write_atomically

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.figure import Figure


def check_page(path: Path) -> None:
    """Raise UserError where a page would take the place of a folder, or of a file that is no page."""
    check_replaceable(path, b"<!doctype html", "no page")


def write_page(path: Path, template: str, **fields: Any) -> None:
    """Fill in one of the templates that lie here. Raises UserError as `check_page` does."""
    check_page(path)
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # slow to import for whoever wants no page

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    write_atomically(path, environment.get_template(template).render(**fields))


def inline(draw: Callable[[], Figure]) -> Markup:
    """A drawing as an element of a page. matplotlib has escaped the names in it."""
    from markupsafe import Markup

    svg = picture(draw, "svg", transparent=True).decode().replace(INK, "currentColor")
    return Markup(svg[svg.index("<svg") :])  # the XML declaration before it has no place in a page
