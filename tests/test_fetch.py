"""Downloads against servers on loopback: the guard, the limits, redirects, sharing, and that nothing is left behind."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import errno
import gzip
import os
import socket
import ssl
import subprocess
import threading
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

import dragon
from dragon import fetch as fetch_module
from dragon.addresses import IPAddress
from dragon.config import FetchConfig
from dragon.errors import ConfigError, TaskError
from dragon.fetch import Fetcher
from tests.private_addresses import REFUSED_URLS, canary
from tests.system import free_port

LOOPBACK = ("127.0.0.0/8", "::1/128")
BODY = bytes(range(256)) * 1024  # 256 KiB

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


# Names: a table in place of DNS, so that no test ever asks a real server.


class Names:
    """What the machine's resolver answers: a list of addresses for a name, one after the other if there are several."""

    def __init__(self) -> None:
        self.answers: dict[str, list[list[str]]] = {}
        self.default: list[str] | None = None
        self.errors: dict[str, int] = {}
        self.asked: list[str] = []
        self._real = socket.getaddrinfo

    def __call__(self, host: Any, port: Any, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0) -> Any:
        with contextlib.suppress(socket.gaierror):
            return self._real(host, port, family, type, proto, flags | socket.AI_NUMERICHOST)
        self.asked.append(host)
        if host in self.errors:
            raise socket.gaierror(self.errors[host], "the table says so")
        if host in self.answers:
            answers = self.answers[host]
            addresses = answers.pop(0) if len(answers) > 1 else answers[0]
        elif self.default is not None:
            addresses = self.default
        else:
            raise socket.gaierror(socket.EAI_NONAME, "not in the table")
        return [self._real(address, port, family, type, proto, flags)[0] for address in addresses]


@pytest.fixture(autouse=True)
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    table = Names()
    monkeypatch.setattr(socket, "getaddrinfo", table)
    return table


# Servers.


@dataclasses.dataclass
class Site:
    """A server on loopback that counts what reaches it."""

    host: str
    port: int = 0
    scheme: str = "http"
    requests: list[web.Request] = dataclasses.field(default_factory=list)
    peers: set[Any] = dataclasses.field(default_factory=set)
    arrived: asyncio.Event = dataclasses.field(default_factory=asyncio.Event)
    left: asyncio.Event = dataclasses.field(default_factory=asyncio.Event)

    @property
    def url(self) -> str:
        return f"{self.scheme}://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    @property
    def hits(self) -> int:
        return len(self.requests)


Serve = Callable[..., Awaitable[Site]]


async def send_body(request: web.Request) -> web.Response:
    return web.Response(body=BODY)


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    async with contextlib.AsyncExitStack() as stack:

        async def start(
            handler: Handler = send_body, host: str = "127.0.0.1", port: int = 0, tls: ssl.SSLContext | None = None
        ) -> Site:
            site = Site(host, port, "https" if tls else "http")

            async def handle(request: web.Request) -> web.StreamResponse:
                site.requests.append(request)
                assert request.transport is not None
                site.peers.add(request.transport.get_extra_info("peername"))
                site.arrived.set()
                try:
                    return await handler(request)
                except (asyncio.CancelledError, ConnectionResetError):
                    site.left.set()
                    raise

            application = web.Application()
            application.router.add_route("*", "/{path:.*}", handle)
            runner = web.AppRunner(application, handler_cancellation=True, shutdown_timeout=0.1, access_log=None)
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            tcp_site = web.TCPSite(runner, host, port, ssl_context=tls)
            await tcp_site.start()
            site.port = runner.addresses[0][1]
            return site

        yield start


Speak = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
ServeRaw = Callable[[Speak], Awaitable[str]]


@pytest.fixture
async def serve_raw() -> AsyncIterator[ServeRaw]:
    """Servers that speak byte by byte; gives their URL."""
    tasks: set[asyncio.Task[None]] = set()
    async with contextlib.AsyncExitStack() as stack:

        async def start(speak: Speak) -> str:
            async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                task = asyncio.current_task()
                assert task is not None
                tasks.add(task)
                with contextlib.suppress(ConnectionError, asyncio.CancelledError):
                    await speak(reader, writer)
                writer.close()

            server = await asyncio.start_server(handle, "127.0.0.1", 0)
            stack.callback(server.close)
            return f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"

        yield start
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def answer(*parts: bytes) -> Speak:
    """Reads a request, sends the parts, closes."""

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        for part in parts:
            writer.write(part)
            await writer.drain()

    return speak


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    return tmp_path / "scratch"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "task"
    path.mkdir()
    return path


MakeFetcher = Callable[..., Fetcher]


@pytest.fixture
async def make_fetcher(serve: Serve, serve_raw: ServeRaw, scratch: Path) -> AsyncIterator[MakeFetcher]:
    """Makes fetchers; they are closed before the servers, and must have left nothing in the scratch folder."""
    fetchers: list[Fetcher] = []

    def make(
        local: Callable[[str], Path | None] | None = None,
        is_public: Callable[[IPAddress], bool] | None = None,
        **config: Any,
    ) -> Fetcher:
        options: dict[str, Any] = {}
        if local is not None:
            options["local"] = local
        if is_public is not None:
            options["is_public"] = is_public
        fetcher = Fetcher(FetchConfig(**{"allow": LOOPBACK, **config}), scratch=scratch, **options)
        fetchers.append(fetcher)
        return fetcher

    yield make
    for fetcher in fetchers:
        await fetcher.close()
    assert not scratch.exists() or list(scratch.iterdir()) == []


async def failure(fetcher: Fetcher, url: str, folder: Path) -> str:
    """Why a download fails: the message without its beginning, which must name the URL."""
    with pytest.raises(TaskError) as error:
        await fetcher.fetch(url, folder)
    assert list(folder.iterdir()) == []
    beginning = f"File '{url}' cannot be fetched: "
    assert error.value.message.startswith(beginning)
    return error.value.message.removeprefix(beginning)


NOT_ALLOWED = "its address is not allowed"
NOT_FOUND = "its host cannot be found, or its address is not allowed"
NOT_VALID = "it is not a valid URL"


def only_first(address: IPAddress) -> bool:
    """As if 127.0.0.1 were the public Internet, and all else a private network."""
    return address == ip_address("127.0.0.1")


# What a download gives.


async def test_a_download_gives_the_bytes_in_a_new_read_only_file(
    serve: Serve, make_fetcher: MakeFetcher, folder: Path, scratch: Path
) -> None:
    site = await serve()
    path = await make_fetcher().fetch(f"{site.url}/cat.jpg?size=large", folder)
    assert path.parent == folder
    assert path.name == "download-1"
    assert path.read_bytes() == BODY
    assert path.stat().st_mode & 0o777 == 0o400
    assert list(scratch.iterdir()) == []


async def test_two_downloads_of_a_url_give_two_files(serve: Serve, make_fetcher: MakeFetcher, folder: Path) -> None:
    site = await serve()
    fetcher = make_fetcher()
    first, second = await fetcher.fetch(site.url, folder), await fetcher.fetch(site.url, folder)
    assert first != second
    assert site.hits == 2


async def test_a_name_that_is_taken_in_the_folder_is_left_alone(
    serve: Serve, make_fetcher: MakeFetcher, folder: Path
) -> None:
    site = await serve()
    (folder / "download-1").write_text("mine")
    path = await make_fetcher().fetch(site.url, folder)
    assert path.name == "download-2"
    assert (folder / "download-1").read_text() == "mine"


async def test_an_empty_file_is_a_file(serve: Serve, make_fetcher: MakeFetcher, folder: Path) -> None:
    async def nothing(request: web.Request) -> web.Response:
        return web.Response(body=b"")

    site = await serve(nothing)
    assert (await make_fetcher().fetch(site.url, folder)).read_bytes() == b""


async def test_a_request_says_who_asks_and_carries_nothing_else(
    serve: Serve, make_fetcher: MakeFetcher, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def set_cookie(request: web.Request) -> web.Response:
        response = web.Response(body=b"x")
        response.set_cookie("tracking", "1")
        return response

    proxy = await serve(host="127.0.0.2")
    monkeypatch.setenv("http_proxy", proxy.url)
    monkeypatch.setenv("all_proxy", proxy.url)
    site = await serve(set_cookie)
    fetcher = make_fetcher()
    await fetcher.fetch(site.url, folder)
    await fetcher.fetch(site.url, folder)
    assert dict(site.requests[1].headers) == {
        "Host": f"127.0.0.1:{site.port}",
        "User-Agent": f"dragon/{dragon.__version__}",
        "Accept": "*/*",
        "Accept-Encoding": "identity",
    }
    assert proxy.hits == 0


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ("/a%2fb/%41?sig=%2B+%3d/~&x=%zz", None),
        ("/a%2fb/%41?sig=%2B+%3d/~", "/a%2fb/%41?sig=%2B+%3d/~"),
        ("?q", "/?q"),
        ("", "/"),
        ("/a/../b#part", "/a/../b"),
        ("/käse?q=ü", "/k%C3%A4se?q=%C3%BC"),
    ],
)
async def test_a_path_that_is_quoted_is_sent_as_it_is_because_it_may_be_signed(
    serve: Serve, make_fetcher: MakeFetcher, folder: Path, given: str, sent: str | None
) -> None:
    site = await serve()
    await make_fetcher().fetch(site.url + given, folder)
    if sent is not None:
        assert site.requests[0].raw_path == sent


async def test_connections_are_kept_for_the_next_download(
    serve: Serve, make_fetcher: MakeFetcher, folder: Path
) -> None:
    site = await serve()
    fetcher = make_fetcher()
    for number in range(5):
        await fetcher.fetch(f"{site.url}/{number}", folder)
    assert site.hits == 5
    assert len(site.peers) == 1


async def test_a_name_is_looked_up_once_for_downloads_that_follow_each_other(
    serve: Serve, make_fetcher: MakeFetcher, folder: Path, names: Names
) -> None:
    async def closing(request: web.Request) -> web.Response:
        response = web.Response(body=b"x")
        response.force_close()
        return response

    names.answers["pictures.example"] = [["127.0.0.1"]]
    site = await serve(closing)
    fetcher = make_fetcher()
    for _ in range(3):
        await fetcher.fetch(f"http://pictures.example:{site.port}/", folder)
    assert len(site.peers) == 3
    assert names.asked == ["pictures.example"]


# The guard.


async def test_the_canary_notices_those_who_may_connect(make_fetcher: MakeFetcher, folder: Path, names: Names) -> None:
    names.default = ["127.0.0.1"]
    fetcher = make_fetcher(idle_timeout=0.05)
    with canary() as (port, count):
        for host in ("127.0.0.1", "127.0.0.2", "[::1]", "localhost", "rebinding.example", "bücher.example"):
            assert (
                await failure(fetcher, f"http://{host}:{port}/", folder) == "the server sent nothing for 0.05 seconds"
            )
            assert count() == 1


@pytest.mark.parametrize("form", REFUSED_URLS, ids=ascii)
async def test_no_spelling_of_a_private_address_is_connected_to(
    make_fetcher: MakeFetcher, folder: Path, names: Names, form: str
) -> None:
    names.default = ["127.0.0.1", "::1"]
    with canary() as (port, count):
        url = form.replace("PORT", str(port))
        with pytest.raises(TaskError) as error:
            await make_fetcher(allow=(), idle_timeout=0.2).fetch(url, folder)
        assert count() == 0
    reason = error.value.message.rpartition("cannot be fetched: ")[2]
    assert reason in (
        NOT_ALLOWED,
        NOT_FOUND,
        NOT_VALID,
        "only http and https URLs can be fetched",
        "a URL must not have a user name or a password in it",
    )
    error.value.message.encode()  # can be sent


@pytest.mark.parametrize(
    "host",
    [
        "127.1",
        "2130706433",
        "0177.0.0.1",
        "0x7f.0.0.1",
        "127.0.0.1.",
        "①②⑦.⓪.⓪.①",
        "１２７.0.0.1",
        "127。0。0。1",
        "ⓛⓞⓒⓐⓛⓗⓞⓢⓣ",
        "%6cocalhost",
        "[127.0.0.1]",
        "[::ffff:127.0.0.1]",
        "[::1%25lo]",
    ],
)
async def test_a_strange_spelling_is_refused_even_where_the_address_is_allowed(
    make_fetcher: MakeFetcher, folder: Path, names: Names, host: str
) -> None:
    names.default = ["127.0.0.1"]
    with canary() as (port, count):
        assert await failure(make_fetcher(), f"http://{host}:{port}/", folder) == NOT_ALLOWED
        assert count() == 0


async def test_an_address_is_refused_alike_whether_anything_listens_there_or_not(
    make_fetcher: MakeFetcher, folder: Path, names: Names
) -> None:
    names.answers["inside.example"] = [["127.0.0.1"]]
    names.answers["db.internal"] = [["127.0.0.1"]]
    names.errors["later.example"] = socket.EAI_AGAIN
    fetcher = make_fetcher(allow=())
    reasons: dict[str, set[str]] = {NOT_ALLOWED: set(), NOT_FOUND: set()}
    hosts = {
        NOT_ALLOWED: ("127.0.0.1", "[::1]", "10.255.255.1"),
        NOT_FOUND: (
            "inside.example",
            "nowhere.example",
            "later.example",
            "db.internal",
            "no.internal",
            "db",
            "localhost",
        ),
    }
    with canary() as (open_port, count):
        for port in (open_port, free_port()):
            for expected, some in hosts.items():
                for host in some:
                    for scheme in ("http", "https"):
                        reasons[expected].add(await failure(fetcher, f"{scheme}://{host}:{port}/", folder))
        assert count() == 0
    assert reasons == {expected: {expected} for expected in hosts}


async def test_names_that_only_a_network_knows_are_not_even_looked_up(
    make_fetcher: MakeFetcher, folder: Path, names: Names
) -> None:
    fetcher = make_fetcher(allow=("media.internal",))
    for host in ("db", "db.internal", "printer.local", "localhost", "10.in-addr.arpa"):
        assert await failure(fetcher, f"http://{host}/", folder) == NOT_FOUND
    assert names.asked == []
    assert await failure(fetcher, "http://media.internal/", folder) == NOT_FOUND
    assert await failure(make_fetcher(allow=("10.0.0.0/8",)), "http://db.internal/", folder) == NOT_FOUND
    assert names.asked == ["media.internal", "db.internal"]


async def test_the_guard_stands_behind_the_lookup_so_a_second_answer_does_not_pass(
    serve: Serve, make_fetcher: MakeFetcher, folder: Path, names: Names
) -> None:
    names.answers["rebinding.example"] = [["127.0.0.1"], ["127.0.0.2"]]
    inside = await serve(host="127.0.0.2")

    async def to_other_port(request: web.Request) -> web.Response:
        raise web.HTTPFound(f"http://rebinding.example:{inside.port}/")

    site = await serve(to_other_port)
    fetcher = make_fetcher(allow=(), is_public=only_first)
    assert await failure(fetcher, f"http://rebinding.example:{site.port}/", folder) == NOT_FOUND
    assert names.asked == ["rebinding.example", "rebinding.example"]
    assert site.hits == 1
    assert inside.hits == 0


async def test_a_new_connection_to_a_host_that_was_public_is_guarded_again(
    serve: Serve, make_fetcher: MakeFetcher, folder: Path, names: Names
) -> None:
    async def closing(request: web.Request) -> web.Response:
        response = web.Response(body=b"x")
        response.force_close()
        return response

    site = await serve(closing)
    inside = await serve(host="127.0.0.2", port=site.port)
    names.answers["rebinding.example"] = [["127.0.0.1"], ["127.0.0.2"]]
    fetcher = make_fetcher(allow=(), is_public=only_first)
    url = f"http://rebinding.example:{site.port}/"
    (await fetcher.fetch(url, folder)).unlink()
    assert fetcher._guarded is not None
    fetcher._guarded.connector.clear_dns_cache()  # type: ignore[union-attr]
    assert await failure(fetcher, url, folder) == NOT_FOUND
    assert (site.hits, inside.hits) == (1, 0)


@pytest.mark.parametrize("addresses", [["127.0.0.1", "127.0.0.2"], ["127.0.0.2", "127.0.0.1"]])
async def test_a_private_address_among_public_ones_is_passed_over(
    serve: Serve, make_fetcher: MakeFetcher, folder: Path, names: Names, addresses: list[str]
) -> None:
    names.answers["mixed.example"] = [addresses]
    site = await serve()
    inside = await serve(host="127.0.0.2", port=site.port)
    fetcher = make_fetcher(allow=(), is_public=only_first)
    await fetcher.fetch(f"http://mixed.example:{site.port}/", folder)
    assert (site.hits, inside.hits) == (1, 0)


async def test_a_private_address_is_no_way_out_when_the_public_one_does_not_answer(
    serve: Serve, make_fetcher: MakeFetcher, folder: Path, names: Names
) -> None:
    names.answers["mixed.example"] = [["127.0.0.1", "127.0.0.2"]]
    inside = await serve(host="127.0.0.2")
    fetcher = make_fetcher(allow=(), is_public=only_first)
    reason = await failure(fetcher, f"http://mixed.example:{inside.port}/", folder)
    assert reason in ("the connection to the server failed", NOT_FOUND)
    assert inside.hits == 0


async def test_an_answer_that_is_no_address_is_not_connected_to(
    make_fetcher: MakeFetcher, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with canary() as (port, count):
        answer = (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("localhost", port))
        monkeypatch.setattr(socket, "getaddrinfo", lambda *arguments, **options: [answer])
        assert await failure(make_fetcher(), f"http://odd.example:{port}/", folder) == NOT_FOUND
        assert count() == 0


async def test_a_message_says_nothing_about_the_address_behind_a_name(
    make_fetcher: MakeFetcher, folder: Path, names: Names
) -> None:
    names.answers["inside.example"] = [["10.11.12.13"]]
    with pytest.raises(TaskError) as error:
        await make_fetcher(allow=()).fetch("http://inside.example/", folder)
    assert error.value.message == f"File 'http://inside.example/' cannot be fetched: {NOT_FOUND}"
    assert error.value.__cause__ is None
    assert error.value.__context__ is None


@pytest.mark.parametrize(
    "url",
    [
        "http://user:secret@127.0.0.1/",
        "http://secret@127.0.0.1/",
        "http://:secret@127.0.0.1/",
        "http://@127.0.0.1/secret",
        "http://user:sec/secret@127.0.0.1/",
        "http://user:sec#secret@127.0.0.1/",
        "http://user:sec?secret@127.0.0.1/",
        "http://user:secret%40@127.0.0.1/",
        "http://user:sec\\secret@127.0.0.1/",
        "secret:secret@127.0.0.1",
    ],
)
async def test_credentials_in_a_url_are_refused_and_not_repeated(
    make_fetcher: MakeFetcher, folder: Path, url: str
) -> None:
    with canary() as (port, count), pytest.raises(TaskError) as error:
        await make_fetcher().fetch(url.replace("127.0.0.1", f"127.0.0.1:{port}"), folder)
        assert count() == 0
    assert "sec" not in error.value.message
    assert "user:" not in error.value.message


async def test_credentials_in_a_url_have_a_sentence_of_their_own(make_fetcher: MakeFetcher, folder: Path) -> None:
    with pytest.raises(TaskError) as error:
        await make_fetcher().fetch("https://user:secret@example.com/cat.jpg", folder)
    assert error.value.message == (
        "File 'https://…' cannot be fetched: a URL must not have a user name or a password in it"
    )


async def test_an_at_sign_behind_the_host_is_no_credential(
    serve: Serve, make_fetcher: MakeFetcher, folder: Path
) -> None:
    site = await serve()
    await make_fetcher().fetch(f"{site.url}/package@1.2/cat.jpg", folder)
    assert site.hits == 1


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("", NOT_VALID),
        ("cat.jpg", NOT_VALID),
        ("http://", NOT_VALID),
        ("http://:80/", NOT_ALLOWED),
        ("http://example.com:0/", NOT_VALID),
        ("http://example.com:65536/", NOT_VALID),
        ("http://example.com:８0/", NOT_VALID),
        ("http://example.com/\x00", NOT_VALID),
        ("ftp://example.com/", "only http and https URLs can be fetched"),
        ("data://text/plain", "only http and https URLs can be fetched"),
    ],
)
async def test_what_cannot_be_asked_for_is_said_plainly(
    make_fetcher: MakeFetcher, folder: Path, url: str, reason: str
) -> None:
    assert await failure(make_fetcher(), url, folder) == reason


async def test_a_long_url_is_shown_shortened(make_fetcher: MakeFetcher, folder: Path) -> None:
    with pytest.raises(TaskError) as error:
        await make_fetcher(allow=()).fetch("http://127.0.0.1/" + "a" * 5000, folder)
    assert error.value.message == f"File 'http://127.0.0.1/{'a' * 483}…' cannot be fetched: {NOT_ALLOWED}"
    with pytest.raises(TaskError, match="it is not a valid URL"):
        await make_fetcher(allow=()).fetch("http://127.0.0.1/" + "a" * 8192, folder)


# What the settings allow.


async def test_an_allowed_host_may_be_private_and_no_other_name_of_its_address(
    serve: Serve, make_fetcher: MakeFetcher, folder: Path, names: Names
) -> None:
    names.default = ["127.0.0.1"]
    site = await serve()
    fetcher = make_fetcher(allow=("media.internal", "*.cdn.internal"))
    for host in ("media.internal", "MEDIA.internal.", "a.cdn.internal", "a.b.cdn.internal"):
        (await fetcher.fetch(f"http://{host}:{site.port}/", folder)).unlink()
    assert site.hits == 4
    for host in ("cdn.internal", "x.media.internal", "media.internal.evil.example", "localhost"):
        assert await failure(fetcher, f"http://{host}:{site.port}/", folder) == NOT_FOUND
    assert await failure(fetcher, site.url, folder) == NOT_ALLOWED
    assert site.hits == 4


async def test_a_connection_of_an_allowed_host_is_of_no_use_to_a_guarded_one(
    serve: Serve, make_fetcher: MakeFetcher, folder: Path, names: Names
) -> None:
    names.default = ["127.0.0.1"]
    site = await serve()
    fetcher = make_fetcher(allow=("media.internal",))
    urls = [f"http://{host}:{site.port}/" for host in ("media.internal", "evil.example")]
    results = await asyncio.gather(
        *(fetcher.fetch(url, folder) for _ in range(20) for url in urls), return_exceptions=True
    )
    assert [isinstance(result, Path) for result in results] == [True, False] * 20
    assert {request.headers["Host"] for request in site.requests} == {f"media.internal:{site.port}"}


async def test_a_redirect_from_an_allowed_host_to_another_is_guarded(
    serve: Serve, make_fetcher: MakeFetcher, folder: Path, names: Names
) -> None:
    names.default = ["127.0.0.1"]
    inside = await serve(host="127.0.0.1")

    async def elsewhere(request: web.Request) -> web.Response:
        raise web.HTTPFound(inside.url)

    site = await serve(elsewhere)
    fetcher = make_fetcher(allow=("media.internal",))
    assert await failure(fetcher, f"http://media.internal:{site.port}/", folder) == NOT_ALLOWED
    assert (site.hits, inside.hits) == (1, 0)


async def test_an_allowed_network_allows_what_resolves_into_it_and_nothing_else(
    serve: Serve, make_fetcher: MakeFetcher, folder: Path, names: Names
) -> None:
    names.answers["in.example"] = [["127.0.0.2"]]
    names.answers["out.example"] = [["127.0.0.1"]]
    site = await serve(host="127.0.0.2")
    fetcher = make_fetcher(allow=("127.0.0.2/32",))
    (await fetcher.fetch(f"http://in.example:{site.port}/", folder)).unlink()
    (await fetcher.fetch(site.url, folder)).unlink()
    assert await failure(fetcher, f"http://out.example:{site.port}/", folder) == NOT_FOUND


async def test_a_malformed_allowance_stops_the_start(make_fetcher: MakeFetcher) -> None:
    with pytest.raises(ConfigError, match=r"'fetch.allow': 'http://x' is neither"):
        make_fetcher(allow=("10.0.0.0/8", "http://x"))


# Redirects.


async def redirecting(serve: Serve, status: int, location: str | None) -> Site:
    async def redirect(request: web.Request) -> web.Response:
        if request.path == "/end":
            return web.Response(body=BODY)
        return web.Response(status=status, headers={} if location is None else {"Location": location}, body=b"moved")

    return await serve(redirect)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("location", ["/end", "end", "//127.0.0.1:PORT/end", "http://127.0.0.1:PORT/end", "./x/../end"])
async def test_a_redirect_is_followed(
    make_fetcher: MakeFetcher, folder: Path, serve: Serve, status: int, location: str
) -> None:
    async def redirect(request: web.Request) -> web.Response:
        if request.path == "/end":
            return web.Response(body=BODY)
        return web.Response(status=status, headers={"Location": location.replace("PORT", str(site.port))})

    site = await serve(redirect)
    assert (await make_fetcher().fetch(f"{site.url}/", folder)).read_bytes() == BODY
    assert [request.path for request in site.requests] == ["/", "/end"]


@pytest.mark.parametrize(
    "location",
    [
        None,
        "",
        "ftp://127.0.0.1/",
        "file:///etc/passwd",
        "javascript:alert(1)",
        "https://",
        "http://[::1",
        "http://127.0.0.1:99999/",
        "http://user:secret@127.0.0.1/",
        "\\\\127.0.0.1\\x",
        "http://127.0.0.1:x/",
        "/" + "a" * 8000 + "b" * 180,
    ],
)
async def test_a_redirect_to_nowhere_valid_is_an_error(
    serve: Serve, make_fetcher: MakeFetcher, folder: Path, location: str | None
) -> None:
    site = await redirecting(serve, 302, location)
    reason = await failure(make_fetcher(), site.url, folder)
    assert reason == "it redirects to an address that is not valid"
    assert site.hits == 1


@pytest.mark.parametrize("status", [300, 304, 305, 306, 399])
async def test_other_statuses_of_the_300s_are_no_redirects(
    serve: Serve, make_fetcher: MakeFetcher, folder: Path, status: int
) -> None:
    site = await redirecting(serve, status, "/end")
    assert await failure(make_fetcher(), site.url, folder) == f"the server answered {status}"


@pytest.mark.parametrize(
    "target", ["http://127.0.0.2:PORT/", "http://localhost:PORT/", "//127.0.0.2:PORT", "http://0x7f.2:PORT"]
)
async def test_a_redirect_into_a_private_network_is_refused(
    serve: Serve, make_fetcher: MakeFetcher, folder: Path, names: Names, target: str
) -> None:
    names.answers["localhost"] = [["127.0.0.2"]]
    inside = await serve(host="127.0.0.2")
    site = await redirecting(serve, 302, target.replace("PORT", str(inside.port)))
    fetcher = make_fetcher(allow=(), is_public=only_first)
    assert await failure(fetcher, f"{site.url}/", folder) == (NOT_FOUND if "localhost" in target else NOT_ALLOWED)
    assert (site.hits, inside.hits) == (1, 0)


async def test_as_many_redirects_as_the_limit_are_followed_and_one_more_is_not(
    serve: Serve, make_fetcher: MakeFetcher, folder: Path
) -> None:
    async def count_down(request: web.Request) -> web.Response:
        number = int(request.path[1:])
        if number == 0:
            return web.Response(body=b"x")
        raise web.HTTPFound(f"/{number - 1}")

    site = await serve(count_down)
    fetcher = make_fetcher(max_redirects=3)
    (await fetcher.fetch(f"{site.url}/3", folder)).unlink()
    assert await failure(fetcher, f"{site.url}/4", folder) == "it redirects more than 3 times"
    assert await failure(make_fetcher(max_redirects=0), f"{site.url}/1", folder) == "it redirects more than 0 times"


async def test_a_redirect_in_a_circle_ends(serve: Serve, make_fetcher: MakeFetcher, folder: Path) -> None:
    site = await redirecting(serve, 302, "/")
    assert await failure(make_fetcher(), site.url, folder) == "it redirects more than 5 times"
    assert site.hits == 6


# The limits.


@pytest.mark.parametrize("status", [201, 204, 206, 400, 401, 404, 500, 503])
async def test_any_other_status_than_200_is_an_error(
    serve: Serve, make_fetcher: MakeFetcher, folder: Path, status: int
) -> None:
    async def respond(request: web.Request) -> web.Response:
        return web.Response(status=status)

    site = await serve(respond)
    assert await failure(make_fetcher(), site.url, folder) == f"the server answered {status}"


async def test_a_file_of_the_limit_is_downloaded_and_one_byte_more_is_not(
    serve: Serve, make_fetcher: MakeFetcher, folder: Path
) -> None:
    site = await serve()
    (await make_fetcher(max_bytes=len(BODY)).fetch(site.url, folder)).unlink()
    reason = await failure(make_fetcher(max_bytes=len(BODY) - 1), site.url, folder)
    assert reason == f"it is larger than {len(BODY) - 1} bytes"


async def test_an_endless_file_is_given_up_at_the_limit(serve: Serve, make_fetcher: MakeFetcher, folder: Path) -> None:
    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b"x" * 65536)

    site = await serve(endless)
    assert await failure(make_fetcher(max_bytes=1_000_000), site.url, folder) == "it is larger than 1000000 bytes"
    await site.left.wait()


async def test_a_length_that_is_too_large_is_believed_before_a_byte_is_read(
    serve_raw: ServeRaw, make_fetcher: MakeFetcher, folder: Path
) -> None:
    url = await serve_raw(answer(b"HTTP/1.1 200 OK\r\nContent-Length: 1001\r\n\r\n"))
    assert await failure(make_fetcher(max_bytes=1000), url, folder) == "it is larger than 1000 bytes"


async def test_a_length_that_is_too_small_does_not_get_more_bytes_in(
    serve_raw: ServeRaw, make_fetcher: MakeFetcher, folder: Path
) -> None:
    url = await serve_raw(answer(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n", b"1234" + b"x" * 10_000_000))
    # It depends on how the bytes arrive whether aiohttp minds what comes behind the end.
    with contextlib.suppress(TaskError):
        await make_fetcher(max_bytes=1000).fetch(url, folder)
    assert [path.read_bytes() for path in folder.iterdir()] in ([], [b"1234"])


async def test_a_body_that_ends_with_the_connection_counts_without_a_length(
    serve_raw: ServeRaw, make_fetcher: MakeFetcher, folder: Path
) -> None:
    url = await serve_raw(answer(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", BODY))
    (await make_fetcher(max_bytes=len(BODY)).fetch(url, folder)).unlink()
    reason = await failure(make_fetcher(max_bytes=len(BODY) - 1), url, folder)
    assert reason == f"it is larger than {len(BODY) - 1} bytes"


@pytest.mark.parametrize(
    "parts",
    [
        [b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n", b"too short"],
        [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"5\r\nshort\r\n"],
        [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"nonsense\r\n"],
        [b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 5\r\n\r\n", b"hello"],
    ],
)
async def test_half_a_file_is_not_a_file(
    serve_raw: ServeRaw, make_fetcher: MakeFetcher, folder: Path, parts: list[bytes]
) -> None:
    url = await serve_raw(answer(*parts))
    # Damage that arrives together with the head is found before there is a body.
    reason = await failure(make_fetcher(), url, folder)
    assert reason in ("the server's answer is incomplete or damaged", "the server's answer is not valid HTTP")


@pytest.mark.parametrize(
    "part",
    [
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"-ERR unknown command\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: /" + b"x" * 100_000 + b"\r\n\r\n",
    ],
)
async def test_an_answer_that_is_not_http_is_said_to_be_so(
    serve_raw: ServeRaw, make_fetcher: MakeFetcher, folder: Path, part: bytes
) -> None:
    url = await serve_raw(answer(part))
    assert await failure(make_fetcher(), url, folder) == "the server's answer is not valid HTTP"


async def test_a_connection_that_is_closed_without_an_answer_broke_off(
    serve_raw: ServeRaw, make_fetcher: MakeFetcher, folder: Path
) -> None:
    url = await serve_raw(answer())
    assert await failure(make_fetcher(), url, folder) == "the connection to the server broke off"


def bomb(kind: str, size: int) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, {"gzip": 31, "deflate": 15, "raw": -15}[kind])
    return b"".join(packer.compress(bytes(1 << 20)) for _ in range(size >> 20)) + packer.flush()


@pytest.mark.parametrize("kind", ["gzip", "deflate", "raw"])
async def test_a_bomb_is_counted_by_what_it_unpacks_to(
    serve: Serve, make_fetcher: MakeFetcher, folder: Path, kind: str
) -> None:
    packed = bomb(kind, 200 << 20)
    assert len(packed) < 300_000

    async def respond(request: web.Request) -> web.Response:
        encoding = "gzip" if kind == "gzip" else "deflate"
        return web.Response(body=packed, headers={"Content-Encoding": encoding})

    site = await serve(respond)
    assert await failure(make_fetcher(max_bytes=1_000_000), site.url, folder) == "it is larger than 1000000 bytes"


async def test_others_have_their_turn_while_a_bomb_goes_off(
    serve: Serve, make_fetcher: MakeFetcher, folder: Path
) -> None:
    packed = bomb("gzip", 32 << 20)
    turns = 0

    async def respond(request: web.Request) -> web.Response:
        return web.Response(body=packed, headers={"Content-Encoding": "gzip"})

    async def count_turns() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    site = await serve(respond)
    counting = asyncio.create_task(count_turns())
    await make_fetcher().fetch(site.url, folder)
    counting.cancel()
    assert turns >= (32 << 20) // fetch_module.CHUNK


@pytest.mark.parametrize(
    ("encoding", "pack"),
    [("gzip", gzip.compress), ("GZIP", gzip.compress), ("deflate", zlib.compress), ("identity", bytes)],
)
async def test_a_file_that_is_sent_packed_all_the_same_is_unpacked(
    serve: Serve, make_fetcher: MakeFetcher, folder: Path, encoding: str, pack: Callable[[bytes], bytes]
) -> None:
    async def respond(request: web.Request) -> web.Response:
        return web.Response(body=pack(BODY), headers={"Content-Encoding": encoding})

    site = await serve(respond)
    assert (await make_fetcher(max_bytes=len(BODY)).fetch(site.url, folder)).read_bytes() == BODY


@pytest.mark.parametrize("encoding", ["compress", "x-gzip", "gzip, gzip", "gzip,identity", "exi"])
async def test_a_file_in_an_encoding_that_we_do_not_read_is_refused(
    serve: Serve, make_fetcher: MakeFetcher, folder: Path, encoding: str
) -> None:
    async def respond(request: web.Request) -> web.Response:
        return web.Response(body=b"x", headers={"Content-Encoding": encoding})

    site = await serve(respond)
    reason = await failure(make_fetcher(), site.url, folder)
    assert reason == "the server sent it in an encoding that it was not asked for"


@pytest.mark.parametrize("encoding", ["br", "zstd"])
async def test_a_file_in_an_encoding_of_an_optional_library_fails_with_or_without_it(
    serve: Serve, make_fetcher: MakeFetcher, folder: Path, encoding: str
) -> None:
    async def respond(request: web.Request) -> web.Response:
        return web.Response(body=b"x", headers={"Content-Encoding": encoding})

    site = await serve(respond)
    assert await failure(make_fetcher(), site.url, folder) in (
        "the server sent it in an encoding that it was not asked for",
        "the server's answer is not valid HTTP",
    )


# Time.


async def never() -> None:
    await asyncio.get_running_loop().create_future()


async def test_a_server_that_does_not_answer_is_given_up(
    serve_raw: ServeRaw, make_fetcher: MakeFetcher, folder: Path
) -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await never()

    url = await serve_raw(silent)
    assert await failure(make_fetcher(idle_timeout=0.1), url, folder) == "the server sent nothing for 0.1 seconds"


async def test_a_server_that_stops_amid_the_file_is_given_up(
    serve_raw: ServeRaw, make_fetcher: MakeFetcher, folder: Path
) -> None:
    async def stop(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
        await never()

    url = await serve_raw(stop)
    assert await failure(make_fetcher(idle_timeout=0.1), url, folder) == "the server sent nothing for 0.1 seconds"


@pytest.mark.parametrize("head", [b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1 200 OK\r\nX: "])
async def test_a_trickle_that_is_never_idle_ends_at_the_time_for_the_whole(
    serve_raw: ServeRaw, make_fetcher: MakeFetcher, folder: Path, head: bytes
) -> None:
    async def trickle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(head)
        while True:
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.02)

    url = await serve_raw(trickle)
    reason = await failure(make_fetcher(idle_timeout=5, timeout=0.3), url, folder)
    assert reason == "it took longer than 0.3 seconds"


@pytest.mark.parametrize(
    "head", [b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1 200 OK\r\nX: ", b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 99_000]
)
async def test_a_trickle_is_given_up_when_it_has_been_slow_for_too_long(
    serve_raw: ServeRaw, make_fetcher: MakeFetcher, folder: Path, head: bytes
) -> None:
    async def trickle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(head)
        while True:
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.02)

    url = await serve_raw(trickle)
    began = asyncio.get_running_loop().time()
    reason = await failure(make_fetcher(slow_timeout=0.3), url, folder)
    assert reason == "it came slower than 1000 bytes a second for 0.3 seconds"
    assert asyncio.get_running_loop().time() - began < 30  # the time for the whole is 60


async def test_a_download_that_is_just_fast_enough_may_take_its_time(
    serve_raw: ServeRaw, make_fetcher: MakeFetcher, folder: Path
) -> None:
    async def walk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 20000\r\n\r\n")
        for _ in range(20):
            writer.write(b"x" * 1000)
            await writer.drain()
            await asyncio.sleep(0.2)

    url = await serve_raw(walk)
    path = await make_fetcher(slow_timeout=3).fetch(url, folder)
    assert path.stat().st_size == 20_000


async def test_the_time_for_the_whole_runs_through_redirects(
    serve: Serve, make_fetcher: MakeFetcher, folder: Path
) -> None:
    async def slow_circle(request: web.Request) -> web.Response:
        await asyncio.sleep(0.05)
        raise web.HTTPFound("/")

    site = await serve(slow_circle)
    reason = await failure(make_fetcher(max_redirects=1000, timeout=0.3), site.url, folder)
    assert reason == "it took longer than 0.3 seconds"


async def test_a_handshake_that_never_comes_ends_at_the_time_to_connect(
    serve_raw: ServeRaw, make_fetcher: MakeFetcher, folder: Path
) -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await never()

    url = (await serve_raw(silent)).replace("http://", "https://")
    reason = await failure(make_fetcher(connect_timeout=0.1), url, folder)
    assert reason == "the server accepted no connection within 0.1 seconds"


async def test_a_lookup_that_takes_for_ever_ends_at_the_time_to_connect(
    make_fetcher: MakeFetcher, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = threading.Event()

    def hang(*arguments: Any, **options: Any) -> Any:
        release.wait()
        raise socket.gaierror(socket.EAI_AGAIN, "at last")

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    try:
        reason = await failure(make_fetcher(connect_timeout=0.1), "http://slow.example/", folder)
    finally:
        release.set()
    assert reason == "the server accepted no connection within 0.1 seconds"


# Connections that fail.


async def test_a_connection_that_is_not_accepted_failed(make_fetcher: MakeFetcher, folder: Path) -> None:
    reason = await failure(make_fetcher(), f"http://127.0.0.1:{free_port()}/", folder)
    assert reason == "the connection to the server failed"


async def test_a_name_that_does_not_exist_is_said_to_be_so(
    make_fetcher: MakeFetcher, folder: Path, names: Names
) -> None:
    names.errors = {"later.example": socket.EAI_AGAIN, "later.internal": socket.EAI_AGAIN}
    fetcher = make_fetcher(allow=())
    for host in ("nowhere.example", "later.example", "nowhere.internal", "later.internal", "nowhere"):
        assert await failure(fetcher, f"http://{host}/", folder) == NOT_FOUND


async def test_a_server_without_tls_is_not_reached_by_https(
    serve: Serve, make_fetcher: MakeFetcher, folder: Path
) -> None:
    site = await serve()
    reason = await failure(make_fetcher(), site.url.replace("http://", "https://"), folder)
    assert reason == "no secure connection to the server can be made"


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("certificate")
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=pictures"
    names = ["-addext", "subjectAltName=DNS:pictures.example"]
    subprocess.run([*command.split(), *names, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    return certificate, key


async def test_a_certificate_that_nobody_vouches_for_is_refused_even_on_an_allowed_host(
    serve: Serve, make_fetcher: MakeFetcher, folder: Path, names: Names, certificate: tuple[Path, Path]
) -> None:
    names.default = ["127.0.0.1"]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    site = await serve(tls=context)
    for allow in (LOOPBACK, ("pictures.example",)):
        reason = await failure(make_fetcher(allow=allow), f"https://pictures.example:{site.port}/", folder)
        assert reason == "the server's certificate is not valid"
    assert site.hits == 0


async def test_a_certificate_must_be_of_the_host_in_the_url(
    serve: Serve,
    make_fetcher: MakeFetcher,
    folder: Path,
    names: Names,
    certificate: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names.default = ["127.0.0.1"]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    site = await serve(tls=context)
    monkeypatch.setattr("aiohttp.connector._SSL_CONTEXT_VERIFIED", ssl.create_default_context(cafile=certificate[0]))
    fetcher = make_fetcher()
    (await fetcher.fetch(f"https://pictures.example:{site.port}/", folder)).unlink()
    reason = await failure(fetcher, f"https://other.example:{site.port}/", folder)
    assert reason == "the server's certificate is not valid"


# Sharing.


@dataclasses.dataclass
class Gate:
    """A handler that sends half of the file, and the rest when it is opened."""

    opened: asyncio.Event = dataclasses.field(default_factory=asyncio.Event)
    status: int = 200

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(status=self.status)
        response.content_length = len(BODY)
        await response.prepare(request)
        await response.write(BODY[:1000])
        await self.opened.wait()
        await response.write(BODY[1000:])
        return response


async def test_callers_who_want_the_same_at_the_same_time_share_a_download(
    serve: Serve, make_fetcher: MakeFetcher, tmp_path: Path, scratch: Path
) -> None:
    gate = Gate()
    site = await serve(gate)
    fetcher = make_fetcher()
    folders = [tmp_path / f"task-{number}" for number in range(5)]
    for folder in folders:
        folder.mkdir()
    tasks = [asyncio.create_task(fetcher.fetch(site.url, folder)) for folder in folders]
    other = asyncio.create_task(fetcher.fetch(f"{site.url}/other", folders[0]))
    await site.arrived.wait()
    gate.opened.set()
    paths = await asyncio.gather(*tasks)
    assert [path.parent for path in paths] == folders
    assert all(path.read_bytes() == BODY for path in paths)
    assert await other not in paths
    assert sorted(request.path for request in site.requests) == ["/", "/other"]
    assert list(scratch.iterdir()) == []


async def test_a_shared_download_that_fails_fails_for_everyone(
    serve: Serve, make_fetcher: MakeFetcher, folder: Path
) -> None:
    gate = Gate()
    site = await serve(gate)
    fetcher = make_fetcher(max_bytes=len(BODY), idle_timeout=0.1)
    results = await asyncio.gather(*(fetcher.fetch(site.url, folder) for _ in range(5)), return_exceptions=True)
    assert [str(result) for result in results] == [
        f"File '{site.url}' cannot be fetched: the server sent nothing for 0.1 seconds"
    ] * 5
    assert site.hits == 1
    assert list(folder.iterdir()) == []


async def test_a_download_that_failed_is_tried_anew_by_the_next_caller(
    serve: Serve, make_fetcher: MakeFetcher, folder: Path
) -> None:
    async def second_time(request: web.Request) -> web.Response:
        return web.Response(status=503 if site.hits == 1 else 200)

    site = await serve(second_time)
    fetcher = make_fetcher()
    assert await failure(fetcher, site.url, folder) == "the server answered 503"
    await fetcher.fetch(site.url, folder)


async def test_a_caller_who_leaves_takes_nothing_from_the_others(
    serve: Serve, make_fetcher: MakeFetcher, folder: Path
) -> None:
    gate = Gate()
    site = await serve(gate)
    fetcher = make_fetcher()
    first, second, third = (asyncio.create_task(fetcher.fetch(site.url, folder)) for _ in range(3))
    await site.arrived.wait()
    first.cancel()
    third.cancel()
    results = await asyncio.gather(first, third, return_exceptions=True)
    assert [type(result) for result in results] == [asyncio.CancelledError] * 2
    gate.opened.set()
    assert (await second).read_bytes() == BODY
    assert site.hits == 1
    assert [path.name for path in folder.iterdir()] == ["download-1"]


async def test_a_download_that_everyone_left_is_ended(
    serve: Serve, make_fetcher: MakeFetcher, folder: Path, scratch: Path
) -> None:
    site = await serve(Gate())
    fetcher = make_fetcher()
    tasks = [asyncio.create_task(fetcher.fetch(site.url, folder)) for _ in range(3)]
    await site.arrived.wait()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await site.left.wait()  # without closing the fetcher
    assert list(scratch.iterdir()) == []
    assert list(folder.iterdir()) == []


async def test_who_comes_when_everyone_has_left_gets_a_download_of_their_own(
    serve: Serve, make_fetcher: MakeFetcher, folder: Path
) -> None:
    gate = Gate()
    site = await serve(gate)
    fetcher = make_fetcher()
    first = asyncio.create_task(fetcher.fetch(site.url, folder))
    await site.arrived.wait()
    first.cancel()
    gate.opened.set()
    second = asyncio.create_task(fetcher.fetch(site.url, folder))
    await asyncio.wait([first])
    assert (await second).read_bytes() == BODY
    assert first.cancelled()
    assert site.hits == 2


async def test_a_caller_who_leaves_when_the_download_has_just_ended_leaves_no_file(
    serve: Serve, make_fetcher: MakeFetcher, folder: Path, scratch: Path
) -> None:
    gate = Gate()
    site = await serve(gate)
    fetcher = make_fetcher()
    caller = asyncio.create_task(fetcher.fetch(site.url, folder))
    await site.arrived.wait()
    (download,) = fetcher._tasks
    download.add_done_callback(lambda _: caller.cancel())
    gate.opened.set()
    await asyncio.wait([caller])
    assert download.done()
    assert not download.cancelled()
    assert list(scratch.iterdir()) == []


@pytest.mark.parametrize("code", [errno.EXDEV, errno.EPERM, errno.EMLINK])
async def test_where_files_cannot_be_linked_they_are_copied(
    serve: Serve, make_fetcher: MakeFetcher, folder: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refuse(*arguments: Any) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "link", refuse)
    (folder / "download-2").write_text("mine")
    site = await serve()
    fetcher = make_fetcher()
    paths = await asyncio.gather(*(fetcher.fetch(site.url, folder) for _ in range(3)))
    assert len(set(paths)) == 3
    for path in paths:
        assert path.read_bytes() == BODY
        assert path.stat().st_mode & 0o777 == 0o400
        assert path.stat().st_nlink == 1
    assert (folder / "download-2").read_text() == "mine"
    assert site.hits == 1


async def test_a_folder_that_is_gone_is_an_error_and_leaves_nothing(
    serve: Serve, make_fetcher: MakeFetcher, tmp_path: Path
) -> None:
    site = await serve()
    with pytest.raises(TaskError, match=r"cannot be fetched: it cannot be stored$"):
        await make_fetcher().fetch(site.url, tmp_path / "gone")


async def test_a_disk_that_is_full_is_an_error_and_leaves_nothing(
    serve: Serve, make_fetcher: MakeFetcher, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Fetcher, "_save", full)
    site = await serve()
    assert await failure(make_fetcher(), site.url, folder) == "it cannot be stored"


async def test_no_more_downloads_run_at_once_than_there_are_slots(
    serve: Serve, make_fetcher: MakeFetcher, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = most = 0
    full = asyncio.Event()

    async def count(request: web.Request) -> web.Response:
        nonlocal running, most
        running += 1
        most = max(most, running)
        if running == 3:
            full.set()
        await full.wait()  # three are there at once, however slowly they come
        await asyncio.sleep(0.01)
        running -= 1
        return web.Response(body=b"x")

    monkeypatch.setattr(fetch_module, "DOWNLOADS_AT_ONCE", 3)
    site = await serve(count)
    fetcher = make_fetcher()
    await asyncio.gather(*(fetcher.fetch(f"{site.url}/{number}", folder) for number in range(12)))
    assert site.hits == 12
    assert most == 3


async def test_closing_ends_downloads_with_an_error_for_their_callers(
    serve: Serve, make_fetcher: MakeFetcher, folder: Path, scratch: Path
) -> None:
    site = await serve(Gate())
    fetcher = make_fetcher()
    tasks = [asyncio.create_task(fetcher.fetch(site.url, folder)) for _ in range(2)]
    await site.arrived.wait()
    await fetcher.close()
    sentence = f"File '{site.url}' cannot be fetched: the worker is stopping"
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [str(result) for result in results] == [sentence] * 2
    assert [type(result) for result in results] == [TaskError] * 2
    assert await failure(fetcher, site.url, folder) == "the worker is stopping"
    assert list(scratch.iterdir()) == []


# The server's own files.


async def test_a_file_of_the_server_itself_is_read_from_the_disk(
    make_fetcher: MakeFetcher, folder: Path, tmp_path: Path
) -> None:
    own = tmp_path / "sample.jpg"
    own.write_bytes(BODY)
    url = f"http://127.0.0.1:{free_port()}/sample.jpg"
    path = await make_fetcher(allow=(), local={url: own}.get).fetch(url, folder)
    assert path.parent == folder
    assert path.read_bytes() == BODY
    assert path.stat().st_ino != own.stat().st_ino  # a task that changes its copy changes nothing else
    assert own.stat().st_mode & 0o200


async def test_the_servers_own_files_have_the_same_limit(
    make_fetcher: MakeFetcher, folder: Path, tmp_path: Path
) -> None:
    own = tmp_path / "large"
    own.write_bytes(BODY)
    fetcher = make_fetcher(local=lambda url: own, max_bytes=len(BODY) - 1)
    assert await failure(fetcher, "http://127.0.0.1/large", folder) == f"it is larger than {len(BODY) - 1} bytes"


async def test_a_file_of_the_server_itself_that_is_gone_is_said_to_be_so(
    make_fetcher: MakeFetcher, folder: Path, tmp_path: Path
) -> None:
    fetcher = make_fetcher(local=lambda url: tmp_path / "gone.jpg")
    assert await failure(fetcher, "http://127.0.0.1/gone.jpg", folder) == "there is no such file"


@pytest.mark.parametrize("url", ["", "http://[::1", "http://127.0.0.1:x/", "http://127.0.0.1:99999/", "http://a@b/"])
async def test_what_is_not_a_valid_url_is_never_taken_for_the_servers_own(
    make_fetcher: MakeFetcher, folder: Path, url: str
) -> None:
    def raise_error(url: str) -> None:
        raise ValueError("the mapping splits URLs, and cannot split this one")

    with pytest.raises(TaskError):
        await make_fetcher(local=raise_error).fetch(url, folder)


async def test_a_redirect_to_the_server_itself_is_a_redirect_like_any_other(
    serve: Serve, make_fetcher: MakeFetcher, folder: Path, tmp_path: Path
) -> None:
    own = tmp_path / "sample.jpg"
    own.write_bytes(BODY)
    here = "http://127.0.0.2/sample.jpg"
    site = await redirecting(serve, 302, here)
    fetcher = make_fetcher(allow=(), is_public=only_first, local={here: own}.get)
    assert await failure(fetcher, site.url, folder) == NOT_ALLOWED
