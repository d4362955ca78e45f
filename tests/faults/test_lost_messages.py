"""Pub/sub messages get lost and subscriptions are cut: every final line arrives, in order, 15 s late at most."""

from __future__ import annotations

import asyncio
import contextlib
import random
import shutil
import tempfile
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest

from tests.auditing import assert_sound
from tests.faults import failpoints
from tests.faults.failpoints import Nursery
from tests.faults.lanes import Lane, Stream
from tests.faults.redis_proxy import RedisProxy
from tests.figures import FULL, note, scale, seeded
from tests.system import MODULES, test_config

SHARE = 0.2  # of the messages that are lost
LATE = float(scale(15, 40))  # seconds from a task's end to its final line; in the short form processes may stall, too
STREAMS = scale(20, 6)
TASKS = scale(100, 30)  # a stream
LONGEST = float(scale(20, 3))  # seconds that a task takes at most


class TimedStream(Stream):
    """Notes when each line came."""

    def __init__(self, session: aiohttp.ClientSession, path: str, body: dict[str, Any]) -> None:
        self.lateness: list[float] = []
        super().__init__(session, path, body)

    def on_line(self, line: Any) -> None:
        now = datetime.now(UTC)
        for status in line if isinstance(line, list) else [line]:
            if "completed" in status["events"]:
                self.lateness.append((now - datetime.fromisoformat(status["events"]["completed"])).total_seconds())


async def cut_always(proxy: RedisProxy) -> None:
    while True:
        await asyncio.sleep(1)
        proxy.cut_subscribers()


@contextlib.asynccontextmanager
async def losing(nursery: Nursery, redis_url: str, chance: random.Random) -> AsyncIterator[tuple[Lane, RedisProxy]]:
    """A server behind a proxy, and a worker that is not: its commands are pub/sub too, and another matter."""
    folder = Path(tempfile.mkdtemp(prefix="dragon-test-"))
    proxy = RedisProxy(folder / "proxy.sock", redis_url, chance)
    settings: dict[str, Any] = {"tasks__modules": (*MODULES, *failpoints.MODULES), "worker__concurrency": 1000}
    server = Lane(test_config(folder, proxy.url, **settings), nursery)
    worker = Lane(test_config(folder, redis_url, **settings), nursery)
    try:
        with server.closing(), worker.closing():
            async with proxy.serving():
                running = [await server.start("server"), await worker.worker()]
                yield server, proxy
                await server.end(*running)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.timeout(180)
@pytest.mark.parametrize("is_cut", [True, *([False] if FULL else [])])
async def test_every_final_line_arrives_in_order_when_messages_are_lost(
    nursery: Nursery, redis_url: str, is_cut: bool
) -> None:
    chance = seeded()
    async with losing(nursery, redis_url, chance) as (lane, proxy), lane.session() as session:
        proxy.lose = SHARE
        cutting = asyncio.ensure_future(cut_always(proxy)) if is_cut else None
        streams: list[TimedStream] = []
        waits: list[asyncio.Future[tuple[list[dict[str, Any]], float]]] = []
        for _ in range(STREAMS):
            definitions = [{"task_name": "step.async", "seconds": chance.uniform(0, LONGEST)} for _ in range(TASKS)]
            created = TimedStream(session, "/v1/create_stream", {"tasks": definitions})
            keys = await created.head()
            streams += [created, TimedStream(session, "/v1/status_stream", {"tasks": keys})]
            waits.append(asyncio.ensure_future(wait_for(session, keys)))
        await asyncio.gather(*(stream.over(LONGEST + 60) for stream in streams))
        for created, followed, wait in zip(streams[::2], streams[1::2], waits, strict=True):
            finals, lateness = await wait
            assert created.check() == followed.check() == finals
            assert {status["status"] for status in finals} == {"success"}
            followed.lateness.append(lateness)
            check_progress(created.lines)
            check_progress(followed.lines)
        if cutting is not None:
            cutting.cancel()
    # The slower the machine, the more statuses travel in one message, and the fewer there are to lose.
    assert proxy.lost > scale(TASKS // 10, 0), "hardly a message was lost"
    assert bool(proxy.cut) == is_cut
    latest = max(max(stream.lateness) for stream in streams)
    assert latest < LATE, f"a final line came {latest:.1f} s after the task's end"
    await assert_sound(test_config(lane.config.data_dir, redis_url))
    cuts = f", the subscription cut {proxy.cut} times" if is_cut else ""
    note(
        "9",
        f"{STREAMS * TASKS} tasks, each on two streams and a blocking status; {proxy.lost} messages lost{cuts}",
        f"every final line, in order, {latest:.1f} s late at most",
        chance,
    )


async def wait_for(session: aiohttp.ClientSession, keys: list[str]) -> tuple[list[dict[str, Any]], float]:
    """A blocking status, and by how many seconds it was late."""
    body = {"tasks": keys, "block": True}
    async with session.post("/v1/status", data=orjson.dumps(body)) as response:
        assert response.status == 200, await response.text()
        statuses: list[dict[str, Any]] = await response.json()
    completed = max(datetime.fromisoformat(status["events"]["completed"]).timestamp() for status in statuses)
    return statuses, time.time() - completed


def check_progress(lines: list[Any]) -> None:
    """Progress grows, the start never goes again."""
    seen: dict[str, tuple[bool, int]] = {}
    for status in lines[1:]:
        now = ("started" in status["events"], status.get("progress") or 0)
        assert now >= seen.get(status["key"], (False, 0)), f"{status} after {seen[status['key']]}"
        seen[status["key"]] = now
