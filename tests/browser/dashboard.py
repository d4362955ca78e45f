"""What the tests of the dashboard share: to log in, to watch what the page says, and to ask axe-core about it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import axe_playwright_python
from playwright.async_api import Browser, Page, Request, expect

AXE = (Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text("utf-8")
DESKTOP = {"width": 1280, "height": 800}
VIEWS = ("now", "tasks", "task", "failures", "history")
TELEPHONE = {"width": 390, "height": 844}
EVIL = '<img src="/nowhere" onerror="window.ran = true"><script>window.ran = true</script>'


@dataclass
class Seen:
    """What a page asked for and complained about."""

    requests: list[Request] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def hear(self, page: Page) -> None:
        page.on("request", lambda request: self.requests.append(request))
        page.on("console", lambda message: self.complaints.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))

    @property
    def hosts(self) -> set[str]:
        return {urlsplit(request.url).netloc for request in self.requests if not request.url.startswith("data:")}

    def paths(self) -> list[str]:
        return [urlsplit(request.url).path for request in self.requests]


async def open_page(browser: Browser, url: str, hash_: str = "", **context: Any) -> tuple[Page, Seen]:
    """The dashboard before anybody has logged in."""
    page = await (await browser.new_context(**({"viewport": DESKTOP} | context))).new_page()
    seen = Seen()
    seen.hear(page)
    await page.goto(f"{url}/dashboard{hash_}")
    return page, seen


async def log_in(page: Page, key: str = "123456") -> None:
    await page.fill("#secret", key)
    await page.keyboard.press("Enter")


async def open_dashboard(browser: Browser, url: str, hash_: str = "", **context: Any) -> tuple[Page, Seen]:
    """The dashboard as the demo account sees it."""
    page, seen = await open_page(browser, url, hash_, **context)
    await log_in(page)
    await expect(page.locator("main h1")).to_be_visible()
    await expect(page.locator("#secret")).to_have_count(0)
    return page, seen


async def go(page: Page, hash_: str) -> None:
    """Goes to a view, and waits until it is the one that is shown: what stands on the page then is its own."""
    await page.evaluate("(hash) => { location.hash = hash; }", hash_)
    view = hash_.removeprefix("#/").partition("?")[0].partition("/")[0]
    await expect(page).to_have_title(f"{view if view in VIEWS else '?'} · dragon")


async def faults(page: Page) -> list[str]:
    """What axe-core calls serious or critical on the page as it stands, and whether it is wider than the screen."""
    if not await page.evaluate("typeof window.axe === 'object'"):
        await page.evaluate(AXE)
    result = await page.evaluate("axe.run(document, { resultTypes: ['violations'] })")
    found = [
        f"{fault['id']}: {node['html'][:160]}"
        for fault in result["violations"]
        if fault["impact"] in ("serious", "critical")
        for node in fault["nodes"]
    ]
    assert result["passes"], "axe-core has looked at nothing"
    if await page.evaluate("document.documentElement.scrollWidth > window.innerWidth"):
        found.append("the page scrolls sideways")
    return found
