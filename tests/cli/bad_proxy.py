"""A proxy in front of dragon that does one thing wrong, or nothing; for `dragon doctor` to find."""

from __future__ import annotations

import asyncio
import zlib
from dataclasses import dataclass

from tests.proxies import HttpProxy, Request, content_length, head_bytes, read_head

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


class FaultyProxy(HttpProxy):
    """Reads requests and answers, and does wrong what its faults say."""

    def __init__(self, url: str, faults: Faults) -> None:
        super().__init__(url)
        self.faults = faults
        if faults.asks_http10 or faults.compresses:
            self.version = "1.0"

    async def read(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Request | None:
        first, head = await read_head(reader)
        method, target, _ = first.split(" ")
        length = content_length(head)
        if refusal := self._refusal(method, length):
            writer.write(_REFUSED % refusal)
            await writer.drain()
            return None
        kept = [(name, value) for name, value in head if name.lower() not in self.faults.strips]
        return Request(method, target, kept, await reader.readexactly(length))

    def _refusal(self, method: str, length: int) -> bytes:
        if method in self.faults.refuses:
            return b"405 Method Not Allowed"
        if self.faults.most_body and length > self.faults.most_body:
            return b"413 Request Entity Too Large"
        return b""

    async def answer(self, server: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        first, head = await read_head(server)
        kept = [(name, value) for name, value in head if name.lower() not in self.faults.hides]
        packer = None
        if self.faults.compresses and ("Content-Type", "application/x-ndjson") in head:
            packer = zlib.compressobj(wbits=31)
            kept.append(("Content-Encoding", "gzip"))
        client.write(head_bytes(first.replace("HTTP/1.0", "HTTP/1.1"), [*kept, *self.faults.adds]))
        held: list[bytes] = []
        while data := await asyncio.wait_for(server.read(1 << 16), self.faults.idle or None):
            held.append(packer.compress(data) if packer else data)
            if not self.faults.buffers and len(held) > self.faults.gathers:
                client.write(b"".join(held))
                held.clear()
        client.write(b"".join(held) + (packer.flush() if packer else b""))
        await client.drain()
