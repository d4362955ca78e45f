"""One request and its answer as the doctor needs them: headers that stand twice, the moments in which pieces arrive."""

from __future__ import annotations

import http.client
import json
import ssl
import time
import zlib
from collections.abc import Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from email.message import Message
from typing import Any
from urllib.parse import urlsplit

PATIENCE = 20.0  # seconds without a byte
MOST_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer."""

    status: int
    headers: Message
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON, None when it is none: then it was a proxy that answered."""
        try:
            return json.loads(self.body)
        except ValueError:
            return None

    @property
    def message(self) -> str:
        """What dragon says for an error; "" when it was not dragon that spoke."""
        value = self.json
        return str(value.get("message", "")) if isinstance(value, dict) else ""


@dataclass(frozen=True, slots=True)
class Piece:
    """Some bytes of an answer."""

    moment: float  # seconds since the request was sent
    data: bytes


@dataclass(slots=True)
class Stream:
    """An answer that is read as it comes."""

    status: int
    headers: Message
    pieces: Generator[Piece, None, None]


class Exchange:
    """Requests to one server, each on a connection of its own."""

    def __init__(self, url: str, timeout: float = PATIENCE) -> None:
        """`url` as people type it: the scheme may be missing, a path is kept."""
        parts = urlsplit(url if "://" in url else f"http://{url}")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{url!r} is not the address of a server: write http://host:port or https://host")
        self.url = f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"
        self.host = parts.hostname
        self.origin = f"{parts.scheme}://{parts.netloc}"
        self._parts = parts
        self._prefix = parts.path.rstrip("/")
        self._timeout = timeout

    def ask(
        self, method: str, path: str, headers: Mapping[str, str] | None = None, body: bytes | None = None
    ) -> Answer:
        """Raises OSError or http.client.HTTPException."""
        connection = self._send(method, path, headers or {}, body)
        try:
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read(MOST_BYTES))
        finally:
            connection.close()

    def stream(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        timeout: float | None = None,
    ) -> Stream:
        """Raises OSError or http.client.HTTPException, now or while the pieces are taken."""
        started = time.monotonic()
        connection = self._send(method, path, headers or {}, body, timeout)
        try:
            response = connection.getresponse()
        except BaseException:
            connection.close()
            raise
        return Stream(response.status, response.headers, _pieces(connection, response, started))

    def _send(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        body: bytes | None,
        timeout: float | None = None,
    ) -> http.client.HTTPConnection:
        connection = self._connection(self._timeout if timeout is None else timeout)
        try:
            connection.request(method, self._prefix + path, body, dict(headers))
        except (BrokenPipeError, ConnectionResetError):
            pass  # whoever refuses a body may answer before all of it was sent
        except BaseException:
            connection.close()
            raise
        return connection

    def _connection(self, timeout: float) -> http.client.HTTPConnection:
        host, port = self.host, self._parts.port
        if self._parts.scheme == "https":
            return http.client.HTTPSConnection(host, port, timeout=timeout, context=ssl.create_default_context())
        return http.client.HTTPConnection(host, port, timeout=timeout)


def _pieces(
    connection: http.client.HTTPConnection, response: http.client.HTTPResponse, started: float
) -> Generator[Piece, None, None]:
    unpack = zlib.decompressobj(31) if response.headers.get("Content-Encoding") == "gzip" else None
    try:
        while data := response.read1(1 << 16):
            moment = time.monotonic() - started
            yield Piece(moment, unpack.decompress(data) if unpack else data)
    finally:
        connection.close()


def lines_of(pieces: Iterable[Piece]) -> Iterator[tuple[float, Any]]:
    """Lines of JSON, each with the moment in which its end arrived; heartbeats are no lines."""
    rest = b""
    for piece in pieces:
        rest += piece.data
        *lines, rest = rest.split(b"\n")
        for line in lines:
            if line.strip():
                yield piece.moment, json.loads(line)
