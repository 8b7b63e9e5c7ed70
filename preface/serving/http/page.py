"""The page at `/`: plain files that load nothing from elsewhere."""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import FileResponse

router = APIRouter(include_in_schema=False)

FILES = Path(__file__).parent / "files"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "frame-ancestors 'none'"
)
HEADERS = {"Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff", "Cache-Control": "no-cache"}


@router.get("/")
def index() -> FileResponse:
    return FileResponse(FILES / "index.html", headers=HEADERS)


@router.get("/page.css")
def style() -> FileResponse:
    return FileResponse(FILES / "page.css", headers=HEADERS)


@router.get("/page.js")
def script() -> FileResponse:
    return FileResponse(FILES / "page.js", headers=HEADERS)
