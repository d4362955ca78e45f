"""What stands between a client and a server, and makes it hard for them: cuts, buffers, another path, TLS.

They run in the test's own event loop, and take a seeded source of chance.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, Self
from urllib.parse import urlsplit

Head = list[tuple[str, str]]
_End = tuple[asyncio.StreamReader, asyncio.StreamWriter]
_NO_LINGER = struct.pack("ii", 1, 0)
_CHUNK = 1 << 16  # bytes that are read at once
_ALL = 1 << 40  # bytes: more than any connection carries


class Proxy:
    """Accepts connections on a free port of loopback, and passes them on to the server of `url`."""

    path = ""  # in front of the server's paths
    context: ssl.SSLContext | None = None

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        self._target = (parts.hostname, parts.port)
        self._tasks: set[asyncio.Task[None]] = set()
        self.url = ""

    @contextlib.asynccontextmanager
    async def serving(self, host: str = "127.0.0.1") -> AsyncIterator[Self]:
        server = await asyncio.start_server(self._accept, host, 0, ssl=self.context)
        port = server.sockets[0].getsockname()[1]
        shown = f"[{host}]" if ":" in host else host
        self.url = f"{'https' if self.context else 'http'}://{shown}:{port}{self.path}"
        try:
            yield self
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        target: _End | None = None
        try:
            target = await asyncio.open_connection(*self._target)
            await self.connect((reader, writer), target)
        except (OSError, EOFError, asyncio.CancelledError):
            pass  # one of both has left, or the test is over
        finally:
            for end in (writer, *([target[1]] if target else [])):
                await _close(end)
            self._tasks.discard(task)

    async def connect(self, client: _End, server: _End) -> None:
        """Passes everything on, both ways, until one side has ended."""
        await _first_of(_copy(client[0], server[1]), _copy(server[0], client[1]))


class Cut(NamedTuple):
    """After how many bytes a connection is cut."""

    asked: int  # of the requests; 0: the server hears of none
    answered: int  # of the answers


#: The cuts of a proxy, without an end: one for each connection that carries a request.
Cuts = Callable[[random.Random], Iterator[Cut]]

#: What the first requests meet, before chance decides. No request and no answer is shorter, and what was cut is asked
#: again and meets the next of them: so there are as many cuts for certain, however little is said and whenever.
EARLY = (
    Cut(0, _ALL),  # the server hears nothing of it
    Cut(60, _ALL),  # nor more than half of its head
    Cut(_ALL, 0),  # it is done, and the client has no byte of the answer
    Cut(_ALL, 1),
    Cut(_ALL, 100),  # within the answer's head
    Cut(_ALL, 300),  # about where its body begins
)


def around(mean: float) -> Cuts:
    """So many bytes of answers come through, on the average; of seven connections one is cut early in its requests."""

    def cuts(chance: random.Random) -> Iterator[Cut]:
        yield from EARLY
        while True:
            asked = chance.randrange(1, 400) if chance.random() < 0.15 else _ALL
            yield Cut(asked, int(chance.expovariate(1 / mean)))

    return cuts


def anywhere(most: int = 30_000) -> Cuts:
    """In heads, lines, characters. `most` is more than the longest line has, and early cuts are many.

    Of ten connections one is lost before the server hears of it, and one before the client has a byte of the answer.
    """

    def cuts(chance: random.Random) -> Iterator[Cut]:
        yield from EARLY
        while True:
            kind = chance.random()
            answered = 0 if kind < 0.2 else round(most * chance.random() ** 3)
            yield Cut(0 if kind < 0.1 else _ALL, answered)

    return cuts


def before(end: int) -> Cuts:
    """Each connection is cut before it has carried so many bytes of answers."""

    def cuts(chance: random.Random) -> Iterator[Cut]:
        yield from EARLY
        while True:
            yield Cut(_ALL, chance.randrange(end))

    return cuts


class CuttingProxy(Proxy):
    """Cuts connections: half of the ends by a reset, half as if all was said.

    Of those that carry requests the first `most` have a cut before them, the others none: then everything gets through.
    """

    def __init__(self, url: str, chance: random.Random, cuts: Cuts, *, most: int) -> None:
        assert most >= len(EARLY)
        super().__init__(url)
        self._chance = chance
        self._plan = itertools.chain(itertools.islice(cuts(chance), most), itertools.repeat(Cut(_ALL, _ALL)))
        self.cuts = 0

    async def connect(self, client: _End, server: _End) -> None:
        first = await client[0].read(_CHUNK)
        if not first:
            return  # browsers open connections in reserve: those take no cut away
        cut = next(self._plan)
        ways = (_copy(client[0], server[1], cut.asked, first), _copy(server[0], client[1], cut.answered))
        if not any(await _first_of(*ways)):
            return  # it ended before it was to be cut
        self.cuts += 1
        for end in (client[1], server[1]):
            if self._chance.random() < 0.5:
                end.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)


@dataclass(frozen=True, slots=True)
class Request:
    """A request as a proxy has read it."""

    method: str
    target: str
    head: Head
    body: bytes


class HttpProxy(Proxy):
    """Reads requests and asks the server on a connection of its own for each, as proxies do. `path` is taken off."""

    version = "1.1"  # by which the server is asked

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.requests: list[str] = []  # METHOD TARGET

    def asked(self, path: str) -> int:
        """How many requests had this path."""
        return sum(request.partition(" ")[2].partition("?")[0] == path for request in self.requests)

    async def connect(self, client: _End, server: _End) -> None:
        request = await self.read(*client)
        if request is None:
            return
        self.requests.append(f"{request.method} {request.target}")
        assert request.target.startswith(self.path), request.target
        first = f"{request.method} {request.target.removeprefix(self.path)} HTTP/{self.version}"
        kept = [(name, value) for name, value in request.head if name.lower() != "connection"]
        server[1].write(head_bytes(first, [*kept, ("Connection", "close")]) + request.body)
        await _first_of(self.answer(server[0], client[1]), _until_end(client[0]))

    async def read(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Request | None:
        """The request of the client; None when it was answered here."""
        first, head = await read_head(reader)
        method, target, _ = first.split(" ")
        return Request(method, target, head, await reader.readexactly(content_length(head)))

    async def answer(self, server: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        await _copy(server, client)


class BufferingProxy(HttpProxy):
    """Passes an answer on when it is whole, as proxies do that buffer; or its first line at once, and then the rest."""

    def __init__(self, url: str, *, first_line: bool = False) -> None:
        super().__init__(url)
        self._passes_first_line = first_line

    async def answer(self, server: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        if self._passes_first_line:
            try:
                client.write(await server.readuntil(b"}]\n"))
            except asyncio.IncompleteReadError as short:
                client.write(short.partial)
        client.write(await server.read())
        await client.drain()


def content_length(head: Head) -> int:
    return int({name.lower(): value for name, value in head}.get("content-length", 0))


async def read_head(reader: asyncio.StreamReader) -> tuple[str, Head]:
    text = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = text.rstrip("\r\n").split("\r\n")
    pairs = (line.partition(":") for line in lines)
    return first, [(name, value.strip()) for name, _, value in pairs]


def head_bytes(first: str, head: Head) -> bytes:
    lines = [first, *(f"{name}: {value}" for name, value in head)]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"


async def _copy(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, most: int = _ALL, first: bytes = b""
) -> bool:
    """Passes so many bytes on at most, `first` before others. Whether there were as many: then it is to be cut."""
    while data := first or await reader.read(_CHUNK):
        first = b""
        writer.write(data[:most])
        await writer.drain()
        most -= len(data)
        if most <= 0:
            return True
    return False


async def _until_end(reader: asyncio.StreamReader) -> None:
    while await reader.read(_CHUNK):
        pass


async def _first_of(*both: Awaitable[bool | None]) -> list[bool | None]:
    tasks = [asyncio.ensure_future(one) for one in both]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return [task.result() for task in done]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError, asyncio.CancelledError):
        await writer.wait_closed()
