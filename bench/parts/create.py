"""Creating: many small POSTs beside a handler that does nothing, one large one beside RQ's fastest way to enqueue."""

from __future__ import annotations

import time
from importlib.metadata import version

import redis
from rq import Queue

from bench.load import HELLO, Connection, post, requests_a_second
from bench.measuring import Candidate, Goal, Table, alternate
from bench.place import Place

POSTS = 5000
CONNECTIONS = 64
BATCH = 1000


def greet() -> str:
    return "Hello World"


async def measure(place: Place, rounds: int) -> list[Table]:
    async with place.server() as (_, port), place.bare_http() as (_, bare_port):
        return [await single(place, port, bare_port, rounds), await batch(place, port, rounds)]


async def single(place: Place, port: int, bare_port: int, rounds: int) -> Table:
    request = post("/v1/create", {"tasks": [HELLO]})

    async def dragon() -> float:
        place.clear()
        return await requests_a_second(port, request, connections=CONNECTIONS, count=POSTS, expect=b" 200 ")

    async def bare() -> float:
        bare_request = post("/", {"tasks": [HELLO]})
        return await requests_a_second(bare_port, bare_request, connections=CONNECTIONS, count=POSTS, expect=b" 200 ")

    table = Table("create", f"create, one task a POST, {CONNECTIONS} connections", "requests/s", more_is_better=True)
    table.rows = await alternate(
        [
            Candidate("dragon", "dragon", dragon, "stored, queued"),
            Candidate("bare aiohttp", "yardstick", bare, "reads JSON, answers JSON"),
        ],
        rounds,
    )
    ratio = table.row("dragon").median / table.row("bare aiohttp").median
    table.goals.append(Goal("of the bare aiohttp handler's requests/s", ratio, 0.5, at_least=True))
    return table


async def batch(place: Place, port: int, rounds: int) -> Table:
    request = post("/v1/create", {"tasks": [HELLO] * BATCH})
    connection = await Connection.open(port)
    times = 10

    async def dragon() -> float:
        place.clear()
        begun = time.perf_counter()
        for _ in range(times):
            answer = await connection.ask(request)
            assert b" 200 " in answer[:20], answer[:500]
        return times * BATCH / (time.perf_counter() - begun)

    async def rq() -> float:
        place.clear()
        with redis.Redis.from_url(place.url) as client:
            queue = Queue("bench", connection=client)
            begun = time.perf_counter()
            for _ in range(times):
                queue.enqueue_many([Queue.prepare_data(greet) for _ in range(BATCH)])
            return times * BATCH / (time.perf_counter() - begun)

    table = Table("create", f"create, {BATCH:,} tasks a POST", "tasks/s", more_is_better=True)
    table.rows = await alternate(
        [
            Candidate("dragon", "dragon", dragon, "over HTTP"),
            Candidate("RQ enqueue_many", "peer", rq, f"rq {version('rq')}, in this process, no HTTP"),
        ],
        rounds,
    )
    connection.close()
    ratio = table.row("dragon").median / table.row("RQ enqueue_many").median
    table.goals.append(Goal("times RQ's enqueue_many", ratio, 3, at_least=True))
    return table
