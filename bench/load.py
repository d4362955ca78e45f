"""A light HTTP client: it shares the cores with what it measures, so it does nothing but write, count and read."""

from __future__ import annotations

import asyncio
import time

import orjson

from bench.place import SECRET

HELLO = {"task_name": "hello"}


def post(path: str, value: object) -> bytes:
    """The bytes of a POST with a JSON body and the demo account's secret key."""
    body = orjson.dumps(value)
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Secret {SECRET}\r\n"
    return head.encode() + b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body


def get(path: str, *headers: str) -> bytes:
    """The bytes of a GET."""
    lines = [f"GET {path} HTTP/1.1", "Host: 127.0.0.1", *headers]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


class Connection(asyncio.Protocol):
    """One keep-alive connection: a request at a time, whole answers (Content-Length or chunked)."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._answer: asyncio.Future[bytes] | None = None
        self._transport: asyncio.Transport

    @classmethod
    async def open(cls, port: int) -> Connection:
        _, connection = await asyncio.get_running_loop().create_connection(cls, "127.0.0.1", port)
        return connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    async def ask(self, request: bytes) -> bytes:
        """Sends a request; returns the whole answer as received, head and framing included."""
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._answer

    def data_received(self, data: bytes) -> None:
        self._data += data
        if self._answer is not None and self._is_whole():
            answer, self._answer = self._answer, None
            answer.set_result(bytes(self._data))
            self._data.clear()

    def _is_whole(self) -> bool:
        head = self._data.find(b"\r\n\r\n")
        if head < 0:
            return False
        at = self._data.find(b"Content-Length: ", 0, head)
        if at >= 0:
            return len(self._data) >= head + 4 + int(self._data[at + 16 : self._data.index(b"\r\n", at)])
        if self._data.find(b"Transfer-Encoding: chunked", 0, head) >= 0:
            return self._data.endswith(b"\r\n0\r\n\r\n")
        return True  # no body: 204, or 302 without one

    def connection_lost(self, error: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ConnectionError("the server closed the connection"))

    def close(self) -> None:
        self._transport.close()


async def requests_a_second(port: int, request: bytes, *, connections: int, count: int, expect: bytes) -> float:
    """`count` requests over so many connections, each waiting for its answer, whose first line has `expect`."""
    opened = await asyncio.gather(*(Connection.open(port) for _ in range(connections)))
    left = iter(range(count))

    async def client(connection: Connection) -> None:
        for _ in left:
            answer = await connection.ask(request)
            assert expect in answer[:40], answer[:500]

    begun = time.perf_counter()
    await asyncio.gather(*(client(connection) for connection in opened))
    seconds = time.perf_counter() - begun
    for connection in opened:
        connection.close()
    return count / seconds
