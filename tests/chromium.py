"""Debian's Chromium for the browser tests: one a test module, driven by Playwright.

A test module takes the fixtures with `pytest_plugins = ("tests.chromium",)` and runs its tests in one event loop:
`pytest.mark.asyncio(loop_scope="module")`.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Error, Playwright, async_playwright, expect

from tests.waiting import PATIENCE

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--host-resolver-rules=MAP foreign.test 127.0.0.1",
]
# Playwright's own five seconds are fewer than a process may stand still here. A test that is about how fast something
# comes has a deadline of its own.
expect.set_options(timeout=PATIENCE * 1000)

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def chromium() -> str:
    found = next((path for path in map(shutil.which, NAMES) if path), None)
    if found is None:
        reason = "NO CHROMIUM, the browser tests did not run: apt-get install -y --no-install-recommends chromium"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return found


class Chromium:
    """One browser after another: a crash of Chromium's own fails the test that it happens in, and no other."""

    def __init__(self, playwright: Playwright, path: str) -> None:
        self._playwright = playwright
        self._path = path
        self._browser: Browser | None = None

    async def living(self) -> Browser:
        if self._browser is None or not self._browser.is_connected():
            self._browser = await self._playwright.chromium.launch(executable_path=self._path, args=FLAGS)
        return self._browser

    async def clear(self) -> None:
        """Closes the pages of a test, with their caches and cookies."""
        browser = self._browser
        try:
            for context in browser.contexts if browser is not None else ():
                await context.close()
        except Error:  # it has crashed after the test, which has seen what it wanted to see
            if browser is not None and browser.is_connected():
                raise
            print("Chromium has crashed while it closed a page", file=sys.stderr)

    async def close(self) -> None:
        if self._browser is not None and self._browser.is_connected():
            await self._browser.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def chrome() -> AsyncIterator[Chromium]:
    path = chromium()
    async with async_playwright() as playwright:
        chrome = Chromium(playwright, path)
        yield chrome
        await chrome.close()


@pytest_asyncio.fixture(loop_scope="module")
async def browser(chrome: Chromium) -> AsyncIterator[Browser]:
    """The browser, without the pages, caches and cookies of the test before: each page has a context of its own."""
    yield await chrome.living()
    await chrome.clear()
