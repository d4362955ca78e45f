"""Connections: how many, how slow, and that whatever goes wrong on them is answered in the contract's shape.

aiohttp closes connections that are silent between requests. It has no limit for a head or a body that does not come to
its end, for an answer that nobody takes, nor for the number of connections; those are here.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Awaitable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import HttpVersion10, HttpVersion11, web
from aiohttp.http_exceptions import ContentEncodingError, HttpProcessingError, InvalidURLError, LineTooLong
from aiohttp.web_protocol import PayloadAccessError, RequestHandler, RequestPayloadError

from dragon.errors import BadRequest, Full, ParameterError, TooSlow
from dragon.server.answers import error_answer, error_bytes, http_error_answer
from dragon.server.patience import Pace, Patience, reset, taken
from dragon.server.room import Room

log = logging.getLogger("dragon.server")

_CLIENTS_FAULTS = (HttpProcessingError, RequestPayloadError, PayloadAccessError)
_TEXTS: dict[type[Exception], tuple[str, str, str]] = {
    LineTooLong: ("request", "header", "the URL or a header of the request is too long"),
    InvalidURLError: ("url", "path", "the URL is not valid: write what is not ASCII as %XX, in UTF-8"),
    ContentEncodingError: ("body", "body", "the body's Content-Encoding is not supported, use gzip or none"),
}
_VERSIONS = frozenset({HttpVersion10, HttpVersion11})
_NOT_HTTP = ("request", "header", "this is not a valid HTTP/1.1 request")

REFUSAL_WAIT = 3.0  # seconds that a connection too many has for its request, to be answered, and to be gone
LOOKS = 100  # connections that are looked at before others get their turn


class Protocol(RequestHandler):
    """One connection. aiohttp's own would log and send back lines of a malformed request, that is, keys."""

    __slots__ = ("_asked", "_begun", "_body_pace", "_pace", "_settled", "_tally")

    def __init__(self, server: Server, **kw: Any) -> None:
        super().__init__(server, **kw)
        self._tally = server.tally
        self._begun = 0.0  # when the head that is not whole yet was begun; 0: there is none
        self._body_pace: Pace | None = None  # of a body that is not whole
        self._pace: Pace | None = None  # of the client's taking what is written
        self._settled: tuple[int, int] | None = None  # what had been written when all of it had been taken
        self._asked = 0.0  # when the request came that is being answered; 0: there is none

    def data_received(self, data: bytes) -> None:
        request = self._current_request
        belongs_to_the_next = request is None or request.content.is_eof()
        count = self._request_count
        super().data_received(data)
        if self._request_count != count:
            self._begun = 0.0
        elif belongs_to_the_next and data and not self._begun:
            self._begun = self._loop.time()

    def connection_lost(self, exc: BaseException | None) -> None:
        if self._asked and self._current_request is not None:
            self._count(self._current_request, "left")  # in the middle of its request; the handler is cancelled now
        super().connection_lost(exc)

    def ask(self) -> None:
        """A request has come that will be answered."""
        self._asked = self._loop.time()

    def _count(self, request: web.BaseRequest, status: str) -> None:
        seconds, self._asked = self._loop.time() - self._asked if self._asked else 0.0, 0.0
        self._tally.answered(request, status, seconds)

    def slow_with(self, now: float, patience: Patience) -> str:
        """What this client has been too slow with, "head", "body" or "answer", or ""; to be asked regularly."""
        request = self._current_request
        waiter = self._waiter
        if (
            waiter is None
        ):  # the next head's time runs once this request is answered, which may be right after this look
            self._begun = self._begun and now + patience.interval
        elif self._begun and not waiter.done() and now - self._begun > patience.seconds:
            return "head"
        if request is not None and not request.content.is_eof():
            # While nobody reads it, reading is paused: then it is not the client that does not get on.
            if not self._reading_paused and self._is_late_with_body(request, now, patience):
                return "body"
        else:
            self._body_pace = None
        return "answer" if self._is_late_with_taking(request, now, patience) else ""

    def _is_late_with_body(self, request: web.BaseRequest, now: float, patience: Patience) -> bool:
        received = request.content.total_raw_bytes
        pace = self._body_pace
        if pace is None or pace.what != self._request_count:
            self._body_pace = Pace(self._request_count, received + patience.least, now)
            return False
        return pace.is_late(received, received + patience.least, now, patience.seconds)

    def _is_late_with_taking(self, request: web.BaseRequest | None, now: float, patience: Patience) -> bool:
        transport = self.transport
        if transport is None:
            return False
        written = (self._request_count, -1 if request is None else request.writer.output_size)
        if written == self._settled:
            return False  # an idle stream costs no system call
        accepted, waiting = taken(transport)
        if not waiting:
            self._settled, self._pace = written, None
            return False
        self._settled = None
        goal = accepted + min(waiting, patience.least)
        if self._pace is None:
            self._pace = Pace(self, goal, now)
            return False
        return self._pace.is_late(accepted, goal, now, patience.seconds)

    def cut(self, what: str, patience: Patience) -> None:
        """Ends a connection that was too slow with something, with a 408 where that is possible."""
        transport = self.transport
        if transport is None:
            return
        request = self._current_request
        if what == "head":
            transport.write(error_bytes(_too_slow("head", patience)))
            self.force_close()
        elif what == "body" and request is not None and request.content._waiter is not None:
            self._lingering_time = 0.0  # nobody waits for the rest of it
            request.content.set_exception(_too_slow("body", patience))
        else:
            reset(transport)

    def log_exception(self, *args: Any, **kw: Any) -> None:
        error = kw.get("exc_info")
        if isinstance(error, _CLIENTS_FAULTS):
            log.info("a malformed request: %s", type(error).__name__)
        else:
            super().log_exception(*args, **kw)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        if isinstance(exc, ConnectionResetError):  # while it was told to go on with its body: nobody hears the answer
            answer = web.Response(status=400)
            answer.force_close()
            return answer
        if not isinstance(exc, _CLIENTS_FAULTS):
            return super().handle_error(request, status, exc, message)
        self.log_exception(exc_info=exc)
        if request.writer.output_size > 0:
            raise ConnectionError("the answer has begun, it cannot become an error")
        text = next((text for kind, text in _TEXTS.items() if isinstance(exc, kind)), _NOT_HTTP)
        answer = error_answer(BadRequest(ParameterError(*text)))
        answer.force_close()
        return answer

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        if isinstance(resp, web.HTTPException):  # aiohttp's own answer to an `Expect` that it does not know
            resp = http_error_answer(resp)
        try:
            return await super().finish_response(request, resp, start_time)
        finally:
            self._count(request, _CLASSES[resp.status // 100])


def _too_slow(part: str, patience: Patience) -> TooSlow:
    if part == "head":
        return TooSlow(f"the head of the request was not whole within {patience.seconds:g} seconds")
    return TooSlow(
        f"the body of the request came too slowly: less than {patience.least} bytes within {patience.seconds:g} seconds"
    )


class Refusal(asyncio.Protocol):
    """A connection too many: its first bytes are answered with 503, whatever they are, and it is closed."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._told = False
        self._timer: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]
        if len(self._server.refusals) >= self._server.room.refusals:
            self._close()
            return
        self._server.refusals.add(self)
        self._timer = asyncio.get_running_loop().call_later(REFUSAL_WAIT, self._close)

    def data_received(self, data: bytes) -> None:
        if not self._told:
            self._tell()
            # The rest of the request may be on its way: closing now would meet it with a reset that overtakes the 503.
            self._transport.write_eof()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._server.refusals.discard(self)
        if self._timer is not None:
            self._timer.cancel()

    def _tell(self) -> None:
        self._told = True
        self._transport.write(self._server.refusal)

    def _close(self) -> None:
        if not self._told:
            self._tell()
        self._transport.close()


_CLASSES = ("", "1xx", "2xx", "3xx", "4xx", "5xx")
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_NO_ROUTE = "unknown"  # what was asked for is nowhere, or no HTTP: its path is the client's text, and nobody's label


@dataclass(slots=True)
class Tally:
    """The connections of a process and what was answered on them, for /metrics."""

    open: int = 0
    refused: int = 0  # since the start
    cut: Counter[str] = field(default_factory=Counter)  # since the start, by what their clients were too slow with
    #: Number and seconds of requests since the start, by method, route and class of status, or "left": the client has.
    requests: dict[tuple[str, str, str], list[float]] = field(default_factory=dict)

    def answered(self, request: web.BaseRequest, status: str, seconds: float) -> None:
        """Counts a request under its route's pattern."""
        match = getattr(request, "_match_info", None)
        resource = None if match is None else match.route.resource
        route = _NO_ROUTE if resource is None else resource.canonical
        method = request.method if request.method in _METHODS else "other"
        found = self.requests.get((method, route, status))
        if found is None:
            found = self.requests[method, route, status] = [0, 0.0]
        found[0] += 1
        found[1] += seconds


class Server(web.Server):
    """Makes a `Protocol` of each connection, or a `Refusal`, and looks after the slow ones."""

    def __init__(self, *args: Any, patience: Patience, room: Room, tally: Tally, **kw: Any) -> None:
        super().__init__(*args, **kw)
        self._patience = patience
        self.room = room
        self.tally = tally
        self.refusals: set[Refusal] = set()
        self.refusal = error_bytes(
            Full(f"this server has {room.connections} connections open, and takes no more: try again")
        )

    def __call__(self) -> Protocol | Refusal:  # type: ignore[override]
        if self.tally.open >= self.room.connections:
            self.tally.refused += 1
            return Refusal(self)
        return Protocol(self, loop=self._loop, **self._kwargs)

    def connection_made(self, handler: RequestHandler, transport: asyncio.Transport) -> None:
        self.tally.open += 1
        super().connection_made(handler, transport)

    def connection_lost(self, handler: RequestHandler, exc: BaseException | None = None) -> None:
        self.tally.open -= 1
        super().connection_lost(handler, exc)

    async def watch(self) -> None:
        """Cuts the connections of clients that are too slow, for ever.

        One walk over all of them now and then: a timer a connection would cost each request, and this costs none.
        """
        while True:
            await asyncio.sleep(self._patience.interval)
            try:
                await self._look_at_all()
            except Exception:
                log.exception("slow clients: this look at the connections failed, the next one comes")

    async def _look_at_all(self) -> None:
        cut: Counter[str] = Counter()
        for number, connection in enumerate(self.connections, 1):
            assert isinstance(connection, Protocol)
            what = ""
            with contextlib.suppress(OSError):  # closed by the other side meanwhile: there is nothing to cut
                what = connection.slow_with(self._loop.time(), self._patience)
            if what:
                connection.cut(what, self._patience)
                cut[what] += 1
            if number % LOOKS == 0:
                await asyncio.sleep(0)
        self.tally.cut += cut
        for what, count in cut.items():
            log.info("slow clients: %d connections cut, too slow with the %s", count, what)


async def _refuse_version(request: web.BaseRequest) -> web.StreamResponse:
    request._version = HttpVersion11  # which the answer would repeat; the property remembers
    answer = error_answer(BadRequest(ParameterError(*_NOT_HTTP)))
    answer.force_close()
    return answer


class Runner(web.AppRunner):
    """Runs an application on a `Server`."""

    def __init__(self, app: web.Application, *, patience: Patience, room: Room, tally: Tally, **kw: Any) -> None:
        super().__init__(app, **kw)
        self._patience = patience
        self._room = room
        self._tally = tally

    async def watch(self) -> None:
        """Cuts the connections of clients that are too slow, for ever; to be called after `setup`."""
        assert isinstance(self.server, Server)
        await self.server.watch()

    async def _make_server(self) -> web.Server:
        made = await super()._make_server()
        handler = made.request_handler

        def handle(request: web.BaseRequest) -> Awaitable[web.StreamResponse]:
            assert isinstance(request.protocol, Protocol)
            request.protocol.ask()
            return handler(request) if request._version in _VERSIONS else _refuse_version(request)

        return Server(
            handle,
            request_factory=made.request_factory,
            handler_cancellation=made.handler_cancellation,
            loop=made._loop,
            patience=self._patience,
            room=self._room,
            tally=self._tally,
            **made._kwargs,
        )
