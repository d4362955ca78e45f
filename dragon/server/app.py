"""Where a server is built: read `create_app` from top to bottom."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import AsyncIterator

from aiohttp import web

from dragon.auth import Accounts, check_loopback
from dragon.config import Config
from dragon.connections import Redis
from dragon.errors import Unavailable
from dragon.feed import Feed
from dragon.files import open_files
from dragon.operator import Operator
from dragon.processes import calm_collector
from dragon.server.answers import answer, trace_requests
from dragon.server.client_files import ClientFiles
from dragon.server.dashboard_pages import DashboardPages
from dragon.server.health import Health
from dragon.server.metrics import Metrics
from dragon.server.operator import OperatorApi
from dragon.server.outputs import Outputs
from dragon.server.pages import Pages
from dragon.server.patience import Patience, limit_leftovers
from dragon.server.protocol import Runner, Tally
from dragon.server.room import Room, open_files_limit
from dragon.server.v1 import Version1
from dragon.service import Service
from dragon.streams import Streams
from dragon.task import load_tasks
from dragon.tracing import open_tracing

log = logging.getLogger("dragon.server")

KEEP_ALIVE = 75.0  # seconds; aiohttp's own default is an hour
LINE_LIMIT = 64 * 1024  # bytes of a request line: a long list of keys in a querystring

SERVICE: web.AppKey[Service] = web.AppKey("service", Service)
ROOM: web.AppKey[Room] = web.AppKey("room", Room)
TALLY: web.AppKey[Tally] = web.AppKey("tally", Tally)


def create_app(config: Config, redis_url: str) -> web.Application:
    """Builds the application of one server process; `redis_url` is the Redis in force. Raises ConfigError."""
    accounts = Accounts(config.accounts_file)
    check_loopback(accounts, config)
    registry = load_tasks(config.tasks.modules)
    files = open_files(config)
    redis = Redis(redis_url, config.redis.timeout)
    feed = Feed(redis, redis_url, config.redis.timeout)
    tally = Tally()
    room = Room.of(config, open_files_limit())
    service = Service(config, redis, feed, registry, files, Streams(room.streams, config.server.followed))
    operator = Operator(service, accounts)

    tracing = open_tracing(config.log, "dragon-server")
    traced = [trace_requests(tracing)] if tracing else []
    app = web.Application(middlewares=[answer, *traced], client_max_size=config.server.max_body_bytes)
    app[SERVICE] = service
    app[ROOM] = room
    app[TALLY] = tally
    app.add_routes(Version1(service, accounts).routes())
    app.add_routes(OperatorApi(operator, accounts, config.server.heartbeat).routes())
    app.add_routes(Outputs(files, config.files.life, room.files).routes())
    app.add_routes(Health(service).routes())
    app.add_routes(Metrics(service, tally).routes())
    app.add_routes(Pages(config, registry).routes())
    app.add_routes(DashboardPages(config).routes())
    app.add_routes(ClientFiles(registry).routes())

    async def run_feed(_app: web.Application) -> AsyncIterator[None]:
        with contextlib.suppress(Unavailable):
            await redis.command("PING")  # connected, and Redis's clock known, before the first request
        task = asyncio.create_task(feed.run(), name="feed")
        refresher = asyncio.create_task(_refresh_accounts(accounts), name="accounts")
        measuring = asyncio.create_task(service.measures.run(), name="measures")
        telling = asyncio.create_task(service.positions.run(), name="positions")
        yield
        for running in (task, refresher, measuring, telling):
            running.cancel()
        await asyncio.gather(task, refresher, measuring, telling, return_exceptions=True)
        await service.measures.finish()
        await redis.close()
        if tracing:
            await asyncio.to_thread(tracing.close)

    async def end_streams(_app: web.Application) -> None:
        feed.close()
        operator.close()

    app.cleanup_ctx.append(run_feed)
    app.on_shutdown.append(end_streams)
    return app


async def _refresh_accounts(accounts: Accounts) -> None:
    while True:
        await asyncio.sleep(1)
        accounts.refresh()


async def serve(config: Config, redis_url: str, *, reuse_port: bool = False) -> None:
    """Runs one server process until SIGTERM or SIGINT, then ends streams and finishes what runs."""
    app = create_app(config, redis_url)
    patience = Patience(config.server.client_timeout, config.server.client_rate)
    runner = Runner(
        app,
        patience=patience,
        room=app[ROOM],
        tally=app[TALLY],
        access_log=None,  # aiohttp's prints querystrings, that is, keys
        handler_cancellation=True,  # else an idle stream would never learn that its client has left
        keepalive_timeout=KEEP_ALIVE,
        max_line_size=LINE_LIMIT,
        max_field_size=16 * 1024,
        shutdown_timeout=config.server.stop_grace,
    )
    await runner.setup()
    try:
        site = web.TCPSite(runner, config.server.host, config.server.port, reuse_port=reuse_port or None, backlog=1024)
        await site.start()
        for listener in site._server.sockets:  # type: ignore[union-attr]
            limit_leftovers(listener, patience.leftovers)
        watching = asyncio.create_task(runner.watch(), name="slow clients")
        calm_collector()
        print(f"dragon server listening on {config.public_url}", flush=True)
        await _until_stopped()
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
    finally:
        await runner.cleanup()


async def _until_stopped() -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    await stopped.wait()
