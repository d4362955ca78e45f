"""Between dragon and its Redis: a proxy that knows where replies begin and end, and loses some of them.

RESP2 over Unix sockets, in the test's own event loop. What it does is set while it runs:

- `drop_every = k`: the reply of every k-th script (EVALSHA, EVAL) that Redis has run is swallowed, and the connection
  is cut, so that its caller cannot know whether it ran. Replies of all connections are counted.
- `hang()` and `go_on()`: connections are accepted and nothing passes, either way.
- `lose = 0.2`: the share of pub/sub messages that vanish. `cut_subscribers()`: as it says.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import deque
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

SCRIPTS = (b"EVALSHA", b"EVAL")


def frame_end(data: bytes | bytearray, start: int) -> int:
    """Where the RESP2 frame that begins at `start` ends; -1 when it is not whole yet."""
    line = data.find(b"\r\n", start)
    if line < 0:
        return -1
    kind, end = data[start : start + 1], line + 2
    if kind in (b"+", b"-", b":"):
        return end
    count = int(data[start + 1 : line])
    if kind == b"$":
        return end if count < 0 else end + count + 2 if len(data) >= end + count + 2 else -1
    assert kind == b"*", f"not RESP2: {bytes(data[start : start + 40])!r}"
    for _ in range(count):
        end = frame_end(data, end)
        if end < 0:
            return -1
    return end


def words_of(frame: bytes, most: int = 2) -> list[bytes]:
    """The first bulk strings of an array: of a command its name, of a push its kind."""
    found = []
    at = frame.index(b"\r\n") + 2
    while len(found) < most and frame[at : at + 1] == b"$":
        line = frame.index(b"\r\n", at)
        length = int(frame[at + 1 : line])
        found.append(frame[line + 2 : line + 2 + length])
        at = line + 4 + length
    return found


class _Frames:
    """Cuts a stream of bytes into RESP2 frames."""

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        self._data += data
        frames, start = [], 0
        while start < len(self._data) and (end := frame_end(self._data, start)) > 0:
            frames.append(bytes(self._data[start:end]))
            start = end
        del self._data[:start]
        return frames


class RedisProxy:
    """Listens on `path` and passes on to the Redis of `url` (unix://)."""

    def __init__(self, path: Path, url: str, chance: random.Random) -> None:
        self.url = f"unix://{path}"
        self.drop_every = 0
        self.lose = 0.0
        self.dropped = 0  # replies
        self.lost = 0  # messages
        self.cut = 0  # subscriptions
        self._path = path
        self._target = unquote(urlsplit(url).path)
        self._chance = chance
        self._scripts = 0
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._connections: set[_Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[RedisProxy]:
        server = await asyncio.start_unix_server(self._accept, self._path)
        try:
            yield self
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def hang(self) -> None:
        self._flowing.clear()

    def go_on(self) -> None:
        self._flowing.set()

    def cut_subscribers(self) -> None:
        for connection in self._connections:
            if connection.is_subscribed:
                self.cut += 1
                connection.close()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            target = await asyncio.open_unix_connection(self._target)
            connection = _Connection(self, (reader, writer), target)
            self._connections.add(connection)
            try:
                await connection.run()
            finally:
                self._connections.discard(connection)
                await _end(target[1])
        except (OSError, asyncio.CancelledError):
            pass  # Redis is away, or the test is over
        finally:
            await _end(writer)
            self._tasks.discard(task)

    async def passage(self) -> None:
        """Waits while the proxy hangs."""
        await self._flowing.wait()

    def swallows(self, name: bytes, reply: bytes) -> bool:
        """Whether this reply is lost."""
        if name not in SCRIPTS or reply.startswith(b"-"):
            return False
        self._scripts += 1
        if not self.drop_every or self._scripts % self.drop_every:
            return False
        self.dropped += 1
        return True

    def loses(self, push: bytes) -> bool:
        """Whether this message vanishes."""
        if words_of(push, 1) != [b"message"] or self._chance.random() >= self.lose:
            return False
        self.lost += 1
        return True


async def _end(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


_End = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class _Connection:
    """One client of the proxy and its connection to Redis."""

    def __init__(self, proxy: RedisProxy, client: _End, target: _End) -> None:
        self.is_subscribed = False
        self._proxy = proxy
        self._client = client
        self._target = target
        self._asked: deque[bytes] = deque()  # names of commands whose replies are awaited

    async def run(self) -> None:
        both = [asyncio.ensure_future(self._pass_commands()), asyncio.ensure_future(self._pass_replies())]
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in both:
                one.cancel()
            await asyncio.gather(*both, return_exceptions=True)
            self.close()

    def close(self) -> None:
        for _, writer in (self._client, self._target):
            writer.transport.abort()

    async def _pass_commands(self) -> None:
        frames = _Frames()
        while data := await self._client[0].read(1 << 16):
            await self._proxy.passage()
            for frame in frames.feed(data):
                name = words_of(frame, 1)[0].upper()
                if name == b"SUBSCRIBE":
                    self.is_subscribed = True  # from here on Redis pushes, and answers nothing else
                self._asked.append(name)
            self._target[1].write(data)

    async def _pass_replies(self) -> None:
        frames = _Frames()
        while data := await self._target[0].read(1 << 16):
            await self._proxy.passage()
            for frame in frames.feed(data):
                if self.is_subscribed:
                    if frame.startswith(b"*") and self._proxy.loses(frame):
                        continue
                elif self._proxy.swallows(self._asked.popleft(), frame):
                    return
                self._client[1].write(frame)
