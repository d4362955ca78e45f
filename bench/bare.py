"""The yardstick for HTTP: an aiohttp handler that reads a JSON body and answers with JSON, and does nothing else."""

from __future__ import annotations

import sys

import orjson
from aiohttp import web


async def handle(request: web.Request) -> web.Response:
    body = await request.read()
    return web.Response(body=orjson.dumps(orjson.loads(body) if body else {}), content_type="application/json")


if __name__ == "__main__":
    app = web.Application()
    app.add_routes([web.post("/", handle), web.get("/", handle)])
    try:
        import uvloop
    except ImportError:
        web.run_app(app, port=int(sys.argv[1]), host="127.0.0.1", access_log=None, print=None)
    else:
        web.run_app(
            app, port=int(sys.argv[1]), host="127.0.0.1", access_log=None, print=None, loop=uvloop.new_event_loop()
        )
