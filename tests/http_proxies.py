"""Bad networks between a client and a dragon server: a proxy that cuts connections, and one that buffers answers.

Both run in the test's own event loop and take a seeded source of chance.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import aiohttp
from aiohttp import web
from aiohttp.test_utils import TestServer

_End = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class CuttingProxy:
    """Passes bytes on, and ends each connection after some bytes of the server's: anywhere in heads, lines, characters.

    Half of them are reset, half are closed as if nothing more was to come. Of ten connections one is lost before the
    server hears of it, and one before the client has a byte of the answer.
    """

    def __init__(self, target: str, chance: random.Random, most: int = 100_000) -> None:
        self.url = ""
        self.cuts = 0
        self._target = urlsplit(target)
        self._chance = chance
        self._most = most  # bytes of the server's that one connection passes on: more than its longest line has
        self._tasks: set[asyncio.Task[None]] = set()

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[CuttingProxy]:
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
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
            kind = self._chance.random()
            if kind < 0.1:
                await reader.read(1)  # a request that no server hears of
                self.cuts += 1
                return
            target = await asyncio.open_connection(self._target.hostname, self._target.port)
            bytes_left = 0 if kind < 0.2 else round(self._most * self._chance.random() ** 3)  # short ones are many
            await self._pass_on((reader, writer), target, bytes_left)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            for end in (writer, target[1] if target else writer):
                if self._chance.random() < 0.5:
                    end.transport.abort()
                end.close()
            self._tasks.discard(task)

    async def _pass_on(self, client: _End, target: _End, bytes_left: int) -> None:
        up = asyncio.ensure_future(_copy(client[0], target[1]))
        try:
            while data := await target[0].read(1 << 16):
                if len(data) >= bytes_left:
                    self.cuts += 1
                    client[1].write(data[:bytes_left])
                    await client[1].drain()
                    return
                bytes_left -= len(data)
                client[1].write(data)
                await client[1].drain()
        finally:
            up.cancel()
            await asyncio.gather(up, return_exceptions=True)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1 << 16):
        writer.write(data)
        await writer.drain()


class BufferingProxy:
    """Passes an answer on when it has all of it, head included, as some companies' proxies do."""

    def __init__(self, target: str) -> None:
        self.url = ""
        self.requests: Counter[str] = Counter()  # by path
        self._target = target
        self._session: aiohttp.ClientSession

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[BufferingProxy]:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._pass_on)
        async with (
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as self._session,
            TestServer(app, host="127.0.0.1") as server,
        ):
            self.url = f"http://127.0.0.1:{server.port}"
            yield self

    async def _pass_on(self, request: web.Request) -> web.Response:
        self.requests[request.path] += 1
        names = {"Host", "Content-Length", "Transfer-Encoding", "Connection", "Content-Encoding"}
        headers = {name: value for name, value in request.headers.items() if name not in names}
        url, body = self._target + request.path_qs, await request.read()
        async with self._session.request(
            request.method, url, data=body, headers=headers, allow_redirects=False
        ) as answer:
            kept = {name: value for name, value in answer.headers.items() if name not in names}
            return web.Response(status=answer.status, headers=kept, body=await answer.read())
