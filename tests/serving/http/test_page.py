"""The page in a real browser, where there is one; the files that it is made of, everywhere."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from preface.backbones.base import Backbone
from preface.records.atomic import write_atomically
from preface.serving.engine import Engine
from preface.serving.http import page as page_module
from preface.serving.http.access import Access, Key
from preface.serving.http.app import create_app
from preface.serving.store import Store
from tests.serving.http.conftest import running
from tests.serving.making import mixed

CHROMIUM = shutil.which("chromium")
KEY = "page-page-page-page"


@pytest.fixture(scope="module")
def address(nano: Backbone, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("page")
    mixed(folder / "prompts", nano)
    run = folder / "runs" / "first"
    run.mkdir(parents=True)
    write_atomically(run / "run.json", "{}")
    lines: list[dict[str, Any]] = [{"step": step, "losses": [1 / (step + 1), 0.5]} for step in range(0, 50, 10)]
    lines += [{"step": 40, "member": member, "dev_score": 0.5 + member / 10} for member in (0, 1)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 5')
    (run / "report.html").write_text("<h1>All of it</h1><script>document.title = 'no'</script>")
    (folder / "runs" / "outside").symlink_to(folder)
    keys = Access([Key(name="page", key=KEY, write=True)])
    engine = Engine(Store(folder / "prompts", nano))
    with running(create_app(engine, keys, runs=folder / "runs")) as address:
        yield address


def get(address: str, path: str) -> httpx.Response:
    return httpx.get(f"{address}{path}", headers={"Authorization": f"Bearer {KEY}"})


@pytest.mark.parametrize("path", ["/", "/page.css", "/page.js"])
def test_the_page_loads_nothing_from_elsewhere(address: str, path: str) -> None:
    said = httpx.get(f"{address}{path}")
    assert said.status_code == 200
    assert "default-src 'none'" in said.headers["Content-Security-Policy"]
    # a namespace is a name and no address
    assert set(re.findall(r"https?://[^\s\"']+", said.text)) <= {"http://www.w3.org/2000/svg"}


def test_every_element_that_the_script_names_is_there() -> None:
    script, index = ((page_module.FILES / name).read_text() for name in ("page.js", "index.html"))
    named = set(re.findall(r'\$\("([\w-]+)"\)', script))
    assert named
    assert named <= set(re.findall(r'id="([\w-]+)"', index))


def test_a_folder_that_cannot_be_read_hides_no_run(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = os.scandir

    def scandir(folder: Any) -> Any:
        if Path(folder).name == "first":
            raise PermissionError(13, "not for you")
        return plain(folder)

    monkeypatch.setattr("preface.serving.http.runs.os.scandir", scandir)
    assert [run["name"] for run in get(address, "/v1/runs").json()["data"]] == ["first"]


def test_runs(address: str) -> None:
    listed = get(address, "/v1/runs").json()
    assert [run["name"] for run in listed["data"]] == ["first"]
    assert listed["pages"] == ["first/report.html"]
    one = get(address, "/v1/runs/first").json()
    assert "damaged" in one["problem"]
    assert one["losses"] == [
        [[step, 1 / (step + 1)] for step in range(0, 50, 10)],
        [[s, 0.5] for s in range(0, 50, 10)],
    ]
    assert one["scores"] == [[[40, 0.5]], [[40, 0.6]]]
    report = get(address, "/v1/runs/first/page/report.html")
    assert "All of it" in report.text
    assert report.headers["Content-Security-Policy"].startswith("sandbox")


@pytest.mark.parametrize(
    "path",
    [
        "/v1/runs/..",
        "/v1/runs/none",
        "/v1/runs/outside",
        "/v1/runs/outside/prompts",
        "/v1/runs/%2e%2e%2fprompts",
        "/v1/runs/first/page/run.json",
        "/v1/runs/first/page/none.html",
        "/v1/runs/first/page/..%2f..%2fprompts",
    ],
)
def test_nothing_else_is_shown(address: str, path: str) -> None:
    assert get(address, path).status_code == 404


def test_runs_need_a_key_and_a_folder(address: str, nano: Backbone, tmp_path: Path) -> None:
    assert httpx.get(f"{address}/v1/runs").status_code == 401
    with running(create_app(Engine(Store(tmp_path, nano)))) as other:
        said = httpx.get(f"{other}/v1/runs")
        assert said.status_code == 404
        assert "--runs" in said.json()["error"]["message"]


@pytest.fixture(params=["light", "dark"])
def browser_page(request: pytest.FixtureRequest) -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api", reason="needs Playwright")
    if CHROMIUM is None:
        pytest.skip("needs Chromium")
    with api.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        size = {"width": 1100, "height": 900} if request.param == "light" else {"width": 390, "height": 800}
        page = browser.new_page(viewport=size, color_scheme=request.param)
        page.problems = []
        page.on("pageerror", lambda error: page.problems.append(str(error)))
        yield page
        browser.close()


def test_in_a_browser(browser_page: Any, address: str, tmp_path: Path) -> None:
    page = browser_page
    page.goto(address)
    page.get_by_label("This server needs a key").fill(KEY)
    page.get_by_role("button", name="Use it").click()
    page.get_by_role("button", name="Choose all shown").click()
    page.get_by_label("Text", exact=True).fill("a warm, funny film <b>with</b> a heart")
    page.get_by_role("button", name="Ask").click()
    page.get_by_role("rowheader", name="zero-shot film").wait_for(timeout=60_000)
    assert page.locator("#answers tbody tr").count() == 11 + 3  # prompts, and three tasks without one
    assert "for all prompts that leave reading alone" in page.locator("#told").inner_text()
    wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert wide <= 0  # nothing sticks out on a phone

    file = tmp_path / "rows.csv"
    file.write_text('id,text\n1,"a fine, ""warm"" film"\n2,dull\n3,"two\nlines"\n')
    page.locator("#file").set_input_files(file)
    page.get_by_role("button", name="Ask").click()
    page.get_by_role("link", name="all labels as CSV").wait_for(timeout=60_000)
    assert page.locator("#answers tbody tr").count() == 3
    assert page.locator("#answers tbody td").first.inner_text() == 'a fine, "warm" film'

    page.get_by_role("tab", name="Try").focus()
    page.keyboard.press("ArrowRight")
    page.get_by_role("heading", name="answer-a").wait_for(timeout=60_000)
    assert page.locator("article").count() == 11
    page.get_by_role("tab", name="Runs").click()
    page.get_by_role("button", name="first").click()
    page.get_by_role("img", name=re.compile("Loss: 2 curves")).wait_for(timeout=60_000)
    assert page.problems == []
