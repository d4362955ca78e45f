"""What is kept of workers: registration with RQ and with dragon, leases."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from dragon.connections import Redis
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


async def register(redis: Redis, worker: WorkerFacts, lease: float) -> None:
    """Makes the worker known to RQ and to dragon; `lease` in seconds."""
    facts = (worker.pid, worker.hostname, worker.rq_version, worker.python_version)
    await redis.run(
        script("register"), (worker.id, lease, ",".join(worker.queues), ",".join(worker.tasks), rq_date(), *facts)
    )


async def renew(redis: Redis, worker: str, lease: float, state: str) -> set[str] | None:
    """Renews the lease; returns the keys that are the worker's, None when the lease was over."""
    answer = await redis.run(script("renew"), (worker, lease, rq_date(), state))
    if answer[0] != b"1":
        return None
    keys = {key.decode(errors="replace") for key in answer[1:]}
    return {key for key in keys if is_key(key)}


async def unregister(redis: Redis, worker: str) -> None:
    """Takes the worker out; what it still holds is handed on."""
    await redis.run(script("unregister"), (worker, rq_date()))


async def living(redis: Redis) -> dict[str, tuple[set[str], set[str]]]:
    """Worker ids with their queues and task names, of those whose lease runs; RQ's own workers are not among them."""
    seconds = float((await redis.command("TIME"))[0])
    ids: Sequence[bytes] = await redis.command("ZRANGEBYSCORE", names.WORKERS, seconds, "+inf")
    facts = await asyncio.gather(
        *(redis.command("HMGET", names.WORKER.encode() + id_, "queues", "tasks") for id_ in ids)
    )
    return {
        id_.decode(errors="replace"): (_split(queues), _split(tasks or b""))
        for id_, (queues, tasks) in zip(ids, facts, strict=True)
        if queues is not None
    }


def _split(names: bytes) -> set[str]:
    return set(names.decode(errors="replace").split(","))


async def rq_worker_count(redis: Redis) -> int:
    """Workers registered with RQ that still give signs of life, RQ's own included."""
    keys = await redis.command("SMEMBERS", names.RQ_WORKERS)
    return int(await redis.command("EXISTS", *keys)) if keys else 0
