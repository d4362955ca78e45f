"""Redis hangs, with its connections open: 503 in time, streams stay, and all goes on without a restart."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import shutil
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
import redis

from dragon.config import Config
from dragon.embedded import EmbeddedRedis, find_server
from dragon.store import names
from tests.auditing import assert_sound
from tests.faults import failpoints
from tests.faults.failpoints import Nursery
from tests.faults.lanes import Lane, Stream
from tests.faults.redis_proxy import RedisProxy
from tests.figures import FULL, note, scale, seeded
from tests.system import MODULES, eventually, test_config

HANG = float(scale(20, 8))  # seconds
#: Seconds to a 503, and from Redis's return to a create that works; in the short form processes may stall meanwhile.
ANSWERED, RECOVERED = float(scale(6, 15)), float(scale(10, 30))
TASKS = scale(200, 40)


class Caller:
    """Creates a task every now and then, each with a mark of its own and no Idempotency-Key, and asks for statuses."""

    def __init__(self, session: aiohttp.ClientSession, key: str) -> None:
        self.slowest = 0.0
        self.accepted: dict[str, str] = {}  # mark -> key
        self.refused: set[str] = set()  # marks answered with 503
        self.worked: list[float] = []  # when creates were accepted, monotonic seconds
        self._session = session
        self._key = key
        self._count = 0

    async def run(self) -> None:
        async with asyncio.TaskGroup() as calls:
            while True:
                self._count += 1
                calls.create_task(self._create(f"mark-{self._count}"))
                calls.create_task(self._ask())
                await asyncio.sleep(0.25)

    async def _create(self, mark: str) -> None:
        body = {"tasks": {"task_name": "test.echo", "text": mark}}
        status, answer = await self._post("/v1/create", body)
        if status == 200:
            self.accepted[mark] = answer[0]["key"]
            self.worked.append(time.monotonic())
        else:
            self.refused.add(mark)

    async def _ask(self) -> None:
        await self._post("/v1/status", {"tasks": self._key})

    async def _post(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        began = time.monotonic()
        async with self._session.post(path, data=orjson.dumps(body)) as response:
            answer = await response.json()
            self.slowest = max(self.slowest, time.monotonic() - began)
            assert response.status in (200, 503), answer
            assert response.status == 200 or "Retry-After" in response.headers
            return response.status, answer


@contextlib.asynccontextmanager
async def system(nursery: Nursery, config: Config) -> AsyncIterator[Lane]:
    lane = Lane(config, nursery)
    with lane.closing():
        running = [await lane.start("server"), await lane.worker(), await lane.worker()]
        yield lane
        assert all(child.is_alive for child in running), "a process has ended"
        await lane.end(*running)


async def hang_and_go_on(
    lane: Lane, direct: str, stop: Callable[[], None], go_on: Callable[[], None], *, is_stopped: bool
) -> str:
    """Streams and creates around a hang; `is_stopped`: Redis itself, so that it runs nothing of what is sent to it."""
    async with lane.session() as session:
        definitions = [{"task_name": name, "seconds": 0.1} for name in ("step.def", "step.async")] * (TASKS // 2)
        stream = Stream(session, "/v1/create_stream", {"tasks": definitions})
        keys = await stream.head()
        following = Stream(session, "/v1/status_stream", {"tasks": keys})
        await following.head()
        waiting = asyncio.ensure_future(wait_for(session, keys))
        caller = Caller(session, keys[0])
        calling = asyncio.ensure_future(caller.run())
        # One after the other, by which time the server has long read for the call that waits, on the same connection.
        await eventually(lambda: len(caller.worked) > 4, 45)
        stop()
        try:
            await asyncio.sleep(HANG)
            # A server that stalls meanwhile may be late to give up: while Redis hangs it has to, sooner or later.
            await eventually(lambda: caller.refused, 45)
        finally:
            back = time.monotonic()
            go_on()
        await eventually(lambda: caller.worked[-1] > back, 45)
        recovered = next(moment for moment in caller.worked if moment > back) - back
        await asyncio.sleep(2)
        calling.cancel()
        await asyncio.gather(calling, return_exceptions=True)
        await asyncio.gather(stream.over(60), following.over(60))
        finals = stream.check()
        ended = time.monotonic() - back
        assert following.check() == finals
        assert await waiting == finals
        assert {status["status"] for status in finals} == {"success"}, finals
        accepted = await wait_for(session, list(caller.accepted.values()))
        assert [status["result"]["text"] for status in accepted] == list(caller.accepted)
    assert caller.slowest < ANSWERED, f"an answer took {caller.slowest:.1f} s"
    assert recovered < RECOVERED, f"creates worked {recovered:.1f} s after Redis did"
    made = marks_in(direct)
    assert set(caller.accepted) <= made
    if is_stopped:
        assert not made & caller.refused, "what was answered with 503 was created later"
    return (
        f"{len(caller.refused)} creates answered 503, every answer within {caller.slowest:.1f} s; "
        f"creates work {recovered:.1f} s after Redis, all ended after {ended:.1f} s"
    )


async def wait_for(session: aiohttp.ClientSession, keys: list[str]) -> list[dict[str, Any]]:
    """A blocking status."""
    body = {"tasks": keys, "block": True}
    async with session.post("/v1/status", data=orjson.dumps(body)) as response:
        assert response.status == 200, await response.text()
        statuses: list[dict[str, Any]] = await response.json()
        return statuses


def marks_in(url: str) -> set[str]:
    """The texts of all test.echo tasks that Redis has."""
    with redis.Redis.from_url(url) as client:
        parameters = [client.hget(name, "params") for name in client.scan_iter(names.TASK + "*", 1000)]
    return {orjson.loads(one).get("text", "") for one in parameters if one}


def settings() -> dict[str, Any]:
    return {"tasks__modules": (*MODULES, *failpoints.MODULES)}


@pytest.mark.timeout(180)
@pytest.mark.parametrize("hung", ["Redis", *(["the way to Redis"] if FULL else [])])
async def test_a_hang_is_a_503_in_time_and_nothing_is_lost_or_created_later(nursery: Nursery, hung: str) -> None:
    folder = Path(tempfile.mkdtemp(prefix="dragon-test-"))
    try:
        with EmbeddedRedis(find_server(Config()), folder / "redis", folder / "sock") as server:
            process = server.process
            assert process
            proxy = RedisProxy(folder / "proxy.sock", server.url, seeded())
            is_stopped = hung == "Redis"
            url = server.url if is_stopped else proxy.url
            stop = functools.partial(process.send_signal, signal.SIGSTOP) if is_stopped else proxy.hang
            go_on = functools.partial(process.send_signal, signal.SIGCONT) if is_stopped else proxy.go_on
            async with proxy.serving(), system(nursery, test_config(folder, url, **settings())) as lane:
                found = await hang_and_go_on(lane, server.url, stop, go_on, is_stopped=is_stopped)
            await assert_sound(test_config(folder, server.url, **settings()))
            note("8", f"{hung} hung for {HANG:g} s under {TASKS} tasks, two workers", found)
    finally:
        shutil.rmtree(folder)
