"""A proxy in front of dragon that does one thing wrong, or nothing; in the test's own event loop."""

from __future__ import annotations

import asyncio
import contextlib
import zlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

Head = list[tuple[str, str]]
_REFUSED = b"HTTP/1.1 %s\r\nContent-Type: text/html\r\nContent-Length: 13\r\nConnection: close\r\n\r\n<html></html>"


@dataclass(frozen=True, slots=True)
class Faults:
    """What a proxy does wrong."""

    buffers: bool = False  # nothing is passed on before the answer is whole
    gathers: int = 0  # the answer is passed on in lots of so many pieces
    compresses: bool = False
    idle: float = 0.0  # seconds of silence after which it cuts
    strips: frozenset[str] = frozenset()  # headers of requests, in small letters
    adds: tuple[tuple[str, str], ...] = ()  # headers of answers
    hides: frozenset[str] = frozenset()  # headers of answers, in small letters
    most_body: int = 0  # bytes
    asks_http10: bool = False
    refuses: frozenset[str] = frozenset()  # methods


@dataclass(slots=True)
class Proxy:
    """Listens on a free port of its own and passes on to another."""

    target: int
    faults: Faults
    port: int = 0
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[Proxy]:
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for task in self.tasks:
                task.cancel()
            await asyncio.gather(*self.tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.tasks.add(task)
        try:
            await self._serve(reader, writer)
        except (OSError, EOFError, TimeoutError, asyncio.CancelledError):
            writer.transport.abort()
        finally:
            self.tasks.discard(task)
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first, head = await _read_head(reader)
        method, path, _ = first.split(" ")
        length = int({name.lower(): value for name, value in head}.get("content-length", 0))
        refusal = self._refusal(method, length)
        if refusal:
            writer.write(_REFUSED % refusal)
            await writer.drain()
            return
        body = await reader.readexactly(length)
        kept = [(name, value) for name, value in head if name.lower() not in self.faults.strips | {"connection"}]
        version = "1.0" if self.faults.asks_http10 or self.faults.compresses else "1.1"
        upstream, up = await asyncio.open_connection("127.0.0.1", self.target)
        try:
            up.write(_head_bytes(f"{method} {path} HTTP/{version}", [*kept, ("Connection", "close")]) + body)
            await self._answer(upstream, writer)
        finally:
            up.transport.abort()

    def _refusal(self, method: str, length: int) -> bytes:
        if method in self.faults.refuses:
            return b"405 Method Not Allowed"
        if self.faults.most_body and length > self.faults.most_body:
            return b"413 Request Entity Too Large"
        return b""

    async def _answer(self, upstream: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first, head = await _read_head(upstream)
        kept = [(name, value) for name, value in head if name.lower() not in self.faults.hides]
        packer = None
        if self.faults.compresses and ("Content-Type", "application/x-ndjson") in head:
            packer = zlib.compressobj(wbits=31)
            kept.append(("Content-Encoding", "gzip"))
        writer.write(_head_bytes(first.replace("HTTP/1.0", "HTTP/1.1"), [*kept, *self.faults.adds]))
        held: list[bytes] = []
        while data := await asyncio.wait_for(upstream.read(1 << 16), self.faults.idle or None):
            held.append(packer.compress(data) if packer else data)
            if not self.faults.buffers and len(held) > self.faults.gathers:
                writer.write(b"".join(held))
                held.clear()
        writer.write(b"".join(held) + (packer.flush() if packer else b""))
        await writer.drain()


async def _read_head(reader: asyncio.StreamReader) -> tuple[str, Head]:
    text = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = text.rstrip("\r\n").split("\r\n")
    pairs = (line.partition(":") for line in lines)
    return first, [(name, value.strip()) for name, _, value in pairs]


def _head_bytes(first: str, head: Head) -> bytes:
    lines = [first, *(f"{name}: {value}" for name, value in head)]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"
