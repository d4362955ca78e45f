"""RQ's tasks and client; its worker is started by its own command."""

from __future__ import annotations

import os

from redis import Redis
from rq import Queue

from bench.peers.marks import mark

queue = Queue("bench", connection=Redis.from_url(os.environ["BENCH_REDIS_URL"]))


def noop() -> None:
    mark()


def enqueue(task: str, count: int) -> None:
    for _ in range(0, count, 1000):
        queue.enqueue_many([Queue.prepare_data(noop, timeout=180) for _ in range(min(count, 1000))])


def ask() -> None:
    job = queue.enqueue(noop)
    result = job.latest_result(timeout=10)  # blocks in XREAD
    assert result is not None
