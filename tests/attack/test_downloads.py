"""Every place where a URL goes in, with every spelling of an address inside: nobody is called, and nothing is told."""

from __future__ import annotations

import asyncio
import random
import re
import shutil
import socket
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import closing
from ipaddress import ip_address
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import aiohttp
import orjson
import pytest
from aiohttp import web
from yarl import URL

from dragon.addresses import IPAddress
from dragon.config import ROOT, Config, FetchConfig
from dragon.embedded import EmbeddedRedis, find_server
from dragon.errors import TaskError
from dragon.fetch import Fetcher
from dragon.files import open_files
from dragon.keys import new_key
from dragon.signing import sign_url
from dragon.task import OutputFile
from dragon.worker.main import own_files
from tests.attack.odd_worker import PUBLIC
from tests.figures import FULL, note, scale, seeded
from tests.private_addresses import REFUSED_URLS, canary
from tests.system import SECRET, Client, System, free_port, test_config

SAMPLE = ROOT / "dragon" / "server" / "static" / "sample.jpg"
PRIVATE_HOSTS = ("127.0.0.1", "::1")

#: All that a client may be told of a URL that is refused. Which of them it is depends on the URL's text alone.
FETCH_SENTENCES = (
    "its address is not allowed",
    "its host cannot be found, or its address is not allowed",
    "it is not a valid URL",
    "only http and https URLs can be fetched",
    "a URL must not have a user name or a password in it",
)
PARAMETER_SENTENCES = (
    "the URL must begin with http:// or https://",
    "this is not a valid URL",
    "the URL names no valid host",
    "the URL has white space in it, write it as %20",
    "a URL must not have a user name or a password in it",
)
REDIRECT_SENTENCES = (
    "its address is not allowed",
    "its host cannot be found, or its address is not allowed",
    "it redirects to an address that is not valid",
    "the server answered 404",  # the public one, where the location is relative
)


def sendable(text: str) -> bool:
    """Half a surrogate pair cannot be sent as JSON or in a querystring; tests/test_fetch.py has it."""
    return text.encode("utf-8", "replace").decode() == text


FORMS = [form for form in REFUSED_URLS if sendable(form) and PUBLIC not in form]


# The places, from the code: each parameter of each task whose schema says that it is a URL.


class Place(NamedTuple):
    """One parameter of one task that takes URLs."""

    task: str
    parameter: str
    count: int  # URLs in a list that it takes at least; 0: it takes one URL and no list
    has_file: bool

    def definition(self, url: str) -> dict[str, Any]:
        given = [url] * self.count if self.count else url
        return {"task_name": self.task, self.parameter: given, **OTHERS.get(self.task, {})}


#: What tasks need besides their URLs.
OTHERS: dict[str, dict[str, Any]] = {"image.strip": {"width": 40, "height": 30}}
#: Tasks that are given URLs and fetch none.
WITHOUT_FETCH = {"test.echo"}


def is_url(schema: dict[str, Any]) -> bool:
    return any(one.get("format") == "uri" for one in [schema, *schema.get("anyOf", ())])


async def places_of(client: Client) -> list[Place]:
    async with client.session.get("/v1/tasks") as answer:
        catalogue = await answer.json()
    places = []
    for task in catalogue:
        if task["name"] in WITHOUT_FETCH:
            continue
        schema = task["parameters"]
        for name, parameter in schema["properties"].items():
            items = parameter.get("items", {})
            if is_url(parameter) or is_url(items):
                known = {name, *OTHERS.get(task["name"], ())}
                assert set(schema.get("required", ())) <= known, f"say what else {task['name']} needs"
                count = max(1, parameter.get("minItems", 1)) if items else 0
                places.append(Place(task["name"], name, count, bool(task["output_files"])))
    return places


# The world: a public host, a canary inside, a server, and a worker that takes 127.0.0.2 for public.


@pytest.fixture(scope="module")
def odd_system() -> Iterator[System]:
    folder = Path(tempfile.mkdtemp(prefix="dragon-test-"))
    try:
        with EmbeddedRedis(find_server(Config()), folder / "redis", folder / "sock", durable=False) as server:
            system = System(test_config(folder, server.url))
            try:
                system.start_server()
                system.start("tests/attack/odd_worker.py", "--executors", "2", ready="ready")
                yield system
            finally:
                system.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def trap() -> Iterator[tuple[int, Callable[[], int]]]:
    with canary(hosts=PRIVATE_HOSTS) as made:
        yield made


class PublicSite:
    """A host that counts as public: /cat.jpg, and /STATUS/HOPS/NUMBER, which redirects to LOCATIONS[NUMBER]."""

    def __init__(self) -> None:
        self.port = 0
        self.hits = 0
        self.locations: list[str] = []

    @property
    def url(self) -> str:
        return f"http://{PUBLIC}:{self.port}"

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.hits += 1
        if request.path == "/cat.jpg":
            return web.FileResponse(SAMPLE)
        asked = re.fullmatch(r"/(\d+)/(\d+)/(\d+)", request.path)
        if asked is None:
            return web.Response(status=404)  # a location that is relative leads back here
        status, hops, number = map(int, asked.groups())
        location = f"/{status}/{hops - 1}/{number}" if hops else self.locations[number]
        return web.Response(status=status, headers={"Location": location}, text="moved")


@pytest.fixture
async def public_site() -> AsyncIterator[PublicSite]:
    site = PublicSite()
    app = web.Application()
    app.router.add_get("/{path:.*}", site.answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    # A port of this test process: a canary takes the same one on other addresses, where nobody else may have it.
    await web.TCPSite(runner, PUBLIC, free_port()).start()
    site.port = runner.addresses[0][1]
    yield site
    await runner.cleanup()


def closed_port() -> int:
    with closing(socket.socket()) as unused:
        unused.bind(("127.0.0.1", 0))
        return int(unused.getsockname()[1])


def check_result(result: Any, urls: Sequence[str], sentences: Sequence[str] = FETCH_SENTENCES) -> str:
    """What a refused task says, without the URL; fails on any word that is not among those that are allowed."""
    if isinstance(result, dict):
        problems = {text for texts in result["parameters"].values() for text in texts}
        assert problems <= set(PARAMETER_SENTENCES), problems
        return str(sorted(problems))
    found = [sentence for sentence in sentences if result.endswith(f" cannot be fetched: {sentence}")]
    assert found, result
    shown = result.removeprefix("File '").rpartition("' cannot be fetched: ")[0]
    assert shown in urls or shown.endswith("…"), result
    return found[0]


Send = Callable[[Client, list[dict[str, Any]]], Any]


async def by_create(client: Client, definitions: list[dict[str, Any]]) -> list[Any]:
    return [status["result"] for status in await client.create(*definitions, block=True)]


async def by_create_stream(client: Client, definitions: list[dict[str, Any]]) -> list[Any]:
    lines = await client.stream(*definitions)
    final = {line["key"]: line for line in [*lines[0], *lines[1:]] if line["status"] in ("success", "error")}
    return [final[line["key"]]["result"] for line in lines[0]]


async def by_post_file(client: Client, definitions: list[dict[str, Any]]) -> list[Any]:
    async def one(definition: dict[str, Any]) -> Any:
        body = orjson.dumps({"task": definition})
        return await _refused(client.session.post("/v1/create_file", data=body, headers=SECRET))

    return await asyncio.gather(*map(one, definitions))


async def by_get_file(client: Client, definitions: list[dict[str, Any]]) -> list[Any]:
    return await asyncio.gather(*(_refused(client.session.get(_file_url(one), headers=SECRET)) for one in definitions))


async def by_signed_get(client: Client, definitions: list[dict[str, Any]]) -> list[Any]:
    def signed(definition: dict[str, Any]) -> URL:
        url = sign_url(str(_file_url(definition)), "demo", "123456", int(time.time()) + 60)
        return URL(url, encoded=True)

    return await asyncio.gather(*(_refused(client.session.get(signed(one))) for one in definitions))


def _file_url(definition: dict[str, Any]) -> URL:
    pairs = [
        (name, text) for name, value in definition.items() for text in (value if isinstance(value, list) else [value])
    ]
    return URL("/v1/create_file/cat.jpg").with_query(pairs)


async def _refused(request: Any) -> Any:
    async with request as answer:
        assert answer.status == 400, await answer.text()
        return (await answer.json(content_type=None))["result"]


WAYS: dict[str, Send] = {
    "POST create": by_create,
    "POST create_stream": by_create_stream,
    "POST create_file": by_post_file,
    "GET create_file": by_get_file,
    "signed GET create_file": by_signed_get,
}


async def send_in_parts(send: Send, client: Client, definitions: list[dict[str, Any]]) -> list[Any]:
    results: list[Any] = []
    for first in range(0, len(definitions), 200):
        results += await send(client, definitions[first : first + 200])
    return results


@pytest.mark.timeout(600)
async def test_no_place_takes_an_address_inside_and_none_tells_of_it(
    odd_system: System, trap: tuple[int, Callable[[], int]], public_site: PublicSite
) -> None:
    chance = seeded()
    open_port, hits = trap
    shut_port = closed_port()
    tried = 0
    async with odd_system.client() as client:
        places = await places_of(client)
        assert {"image.info", "image.thumb", "image.gif", "test.fetch", "test.async_fetch"} <= {p.task for p in places}
        await _every_place_fetches(client, places, public_site)
        for way, send in WAYS.items():
            some = [place for place in places if place.has_file or not way.endswith("file")]
            # Each CI run sends all spellings through one place, and some of them through each of the others.
            forms = FORMS if FULL else chance.sample(FORMS, 20)
            cases = [(place, form) for place in some for form in forms]
            if not FULL and send is by_create:
                cases += [(place, form) for place in places if place.task == "test.fetch" for form in FORMS]
            results = []
            for port in (open_port, shut_port):
                urls = [form.replace("PORT", str(port)) for _, form in cases]
                sent = [place.definition(url) for (place, _), url in zip(cases, urls, strict=True)]
                answers = await send_in_parts(send, client, sent)
                results.append([check_result(*one) for one in zip(answers, [[url] for url in urls], strict=True)])
            assert results[0] == results[1], "whether a port is open can be told"
            tried += 2 * len(cases)
            assert hits() == 0, way
    note(
        "addresses",
        f"{len(FORMS)} spellings, {len(places)} parameters of tasks, {len(WAYS)} ways in: {tried} tries",
        "0 hits, the same sentences for open and closed ports",
        chance,
    )


async def _every_place_fetches(client: Client, places: list[Place], site: PublicSite) -> None:
    """That the places are places: each of them reaches the host that counts as public, each way."""
    for place in places:
        before = site.hits
        definition = place.definition(f"{site.url}/cat.jpg")
        assert (await client.run(**_named(definition)))["status"] == "success", place
        assert site.hits > before, place
    for way, send in WAYS.items():
        before = site.hits
        for place in places:
            if place.has_file or not way.endswith("file"):
                await send(client, [place.definition(f"{site.url}/missing-{len(way)}")])
        assert site.hits > before, way


def _named(definition: dict[str, Any]) -> dict[str, Any]:
    return {"name": definition["task_name"]} | {name: v for name, v in definition.items() if name != "task_name"}


@pytest.mark.timeout(600)
async def test_no_redirect_leads_inside(
    odd_system: System, trap: tuple[int, Callable[[], int]], public_site: PublicSite
) -> None:
    chance = seeded()
    open_port, hits = trap
    shut_port = closed_port()
    # What cannot be written into a header cannot be redirected to either.
    forms = [form for form in FORMS if not set(form) & {"\r", "\n", "\0"}]
    forms += [form.removeprefix("http:") for form in forms if form.startswith("http://")]
    results: list[list[str]] = []
    tried = 0
    async with odd_system.client() as client:
        places = [
            place for place in await places_of(client) if FULL or place.task in ("test.fetch", "test.async_fetch")
        ]
        cases = [
            (place, status, hops, number)
            for place in places
            for status in (301, 302, 303, 307, 308)
            for hops in (0, 2)
            for number in range(len(forms))
        ]
        cases = chance.sample(cases, scale(8000, 400))
        for port in (open_port, shut_port):
            public_site.locations = [form.replace("PORT", str(port)) for form in forms]
            urls = [f"{public_site.url}/{status}/{hops}/{number}" for _, status, hops, number in cases]
            sent = [place.definition(url) for (place, *_), url in zip(cases, urls, strict=True)]
            before = public_site.hits
            answers = await send_in_parts(by_create, client, sent)
            assert public_site.hits > before
            results.append(
                [check_result(answer, [url], REDIRECT_SENTENCES) for answer, url in zip(answers, urls, strict=True)]
            )
            tried += len(cases)
    assert results[0] == results[1], "whether a port is open can be told"
    assert hits() == 0
    note("addresses", f"{tried} redirects from a public host: 301-308, relative ones, chains", "0 hits", chance)


async def test_a_name_that_stands_for_an_address_inside_is_refused_as_one_that_is_not_there(
    odd_system: System, trap: tuple[int, Callable[[], int]]
) -> None:
    port, hits = trap
    hosts = ["db.corp.example", "nowhere.corp.example", "db.internal", "nowhere.internal", "db", "nowhere"]
    async with odd_system.client() as client:
        definitions = [{"task_name": "test.fetch", "url": f"http://{host}:{port}/"} for host in hosts]
        results = await by_create(client, definitions)
    assert {result.partition("cannot be fetched: ")[2] for result in results} == {FETCH_SENTENCES[1]}
    assert hits() == 0


async def test_nothing_calls_the_urls_that_are_no_parameters(own_system: Callable[..., System]) -> None:
    """Callbacks are reserved words, the rest is read and never asked for; even where the canary is allowed."""
    system = own_system(fetch__allow=("127.0.0.0/8", "::1/128"), fetch__idle_timeout=0.2)
    system.start_server()
    system.start_worker("--executors", "1")
    with canary() as (port, hits):
        url = f"http://127.0.0.1:{port}/"
        hidden = dict.fromkeys(("url_callback", "url_errback", "task_store"), url)
        metas = {"task_metas": {"url": url, "url_callback": url}}
        headers = {"Origin": url.rstrip("/"), "Referer": url, "X-Forwarded-Host": f"127.0.0.1:{port}"}
        async with system.client() as client:
            for name in ("hello", "test.task_error"):
                definition = {"task_name": name, **hidden, **metas}
                body = orjson.dumps({"tasks": definition, "block": True, "webhook": url, "url": url})
                async with client.session.post("/v1/create", data=body, headers=SECRET | headers) as answer:
                    assert (await answer.json())[0]["status"] in ("success", "error")
                await client.stream(definition)
            query = {"task_name": "test.file", "secret": "123456", **hidden}
            async with client.session.get("/v1/create_file/x.txt", params=query, headers=headers) as answer:
                assert answer.status == 200
            body = orjson.dumps({"task": {"task_name": "test.file", **hidden, **metas}})
            async with client.session.post("/v1/create_file", data=body, headers=SECRET) as answer:
                assert answer.status == 200
            assert hits() == 0
            assert (await client.run("test.fetch", url=url))["status"] == "error"
            assert hits() > 0, "the canary could not have been reached at all"


# Rebinding: in this process, so that each look at a name is the test's.


def is_the_public_one(address: IPAddress) -> bool:
    return address == ip_address(PUBLIC)


class Rebinding:
    """Names whose addresses change from look to look: the public one first, then inside, or both in any order."""

    def __init__(self, chance: random.Random) -> None:
        self.looks = 0
        self._chance = chance
        self._seen: set[str] = set()
        self._real = socket.getaddrinfo

    def __call__(self, host: Any, port: Any, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0) -> Any:
        if not str(host).endswith(".example"):
            return self._real(host, port, family, type, proto, flags)
        self.looks += 1
        is_first = host not in self._seen
        self._seen.add(host)
        inside = [*PRIVATE_HOSTS, "::ffff:127.0.0.1"]
        answers = [[PUBLIC], [PUBLIC, *inside]] if is_first else [inside, [*inside, PUBLIC], ["127.0.0.1"], ["::1"]]
        addresses = self._chance.choice(answers)
        return [self._real(address, port, 0, socket.SOCK_STREAM)[0] for address in addresses]


async def _rebind(fetcher: Fetcher, site: PublicSite, host: str, folder: Path, chance: random.Random) -> None:
    """One try: redirects to the same name, and fetches again; each may need a new connection, and so a new look."""
    site.locations = [f"http://{host}:{site.port}/cat.jpg", f"http://{host}:{site.port}/302/0/0"]
    for _ in range(3):
        path = chance.choice(["cat.jpg", "302/0/0", "307/1/0", "302/0/1"])
        try:
            (await fetcher.fetch(f"http://{host}:{site.port}/{path}", folder)).unlink()
        except TaskError as error:
            assert error.message.rpartition("fetched: ")[2] in (
                *FETCH_SENTENCES[:2],
                "the connection to the server failed",
                "the server sent nothing for 0.3 seconds",  # the canary, where there is no guard
            )


async def _rebinding_tries(
    count: int, chance: random.Random, site: PublicSite, folder: Path, is_public: Callable[[IPAddress], bool]
) -> None:
    for number in range(count):
        fetcher = Fetcher(FetchConfig(connect_timeout=20, idle_timeout=0.3), scratch=folder, is_public=is_public)
        session = fetcher._guarded = fetcher._open(fetcher._connect)
        connector = session.connector
        assert isinstance(connector, aiohttp.TCPConnector)
        connector._use_dns_cache = chance.random() < 0.2  # as if every answer had a TTL of 0
        connector._keepalive_timeout = chance.choice([0.0, 5.0])
        try:
            await _rebind(fetcher, site, f"r{number}.example", folder, chance)
        finally:
            await fetcher.close()


@pytest.mark.timeout(300)
async def test_names_that_change_between_two_looks_do_not_lead_inside(
    public_site: PublicSite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = seeded()
    names = Rebinding(chance)
    monkeypatch.setattr(socket, "getaddrinfo", names)
    tries = scale(400, 40)
    with canary(public_site.port, PRIVATE_HOSTS) as (_, hits):
        await _rebinding_tries(tries, chance, public_site, tmp_path, is_the_public_one)
        looks = names.looks
        assert hits() == 0
        assert looks > 1.5 * tries, "the names were not looked at again"
        assert public_site.hits > tries
        # Without the guard the same tries arrive: the canary would have noticed.
        await _rebinding_tries(5, chance, public_site, tmp_path, lambda _: True)
        assert hits() > 0
    note("rebinding", f"{tries} names, {looks} looks, three downloads each with redirects", "0 hits", chance)


async def test_how_long_a_refusal_takes_does_not_depend_on_what_listens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is connected to, and so nothing is waited for. Names are looked up, and DNS takes its time."""
    asked: list[str] = []

    def look_up(host: Any, port: Any, *arguments: Any, **options: Any) -> Any:
        asked.append(host)
        if host.startswith("nowhere"):
            raise socket.gaierror(socket.EAI_NONAME, "not there")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    fetcher = Fetcher(FetchConfig(), scratch=tmp_path / "scratch")
    times: dict[str, list[float]] = {}
    with canary(hosts=PRIVATE_HOSTS) as (port, hits):
        cases = {
            "open port": f"http://127.0.0.1:{port}/",
            "closed port": f"http://127.0.0.1:{closed_port()}/",
            "no such machine": f"http://10.255.255.1:{port}/",
            "internal name": f"http://db.internal:{port}/",
            "no internal name": f"http://nowhere.internal:{port}/",
            "name": f"http://db.corp.example:{port}/",
            "no name": f"http://nowhere.corp.example:{port}/",
        }
        for _ in range(scale(500, 20)):
            for case, url in cases.items():
                started = time.perf_counter()
                with pytest.raises(TaskError):
                    await fetcher.fetch(url, tmp_path)
                times.setdefault(case, []).append(time.perf_counter() - started)
        assert hits() == 0
    await fetcher.close()
    assert {name for name in asked if not name.endswith(".corp.example")} == set()
    medians = {case: statistics.median(some) for case, some in times.items()}
    # A connection that was tried would take seconds where nobody answers; milliseconds are the machine's own noise.
    assert max(medians.values()) < 1
    note("addresses", "time to refuse", ", ".join(f"{case} {1000 * found:.2f} ms" for case, found in medians.items()))


# URLs of this very server are read from its disk.


def test_the_servers_own_urls_lead_to_what_it_serves_and_nowhere_else(tmp_path: Path) -> None:
    config = test_config(tmp_path, "")
    files = open_files(config)
    key, base = new_key(), config.public_url
    made = tmp_path / "output.txt"
    made.write_text("made")
    files.keep(key, 1, [OutputFile("output", made)])
    (tmp_path / "secret").write_text("secret")
    local = own_files(config, files)
    served = files.find(key, "output.txt")
    assert local(f"{base}/files/{key}/output.txt") == served
    assert local(f"{base}/files/{key}/output.txt?x=1#y") == served
    assert local(f"{base}/static/sample.jpg") == SAMPLE
    port = config.server.port
    for url in (
        f"{base}/files/{key}/..%2f..%2f..%2f..%2f..%2fsecret",
        f"{base}/files/{key}/../../../../../secret",
        f"{base}/files/{key}/%2e%2e",
        f"{base}/files/{key}/.",
        f"{base}/files/{key}/",
        f"{base}/files/{key}/%00",
        f"{base}/files/{key}/output.txt%00.jpg",
        f"{base}/files/{key}/{'x' * 5000}",
        f"{base}/files/{key}/{quote(str(tmp_path / 'secret'), safe='')}",
        f"{base}/files/{key.lower()}/output.txt",
        f"{base}/files/{key}%2f1/output.txt",
        f"{base}/files/..%2f..%2fsecret/output.txt",
        f"{base}/files/%2e%2e/secret",
        f"{base}/files//{key}/output.txt",
        f"{base}//files/{key}/output.txt",
        f"{base}/static/%2e%2e/app.py",
        f"{base}/static/..%2fapp.py",
        f"{base}/static/index.html",
        f"{base}/v1/tasks",
        f"http://127.0.0.2:{port}/files/{key}/output.txt",
        f"http://127.0.0.1:{port + 1}/files/{key}/output.txt",
        f"http://localhost.:{port}/files/{key}/output.txt",
        f"https://127.0.0.1:{port}/files/{key}/output.txt",
        f"http://evil.example:{port}/files/{key}/output.txt",
    ):
        assert local(url) is None, url


def test_an_output_that_is_a_link_is_not_kept(tmp_path: Path) -> None:
    """A task may have unpacked a stranger's archive: what its output points to is not the task's to give away."""
    (tmp_path / "secret").write_text("secret")
    link = tmp_path / "output.txt"
    link.symlink_to(tmp_path / "secret")
    files = open_files(test_config(tmp_path, ""))
    key = new_key()
    with pytest.raises(OSError, match="symbolic link"):
        files.keep(key, 1, [OutputFile("output", link)])
    assert files.find(key, "output.txt") is None
