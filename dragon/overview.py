"""The overview: queues, workers, rates and Redis, all in one moment."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from redis.exceptions import ResponseError

from dragon.auth import Account
from dragon.connections import Redis
from dragon.embedded import redis_url
from dragon.service import Service
from dragon.status import timestamp
from dragon.store import measures, queues, workers
from dragon.store.queues import QueuePicture, QueuesPicture
from dragon.store.workers import ExecutorPicture, WorkerPicture

REDIS_FACTS_AGE = 10.0  # seconds after which Redis is asked again how it is


@dataclass(frozen=True, slots=True)
class QueueFacts:
    """One queue in an overview."""

    name: str
    waiting: int
    executing: int
    paused: bool
    oldest: float | None  # seconds
    workers: int


@dataclass(frozen=True, slots=True)
class TaskFacts:
    """A task that an executor has."""

    key: str
    name: str
    started: str | None  # ISO date


@dataclass(frozen=True, slots=True)
class ExecutorFacts:
    """One executor in an overview."""

    pid: int
    kind: str  # def, async, or rq
    tasks: tuple[TaskFacts, ...]


@dataclass(frozen=True, slots=True)
class WorkerFacts:
    """One worker in an overview."""

    id: str
    hostname: str
    pid: int | None
    queues: tuple[str, ...]
    executors: tuple[ExecutorFacts, ...]
    lease: float  # seconds that it has left to give the next sign of life
    kind: str  # dragon or rq


@dataclass(frozen=True, slots=True)
class Rates:
    """What has ended within the last minute, and how long it took to begin; None: not known."""

    per_second: float | None = None
    errors_per_second: float | None = None
    waiting_p50: float | None = None  # seconds
    waiting_p95: float | None = None


@dataclass(frozen=True, slots=True)
class Counts:
    """Tasks that are kept now, by state; None: not known."""

    waiting: int
    executing: int
    success: int | None
    error: int | None


@dataclass(frozen=True, slots=True)
class RedisFacts:
    """How Redis is; None: not known, or not for the one who asks."""

    version: str | None = None
    memory_bytes: int | None = None
    persistence: str | None = None  # always, everysec or no (of the append-only file), snapshots, none


@dataclass(frozen=True, slots=True)
class Snapshot:
    """An overview: everything in one moment."""

    time: str
    queues: tuple[QueueFacts, ...]
    workers: tuple[WorkerFacts, ...]
    rates: Rates
    counts: Counts
    suspended: bool
    streams: int
    redis: RedisFacts

    @property
    def essence(self) -> Snapshot:
        """Without what changes when nothing happens."""
        without_leases = tuple(replace(worker, lease=0.0) for worker in self.workers)
        return replace(self, time="", workers=without_leases, redis=replace(self.redis, memory_bytes=None))


class Overview:
    """Looks. Remembers how Redis is, which is asked now and then only."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._redis = service.redis
        self._is_redis_ours = service.config.redis.url == redis_url(service.config)
        self._redis_facts = (float("-inf"), RedisFacts())  # with the time when it was asked

    async def look(self, account: Account) -> Snapshot:
        """Everything in one moment; for an account that is no operator, what is its own."""
        seen = await workers.doing(self._redis)
        known = {task.queue for task in self._service.registry.tasks.values()}
        known |= {name for worker in seen if worker.kind == "dragon" for name in worker.queues}
        looked = await queues.look(self._redis, self._service.config.files.life, known, own_only(account))
        snapshot = Snapshot(
            timestamp(),
            tuple(_queue_facts(queue, seen) for queue in looked.queues),
            tuple(map(_worker_facts, seen)),
            await self._rates(looked) if account.operator else Rates(),
            _counts(looked),
            looked.suspended,
            self._service.streams.count,
            await self._ask_redis(),
        )
        return snapshot if account.operator else self._of_one_account(snapshot, account)

    def _of_one_account(self, snapshot: Snapshot, account: Account) -> Snapshot:
        """What is everybody's is not shown: keys of others' tasks are permissions to read them."""
        counts = replace(snapshot.counts, success=None, error=None)
        streams = self._service.streams.of(account.id)
        return replace(snapshot, workers=(), counts=counts, streams=streams, redis=RedisFacts())

    async def _rates(self, looked: QueuesPicture) -> Rates:
        """What ended within the last minute by RQ's registries, and how long what ended then had waited."""
        ended = sum(queue.ended_now for queue in looked.queues) + looked.refused_now
        failed = sum(queue.failed_now for queue in looked.queues) + looked.refused_now
        waiting = await measures.recent_waiting(self._redis, looked.now)
        return Rates(round(ended / 60, 3), round(failed / 60, 3), waiting.quantile(0.5), waiting.quantile(0.95))

    async def _ask_redis(self) -> RedisFacts:
        asked, facts = self._redis_facts
        if time.monotonic() - asked > REDIS_FACTS_AGE:
            facts = await _read_redis_facts(self._redis)
            if facts.persistence == "no" and self._is_redis_ours:
                facts = replace(facts, persistence="everysec")  # its keeper syncs, docs/adr/0010
            self._redis_facts = (time.monotonic(), facts)
        return facts


def own_only(account: Account) -> str:
    """The account that what is seen and done is limited to, "" for an operator."""
    return "" if account.operator else account.id


def _queue_facts(queue: QueuePicture, seen: Sequence[WorkerPicture]) -> QueueFacts:
    oldest = None if queue.oldest is None else round(queue.oldest, 1)
    serving = sum(queue.name in worker.queues for worker in seen)
    return QueueFacts(queue.name, queue.waiting, queue.executing, queue.paused, oldest, serving)


def _worker_facts(seen: WorkerPicture) -> WorkerFacts:
    executors = tuple(map(_executor_facts, seen.executors))
    return WorkerFacts(
        seen.id, seen.hostname, seen.pid or None, seen.queues, executors, round(seen.lease, 1), seen.kind
    )


def _executor_facts(seen: ExecutorPicture) -> ExecutorFacts:
    tasks = tuple(TaskFacts(task.key, task.name, task.started or None) for task in seen.tasks)
    return ExecutorFacts(seen.pid, seen.kind, tasks)


def _counts(looked: QueuesPicture) -> Counts:
    found = looked.queues
    return Counts(
        sum(queue.waiting for queue in found),
        sum(queue.executing for queue in found),
        sum(queue.success or 0 for queue in found),
        sum(queue.error or 0 for queue in found) + looked.refused,
    )


async def _read_redis_facts(redis: Redis) -> RedisFacts:
    """Asked one by one, for a user of Redis may be forbidden to ask some of it."""

    async def ask(*command: str) -> Any:
        try:
            return await redis.command(*command)
        except ResponseError:
            return None

    info, policy, snapshots = await asyncio.gather(
        ask("INFO"), ask("CONFIG", "GET", "appendfsync"), ask("CONFIG", "GET", "save")
    )
    if info is None:
        return RedisFacts()
    found = dict(line.split(":", 1) for line in info.decode(errors="replace").splitlines() if ":" in line)
    version, memory = found.get("valkey_version") or found.get("redis_version"), found.get("used_memory", "")
    if found.get("aof_enabled") == "1":
        persistence = policy[1].decode() if policy else "append-only"
    else:
        persistence = None if not snapshots else "snapshots" if snapshots[1] else "none"
    return RedisFacts(version, int(memory) if memory.isdigit() else None, persistence)
