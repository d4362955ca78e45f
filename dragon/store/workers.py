"""What is kept of workers: registration with RQ and with dragon, leases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dragon.connections import Redis
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
    return {key.decode() for key in answer[1:]} if answer[0] == b"1" else None


async def unregister(redis: Redis, worker: str) -> None:
    """Takes the worker out; what it still holds is handed on."""
    await redis.run(script("unregister"), (worker, rq_date()))


async def living(redis: Redis) -> dict[str, tuple[set[str], set[str]]]:
    """Worker ids with their queues and task names, of those whose lease runs; RQ's own workers are not among them."""
    seconds = float((await redis.command("TIME"))[0])
    ids: Sequence[bytes] = await redis.command("ZRANGEBYSCORE", names.WORKERS, seconds, "+inf")
    found = {}
    for worker in ids:
        queues, tasks = await redis.command("HMGET", names.WORKER + worker.decode(), "queues", "tasks")
        if queues is not None:
            found[worker.decode()] = (set(queues.decode().split(",")), set((tasks or b"").decode().split(",")))
    return found


async def rq_worker_count(redis: Redis) -> int:
    """Workers registered with RQ that still give signs of life, RQ's own included."""
    count = 0
    for key in await redis.command("SMEMBERS", names.RQ_WORKERS):
        count += int(await redis.command("EXISTS", key))
    return count
