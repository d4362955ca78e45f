"""A server, a worker and Redis with nothing to do: what they use all the same."""

from __future__ import annotations

import asyncio
import contextlib
import time
from pathlib import Path

import redis.asyncio

from bench.measuring import Goal, Row, Table
from bench.place import Child, Place, descendants

SETTLING = 4.0  # seconds
DURATION = 20.0  # seconds
ROUNDS = 2
EXECUTORS = 2


async def measure(place: Place, rounds: int) -> list[Table]:
    shares: dict[str, list[float]] = {"server": [], "worker": [], "redis": []}
    commands: list[float] = []
    async with place.server() as (server, _), place.worker(executors=EXECUTORS) as worker:
        await asyncio.sleep(SETTLING)
        for _ in range(min(rounds, ROUNDS)):
            await observe(place, server, worker, shares, commands)
    return [cpu_table(shares), command_table(commands)]


async def observe(
    place: Place, server: Child, worker: Child, shares: dict[str, list[float]], commands: list[float]
) -> None:
    """Adds what was used in one while."""
    client = place.redis()
    await count_commands(client)  # connected
    pids = {"server": server.pid, "worker": worker.pid, "redis": place.redis_pid}
    begun, done = time.perf_counter(), await count_commands(client)
    before = {name: cpu_seconds(pid) for name, pid in pids.items()}
    await asyncio.sleep(DURATION)
    seconds = time.perf_counter() - begun
    for name, pid in pids.items():
        shares[name].append(1000 * (cpu_seconds(pid) - before[name]) / seconds)
    commands.append((await count_commands(client) - done - 1) / seconds)  # one of them was our own
    await client.aclose()


async def count_commands(client: redis.asyncio.Redis) -> int:
    """How many commands Redis has carried out, those inside scripts too."""
    return int((await client.info("stats"))["total_commands_processed"])


def cpu_seconds(pid: int) -> float:
    """What a process and its living descendants have used, by the scheduler's own clock: hundredths would say 0."""
    nanoseconds = 0
    for each in [pid, *descendants(pid)]:
        with contextlib.suppress(OSError):
            for thread in Path(f"/proc/{each}/task").iterdir():
                nanoseconds += int((thread / "schedstat").read_text().split()[0])
    return nanoseconds / 1e9


def cpu_table(shares: dict[str, list[float]]) -> Table:
    title = f"nothing to do for {DURATION:.0f} s: time used of one core"
    table = Table("idle", title, "ms/s", more_is_better=False)
    notes = {
        "server": "one process, one feed",
        "worker": f"the worker, its fork server and its {EXECUTORS + 1} executors",
        "redis": "the embedded server",
    }
    for name, values in shares.items():
        table.rows.append(Row(f"dragon, {name}", "dragon", tuple(values), notes[name]))
    for name in ("server", "worker"):
        used = table.row(f"dragon, {name}").median / 10
        table.goals.append(Goal(f"% of a core, the {name}", used, 0.5, at_least=False))
    return table


def command_table(commands: list[float]) -> Table:
    table = Table("idle", "nothing to do: Redis commands", "commands/s", more_is_better=False)
    table.rows.append(Row("dragon", "dragon", tuple(commands), "of all together, those inside scripts too"))
    table.goals.append(Goal("Redis commands/s", table.row("dragon").median, 30, at_least=False))
    return table
