"""Checkouts of dragon side by side: what a change costs a task, in CPU time of each process.

`python -m bench.trees [--rounds N] BEFORE [AFTER ...]`: folders of checkouts; this one is always the last. They take
turns, with the same virtual environment. CPU time is less noisy than tasks a second, and says which process pays.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import uvloop

from bench.load import HELLO, Connection, post, requests_a_second
from bench.place import ROOT, Child, Place, descendants, new_place

POSTS = 10_000
STREAMS, BATCH, TIMES = 32, 50, 6
BLOCKING = 400
MICRO = 1e6


def seconds(pid: int) -> float:
    """User and system time of one process, without its children."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def measure(place: Place) -> dict[str, float]:
    """Microseconds a task of each process, and rates, in this checkout."""
    found: dict[str, float] = {}
    async with place.server() as (server, port):
        found |= await creates(place, server, port)
        before = seconds(place.redis_pid)
        async with place.worker() as worker:
            found |= await drains(place, worker, before)
            found |= await streams(place, server, worker, port)
            found["block: median, ms"] = 1000 * await blocks(port)
    return found


async def creates(place: Place, server: Child, port: int) -> dict[str, float]:
    request = post("/v1/create", {"tasks": [HELLO]})
    await requests_a_second(port, request, connections=64, count=1000, expect=b" 200 ")
    place.clear()
    before = seconds(server.pid), seconds(place.redis_pid)
    rate = await requests_a_second(port, request, connections=64, count=POSTS, expect=b" 200 ")
    return {
        "create: requests/s": rate,
        "create: server, us": (seconds(server.pid) - before[0]) / POSTS * MICRO,
        "create: Redis, us": (seconds(place.redis_pid) - before[1]) / POSTS * MICRO,
    }


async def drains(place: Place, worker: Child, redis_before: float) -> dict[str, float]:
    """What was created is worked off; the worker's start is in its figure, the same for all."""
    store = place.redis()
    while await store.llen("rq:queue:default"):
        await asyncio.sleep(0.05)
    await store.aclose()
    await asyncio.sleep(0.3)
    executors = sum(map(seconds, descendants(worker.pid)))
    return {
        "drain: worker, us": seconds(worker.pid) / POSTS * MICRO,
        "drain: executors, us": executors / POSTS * MICRO,
        "drain: Redis, us": (seconds(place.redis_pid) - redis_before) / POSTS * MICRO,
    }


async def streams(place: Place, server: Child, worker: Child, port: int) -> dict[str, float]:
    place.clear()
    request = post("/v1/create_stream", {"tasks": [HELLO] * BATCH})
    processes = {"server": server.pid, "Redis": place.redis_pid, "worker": worker.pid}
    before = {name: seconds(pid) for name, pid in processes.items()}

    async def client() -> None:
        connection = await Connection.open(port)
        for _ in range(TIMES):
            await connection.ask(request)
        connection.close()

    begun = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(STREAMS)))
    count = STREAMS * TIMES * BATCH
    found = {"create_stream: tasks/s": count / (time.perf_counter() - begun)}
    for name, pid in processes.items():
        found[f"create_stream: {name}, us"] = (seconds(pid) - before[name]) / count * MICRO
    return found


async def blocks(port: int) -> float:
    """Median seconds of a create that waits for its one task, back to back."""
    request = post("/v1/create", {"tasks": [HELLO], "block": True})
    connection = await Connection.open(port)
    times = []
    for _ in range(BLOCKING):
        begun = time.perf_counter()
        await connection.ask(request)
        times.append(time.perf_counter() - begun)
    connection.close()
    return statistics.median(times[BLOCKING // 10 :])


def one_round() -> None:
    with tempfile.TemporaryDirectory(prefix="dragon-bench-") as folder, new_place(Path(folder)) as place:
        for name, value in uvloop.run(measure(place)).items():
            print(f"{name}\t{value}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.trees", description=__doc__)
    parser.add_argument("trees", nargs="*", type=Path, metavar="CHECKOUT")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    if not given.trees:
        one_round()
        return
    trees = [*(tree.resolve() for tree in given.trees), ROOT]
    found: dict[Path, dict[str, list[float]]] = {tree: defaultdict(list) for tree in trees}
    for number in range(given.rounds):
        for tree in trees if number % 2 == 0 else trees[::-1]:
            # This very file, whatever bench the checkout has; its dragon comes first.
            command = [sys.executable, str(Path(__file__).resolve())]
            environ = os.environ | {"PYTHONPATH": f"{tree}"}
            output = subprocess.run(command, cwd=tree, env=environ, check=True, capture_output=True, text=True).stdout
            for line in output.splitlines():
                name, _, value = line.partition("\t")
                found[tree][name].append(float(value))
    for name in found[trees[0]]:
        medians = [statistics.median(found[tree][name]) for tree in trees]
        ratios = ", ".join(f"{median / medians[0]:.2f}" for median in medians[1:])
        print(f"{name:<28}" + "".join(f"{median:>12,.1f}" for median in medians) + f"   times the first: {ratios}")


if __name__ == "__main__":
    main()
