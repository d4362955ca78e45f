"""Redis is away for a while: a clear 503, no restart needed, and open streams still get their end."""

from __future__ import annotations

import asyncio
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import orjson
import pytest

from dragon.config import Config
from dragon.embedded import EmbeddedRedis, find_server
from tests.server.talking import UNKNOWN, ask, ended, error, normalised
from tests.system import SECRET, Client, System, eventually

HELLO = {"task_name": "hello"}
AWAY = ("the task store cannot be reached, try again", "the task store did not answer in time, try again")


@pytest.fixture
def store() -> Iterator[EmbeddedRedis]:
    """A Redis that keeps its data, which the test stops and starts."""
    folder = Path(tempfile.mkdtemp(prefix="dragon-test-"))
    try:
        with EmbeddedRedis(find_server(Config()), folder / "redis", folder / "sock") as server:
            yield server
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def fragile(store: EmbeddedRedis, own_system: Callable[..., System]) -> System:
    """A server and a worker on that Redis; they end before it does."""
    system = own_system(redis__url=store.url, server__heartbeat=0.5)
    system.start_server()
    system.start_worker("--executors", "1")
    return system


async def test_every_call_is_a_503_in_time_and_all_is_well_again_without_a_restart(
    fragile: System, store: EmbeddedRedis
) -> None:
    async with fragile.client() as client:
        done = await client.run("hello")
        store.stop()
        calls = [
            ("POST", "/v1/create", {"tasks": HELLO}),
            ("POST", "/v1/create", {"tasks": HELLO, "block": True}),
            ("POST", "/v1/create_stream", {"tasks": HELLO}),
            ("POST", "/v1/create_file", {"task": {"task_name": "test.file"}}),
            ("GET", "/v1/create_file?task_name=test.file", None),
            ("GET", f"/v1/file?task={UNKNOWN}", None),
            ("GET", f"/v1/status?tasks={UNKNOWN}", None),
            ("POST", "/v1/status", {"tasks": UNKNOWN, "block": True, "details": True}),
            ("GET", f"/v1/status_stream?tasks={UNKNOWN}", None),
            ("GET", "/v1/tasks", None),
            ("DELETE", f"/v1/tasks/{UNKNOWN}", None),
        ]
        began = time.monotonic()
        answers = await asyncio.gather(*(ask(client.session, *call, SECRET) for call in calls))
        assert time.monotonic() - began < 12  # 6 on a machine that has nothing else to do
        for answer in answers:
            assert answer.status == 503
            assert answer.json in [error(text) for text in AWAY]
            assert answer.headers["Retry-After"] == "2"
        for _ in range(3):
            assert (await ask(client.session, "GET", "/healthz")).status == 200
            assert (await ask(client.session, "GET", "/metrics")).status == 200
            answer = await ask(client.session, "GET", "/readyz")
            assert (answer.status, answer.headers["Retry-After"]) == (503, "2")
            assert answer.json in [error(text) for text in AWAY]
        assert (await ask(client.session, "POST", "/v1/create", {}, SECRET)).status == 400  # what needs no Redis

        store.start()
        back = time.monotonic()
        await eventually(lambda: _is_ready(client), 20)
        assert await client.status(done["key"]) == [done]
        async with asyncio.timeout(20):
            assert normalised(await client.run("hello")) == ended("success", "Hello World")
        assert time.monotonic() - back < 20  # 10 on a machine that has nothing else to do


async def _is_ready(client: Client) -> bool:
    return (await ask(client.session, "GET", "/readyz")).status == 200


async def test_open_streams_and_waits_go_on_and_get_their_end(
    fragile: System, store: EmbeddedRedis, tmp_path: Path
) -> None:
    async with fragile.client() as client:
        gate = tmp_path / "gate"
        definition = {"task_name": "test.async_say", "texts": [], "gate": str(gate)}
        wanted = ended("success", 1)
        waited, followed = (status["key"] for status in await client.create(definition, definition))
        waiting = asyncio.ensure_future(client.status(waited, block=True))
        following = asyncio.ensure_future(_follow(client, followed))
        body = orjson.dumps({"tasks": [definition, definition]})
        async with client.session.post("/v1/create_stream", data=body, headers=SECRET) as response:
            keys = [status["key"] for status in orjson.loads(await response.content.readline())]
            for key in (waited, followed, *keys):
                await client.wait_for_status(key, "executing")
            await eventually(lambda: _is_followed(client, 4))
            store.stop()
            assert (await ask(client.session, "GET", f"/v1/status?tasks={keys[0]}")).status == 503
            gate.touch()  # they end now, and nobody can be told
            store.start()
            async with asyncio.timeout(40):
                lines = [orjson.loads(line) async for line in response.content]
                assert [normalised(status) for status in await waiting] == [wanted]
                assert normalised((await following)[-1]) == wanted
        finals = [status for status in lines if status["status"] not in ("queued", "executing")]
        assert sorted(status["key"] for status in finals) == sorted(keys)
        assert [normalised(status) for status in finals] == [wanted, wanted]


async def _is_followed(client: Client, count: int) -> bool:
    async with client.session.get("/metrics") as response:
        return f"\ndragon_followed_tasks {count}.0\n" in await response.text()


async def _follow(client: Client, key: str) -> list[object]:
    async with client.session.post("/v1/status_stream", data=orjson.dumps({"tasks": key})) as response:
        return [orjson.loads(line) async for line in response.content]


async def test_a_server_that_starts_while_redis_is_away_waits_for_it(
    store: EmbeddedRedis, own_system: Callable[..., System]
) -> None:
    system = own_system(redis__url=store.url)
    store.stop()
    system.start_server()
    async with system.client() as client:
        assert (await ask(client.session, "GET", "/healthz")).status == 200
        assert (await ask(client.session, "POST", "/v1/create", {"tasks": HELLO}, SECRET)).status == 503
        store.start()
        await eventually(lambda: _is_created(client), 20)


async def _is_created(client: Client) -> bool:
    return (await ask(client.session, "POST", "/v1/create", {"tasks": HELLO}, SECRET)).status == 200


async def test_a_redis_that_does_not_answer_is_a_503_in_time_too(
    store: EmbeddedRedis, own_system: Callable[..., System]
) -> None:
    system = own_system(redis__url=store.url, redis__timeout=1)
    system.start_server()
    assert store.process
    async with system.client() as client:
        await eventually(lambda: _is_created(client), 10)
        store.process.send_signal(signal.SIGSTOP)
        try:
            began = time.monotonic()
            for path in ("/v1/create", "/v1/create_stream"):
                answer = await ask(client.session, "POST", path, {"tasks": HELLO}, SECRET)
                assert (answer.status, answer.json) == (503, error(AWAY[1]))
                assert answer.headers["Retry-After"] == "2"
            assert time.monotonic() - began < 10, "two of the setting's timeouts, and none of 5 s"
            assert (await ask(client.session, "GET", "/healthz")).status == 200
        finally:
            store.process.send_signal(signal.SIGCONT)
        await eventually(lambda: _is_created(client), 20)
