"""SAQ's queue with its tasks and the settings of its worker, and its client."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson
import uvloop
from saq.queue.redis import RedisQueue

from bench.peers.marks import mark

uvloop.install()
queue = RedisQueue.from_url(os.environ["BENCH_REDIS_URL"], dump=orjson.dumps, load=orjson.loads)


async def noop(context: dict[str, Any]) -> None:
    mark()


async def sleep(context: dict[str, Any]) -> None:
    mark()
    await asyncio.sleep(0.01)
    mark()


settings = {"queue": queue, "functions": [noop, sleep], "concurrency": int(os.environ["BENCH_CONCURRENCY"])}


@asynccontextmanager
async def session() -> AsyncIterator[None]:
    await queue.connect()
    yield
    await queue.disconnect()


async def enqueue(task: str, count: int) -> None:
    for _ in range(0, count, 100):
        await asyncio.gather(*(queue.enqueue(task) for _ in range(100)))


async def ask() -> None:
    await queue.apply("noop", timeout=10, poll_interval=0.0005)  # quicker than its `listen`
