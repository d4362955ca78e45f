"""The dashboard before an API whose facts the test decides: what a real server cannot be made to say at will."""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import pytest_asyncio
from aiohttp.test_utils import TestServer
from playwright.async_api import Browser, Page, expect

from dragon.config import load_config
from dragon.task import load_tasks
from tests.browser.dashboard import EVIL, TELEPHONE, Seen, faults, go, log_in, open_dashboard, open_page
from tests.browser.fake_operator import FakeOperator, iso, key_of, row, snapshot
from tests.system import eventually

pytestmark = [pytest.mark.browser, pytest.mark.timeout(150), pytest.mark.asyncio(loop_scope="module")]

pytest_plugins = ("tests.chromium",)

Serve = Callable[[FakeOperator], Awaitable[str]]
STREAM = ".stream"


@pytest_asyncio.fixture(loop_scope="module")
async def serve() -> AsyncIterator[Serve]:
    """Serves fakes; each at an address of its own."""
    servers: list[tuple[TestServer, FakeOperator]] = []

    async def start(fake: FakeOperator) -> str:
        server = TestServer(fake.app(load_config(environ={}), load_tasks(("tasks",))), host="127.0.0.1")
        servers.append((server, fake))
        await server.start_server()
        return f"http://127.0.0.1:{server.port}"

    yield start
    for server, fake in servers:
        fake.cut()
        await server.close()


async def keys_shown(page: Page) -> list[str]:
    found: list[str] = await page.evaluate(
        "[...document.querySelectorAll('tr[data-key]')].map((row) => row.dataset.key)"
    )
    return found


# What was asked for is on the screen then: drawing waits for a frame, and there are few of them on a busy machine.
DRAWN = "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"


# --- Many tasks -------------------------------------------------------------------------------------------------------


async def test_of_a_hundred_thousand_tasks_those_on_the_screen_are_drawn(serve: Serve, browser: Browser) -> None:
    fake = FakeOperator(rows=[row(number) for number in range(100_000)])
    page, seen = await open_dashboard(browser, await serve(fake), "#/tasks")
    await expect(page.locator("tr[data-key]").first).to_contain_text(key_of(99_999)[:8])
    for _ in range(40):
        await page.evaluate("window.scrollTo(0, document.documentElement.scrollHeight)")
        await page.evaluate(DRAWN)
    loaded = page.locator(".bar p")
    await eventually(lambda: _count(page, loaded, 1000))
    assert len(await keys_shown(page)) < 80, "rows that nobody sees are drawn"
    assert await page.evaluate("document.querySelectorAll('*').length") < 2500
    assert seen.complaints == []


async def _count(page: Page, loaded: Any, least: int) -> bool:
    await page.evaluate("window.scrollTo(0, document.documentElement.scrollHeight)")
    return int((await loaded.inner_text()).split()[0].strip("+").replace(",", "")) >= least


async def test_pages_join_without_a_gap_and_without_a_row_twice(serve: Serve, browser: Browser) -> None:
    fake = FakeOperator(rows=[row(number, at=1_700_000_000 + number // 7) for number in range(330)])
    page, _ = await open_dashboard(browser, await serve(fake), "#/tasks")
    seen: dict[str, None] = {}

    async def scroll() -> bool:
        seen.update(dict.fromkeys(await keys_shown(page)))
        await page.evaluate("window.scrollBy(0, window.innerHeight / 2)")
        await page.evaluate(DRAWN)
        return "that is all" in await page.inner_text("main") and key_of(0) in seen

    await eventually(scroll, 60)
    assert sorted(seen) == sorted(key_of(number) for number in range(330))
    await expect(page.locator(".foot")).to_have_text("330 tasks, that is all.")


async def test_a_thousand_changes_in_a_moment_are_a_few_frames(serve: Serve, browser: Browser) -> None:
    fake = FakeOperator(rows=[row(0)])
    page, _ = await open_dashboard(browser, await serve(fake), "#/tasks")
    await expect(page.locator("tr[data-key]")).to_have_count(1)
    await page.evaluate(
        """() => { window.drawn = window.frames_ = 0;
        const count = () => { window.frames_ += 1; requestAnimationFrame(count); };
        count();
        new MutationObserver(() => { window.drawn += 1; }).observe(document.querySelector("table.tasks"),
            { subtree: true, childList: true, attributeFilter: ["value", "data-key"] }); }"""
    )
    for change in range(1000):
        fake.send("/v1/operator/tasks_stream", row(1 + change % 100, "executing", progress=change // 10))
    await expect(page.locator("tr[data-key] progress").first).to_have_attribute("value", "99")
    await expect(page.locator("tr[data-key]").first).to_have_attribute("data-key", key_of(100))
    await expect(page.locator(".bar p")).to_have_text("101 loaded")
    # Once a frame, and once more for the clock of the list; how many frames there are is the machine's.
    drawn, frames = await page.evaluate("[window.drawn, window.frames_]")
    assert 0 < drawn <= 2 * frames + 10, "it was drawn for each change"
    assert drawn < 500


@pytest.mark.parametrize("how", ["a list", "a cut"])
async def test_what_the_stream_may_have_left_out_is_read_in_pages(serve: Serve, browser: Browser, how: str) -> None:
    fake = FakeOperator(rows=[row(number) for number in range(30)])
    page, _ = await open_dashboard(browser, await serve(fake), "#/tasks")
    await expect(page.locator(".bar p")).to_have_text("30 loaded")
    fake.rows += [row(number) for number in range(30, 1000)]
    if how == "a list":  # a look has no more places, and says so
        fake.send("/v1/operator/tasks_stream", fake.rows[:-201:-1])
    else:
        fake.cut()
    await expect(page.locator("tr[data-key]").first).to_have_attribute("data-key", key_of(999))
    await eventually(lambda: _count(page, page.locator(".bar p"), 1000), 60)
    await expect(page.locator(".foot")).to_have_text("1,000 tasks, that is all.")


async def test_new_tasks_wait_while_the_reader_is_further_down(serve: Serve, browser: Browser) -> None:
    fake = FakeOperator(rows=[row(number) for number in range(200)])
    page, _ = await open_dashboard(browser, await serve(fake), "#/tasks")
    await expect(page.locator("tr[data-key]").first).to_have_attribute("data-key", key_of(199))
    await page.evaluate("window.scrollTo(0, 2000)")
    await expect(page.locator(f"tr[data-key='{key_of(199)}']")).to_have_count(0)
    before = await page.evaluate("document.querySelector('tr[data-key]').getBoundingClientRect().top")
    fake.send("/v1/operator/tasks_stream", row(300))
    fake.send("/v1/operator/tasks_stream", row(301, "queued"))
    await expect(page.locator(".news button")).to_have_text("↑ 2 new tasks")
    assert await page.evaluate("document.querySelector('tr[data-key]').getBoundingClientRect().top") == before
    fake.send("/v1/operator/tasks_stream", row(301, "error"))
    await page.click(".news button")
    await expect(page.locator("tr[data-key]").first).to_have_attribute("data-key", key_of(301))
    await expect(page.locator("tr[data-key]").first).to_have_attribute("data-status", "error")
    assert await page.evaluate("window.scrollY") == 0


async def test_a_task_that_leaves_the_state_leaves_the_list(serve: Serve, browser: Browser) -> None:
    fake = FakeOperator(rows=[row(1, "queued"), row(2, "queued")])
    page, _ = await open_dashboard(browser, await serve(fake), "#/tasks?state=waiting")
    await expect(page.locator("tr[data-key]")).to_have_count(2)
    fake.send("/v1/operator/tasks_stream", row(2, "executing"))
    await expect(page.locator("tr[data-key]")).to_have_count(1)
    assert await keys_shown(page) == [key_of(1)]


BETWEEN = """(act) => new Promise((done) =>
    addEventListener("hashchange", () => setTimeout(() => { act(); done(); }), { once: true }))"""


async def test_a_choice_right_after_filters_were_cleared_brings_none_of_them_back(
    serve: Serve, browser: Browser
) -> None:
    page, _ = await open_dashboard(browser, await serve(FakeOperator()), "#/tasks?name=hello&text=abc")
    await expect(page.locator("#filter-text")).to_have_value("abc")
    await page.evaluate(
        f"""() => {{ const chosen = ({BETWEEN})(() => document.querySelector(".segments button:nth-child(2)").click());
        document.querySelector("a.clear").click();
        return chosen; }}"""
    )
    await expect(page.locator(".segments [aria-pressed=true]")).to_have_text("Waiting")
    assert await page.evaluate("location.hash") == "#/tasks?state=waiting"
    await expect(page.locator("#filter-text")).to_have_value("")


async def test_a_letter_that_is_typed_while_a_filter_takes_effect_stays(serve: Serve, browser: Browser) -> None:
    page, _ = await open_dashboard(browser, await serve(FakeOperator()), "#/tasks")
    await page.focus("#filter-text")
    seen = await page.evaluate(
        f"""() => {{ const field = document.querySelector("#filter-text");
        const type = (text) => {{ field.value = text; field.dispatchEvent(new Event("input", {{ bubbles: true }})); }};
        const frame = () => new Promise(requestAnimationFrame);
        const typed = ({BETWEEN})(() => type("ab"))
            .then(frame).then(frame).then(() => new Promise((done) => setTimeout(done, 50))).then(() => field.value);
        type("a");
        return typed; }}"""
    )
    assert seen == "ab"
    await expect(page).to_have_url(re.compile(r"#/tasks\?text=ab$"))
    await expect(page.locator("#filter-text")).to_have_value("ab")


async def test_the_keyboard_moves_selects_and_opens(serve: Serve, browser: Browser) -> None:
    fake = FakeOperator(rows=[row(number) for number in range(300)])
    opened = key_of(298)
    fake.details[opened] = details(opened)
    page, _ = await open_dashboard(browser, await serve(fake), "#/tasks")
    await expect(page.locator("tr[data-key]").first).to_be_visible()
    await page.keyboard.press("j")
    await page.keyboard.press("ArrowDown")
    await page.keyboard.press("x")
    await expect(page.locator("tr.current")).to_have_attribute("data-key", opened)
    await expect(page.locator("tr.current")).to_have_attribute("data-selected", "true")
    for _ in range(30):
        await page.keyboard.press("j")
    await expect(page.locator("tr.current")).to_be_in_viewport()
    for _ in range(30):
        await page.keyboard.press("k")
    await expect(page.locator("tr.current")).to_have_attribute("data-key", opened)
    await page.keyboard.press("/")
    await expect(page.locator("#filter-text")).to_be_focused()
    await page.keyboard.type("j?")
    await expect(page.locator("#filter-text"), "a field keeps its letters").to_have_value("j?")
    await expect(page.locator("tr.current"), "another filter, another list").to_have_count(0)
    await page.locator("#filter-text").blur()
    await expect(page.locator("tr[data-key]").first).to_be_visible()
    await page.keyboard.press("j")
    await page.keyboard.press("j")
    await expect(page.locator(f"tr[data-key='{opened}'] a")).to_be_focused()
    await page.keyboard.press("Enter")
    await expect(page.locator(".whole-key code")).to_have_text(opened)
    await page.keyboard.press("?")
    await expect(page.locator("dialog[open] h2")).to_have_text("Keyboard")
    await page.keyboard.press("Escape")
    await expect(page.locator("dialog")).to_have_count(0)
    await page.keyboard.press("3")
    await expect(page.locator("main h1")).to_have_text("Failures")


# --- When something is away -------------------------------------------------------------------------------------------


async def test_a_stream_that_is_cut_is_taken_up_again_and_the_page_says_so(serve: Serve, browser: Browser) -> None:
    fake = FakeOperator(overview=snapshot(counts={"waiting": 7, "executing": 0, "success": 0, "error": 0}))
    page, _ = await open_dashboard(browser, await serve(fake))
    await expect(page.locator(STREAM)).to_have_attribute("data-state", "live")
    fake.away = True
    fake.cut()
    await expect(page.locator(STREAM)).to_have_attribute("data-state", "reconnecting")
    await expect(page.locator(f"{STREAM} .why")).to_contain_text("Redis cannot be reached")
    await expect(page.locator(".figure .value").first).to_have_text("7")
    fake.away = False
    fake.overview = snapshot(counts={"waiting": 8, "executing": 0, "success": 0, "error": 0})
    await expect(page.locator(STREAM)).to_have_attribute("data-state", "live", timeout=60_000)
    await expect(page.locator(".figure .value").first).to_have_text("8")


async def test_what_came_while_the_stream_was_cut_is_in_the_list(serve: Serve, browser: Browser) -> None:
    fake = FakeOperator(rows=[row(number, "executing") for number in range(60)])
    page, _ = await open_dashboard(browser, await serve(fake), "#/tasks")
    await expect(page.locator("tr[data-key]").first).to_have_attribute("data-key", key_of(59))
    fake.rows = [row(number) for number in range(62)]
    fake.cut()
    await expect(page.locator("tr[data-key]").first).to_have_attribute("data-key", key_of(61))
    await expect(page.locator("tr[data-status=executing]")).to_have_count(0)


HIDE = "Object.defineProperty(document, 'hidden', { get: () => window.isHidden === true });"
SHOW = "(hidden) => { window.isHidden = hidden; document.dispatchEvent(new Event('visibilitychange')); }"


async def test_a_tab_that_nobody_sees_gives_its_stream_back(serve: Serve, browser: Browser) -> None:
    fake = FakeOperator()
    page, _ = await open_page(browser, await serve(fake))
    await page.clock.install()
    await page.add_init_script(HIDE)
    await page.reload()
    await log_in(page)
    await expect(page.locator(STREAM)).to_have_attribute("data-state", "live")
    await stop_clock(page)
    await page.evaluate(SHOW, True)
    await page.clock.run_for(29_000)
    assert len(fake.listeners["/v1/operator/overview_stream"]) == 1
    await page.clock.run_for(2_000)
    await page.clock.resume()
    await eventually(lambda: not fake.listeners["/v1/operator/overview_stream"])
    await expect(page.locator(STREAM)).to_have_attribute("data-state", "paused")
    await page.evaluate(SHOW, False)
    await expect(page.locator(STREAM)).to_have_attribute("data-state", "live")
    assert len(fake.listeners["/v1/operator/overview_stream"]) == 1


async def stop_clock(page: Page) -> None:
    """From here on the page's time is what `run_for` lets pass, and not also what the machine takes."""
    await page.clock.pause_at(await page.evaluate("Date.now()") / 1000 + 1)


async def test_a_stream_without_a_sign_of_life_counts_as_cut(serve: Serve, browser: Browser) -> None:
    fake = FakeOperator()
    page, seen = await open_page(browser, await serve(fake))
    await page.clock.install()
    await page.reload()
    await log_in(page)
    await expect(page.locator(STREAM)).to_have_attribute("data-state", "live")
    await stop_clock(page)
    await page.clock.run_for(20_000)
    fake.send("/v1/operator/overview_stream", snapshot(streams=77))
    await eventually(lambda: _says(page, "77 streams open"))
    for moment in (15_000, 3_000, 3_000, 3_000):  # a stream that was cut would be asked for again within the last
        await page.clock.run_for(moment)
        await expect(page.locator(STREAM)).to_have_attribute("data-state", "live")
    assert seen.paths().count("/v1/operator/overview_stream") == 1
    await page.clock.run_for(13_000)
    await eventually(lambda: _comes_back(page, seen))


async def _says(page: Page, text: str) -> bool:
    """Lets the frame pass in which what has come is drawn."""
    await page.clock.run_for(50)
    return text in str(await page.text_content(".below"))


async def _comes_back(page: Page, seen: Seen) -> bool:
    await page.clock.run_for(1000)
    return seen.paths().count("/v1/operator/overview_stream") == 2


async def test_a_key_that_is_revoked_ends_in_the_login(serve: Serve, browser: Browser) -> None:
    fake = FakeOperator()
    page, _ = await open_dashboard(browser, await serve(fake))
    await expect(page.locator(STREAM)).to_have_attribute("data-state", "live")
    fake.secret = "Secret another"
    fake.cut()
    await expect(page.locator("#secret")).to_be_visible()
    await expect(page.locator("#secret-error")).to_have_text("unknown secret key")
    assert await page.evaluate("sessionStorage.length") == 0


async def test_a_queue_without_a_worker_is_named(serve: Serve, browser: Browser) -> None:
    queue = {"waiting": 12, "executing": 0, "paused": False, "oldest": 731.0, "workers": 0}
    page, _ = await open_dashboard(
        browser, await serve(FakeOperator(overview=snapshot(queues=[{"name": "low"} | queue], suspended=True)))
    )
    sentences = page.locator(".banner span:not(.mark)")
    await expect(sentences).to_have_text(
        [
            "RQ is suspended: no worker takes a task until rq resume.",
            "No worker serves the queue low: 12 tasks wait there.",
        ]
    )


async def test_numbers_have_as_many_digits_as_one_reads(serve: Serve, browser: Browser) -> None:
    rates = {"per_second": 1234.567, "errors_per_second": 12.345, "waiting_p50": 0.0004, "waiting_p95": 75.3}
    counts = {"waiting": 1_234_567, "executing": 0, "success": 9, "error": 1}
    page, _ = await open_dashboard(browser, await serve(FakeOperator(overview=snapshot(rates=rates, counts=counts))))
    figures = page.locator(".figure")
    await expect(figures.locator(".value")).to_have_text(["1,234,567", "0", "1,235", "12.3", "<1 ms", "10"])
    await expect(figures.locator(".more")).to_have_text(["p95 1 min 15 s", "1 in an error"])


async def test_who_is_no_operator_gets_no_buttons_for_queues(serve: Serve, browser: Browser) -> None:
    queue = {"name": "default", "waiting": 2, "executing": 0, "paused": False, "oldest": 1.0, "workers": 1}
    unknown = {"per_second": None, "errors_per_second": None, "waiting_p50": None, "waiting_p95": None}
    overview = snapshot(
        queues=[queue],
        rates=unknown,
        counts={"waiting": 2, "executing": 0, "success": None, "error": None},
        redis={"version": None, "memory_bytes": None, "persistence": None},
    )
    fake = FakeOperator(overview=overview, account={"id": "shop", "name": None, "operator": False})
    page, seen = await open_dashboard(browser, await serve(fake))
    await expect(page.locator("tr[data-queue=default]")).to_contain_text("2")
    assert await page.locator("tr[data-queue] button").count() == 0
    assert await page.locator(".figure .value").all_inner_texts() == ["2", "0", "–", "–", "–", "–"]
    assert await page.locator(".banner").count() == 0
    assert await faults(page) == []
    await go(page, "#/tasks")
    await page.click("text=More")
    assert await page.locator("#filter-account").count() == 0
    assert seen.complaints == []


# --- Text that wants to run -------------------------------------------------------------------------------------------


def details(key: str, **members: Any) -> dict[str, Any]:
    now = time.time()
    events = {"queued": iso(now - 9), "started": iso(now - 8), "completed": iso(now - 2)}
    return {
        "status": {"key": key, "status": "success", "events": events, "result": None},
        "task_name": "hello",
        "account": "demo",
        "queue": "default",
        "parameters": {},
        "task_metas": None,
        "attempt": 1,
        "max_attempts": 1,
        "timeout": 60,
        "worker": "AAAA",
        "expires": iso(now + 1000),
        "traceparent": None,
        "retry_of": None,
        "retried_as": None,
        "bytes": 0,
        "attempts": [],
        "traceback": None,
        "position": None,
        "eta": None,
        "waiting_for": None,
    } | members


async def test_no_text_of_anybody_runs_wherever_it_stands(serve: Serve, browser: Browser) -> None:
    key = key_of(1)
    texts = dict.fromkeys(("task_name", "account", "queue", "message"), EVIL)
    executor = {"pid": 1, "kind": "def", "tasks": [{"key": key, "name": EVIL, "started": iso(time.time())}]}
    worker = {"id": EVIL, "hostname": EVIL, "pid": 1, "queues": [EVIL], "executors": [executor], "lease": 1.0}
    queue = {"name": EVIL, "waiting": 1, "executing": 0, "paused": True, "oldest": 1.0, "workers": 0}
    status = details(key)["status"] | {"status": "error", "result": EVIL}
    result = {
        EVIL: EVIL,
        "link": "javascript:window.ran=true",
        "data": f"data:text/html,{EVIL}",
        "http": f"http://{EVIL}",
    }
    good = details(key)["status"] | {"key": key_of(2), "result": result}
    attempt = {"attempt": 1, "worker": EVIL, "started": None, "ended": iso(time.time() - 5), "ending": EVIL}
    evil = {"task_name": EVIL, "account": EVIL, "queue": EVIL, "worker": EVIL, "traceparent": EVIL}
    evil |= {"parameters": {EVIL: [EVIL, {EVIL: EVIL}]}, "task_metas": EVIL, "attempts": [attempt], "traceback": EVIL}
    group = {"group": EVIL, "task_name": EVIL, "message": EVIL, "count": 1, "retried": 0, "keys": [EVIL]}
    fake = FakeOperator(
        rows=[
            row(1, "error", **texts),
            row(2, "executing", **texts, progress=EVIL),
            row(3, "executing", progress={"a": EVIL}),
        ],
        overview=snapshot(queues=[queue], workers=[worker | {"kind": EVIL}]),
        details={key: details(key, status=status, **evil), key_of(2): details(key_of(2), status=good)},
        lines=[{"number": 1, "time": iso(time.time()), "attempt": 1, "text": EVIL}],
        groups=[group | {"first": iso(time.time()), "last": iso(time.time())}],
        account={"id": "demo", "name": EVIL, "operator": True},
    )
    page, seen = await open_dashboard(browser, await serve(fake))
    for hash_, least in (
        ("#/now", 4),
        ("#/tasks", 5),
        (f"#/task/{key}", 10),
        (f"#/task/{key_of(2)}", 3),
        ("#/failures", 3),
    ):
        await go(page, hash_)
        await eventually(lambda least=least: _says_evil(page, least))
        assert await page.locator("main img, main script").count() == 0, hash_
    await go(page, f"#/task/{key_of(2)}")
    await expect(page.locator(".json")).to_have_count(2)
    links = await page.evaluate("[...document.querySelectorAll('a')].map((link) => link.protocol)")
    assert set(links) == {"http:"}
    assert await page.evaluate("window.ran") is None
    assert "/nowhere" not in seen.paths()
    assert seen.complaints == []


async def _says_evil(page: Page, least: int) -> bool:
    return (await page.inner_text("body")).count("onerror=") >= least


async def test_pictures_are_shown_from_this_address_alone(serve: Serve, browser: Browser) -> None:
    key = key_of(5)
    result = {
        "ours": f"http://127.0.0.1:8000/files/{key}/ours.jpg",  # the address in the settings
        "page": f"http://127.0.0.1:8000/files/{key}/page.html",
        "foreign": f"http://foreign.test/files/{key}/foreign.jpg",
        "elsewhere": "http://127.0.0.1:8000/static/sample.jpg",
    }
    fake = FakeOperator(details={key: details(key, status=details(key)["status"] | {"result": result})})
    url = await serve(fake)
    page, seen = await open_page(browser, url)
    await page.route("**/files/**", lambda route: route.fulfill(path="dragon/server/static/icon.svg"))
    await log_in(page)
    await go(page, f"#/task/{key}")
    await expect(page.locator(".files a")).to_have_count(2)
    assert await page.locator(".files img").evaluate_all("(all) => all.map((image) => image.src)") == [
        f"{url}/files/{key}/ours.jpg"
    ]
    assert {f"http://{host}" for host in seen.hosts} == {url}
    assert seen.complaints == []


# --- How it looks -----------------------------------------------------------------------------------------------------


def busy() -> FakeOperator:
    """A bit of everything."""
    now = time.time()
    states = ("success", "error", "executing", "queued")
    rows = [row(number, states[number % 4], at=now - 100 + number, progress=40) for number in range(40)]
    executor = {
        "pid": 7,
        "kind": "async",
        "tasks": [{"key": key_of(2), "name": "countdown", "started": iso(now - 3)}] * 9,
    }
    idle = {"pid": 8, "kind": "def", "tasks": []}
    worker = {"id": "W", "hostname": "a-worker-with-a-long-name.internal", "pid": 1, "queues": ["high", "default"]}
    queue = {"waiting": 12_345, "executing": 6, "oldest": 731.0}
    sample = {"seconds": 60, "success": 900, "error": 4, "cancelled": 1, "waiting_p50": 0.01, "waiting_p95": 1.5}
    group = {"task_name": "image.thumb", "count": 214, "retried": 9, "first": iso(now - 99), "last": iso(now)}
    failed = details(key_of(1))["status"] | {
        "status": "error",
        "result": "connect timed out: http://images.example.com/cat",
    }
    attempt = {"attempt": 1, "worker": "W", "started": iso(now - 8), "ended": iso(now - 5), "ending": "signal 9"}
    running = {"key": key_of(2), "status": "executing", "events": {"queued": iso(now - 9), "started": iso(now - 8)}}
    return FakeOperator(
        rows=rows,
        overview=snapshot(
            queues=[
                {"name": "default", "paused": False, "workers": 1} | queue,
                {"name": "low", "paused": True, "workers": 0} | queue,
            ],
            workers=[worker | {"executors": [executor, idle], "lease": 4.0, "kind": "dragon"}],
            rates={"per_second": 128.4, "errors_per_second": 0.4, "waiting_p50": 0.01, "waiting_p95": 1.8},
        ),
        details={
            key_of(1): details(key_of(1), status=failed, attempts=[attempt], traceback="Traceback\n  File x\nError"),
            key_of(2): details(
                key_of(2),
                status=running | {"progress": 62},
                parameters={"url": "http://x.example.com/" + "a" * 300, "sizes": list(range(90)), "on": None},
                retry_of=key_of(9),
                retried_as=key_of(8),
            ),
            key_of(3): details(
                key_of(3),
                status={"key": key_of(3), "status": "queued", "events": {"queued": iso(now - 9)}},
                position=3,
                eta=12.5,
                waiting_for="the queue 'low' is paused",
            ),
        },
        lines=[{"number": n, "time": iso(now), "attempt": 1 + n // 40, "text": f"line {n} " * 9} for n in range(1, 60)],
        groups=[group | {"group": str(n), "message": "a message " * 20, "keys": [key_of(n)]} for n in range(3)],
        samples=[
            sample | {"start": now // 60 * 60 - 60 * n, "running_p50": 0.1, "running_p95": 2.0}
            for n in range(60, 0, -1)
        ],
    )


VIEWS = [
    "#/now",
    "#/tasks",
    *(f"#/task/{key_of(number)}" for number in (1, 2, 3)),
    "#/failures",
    "#/history",
    "#/nowhere",
]
READY = ".figures, tr[data-key], .course li, tr[data-group], .plot canvas, main h1:text('no such view')"


@pytest.mark.timeout(240)
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [{"width": 1280, "height": 800}, {"width": 820, "height": 1100}, TELEPHONE])
async def test_every_view_is_readable_and_as_wide_as_the_screen(
    serve: Serve, browser: Browser, scheme: str, size: dict[str, int]
) -> None:
    page, seen = await open_page(browser, await serve(busy()), color_scheme=scheme, viewport=size)
    assert await faults(page) == []
    await log_in(page)
    for hash_ in VIEWS:
        await go(page, hash_)
        await expect(page.locator(READY).first).to_be_visible()
        assert await faults(page) == [], hash_
        assert await page.evaluate(OVERFLOWING) == [], hash_
    assert seen.complaints == []


# Panels whose contents stand out of them, which the page's own width does not tell.
OVERFLOWING = """() => [...document.querySelectorAll(".panel, header")].filter((box) =>
    box.scrollWidth > box.clientWidth + 1).map((box) => box.outerHTML.slice(0, 200))"""


async def test_the_theme_can_be_chosen_and_is_kept(serve: Serve, browser: Browser) -> None:
    url = await serve(busy())
    page, seen = await open_dashboard(browser, url, "#/history", color_scheme="light")
    await expect(page.locator(".plot canvas").first).to_be_visible()
    light = await _ground(page)
    await page.click(".theme")
    assert await _ground(page) == light
    await page.click(".theme")
    assert await _ground(page) < light - 150
    assert await faults(page) == []
    await page.reload()
    await expect(page.locator(".plot canvas").first).to_be_visible()
    assert await _ground(page) < light - 150
    assert seen.complaints == []


async def _ground(page: Page) -> int:
    return int(await page.evaluate("Number(getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0])"))
