"""The yardstick for HTTP: aiohttp handlers that answer with JSON, or begin a stream, and do nothing else."""

from __future__ import annotations

import asyncio
import sys

import orjson
from aiohttp import web


async def handle(request: web.Request) -> web.Response:
    body = await request.read()
    return web.Response(body=orjson.dumps(orjson.loads(body) if body else {}), content_type="application/json")


async def stream(request: web.Request) -> web.StreamResponse:
    """A stream that is open and silent until its client leaves."""
    response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
    await response.prepare(request)
    await response.write(b"[]\n")
    await asyncio.get_running_loop().create_future()
    return response


if __name__ == "__main__":
    app = web.Application()
    app.add_routes([web.post("/", handle), web.get("/", handle), web.get("/stream", stream)])
    try:
        import uvloop
    except ImportError:
        loop = asyncio.new_event_loop()
    else:
        loop = uvloop.new_event_loop()
    web.run_app(
        app,
        port=int(sys.argv[1]),
        host="127.0.0.1",
        access_log=None,
        print=None,
        loop=loop,
        handler_cancellation=True,  # else a stream would outlive its client
        shutdown_timeout=1.0,  # seconds
    )
