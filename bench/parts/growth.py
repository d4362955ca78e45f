"""A backlog that grows: what dragon's four ways to Redis do beside 1,000,000 queued tasks, and what a task occupies.

Two Redis servers, one that fills up and one that stays empty, take turns: both figures are of the same minute. Needs
about 2 GB of memory and 4 GB of disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import shutil
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

from bench.direct import A_CALL, Direct, connect, write_of
from bench.measuring import Goal, Row, Table
from bench.place import Place
from dragon.config import load_config
from dragon.embedded import EmbeddedRedis, find_server

SIZES = (10_000, 100_000, 1_000_000)
COUNT = 4_000  # tasks created, reserved and finished in one repetition
PLACES = 50  # tasks reserved, and finished, in a call
KEYS = 100  # statuses read in a call
LOOKS = 4  # times that COUNT of them are read: it takes so little time
AHEAD = 3  # calls under way while the backlog is made
VERBS = ("create", "reserve", "finish", "status")
CALLS = {
    "create": f"{A_CALL:,} tasks a call",
    "reserve": f"{PLACES} tasks a call",
    "finish": f"{PLACES} final statuses a call",
    "status": f"{KEYS} keys a call",
}

Rates = dict[str, list[float]]  # tasks/s by verb, one a repetition


async def measure(place: Place, rounds: int) -> list[Table]:
    memory = Table("growth", "Redis memory of a queued task", "bytes", more_is_better=False)
    tables = {verb: Table("growth", f"{verb}, {CALLS[verb]}", "tasks/s", more_is_better=True) for verb in VERBS}
    async with redis_server(place.data / "full") as full, redis_server(place.data / "empty") as empty:
        backlog = Backlog(full)
        used = await used_memory(full)
        for size in SIZES:
            await backlog.grow_to(size)
            each = (await used_memory(full) - used) / size
            memory.rows.append(Row(f"dragon, {size:,} queued", "dragon", (each,), "the whole of used_memory"))
            memory.goals.append(Goal(f"KiB a queued task, {size:,} queued", each / 1024, 1.5, at_least=False))
            beside_full, beside_empty = await take_turns(backlog, empty, rounds)
            for verb, table in tables.items():
                add_size(table, size, beside_full[verb], beside_empty[verb])
    return [*tables.values(), memory]


def add_size(table: Table, size: int, full: list[float], empty: list[float]) -> None:
    table.rows.append(Row(f"dragon, {size:,} queued", "dragon", tuple(full)))
    table.rows.append(Row(f"an empty queue, beside {size:,}", "yardstick", tuple(empty), "dragon, on another Redis"))
    # Each pair was taken within a second or two, so what else the machine does concerns both.
    ratio = statistics.median(one / other for one, other in zip(full, empty, strict=True))
    table.goals.append(Goal(f"of the rate with an empty queue, {size:,} queued", ratio, 0.8, at_least=True))


class Backlog:
    """The queue that grows, and keys of tasks all over it that stay queued."""

    def __init__(self, direct: Direct) -> None:
        self.direct = direct
        self.keys: list[str] = []
        self._size = 0

    async def grow_to(self, size: int) -> None:
        """Adds tasks; several calls are under way, so that Redis never waits for this process."""
        under_way: set[asyncio.Task[None]] = set()
        for _ in range(self._size, size, A_CALL):
            new = self.direct.prepare(A_CALL)
            self.keys += [task.key for task in new]
            under_way.add(asyncio.create_task(self.direct.create(new)))
            if len(under_way) >= AHEAD:
                done, under_way = await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
                for call in done:
                    call.result()
        await asyncio.gather(*under_way)
        self._size = size
        await quiet(self.direct)


async def take_turns(backlog: Backlog, empty: Direct, rounds: int) -> tuple[Rates, Rates]:
    """Rates beside the backlog and without one."""
    beside_full: Rates = {verb: [] for verb in VERBS}
    beside_empty: Rates = {verb: [] for verb in VERBS}
    for number in range(rounds):
        turns: list[Callable[[], Awaitable[None]]] = [
            lambda: repeat(backlog.direct, beside_full, backlog.keys),
            lambda: repeat(empty, beside_empty, None),
        ]
        for turn in turns if number % 2 == 0 else reversed(turns):
            await turn()
    return beside_full, beside_empty


async def repeat(direct: Direct, rates: Rates, keys: list[str] | None) -> None:
    """One repetition of all four; as many tasks are finished as are created. Asks for `keys`, or for its own ones."""
    new = direct.prepare(COUNT)
    with rate(rates["create"]):
        await direct.create(new)
    known = keys if keys is not None else [task.key for task in new]
    asked = [key for _ in range(LOOKS) for key in random.sample(known, COUNT)]
    with rate(rates["status"], len(asked)):
        for first in range(0, len(asked), KEYS):
            await direct.read(asked[first : first + KEYS])
    taken = []
    with rate(rates["reserve"]):
        for _ in range(0, COUNT, PLACES):
            taken.append(await direct.reserve(PLACES))
    writes = [[write_of(task, "success", b'"Hello World"') for task in batch] for batch in taken]
    with rate(rates["finish"]):
        for batch in writes:
            await direct.update(batch)


@contextlib.contextmanager
def rate(rates: list[float], count: int = COUNT) -> Iterator[None]:
    """Adds `count` a second of the time in the body."""
    begun = time.perf_counter()
    yield
    rates.append(count / (time.perf_counter() - begun))


@contextlib.asynccontextmanager
async def redis_server(folder: Path) -> AsyncIterator[Direct]:
    """An embedded Redis with its usual settings and a worker registered in it; its folder goes with it."""
    with EmbeddedRedis(find_server(load_config()), folder, folder / "redis.sock") as embedded:
        async with connect(embedded.url) as direct:
            await direct.register()
            yield direct
    shutil.rmtree(folder)


async def used_memory(direct: Direct) -> int:
    return int(await info(direct, "used_memory"))


async def quiet(direct: Direct) -> None:
    """Waits until Redis has done with rewriting its append-only file, which is no cost of a queue that is long."""
    while await info(direct, "aof_rewrite_in_progress") != "0" or await info(direct, "aof_rewrite_scheduled") != "0":
        await asyncio.sleep(0.1)


async def info(direct: Direct, name: str) -> str:
    answer: bytes = await direct.redis.command("INFO", "everything")
    for line in answer.decode().splitlines():
        found, _, value = line.partition(":")
        if found == name:
            return value
    raise RuntimeError(f"Redis does not tell {name}")
