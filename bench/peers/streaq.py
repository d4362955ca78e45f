"""streaQ's worker with its tasks, and its client."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from streaq import TaskStatus, Worker

from bench.peers.marks import mark

PAUSE = 0.0005  # seconds between two looks

worker = Worker(
    redis_url=os.environ["BENCH_REDIS_URL"],
    concurrency=int(os.environ["BENCH_CONCURRENCY"]),
    anyio_kwargs={"use_uvloop": True},
)


@worker.task(silent=True)
async def noop() -> None:
    mark()


@worker.task(silent=True)
async def sleep() -> None:
    mark()
    await asyncio.sleep(0.01)
    mark()


@asynccontextmanager
async def session() -> AsyncIterator[None]:
    async with worker:
        yield


async def enqueue(task: str, count: int) -> None:
    for _ in range(0, count, 500):
        await worker.enqueue_many([globals()[task].enqueue() for _ in range(min(count, 500))])


async def ask() -> None:
    task = await noop.enqueue()
    while await task.status() != TaskStatus.DONE:  # its `result` takes 0.1 s to subscribe
        await asyncio.sleep(PAUSE)
