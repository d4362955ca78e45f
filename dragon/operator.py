"""What an operator can see and do, without HTTP: what runs, what waits, what failed, and the handles to change it.

An account with `operator = true` sees and changes everything; any other account its own tasks only.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import orjson
from redis.exceptions import ResponseError

from dragon.auth import Account, Accounts, Limits
from dragon.embedded import redis_url
from dragon.errors import Unauthorized
from dragon.sampling import Sampler, Watcher
from dragon.service import Service
from dragon.status import timestamp
from dragon.store import crew, names, queues
from dragon.store.crew import WorkerPicture
from dragon.store.queues import QueuesPicture
from dragon.streams import Place

REDIS_FACTS_AGE = 10.0  # seconds after which Redis is asked again how it is


# --- Facts ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class OwnAccount:
    """Who asks, and what that account uses of its limits."""

    id: str
    name: str | None
    operator: bool
    limits: Limits
    tasks_queued: int
    bytes_stored: int


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
    workers: tuple[WorkerPicture, ...]
    rates: Rates
    counts: Counts
    suspended: bool
    streams: int
    redis: RedisFacts

    @property
    def essence(self) -> Snapshot:
        """Without what changes when nothing happens."""
        workers = tuple(replace(worker, lease=0.0) for worker in self.workers)
        return replace(self, time="", workers=workers, redis=replace(self.redis, memory_bytes=None))


class _Seen(NamedTuple):
    """A snapshot as all its watchers get it."""

    line: bytes
    essence: bytes


class _Watching(NamedTuple):
    """What one watcher holds."""

    name: Any  # of what is watched
    sampler: Sampler[Any]
    place: Place


# --- The verbs --------------------------------------------------------------------------------------------------------


class Operator:
    """The verbs. Holds the looks that are shared by those who watch, and their places among the streams."""

    def __init__(self, service: Service, accounts: Accounts) -> None:
        self._service = service
        self._accounts = accounts
        self._redis = service.redis
        self._life = service.config.files.life
        self._is_redis_ours = service.config.redis.url == redis_url(service.config)
        self._samplers: dict[Any, Sampler[Any]] = {}
        self._places: dict[Watcher[Any], _Watching] = {}
        self._redis_facts = (float("-inf"), RedisFacts())  # with the time when it was asked
        self._closed = False

    def close(self) -> None:
        """Ends every stream, with what it has; their clients come back to another process."""
        self._closed = True
        for watcher in self._places:
            watcher.close()

    async def account(self, account: Account) -> OwnAccount:
        """Who asks."""
        queued, size = await self._redis.command("HMGET", names.ACCOUNT + account.id, "queued", "bytes")
        return OwnAccount(
            account.id, account.name, account.operator, account.limits, max(0, int(queued or 0)), max(0, int(size or 0))
        )

    async def overview(self, account: Account) -> Snapshot:
        """Everything in one moment; for an account that is no operator, what is its own."""
        workers = await crew.crew(self._redis)
        known = {task.queue for task in self._service.registry.tasks.values()}
        known |= {queue for worker in workers if worker.kind == crew.DRAGON for queue in worker.queues}
        looked = await queues.look(self._redis, self._life, known, own_only(account))
        snapshot = Snapshot(
            timestamp(),
            tuple(
                QueueFacts(
                    queue.name,
                    queue.waiting,
                    queue.executing,
                    queue.paused,
                    None if queue.oldest is None else round(queue.oldest, 1),
                    sum(queue.name in worker.queues for worker in workers),
                )
                for queue in looked.queues
            ),
            tuple(workers),
            recent_rates(looked),
            Counts(
                sum(queue.waiting for queue in looked.queues),
                sum(queue.executing for queue in looked.queues),
                sum(queue.success or 0 for queue in looked.queues),
                sum(queue.error or 0 for queue in looked.queues),
            ),
            looked.suspended,
            self._service.streams.count,
            await self._ask_redis(),
        )
        return snapshot if account.operator else self._of_one_account(snapshot, account)

    async def watch_overview(self, account: Account) -> Watcher[Any]:
        """A watcher whose lines are overviews, the first at once; the caller has to `leave` it.

        Full, or Unauthorized, when there may be no more streams.
        """

        async def look() -> _Seen:
            snapshot = await self.overview(account)
            return _Seen(orjson.dumps(snapshot), orjson.dumps(snapshot.essence))

        return await self._watch(("overview", own_only(account)), account, look, _changes())

    def leave(self, watcher: Watcher[Any]) -> None:
        """Ends a watching, and the looks when it was the last."""
        watching = self._places.pop(watcher)
        watching.sampler.leave(watcher)
        self._forget_idle(watching.name, watching.sampler)
        self._service.streams.close(watching.place)

    async def _watch(
        self, name: Any, account: Account, look: Callable[[], Any], news: Callable[[Any], list[bytes]]
    ) -> Watcher[Any]:
        """Watches what the name stands for, together with all who watch the same."""
        place = self._service.streams.open(0, account)
        sampler = self._samplers.setdefault(name, Sampler(look))
        try:
            watcher = await sampler.watch(news)
        except BaseException:
            self._service.streams.close(place)
            self._forget_idle(name, sampler)
            raise
        self._places[watcher] = _Watching(name, sampler, place)
        if self._closed:
            watcher.close()
        return watcher

    def _forget_idle(self, name: Any, sampler: Sampler[Any]) -> None:
        if sampler.is_idle and self._samplers.get(name) is sampler:
            del self._samplers[name]

    def _of_one_account(self, snapshot: Snapshot, account: Account) -> Snapshot:
        """What is everybody's is not shown: keys of others' tasks are permissions to read them."""
        counts = replace(snapshot.counts, success=None, error=None)
        streams = self._service.streams.of(account.id)
        return replace(snapshot, workers=(), rates=Rates(), counts=counts, streams=streams, redis=RedisFacts())

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


def require_operator(account: Account) -> None:
    """Raises Unauthorized for an account that may not touch what is everybody's."""
    if not account.operator:
        raise Unauthorized(
            f"the account {account.id!r} may not do that: it takes `operator = true` in the accounts file"
        )


def recent_rates(looked: QueuesPicture) -> Rates:
    """The rates of the last minute, by what RQ's registries have got; waiting times are measured elsewhere."""
    ended = sum(queue.ended_now for queue in looked.queues)
    failed = sum(queue.failed_now for queue in looked.queues)
    return Rates(round(ended / 60, 3), round(failed / 60, 3))


def _changes() -> Callable[[_Seen], list[bytes]]:
    """What of the snapshots is to be sent to one watcher: those that differ from the last that it had."""
    sent = b""

    def news(seen: _Seen) -> list[bytes]:
        nonlocal sent
        if seen.essence == sent:
            return []
        sent = seen.essence
        return [seen.line]

    return news


async def _read_redis_facts(redis: Any) -> RedisFacts:
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
