"""The examples of docs/javascript.md, as they stand: in Node, in Chromium, and in a shell."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import playwright
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from playwright.async_api import Browser, expect

from dragon.config import ROOT
from tests.shell_examples import run_shell
from tests.system import System

pytest_plugins = ("tests.chromium",)

ADDRESS = "http://127.0.0.1:8000"
NODE = Path(playwright.__file__).parent / "driver" / "node"
CLIENT = ROOT / "dragon" / "server" / "js" / "dragon.js"
TEXT = (ROOT / "docs" / "javascript.md").read_text("utf-8")


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind} example\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


def test_no_example_is_left_out() -> None:
    assert [len(blocks(kind)) for kind in ("js", "html", "sh")] == [3, 2, 1]
    assert len(re.findall(r"^```", TEXT, re.MULTILINE)) == 2 * 6
    readme = (CLIENT.parent / "README.md").read_text("utf-8")
    assert re.findall(r"^```(\w+)", readme, re.MULTILINE) == ["js"], "an example that nobody runs"


@pytest.mark.parametrize("number", range(3))
def test_the_programs_print_what_they_say(system: System, tmp_path: Path, number: int) -> None:
    source = blocks("js")[number].replace(ADDRESS, system.url)
    shutil.copy(CLIENT, tmp_path)
    (tmp_path / "package.json").write_text('{"type": "module"}')
    (tmp_path / "example.js").write_text(source)
    done = subprocess.run([NODE, "example.js"], cwd=tmp_path, capture_output=True, text=True, timeout=40)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == re.findall(r"// → (.*)$", source, re.MULTILINE)


def test_the_types_are_fetched(system: System, tmp_path: Path) -> None:
    run_shell(blocks("sh")[0].replace(ADDRESS, system.url), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dragon.d.ts", "tasks.d.ts"]
    assert '"image.thumb": {' in (tmp_path / "tasks.d.ts").read_text()


@asynccontextmanager
async def page_of(text: str) -> AsyncIterator[str]:
    """The address of a page with nothing but the example."""

    async def show(_request: web.Request) -> web.Response:
        return web.Response(text=f"<!doctype html><link rel=icon href=data:,>{text}", content_type="text/html")

    app = web.Application()
    app.add_routes([web.get("/", show)])
    async with TestServer(app, host="127.0.0.1") as server:
        yield f"http://localhost:{server.port}"


@pytest.mark.browser
@pytest.mark.asyncio(loop_scope="module")
async def test_the_page_shows_results_and_progress(system: System, browser: Browser) -> None:
    page = await browser.new_page()
    async with page_of(blocks("html")[0].replace(ADDRESS, system.url)) as address:
        await page.goto(address)
        await expect(page.locator("#shown")).to_have_text("5,4,3,2,1: Hello Ann, Hello Bob")
        await expect(page.locator("#bar")).to_have_js_property("value", 100)


@pytest.mark.browser
@pytest.mark.asyncio(loop_scope="module")
async def test_the_elements_show_an_image_and_a_count(system: System, browser: Browser) -> None:
    page = await browser.new_page()
    async with page_of(blocks("html")[1].replace(ADDRESS, system.url)) as address:
        await page.goto(address)
        await expect(page.locator("dragon-img")).to_have_attribute("state", "ready")
        await expect(page.get_by_role("progressbar", name="Counting")).to_have_attribute("state", "success")
