"""A full queue of tasks that wait: `async def` tasks that sleep 10 ms, 100 at a time in one worker process."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

from bench.measuring import Candidate, Goal, Table, alternate
from bench.parts.worker import drain_dragon, peer_candidate
from bench.peers import CELERY_THREADS, DRAMATIQ_GREENLETS, HUEY_GREENLETS, SAQ, STREAQ, TASKIQ_LISTS, TASKIQ_STREAMS
from bench.place import Place

COUNT = 10_000
CONCURRENCY = 100
SECONDS = 0.01
NOTE = "every status stored and published, all lines received by a subscriber"
PEERS = (
    *(replace(peer, concurrency=CONCURRENCY) for peer in (TASKIQ_LISTS, TASKIQ_STREAMS, SAQ, STREAQ)),
    *(replace(peer, concurrency=CONCURRENCY, count=3000) for peer in (DRAMATIQ_GREENLETS, HUEY_GREENLETS)),
    replace(CELERY_THREADS, concurrency=CONCURRENCY),
)


async def measure(place: Place, rounds: int) -> list[Table]:
    title = f"tasks that sleep 10 ms, {CONCURRENCY} at a time in one worker process"
    table = Table("concurrency", title, "tasks/s", more_is_better=True)

    async def dragon() -> float:
        return await drain_dragon(place, "bench.sleep", COUNT, DRAGON_WORKER__CONCURRENCY=str(CONCURRENCY))

    table.rows = await alternate(
        [
            Candidate("dragon", "dragon", dragon, f"`async def` in a process of its own; {NOTE}"),
            *(peer_candidate(place, peer, "sleep") for peer in PEERS),
            Candidate("bare asyncio", "yardstick", bare, f"{CONCURRENCY} loops that sleep, no queue; 10,000/s at most"),
        ],
        rounds,
    )
    best = table.best("peer")
    ratio = table.row("dragon").median / best.median
    table.goals.append(Goal(f"times the fastest peer, {best.name}", ratio, 2, at_least=True))
    return [table]


async def bare() -> float:
    left = iter(range(COUNT))

    async def loop() -> None:
        for _ in left:
            await asyncio.sleep(SECONDS)

    begun = time.perf_counter()
    await asyncio.gather(*(loop() for _ in range(CONCURRENCY)))
    return COUNT / (time.perf_counter() - begun)
