"""Connections: what is no HTTP request is answered in the contract's shape too, and nothing of it reaches the log."""

from __future__ import annotations

import logging
from collections.abc import Awaitable
from typing import Any

from aiohttp import HttpVersion10, HttpVersion11, web
from aiohttp.http_exceptions import ContentEncodingError, HttpProcessingError, InvalidURLError, LineTooLong
from aiohttp.web_protocol import PayloadAccessError, RequestHandler, RequestPayloadError

from dragon.errors import BadRequest, ParameterError
from dragon.server.answers import error_answer, http_error_answer

log = logging.getLogger("dragon.server")

_CLIENTS_FAULTS = (HttpProcessingError, RequestPayloadError, PayloadAccessError)
_TEXTS: dict[type[Exception], tuple[str, str, str]] = {
    LineTooLong: ("request", "header", "the URL or a header of the request is too long"),
    InvalidURLError: ("url", "path", "the URL is not valid: write what is not ASCII as %XX, in UTF-8"),
    ContentEncodingError: ("body", "body", "the body's Content-Encoding is not supported, use gzip or none"),
}
_VERSIONS = frozenset({HttpVersion10, HttpVersion11})
_NOT_HTTP = ("request", "header", "this is not a valid HTTP/1.1 request")


class Protocol(RequestHandler):
    """One connection. aiohttp's own would log and send back lines of a malformed request, that is, keys."""

    __slots__ = ()

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
        return await super().finish_response(request, resp, start_time)


class _Server(web.Server):
    def __call__(self) -> Protocol:
        return Protocol(self, loop=self._loop, **self._kwargs)


async def _refuse_version(request: web.BaseRequest) -> web.StreamResponse:
    request._version = HttpVersion11  # which the answer would repeat; the property remembers
    answer = error_answer(BadRequest(ParameterError(*_NOT_HTTP)))
    answer.force_close()
    return answer


class Runner(web.AppRunner):
    """Runs an application on `Protocol`s."""

    async def _make_server(self) -> web.Server:
        made = await super()._make_server()
        handler = made.request_handler

        def handle(request: web.BaseRequest) -> Awaitable[web.StreamResponse]:
            return handler(request) if request._version in _VERSIONS else _refuse_version(request)

        return _Server(
            handle,
            request_factory=made.request_factory,
            handler_cancellation=made.handler_cancellation,
            loop=made._loop,
            **made._kwargs,
        )
