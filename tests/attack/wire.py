"""One connection that sends bytes as they are, and reads whole answers within a deadline."""

from __future__ import annotations

import contextlib
import http.client
import io
import select
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

#: Seconds within which every request is to be answered, or its connection closed.
DEADLINE = 30.0


class Hang(AssertionError):
    """Raised when a request is neither answered nor its connection closed in time."""


@dataclass(frozen=True)
class Heard:
    """A whole answer; `headers` has lower-case names, `raw` all bytes of the head as text."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)

    @property
    def text(self) -> str:
        """All that the client was told, for a search."""
        head = "\n".join(f"{name}: {value}" for name, value in self.headers.items())
        return f"{self.status}\n{head}\n\n{self.body.decode('utf-8', 'replace')}"


@dataclass
class Wire:
    """A keep-alive connection to a server on this machine; `with Wire(port) as wire`."""

    port: int
    deadline: float = DEADLINE
    sent: int = 0  # requests
    _socket: socket.socket | None = field(default=None, init=False)

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def connect(self) -> socket.socket:
        if self._socket is None:
            self._socket = socket.create_connection(("127.0.0.1", self.port), timeout=self.deadline)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return self._socket

    def ask(
        self, method: str, target: str | bytes, headers: Mapping[str, str] | None = None, body: Any = None
    ) -> Heard:
        """One request; `target`, names and values go out as they are, `body` is bytes or a JSON value."""
        return self.hear(request_of(method, target, headers, body), method)

    def first_line(self, method: str, target: str, headers: Mapping[str, str] | None, body: Any) -> Heard:
        """As `ask`, for a stream: the answer's first line, and the connection is closed."""
        with self._asking(request_of(method, target, headers, body)) as given:
            try:
                response = http.client.HTTPResponse(given, method=method)
                response.begin()
                line = response.readline() if response.status == 200 else response.read()
                heard = Heard(response.status, _headers(response), line)
                response.close()
                return heard
            finally:
                self.close()

    def hear(self, request: bytes, method: str = "GET") -> Heard:
        """Sends bytes and reads one answer. Raises Hang, and ConnectionError when there was none."""
        fresh = self._socket is None
        try:
            return self._hear(request, method)
        except ConnectionError:
            if fresh:
                raise
        return self._hear(request, method)  # the server had closed an idle connection: once more, on a new one

    def _hear(self, request: bytes, method: str) -> Heard:
        with self._asking(request) as given:
            response = http.client.HTTPResponse(given, method=method)
            response.begin()
            heard = Heard(response.status, _headers(response), response.read())
            if response.will_close:
                self.close()
            response.close()
            return heard

    @contextlib.contextmanager
    def _asking(self, request: bytes) -> Any:
        self.sent += 1
        begun = time.monotonic()
        try:
            given = self.connect()
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it may have answered already
                given.sendall(request)
            yield given
        except TimeoutError:
            self.close()
            raise Hang(f"no answer within {self.deadline} s to {request[:500]!r}") from None
        except (http.client.HTTPException, ConnectionError) as error:
            self.close()
            raise ConnectionError(f"{type(error).__name__}: {error}") from error
        if time.monotonic() - begun > self.deadline:
            raise Hang(f"an answer took longer than {self.deadline} s: {request[:500]!r}")

    def converse(
        self, request: bytes, methods: list[str] | None = None, *, patience: float = 0.5, first: float | None = None
    ) -> list[Heard]:
        """Sends bytes on a connection of their own and reads answers until the server closes. Raises Hang.

        After `patience` seconds of silence it is told that no more will come: it may have waited for the rest. `first`:
        that many seconds when it has said nothing yet, of one that owes an answer: told so, it may drop it.
        """
        self.close()
        begun = time.monotonic()
        data = b""
        given = self.connect()
        try:
            with contextlib.suppress(ConnectionError):
                given.sendall(request)
                is_over = False
                while True:
                    silence = patience if data or first is None else first
                    if not is_over and not select.select([given], [], [], silence)[0]:
                        given.shutdown(socket.SHUT_WR)
                        is_over = True
                    chunk = given.recv(65536)
                    if not chunk:
                        break
                    data += chunk
                    if time.monotonic() - begun > self.deadline:
                        raise TimeoutError
        except TimeoutError:
            raise Hang(
                f"the connection is open after {self.deadline} s: {request[:500]!r}, got {data[-500:]!r}"
            ) from None
        finally:
            self.close()
            self.sent += 1
        return answers_of(data, methods or [])


def request_of(method: str, target: str | bytes, headers: Mapping[str, str] | None, body: Any = None) -> bytes:
    """The bytes of a request; a body gets its Content-Length."""
    where = target if isinstance(target, bytes) else target.encode("utf-8", "surrogateescape")
    head = b"%s %s HTTP/1.1\r\nHost: dragon.example\r\n" % (method.encode(), where)
    for name, value in (headers or {}).items():
        head += f"{name}: {value}\r\n".encode("utf-8", "surrogateescape")
    if body is None:
        return head + b"\r\n"
    encoded = body if isinstance(body, bytes) else orjson.dumps(body)
    return head + b"Content-Length: %d\r\n\r\n%s" % (len(encoded), encoded)


def answers_of(data: bytes, methods: list[str]) -> list[Heard]:
    """Reads answers that follow each other, to requests of the given methods (GET where there are no more)."""
    buffer = _Buffer(data)
    found = []
    while buffer.tell() < len(data):
        method = methods[len(found)] if len(found) < len(methods) else "GET"
        response = http.client.HTTPResponse(buffer, method=method)  # type: ignore[arg-type]
        start = buffer.tell()
        try:
            response.begin()
            found.append(Heard(response.status, _headers(response), response.read()))
        except http.client.RemoteDisconnected:
            assert set(data[start:].split(b"\r\n")) == {b"HTTP/1.1 100 Continue", b""}, data
            break  # it was to go on, and did not
        except http.client.HTTPException as error:
            raise AssertionError(f"what the server sent is no HTTP: {error!r} in {data!r}") from error
    return found


def _headers(response: http.client.HTTPResponse) -> dict[str, str]:
    return {name.lower(): value for name, value in response.getheaders()}


class _Buffer(io.BytesIO):
    """A socket for http.client."""

    def makefile(self, _mode: str) -> _Buffer:
        return self

    def close(self) -> None:
        pass
