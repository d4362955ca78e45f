"""Streams of statuses: newline-delimited JSON, or server-sent events for those who ask for them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Sequence
from typing import Any

import orjson
from aiohttp import web

from dragon import journal
from dragon.errors import DragonError
from dragon.feed import Follower
from dragon.log_follower import LogFollower
from dragon.sampling import Watcher
from dragon.server.answers import COMMON_HEADERS, REQUEST_ID, json_answer
from dragon.store.tasks import Line

log = logging.getLogger("dragon.server")

_HEADERS = COMMON_HEADERS | {
    "Cache-Control": "no-cache, no-transform",
    "X-Accel-Buffering": "no",
}
UNSENT = 4096  # bytes that a stream may have unsent before it waits for its reader
LAST_EVENT = "end"  # the id of the last event; an EventSource that comes back with it is told to stay away


def line_list(lines: Sequence[bytes]) -> bytes:
    """A JSON list of status lines."""
    return b"[" + b",".join(lines) + b"]"


def wants_events(request: web.Request) -> bool:
    return "text/event-stream" in request.headers.get("Accept", "")


async def stream(
    request: web.Request, lines: Sequence[Line], follower: Follower, heartbeat: float
) -> web.StreamResponse:
    """Writes the immediate statuses, then each update, until all tasks are final or the client has left."""
    if wants_events(request):
        return await _stream_events(request, lines, follower, heartbeat)
    response = web.StreamResponse(headers=_HEADERS | {"Content-Type": "application/x-ndjson"})
    try:
        await _begin(request, response)
        await response.write(line_list([line.line for line in lines]) + b"\n")
        while not follower.finished:
            await request.writer.drain()
            taken = await follower.take(heartbeat)
            # White space in front of a line is legal JSON; it keeps proxies from closing a silent connection.
            await response.write(b"".join([line + b"\n" for line in taken]) if taken else _silence(follower, b" "))
        await response.write_eof()
    except ConnectionResetError:
        pass  # the client has left, there is nobody to tell
    return response


async def _stream_events(
    request: web.Request, lines: Sequence[Line], follower: Follower, heartbeat: float
) -> web.StreamResponse:
    response = web.StreamResponse(headers=_HEADERS | {"Content-Type": "text/event-stream"})
    count = 0
    try:
        await _begin(request, response)
        ended = follower.finished and not follower.closed
        await response.write(_event(line_list([line.line for line in lines]), LAST_EVENT if ended else "0"))
        while not follower.finished:
            await request.writer.drain()
            taken = await follower.take(heartbeat)
            data = b""
            for position, line in enumerate(taken, 1):
                count += 1
                last = follower.finished and not follower.closed and position == len(taken)
                data += _event(line, LAST_EVENT if last else str(count))
            await response.write(data or _silence(follower, b":\n\n"))
        await response.write_eof()
    except ConnectionResetError:
        pass
    return response


async def stream_news(request: web.Request, watcher: Watcher[Any], heartbeat: float) -> web.StreamResponse:
    """Writes a watcher's lines until it is closed or the client has left."""
    response = web.StreamResponse(headers=_HEADERS | {"Content-Type": "application/x-ndjson"})
    try:
        await _begin(request, response)
        while not watcher.finished:
            await request.writer.drain()
            taken = await watcher.take(heartbeat)
            await response.write(b"".join([line + b"\n" for line in taken]) or b" " * (not watcher.finished))
        await response.write_eof()
    except ConnectionResetError:
        pass
    return response


async def _begin(request: web.Request, response: web.StreamResponse) -> None:
    """Sends the head of a stream whose reader may be stuck: it is to have its newest lines, not all of them.

    aiohttp waits for a reader only after 64 KiB, and the transport has room for as much again: 137 KiB of each stuck
    reader were measured, 18 KiB with this limit and a `drain` before each `take`.
    """
    response.headers[REQUEST_ID] = journal.request().id
    await response.prepare(request)
    response.headers.clear()  # they are sent; what they hold would be held for as long as the stream is open
    if request.transport is not None:
        request.transport.set_write_buffer_limits(high=UNSENT)


async def stream_log(request: web.Request, follower: LogFollower, heartbeat: float) -> web.StreamResponse:
    """Writes the lines of a task's log, each as soon as it is said, until the task has ended or the client has left."""
    is_event = wants_events(request)
    kind = "text/event-stream" if is_event else "application/x-ndjson"
    response = web.StreamResponse(headers=_HEADERS | {"Content-Type": kind})
    try:
        await _begin(request, response)
        while not follower.finished:
            await request.writer.drain()
            lines = await follower.take(heartbeat)
            if is_event:
                data = b"".join([_event(orjson.dumps(line._asdict()), str(line.number)) for line in lines])
            else:
                data = b"".join([orjson.dumps(line._asdict()) + b"\n" for line in lines])
            silence = b"" if follower.finished else b":\n\n" if is_event else b" "
            await response.write(data or silence)
        # An event without data is none, but its id is remembered.
        await response.write_eof(b"id: end\n\n" if is_event and follower.ended else b"")
    except ConnectionResetError:
        pass  # the client has left, there is nobody to tell
    return response


def _event(line: bytes, identifier: str) -> bytes:
    return b"id: " + identifier.encode() + b"\ndata: " + line + b"\n\n"


def _silence(follower: Follower, sign: bytes) -> bytes:
    return b"" if follower.finished else sign


async def answer_when_known(
    request: web.Request, answer: Awaitable[bytes], heartbeat: float, headers: dict[str, str] | None = None
) -> web.StreamResponse:
    """Answers with JSON that may take long to be known; white space in front of it keeps proxies from giving up.

    `headers` may be filled by `answer`: they are sent when it is known before the first white space.
    """
    task = asyncio.ensure_future(answer)
    try:
        done, _ = await asyncio.wait([task], timeout=heartbeat)
        if done:
            return json_answer(task.result(), 200, headers)
        response = web.StreamResponse(headers=_HEADERS | {"Content-Type": "application/json"})
        response.headers[REQUEST_ID] = journal.request().id
        try:
            await response.prepare(request)
            while not done:
                await response.write(b" ")
                done, _ = await asyncio.wait([task], timeout=heartbeat)
            await response.write_eof(task.result())
        except ConnectionResetError:
            pass
        except DragonError as error:  # too late for a status of its own; half an answer must not look like a whole one
            log.warning("%s %s: cut off, %s", request.method, request.path, error.message)
            if request.transport is not None:
                request.transport.abort()
        return response
    finally:
        task.cancel()
