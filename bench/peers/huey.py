"""Huey's instance with its tasks, and its client."""

from __future__ import annotations

import os
import time

from huey import RedisHuey

from bench.peers.marks import mark

huey = RedisHuey(
    "bench", url=os.environ["BENCH_REDIS_URL"], store_none=True, notify_result="BENCH_NOTIFY" in os.environ
)


@huey.task()
def noop() -> None:
    mark()


@huey.task()
def sleep() -> None:
    mark()
    time.sleep(0.01)
    mark()


def enqueue(task: str, count: int) -> None:
    for _ in range(count):
        globals()[task]()


def ask() -> None:
    task = noop()
    task.get(blocking=True, timeout=10)  # with notify_result it blocks in BLPOP
