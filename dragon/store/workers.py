"""What is kept of workers: registration with RQ and with dragon, leases."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import orjson

from dragon.connections import Argument, Redis
from dragon.keys import is_key
from dragon.store import names
from dragon.store.scripts import script
from dragon.store.tasks import rq_date


@dataclass(frozen=True, slots=True)
class WorkerFacts:
    """What a worker tells of itself."""

    id: str
    queues: tuple[str, ...]
    tasks: tuple[str, ...]
    pid: int
    hostname: str
    rq_version: str
    python_version: str
    executors: int = 0  # for `def` tasks, one at a time each
    concurrency: int = 0  # `async def` tasks at a time
    started: str = ""  # date


@dataclass(frozen=True, slots=True)
class TaskPicture:
    """A task that is being worked on."""

    key: str
    name: str
    started: str  # date


@dataclass(frozen=True, slots=True)
class ExecutorPicture:
    """An executor and what it does; of very many tasks it shows the oldest, and says how many `more` there are."""

    pid: int
    kind: str  # def, async, or rq: a worker of RQ's own
    tasks: tuple[TaskPicture, ...]
    more: int = 0


@dataclass(frozen=True, slots=True)
class WorkerPicture:
    """A worker that gives signs of life, and what it does."""

    id: str
    kind: Literal["dragon", "rq"]
    hostname: str
    pid: int
    queues: tuple[str, ...]
    tasks: frozenset[str]  # names; empty for RQ's own workers, which take any
    executors: tuple[ExecutorPicture, ...]
    places: int  # executors for `def` tasks that it should have
    concurrency: int  # `async def` tasks that it takes at a time
    started: str  # date, "" when it did not say
    lease: float  # seconds until it counts as dead


async def register(redis: Redis, worker: WorkerFacts, lease: float) -> None:
    """Makes the worker known to RQ and to dragon; `lease` in seconds."""
    facts: list[Argument] = [worker.pid, worker.hostname, worker.rq_version, worker.python_version]
    facts += (worker.executors, worker.concurrency, worker.started)
    await redis.run(
        script("register"), (worker.id, lease, ",".join(worker.queues), ",".join(worker.tasks), rq_date(), *facts)
    )


async def renew(redis: Redis, worker: str, lease: float, state: str, doing: bytes = b"") -> set[str] | None:
    """Renews the lease; returns the keys that are the worker's, None when the lease was over.

    `doing` is what its executors do, as `doing` reads it; b"" when that has not changed.
    """
    answer = await redis.run(script("renew"), (worker, lease, rq_date(), state, doing))
    if answer[0] != b"1":
        return None
    keys = {key.decode(errors="replace") for key in answer[1:]}
    return {key for key in keys if is_key(key)}


async def unregister(redis: Redis, worker: str) -> None:
    """Takes the worker out; what it still holds is handed on."""
    await redis.run(script("unregister"), (worker, rq_date()))


async def clock(redis: Redis) -> float:
    """Unix time by Redis's clock, the one that leases and lives are measured by: machines need not agree."""
    return float((await redis.command("TIME"))[0])


async def living(redis: Redis) -> dict[str, tuple[set[str], set[str]]]:
    """Worker ids with their queues and task names, of those whose lease runs; RQ's own workers are not among them."""
    seconds = await clock(redis)
    ids: Sequence[bytes] = await redis.command("ZRANGEBYSCORE", names.WORKERS, seconds, "+inf")
    facts = await asyncio.gather(
        *(redis.command("HMGET", names.WORKER.encode() + id_, "queues", "tasks") for id_ in ids)
    )
    return {
        id_.decode(errors="replace"): (_split(queues), _split(tasks or b""))
        for id_, (queues, tasks) in zip(ids, facts, strict=True)
        if queues is not None
    }


_FACTS = ("queues", "tasks", "hostname", "pid", "executors", "concurrency", "started", "doing")
_RQ_FACTS = ("queues", "hostname", "pid", "birth")


async def doing(redis: Redis) -> list[WorkerPicture]:
    """All workers that give signs of life, RQ's own included, with what their executors do."""
    now, leases, listed = await asyncio.gather(
        clock(redis),
        redis.command("ZRANGEBYSCORE", names.WORKERS, "-inf", "+inf", "WITHSCORES"),
        redis.command("SMEMBERS", names.RQ_WORKERS),
    )
    left = {id_: float(lease) - now for id_, lease in zip(leases[::2], leases[1::2], strict=True)}
    living = [id_ for id_, seconds in left.items() if seconds > 0]
    rqs_own = [name for name in listed if name.removeprefix(names.RQ_WORKER.encode()) not in left]
    facts = await asyncio.gather(*(redis.command("HMGET", names.WORKER.encode() + id_, *_FACTS) for id_ in living))
    pictures = [
        _picture(id_.decode(errors="replace"), left[id_], dict(zip(_FACTS, found, strict=True)))
        for id_, found in zip(living, facts, strict=True)
        if found[0] is not None  # else a lease of a work horse of RQ's own worker
    ]
    pictures += [
        picture for picture in await asyncio.gather(*(_rq_picture(redis, name) for name in rqs_own)) if picture
    ]
    return sorted(pictures, key=lambda picture: (picture.hostname, picture.id))


def _picture(worker: str, left: float, facts: dict[str, bytes | None]) -> WorkerPicture:
    return WorkerPicture(
        worker,
        "dragon",
        _text(facts["hostname"]),
        _number(facts["pid"]),
        tuple(_text(facts["queues"]).split(",")),
        frozenset(_text(facts["tasks"]).split(",")),
        _executors(facts["doing"] or b"[]"),
        _number(facts["executors"]),
        _number(facts["concurrency"]),
        _text(facts["started"]),
        left,
    )


def _executors(doing: bytes) -> tuple[ExecutorPicture, ...]:
    """What the worker has written; what a stranger may have put there is nothing."""
    try:
        return tuple(
            ExecutorPicture(
                int(one["pid"]),
                str(one["kind"]),
                tuple(TaskPicture(str(task["key"]), str(task["name"]), str(task["started"])) for task in one["tasks"]),
                int(one.get("more", 0)),
            )
            for one in orjson.loads(doing)
        )
    except (ValueError, TypeError, LookupError, AttributeError):
        return ()


async def _rq_picture(redis: Redis, name: bytes) -> WorkerPicture | None:
    """A worker of RQ's own: one task at a time, of any name; None when it gives no signs of life any more."""
    found, life, executions = await asyncio.gather(
        redis.command("HMGET", name, *_RQ_FACTS),
        redis.command("PTTL", name),
        redis.command("SMEMBERS", name + b":executions"),
    )
    facts = dict(zip(_RQ_FACTS, found, strict=True))
    if life < 0 or facts["queues"] is None:
        return None
    tasks = []
    for key in [_text(execution).partition(":")[0] for execution in executions][:1]:
        if is_key(key):
            task, started = await redis.command("HMGET", names.TASK + key, "description", "started_at")
            tasks.append(TaskPicture(key, _text(task), _text(started)))
    pid = _number(facts["pid"])
    return WorkerPicture(
        name.decode(errors="replace").removeprefix(names.RQ_WORKER),
        "rq",
        _text(facts["hostname"]),
        pid,
        tuple(_text(facts["queues"]).split(",")),
        frozenset(),
        (ExecutorPicture(pid, "rq", tuple(tasks)),),
        1,
        0,
        _text(facts["birth"]),
        life / 1000,
    )


def _text(value: bytes | None) -> str:
    return (value or b"").decode(errors="replace")


def _number(value: bytes | None) -> int:
    return int(value) if value is not None and value.isdigit() and len(value) < 10 else 0


def _split(names: bytes) -> set[str]:
    return set(names.decode(errors="replace").split(","))


async def rq_worker_count(redis: Redis) -> int:
    """Workers registered with RQ that still give signs of life, RQ's own included."""
    keys = await redis.command("SMEMBERS", names.RQ_WORKERS)
    return int(await redis.command("EXISTS", *keys)) if keys else 0
