"""Hooks of the site. README.md is its first page, whose links begin at the repository's root; each notebook is a page,
with the outputs that it holds; of a link to what is no page, only the words stay."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

DOCS = Path(__file__).parent
LINK = re.compile(r"\[([^\]]+)\]\(([^)#:]+)(#[^)]*)?\)")
OF_PANDAS = re.compile(r'<style.*?</style>| border="1" class="dataframe"| style="[^"]*"', re.DOTALL)
"""How pandas dresses a table; the site has its own way."""


def on_files(files: Any, config: Any, **_: Any) -> None:
    for path in sorted((DOCS / "notebooks").glob("*.ipynb")):
        files.append(File.generated(config, f"notebooks/{path.stem}.md", content=page_of(path)))


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    if page.file.src_uri == "index.md":
        markdown = (DOCS.parent / "README.md").read_text(encoding="utf-8")
        markdown = markdown.replace("](docs/results/)", "](results/README.md)").replace("](docs/", "](")
    folder = (DOCS / page.file.src_uri).parent

    def kept(link: re.Match[str]) -> str:
        target = (folder / link[2]).resolve()
        if not target.exists() or not target.is_relative_to(DOCS):
            return link[1]
        return re.sub(r"\.ipynb(?=[)#])", ".md", link[0])

    return LINK.sub(kept, markdown)


def page_of(notebook: Path) -> str:
    """A notebook as Markdown."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    title, *parts = [part for cell in cells for part in _parts(cell)]
    download = f'<p><a href="{notebook.name}" download>{notebook.name}</a>: this page as a notebook, to run</p>'
    return "\n\n".join([title, download, *parts])


def _parts(cell: Mapping[str, Any]) -> list[str]:
    source = "".join(cell["source"])
    if cell["cell_type"] == "markdown":
        return [source]
    return [f"```python\n{source}\n```", *map(_output, cell["outputs"])]


def _output(output: Mapping[str, Any]) -> str:
    """A picture or a table where there is one, else the text."""
    data = output.get("data", {"text/plain": output.get("text", "")})
    if "image/png" in data:
        return f'<p><img alt="" src="data:image/png;base64,{"".join(data["image/png"]).strip()}"></p>'
    if "text/html" in data:
        return OF_PANDAS.sub("", "".join(data["text/html"]))
    return f"<pre>{html.escape(''.join(data['text/plain']))}</pre>"
