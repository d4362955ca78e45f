"""Celery's application with its tasks, and its client."""

from __future__ import annotations

import os
import time

from celery import Celery

from bench.peers.marks import mark

url = os.environ["BENCH_REDIS_URL"].partition("?")[0].replace("unix://", "redis+socket://")
app = Celery("bench", broker=url, backend=url)
app.conf.update(
    broker_connection_retry_on_startup=True,
    worker_prefetch_multiplier=1000,
    redis_max_connections=1000,
    worker_enable_remote_control=False,
    worker_hijack_root_logger=False,
)


@app.task
def noop() -> None:
    mark()


@app.task
def sleep() -> None:
    mark()
    time.sleep(0.01)
    mark()


def enqueue(task: str, count: int) -> None:
    with app.producer_pool.acquire() as producer:
        for _ in range(count):
            globals()[task].apply_async(producer=producer)


def ask() -> None:
    noop.delay().get(timeout=10)  # its backend subscribes to the result
