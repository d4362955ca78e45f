"""Everything together: many clients stream batches over HTTP, beside peers that only drain a queue."""

from __future__ import annotations

import asyncio
import time

from bench.load import HELLO, Connection, post
from bench.measuring import Candidate, Goal, Table, alternate
from bench.parts.worker import peer_candidate
from bench.peers import DRAMATIQ, HUEY, TASKIQ_STREAMS
from bench.place import Place

CONNECTIONS = 64
BATCH = 50  # tasks in one request
BATCHES = 4  # requests of one connection
FASTEST = (HUEY, DRAMATIQ, TASKIQ_STREAMS)  # the part `worker` has all
NOTE = f"{CONNECTIONS} connections, create_stream of {BATCH} hello; one server, one worker with one executor"


async def measure(place: Place, rounds: int) -> list[Table]:
    async with place.bare_http() as (_, bare_port):

        async def bare() -> float:
            return await tasks_a_second(bare_port, post("/", {"tasks": [HELLO] * BATCH}), HELLO["task_name"])

        table = Table("end_to_end", f"created, run and streamed to {CONNECTIONS} clients", "tasks/s", True)
        table.rows = await alternate(
            [
                Candidate("dragon", "dragon", lambda: dragon(place), NOTE),
                *(peer_candidate(place, peer) for peer in FASTEST),
                Candidate("bare aiohttp", "yardstick", bare, "the same requests, read and answered as JSON, no queue"),
            ],
            rounds,
        )
    best = table.best("peer")
    ratio = table.row("dragon").median / best.median
    table.goals.append(Goal(f"times the bare drain of the fastest peer, {best.name}", ratio, 2, at_least=True))
    return [table]


async def dragon(place: Place) -> float:
    place.clear()
    request = post("/v1/create_stream", {"tasks": [HELLO] * BATCH})
    async with place.server() as (_, port), place.worker(DRAGON_WORKER__CONCURRENCY="0"):
        return await tasks_a_second(port, request, '"status":"success"')


async def tasks_a_second(port: int, request: bytes, each: str) -> float:
    """All connections at once, each waits for its answer, which has `each` once for every task."""
    opened = await asyncio.gather(*(Connection.open(port) for _ in range(CONNECTIONS)))

    async def client(connection: Connection) -> None:
        for _ in range(BATCHES):
            answer = await connection.ask(request)
            assert answer.count(each.encode()) == BATCH, answer[:500]

    begun = time.perf_counter()
    await asyncio.gather(*(client(connection) for connection in opened))
    seconds = time.perf_counter() - begun
    for connection in opened:
        connection.close()
    return CONNECTIONS * BATCHES * BATCH / seconds
