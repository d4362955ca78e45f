"""Taskiq's broker (BENCH_BROKER: lists or streams) with its tasks, and its client."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from taskiq.serializers import ORJSONSerializer
from taskiq_redis import ListQueueBroker, RedisAsyncResultBackend, RedisStreamBroker

from bench.peers.marks import mark

url = os.environ["BENCH_REDIS_URL"]
Broker = RedisStreamBroker if os.environ["BENCH_BROKER"] == "streams" else ListQueueBroker
broker = Broker(url).with_result_backend(RedisAsyncResultBackend(url, serializer=ORJSONSerializer()))
broker = broker.with_serializer(ORJSONSerializer())


@broker.task
async def noop() -> None:
    mark()


@broker.task
async def sleep() -> None:
    mark()
    await asyncio.sleep(0.01)
    mark()


@asynccontextmanager
async def session() -> AsyncIterator[None]:
    await broker.startup()  # declares the consumer group of a stream
    yield
    await broker.shutdown()


async def enqueue(task: str, count: int) -> None:
    for _ in range(0, count, 100):
        await asyncio.gather(*(globals()[task].kiq() for _ in range(100)))


async def ask() -> None:
    task = await noop.kiq()
    await task.wait_result(check_interval=0.0005, timeout=10)
