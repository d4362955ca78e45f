"""Draining a full queue of tasks that do nothing: one worker process with one executor, beside each peer's worker."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from urllib.parse import unquote

import redis

from bench.measuring import Candidate, Goal, Table, alternate
from bench.peers import PEERS, SECONDS, Peer, drain
from bench.place import Place
from dragon import connections, queue
from dragon.definition import Definition
from dragon.keys import new_key
from dragon.store import names
from dragon.store.tasks import Usage
from dragon.task import load_tasks

COUNT = 20_000
BATCH = 1000  # tasks created at once
TRIP = 100  # tasks in one pipeline of the yardstick
FEED = "bench"
NOTE = "one executor process; every status stored and published, all lines received by a subscriber"


async def measure(place: Place, rounds: int) -> list[Table]:
    table = Table("worker", "no-op tasks drained by one worker process", "tasks/s", more_is_better=True)
    table.rows = await alternate(
        [
            Candidate("dragon", "dragon", lambda: drain_dragon(place, "bench.noop", COUNT), f"`def` task, {NOTE}"),
            *(peer_candidate(place, peer) for peer in PEERS),
            Candidate(
                "bare Redis", "yardstick", lambda: bare_redis(place), f"redis-py: {TRIP} LPOP and SET a pipeline"
            ),
        ],
        rounds,
    )
    best = table.best("peer")
    ratio = table.row("dragon").median / best.median
    table.goals.append(Goal(f"times the fastest peer, {best.name}", ratio, 5, at_least=True))
    return [table]


def peer_candidate(place: Place, peer: Peer, task: str = "noop") -> Candidate:
    return Candidate(peer.name, "peer", lambda: drain(place, peer, task), peer.described)


async def drain_dragon(place: Place, task: str, count: int, **settings: str) -> float:
    """Tasks a second, from the first one's start to the arrival of the last final line; created while nobody works."""
    place.clear()
    keys = await fill(place, task, count)
    settings = {"DRAGON_WORKER__EXECUTORS": "1", "DRAGON_WORKER__CONCURRENCY": "0"} | settings
    async with listening(place, count) as lines:
        # Not Place.worker, which waits until it is ready: it is measured from its first task on.
        with place.child("run_worker.py", **place.environment(0), **settings):
            async with asyncio.timeout(SECONDS):
                await lines.complete.wait()
    assert sorted(lines.finals()) == keys, "not every task had its final line exactly once"
    return count / (lines.ended - lines.begun())


async def fill(place: Place, task: str, count: int) -> list[str]:
    """Creates tasks as the server does, followed by the bench; returns their keys, sorted."""
    registry = load_tasks(("bench.tasks",))
    store = connections.Redis(place.url, 10)
    keys = []
    try:
        for _ in range(0, count, BATCH):
            new = queue.prepare_all([Definition(task, {})] * BATCH, registry)
            await queue.create(store, new, queue.Request("demo", Usage(), life=3600, feed=FEED))
            keys += [task.key for task in new]
    finally:
        await store.close()
    return sorted(keys)


class Lines(asyncio.Protocol):
    """A subscriber that takes next to no time: it counts final lines while they come and looks at them afterwards."""

    def __init__(self, expected: int) -> None:
        self.subscribed, self.complete = asyncio.Event(), asyncio.Event()
        self.ended = 0.0
        self._left = expected
        self._chunks: list[bytes] = []
        self._tail = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.write(f"SUBSCRIBE {names.FEED}{FEED}\r\n".encode())  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        self.subscribed.set()
        self._chunks.append(data)
        self._left -= (self._tail + data).count(b'"status":"success"')
        self._tail = data[-17:]  # one byte less than what is counted
        if self._left <= 0 and not self.ended:
            self.ended = time.time()
            self.complete.set()

    def finals(self) -> list[str]:
        """The key of each final line."""
        return [key.decode() for key in re.findall(rb"([A-Z2-7]{26})F\d+ ", b"".join(self._chunks))]

    def begun(self) -> float:
        """When the first task started, as its status says."""
        first = min(re.findall(rb'"started":"([^"]+)"', b"".join(self._chunks)))
        return datetime.fromisoformat(first.decode()).timestamp()


@asynccontextmanager
async def listening(place: Place, expected: int) -> AsyncIterator[Lines]:
    """Subscribed to the bench's feed."""
    path = unquote(place.url.removeprefix("unix://"))
    transport, lines = await asyncio.get_running_loop().create_unix_connection(lambda: Lines(expected), path)
    await lines.subscribed.wait()
    yield lines
    transport.close()


async def bare_redis(place: Place) -> float:
    """What any queue must at the very least ask of Redis for a task: take it off a list, store a result."""
    place.clear()
    with redis.Redis.from_url(place.url) as client:
        client.rpush("bench", *(new_key() for _ in range(COUNT)))
        begun = time.perf_counter()
        for number in range(COUNT // TRIP):
            with client.pipeline(transaction=False) as pipe:
                for at in range(TRIP):
                    pipe.lpop("bench")
                    pipe.set(f"bench:{number * TRIP + at}", b'{"status":"success"}')
                pipe.execute()
        return COUNT / (time.perf_counter() - begun)
