"""The reply of every k-th script is lost after Redis has run it, and the connection is cut: nothing is done twice."""

from __future__ import annotations

import asyncio
import contextlib
import random
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
import redis

from dragon.auth import hash_key
from dragon.config import Config
from dragon.store import names
from dragon.store.tasks import State
from tests.auditing import assert_sound
from tests.faults import failpoints
from tests.faults.failpoints import Nursery
from tests.faults.lanes import FINAL, Lane, keys_in
from tests.faults.redis_proxy import RedisProxy
from tests.figures import FULL, note, scale, seeded
from tests.system import MODULES, eventually, test_config

ACCOUNT = "shop"
LIMITS = "tasks_queued = 9, tasks_per_minute = 1000000, bytes_stored = 1000000000"
KS = list(range(1, 51)) if FULL else [1, 2, 3, 5]
PLACES = ("server", "worker", "both") if FULL else ("both",)
REQUESTS = scale(20, 10)
CALL = [{"task_name": name, "seconds": 0} for name in ("step.def", "step.async", "step.file")]
ALL_LOST = 1.5  # seconds for which every reply is lost at least: with k = 1 nothing can work until the proxy heals


class Shop:
    """A client that repeats what was answered with 503, or refused for now by a limit, with its Idempotency-Key."""

    def __init__(self, session: aiohttp.ClientSession, name: str) -> None:
        self.answers: Counter[int] = Counter()
        self._session = session
        self._name = name

    async def create(self, number: int) -> list[str]:
        headers = {"Idempotency-Key": f"{self._name} {number}"}
        while True:
            data = orjson.dumps({"tasks": CALL})
            async with self._session.post("/v1/create", data=data, headers=headers) as response:
                self.answers[response.status] += 1
                if response.status == 200:
                    return [status["key"] for status in await response.json()]
                assert response.status in (401, 503), await response.text()
                assert "Retry-After" in response.headers, await response.text()
            await asyncio.sleep(0.05)

    async def finals(self, keys: list[str]) -> list[dict[str, Any]]:
        """Asks until all are final."""
        while True:
            async with self._session.post("/v1/status", data=orjson.dumps({"tasks": keys})) as response:
                self.answers[response.status] += 1
                assert response.status in (200, 503), await response.text()
                if response.status == 200:
                    statuses: list[dict[str, Any]] = await response.json()
                    if all(status["status"] in FINAL for status in statuses):
                        return statuses
            await asyncio.sleep(0.05)


def minute_counts(client: redis.Redis) -> Counter[str]:
    found = [name.decode() for name in client.scan_iter(f"{names.ACCOUNT}{ACCOUNT}:minute:*")]
    return Counter({name: int(client.get(name) or 0) for name in found})  # type: ignore[arg-type]


def measured(client: redis.Redis) -> int:
    """How many tasks the measurements have counted, each once: those that succeeded, of all names."""
    return int(client.hget(names.MEASURES + "totals", ":success") or 0)  # type: ignore[arg-type]


def at_rest(client: redis.Redis) -> bool:
    return not any(client.exists(name) for name in client.scan_iter(f"{names.WORKER}*:tasks"))


def recount(client: redis.Redis, files: Path) -> None:
    """What the counters say is what there is."""
    states = {}
    stored = 0
    for name in client.scan_iter(names.TASK + "*", 1000):
        state, size = client.hmget(name, "state", "bytes")  # type: ignore[misc]
        states[name.decode().removeprefix(names.TASK)] = State.read(state)
        stored += int(size or 0)
    assert {state.phase for state in states.values()} == {"e"}
    counters = client.hgetall(f"{names.ACCOUNT}{ACCOUNT}")
    assert int(counters.get(b"queued", 0)) == 0  # type: ignore[union-attr]
    assert int(counters[b"bytes"]) == stored  # type: ignore[index]
    assert stored == sum(file.stat().st_size for file in files.rglob("*") if file.is_file())
    for left in (names.RQ_QUEUE, names.RQ_WIP):
        assert not [name for name in client.scan_iter(left + "*") if client.exists(name)]


@contextlib.asynccontextmanager
async def behind_proxies(
    nursery: Nursery, redis_url: str, chance: random.Random
) -> AsyncIterator[tuple[Lane, RedisProxy, RedisProxy]]:
    """A server and a worker, each behind a proxy of its own; the folder is short enough for sockets."""
    folder = Path(tempfile.mkdtemp(prefix="dragon-test-"))
    accounts = folder / "accounts.toml"
    accounts.write_text(f"[{ACCOUNT}]\nsecrets = [{hash_key('123456')!r}]\nlimits = {{ {LIMITS} }}\n")
    server_proxy = RedisProxy(folder / "server.sock", redis_url, chance)
    worker_proxy = RedisProxy(folder / "worker.sock", redis_url, chance)
    settings = {"accounts": accounts, "tasks__modules": (*MODULES, *failpoints.MODULES), "worker__heartbeat": 0.2}
    server = Lane(test_config(folder, server_proxy.url, **settings), nursery)
    worker = Lane(
        server.config.model_copy(update={"redis": server.config.redis.model_copy(update={"url": worker_proxy.url})}),
        nursery,
    )
    try:
        with server.closing(), worker.closing():
            async with server_proxy.serving(), worker_proxy.serving():
                running = [await server.start("server"), await worker.worker()]
                yield server, server_proxy, worker_proxy
                await server.end(*running)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.timeout(1700 if FULL else 400)
async def test_replies_that_are_lost_queue_nothing_twice_and_lose_nothing(nursery: Nursery, redis_url: str) -> None:
    chance = seeded()
    answers: Counter[int] = Counter()
    dropped = slowest = 0.0
    tasks = 0
    async with behind_proxies(nursery, redis_url, chance) as (lane, server_proxy, worker_proxy):
        proxies = {"server": [server_proxy], "worker": [worker_proxy], "both": [server_proxy, worker_proxy]}
        with redis.Redis.from_url(redis_url) as client:
            for place in PLACES:
                for k in KS:
                    before, known = minute_counts(client), keys_in(redis_url)
                    began = time.monotonic()
                    async with lane.session() as session, asyncio.timeout(scale(60, 90)):
                        shop = Shop(session, f"{place} {k}")
                        keys = await run_case(shop, proxies[place], k)
                        finals = await shop.finals(keys)
                    slowest = max(slowest, time.monotonic() - began)
                    answers += shop.answers
                    assert [status["status"] for status in finals] == ["success"] * len(finals), finals
                    assert {attempt_of(status) for status in finals} == {1}, "a task was started twice"
                    tasks += len(keys)
                    assert len(set(keys)) == len(keys) >= REQUESTS * len(CALL)
                    assert keys_in(redis_url) - known == set(keys), "a repetition made its tasks anew"
                    await eventually(lambda: at_rest(client), 45)
                    created = minute_counts(client) - before
                    assert created.total() == len(keys), "the limit a minute counts something else than the tasks"
                    recount(client, lane.config.data_dir / "files")
                    for proxy in proxies[place]:
                        assert proxy.dropped, "no reply was lost"
                        dropped += proxy.dropped
                        proxy.dropped = 0
            await eventually(lambda: measured(client) == tasks, 45)
        await assert_sound(with_redis(lane.config, redis_url))
    assert answers[503], "no client ever saw that a reply was lost"
    cases = len(KS) * len(PLACES)
    note(
        "7",
        f"k = {KS[0]}..{KS[-1]} for {', '.join(PLACES)}: {cases} cases, {tasks} tasks, "
        f"{dropped:.0f} replies lost, {answers[503]} answers of 503 repeated",
        f"each task created, started and ended once, counters as recounted, the slowest case {slowest:.1f} s",
        chance,
    )


def with_redis(config: Config, url: str) -> Config:
    return config.model_copy(update={"redis": config.redis.model_copy(update={"url": url})})


def attempt_of(status: dict[str, Any]) -> Any:
    return status["result"]["attempt"] if isinstance(status["result"], dict) else status["result"]


async def run_case(shop: Shop, proxies: list[RedisProxy], k: int) -> list[str]:
    """Creates all tasks while replies are lost; the faults go on until all have ended, or with k = 1 for a while.

    What gathers travels together, so that few scripts run: it goes on until each proxy has lost a reply.
    """
    keys: list[str] = []
    for proxy in proxies:
        proxy.drop_every = k
    try:
        number = 0
        while not number or not all(proxy.dropped for proxy in proxies):
            shares = range(number, number + REQUESTS)
            number += REQUESTS
            creating = asyncio.ensure_future(asyncio.gather(*(shop.create(one) for one in shares)))
            if k == 1:
                await asyncio.sleep(ALL_LOST)
                # Once healed it loses no more, so each has to have lost one by now, however late its process is.
                await eventually(lambda: all(proxy.dropped for proxy in proxies), 45)
                heal(proxies)
            made = [key for keys in await creating for key in keys]
            await shop.finals(made)
            keys += made
        return keys
    finally:
        heal(proxies)


def heal(proxies: list[RedisProxy]) -> None:
    for proxy in proxies:
        proxy.drop_every = 0
