"""The dashboard on a real server with a real worker: what an operator sees and does there."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.async_api import Browser, Locator, Page, expect

from dragon.auth import hash_key
from dragon.config import Config
from dragon.embedded import EmbeddedRedis, find_server
from tests.browser.dashboard import EVIL, TELEPHONE, faults, go, log_in, open_dashboard, open_page
from tests.system import System, eventually

pytestmark = [pytest.mark.browser, pytest.mark.timeout(150), pytest.mark.asyncio(loop_scope="module")]

pytest_plugins = ("tests.chromium",)

LIVE = ".stream[data-state=live]"
OPERATOR = "/v1/operator/"
LONG_LOOK = 1.5  # seconds between two numbers of a countdown that is to be seen at work, whoever stands still meanwhile


def row_of(page: Page, key: str) -> Locator:
    return page.locator(f"tr[data-key='{key}']")


# --- The door ---------------------------------------------------------------------------------------------------------


async def test_without_a_key_there_is_a_form_and_no_fact(system: System, browser: Browser) -> None:
    page, seen = await open_page(browser, system.url, "#/tasks")
    await expect(page.locator("#secret-help")).to_contain_text("the demo key 123456 works")
    await expect(page.locator("#secret")).to_be_focused()
    assert not [path for path in seen.paths() if path.startswith("/v1/")]
    await log_in(page, "wrong")
    await expect(page.locator("#secret-error")).to_have_text("Unknown secret key.")
    await expect(page.locator("#secret")).to_be_focused()
    await log_in(page, "ключ")
    await expect(page.locator("#secret-error")).to_contain_text("cannot be a secret key")
    await page.fill("#secret", "")
    await page.keyboard.press("Enter")
    await expect(page.locator("#secret-error")).to_have_text("The secret key is missing.")
    assert [path for path in seen.paths() if path.startswith("/v1/")] == ["/v1/operator/account"]


async def test_the_right_key_opens_the_view_that_was_asked_for_until_it_is_given_back(
    system: System, browser: Browser
) -> None:
    page, seen = await open_page(browser, system.url, "#/failures")
    await log_in(page)
    await expect(page.locator("main h1")).to_have_text("Failures")
    await page.reload()
    await expect(page.locator("main h1")).to_have_text("Failures")
    assert await page.evaluate("[{ ...sessionStorage }, { ...localStorage }, document.cookie]") == [
        {"dragon-secret": "123456"},
        {},
        "",
    ]
    assert not [request.url for request in seen.requests if "123456" in request.url]
    await page.click("text=Log out")
    await expect(page.locator("#secret")).to_be_visible()
    assert await page.evaluate("sessionStorage.length") == 0
    assert seen.complaints == []
    assert seen.hosts == {urlsplit(system.url).netloc}


async def test_on_another_address_the_page_names_no_key_and_takes_none_that_everybody_knows(
    own_system: Callable[..., System], browser: Browser, tmp_path: Path
) -> None:
    accounts = tmp_path / "accounts.toml"
    accounts.write_text("")
    system = own_system(server__host="0.0.0.0", accounts=accounts)
    system.start_server()
    page, _ = await open_page(browser, system.url)
    await expect(page.locator("#secret-help")).to_contain_text("dragon account new NAME --operator")
    await log_in(page)
    await expect(page.locator("#secret-error")).to_contain_text("secret key")
    assert "123456" not in await page.content()


# --- Now --------------------------------------------------------------------------------------------------------------


async def test_now_shows_what_executes_as_it_begins_and_ends(system: System, browser: Browser) -> None:
    page, seen = await open_dashboard(browser, system.url)
    await expect(page.locator(LIVE)).to_be_visible()
    executing = page.locator("tr[data-queue=default] td").nth(1)
    await expect(executing).to_have_text("0", timeout=60_000)  # what a test before has left there ends
    async with system.client() as client:
        created = await client.create({"task_name": "test.async_sleep", "seconds": 50})
        await expect(executing).to_have_text("1")
        doing = page.locator(".executor[data-busy=true] a", has_text="test.async_sleep")
        await expect(doing).to_have_attribute("href", f"#/task/{created[0]['key']}")
        await page.click(".figure a:has-text('Executing')")
        await expect(row_of(page, created[0]["key"])).to_have_attribute("data-status", "executing")
        await client.session.delete(f"/v1/tasks/{created[0]['key']}", headers={"Authorization": "Secret 123456"})
        await expect(row_of(page, created[0]["key"])).to_have_count(0)
    assert seen.complaints == []


@pytest.fixture
def idle_system(own_system: Callable[..., System]) -> Iterator[System]:
    """A server without a worker, of the test's own: what waits stays."""
    system = own_system()
    system.start_server()
    yield system


async def test_a_queue_is_paused_goes_on_and_is_cleared_after_a_question(idle_system: System, browser: Browser) -> None:
    page, seen = await open_dashboard(browser, idle_system.url)
    async with idle_system.client() as client:
        created = await client.create(*[{"task_name": "test.low"}] * 3)
        queue = page.locator("tr[data-queue=low]")
        await expect(queue.locator("td").first).to_contain_text("3")
        await expect(
            page.locator(".banner", has_text="No worker serves the queue low: 3 tasks wait there.")
        ).to_have_count(1)
        await queue.locator("text=Pause").click()
        await expect(queue.locator(".tag")).to_have_text("paused")
        await queue.locator("text=Resume").click()
        await expect(queue.locator(".tag")).to_have_count(0)
        await queue.locator("text=Clear").click()
        await expect(page.locator("dialog[open]")).to_contain_text("3 tasks at this moment")
        await page.keyboard.press("Escape")
        await expect(page.locator("dialog")).to_have_count(0)
        await queue.locator("text=Clear").click()
        await page.click("dialog .danger")
        await expect(page.locator(".notice").last).to_contain_text("3 tasks of the queue low cancelled.")
        await expect(queue.locator("td").first).to_contain_text("0")
        statuses = await client.status(*(task["key"] for task in created))
    assert [status["result"] for status in statuses] == ["cancelled"] * 3
    assert seen.complaints == []


# --- Tasks ------------------------------------------------------------------------------------------------------------


async def test_a_new_task_appears_by_itself_and_ends_there(system: System, browser: Browser) -> None:
    page, seen = await open_dashboard(browser, system.url, "#/tasks")
    await expect(page.locator(LIVE)).to_be_visible()
    async with system.client() as client:
        created = await client.create({"task_name": "countdown", "from": 4, "delay": LONG_LOOK})
    row = row_of(page, created[0]["key"])
    await expect(row).to_have_attribute("data-status", "executing")
    await expect(row.locator("progress").first).to_have_attribute("value", re.compile("[1-9]"))
    await expect(row).to_have_attribute("data-status", "success")
    requests = [path for path in seen.paths() if path == "/v1/operator/tasks"]
    assert len(requests) <= 2, "it was asked for and not told"
    assert seen.complaints == []


async def test_filters_stand_in_the_address(system: System, browser: Browser) -> None:
    async with system.client() as client:
        good = (await client.create({"task_name": "hello", "name": "a rare name"}, block=True))[0]
        bad = await client.run("test.task_error", message="a rare failure")
    page, _ = await open_dashboard(browser, system.url, "#/tasks")
    await expect(row_of(page, good["key"])).to_be_visible()
    await page.click(".segments >> text=Error")
    await expect(row_of(page, bad["key"])).to_be_visible()
    await expect(row_of(page, good["key"])).to_have_count(0)
    await page.fill("#filter-text", "a rare failure")
    await expect(page.locator("tr[data-key]")).to_have_count(1)
    await expect(row_of(page, bad["key"])).to_contain_text("a rare failure")
    await expect(page).to_have_url(re.compile(r"#/tasks\?state=error&text=a\+rare\+failure$"))
    await page.reload()
    await expect(page.locator("tr[data-key]")).to_have_count(1)
    assert await page.input_value("#filter-text") == "a rare failure"
    await page.click("text=Clear filters")
    await expect(page.locator("#filter-text")).to_have_value("")  # they are: what is chosen next is all that counts
    await page.select_option("#filter-name", "hello")
    await page.fill("#filter-text", "a rare name")
    await expect(row_of(page, good["key"])).to_be_visible()
    await expect(page.locator("tr[data-key]")).to_have_count(1)
    await page.fill("#filter-text", good["key"])
    await expect(page.locator("tr[data-key]")).to_have_count(1)
    await page.click("text=More")
    await page.fill("#filter-account", "nobody")
    await expect(page.locator(".empty-title")).to_have_text("No task here")
    await go(page, "#/tasks?state=bogus")
    await expect(page.locator(".banner")).to_contain_text("state")


async def test_many_are_retried_and_cancelled(system: System, browser: Browser) -> None:
    async with system.client() as client:
        bad = await client.create(
            *[{"task_name": "test.task_error", "message": f"to be retried {n}"} for n in range(3)], block=True
        )
        page, seen = await open_dashboard(browser, system.url, "#/tasks?name=test.task_error&text=to+be+retried")
        await expect(page.locator("tr[data-key]")).to_have_count(3)
        for task in bad[:2]:
            await row_of(page, task["key"]).locator("input").check()
        await page.click(".bar >> text=Retry 2")
        await page.click("dialog .primary")
        await expect(page.locator(".notice")).to_contain_text("2 tasks retried.")
        await expect(page.locator("tr[data-key]")).to_have_count(5)
        await expect(row_of(page, bad[0]["key"]).locator(".tag").first).to_have_text("retried")
        going = await client.create(*[{"task_name": "test.async_sleep", "seconds": 55}] * 2)
        await go(page, "#/tasks?name=test.async_sleep&state=executing")
        await expect(page.locator("tr[data-key]")).to_have_count(2)
        await page.check("thead input")
        await page.click(".bar >> text=Cancel 2")
        await page.click("dialog .danger")
        await expect(page.locator(".notice").last).to_contain_text("2 tasks cancelled.")
        await expect(page.locator("tr[data-key]")).to_have_count(0)
        statuses = await client.status(*(task["key"] for task in going))
    assert [status["result"] for status in statuses] == ["cancelled"] * 2
    assert seen.complaints == []


# --- One task ---------------------------------------------------------------------------------------------------------


async def test_one_task_is_followed_to_its_end(system: System, browser: Browser) -> None:
    async with system.client() as client:
        page, seen = await open_dashboard(browser, system.url)
        created = await client.create({"task_name": "countdown", "from": 5, "delay": LONG_LOOK})
    await go(page, f"#/task/{created[0]['key']}")
    await expect(page.locator("h1 .status")).to_have_attribute("data-status", "executing")
    await expect(page.locator(".big-progress progress")).to_have_attribute("value", re.compile("[1-9]"))
    await expect(page.locator("h1 .status")).to_have_attribute("data-status", "success")
    await expect(page.locator("section:has(#result) .json")).to_have_text("[5, 4, 3, 2, 1]")
    await expect(page.locator("section:has(#parameters) .json")).to_contain_text(f'"delay": {LONG_LOOK}')
    await expect(page.locator(".course b")).to_have_text(["Queued", "Attempt 1 started", "Success"])
    await expect(page.locator(".facts")).to_contain_text("1 of ")
    assert seen.complaints == []


async def test_log_lines_come_as_they_are_said(system: System, browser: Browser, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    says = {"task_name": "test.say", "texts": ["first", EVIL], "gate": str(gate), "more": ["last"]}
    async with system.client() as client:
        created = await client.create(says)
    page, seen = await open_dashboard(browser, system.url, f"#/task/{created[0]['key']}")
    lines = page.locator(".log p > span")
    await expect(lines).to_have_text(["first", EVIL])
    gate.touch()
    await expect(lines).to_have_text(["first", EVIL, "last"])
    await expect(page.locator("h1 .status")).to_have_attribute("data-status", "success")
    await page.reload()
    await expect(lines).to_have_text(["first", EVIL, "last"])
    assert await page.evaluate("window.ran") is None
    # A log whose end comes before that of the task is asked for once more, behind its last line.
    asked = [urlsplit(request.url).query for request in seen.requests if urlsplit(request.url).path == "/v1/log"]
    assert len([query for query in asked if "after=3" not in query]) == 2, "it was asked for and not told"
    assert len(asked) <= 4
    assert seen.complaints == []


async def test_an_output_file_is_shown_as_a_picture(system: System, browser: Browser) -> None:
    async with system.client() as client:
        status = await client.run("image.thumb", url=f"{system.url}/static/sample.jpg", width=120)
    page, seen = await open_dashboard(browser, system.url, f"#/task/{status['key']}")
    picture = page.locator(".files img")
    await expect(picture).to_have_attribute("src", urlsplit(status["result"]["output"]).path)
    await eventually(lambda: picture.evaluate("(image) => image.complete && image.naturalWidth === 120"))
    assert seen.complaints == []
    assert seen.hosts == {urlsplit(system.url).netloc}


async def test_a_failed_task_is_retried_from_its_page_and_the_two_name_each_other(
    system: System, browser: Browser
) -> None:
    async with system.client() as client:
        status = await client.run("test.task_error", message=f"it failed: {EVIL}")
    page, seen = await open_dashboard(browser, system.url, f"#/task/{status['key']}")
    await expect(page.locator("section:has(#result) .error-text")).to_have_text(f"it failed: {EVIL}")
    await page.click(".acts >> text=Retry")
    await expect(page.locator(".banner")).to_contain_text(f"This is a retry of {status['key']}.")
    new = await page.inner_text(".whole-key code")
    assert new != status["key"]
    await page.click(".banner a")
    await expect(page.locator(".banner")).to_contain_text(f"It was retried as {new}.")
    await expect(page.locator(".acts button")).to_have_count(0)
    assert await page.evaluate("window.ran") is None
    assert seen.complaints == []


async def test_a_task_is_cancelled_after_a_question(system: System, browser: Browser) -> None:
    async with system.client() as client:
        created = await client.create({"task_name": "test.sleep", "seconds": 50})
        page, seen = await open_dashboard(browser, system.url, f"#/task/{created[0]['key']}")
        await expect(page.locator("h1 .status")).to_have_attribute("data-status", "executing")
        await page.click(".acts >> text=Cancel")
        await page.click("dialog >> text=Keep as it is")
        assert (await client.status(created[0]["key"]))[0]["status"] == "executing"
        await page.click(".acts >> text=Cancel")
        await page.click("dialog .danger")
        await expect(page.locator(".error-text")).to_have_text("cancelled")
    await expect(page.locator("h1 .status")).to_have_attribute("data-status", "error")
    assert seen.complaints == []


async def test_secrets_in_parameters_are_not_shown(system: System, browser: Browser) -> None:
    async with system.client() as client:
        metas = {"api_token": "hidden-1", "order": 7}
        status = (await client.create({"task_name": "hello", "name": "x", "task_metas": metas}, block=True))[0]
    page, _ = await open_dashboard(browser, system.url, f"#/task/{status['key']}")
    await expect(page.locator("section:has(#metas) .json")).to_have_text('{"api_token": "…", "order": 7}')


async def test_a_task_that_nobody_knows_is_said_to_be_unknown(system: System, browser: Browser) -> None:
    page, _ = await open_dashboard(browser, system.url, f"#/task/{'A' * 26}")
    await expect(page.locator(".banner")).to_contain_text("unknown task key")
    await go(page, "#/task/%E0%A4%A")
    await expect(page.locator(".banner")).to_contain_text("not a task key")


# --- Failures ---------------------------------------------------------------------------------------------------------


async def test_failures_that_say_the_same_are_one_group_and_are_retried_together(
    system: System, browser: Browser
) -> None:
    message = "the disk 17 of shelf 4 is full"
    page, seen = await open_dashboard(browser, system.url, "#/failures?name=test.task_error")
    await expect(page.locator(LIVE)).to_be_visible()
    async with system.client() as client:
        definitions = [{"task_name": "test.task_error", "message": message.replace("17", str(n))} for n in (17, 18, 19)]
        await client.create(*definitions, block=True)
        group = page.locator("tr[data-group]", has_text="of shelf")
        await expect(group).to_have_count(1)
        await expect(group.locator("td.count").first).to_have_text("3")
        await group.locator("input").check()
        await page.click(".bar >> text=Retry the selected")
        await expect(page.locator("dialog h2")).to_have_text("Retry 3 tasks?")
        await page.click("dialog .primary")
        await expect(page.locator(".notice")).to_contain_text("3 tasks retried.")
        await expect(group.locator("td.count").first).to_have_text("6")
        await expect(group.locator("td.count").nth(1)).to_have_text("3")
        await group.locator("summary").click()
        await expect(group.locator(".keys a")).to_have_count(5)
    assert seen.complaints == []


# --- History ----------------------------------------------------------------------------------------------------------


async def test_history_plots_what_has_ended(system: System, browser: Browser) -> None:
    async with system.client() as client:
        await client.create(*[{"task_name": "hello"}] * 5, {"task_name": "test.task_error"}, block=True)
    page, seen = await open_dashboard(browser, system.url, "#/history")

    async def is_counted() -> bool:
        async with page.expect_response(re.compile("/v1/operator/history")):
            await page.click("text=Refresh")
        return await page.locator("main option[value=hello]").count() == 1 and await page.locator("canvas").count() == 3

    await eventually(is_counted, 60)
    await page.select_option("main select", "hello")
    await page.click(".segments >> text=Day")
    await expect(page.locator(".plot canvas")).to_have_count(3)
    assert urlsplit(page.url).fragment == "/history?period=day&name=hello"
    await page.locator("summary").first.click()

    async def are_all_there() -> bool:
        """In one sample, or in two when one has ended in between."""
        numbers = await page.locator(".plot").first.locator("tbody tr td:last-child").all_inner_texts()
        return sum(int(number.replace(",", "")) for number in numbers) >= 5

    await eventually(are_all_there)
    assert await page.locator(".plot canvas").first.evaluate("(canvas) => canvas.width") > 300
    assert await faults(page) == []
    assert seen.complaints == []


async def test_an_account_that_is_no_operator_sees_its_own_and_nothing_of_all(
    own_system: Callable[..., System], browser: Browser, tmp_path: Path
) -> None:
    accounts = tmp_path / "accounts.toml"
    accounts.write_text(f'[shop]\nname = "The shop"\nsecrets = ["{hash_key("shop-secret")}"]\n')
    system = own_system(accounts=accounts)
    system.start_server()
    page, seen = await open_page(browser, system.url, "#/history")
    await log_in(page, "shop-secret")
    await expect(page.locator(".who")).to_have_text("The shop")
    assert await page.locator("nav a").all_inner_texts() == ["Now", "Tasks", "Failures"]
    await expect(page.locator("main h1")).to_have_text("There is no such view")
    for view in ("now", "tasks", "failures"):
        await page.click(f"nav >> text={view.capitalize()}")
        await expect(page.locator("nav a[aria-current=page]")).to_have_text(view.capitalize())
        await expect(page.locator(".who")).to_have_text("The shop")
    assert OPERATOR + "history" not in seen.paths()
    assert seen.complaints == []


# --- All of it --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_the_views_of_a_real_server_are_readable_on_a_telephone(
    system: System, browser: Browser, scheme: str
) -> None:
    async with system.client() as client:
        status = await client.run("hello")
    page, seen = await open_dashboard(browser, system.url, color_scheme=scheme, viewport=TELEPHONE)
    for hash_ in ("#/now", "#/tasks", f"#/task/{status['key']}", "#/failures"):
        await go(page, hash_)
        await expect(page.locator(".figures, tr[data-key], .course li, tr[data-group]").first).to_be_visible()
        assert await faults(page) == [], hash_
    ink, ground = await page.evaluate(
        """() => { const style = getComputedStyle(document.body);
        return [style.color, style.backgroundColor].map((text) => Number(text.match(/\\d+/)[0])); }"""
    )
    assert (ground > ink + 150) if scheme == "light" else (ink > ground + 150)
    assert seen.complaints == []


@pytest.mark.timeout(180)
async def test_a_redis_that_is_away_is_said_to_be_away(own_system: Callable[..., System], browser: Browser) -> None:
    folder = Path(tempfile.mkdtemp(prefix="dragon-test-"))  # tmp_path is too long for a socket
    with EmbeddedRedis(find_server(Config()), folder / "redis", folder / "sock") as store:
        system = own_system(redis__url=store.url)
        system.start_server()
        page, _ = await open_dashboard(browser, system.url)
        await expect(page.locator(LIVE)).to_be_visible()
        store.stop()
        why = page.locator(".stream[data-state=reconnecting] .why")
        await expect(why).to_contain_text("the task store cannot be reached", timeout=40_000)
        store.start()
        await expect(page.locator(LIVE)).to_be_visible(timeout=60_000)
        system.close()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.timeout(180)
async def test_a_server_that_starts_again_is_found_again(own_system: Callable[..., System], browser: Browser) -> None:
    system = own_system()
    server = system.start_server()
    page, _ = await open_dashboard(browser, system.url, "#/tasks")
    await expect(page.locator(LIVE)).to_be_visible()
    server.kill()
    await expect(page.locator(".stream[data-state=reconnecting]")).to_be_visible()
    system.start_server()
    await expect(page.locator(LIVE)).to_be_visible(timeout=60_000)
    async with system.client() as client:
        created = await client.create({"task_name": "hello"})
    await expect(row_of(page, created[0]["key"])).to_have_attribute("data-status", "queued")
