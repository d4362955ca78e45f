"""Output files of strangers, opened in Chromium in every way: none of them runs a script or calls anybody."""

from __future__ import annotations

import base64
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import orjson
import pytest
import pytest_asyncio
from aiohttp import web
from playwright.async_api import Browser, Error, Page

from dragon.files import open_files
from dragon.keys import new_key
from dragon.task import OutputFile
from tests.figures import note
from tests.server.talking import raw
from tests.system import System

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600), pytest.mark.asyncio(loop_scope="module")]
pytest_plugins = ("tests.chromium",)

# What each of them would do if it could: say so on the console, call the canary, read what the site has, leave a mark.
SCRIPT = (
    "console.log('RAN NAME');"
    "try{fetch('CANARY/fetch-NAME',{mode:'no-cors'})}catch(e){}"
    "try{new Image().src='CANARY/image-NAME'}catch(e){}"
    "try{fetch('/v1/tasks').then(r=>console.log('RAN NAME read '+r.status))}catch(e){}"
    "try{localStorage.setItem('mark','NAME')}catch(e){}"
    "try{document.title='RAN NAME'}catch(e){}"
)
HTML = f'<!doctype html><title>plain</title><body onload="{SCRIPT}"><script>{SCRIPT}</script>'
#: What needs no script to call somebody.
CALLS = (
    "<meta http-equiv=refresh content='0;url=CANARY/refresh-NAME'><img src=CANARY/img-NAME>"
    "<link rel=stylesheet href=CANARY/css-NAME><link rel=prefetch href=CANARY/prefetch-NAME>"
    "<iframe src=CANARY/iframe-NAME></iframe><object data=CANARY/object-NAME></object><embed src=CANARY/embed-NAME>"
    "<video src=CANARY/video-NAME poster=CANARY/poster-NAME></video><audio src=CANARY/audio-NAME autoplay></audio>"
    "<body background=CANARY/background-NAME style=\"background:url('CANARY/style-NAME')\">"
    "<form id=f action=CANARY/form-NAME><input autofocus onfocus='f.submit()'></form>"
    "<style>@import url('CANARY/import-NAME');@font-face{font-family:x;src:url(CANARY/font-NAME)}"
    "*{font-family:x}</style>"
)
FRAMES = (
    "<iframe srcdoc=\"<script>console.log('RAN NAME')</script>\"></iframe>"
    "<iframe src=\"javascript:console.log('RAN NAME')\"></iframe>"
    "<iframe src=\"data:text/html,<script>console.log('RAN NAME')</script>\"></iframe>"
    "<object data=\"data:text/html,<script>console.log('RAN NAME')</script>\"></object>"
)
SVG = "<svg xmlns='http://www.w3.org/2000/svg' xmlns:xlink='http://www.w3.org/1999/xlink' width='100' height='100'"
XSL = (
    "<xsl:stylesheet version='1.0' xmlns:xsl='http://www.w3.org/1999/XSL/Transform'><xsl:template match='/'>"
    f"<html><body><script>{SCRIPT}</script></body></html></xsl:template></xsl:stylesheet>"
)
XSL_INSIDE = XSL.replace("<xsl:stylesheet", "<xsl:stylesheet id='s'")
NESTED = f"{SVG} id='x'><script>{SCRIPT}</script></svg>"
JPEG = base64.b64decode(
    "/9j/4AAQSkZJRgABAQEAYABgAAD/2wBDAAgGBgcGBQgHBwcJCQgKDBQNDAsLDBkSEw8UHRofHh0aHBwgJC4nICIsIxwcKDcpLDAxNDQ0Hyc5"
    "PTgyPC4zNDL/wAALCAABAAEBAREA/8QAFAABAAAAAAAAAAAAAAAAAAAACf/EABQQAQAAAAAAAAAAAAAAAAAAAAD/2gAIAQEAAD8AVN//2Q=="
)
PDF = (
    b"%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R/OpenAction<</S/JavaScript/JS(app.alert\\('RAN NAME'\\);"
    b"this.submitForm\\('CANARY/pdf-NAME'\\))>>>>endobj\n2 0 obj<</Type/Pages/Kids[3 0 R]/Count 1>>endobj\n"
    b"3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 9 9]>>endobj\ntrailer<</Root 1 0 R>>\n%%EOF\n"
)
MHTML = (
    'MIME-Version: 1.0\r\nContent-Type: multipart/related; boundary=b; type="text/html"\r\n\r\n--b\r\n'
    f"Content-Type: text/html\r\nContent-Location: http://x/\r\n\r\n{HTML}\r\n--b--\r\n"
)

#: Files by their names; NAME and CANARY in them are replaced.
PAYLOADS: dict[str, str | bytes] = {
    "script.svg": f"{SVG}><script>{SCRIPT}</script></svg>",
    "onload.svg": f'{SVG} onload="{SCRIPT}"/>',
    "external.svg": f"{SVG}><script xlink:href='CANARY/external-NAME'/><script href='/static/x.js'/></svg>",
    "foreign.svg": f"{SVG}><foreignObject width='99' height='99'><body xmlns='http://www.w3.org/1999/xhtml'>"
    f"<img src='x' onerror=\"{SCRIPT}\"/><iframe src=\"javascript:console.log('RAN NAME')\"/></body>"
    "</foreignObject></svg>",
    "animate.svg": f"{SVG}><a><animate attributeName='href' values=\"javascript:console.log('RAN NAME')\"/>"
    f"<rect width='99' height='99'/></a><set attributeName='onmouseover' to=\"{SCRIPT}\"/></svg>",
    "use.svg": f'{SVG}><use href="data:image/svg+xml,{quote(NESTED)}#x"/></svg>',
    "image.svg": f"{SVG}><image href='CANARY/image-NAME' width='9' height='9'/><feImage href='CANARY/fe-NAME'/></svg>",
    "style.svg": f"{SVG}><style>@import url(CANARY/import-NAME);*{{fill:url(CANARY/fill-NAME#x)}}</style><rect/></svg>",
    "entity.svg": f'<!DOCTYPE svg [<!ENTITY x "<script>{SCRIPT.replace("%", "")}</script>">]>{SVG}>&x;</svg>',
    "UPPER.SVG": f"{SVG}><script>{SCRIPT}</script></svg>",
    "page.html": HTML + FRAMES + CALLS,
    "page.htm": HTML + FRAMES + CALLS,
    "page.xhtml": f"<html xmlns='http://www.w3.org/1999/xhtml'><head><script>{SCRIPT}</script></head><body/></html>",
    "page.xht": f"<html xmlns='http://www.w3.org/1999/xhtml'><head><script>{SCRIPT}</script></head><body/></html>",
    "page.xml": f"<x><script xmlns='http://www.w3.org/1999/xhtml'>{SCRIPT}</script></x>",
    "page.rss": f"<rss><script xmlns='http://www.w3.org/1999/xhtml'>{SCRIPT}</script></rss>",
    "sheet.xsl": XSL,
    "inline.xml": f"<?xml version='1.0'?><?xml-stylesheet type='text/xsl' href='#s'?>"
    f"<!DOCTYPE x [<!ATTLIST xsl:stylesheet id ID #REQUIRED>]><x>{XSL_INSIDE}</x>",
    "data.xml": "<?xml version='1.0'?><?xml-stylesheet type='text/xsl' href='data:text/xsl;base64,"
    f"{base64.b64encode(XSL.encode()).decode()}'?><x/>",
    "page.shtml": HTML,
    "page.mhtml": MHTML,
    "page.mht": MHTML,
    "page.hta": HTML,
    "page.htc": HTML,
    "page.txt": HTML,
    "page.bin": HTML,
    "page": HTML,
    "page.unknown": HTML,
    "page.json": HTML,
    "page.webmanifest": HTML,
    "page.ics": HTML,
    "page.vtt": HTML,
    "page.jpg.html": HTML,
    "page.html.jpg": HTML,
    "utf16.html": HTML.encode("utf-16"),
    "utf7.html": b"+ADw-script+AD4-console.log('RAN NAME')+ADw-/script+AD4-",
    "code.js": SCRIPT,
    "code.mjs": f"{SCRIPT}; export default 1",
    "code.cjs": SCRIPT,
    "worker.js": "self.addEventListener('fetch',()=>{});" + SCRIPT,
    "code.css": "@import url(CANARY/import-NAME);body{background:url(CANARY/background-NAME)}",
    "code.wasm": b"\0asm\1\0\0\0",
    "gif.gif": "GIF89a/*" + "\1" * 10 + f"*/=1;{SCRIPT}",
    "gif.js": "GIF89a/*" + "\1" * 10 + f"*/=1;{SCRIPT}",
    "gif.html": f"GIF89a<script>{SCRIPT}</script>",
    "jpeg.jpg": JPEG[:2] + b"\xff\xfe" + (len(HTML) + 2).to_bytes(2, "big") + HTML.encode() + JPEG[2:],
    "jpeg.html": JPEG[:2] + b"\xff\xfe" + (len(HTML) + 2).to_bytes(2, "big") + HTML.encode() + JPEG[2:],
    "document.pdf": PDF,
    "pdf.html": PDF + HTML.encode(),
    "flash.swf": b"FWS" + HTML.encode(),
    "a'\"<b>.html": HTML,
    "new\r\nline.html": HTML,
    "käse\u202e.html": HTML,
    "100%25.html": HTML,
    "semi;colon,comma.html": HTML,
}


class World:
    """The outputs' addresses, a canary, and what a page did that it must not do."""

    def __init__(self) -> None:
        self.keys: list[str] = []
        self.urls: dict[str, str] = {}
        self.paths: dict[str, Path] = {}
        self.canary = ""
        self.called: list[str] = []
        self.ran: list[str] = []

    def watch(self, page: Page) -> None:
        def on_console(message: Any) -> None:
            if message.text.startswith("RAN"):  # Chromium quotes what it refuses
                self.ran.append(message.text)

        async def on_dialog(dialog: Any) -> None:
            self.ran.append(f"a dialog: {dialog.message}")
            await dialog.dismiss()

        page.on("console", on_console)
        page.on("dialog", on_dialog)

    def check(self, how: str) -> None:
        assert self.ran == [], how
        assert self.called == [], how


@pytest_asyncio.fixture(loop_scope="module")
async def world(system: System, tmp_path: Path) -> AsyncIterator[World]:
    """All outputs stored as a worker stores them, and a site on another origin: the canary, and the same files bare."""
    found = World()

    async def answer(request: web.Request) -> web.StreamResponse:
        if request.path.startswith("/bare/"):
            path = found.paths[request.match_info["name"]]
            kinds = {
                ".svg": "image/svg+xml",
                ".html": "text/html",
                ".js": "text/javascript",
                ".xhtml": "application/xhtml+xml",
                ".pdf": "application/pdf",
            }
            return web.Response(body=path.read_bytes(), content_type=kinds.get(path.suffix, "text/html"))
        if request.path == "/":
            return web.Response(
                text="<!doctype html><title>other</title><link rel=icon href=data:,>", content_type="text/html"
            )
        if request.path != "/favicon.ico":
            found.called.append(request.path)
        return web.Response(text="", headers={"Access-Control-Allow-Origin": "*"})

    app = web.Application()
    app.router.add_get("/bare/{name}", answer)
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    found.canary = f"http://127.0.0.1:{runner.addresses[0][1]}"
    _store(found, system, tmp_path)
    yield found
    files = open_files(system.config)
    for key in found.keys:  # they are of no task: the audits of other tests would say so
        files.drop(key)
    await runner.cleanup()


def _store(world: World, system: System, folder: Path) -> None:
    files = open_files(system.config)
    for number, (name, content) in enumerate(PAYLOADS.items()):
        data = content.encode() if isinstance(content, str) else content
        label = f"p{number}"
        for old, new in (("NAME", label), ("CANARY", world.canary)):
            wide = old.encode("utf-16-le"), new.encode("utf-16-le")
            data = data.replace(old.encode(), new.encode()).replace(*wide)
        path = folder / name
        path.write_bytes(data)
        key = new_key()
        world.keys.append(key)
        files.keep(key, 1, [OutputFile(name, path)])
        found = files.find(key, name)
        assert found is not None
        world.urls[name] = f"{system.url}{files.url(key, name).removeprefix(system.config.public_url)}"
        world.paths[name] = found


async def _visit(page: Page, url: str) -> None:
    try:
        await page.goto(url, wait_until="load", timeout=60_000)
    except Error as error:
        # A download, or nothing to show: that is a way to run no script, too.
        if not any(word in str(error) for word in ("Download is starting", "ERR_ABORTED", "interrupted by another")):
            raise


async def test_the_payloads_would_run_where_nothing_stops_them(world: World, browser: Browser) -> None:
    """What the other tests look for is there to be seen."""
    page = await browser.new_page()
    world.watch(page)
    for name in ("script.svg", "onload.svg", "page.html", "page.xhtml", "gif.html", "utf16.html", "jpeg.html"):
        world.ran.clear()
        world.called.clear()
        await _visit(page, f"{world.canary}/bare/{quote(name)}")
        for _ in range(1500):  # half a minute
            if world.ran and world.called:
                break
            await page.wait_for_timeout(20)
        assert world.ran, name
        assert world.called, name


async def test_an_output_that_is_opened_runs_nothing_and_calls_nobody(world: World, browser: Browser) -> None:
    context = await browser.new_context(accept_downloads=False)
    page = await context.new_page()
    world.watch(page)
    for name, url in world.urls.items():
        await _visit(page, url)
        await page.wait_for_timeout(30)
        assert "RAN" not in await page.title(), name
        world.check(name)
    await page.wait_for_timeout(300)
    world.check("a moment later")
    note("outputs", f"{len(world.urls)} files opened by themselves", "no script ran, nobody was called")


# Everything that can load a URL, with and without what would make it a script.
EMBED = """async ([urls, is_own]) => {
    const made = [];
    const add = (tag, attribute, url, more = {}) => {
        const element = Object.assign(document.createElement(tag), more);
        made.push(new Promise((resolve) => { element.onload = element.onerror = resolve; setTimeout(resolve, 1000); }));
        element.setAttribute(attribute, url);
        document.body.append(element);
    };
    for (const url of urls) {
        add("iframe", "src", url);
        add("object", "data", url);
        add("embed", "src", url);
        add("img", "src", url);
        add("script", "src", url);
        add("script", "src", url, { type: "module" });
        add("link", "href", url, { rel: "stylesheet" });
        made.push(import(url).then((module) => console.log("RAN import " + url), () => {}));
        try { new Worker(url); } catch (error) {}
        if (is_own && navigator.serviceWorker) {
            made.push(navigator.serviceWorker.register(url).then(() => console.log("RAN register " + url), () => {}));
        }
    }
    await Promise.race([Promise.allSettled(made), new Promise((resolve) => setTimeout(resolve, 5000))]);
    const sheets = [...document.styleSheets].filter((sheet) => sheet.href && sheet.href.includes("/files/"));
    const rules = sheets.filter((sheet) => { try { return sheet.cssRules.length; } catch (error) { return false; } });
    return rules.map((sheet) => sheet.href);
}"""


@pytest.mark.parametrize("host", ["the site itself", "another site"])
async def test_an_output_that_is_embedded_runs_nothing(
    system: System, world: World, browser: Browser, host: str
) -> None:
    """Also on the site's own pages: who gets a tag into one finds no script among the outputs that its policy takes."""
    context = await browser.new_context(accept_downloads=False)
    page = await context.new_page()
    is_own = host == "the site itself"
    await page.goto(f"{system.url}/docs" if is_own else f"{world.canary}/", wait_until="load")
    world.watch(page)
    # On another site a script runs as that site's, and a sheet calls: what is looked for there is frames and pictures.
    urls = [url.removeprefix(system.url) if is_own else url for url in world.urls.values()]
    sheets = await page.evaluate(EMBED, [urls, is_own])
    await page.wait_for_timeout(500)
    assert not sheets
    world.check(host)
    assert await page.evaluate("localStorage.getItem('mark')") is None
    note(
        "outputs",
        f"{len(world.urls)} files in 9 kinds of tags and calls on {host}",
        "no script ran, nobody was called",
    )


EMBED_AND_OPEN = """(url) => {
    for (const [tag, attribute] of [["iframe", "src"], ["object", "data"], ["embed", "src"]]) {
        const element = document.createElement(tag);
        element.setAttribute(attribute, url);
        document.body.append(element);
    }
}"""


async def test_a_pdf_runs_none_of_its_scripts_however_long_its_viewer_takes(world: World, browser: Browser) -> None:
    context = await browser.new_context(accept_downloads=False)
    page = await context.new_page()
    world.watch(page)

    async def embed(url: str) -> None:
        await page.goto(f"{world.canary}/", wait_until="load")
        await page.evaluate(EMBED_AND_OPEN, url)

    began = time.monotonic()
    await embed(f"{world.canary}/bare/document.pdf")
    for _ in range(1500):  # half a minute
        if world.ran:
            break
        await page.wait_for_timeout(20)
    assert world.ran, "where nothing stops it, it runs"
    taken = time.monotonic() - began
    await page.wait_for_timeout(500)  # there are three of them
    world.ran.clear()
    await embed(world.urls["document.pdf"])
    await page.wait_for_timeout(1000 * (2 * taken + 1))
    world.check("embedded")
    await _visit(page, world.urls["document.pdf"])
    await page.wait_for_timeout(1000 * (2 * taken + 1))
    world.check("opened")


async def test_the_errors_and_static_files_run_nothing_either(system: System, world: World, browser: Browser) -> None:
    page = await browser.new_page()
    world.watch(page)
    script = "<script>console.log('RAN error')</script><img src=x onerror=console.log('RAN')>"
    paths = [
        f"/{quote(script)}",
        f"/files/{quote(script)}/{quote(script)}",
        f"/files/{new_key()}/{quote(script)}.html",
        f"/static/{quote(script)}.html",
        f"/v1/create_file/{quote(script)}?task_name={quote(script)}&secret=123456",
        f"/v1/create_file/{quote(script)}.html?task_name=test.two_files&secret=123456",
        f"/v1/create_file?task_name=test.task_error&message={quote(script)}&secret=123456",
        f"/v1/file/{quote(script)}?task={quote(script)}",
        f"/v1/status?tasks={quote(script)}",
        f"/v1/status_stream?tasks={new_key()}",
        f"/v1/tasks?{quote(script)}",
        f"/v1/log?task={quote(script)}&after={quote(script)}&follow={quote(script)}",
        "/static/index.html",
        "/static/mark.svg",
        "/metrics",
        "/openapi.json",
    ]
    async with system.client() as client:
        made = await client.create({"task_name": "test.echo", "text": script}, {"task_name": script}, block=True)
        paths += [f"/v1/status?tasks={status['key']}&details=true" for status in made]
        paths += [f"/v1/status_stream?tasks={status['key']}" for status in made]
        made = await client.create({"task_name": "test.say", "texts": [script]}, block=True)
        paths += [f"/v1/log?task={made[0]['key']}&follow={follow}" for follow in ("true", "false")]
    for path in paths:
        await _visit(page, system.url + path)
        await page.wait_for_timeout(20)
        world.check(path)
    note("outputs", f"{len(paths)} errors, statuses and static files with a stranger's text", "no script ran")


ODD_NAMES = [
    "a%0d%0aSet-Cookie:%20x=1",
    "a%0d%0a%0d%0a<script>alert(1)</script>",
    "a%0aX-Injected:%201",
    "a%22;%20filename=%22b.html",
    "a%e2%80%a8b",
    "a%00b.html",
    "%2e%2e%2f%2e%2e%2fetc%2fpasswd",
    "..%5c..%5cetc",
    "%2f%2fevil.example%2f",
    "%ff%fe",
    "%0d%0aLocation:%20http://evil.example/",
    "x" * 3000,
]


async def test_no_filename_gets_into_the_headers(system: System, world: World) -> None:
    async with system.client() as client:
        made = await client.run("test.file", text="made")
    key = made["result"]["output"].split("/")[-2]
    count = 0
    for name in ODD_NAMES:
        for path in (
            f"/files/{key}/{name}",
            f"/v1/file/{name}?task={key}",
            f"/v1/create_file/{name}?task_name=test.file&text=made&secret=123456",
            f"/v1/create_file/{name}?task_name=test.two_files&secret=123456",
            f"/static/{name}",
            f"/{name}",
        ):
            count += 1
            request = f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
            (answer,) = await raw(system, request.encode())
            assert answer.status in (302, 400, 404), (path, answer.status)
            assert not {"set-cookie", "x-injected"} & {header.lower() for header in answer.headers}, path
            assert "evil" not in answer.headers.get("Location", ""), path
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            if answer.status != 302:
                assert answer.headers["Content-Type"].startswith("application/json")
                orjson.loads(answer.body)
    note("outputs", f"{count} requests with filenames for headers", "no header of a stranger's")
