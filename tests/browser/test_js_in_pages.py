"""The JavaScript client in Chromium, on a page of another origin: bad networks, and the custom elements."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from playwright.async_api import Browser, Page, Route, expect

from dragon.config import ROOT, Config
from dragon.embedded import EmbeddedRedis, find_server
from tests.figures import seeded
from tests.proxies import EARLY, BufferingProxy, CuttingProxy, anywhere
from tests.system import System, running_system, test_config

pytestmark = [pytest.mark.browser, pytest.mark.timeout(120), pytest.mark.asyncio(loop_scope="module")]

pytest_plugins = ("tests.chromium",)

SCENARIO = ROOT / "tests" / "js" / "scenario.js"
API_KEY = "654321"  # the demo account's, which counts on pages of localhost

# As strict as a policy can be that lets the page use dragon: scripts and pictures from two places, and no inline style.
POLICY = (
    "default-src 'none'; script-src 'self' {dragon}; connect-src {dragon} {proxy}; img-src {dragon} data:; "
    "style-src 'none'"
)


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """A dragon that sends a sign of life twice a second."""
    folder = tmp_path_factory.mktemp("d")
    with EmbeddedRedis(find_server(Config()), folder / "redis", folder / "sock", durable=False) as server:
        config = test_config(
            folder, server.url, server__heartbeat=0.5, fetch__allow=("127.0.0.1",), worker__concurrency=50
        )
        with running_system(config, "--executors", "2") as running:
            yield running


@asynccontextmanager
async def site(system: System, body: str = "", proxy: str = "") -> AsyncIterator[str]:
    """The address of another server with one page, which may use dragon, directly or through the proxy."""
    policy = POLICY.format(dragon=system.url, proxy=proxy)

    async def show(_request: web.Request) -> web.Response:
        text = f"<!doctype html><meta charset=utf-8><title>x</title><link rel=icon href=data:,>{body}"
        return web.Response(text=text, content_type="text/html", headers={"Content-Security-Policy": policy})

    async def scenario(_request: web.Request) -> web.Response:
        return web.Response(text=SCENARIO.read_text(), content_type="text/javascript")

    async def elements(_request: web.Request) -> web.Response:
        return web.Response(text=f'import "{system.url}/v1/dragon-elements.js"', content_type="text/javascript")

    app = web.Application()
    app.add_routes([web.get("/", show), web.get("/scenario.js", scenario), web.get("/elements.js", elements)])
    async with TestServer(app, host="127.0.0.1") as server:
        yield f"http://localhost:{server.port}"


def complaints(page: Page) -> list[str]:
    """What the page's console will say. Chromium reports refused and cut requests there, too."""
    found: list[str] = []
    page.on("console", lambda message: found.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: found.append(str(error)))
    return found


async def methods_of(page: Page) -> list[str]:
    """The methods of all requests from now on, preflights included."""
    session = await page.context.new_cdp_session(page)
    await session.send("Network.enable")
    methods: list[str] = []
    session.on("Network.requestWillBeSent", lambda event: methods.append(event["request"]["method"]))
    return methods


# --- The client -------------------------------------------------------------------------------------------------------

RUN = """async ([module, tasks]) => {
    const { Dragon } = await import(module);
    const dragon = new Dragon({ apiKey: "654321" });
    return Promise.all(tasks.map(([name, params]) => dragon.run(name, params).catch((error) => `${error}`)));
}"""


async def test_a_page_of_another_origin_runs_tasks_in_one_request_without_a_preflight(
    system: System, browser: Browser
) -> None:
    page = await browser.new_page()
    said = complaints(page)
    async with site(system) as address:
        await page.goto(address)
        methods = await methods_of(page)
        tasks = [["hello", {"name": "1"}], ["countdown", {"from": 2, "delay": 0.1}], ["image.info", {"uri": 1}]]
        results = await page.evaluate(RUN, [f"{system.url}/v1/dragon.js", tasks])
    wrong = "TaskError: url: this field is required; uri: unknown parameter, did you mean 'url'?"
    assert results == ["Hello 1", [2, 1], wrong]
    assert Counter(methods) == {"GET": 1, "POST": 1}
    assert said == []


async def test_a_page_that_is_not_on_the_whitelist_reads_why(system: System, browser: Browser) -> None:
    page = await browser.new_page()
    async with site(system) as address:
        foreign = address.replace("localhost", "foreign.test")
        await page.goto(foreign)
        results = await page.evaluate(RUN, [f"{system.url}/v1/dragon.js", [["hello", {}]]])
    assert results == [f"DragonError: the page {foreign} is not on the account's whitelist"]


ABORT = """async (module) => {
    const { Dragon } = await import(module);
    const dragon = new Dragon({ apiKey: "654321" });
    const control = new AbortController();
    let key;
    const onProgress = (_, status) => { key = status.key; control.abort(); };
    const error = await dragon.run("countdown", { from: 1000 }, { signal: control.signal, onProgress }).catch((e) => e);
    const [status] = await dragon.status(key, { block: true });
    return [error.name, status.status, status.result];
}"""


async def test_aborting_a_run_cancels_the_task_from_another_origin(system: System, browser: Browser) -> None:
    page = await browser.new_page()
    async with site(system) as address:
        await page.goto(address)
        assert await page.evaluate(ABORT, f"{system.url}/v1/dragon.js") == ["AbortError", "error", "cancelled"]


BAD_NETWORK = """async ([module, options, path, count, seconds]) => {
    const { Dragon } = await import(module);
    const { throughABadNetwork, faultsOf } = await import("/scenario.js");
    let repetitions = 0;
    const onRetry = () => { repetitions += 1; };
    const { texts, seen, marks } = await throughABadNetwork(Dragon, { ...options, onRetry }, path, count, seconds);
    return { texts, tasks: seen.length, marks, repetitions, faults: faultsOf(seen), finals: seen.map((s) => s.at(-1)) };
}"""


async def check_bad_network(
    page: Page, system: System, proxy: str, path: Path, count: int, seconds: float, **given: Any
) -> int:
    """Nothing lost, nothing twice; returns how often something was repeated."""
    async with site(system, proxy=proxy) as address:
        await page.goto(address)
        options = {"url": proxy, "apiKey": API_KEY, **given}
        found: dict[str, Any] = await page.evaluate(
            BAD_NETWORK, [f"{system.url}/v1/dragon.js", options, str(path), count, seconds]
        )
    assert found["faults"] == []
    assert found["texts"] == [f"Ünïcödé 🐉 {number} {'ж' * 100}" for number in range(count)]
    assert found["tasks"] == count + 3 + found["marks"] + 1
    async with system.client() as client:
        assert await client.status(*(status["key"] for status in found["finals"])) == found["finals"]
    starts = Counter(line.split()[0] for line in path.read_text().splitlines())
    assert (len(starts), set(starts.values())) == (found["marks"], {1})
    return int(found["repetitions"])


async def test_through_a_proxy_that_cuts_anywhere(quick: System, browser: Browser, tmp_path: Path) -> None:
    page = await browser.new_page()
    async with CuttingProxy(quick.url, seeded(), anywhere(), most=len(EARLY) + 12).serving() as proxy:
        # Chromium itself repeats what was cut on a connection that it had opened in reserve.
        assert await check_bad_network(page, quick, proxy.url, tmp_path / "marks", 40, 0.1) > 1
        assert proxy.cuts >= len(EARLY)


async def test_through_a_proxy_that_buffers(quick: System, browser: Browser, tmp_path: Path) -> None:
    page = await browser.new_page()
    async with BufferingProxy(quick.url).serving() as proxy:
        await check_bad_network(page, quick, proxy.url, tmp_path / "marks", 10, 4, heartbeat=1.5)
        assert proxy.asked("/v1/status") > 1


# --- The old browser client -------------------------------------------------------------------------------------------

# As the public client of the reference did it: XMLHttpRequest, text without a type, the key in the body, a batch of
# keys asked for again and again, and whatever of a stream has arrived.
OLD_WAYS = """async (address) => {
    const post = (path, body) => new Promise((resolve) => {
        const request = new XMLHttpRequest(), parts = [];
        request.open("POST", address + path);
        request.onprogress = () => parts.push(request.responseText.length);
        request.onloadend = () => resolve([request.status, request.responseText, parts.length]);
        request.send(JSON.stringify({ api_key: "654321", ...body }));
    });
    const tasks = [{ task_name: "countdown", from: 2 }, { task_name: "no.such" }, { task_name: "hello", name: "old" }];
    const created = JSON.parse((await post("/v1/create", { tasks }))[1]);
    const [slow, wrong, fast] = created.map((status) => status.key);
    const asked = [fast, "A".repeat(26), slow, wrong, fast];
    let polled;
    do polled = await post("/v1/status", { tasks: asked }); while (/"(queued|executing)",/.test(polled[1]));
    const streamed = { tasks: { task_name: "countdown", from: 4, delay: 0.2 } };
    const [status, text, parts] = await post("/v1/create_stream", streamed);
    const lines = text.trim().split("\\n").map((line) => JSON.parse(line));
    const statuses = JSON.parse(polled[1]);
    return {
        polled: polled[0], inOrder: statuses.every((one, i) => one.key === asked[i]),
        results: statuses.map((one) => one.result), stream: status, arrived: parts > 2, last: lines.at(-1).result,
    };
}"""


async def test_the_old_browser_clients_ways_still_work(system: System, browser: Browser) -> None:
    page = await browser.new_page()
    said = complaints(page)
    async with site(system) as address:
        await page.goto(address)
        methods = await methods_of(page)
        found = await page.evaluate(OLD_WAYS, system.url)
    unknown = "unknown task name, GET /v1/tasks lists them"
    assert found == {
        "polled": 200,
        "inOrder": True,
        "results": ["Hello old", "unknown task key", [2, 1], unknown, "Hello old"],
        "stream": 200,
        "arrived": True,
        "last": [4, 3, 2, 1],
    }
    assert set(methods) == {"POST"}, "a preflight"
    assert said == []


# --- The elements -----------------------------------------------------------------------------------------------------

SHOWN = """(element) => {
    const root = element.shadowRoot, image = root.querySelector("img");
    const isShown = (one) => one.style.display !== "none";
    const box = element.getBoundingClientRect();
    return {
        state: element.getAttribute("state"),
        placeholder: isShown(root.querySelector("slot")),
        image: isShown(image) && [image.naturalWidth, image.naturalHeight, image.alt],
        error: isShown(root.querySelector("[role=alert]")) && root.querySelector("[role=alert]").textContent,
        size: [box.width, box.height],
    };
}"""
SCRIPT = "<script type=module src=/elements.js></script>"


def image_tag(params: dict[str, Any], attributes: str = "") -> str:
    return (
        f"<dragon-img task=image.thumb params='{orjson.dumps(params).decode()}' api-key={API_KEY} {attributes}>"
        "wait</dragon-img>"
    )


async def listen(page: Page, selector: str, *kinds: str) -> None:
    """Keeps the events of an element in `window.heard`."""
    await page.evaluate(
        """([selector, kinds]) => {
            window.heard = [];
            for (const kind of kinds) document.querySelector(selector).addEventListener(kind, (event) =>
                window.heard.push([kind, event.message ?? event.detail ?? null]));
        }""",
        [selector, kinds],
    )


async def test_an_image_has_its_place_before_it_is_made_and_follows_its_attributes(
    system: System, browser: Browser
) -> None:
    page = await browser.new_page()
    said = complaints(page)
    sample = f"{system.url}/static/sample.jpg"
    may_go = asyncio.Event()

    async def hold(route: Route) -> None:
        await may_go.wait()
        await route.continue_()

    await page.route("**/v1/create_file/cat.jpg?**", hold)
    tag = image_tag({"url": sample, "width": 160}, "width=160 height=120 alt='A dragon' filename=cat.jpg")
    async with site(system, tag + SCRIPT) as address:
        await page.goto(address, wait_until="commit")
        image = page.locator("dragon-img")
        await expect(image).to_have_attribute("state", "loading")
        loading = {"state": "loading", "placeholder": True, "image": False, "error": False, "size": [160, 120]}
        assert await image.evaluate(SHOWN) == loading
        await listen(page, "dragon-img", "load", "error")
        may_go.set()
        await expect(image).to_have_attribute("state", "ready")
        ready = loading | {"state": "ready", "placeholder": False, "image": [160, 120, "A dragon"]}
        assert await image.evaluate(SHOWN) == ready
        assert await page.evaluate("window.heard") == [["load", None]]
        smaller = orjson.dumps({"url": sample, "width": 80, "height": 80, "crop": True}).decode()
        await image.evaluate("(element, params) => element.setAttribute('params', params)", smaller)
        await expect(image.locator("img")).to_have_js_property("naturalWidth", 80)
        assert await image.evaluate(SHOWN) == ready | {"image": [80, 80, "A dragon"]}
    assert said == []


async def test_an_image_that_cannot_be_made_says_why(system: System, browser: Browser) -> None:
    page = await browser.new_page()
    async with site(system, image_tag({"url": f"{system.url}/healthz", "width": 10}) + SCRIPT) as address:
        await page.goto(address)
        image = page.locator("dragon-img")
        await expect(image).to_have_attribute("state", "error")
        shown = await image.evaluate(SHOWN)
        assert (shown["placeholder"], shown["image"]) == (False, False)
        assert shown["error"] == f"File '{system.url}/healthz' is not a valid image file"
        await listen(page, "dragon-img", "error", "load")
        for params, message in (
            ({"widht": 1}, "url: this field is required; widht: unknown parameter, did you mean 'width'?"),
            ("no JSON", "params is not JSON: no JSON"),
        ):
            text = params if isinstance(params, str) else orjson.dumps(params).decode()
            await image.evaluate("(element, params) => element.setAttribute('params', params)", text)
            await expect(image.locator("[role=alert]")).to_have_text(message)
        heard = await page.evaluate("window.heard")
        assert [kind for kind, _ in heard] == ["error", "error"]
        await image.evaluate(
            "(element, params) => element.setAttribute('params', params)",
            orjson.dumps({"url": f"{system.url}/static/sample.jpg", "width": 40}).decode(),
        )
        await expect(image).to_have_attribute("state", "ready")
        assert (await image.evaluate(SHOWN))["image"] == [40, 30, ""]


async def test_an_image_waits_for_a_server_that_is_full_for_a_moment(system: System, browser: Browser) -> None:
    page = await browser.new_page()
    refused: list[str] = []

    async def refuse_twice(route: Route) -> None:
        if len(refused) < 2:
            refused.append(route.request.resource_type)
            full = {"status": "error", "message": "full"}
            headers = {"Access-Control-Allow-Origin": "*", "Retry-After": "1"}
            await route.fulfill(status=503, json=full, headers=headers)
        else:
            await route.continue_()

    await page.route("**/v1/create_file?**", refuse_twice)
    tag = image_tag({"url": f"{system.url}/static/sample.jpg", "width": 48})
    async with site(system, tag + SCRIPT) as address:
        await page.goto(address)
        await expect(page.locator("dragon-img")).to_have_attribute("state", "ready", timeout=15_000)
    assert refused == ["image", "fetch"]


async def test_progress_of_an_existing_task_is_a_bar_for_everybody(system: System, browser: Browser) -> None:
    page = await browser.new_page()
    said = complaints(page)
    async with system.client() as client:
        key = (await client.create({"task_name": "countdown", "from": 2, "delay": 2}))[0]["key"]
    tag = f"<dragon-progress task-key={key} label='The count'></dragon-progress>"
    async with site(system, tag + SCRIPT) as address:
        await page.goto(address)
        await listen(page, "dragon-progress", "status", "success", "error")
        bar = page.get_by_role("progressbar", name="The count")
        await expect(bar).to_have_attribute("aria-valuenow", "50")
        assert await bar.evaluate("(element) => element.shadowRoot.querySelector('[part=bar]').style.width") == "50%"
        await expect(bar).to_have_attribute("state", "success")
        for name, value in (("min", "0"), ("max", "100"), ("now", "100"), ("text", "success, 100 %")):
            await expect(bar).to_have_attribute(f"aria-value{name}", value)
        await expect(bar.locator("[part=text]")).to_have_text("success, 100 %")
        heard = await page.evaluate("window.heard")
    assert heard[-1] == ["success", [2, 1]]
    assert heard[-2][1]["key"] == key
    assert said == []


async def test_progress_creates_its_task_once_wherever_it_is_moved(system: System, browser: Browser) -> None:
    page = await browser.new_page()
    tag = f'<dragon-progress task=countdown params=\'{{"from":5,"delay":0.3}}\' api-key={API_KEY}></dragon-progress>'
    async with site(system, f"{tag}{tag}<div id=elsewhere></div>{SCRIPT}") as address:
        await page.goto("about:blank")
        methods = await methods_of(page)
        await page.goto(address)
        bars = page.get_by_role("progressbar", name="countdown")
        await expect(bars.first).to_have_attribute("aria-valuenow", "20")
        keys = [await bars.nth(number).get_attribute("task-key") for number in (0, 1)]
        assert len({*keys, None}) == 3, "two tasks"
        await page.evaluate("document.getElementById('elsewhere').append(document.querySelector('dragon-progress'))")
        for number in (0, 1):
            await expect(bars.nth(number)).to_have_attribute("state", "success")
        assert {await bars.nth(number).get_attribute("task-key") for number in (0, 1)} == set(keys)
        assert methods.count("POST") <= 3, "one create for both, one stream, one more after the move"


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        (f"task=test.task_error params='{{\"message\":\"no luck\"}}' api-key={API_KEY}", "no luck"),
        (f"task=test.progress params='{{\"step\":1}}' api-key={API_KEY}",
         "step: unknown parameter, did you mean 'steps'?"),
        ("task=hello api-key=wrong", "unknown api key"),
        ("task-key=AAAAAAAAAAAAAAAAAAAAAAAAAA", "unknown task key"),
        ("task-key=a", "this is not a task key (26 characters A-Z2-7)"),
    ],
)  # fmt: skip
async def test_progress_says_what_went_wrong(system: System, browser: Browser, attributes: str, message: str) -> None:
    page = await browser.new_page()
    async with site(system, "<script type=module src=/elements.js></script><main></main>") as address:
        await page.goto(address)
        await page.evaluate("customElements.whenDefined('dragon-progress')")
        heard = await page.evaluate(
            """(attributes) => new Promise((resolve) => {
                document.addEventListener("error", (event) => resolve([event.message, event.error.message]), true);
                document.querySelector("main").innerHTML = `<dragon-progress ${attributes}></dragon-progress>`;
            })""",
            attributes,
        )
        assert heard == [message, message]
        bar = page.get_by_role("progressbar")
        await expect(bar).to_have_attribute("state", "error")
        await expect(bar).to_have_attribute("aria-valuetext", message)
