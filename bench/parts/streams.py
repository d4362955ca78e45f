"""Very many open streams on one server process: what each costs, and how fast a line reaches one of them."""

from __future__ import annotations

import asyncio
import random
import time

from bench.direct import Direct, connect
from bench.followers import Heard, allow_files, follow, numbered, open_streams, percentile
from bench.load import get
from bench.measuring import Candidate, Goal, Row, Table, alternate
from bench.place import Child, Place
from dragon.store.tasks import Reserved

STREAMS = 10_000
SAMPLES = 300
DURATION = 18.0  # seconds of samples: all streams get their sign of life (15 s), the feed looks after all keys (10 s)
SETTLING = 1.0  # seconds
ROUNDS = 2
PATIENCE = 10.0  # seconds for one line


async def measure(place: Place, rounds: int) -> list[Table]:
    allow_files(STREAMS)
    latencies: list[list[float]] = []

    async def dragon() -> float:
        place.clear()
        async with connect(place.url) as direct, place.server() as (child, port):
            tasks = await direct.start(STREAMS)
            found, taken = await dragon_streams(child, port, direct, tasks)
            latencies.append(taken)
            return found

    async def bare() -> float:
        async with place.bare_http() as (child, port):
            before = child.memory()
            streams = await open_streams(port, [(get("/stream"), lambda number, moment: None)] * STREAMS)
            found = await kibibytes_each(child, before)
            for stream in streams:
                stream.close()
            return found

    memory = Table("streams", f"memory of an open stream, {STREAMS:,} of them", "KiB", more_is_better=False)
    memory.rows = await alternate(
        [
            Candidate("dragon", "dragon", dragon, "status_stream of a task each; PSS of the one server process"),
            Candidate("bare aiohttp", "yardstick", bare, "a prepared StreamResponse that waits"),
        ],
        min(rounds, ROUNDS),
    )
    memory.goals.append(Goal("KiB of server memory a stream", memory.row("dragon").median, 16, at_least=False))
    return [memory, update_table(latencies)]


async def dragon_streams(child: Child, port: int, direct: Direct, tasks: list[Reserved]) -> tuple[float, list[float]]:
    """KiB a stream, and seconds from writing a status to its arrival, one a sample."""
    waiting: dict[str, tuple[int, asyncio.Future[float]]] = {}

    def hearer(key: str) -> Heard:
        def heard(number: int, moment: float) -> None:
            expected, arrival = waiting.pop(key)
            assert number == expected
            arrival.set_result(moment)

        return heard

    before = child.memory()
    streams = await open_streams(port, [(follow(task.key), hearer(task.key)) for task in tasks])
    found = await kibibytes_each(child, before)
    latencies = []
    for number in range(SAMPLES):
        task = random.choice(tasks)
        write = numbered(task, number)
        arrival: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        waiting[task.key] = (number, arrival)
        begun = time.perf_counter()
        await direct.update([write])
        async with asyncio.timeout(PATIENCE):
            latencies.append(await arrival - begun)
        await asyncio.sleep(random.uniform(0, 2 * DURATION / SAMPLES))
    for stream in streams:
        stream.close()
    return found, latencies


async def kibibytes_each(child: Child, before: int) -> float:
    await asyncio.sleep(SETTLING)
    return (child.memory() - before) / 1024 / STREAMS


def update_table(latencies: list[list[float]]) -> Table:
    table = Table("streams", f"an update of one of {STREAMS:,} open streams", "ms", more_is_better=False)
    note = f"{SAMPLES} writes in {DURATION:.0f} s, from the call to the bytes at the client"
    for percent in (50, 99):
        values = tuple(1000 * percentile(taken, percent) for taken in latencies)
        table.rows.append(Row(f"dragon, p{percent}", "dragon", values, note))
    table.goals.append(Goal("ms, p50", table.row("dragon, p50").median, 5, at_least=False))
    table.goals.append(Goal("ms, p99", table.row("dragon, p99").median, 50, at_least=False))
    return table
