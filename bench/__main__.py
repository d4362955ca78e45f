"""`make bench`: dragon beside its yardsticks in one run, because these figures mean something only as ratios.

Each part alternates dragon and its yardstick for several rounds and prints medians with their spread. The load comes
from this process, on the same cores.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import aiohttp
import orjson
import redis
from rq import Queue, SimpleWorker

ROUNDS = 5
CONNECTIONS = 64
SECRET = {"Authorization": "Secret 123456"}
HELLO = {"task_name": "hello"}
ROOT = Path(__file__).resolve().parent.parent


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def child(*command: str, **environment: str) -> Iterator[None]:
    process = subprocess.Popen(
        [sys.executable, *command], cwd=ROOT, env=os.environ | environment, stdout=subprocess.DEVNULL
    )
    try:
        yield
    finally:
        process.terminate()
        process.wait(60)


async def until_up(session: aiohttp.ClientSession, path: str) -> None:
    for _ in range(300):
        with contextlib.suppress(aiohttp.ClientError):
            async with session.get(path) as response:
                if response.status == 200:
                    return
        await asyncio.sleep(0.1)
    raise SystemExit(f"{path} never answered with 200")


async def many_posts(session: aiohttp.ClientSession, path: str, body: bytes, count: int) -> float:
    """Requests a second over CONNECTIONS connections."""
    left = iter(range(count))

    async def client() -> None:
        for _ in left:
            async with session.post(path, data=body, headers=SECRET) as response:
                assert response.status == 200, await response.text()
                await response.read()

    begun = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(CONNECTIONS)))
    return count / (time.perf_counter() - begun)


async def streamed(session: aiohttp.ClientSession, calls: int, size: int) -> float:
    """Tasks a second, created and followed to their ends by `calls` clients at the same time."""
    body = orjson.dumps({"tasks": [HELLO] * size})

    async def client() -> None:
        async with session.post("/v1/create_stream", data=body, headers=SECRET) as response:
            text = await response.read()
        finals = text.count(b'"success"')
        assert finals == size, f"{finals} of {size} ended"

    begun = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(calls)))
    return calls * size / (time.perf_counter() - begun)


async def latency(session: aiohttp.ClientSession, path: str, body: bytes, count: int = 300) -> float:
    """Median milliseconds of one request at a time."""
    times = []
    for _ in range(count):
        begun = time.perf_counter()
        async with session.post(path, data=body, headers=SECRET) as response:
            await response.read()
        times.append(1000 * (time.perf_counter() - begun))
    return statistics.median(times)


def greet() -> str:
    return "Hello World"


async def rq_drain(url: str, count: int) -> float:
    """Jobs a second of RQ's in-process worker, queued before. In the main thread, where its signal handlers must be."""
    with redis.Redis.from_url(url) as connection:
        queue = Queue("bench", connection=connection)
        queue.enqueue_many([Queue.prepare_data(greet) for _ in range(count)])
        begun = time.perf_counter()
        SimpleWorker([queue], connection=connection).work(burst=True, logging_level="ERROR")
        return count / (time.perf_counter() - begun)


async def rounds(*measures: Callable[[], Awaitable[float]]) -> list[list[float]]:
    """Each measure once a round, one after the other."""
    found: list[list[float]] = [[] for _ in measures]
    for _ in range(ROUNDS):
        for values, measure in zip(found, measures, strict=True):
            values.append(await measure())
    return found


def row(name: str, values: list[float], yardstick: list[float], unit: str) -> None:
    ours, theirs = statistics.median(values), statistics.median(yardstick)
    spread = f"{min(values):,.1f}-{max(values):,.1f}"
    print(f"{name:<58}{ours:>12,.1f} {unit:<8}{spread:>22}{theirs:>14,.1f}{ours / theirs:>9.2f}", flush=True)


async def main() -> None:
    port, bare_port = free_port(), free_port()
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, {ROUNDS} rounds\n")
    print(f"{'part':<58}{'dragon':>12} {'':<8}{'spread':>22}{'yardstick':>14}{'ratio':>9}")
    with contextlib.ExitStack() as stack:
        data = stack.enter_context(tempfile.TemporaryDirectory(prefix="dragon-bench-"))
        stack.enter_context(child("-m", "dragon", "up", DRAGON_DATA=data, PORT=str(port)))
        stack.enter_context(child(str(ROOT / "bench" / "bare.py"), str(bare_port)))
        async with (
            aiohttp.ClientSession(f"http://127.0.0.1:{port}") as dragon,
            aiohttp.ClientSession(f"http://127.0.0.1:{bare_port}") as bare,
        ):
            await until_up(dragon, "/readyz")
            await until_up(bare, "/")
            await measure_all(dragon, bare, f"unix://{data}/redis/redis.sock")


async def measure_all(dragon: aiohttp.ClientSession, bare: aiohttp.ClientSession, url: str) -> None:
    one = orjson.dumps({"tasks": HELLO})
    thousand = orjson.dumps({"tasks": [HELLO] * 1000})
    ours, theirs = await rounds(
        lambda: many_posts(dragon, "/v1/create", one, 1000), lambda: many_posts(bare, "/", one, 1000)
    )
    row("create, one task a POST / bare aiohttp handler", ours, theirs, "1/s")
    await streamed(dragon, 1, 1)  # what was created has ended: nothing is left in the queue
    ours, theirs = await rounds(
        lambda: one_post(dragon, thousand, 1000), lambda: asyncio.to_thread(rq_enqueue, url, 1000)
    )
    row("create, 1,000 tasks a POST / rq enqueue_many", ours, theirs, "tasks/s")
    await streamed(dragon, 1, 1)
    ours, theirs = await rounds(lambda: streamed(dragon, 20, 100), lambda: rq_drain(url, 200))
    row("created, run and streamed over HTTP / rq in-process, queued", ours, theirs, "tasks/s")
    ours, theirs = await rounds(lambda: latency(dragon, "/v1/create_stream", one), lambda: latency(bare, "/", one))
    row("idle: one hello through create_stream / bare aiohttp POST", ours, theirs, "ms")


async def one_post(session: aiohttp.ClientSession, body: bytes, size: int) -> float:
    """Tasks a second of one create."""
    begun = time.perf_counter()
    async with session.post("/v1/create", data=body, headers=SECRET) as response:
        assert response.status == 200
        await response.read()
    return size / (time.perf_counter() - begun)


def rq_enqueue(url: str, count: int) -> float:
    """Jobs a second of RQ's fastest way to enqueue; the queue is emptied again."""
    with redis.Redis.from_url(url) as connection:
        queue = Queue("bench-enqueue", connection=connection)
        begun = time.perf_counter()
        queue.enqueue_many([Queue.prepare_data(greet) for _ in range(count)])
        rate = count / (time.perf_counter() - begun)
        queue.empty()
        return rate


if __name__ == "__main__":
    asyncio.run(main())
