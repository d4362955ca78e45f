"""The peers: what else can be used in dragon's place, each at its own best documented settings for one worker process.

This table says how each worker is started; a module of the peer's name has its tasks and its client. The client runs in
a process of its own (__main__.py), so that no two peers share an interpreter.
"""

from __future__ import annotations

import asyncio
import json
import os
import struct
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import version

from bench.place import ROOT, Place

SECONDS = 120  # of a drain; a worker that takes longer is stuck


@dataclass(frozen=True)
class Peer:
    """One peer with the settings of its worker."""

    name: str
    module: str  # of bench.peers
    packages: tuple[str, ...]  # whose versions matter
    worker: tuple[str, ...]  # its command for Python; {concurrency} is filled in
    concurrency: int
    note: str  # settings, and what it does less than dragon
    count: int = 5000  # tasks of one drain
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def described(self) -> str:
        versions = ", ".join(f"{package} {version(package)}" for package in self.packages)
        return f"{versions}: {self.note}".replace("{concurrency}", str(self.concurrency))

    def variables(self, place: Place) -> dict[str, str]:
        # redis-py's pools hold 100 connections and coredis's 64: too few for 100 tasks at a time.
        return {
            "BENCH_REDIS_URL": f"{place.url}?max_connections=1000",
            "BENCH_CONCURRENCY": str(self.concurrency),
            **self.environment,
        }

    def command(self, place: Place) -> list[str]:
        return [
            part.replace("{concurrency}", str(self.concurrency)).replace("{url}", place.url) for part in self.worker
        ]


async def ask_client(place: Place, peer: Peer, *arguments: str) -> bytes:
    """Runs the peer's client and returns what it printed."""
    client = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench.peers", peer.module, *arguments),
        cwd=ROOT,
        env=os.environ | peer.variables(place),
        stdout=asyncio.subprocess.PIPE,
    )
    printed, _ = await client.communicate()
    assert client.returncode == 0, f"the client of {peer.name} failed"
    return printed


async def drain(place: Place, peer: Peer, task: str = "noop") -> float:
    """Tasks a second, from the first one's start to the last one's end: all are queued before the worker starts."""
    place.clear()
    await ask_client(place, peer, "enqueue", task, str(peer.count))
    marks = place.data / "marks"
    marks.unlink(missing_ok=True)
    expected = 8 * peer.count * (2 if task == "sleep" else 1)
    with place.child(*peer.command(place), **peer.variables(place), BENCH_MARKS=str(marks)) as worker:
        async with asyncio.timeout(SECONDS):
            while not marks.exists() or marks.stat().st_size < expected:
                assert worker.popen.poll() is None, f"the worker of {peer.name} ended, see {place.data}/children.log"
                await asyncio.sleep(0.05)
    times = struct.unpack(f"{marks.stat().st_size // 8}d", marks.read_bytes())
    assert len(times) * 8 == expected, f"{peer.name} ran a task more than once"
    return peer.count / (max(times) - min(times))


async def latencies(place: Place, peer: Peer, count: int, pause: float) -> list[float]:
    """Seconds from enqueueing one task to having its result, the worker being idle."""
    place.clear()
    with place.child(*peer.command(place), **peer.variables(place)):
        found: list[float] = json.loads(await ask_client(place, peer, "latency", str(count), str(pause)))
        return found


_RQ = ("-m", "rq.cli", "worker", "bench", "--url", "{url}", "--logging_level", "WARNING")
_CELERY = ("-m", "celery", "-A", "bench.peers.celery", "worker", "--loglevel", "WARNING")
_CELERY += ("--without-gossip", "--without-mingle", "--without-heartbeat")
_TASKIQ = ("-m", "taskiq", "worker", "bench.peers.taskiq:broker", "--workers", "1", "--log-level", "WARNING")
_TASKIQ += ("--max-async-tasks", "{concurrency}", "--no-parse")

RQ = Peer(
    "RQ in-process",
    "rq",
    ("rq",),
    (*_RQ, "--worker-class", "rq.worker.SimpleWorker"),
    1,
    "SimpleWorker: status and result stored; no isolation",
    count=500,
)
RQ_FORKED = Peer("RQ forked", "rq", ("rq",), _RQ, 1, "a process a job: status and result stored, isolated", count=200)
CELERY = Peer(
    "Celery",
    "celery",
    ("celery",),
    (*_CELERY, "--pool", "solo"),
    1,
    "solo pool, prefetch 1000, no gossip, mingle, heartbeat; acknowledged before it runs, only the result stored "
    "and published, no isolation",
    count=2000,
)
CELERY_THREADS = replace(
    CELERY,
    worker=(*_CELERY, "--pool", "threads", "--concurrency", "{concurrency}"),
    note=CELERY.note.replace("solo pool", "pool of {concurrency} threads"),
)
DRAMATIQ = Peer(
    "Dramatiq",
    "dramatiq",
    ("dramatiq",),
    ("-m", "dramatiq", "bench.peers.dramatiq", "--processes", "1", "--threads", "{concurrency}"),
    8,
    "threads: {concurrency}, prefetch 200, asks Redis every 2-4 ms when idle; only the result stored, no isolation",
    environment={"dramatiq_queue_prefetch": "200", "dramatiq_worker_timeout": "2"},
)
# What `dramatiq-gevent` does, which is a script and no module.
_DRAMATIQ_GEVENT = "from gevent import monkey; monkey.patch_all(); from dramatiq.cli import main; main()"
DRAMATIQ_GREENLETS = replace(
    DRAMATIQ,
    name="Dramatiq greenlets",
    packages=("dramatiq", "gevent"),
    worker=("-c", _DRAMATIQ_GEVENT, *DRAMATIQ.worker[2:]),
    note=DRAMATIQ.note.replace("threads", "gevent greenlets"),
)
TASKIQ_LISTS = Peer(
    "Taskiq lists",
    "taskiq",
    ("taskiq", "taskiq-redis"),
    (*_TASKIQ, "--max-prefetch", "100"),
    100,
    "async def, {concurrency} at a time, prefetch 100, orjson, uvloop, no parsing; never acknowledged (a crash loses "
    "tasks), only the result stored, no isolation",
    environment={"BENCH_BROKER": "lists"},
)
TASKIQ_STREAMS = Peer(
    "Taskiq streams",
    "taskiq",
    ("taskiq", "taskiq-redis"),
    _TASKIQ,
    100,
    "async def, {concurrency} at a time, reads 100 a trip, orjson, uvloop, no parsing; only the result stored, "
    "no isolation",
    environment={"BENCH_BROKER": "streams"},
)
SAQ = Peer(
    "SAQ",
    "saq",
    ("saq",),
    ("-m", "saq", "bench.peers.saq.settings", "--quiet"),
    20,
    "async def, {concurrency} at a time, orjson, uvloop; statuses and result stored and published, no isolation",
    count=3000,
)
STREAQ = Peer(
    "streaQ",
    "streaq",
    ("streaq",),
    ("-m", "streaq", "run", "bench.peers.streaq:worker"),
    100,
    "async def, {concurrency} at a time and as many ahead, uvloop, silent; status and result stored, result published, "
    "no isolation",
    count=2000,
)
HUEY = Peer(
    "Huey",
    "huey",
    ("huey",),
    ("-m", "huey.bin.huey_consumer", "bench.peers.huey.huey", "--quiet", "--workers", "{concurrency}"),
    1,
    "threads: {concurrency}, blocking pop (a crash loses tasks); only the result stored, no isolation",
)

_HUEY_GEVENT = (
    "from gevent import monkey; monkey.patch_all(); from huey.bin import huey_consumer as h; h.consumer_main()"
)
HUEY_GREENLETS = replace(
    HUEY,
    name="Huey greenlets",
    packages=("huey", "gevent"),
    worker=("-c", _HUEY_GEVENT, *HUEY.worker[2:], "--worker-type", "greenlet"),
    note=HUEY.note.replace("threads", "gevent greenlets"),
)

PEERS = (RQ_FORKED, RQ, CELERY, DRAMATIQ, TASKIQ_LISTS, TASKIQ_STREAMS, SAQ, STREAQ, HUEY)
