"""Hooks of the site. README.md is its first page, whose links begin at the repository's root; of a link to what is no
page, only the words stay."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent
LINK = re.compile(r"\[([^\]]+)\]\(([^)#:]+)(#[^)]*)?\)")


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    if page.file.src_uri == "index.md":
        markdown = (DOCS.parent / "README.md").read_text(encoding="utf-8")
        markdown = markdown.replace("](docs/results/)", "](results/README.md)").replace("](docs/", "](")
    folder = (DOCS / page.file.src_uri).parent

    def kept(link: re.Match[str]) -> str:
        target = (folder / link[2]).resolve()
        return link[0] if target.exists() and target.is_relative_to(DOCS) else link[1]

    return LINK.sub(kept, markdown)
