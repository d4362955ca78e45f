"""What every answer has in common: CORS, the JSON shapes of errors, and that nothing is ever a traceback or HTML."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any

import orjson
from aiohttp import hdrs, web
from multidict import CIMultiDict, istr
from redis.exceptions import ResponseError

from dragon import journal
from dragon.connections import RETRY_AFTER
from dragon.errors import BadRequest, DragonError, Full, TooSlow, Unavailable
from dragon.tracing import Tracing

log = logging.getLogger("dragon.server")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

#: What every answer has: a browser client that cannot read a 401 dies silently.
COMMON_HEADERS = {"Access-Control-Allow-Origin": "*", "Server": "dragon", "X-Content-Type-Options": "nosniff"}

#: Headers of requests and answers, by the names that `aiohttp` finds fastest.
REQUEST_ID, TRACEPARENT = istr("X-Request-Id"), istr("traceparent")

_ALLOWED_HEADERS = "Authorization, Content-Type, Idempotency-Key, Last-Event-ID, X-Request-Id, traceparent"
_JSON_HEADERS = CIMultiDict(COMMON_HEADERS | {"Cache-Control": "no-store", "Content-Type": "application/json"})
_PREFLIGHT = COMMON_HEADERS | {
    "Access-Control-Allow-Methods": "GET, HEAD, POST, DELETE, OPTIONS",
    "Access-Control-Allow-Headers": _ALLOWED_HEADERS,
    "Access-Control-Max-Age": "86400",
}


def json_answer(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    """A JSON answer, not to be kept by caches unless `headers` say so; bytes are taken as JSON that is already made."""
    body = value if isinstance(value, bytes) else orjson.dumps(value)
    given = _JSON_HEADERS.copy()  # aiohttp takes a CIMultiDict as it is
    if headers:
        given.update(headers)
    return web.Response(body=body, status=status, headers=given)


def error_body(error: DragonError) -> dict[str, Any]:
    """The shape of an error in version 1: all parameter errors of a 400, the message of anything else."""
    if isinstance(error, BadRequest):
        return {"status": "error", "errors": [item.as_dict() for item in error.errors]}
    return {"status": "error", "message": error.message}


def error_answer(error: DragonError) -> web.Response:
    headers = {}
    if error.retry_after is not None:
        headers["Retry-After"] = str(max(1, round(error.retry_after)))
        headers["Access-Control-Expose-Headers"] = "Retry-After"  # else the scripts of a page cannot read it
    answer = json_answer(error_body(error), error.http_status, headers)
    if isinstance(error, TooSlow):
        answer.force_close()
    return answer


def error_bytes(error: DragonError) -> bytes:
    """A whole answer, for a connection that is closed after it and has no request that could be answered."""
    answer = error_answer(error)
    assert isinstance(answer.body, bytes)
    head = {**answer.headers, "Content-Length": str(len(answer.body)), "Connection": "close"}
    lines = [f"HTTP/1.1 {answer.status} {answer.reason}", *(f"{name}: {value}" for name, value in head.items())]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + answer.body


def http_error_answer(error: web.HTTPException) -> web.Response:
    """What aiohttp raises for a request that it cannot serve, in the contract's shape."""
    text = "there is nothing at this path, see /docs" if error.status == 404 else error.reason
    return json_answer({"status": "error", "message": text}, error.status)


def trace_requests(tracing: Tracing) -> Any:
    """A middleware, inside of `answer`, that makes a span of each request, below that of its caller."""

    @web.middleware
    async def trace(request: web.Request, handler: Handler) -> web.StreamResponse:
        begun, resource = journal.request(), request.match_info.route.resource
        route = resource.canonical if resource is not None else "none"
        attributes = {"http.request.method": request.method, "http.route": route, "dragon.request": begun.id}
        span = tracing.begin(f"{request.method} {route}", "server", begun.traceparent, attributes)
        journal.enter_span(span.traceparent)

        def end(status: int) -> None:
            span.end({"http.response.status_code": status}, HTTPStatus(status).phrase if status >= 500 else None)

        try:
            response = await handler(request)
            end(response.status)
            return response
        except web.HTTPException as error:
            end(error.status)
            raise
        except DragonError as error:
            end(error.http_status)
            raise
        except ConnectionResetError:
            raise
        except Exception as error:
            end(503 if isinstance(error, ResponseError) else 500)
            raise
        finally:
            span.end({}, "the client has left")  # unless it has been ended

    return trace


@web.middleware
async def answer(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answers in the contract's shape whatever goes wrong, with the request's id; and preflights on every path.

    One middleware for all of it: each costs every request its share.
    """
    begun = journal.begin_request(request.headers.get(REQUEST_ID), request.headers.get(TRACEPARENT))
    try:
        response = await handler(request) if request.method != "OPTIONS" else _preflight()
    except ConnectionResetError:
        raise
    except Exception as error:
        response = _answer_to(request, error)
    if not response.prepared:  # a stream has it all
        headers = response.headers
        if hdrs.SERVER not in headers:  # a JSON answer has them
            headers.update(COMMON_HEADERS)
        headers[REQUEST_ID] = begun.id
    if log.isEnabledFor(logging.DEBUG):
        resource = request.match_info.route.resource  # not the path: strangers write what they like there
        log.debug("%s %s: %d", request.method, resource and resource.canonical, response.status)
    return response


def _preflight() -> web.Response:
    return web.Response(status=204, headers=_PREFLIGHT)


def _answer_to(request: web.Request, error: Exception) -> web.StreamResponse:
    match error:
        case DragonError():
            if error.http_status >= 500 and not isinstance(error, Full):  # those are many, and counted in /metrics
                log.warning("%s %s: %d %s", request.method, request.path, error.http_status, error.message)
            return error_answer(error)
        case web.HTTPMethodNotAllowed():
            allowed = ", ".join(sorted(error.allowed_methods))
            body = {"status": "error", "message": f"{request.method} is not allowed here, use {allowed}"}
            return json_answer(body, 405, {"Allow": allowed})
        case web.HTTPException():
            return http_error_answer(error)
        case ResponseError():  # full, read-only, forbidden, or a key of another type: it answers, and says no
            log.error("%s %s: Redis refuses: %s", request.method, request.path, error)
            return error_answer(Unavailable("the task store refuses the command, try again", retry_after=RETRY_AFTER))
    reference = secrets.token_hex(4)
    log.error("%s %s: internal error, reference %s", request.method, request.path, reference, exc_info=error)
    return json_answer(
        {"status": "error", "message": f"internal error, the log has it under reference {reference}"}, 500
    )
