"""Tasks created, taken and reported on straight at Redis, by the calls that dragon's server and worker make for it."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from dragon import queue
from dragon.connections import Redis
from dragon.definition import Definition
from dragon.status import EXECUTING, Status, timestamp
from dragon.store import tasks, workers
from dragon.store.tasks import NewTask, Reserved, Usage, Write, WriteKind
from dragon.store.workers import WorkerFacts
from dragon.task import load_tasks

ACCOUNT = "bench"
OWNER = "bench"  # a worker that exists in Redis only
NAME, QUEUE = "bench.hello", "bench"  # of the tasks; no real worker serves the queue
LEASE = 3600.0  # seconds: longer than any part
LIFE = 604_800  # seconds, as in conf/dragon.toml
A_CALL = 1000  # tasks created
AT_ONCE = 200  # tasks taken; a call gives no more than a few hundred
TIMEOUT = 60.0  # seconds


class Direct:
    """A connection to Redis, and on it the verbs of a server and of a worker; each raises if it did not do all."""

    def __init__(self, url: str) -> None:
        self.redis = Redis(url, TIMEOUT)
        self._registry = load_tasks(("bench.tasks",))

    async def register(self) -> None:
        """Puts the worker in."""
        facts = WorkerFacts(OWNER, (QUEUE,), (NAME,), 0, "bench", "0", sys.version)
        await workers.register(self.redis, facts, LEASE)

    def prepare(self, count: int) -> list[NewTask]:
        """As many tasks with one short parameter, checked and with their first line."""
        return queue.prepare_all([Definition(NAME, {"name": "World"})] * count, self._registry)

    async def create(self, new: Sequence[NewTask]) -> None:
        """Stores and queues the tasks, `A_CALL` in a call."""
        for first in range(0, len(new), A_CALL):
            part = new[first : first + A_CALL]
            created = await tasks.create(self.redis, ACCOUNT, part, Usage(), life=LIFE)
            if not isinstance(created, list) or len(created) != len(part):
                raise RuntimeError(f"not all tasks were created: {created!r}")

    async def reserve(self, count: int) -> list[Reserved]:
        """Takes so many tasks at once, from the head of the queue."""
        known = [(NAME, False, None)]
        taken = await tasks.reserve(self.redis, OWNER, [QUEUE], sync_places=count, async_places=0, ahead=0, known=known)
        if len(taken.tasks) != count:
            raise RuntimeError(f"{len(taken.tasks)} of {count} tasks were reserved")
        return taken.tasks

    async def update(self, writes: Sequence[Write]) -> None:
        """Writes statuses, all in one call."""
        if not all(await tasks.update(self.redis, OWNER, writes, life=LIFE)):
            raise RuntimeError("a status was refused")

    async def read(self, keys: Sequence[str]) -> None:
        """Reads statuses, all in one call."""
        lines = await tasks.follow(self.redis, "", dict.fromkeys(keys, 0))
        if not all(line is not None and line.seq > 0 for line in lines):
            raise RuntimeError("a task is not known")

    async def start(self, count: int) -> list[Reserved]:
        """Creates so many tasks and takes them; they can be reported on from then on."""
        await self.register()
        await self.create(self.prepare(count))
        taken: list[Reserved] = []
        while len(taken) < count:
            taken += await self.reserve(min(AT_ONCE, count - len(taken)))
        return taken


@asynccontextmanager
async def connect(url: str) -> AsyncIterator[Direct]:
    """A connection for the length of the context."""
    direct = Direct(url)
    try:
        yield direct
    finally:
        await direct.redis.close()


def write_of(task: Reserved, kind: WriteKind, result: bytes) -> Write:
    """A status with a result, as a worker's engine spells it."""
    now = timestamp()
    status = Status(EXECUTING, task.key, now, now)
    status = status.reported(None, result) if kind == EXECUTING else status.ended(kind, result, now)
    return Write(task.key, task.attempt, kind, status.line())
