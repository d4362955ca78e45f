"""What a browser makes of dragon: the sample page, and pages of other origins that call the API."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from playwright.async_api import Browser, Page, Request, expect

from tests.system import System, eventually

# One event loop and one browser for all: starting Chromium takes longer than most of what it is asked here.
pytestmark = [pytest.mark.browser, pytest.mark.timeout(150), pytest.mark.asyncio(loop_scope="module")]

pytest_plugins = ("tests.chromium",)


@dataclass
class Seen:
    """What a page asked for and complained about."""

    requests: list[Request] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, page: Page) -> Seen:
        seen = cls()
        page.on("request", lambda request: seen.requests.append(request))  # playwright marks what it is given
        page.on("console", lambda message: seen.complaints.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: seen.complaints.append(str(error)))
        return seen

    @property
    def hosts(self) -> set[str]:
        return {urlsplit(request.url).netloc for request in self.requests if not request.url.startswith("data:")}

    def paths(self, path: str) -> list[Request]:
        return [request for request in self.requests if urlsplit(request.url).path == path]


# Locators throughout: `wait_for_function` needs eval, which the pages' policy forbids.
WATCH = """(button) => { window.said = [];
    new MutationObserver(() => window.said.push(button.textContent)).observe(button, { childList: true }); }"""
SUCCEEDED = "#tasks li[data-status=success]"
PICTURE = """async () => {
    const image = document.getElementById("thumb");
    while (!image.complete) await new Promise((resolve) => setTimeout(resolve, 20));
    return [image.naturalWidth, image.naturalHeight];
}"""


# --- The sample page --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_the_sample_page_shows_the_picture_and_twenty_tasks_to_their_end(
    system: System, browser: Browser, host: str
) -> None:
    page = await browser.new_page()
    seen = Seen.of(page)
    address = f"{host}:{system.config.server.port}"
    await page.goto(f"http://{address}/")
    assert await page.evaluate(PICTURE) == [480, 360], "a landscape, although the file lies on its side"
    await expect(page.locator(SUCCEEDED)).to_have_count(20, timeout=60_000)
    assert await page.evaluate("[...document.querySelectorAll('progress')].map((bar) => bar.value)") == [100] * 20
    await expect(page.locator("#summary")).to_have_text("All succeeded.")
    assert await page.evaluate("JSON.parse(document.getElementById('last').textContent).status") == "success"
    assert "480 × 360 pixels" in str(await page.text_content("#thumb-facts"))
    assert await page.is_hidden("#refused")
    assert len(seen.paths("/v1/create_stream")) == 1
    assert seen.complaints == []
    assert seen.hosts == {address}


async def test_the_stream_starts_again_from_the_keyboard_and_forgets_the_run_before(
    system: System, browser: Browser
) -> None:
    page = await browser.new_page()
    seen = Seen.of(page)
    await page.goto(system.url)
    await page.wait_for_selector("#tasks li[data-status=executing]")
    for _ in range(20):
        await page.keyboard.press("Tab")
        if await page.evaluate("document.activeElement.id") == "start":
            break
    await page.keyboard.press("Enter")
    await expect(page.locator(SUCCEEDED)).to_have_count(20, timeout=60_000)
    await expect(page.locator("#count")).to_have_text(re.compile("^20 of 20 ended"))
    assert len(seen.paths("/v1/create_stream")) == 2
    assert seen.complaints == []


async def test_the_controls_change_the_picture(system: System, browser: Browser) -> None:
    page = await browser.new_page()
    seen = Seen.of(page)
    await page.goto(system.url)
    await page.evaluate(PICTURE)

    async def change(action: Callable[[], Any], query: str) -> list[int]:
        async with page.expect_response(lambda response: "/files/" in response.url and response.ok) as answer:
            await action()
        await page.evaluate(PICTURE)
        source = await page.get_attribute("#thumb", "src")
        assert query in str(source)
        assert str(source).replace("&", "&amp;") in str(await page.text_content("#tag"))
        types.append((await answer.value).headers["content-type"])
        size: list[int] = await page.evaluate(PICTURE)
        return size

    types: list[str] = []
    assert await change(lambda: page.fill("#width", "200"), "width=200&") == [200, 150]
    assert await change(lambda: page.select_option("#rotation", "90"), "rotation=90") == [200, 267]
    assert await change(lambda: page.check("#crop"), "height=200&crop=true") == [200, 200]
    assert await change(lambda: page.check("#poster"), "poster=true") == [200, 200]
    assert await change(lambda: page.select_option("#format", "webp"), "format=webp") == [200, 200]
    assert types == ["image/jpeg"] * 4 + ["image/webp"]
    assert seen.complaints == []


async def test_a_size_that_no_picture_can_have_is_not_asked_for(system: System, browser: Browser) -> None:
    page = await browser.new_page()
    await page.goto(system.url)
    before = await page.get_attribute("#thumb", "src")
    await page.fill("#width", "-5")
    await page.select_option("#rotation", "180")
    await page.wait_for_timeout(400)
    assert await page.get_attribute("#thumb", "src") == before
    await page.fill("#width", "300")
    await expect(page.locator("#thumb")).to_have_attribute("src", re.compile("width=300&rotation=180&"))


async def test_without_the_demo_account_the_page_says_so(
    own_system: Callable[..., System], browser: Browser, tmp_path: Path
) -> None:
    accounts = tmp_path / "accounts.toml"
    accounts.write_text('[shop]\nname = "The shop"\n')
    system = own_system(accounts=accounts)
    system.start_server()
    page = await browser.new_page()
    await page.goto(system.url)
    await page.wait_for_selector("#refused:not([hidden])")
    notice = str(await page.text_content("#refused"))
    assert notice.startswith("The live demo needs an account. This server said: “unknown api key”.")
    assert "dragon account new NAME" in notice
    assert await page.text_content("#summary") == "Not running."
    await expect(page.locator("#thumb-facts")).to_have_text(re.compile("^No picture: no credentials"))


@pytest.mark.parametrize("path", ["/", "/docs"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_pages_fit_a_telephone_in_both_palettes(system: System, browser: Browser, path: str, scheme: Any) -> None:
    page = await browser.new_page(viewport={"width": 390, "height": 800}, color_scheme=scheme)
    seen = Seen.of(page)
    await page.goto(system.url + path)
    assert await page.evaluate("document.documentElement.scrollWidth") == 390
    ink, ground = await page.evaluate(
        """() => { const style = getComputedStyle(document.body);
        return [style.color, style.backgroundColor].map((text) => Number(text.match(/\\d+/)[0])); }"""
    )
    assert (ground > ink + 150) if scheme == "light" else (ink > ground + 150)
    assert seen.complaints == []


async def copy(page: Page, button: str) -> None:
    """Presses a button that says for a moment that it has copied, and waits until it has said so, however shortly."""
    await page.locator(button).evaluate(WATCH)
    await page.click(button)
    await eventually(lambda: page.evaluate("window.said.includes('Copied')"))


async def test_a_line_for_the_shell_is_copied(system: System, browser: Browser) -> None:
    context = await browser.new_context(permissions=["clipboard-read", "clipboard-write"])
    page = await context.new_page()
    await page.goto(system.url)
    await copy(page, ".copyable:has-text('create_stream') .copy")
    assert (await page.evaluate("navigator.clipboard.readText()")).startswith(f"curl -N {system.url}/v1/create_stream")


async def test_the_reference_has_no_complaints_and_asks_nobody_else(system: System, browser: Browser) -> None:
    page = await browser.new_page()
    seen = Seen.of(page)
    await page.goto(f"{system.url}/docs")
    await page.click("nav.contents a:has-text('image.thumb')")
    assert await page.is_visible("[id='task-image.thumb']")
    assert seen.complaints == []
    assert seen.hosts == {urlsplit(system.url).netloc}


# --- Pages of other origins -------------------------------------------------------------------------------------------


@asynccontextmanager
async def other_site() -> AsyncIterator[int]:
    """The port of another server, with one page and nothing else."""

    async def show(_request: web.Request) -> web.Response:
        return web.Response(
            text="<!doctype html><title>other</title><link rel=icon href=data:,>", content_type="text/html"
        )

    app = web.Application()
    app.add_routes([web.get("/", show)])
    async with TestServer(app, host="127.0.0.1") as server:
        assert server.port is not None
        yield server.port


CALL = """async ([url, headers]) => {
    const body = JSON.stringify({ api_key: "654321", tasks: { task_name: "hello", name: "browser" }, block: true });
    const response = await fetch(url, { method: "POST", body, headers });
    return [response.status, await response.json()];
}"""


async def call(browser: Browser, origin: str, url: str, headers: dict[str, str]) -> tuple[int, Any, int]:
    """The answer to a call from a page of another origin, and how many preflights it took."""
    page = await browser.new_page()
    session = await page.context.new_cdp_session(page)
    await session.send("Network.enable")
    methods: list[str] = []
    session.on("Network.requestWillBeSent", lambda event: methods.append(event["request"]["method"]))
    await page.goto(origin)
    status, answer = await page.evaluate(CALL, [url, headers])
    await page.close()
    return status, answer, methods.count("OPTIONS")


async def test_a_page_on_the_whitelist_creates_tasks_without_a_preflight(system: System, browser: Browser) -> None:
    async with other_site() as port:
        status, answer, preflights = await call(browser, f"http://localhost:{port}", f"{system.url}/v1/create", {})
    assert status == 200
    assert [(item["status"], item["result"]) for item in answer] == [("success", "Hello browser")]
    assert preflights == 0


async def test_a_page_that_makes_the_browser_ask_first_gets_its_answer_too(system: System, browser: Browser) -> None:
    headers = {"Content-Type": "application/json", "Idempotency-Key": "a page's own"}
    async with other_site() as port:
        status, answer, preflights = await call(browser, f"http://localhost:{port}", f"{system.url}/v1/create", headers)
    assert (status, answer[0]["result"]) == (200, "Hello browser")
    assert preflights == 1


async def test_a_foreign_page_is_refused_in_words_that_it_can_read(system: System, browser: Browser) -> None:
    async with other_site() as port:
        origin = f"http://foreign.test:{port}"
        status, answer, _ = await call(browser, origin, f"{system.url}/v1/create", {})
    message = f"the page {origin} is not on the account's whitelist"
    assert (status, answer) == (401, {"status": "error", "message": message})


SHOW = """(source) => new Promise((resolve) => {
    const image = new Image();
    image.onload = () => resolve(image.naturalWidth);
    image.onerror = () => resolve("refused");
    image.src = source;
    document.body.append(image);
})"""


@pytest.mark.parametrize(("host", "expected"), [("localhost", 160), ("127.0.0.1", 160), ("foreign.test", "refused")])
async def test_an_image_without_a_key_shows_on_pages_of_the_whitelist_only(
    system: System, browser: Browser, host: str, expected: object
) -> None:
    source = f"{system.url}/v1/create_file/cat.jpg?task_name=image.thumb&width=160&url={system.url}/static/sample.jpg"
    page = await browser.new_page()
    async with other_site() as port:
        await page.goto(f"http://{host}:{port}")
        assert await page.evaluate(SHOW, source) == expected


FOLLOW = """(url) => new Promise((begun) => {
    const messages = [];
    const source = new EventSource(url);
    source.onmessage = (event) => { messages.push([event.lastEventId, JSON.parse(event.data)]); begun(); };
    window.followed = new Promise((ended) => {
        source.onerror = () => { if (source.readyState === EventSource.CLOSED) ended(messages); };
    });
})"""


async def test_an_event_source_follows_a_task_and_stays_away_after_its_end(
    system: System, browser: Browser, tmp_path: Path
) -> None:
    page = await browser.new_page()
    seen = Seen.of(page)
    async with other_site() as port:
        await page.goto(f"http://foreign.test:{port}")  # reading needs no whitelist
        async with system.client() as client:
            says = {"task_name": "test.say", "texts": [], "gate": str(tmp_path / "gate")}
            created = await client.create(says)
        await page.evaluate(FOLLOW, f"{system.url}/v1/status_stream?tasks={created[0]['key']}")
        (tmp_path / "gate").touch()
        messages = await page.evaluate("window.followed")
        requests = seen.paths("/v1/status_stream")
        answers = [await request.response() for request in requests]
        await page.wait_for_timeout(4_000)  # longer than Chromium waits before it comes back
    assert [answer and answer.status for answer in answers] == [200, 204]
    assert len(seen.paths("/v1/status_stream")) == 2, "it came back for ever"
    assert messages[0][1][0]["key"] == created[0]["key"]
    async with system.client() as client:
        assert messages[-1] == ["end", (await client.status(created[0]["key"]))[0]]
    assert messages[-1][1]["result"] == 1
