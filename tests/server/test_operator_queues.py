"""Queues that an operator pauses, resumes and clears, with real workers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
import redis

from dragon.config import load_config
from dragon.store import names
from tests.auditing import assert_sound
from tests.server.talking import Answer, ask, error
from tests.system import SECRET, Client, System

Systems = Callable[..., System]


async def act(client: Client, queue: str, action: Any) -> Answer:
    return await ask(client.session, "POST", f"/v1/operator/queues/{queue}", {"action": action}, SECRET)


async def overview(client: Client) -> dict[str, dict[str, Any]]:
    answer = await ask(client.session, "GET", "/v1/operator/overview", None, SECRET)
    return {queue["name"]: queue for queue in answer.json["queues"]}


async def detail(client: Client, key: str) -> Any:
    return (await ask(client.session, "GET", f"/v1/operator/tasks/{key}", None, SECRET)).json


def blocking_calls(store: Any) -> int:
    return int(store.info("commandstats").get("cmdstat_blmove", {}).get("calls", 0))


async def test_a_paused_queue_waits_without_a_spinning_worker_and_goes_on_at_once(
    own_system: Systems, redis_url: str
) -> None:
    system = own_system(worker__queues=("default", "low"))
    system.start_server()
    system.start_worker("--executors", "1")
    async with system.client() as client:
        assert (await client.run("test.low"))["status"] == "success"
        answer = await act(client, "low", "pause")
        assert (answer.status, answer.json) == (200, {"queue": "low", "paused": True, "cleared": 0})
        keys = [status["key"] for status in await client.create(*[{"task_name": "test.low"}] * 3)]
        assert (await client.run("hello"))["status"] == "success", "other queues go on"
        with redis.Redis.from_url(redis_url) as store:
            before, began = blocking_calls(store), time.monotonic()
            await asyncio.sleep(1.2)  # two looks at what is paused
            calls = blocking_calls(store) - before
            most = 8 * (time.monotonic() - began)  # one that spins makes hundreds a second
            assert calls < most, "a list with something in it ends each wait at once"
        found = (await overview(client))["low"]
        assert (found["waiting"], found["paused"]) == (3, True)
        assert {status["status"] for status in await client.status(*keys)} == {"queued"}
        assert (await detail(client, keys[0]))["waiting_for"] == "the queue 'low' is paused"
        answer = await act(client, "low", "resume")
        assert answer.json == {"queue": "low", "paused": False, "cleared": 0}
        statuses = await client.status(*keys, block=True, timeout=20)
        assert {status["status"] for status in statuses} == {"success"}
    await assert_sound(system.config)


async def test_a_pause_outlives_the_worker_and_what_runs_goes_on(own_system: Systems, tmp_path: Path) -> None:
    system = own_system()
    system.start_server()
    worker = system.start_worker("--executors", "1")
    async with system.client() as client:
        gated = {"task_name": "test.gated_file", "gate": str(tmp_path / "gate")}
        running = (await client.create(gated))[0]["key"]
        await client.wait_for_status(running, "executing")
        await act(client, "default", "pause")
        waiting = (await client.create({"task_name": "hello"}))[0]["key"]
        (tmp_path / "gate.1").touch()
        assert (await client.status(running, block=True))[0]["status"] == "success"
        assert await asyncio.to_thread(worker.terminate) == 0
        system.start_worker("--executors", "1")
        assert (await client.run("test.low"))["status"] == "success"
        assert (await client.status(waiting))[0]["status"] == "queued"
        await act(client, "default", "resume")
        assert (await client.status(waiting, block=True, timeout=20))[0]["status"] == "success"


async def test_clearing_cancels_what_waits_in_every_lane_and_streams_hear_it(
    own_system: Systems, redis_url: str, tmp_path: Path
) -> None:
    system = own_system()
    system.start_server()
    async with system.client() as client:
        with redis.Redis.from_url(redis_url) as store:
            store.rpush(names.RQ_QUEUE + "default", "a stranger's")
            first = [status["key"] for status in await client.create(*[{"task_name": "hello"}] * 700)]
            stream = await client.session.get(f"/v1/status_stream?tasks={first[0]}&tasks={first[699]}")
            await stream.content.readline()
            low = (await client.create({"task_name": "test.low"}))[0]["key"]
            answer = await act(client, "default", "clear")
            assert answer.json == {"queue": "default", "paused": False, "cleared": 700}
            ended = [orjson.loads(line) async for line in stream.content]
            assert sorted(status["key"] for status in ended) == sorted([first[0], first[699]])
            assert {status["result"] for status in ended} == {"cancelled"}
            assert {status["result"] for status in await client.status(*first)} == {"cancelled"}
            assert (await client.status(low))[0]["status"] == "queued"
            assert store.lrange(names.RQ_QUEUE + "default", 0, -1) == [b"a stranger's"]
            assert store.hget(names.ACCOUNT + "demo", "queued") == b"1"
            assert (await act(client, "default", "clear")).json["cleared"] == 0


@pytest.mark.parametrize("action", [None, "stop", 1, ["pause"], ""])
async def test_an_action_that_is_none_is_a_400(client: Client, action: Any) -> None:
    answer = await act(client, "default", action)
    assert answer.status == 400
    assert answer.json["errors"] == [
        {"name": "action", "location": "body", "description": "action must be one of: pause, resume, clear"}
    ]


async def test_a_queue_that_is_not_there_is_a_404_with_those_that_are(client: Client) -> None:
    answer = await act(client, "lowest", "pause")
    assert answer.status == 404
    assert answer.json == error("there is no queue of that name, there are: default, high, low")
    assert load_config(environ={}).worker.queues == ("high", "default", "low")
