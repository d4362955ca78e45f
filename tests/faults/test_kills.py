"""kill -9 of each process in turn: every accepted task ends in one final status, and clients can go on."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest

from dragon.embedded import EmbeddedRedis, find_server
from tests.system import SECRET, Client, System, eventually, running_system, test_config

OwnSystem = Callable[..., System]


async def test_the_tasks_of_a_killed_worker_end_elsewhere_within_ten_seconds(
    own_system: OwnSystem, tmp_path: Path
) -> None:
    system = own_system()
    system.start_server()
    first = system.start_worker("--executors", "2")
    marks = tmp_path / "starts"
    async with system.client() as client:
        definition = {"task_name": "test.count_starts", "path": str(marks), "seconds": 4}
        statuses = await client.create(*[definition] * 2)
        keys = [status["key"] for status in statuses]
        await eventually(lambda: marks.exists() and len(marks.read_text().splitlines()) == 2)
        second = system.start_worker("--executors", "2")
        first.kill()
        loop = asyncio.get_running_loop()
        killed = loop.time()
        await eventually(lambda: len(marks.read_text().splitlines()) == 4, 10)
        assert loop.time() - killed < 10
        final = await client.status(*keys, block=True)
        assert [(status["status"], status["result"]) for status in final] == [("success", 2)] * 2
        assert "back in their queues" in second.output


async def test_a_task_whose_workers_all_die_ends_in_an_error_that_says_so(
    own_system: OwnSystem, tmp_path: Path
) -> None:
    system = own_system(worker__lease=1, worker__heartbeat=0.2)
    system.start_server()
    marks = tmp_path / "starts"
    async with system.client() as client:
        definition = {"task_name": "test.count_starts", "path": str(marks), "seconds": 60}
        key = (await client.create(definition))[0]["key"]
        for attempt in range(1, 4):
            worker = system.start_worker("--executors", "1")
            await eventually(lambda attempt=attempt: marks.exists() and len(marks.read_text().splitlines()) == attempt)
            worker.kill()
        system.start_worker()
        status = await client.wait_for_status(key, "error")
        assert status["result"] == "the worker was lost while it ran the task (attempt 3)"


async def test_killed_executors_cost_attempts_and_nothing_else(own_system: OwnSystem) -> None:
    system = own_system()
    system.start_server()
    worker = system.start_worker("--executors", "2")
    async with system.client() as client:
        statuses = await client.create(*[{"task_name": "test.sleep", "seconds": 0.02}] * 200)
        for _ in range(5):
            await asyncio.sleep(0.1)
            executors = executors_of(worker.pid)
            with contextlib.suppress(OSError):
                import os

                os.kill(random.choice(executors), 9)
        final = await client.status(*[status["key"] for status in statuses], block=True)
        assert {status["status"] for status in final} == {"success"}


def executors_of(pid: int) -> list[int]:
    """The executor processes below a worker: the children of its fork server."""
    from dragon.processes import children_of

    return [executor for fork_server in children_of(pid) for executor in children_of(fork_server)]


async def test_random_kills_of_workers_lose_nothing_and_end_each_task_once(own_system: OwnSystem) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    system = own_system(worker__lease=1.5, worker__heartbeat=0.3)
    system.start_server()
    workers = [system.start_worker("--executors", "1") for _ in range(2)]
    async with system.client() as client:
        definitions = [
            {"task_name": "test.sleep", "seconds": chance.choice([0.001, 0.01, 0.05])} for _ in range(400)
        ] + [{"task_name": "hello"}] * 100
        chance.shuffle(definitions)
        streaming = asyncio.create_task(client.stream(*definitions))
        for _ in range(6):
            await asyncio.sleep(chance.uniform(0.3, 0.9))
            victim = chance.randrange(2)
            workers[victim].kill()
            workers[victim] = await asyncio.to_thread(system.start_worker, "--executors", "1")
        lines = await asyncio.wait_for(streaming, 45)
    finals = Counter(line["key"] for line in lines[1:] if line["status"] in ("success", "error"))
    assert set(finals.values()) == {1}
    assert set(finals) == {status["key"] for status in lines[0]}
    # A task may be unlucky three times; what is lost is said, nothing is silent.
    errors = [line for line in lines[1:] if line["status"] == "error"]
    assert len(errors) < 20
    assert all("the worker was lost" in line["result"] for line in errors)


async def test_a_client_of_a_killed_server_comes_back_with_its_keys(own_system: OwnSystem) -> None:
    system = own_system()
    server = system.start_server()
    system.start_worker("--executors", "2")
    async with system.client() as client:
        body = orjson.dumps({"tasks": [{"task_name": "test.sleep", "seconds": 0.3}] * 6})
        keys: list[str] = []
        with contextlib.suppress(aiohttp.ClientError):
            async with client.session.post("/v1/create_stream", data=body, headers=SECRET) as response:
                keys = [status["key"] for status in orjson.loads(await response.content.readline())]
                server.kill()
                await response.read()
        assert len(keys) == 6
    system.start_server()
    async with system.client() as client:
        final = await client.status(*keys, block=True)
        assert [(status["key"], status["status"]) for status in final] == [(key, "success") for key in keys]


async def test_killed_redis_loses_nothing_and_open_streams_go_on(tmp_path: Path) -> None:
    import tempfile

    with tempfile.TemporaryDirectory(prefix="dragon-") as folder:
        redis = EmbeddedRedis(find_server(test_config(tmp_path, "")), Path(folder) / "data", Path(folder) / "sock")
        redis.acquire()
        redis.start()
        try:
            with running_system(test_config(tmp_path, redis.url), "--executors", "2") as system:
                async with system.client() as client:
                    await _kill_redis_under_load(client, redis)
        finally:
            redis.stop()


async def _kill_redis_under_load(client: Client, redis: EmbeddedRedis) -> None:
    definitions: list[dict[str, Any]] = [{"task_name": "test.sleep", "seconds": 0.02}] * 100
    stream = asyncio.create_task(client.stream(*definitions))
    await eventually(lambda: _is_executing(client))
    for _ in range(3):
        await asyncio.sleep(0.3)
        redis.process.kill()
        redis.process.wait()
        redis.start()
    lines = await asyncio.wait_for(stream, 40)
    finals = Counter(line["key"] for line in lines[1:] if line["status"] in ("success", "error"))
    assert set(finals.values()) == {1}
    assert set(finals) == {status["key"] for status in lines[0]}


async def _is_executing(client: Client) -> bool:
    async with client.session.get("/metrics") as response:
        return "dragon_followed_tasks 0.0" not in await response.text()


async def test_a_worker_that_stops_finishes_or_gives_back_and_loses_nothing(
    own_system: OwnSystem, tmp_path: Path
) -> None:
    system = own_system(worker__stop_grace=1)
    system.start_server()
    first = system.start_worker("--executors", "1")
    async with system.client() as client:
        marks = tmp_path / "starts"
        long = {"task_name": "test.count_starts", "path": str(marks), "seconds": 3}
        short = {"task_name": "hello"}
        statuses = await client.create(long, *[short] * 20)
        await eventually(marks.exists)
        assert await asyncio.to_thread(first.terminate) == 0
        waiting = await client.status(*[status["key"] for status in statuses])
        assert all(status["status"] in ("executing", "queued") for status in waiting)
        system.start_worker("--executors", "2")
        final = await client.status(*[status["key"] for status in statuses], block=True)
        assert {status["status"] for status in final} == {"success"}
        assert final[0]["result"] == 1, "an attempt that was given back does not count"


async def test_a_worker_that_wakes_late_changes_nothing(own_system: OwnSystem, tmp_path: Path) -> None:
    import signal

    system = own_system(worker__lease=1, worker__heartbeat=0.2)
    system.start_server()
    sleeper = system.start_worker("--executors", "1")
    marks = tmp_path / "starts"
    async with system.client() as client:
        definition = {"task_name": "test.count_starts", "path": str(marks), "seconds": 0.5}
        key = (await client.create(definition))[0]["key"]
        await eventually(marks.exists)
        sleeper.popen.send_signal(signal.SIGSTOP)
        system.start_worker("--executors", "1")
        status = await client.wait_for_status(key, "success")
        assert status["result"] == 2
        sleeper.popen.send_signal(signal.SIGCONT)
        await asyncio.to_thread(sleeper.wait_for, "its tasks are others' now")
        assert (await client.status(key))[0] == status
        assert (await client.run("hello"))["status"] == "success"


async def test_a_server_that_stops_ends_its_streams_cleanly(own_system: OwnSystem) -> None:
    system = own_system()
    server = system.start_server()
    system.start_worker()
    async with system.client() as client:
        stream = asyncio.create_task(client.stream({"task_name": "test.sleep", "seconds": 3}))
        await eventually(lambda: _is_executing(client))
        assert await asyncio.to_thread(server.terminate) == 0
        lines = await stream  # a complete body, without the final line
        assert lines[-1]["status"] in ("executing", "queued") if len(lines) > 1 else True
        key = lines[0][0]["key"]
    system.start_server()
    async with system.client() as client:
        assert (await client.status(key, block=True))[0]["status"] == "success"


@pytest.mark.parametrize("members", [{}, {"block": True}])
async def test_a_task_of_no_queue_that_a_worker_serves_stays_queued(
    own_system: OwnSystem, members: dict[str, Any]
) -> None:
    system = own_system()
    system.start_server()
    system.start_worker("--queues", "high")
    async with system.client() as client:
        status = (await client.create({"task_name": "hello"}, timeout=0.3, **members))[0]
        assert status["status"] == "queued"
        assert (await client.run("test.high"))["result"] == "high"
