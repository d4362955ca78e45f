"""One task in an idle system: from the request's first byte to its final line; the peers' without HTTP."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

import redis

from bench.load import HELLO, Connection, post
from bench.measuring import Candidate, Goal, Role, Row, Table, alternate
from bench.peers import HUEY, PEERS, latencies
from bench.place import Place

SAMPLES = 200  # a round
WARM_UP = 20
PAUSE = 0.02  # seconds in which the system comes to rest, the same for all
PERCENTILES = (50, 99)
#: Here Huey announces results, which is its quickest way and costs it a third of a drain's rate.
PEERS_HERE = (*(peer for peer in PEERS if peer is not HUEY), replace(HUEY, environment={"BENCH_NOTIFY": "1"}))


@dataclass(frozen=True)
class Sampled:
    """A candidate whose round gives many samples, in seconds."""

    name: str
    role: Role
    sample: Callable[[], Awaitable[list[float]]]
    note: str


async def measure(place: Place, rounds: int) -> list[Table]:
    async with place.bare_http() as (_, bare_port):
        candidates = [
            Sampled("dragon", "dragon", lambda: dragon(place), "POST /v1/create_stream over HTTP, to the stream's end"),
            *(
                Sampled(
                    peer.name,
                    "peer",
                    lambda peer=peer: latencies(place, peer, SAMPLES, PAUSE),  # type: ignore[misc]
                    f"from enqueueing to the result, no HTTP; {peer.described}",
                )
                for peer in PEERS_HERE
            ),
            Sampled("bare aiohttp", "yardstick", lambda: http(bare_port, post("/", HELLO)), "one POST, no queue"),
            Sampled("Redis PING", "yardstick", lambda: ping(place), "one round trip"),
        ]
        found = await percentiles(candidates, rounds)
    tables = []
    for percent, rows in found.items():
        title = f"one task in an idle system, p{percent} of {SAMPLES} a round"
        tables.append(Table("latency", title, "ms", more_is_better=False, rows=rows))
    median, slowest = (table.row("dragon").median for table in tables)
    best = tables[0].best("peer")
    text = f"of the p50 of the fastest peer, {best.name}"
    tables[0].goals.append(Goal(text, median / best.median, 0.5, at_least=False))
    tables[1].goals.append(Goal("times its own p50", slowest / median, 3, at_least=False))
    return tables


async def percentiles(candidates: list[Sampled], rounds: int) -> dict[int, list[Row]]:
    """Each candidate's percentiles in milliseconds, one a round."""
    samples: dict[str, list[list[float]]] = {one.name: [] for one in candidates}

    def turn(one: Sampled) -> Callable[[], Awaitable[float]]:
        async def take() -> float:
            samples[one.name].append(await one.sample())
            return 0.0

        return take

    await alternate([Candidate(one.name, one.role, turn(one)) for one in candidates], rounds)
    return {
        percent: [
            Row(one.name, one.role, tuple(percentile(found, percent) for found in samples[one.name]), one.note)
            for one in candidates
        ]
        for percent in PERCENTILES
    }


def percentile(seconds: list[float], percent: int) -> float:
    """In milliseconds."""
    return 1000 * statistics.quantiles(seconds, n=100, method="inclusive")[percent - 1]


async def dragon(place: Place) -> list[float]:
    place.clear()
    async with place.server() as (_, port), place.worker():
        return await http(port, post("/v1/create_stream", {"tasks": [HELLO]}), b'"status":"success"')


async def http(port: int, request: bytes, expected: bytes = b" 200 ") -> list[float]:
    """Seconds from a request's first byte to its answer's last one, on one connection."""
    connection = await Connection.open(port)
    seconds = []
    for number in range(WARM_UP + SAMPLES):
        await asyncio.sleep(PAUSE)
        begun = time.perf_counter()
        answer = await connection.ask(request)
        taken = time.perf_counter() - begun
        assert expected in answer, answer
        if number >= WARM_UP:
            seconds.append(taken)
    connection.close()
    return seconds


async def ping(place: Place) -> list[float]:
    seconds = []
    with redis.Redis.from_url(place.url) as client:
        for number in range(WARM_UP + SAMPLES):
            await asyncio.sleep(PAUSE)
            begun = time.perf_counter()
            client.ping()
            if number >= WARM_UP:
                seconds.append(time.perf_counter() - begun)
    return seconds
