"""What stands between a client and a server, and makes it hard for them: cuts, buffers, another path, TLS."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from urllib.parse import urlsplit

_NO_LINGER = struct.pack("ii", 1, 0)
_End = tuple[asyncio.StreamReader, asyncio.StreamWriter]


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
        self.requests: list[str] = []  # request lines, of the proxies that read them

    @contextlib.asynccontextmanager
    async def serving(self, host: str = "127.0.0.1") -> AsyncIterator[Proxy]:
        server = await asyncio.start_server(self._accept, host, 0, ssl=self.context)
        port = server.sockets[0].getsockname()[1]
        shown = f"[{host}]" if ":" in host else host
        self.url = f"{'https' if self.context else 'http'}://{shown}:{port}{self.path}"
        try:
            yield self
        finally:
            server.close()
            await self.end_all()

    async def end_all(self) -> None:
        """Ends all connections that are open."""
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
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # one of both has left, or the test is over
        finally:
            for end in (writer, *([target[1]] if target else [])):
                await _close(end)
            self._tasks.discard(task)

    async def connect(self, client: _End, server: _End) -> None:
        """Passes everything on, both ways, until one side has ended."""
        await _first_of(_copy(client[0], server[1].write), _copy(server[0], client[1].write))


class CuttingProxy(Proxy):
    """Cuts connections at random places: of the answers, and sometimes of the requests; by an end, or by a reset."""

    def __init__(self, url: str, chance: random.Random, *, mean: float, most: int) -> None:
        """`mean` bytes of answers come through, on the average; after `most` cuts all does."""
        super().__init__(url)
        self._chance = chance
        self._mean = mean
        self._left = most
        self.cuts = 0

    async def connect(self, client: _End, server: _End) -> None:
        if self.cuts >= self._left:
            return await super().connect(client, server)
        asked = self._chance.randrange(400) if self._chance.random() < 0.15 else 1 << 40
        answered = int(self._chance.expovariate(1 / self._mean))
        await _first_of(
            _copy(client[0], server[1].write, asked),
            _copy(server[0], client[1].write, answered),
        )
        self.cuts += 1
        await client[1].drain()
        if self._chance.random() < 0.5:
            connection = client[1].get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        return None


class HttpProxy(Proxy):
    """Reads requests and asks the server on a connection of its own for each, as proxies do. `path` is taken off."""

    async def connect(self, client: _End, server: _End) -> None:
        head = (await client[0].readuntil(b"\r\n\r\n")).decode("latin-1")
        line, *headers = head[:-4].split("\r\n")
        method, target, version = line.split(" ")
        self.requests.append(f"{method} {target}")
        assert target.startswith(self.path), target
        kept = [header for header in headers if not header.lower().startswith("connection:")]
        length = next((int(header[15:]) for header in kept if header.lower().startswith("content-length:")), 0)
        lines = [f"{method} {target.removeprefix(self.path)} {version}", *kept, "Connection: close"]
        server[1].write("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + await client[0].readexactly(length))
        await _first_of(self.answer(server[0], client[1]), _until_end(client[0]))

    async def answer(self, server: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        await _copy(server, client.write)
        await client.drain()


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


async def _copy(reader: asyncio.StreamReader, write: Callable[[bytes], None], most: int = 1 << 40) -> None:
    while most and (data := await reader.read(min(most, 1 << 16))):
        most -= len(data)
        write(data)


async def _until_end(reader: asyncio.StreamReader) -> None:
    while await reader.read(1 << 16):
        pass


async def _first_of(*both: Awaitable[None]) -> None:
    tasks = [asyncio.ensure_future(one) for one in both]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError, asyncio.CancelledError):
        await writer.wait_closed()
