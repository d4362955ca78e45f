"""One task with very many followers: when the last of them has the line, and that the worker need not care."""

from __future__ import annotations

import asyncio
import statistics
import time

from bench.direct import Direct, connect
from bench.followers import Stream, allow_files, follow, numbered, open_streams
from bench.measuring import Goal, Row, Table
from bench.place import Place
from dragon.store.tasks import Reserved

FOLLOWERS = 5_000
LINES = 10  # written one after the other, each when all have the one before
WRITES = 50  # to each of two tasks, timed at the worker's end
PAUSE = 0.02  # seconds between those
ROUNDS = 2
PATIENCE = 20.0  # seconds


class Crowd:
    """The followers of one task, as one."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._number = -1
        self._moments: list[float] = []
        self._all = asyncio.Event()
        self.streams: list[Stream] = []

    async def follow(self, port: int, task: Reserved) -> None:
        self.streams = await open_streams(port, [(follow(task.key), self._heard)] * self._count)

    def expect(self, number: int) -> None:
        self._number, self._moments = number, []
        self._all.clear()

    async def moments(self) -> list[float]:
        """When each of them had the line, in order. Raises TimeoutError when one does not get it."""
        async with asyncio.timeout(PATIENCE):
            await self._all.wait()
        return sorted(self._moments)

    def _heard(self, number: int, moment: float) -> None:
        if number == self._number:
            self._moments.append(moment)
            if len(self._moments) == self._count:
                self._all.set()


async def measure(place: Place, rounds: int) -> list[Table]:
    allow_files(FOLLOWERS)
    arrivals: dict[str, list[float]] = {"half of them": [], "the last": [], "the last, slowest line": []}
    costs: dict[int, list[float]] = {1: [], FOLLOWERS: []}
    for _ in range(min(rounds, ROUNDS)):
        place.clear()
        async with connect(place.url) as direct, place.server() as (_, port):
            famous, quiet = await direct.start(2)
            crowd, single = Crowd(FOLLOWERS), Crowd(1)
            await crowd.follow(port, famous)
            await single.follow(port, quiet)
            await time_arrivals(direct, crowd, famous, arrivals)
            await time_writes(direct, {1: (single, quiet), FOLLOWERS: (crowd, famous)}, costs)
            for stream in crowd.streams + single.streams:
                stream.close()
    return [arrival_table(arrivals), cost_table(costs)]


async def time_arrivals(direct: Direct, crowd: Crowd, task: Reserved, arrivals: dict[str, list[float]]) -> None:
    halves, lasts = [], []
    for number in range(LINES):
        crowd.expect(number)
        begun = time.perf_counter()
        await direct.update([numbered(task, number)])
        moments = await crowd.moments()
        halves.append(1000 * (moments[len(moments) // 2] - begun))
        lasts.append(1000 * (moments[-1] - begun))
    arrivals["half of them"].append(statistics.median(halves))
    arrivals["the last"].append(statistics.median(lasts))
    arrivals["the last, slowest line"].append(max(lasts))


async def time_writes(
    direct: Direct, followed: dict[int, tuple[Crowd, Reserved]], costs: dict[int, list[float]]
) -> None:
    """Milliseconds of a write; the tasks take turns. Nobody reads meanwhile, so that this process is a worker only."""
    crowds = [crowd for crowd, _ in followed.values()]
    for crowd in crowds:
        crowd.expect(LINES + WRITES - 1)
        for stream in crowd.streams:
            stream.transport.pause_reading()
    taken: dict[int, list[float]] = {count: [] for count in followed}
    for number in range(LINES, LINES + WRITES):
        for count, (_, task) in followed.items():
            write = numbered(task, number)
            begun = time.perf_counter()
            await direct.update([write])
            taken[count].append(1000 * (time.perf_counter() - begun))
            await asyncio.sleep(PAUSE)
    for crowd in crowds:
        for stream in crowd.streams:
            stream.transport.resume_reading()
    for crowd in crowds:
        await crowd.moments()
    for count, values in taken.items():
        costs[count].append(statistics.median(values))


def arrival_table(arrivals: dict[str, list[float]]) -> Table:
    table = Table("fanout", f"one line, {FOLLOWERS:,} followers: time until it is there", "ms", more_is_better=False)
    for name, values in arrivals.items():
        table.rows.append(Row(f"dragon, {name}", "dragon", tuple(values), f"{LINES} lines a round, one server process"))
    slowest = max(table.row("dragon, the last, slowest line").values)
    table.goals.append(Goal("s until the last follower has the line, at worst", slowest / 1000, 1, at_least=False))
    return table


def cost_table(costs: dict[int, list[float]]) -> Table:
    table = Table("fanout", "writing a status, as a worker does it", "ms", more_is_better=False)
    for count, values in costs.items():
        name = f"dragon, {count:,} follower{'s' if count > 1 else ''}"
        table.rows.append(Row(name, "dragon", tuple(values), f"median of {WRITES} calls of update, one status each"))
    few, many = (row.median for row in table.rows)
    table.goals.append(Goal("times the cost with one follower", many / few, 1.2, at_least=False))
    return table
