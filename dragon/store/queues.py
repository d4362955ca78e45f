"""What is kept of queues: what waits, runs and has ended in each, and whether workers may take from it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from dragon.connections import Redis
from dragon.keys import is_key
from dragon.store import names
from dragon.store.scripts import script


@dataclass(frozen=True, slots=True)
class QueuePicture:
    """One queue in one moment; of one account's tasks alone, `success` and `error` are not counted (None)."""

    name: str
    waiting: int
    executing: int
    paused: bool
    oldest: float | None  # seconds that the task has waited that waits longest
    success: int | None  # ended tasks that are still kept
    error: int | None
    ended_now: int  # ended in the last minute
    failed_now: int  # of these, in an error


@dataclass(frozen=True, slots=True)
class QueuesPicture:
    """All queues in the same moment."""

    now: float  # unix time by Redis's clock
    suspended: bool  # `rq suspend`
    refused: int  # definitions that were refused when they came, and are kept; 0 of one account's tasks alone
    refused_now: int  # of these, in the last minute
    queues: tuple[QueuePicture, ...]  # by name


async def look(redis: Redis, life: int, more: Iterable[str] = (), account: str = "") -> QueuesPicture:
    """Looks at all queues, and those of `more`. `life` (of ended tasks, in seconds) tells when a task has ended.

    With an account, only its tasks are counted.
    """
    now, suspended, refused, refused_now, *values = await redis.run(
        script("overview"), (account, life, *sorted(set(more)))
    )
    found = [_picture(values[i : i + 9], float(now)) for i in range(0, len(values), 9)]
    by_name = tuple(sorted(found, key=lambda queue: queue.name))
    return QueuesPicture(float(now), suspended == 1, max(0, refused), max(0, refused_now), by_name)


def _picture(values: list[bytes | int], now: float) -> QueuePicture:
    name, waiting, executing, paused, oldest, success, error, ended_now, failed_now = values
    assert isinstance(name, bytes)
    assert isinstance(oldest, bytes)
    return QueuePicture(
        name.decode(errors="replace"),
        int(waiting),
        int(executing),
        paused == 1,
        _age(oldest.decode(errors="replace"), now),
        _counted(success),
        _counted(error),
        max(0, int(ended_now)),
        max(0, int(failed_now)),
    )


def _age(date: str, now: float) -> float | None:
    try:
        return max(0.0, now - datetime.fromisoformat(date).timestamp())
    except ValueError:
        return None  # nothing waits, or what stands there is not dragon's


def _counted(value: bytes | int) -> int | None:
    return None if int(value) < 0 else int(value)


async def lists_of(redis: Redis, queue: str) -> list[str]:
    """The lists that hold what waits in a queue, its own the last: when that is empty a lane takes its place."""
    found = {name.decode(errors="replace") for name in await redis.command("SMEMBERS", names.RQ_QUEUES)}
    own = names.RQ_QUEUE + queue
    return [*sorted(name for name in found if name.startswith(own + names.LANE_MARK)), own]


async def piece(redis: Redis, name: str, first: int, count: int) -> list[str]:
    """Keys in a list, from its head on; "" for what is no key."""
    raw = await redis.command("LRANGE", name, first, first + count - 1)
    return [key if is_key(key) else "" for key in (one.decode(errors="replace") for one in raw)]


async def is_suspended(redis: Redis) -> bool:
    """Whether `rq suspend` has stopped all workers."""
    return bool(await redis.command("EXISTS", names.RQ_SUSPENDED))


async def paused(redis: Redis) -> set[str]:
    """The queues that dragon's workers take nothing from."""
    return {name.decode(errors="replace") for name in await redis.command("SMEMBERS", names.PAUSED)}


async def pause(redis: Redis, queue: str) -> None:
    """Lets dragon's workers take nothing from the queue; what they have goes on."""
    await redis.command("SADD", names.PAUSED, queue)


async def resume(redis: Redis, queue: str) -> None:
    """Ends a pause, and wakes the workers."""
    await redis.command("SREM", names.PAUSED, queue)
    for worker in await redis.command("ZRANGE", names.WORKERS, 0, -1):
        await redis.command("PUBLISH", names.WORKER.encode() + worker, LOOK)


LOOK = b"look"  # to a worker: there may be something to take
