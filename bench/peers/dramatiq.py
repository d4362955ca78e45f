"""Dramatiq's broker with its actors, and its client."""

from __future__ import annotations

import os
import time

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

from bench.peers.marks import mark

url = os.environ["BENCH_REDIS_URL"]
broker = RedisBroker(url=url)
broker.add_middleware(Results(backend=RedisBackend(url=url), store_results=True))
dramatiq.set_broker(broker)


@dramatiq.actor
def noop() -> None:
    mark()


@dramatiq.actor
def sleep() -> None:
    mark()
    time.sleep(0.01)
    mark()


def enqueue(task: str, count: int) -> None:
    for _ in range(count):
        globals()[task].send()


def ask() -> None:
    noop.send().get_result(block=True, timeout=10_000)
