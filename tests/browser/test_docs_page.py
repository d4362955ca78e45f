"""/docs in Chromium: languages, contents, and the forms that send a call and show its lines as they come."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import axe_playwright_python
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from playwright.async_api import Browser, Locator, Page, expect

from dragon.config import ROOT
from tests.browser.test_page import Seen, copy
from tests.system import SECRET, System

pytestmark = [pytest.mark.browser, pytest.mark.timeout(150), pytest.mark.asyncio(loop_scope="module")]

pytest_plugins = ("tests.chromium",)

TIME = r"\d+(?: ms|\.\d\d s)"
AXE = Path(axe_playwright_python.__file__).parent / "axe.min.js"


async def open_docs(browser: Browser, system: System, **context: Any) -> tuple[Page, Seen]:
    page = await browser.new_page(**context)
    seen = Seen.of(page)
    await page.goto(f"{system.url}/docs")
    return page, seen


def trial(page: Page, anchor: str) -> Locator:
    """The form of a call or a task, by the anchor of its section."""
    return page.locator(f"[id='{anchor}'] form.trial")


async def send(form: Locator) -> None:
    await form.locator(".send").click()


def ended(form: Locator) -> Any:
    return expect(form.locator(".stop")).to_be_hidden(timeout=40_000)


# --- Try it -----------------------------------------------------------------------------------------------------------


async def test_the_lines_of_a_stream_appear_while_it_runs(system: System, browser: Browser, tmp_path: Path) -> None:
    page, seen = await open_docs(browser, system)
    form = trial(page, "post_create_stream")
    gate = tmp_path / "gate"
    await form.locator("textarea").fill(f'{{"tasks": [{{"task_name": "test.say", "texts": [], "gate": "{gate}"}}]}}')
    await send(form)
    await expect(form.locator(".lines li[data-status=executing]").first).to_be_visible()
    assert await form.locator(".lines li[data-status=success]").count() == 0, "the lines came at the end, all at once"
    await expect(form.locator(".stop")).to_be_visible()
    await expect(form.locator(".facts")).to_have_text(re.compile(rf"^200 first line after {TIME} · \d+ lines?$"))
    gate.touch()
    await ended(form)
    await expect(form.locator(".lines li").last).to_have_attribute("data-status", "success")
    await expect(form.locator(".facts")).to_have_text(
        re.compile(rf"^200 first line after {TIME} · \d+ lines · {TIME}$")
    )
    assert await form.locator(".bars li[data-status=success] progress").evaluate("(bar) => bar.value") == 100
    assert len(seen.paths("/v1/create_stream")) == 1
    assert seen.complaints == []
    assert seen.hosts == {urlsplit(system.url).netloc}


async def test_stop_ends_the_call_and_send_begins_another(system: System, browser: Browser) -> None:
    page, seen = await open_docs(browser, system)
    form = trial(page, "task-countdown")
    await form.locator("[name=from]").fill("1000")
    await form.locator("[name=delay]").fill("0.05")
    await send(form)
    await expect(form.locator(".lines li[data-status=executing]").first).to_be_visible()
    key = json.loads(await form.locator(".lines li code").first.inner_text())[0]["key"]
    await form.locator(".stop").click()
    await expect(form.locator(".facts")).to_have_text(re.compile(r"lines? · stopped · "))
    await ended(form)
    lines = await form.locator(".lines li").count()
    await page.wait_for_timeout(300)
    assert await form.locator(".lines li").count() == lines, "lines after the stop"
    await form.locator("[name=from]").fill("2")
    await send(form)
    await expect(form.locator(".lines li").last).to_have_attribute("data-status", "success")
    await expect(form.locator(".bars li")).to_have_count(1)
    assert [error for error in seen.complaints if "countdown" in error] == []
    async with system.client() as client:  # the stopped call leaves its task at work: not for the tests to come
        await client.session.delete(f"/v1/tasks/{key}", headers=SECRET)


async def test_a_long_stream_keeps_the_newest_lines_only(system: System, browser: Browser) -> None:
    page, _ = await open_docs(browser, system)
    form = trial(page, "post_create_stream")
    tasks = ", ".join(['{"task_name": "hello"}'] * 600)
    await form.locator("textarea").fill(f'{{"tasks": [{tasks}]}}')
    await send(form)
    await ended(form)
    await expect(form.locator(".facts")).to_have_text(re.compile(r"· (?:6|7|8|9|10|11|12)\d\d lines ·"))
    assert await form.locator(".lines li").count() == 500


async def test_create_file_shows_the_picture(system: System, browser: Browser) -> None:
    page, seen = await open_docs(browser, system)
    for anchor in ("get_create_file", "post_create_file"):
        form = trial(page, anchor)
        await form.scroll_into_view_if_needed()
        await send(form)
        await expect(form.locator("figcaption")).to_have_text(re.compile(r"^480 × 360 pixels, /files/"))
        await expect(form.locator(".facts")).to_have_text(re.compile(r"^200 "))
    assert seen.complaints == []
    assert seen.hosts == {urlsplit(system.url).netloc}


async def test_a_tasks_form_sends_what_was_filled_in_by_type(system: System, browser: Browser) -> None:
    page, seen = await open_docs(browser, system)
    form = trial(page, "task-image.thumb")
    assert await form.locator("[name=quality]").get_attribute("placeholder") == "75"
    assert await form.locator("[name=format] option").all_inner_texts() == [
        "jpeg (default)", "jpeg", "png", "gif", "webp", "avif",
    ]  # fmt: skip
    await form.locator("[name=width]").fill("200")
    await form.locator("[name=height]").fill("100")
    await form.locator("[name=crop]").select_option("true")
    await form.locator("[name=rotation]").select_option("90")
    await form.locator("[name=format]").select_option("png")
    await send(form)
    await expect(form.locator("figcaption")).to_have_text(re.compile("^200 × 100 pixels"))
    [request] = seen.paths("/v1/create_stream")
    assert request.post_data_json == {
        "tasks": {
            "task_name": "image.thumb",
            "url": f"{system.url}/static/sample.jpg",
            "width": 200,
            "height": 100,
            "crop": True,
            "rotation": 90,
            "format": "png",
        }
    }
    assert seen.complaints == []


async def test_a_list_is_written_one_a_line_and_a_wrong_value_is_the_servers_to_refuse(
    system: System, browser: Browser
) -> None:
    page, seen = await open_docs(browser, system)
    form = trial(page, "task-image.strip")
    await form.locator("[name=urls]").fill(f"{system.url}/static/sample.jpg\n\n  {system.url}/static/sample.jpg  ")
    await form.locator("[name=width]").fill("wide")
    await send(form)
    await expect(form.locator(".lines li")).to_have_text(re.compile('"width":'))
    [request] = seen.paths("/v1/create_stream")
    assert request.post_data_json["tasks"]["urls"] == [f"{system.url}/static/sample.jpg"] * 2
    assert request.post_data_json["tasks"]["width"] == "wide"
    await expect(form.locator(".bars li")).to_have_attribute("data-status", "error")


@pytest.mark.parametrize(
    ("anchor", "text"),
    [
        ("get_status", '"result": ['),
        ("post_status", '"status": "success"'),
        ("delete_tasks_key", '"result": "cancelled"'),
        ("get_tasks", '"name": "image.thumb"'),
        ("get_readyz", '"status": "ok"'),
        ("get_metrics", "dragon_streams"),
        ("get_file", "/files/"),
    ],
)
async def test_calls_that_need_a_key_make_a_task_and_all_show_their_answer(
    system: System, browser: Browser, anchor: str, text: str
) -> None:
    page, seen = await open_docs(browser, system)
    form = trial(page, anchor)
    await send(form)
    await expect(form.locator(".shown")).to_contain_text(text)
    await expect(form.locator(".facts")).to_have_text(re.compile(r"^200 first byte after "))
    assert seen.complaints == []


async def test_event_streams_of_existing_tasks_are_followed_too(system: System, browser: Browser) -> None:
    page, _ = await open_docs(browser, system)
    form = trial(page, "get_status_stream")
    await send(form)
    await expect(form.locator(".lines li").last).to_have_attribute("data-status", "success")
    key = await form.locator("[name=tasks]").input_value()
    assert re.fullmatch("[A-Z2-7]{26}", key)
    await expect(form.locator(".sent")).to_have_text(f"GET /v1/status_stream?tasks={key}")


async def test_without_a_demo_account_a_key_is_asked_for_and_kept_in_this_tab(
    own_system: Callable[..., System], browser: Browser, tmp_path: Path
) -> None:
    accounts = tmp_path / "accounts.toml"
    accounts.write_text(
        '[shop]\nsecrets = ["sha256:8d969eef6ecad3c29a3a629280e686cf0c3f5d5a86aff3ca12020c923adc6c92"]\n'
    )
    system = own_system(accounts=accounts, server__host="0.0.0.0")
    system.start_server()
    page, _ = await open_docs(browser, system)
    assert "123456" not in await page.content()
    form = trial(page, "post_create")
    await form.locator("textarea").fill('{"tasks": {"task_name": "hello"}}')
    await send(form)
    await expect(form.locator(".facts a")).to_have_attribute("href", "#key")
    await page.fill("#key-value", "123456")
    await send(form)
    await expect(form.locator(".shown")).to_contain_text('"status": "queued"')
    await page.reload()
    assert await page.input_value("#key-value") == "123456"
    assert await page.evaluate("Object.keys(localStorage)") in ([], ["dragon-tab"]), "the key is kept for ever"


# --- Reading ----------------------------------------------------------------------------------------------------------


async def test_one_language_is_shown_and_the_choice_is_remembered(system: System, browser: Browser) -> None:
    page, seen = await open_docs(browser, system)
    shown = page.locator("[id='post_create'] .examples section:visible")
    assert await shown.evaluate_all("(panels) => panels.map((panel) => panel.dataset.tab)") == ["curl"]
    await page.locator("[id='post_create'] [role=tab][data-tab=curl]").focus()
    await page.keyboard.press("ArrowRight")
    assert await shown.evaluate_all("(panels) => panels.map((panel) => panel.dataset.tab)") == ["javascript"]
    await page.keyboard.press("End")
    assert await shown.evaluate_all("(panels) => panels.map((panel) => panel.dataset.tab)") == ["python"]
    assert await page.evaluate("document.activeElement.textContent") == "Python"
    visible = page.locator(".examples section:visible")
    assert set(await visible.evaluate_all("(panels) => panels.map((panel) => panel.dataset.tab)")) == {"python"}
    await page.reload()
    assert set(await visible.evaluate_all("(panels) => panels.map((panel) => panel.dataset.tab)")) == {"python"}
    assert await page.locator("[role=tab][aria-selected=true]").first.inner_text() == "Python"
    assert seen.complaints == []


async def test_without_javascript_all_three_languages_show_and_no_dead_form(system: System, browser: Browser) -> None:
    page, _ = await open_docs(browser, system, java_script_enabled=False)
    examples = page.locator("[id='post_create'] .examples section")
    assert [await panel.is_visible() for panel in await examples.all()] == [True] * 3
    assert await page.locator("form:visible, button:visible, input:visible").count() == 0
    assert await page.locator("nav.contents a:visible").count() > 15


async def test_an_example_is_copied(system: System, browser: Browser) -> None:
    page, _ = await open_docs(browser, system, permissions=["clipboard-read", "clipboard-write"])
    await page.locator("[id='task-hello'] [role=tab][data-tab=python]").click()
    await copy(page, "[id='task-hello'] section[data-tab=python] .copy")
    copied = await page.evaluate("navigator.clipboard.readText()")
    assert copied.startswith("from dragon.client import Dragon\n")
    assert 'client.run("hello", name="you")' in copied


async def test_the_contents_are_filtered_and_reached_from_the_keyboard(system: System, browser: Browser) -> None:
    page, _ = await open_docs(browser, system)
    await page.keyboard.press("/")
    await page.keyboard.type("thumb")
    lines = page.locator("nav.contents li:visible")
    assert await lines.all_inner_texts() == ["image.thumb"]
    await page.keyboard.press("Enter")
    await expect(page.locator("[id='task-image.thumb']")).to_be_in_viewport()
    await expect(page.locator("nav.contents a[aria-current]")).to_have_text("image.thumb")
    await page.fill("#filter", "idempotency")
    assert [" ".join(text.split()) for text in await lines.all_inner_texts()] == ["POST /create", "POST /create_stream"]
    await page.fill("#filter", "xyzzy")
    await expect(page.locator(".nothing")).to_have_text("Nothing has “xyzzy”.")
    await page.focus("#filter")
    await page.keyboard.press("Escape")
    assert await lines.count() > 15


async def test_the_section_that_is_read_is_marked_in_the_contents(system: System, browser: Browser) -> None:
    page, _ = await open_docs(browser, system)
    for anchor, name in (("get_metrics", "GET /metrics"), ("post_create", "POST /create")):
        await page.evaluate(f"document.getElementById('{anchor}').scrollIntoView({{ behavior: 'instant' }})")
        marked = page.locator("nav.contents a[aria-current]")
        await expect(marked).to_have_text(name)
        await expect(marked).to_be_in_viewport()


async def test_on_a_telephone_the_contents_open_over_the_page(system: System, browser: Browser) -> None:
    page, seen = await open_docs(browser, system, viewport={"width": 390, "height": 844})
    assert await page.locator("nav.contents a:visible").count() == 0
    await page.click(".menu")
    await page.click("nav.contents a:has-text('image.gif')")
    await expect(page.locator("[id='task-image.gif'] h3")).to_be_in_viewport()
    assert await page.locator("nav.contents a:visible").count() == 0
    assert await page.evaluate("document.documentElement.scrollWidth") == 390
    assert seen.complaints == []


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("scheme", "width"), [("light", 1400), ("dark", 390)])
async def test_axe_finds_no_serious_fault(system: System, browser: Browser, scheme: Any, width: int) -> None:
    # The page's policy allows scripts of this server only; axe is not one of them.
    page, _ = await open_docs(
        browser, system, color_scheme=scheme, viewport={"width": width, "height": 900}, bypass_csp=True
    )
    form = trial(page, "task-image.thumb")
    await send(form)
    await form.locator("figcaption").wait_for()
    await page.add_script_tag(path=AXE)
    # Only what is wrong is described in full: of all that is well the page has too much.
    found = await page.evaluate("axe.run(document, { resultTypes: ['violations'] })")
    serious = [
        (fault["id"], [node["target"] for node in fault["nodes"]][:3], fault["nodes"][0]["failureSummary"])
        for fault in found["violations"]
        if fault["impact"] in ("serious", "critical")
    ]
    assert serious == []
    assert len(found["passes"]) > 20, "axe looked at nothing"


# --- The quick start --------------------------------------------------------------------------------------------------


STATES = """window.states = [];
new MutationObserver((changes) => {
    for (const { target } of changes) window.states.push(target.getAttribute("state"));
}).observe(document, { subtree: true, attributeFilter: ["state"] });"""


async def test_the_page_of_the_readme_shows_its_thumbnail_and_its_progress(
    system: System, browser: Browser, tmp_path: Path
) -> None:
    [source] = re.findall(r"^```html example\n(.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    (tmp_path / "hello.html").write_text(source.replace("http://127.0.0.1:8000", system.url))
    app = web.Application()
    app.add_routes([web.static("/", tmp_path)])
    async with TestServer(app, host="127.0.0.1") as server:
        page = await browser.new_page()
        seen = Seen.of(page)
        await page.add_init_script(STATES)  # two seconds long it executes, and nobody has to look just then
        await page.goto(f"http://127.0.0.1:{server.port}/hello.html")
        await expect(page.locator("dragon-progress[state=success]")).to_be_visible()
        assert "executing" in await page.evaluate("window.states")
        size = await page.evaluate(
            "(({ naturalWidth, naturalHeight }) => [naturalWidth, naturalHeight])(document.images[0])"
        )
    assert size == [480, 360]
    assert [complaint for complaint in seen.complaints if "favicon" not in complaint and "404" not in complaint] == []
    assert len(seen.paths("/v1/create")) == 1
