"""Many open streams of statuses, and when each line came to each of them."""

from __future__ import annotations

import asyncio
import math
import resource
import time
from collections.abc import Callable, Sequence

from bench.direct import write_of
from bench.load import get
from dragon.store.tasks import Reserved, Write

AT_ONCE = 128  # connections that are being opened
FIRST = b"]\n\r\n"  # the end of the list that every stream begins with
END = b'"}\n'  # of a line whose result is a text
ROOM = 32  # bytes kept of what came, for a number that comes in two pieces

Heard = Callable[[int, float], None]


def allow_files(count: int) -> None:
    """Raises the limit of open files, of this process and of those that it starts from now on."""
    needed = count + 500
    soft, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most != resource.RLIM_INFINITY and most < needed:
        raise SystemExit(f"{count:,} connections need {needed:,} open files, the limit is {most:,}: raise `ulimit -Hn`")
    if soft != resource.RLIM_INFINITY and soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, most))


def numbered(task: Reserved, number: int, size: int = 0) -> Write:
    """A status of an executing task, which a `Stream` knows by its number; `size` is how much longer its result is."""
    return write_of(task, "executing", b'"%s#%d"' % (b"x" * size, number))


def follow(key: str) -> bytes:
    """The request for a task's stream."""
    return get(f"/v1/status_stream?tasks={key}")


class Stream(asyncio.Protocol):
    """A connection with one stream on it. `heard` is told the number of each line, and when the line had come."""

    __slots__ = ("_data", "_heard", "_opened", "_request", "transport")

    def __init__(self, request: bytes, heard: Heard) -> None:
        self.transport: asyncio.Transport
        self._request = request
        self._heard = heard
        self._data = b""
        self._opened: asyncio.Future[None] | None = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        self.transport.write(self._request)

    async def opened(self) -> None:
        """Waits until the stream has begun. Raises ConnectionError when the answer is no stream."""
        if self._opened is not None:
            await self._opened

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        self._data += data
        if self._opened is not None:
            self._open()
            return
        end = self._data.rfind(END)
        if end >= 0:
            self._heard(int(self._data[self._data.rfind(b"#", 0, end) + 1 : end]), now)
            self._data = self._data[end + len(END) :]
        self._data = self._data[-ROOM:]

    def _open(self) -> None:
        assert self._opened is not None
        if b" 200 " not in self._data[:20]:
            self._opened.set_exception(ConnectionError(f"no stream: {self._data[:500]!r}"))
        elif self._data.endswith(FIRST):
            self._opened.set_result(None)
            self._opened = None
            self._data = b""

    def connection_lost(self, error: Exception | None) -> None:
        if self._opened is not None and not self._opened.done():
            self._opened.set_exception(ConnectionError("the server closed the connection"))

    def close(self) -> None:
        self._heard = lambda _number, _moment: None
        self.transport.abort()  # no TIME_WAIT for thousands of ports


async def open_stream(port: int, request: bytes, heard: Heard) -> Stream:
    """A stream that has begun."""
    _, stream = await asyncio.get_running_loop().create_connection(lambda: Stream(request, heard), "127.0.0.1", port)
    await stream.opened()
    return stream


async def open_streams(port: int, wanted: Sequence[tuple[bytes, Heard]]) -> list[Stream]:
    """As many streams as there are (request, heard), a few at a time."""
    places = asyncio.Semaphore(AT_ONCE)

    async def one(request: bytes, heard: Heard) -> Stream:
        async with places:
            return await open_stream(port, request, heard)

    return list(await asyncio.gather(*(one(request, heard) for request, heard in wanted)))


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that so many percent of all do not exceed."""
    ordered = sorted(values)
    return ordered[math.ceil(len(ordered) * percent / 100) - 1]
