"""What workers are doing, by what they say of themselves: dragon's own and RQ's."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import orjson

from dragon.connections import Redis
from dragon.keys import is_key
from dragon.store import names, workers

DRAGON, RQ = "dragon", "rq"  # kinds of workers


@dataclass(frozen=True, slots=True)
class Doing:
    """A task that an executor has."""

    key: str
    name: str
    started: str | None  # ISO date


@dataclass(frozen=True, slots=True)
class ExecutorPicture:
    """One executor, as its worker describes it."""

    pid: int
    kind: str  # def, async, or rq: a work horse of RQ's
    tasks: tuple[Doing, ...]


@dataclass(frozen=True, slots=True)
class WorkerPicture:
    """One worker that gives signs of life."""

    id: str
    hostname: str
    pid: int | None
    queues: tuple[str, ...]
    executors: tuple[ExecutorPicture, ...]
    lease: float  # seconds that it has left to give the next sign
    kind: str  # dragon or rq


async def crew(redis: Redis) -> list[WorkerPicture]:
    """The living workers, dragon's first, by id."""
    now = await workers.clock(redis)
    leases, registered = await asyncio.gather(
        redis.command("ZRANGEBYSCORE", names.WORKERS, now, "+inf", "WITHSCORES"),
        redis.command("SMEMBERS", names.RQ_WORKERS),
    )
    ids = {id_.decode(errors="replace"): float(lease) for id_, lease in zip(leases[::2], leases[1::2], strict=True)}
    others = {name.decode(errors="replace").removeprefix(names.RQ_WORKER) for name in registered} - ids.keys()
    found = await asyncio.gather(
        *(_of_dragon(redis, id_, lease - now) for id_, lease in sorted(ids.items())),
        *(_of_rq(redis, id_) for id_ in sorted(others)),
    )
    return [worker for worker in found if worker is not None]


async def _of_dragon(redis: Redis, id_: str, lease: float) -> WorkerPicture | None:
    own, rq = await asyncio.gather(
        redis.command("HMGET", names.WORKER + id_, "queues", "doing", "hostname", "pid"),
        redis.command("HMGET", names.RQ_WORKER + id_, "hostname", "pid"),
    )
    if own[0] is None:
        return None  # a work horse of RQ's, which has a lease while it runs a task
    host, pid = own[2] or rq[0], own[3] or rq[1]
    return WorkerPicture(id_, _text(host), _number(pid), _split(own[0]), read_doing(own[1]), round(lease, 1), DRAGON)


async def _of_rq(redis: Redis, id_: str) -> WorkerPicture | None:
    name = names.RQ_WORKER + id_
    (queues, host, pid, job), life = await asyncio.gather(
        redis.command("HMGET", name, "queues", "hostname", "pid", "current_job"), redis.command("PTTL", name)
    )
    if queues is None or int(life) == -2:
        return None  # it is dead, and RQ's registry not yet clean of it
    tasks: tuple[Doing, ...] = ()
    if job and is_key(_text(job)):
        task, started = await redis.command("HMGET", names.TASK + _text(job), "description", "started_at")
        tasks = (Doing(_text(job), _text(task), _text(started) or None),)
    executors = (ExecutorPicture(_number(pid) or 0, RQ, tasks),)
    return WorkerPicture(id_, _text(host), _number(pid), _split(queues), executors, max(0, int(life)) // 1000, RQ)


def read_doing(field: bytes | None) -> tuple[ExecutorPicture, ...]:
    """What stands in a worker's field `doing`; nothing, where that is not as workers write it."""
    try:
        return tuple(
            ExecutorPicture(int(one["pid"]), str(one["kind"]), tuple(_read_tasks(one["tasks"])))
            for one in orjson.loads(field or b"[]")
        )
    except (ValueError, TypeError, LookupError):
        return ()


def _read_tasks(tasks: Iterable[dict[str, Any]]) -> Iterable[Doing]:
    for task in tasks:
        started = task.get("started")
        yield Doing(str(task["key"]), str(task["name"]), None if started is None else str(started))


def _text(value: bytes | None) -> str:
    return (value or b"").decode(errors="replace")


def _number(value: bytes | None) -> int | None:
    return int(value) if value is not None and value.isdigit() and len(value) < 19 else None


def _split(queues: bytes) -> tuple[str, ...]:
    return tuple(_text(queues).split(","))
