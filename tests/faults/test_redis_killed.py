"""kill -9 of Redis under load: what a client got a key for is there afterwards, and ends; open streams go on."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import aiohttp
import orjson
import pytest

from dragon.embedded import EmbeddedRedis, find_server
from tests.auditing import assert_sound
from tests.figures import note, scale, seeded
from tests.following import Stream, follow, statuses_of
from tests.system import SECRET, Client, System, running_system, test_config


@pytest.fixture
def store(tmp_path: Path) -> Iterator[EmbeddedRedis]:
    """A Redis as `dragon up` runs it, with its append-only file."""
    with TemporaryDirectory(prefix="dragon-") as folder:  # tmp_path is too long for a socket
        config = test_config(tmp_path, "")
        with EmbeddedRedis(find_server(config), Path(folder) / "data", Path(folder) / "sock") as store:
            yield store


class Load:
    """Clients that create and follow without a pause; what they were given keys for is `acknowledged`."""

    def __init__(self, client: Client, chance: random.Random) -> None:
        self._client = client
        self._chance = chance
        self._stopping = False
        self.acknowledged: set[str] = set()
        self.refused = 0
        self.streams: list[Stream] = []

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Runs for the length of the context, and until the last stream has ended."""
        async with asyncio.TaskGroup() as group, asyncio.timeout(300):
            for _ in range(4):
                group.create_task(self._repeat(self._create))
                group.create_task(self._repeat(self._follow))
            try:
                yield
            finally:
                self._stopping = True

    async def _repeat(self, act: Any) -> None:
        while not self._stopping:
            try:
                await act()
            except aiohttp.ClientResponseError as error:
                assert error.status == 503, error
                self.refused += 1
                await asyncio.sleep(0.02)

    def _definitions(self, most: int) -> list[dict[str, Any]]:
        names = ["test.sleep", "test.async_sleep"]
        return [
            {"task_name": self._chance.choice(names), "seconds": self._chance.choice([0.001, 0.01, 0.03])}
            for _ in range(self._chance.randint(1, most))
        ]

    async def _create(self) -> None:
        body = orjson.dumps({"tasks": self._definitions(3)})
        async with self._client.session.post("/v1/create", data=body, headers=SECRET) as response:
            response.raise_for_status()
            self.acknowledged |= {status["key"] for status in orjson.loads(await response.read())}
        await asyncio.sleep(0.01)

    async def _follow(self) -> None:
        stream = await follow(self._client, "/v1/create_stream", self._definitions(6))
        self.streams.append(stream)
        self.acknowledged |= set(stream.keys)


@pytest.mark.timeout(400)
async def test_killed_redis_loses_nothing_and_open_streams_go_on(store: EmbeddedRedis, tmp_path: Path) -> None:
    chance = seeded()
    kills = scale(10, 3)
    with running_system(test_config(tmp_path, store.url), "--executors", "2") as system:
        async with system.client() as client:
            load = Load(client, chance)
            async with load.running():
                for _ in range(kills):
                    await asyncio.sleep(chance.uniform(0.3, 1.5))
                    assert store.process is not None
                    store.process.kill()
                    store.process.wait()
                    store.start()
                await asyncio.sleep(0.3)
            ended = await _assert_all_end(system, load)
        await assert_sound(system.config)
    done = f"{kills} kills under load, {len(load.acknowledged)} tasks created, {len(load.streams)} streams"
    note("4", done, f"0 of {ended} lost, every stream ended rightly, {load.refused} requests refused with 503", chance)


async def _assert_all_end(system: System, load: Load) -> int:
    for stream in load.streams:
        finals = stream.assert_ended()
        assert {status["status"] for status in finals.values()} == {"success"}
    keys = sorted(load.acknowledged)
    async with system.client() as client:
        statuses = await statuses_of(client, keys, block=True, timeout=60)
    unended = [status for status in statuses if status["status"] != "success"]
    assert unended == [], f"{len(unended)} of {len(keys)}"
    return len(statuses)
