"""traceparent: from the header of a request to the task, its details and the lines of the log."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson
import pytest
import redis

from dragon.store import names
from tests.server.test_request_ids import events_of
from tests.system import SECRET, Client, System

OwnSystem = Callable[..., System]
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
TRACED = SECRET | {"traceparent": TRACE}


async def post(client: Client, path: str, body: Any, headers: dict[str, str] = TRACED) -> Any:
    async with client.session.post(path, data=orjson.dumps(body), headers=headers, allow_redirects=False) as answer:
        return [orjson.loads(line) async for line in answer.content if line.strip()]


@pytest.mark.parametrize("name", ["test.trace", "test.async_trace"])
async def test_a_task_knows_the_place_in_a_trace_that_its_creator_had(client: Client, name: str) -> None:
    body = {"tasks": [{"task_name": name}] * 2, "block": True}
    (statuses,) = await post(client, "/v1/create", body)
    assert [status["result"] for status in statuses] == [TRACE] * 2
    lines = await post(client, "/v1/create_stream", {"tasks": {"task_name": name}})
    assert lines[-1]["result"] == TRACE
    (detailed,) = await client.status(lines[-1]["key"], details=True)
    assert detailed["traceparent"] == TRACE


async def test_a_task_of_no_trace_knows_none_although_one_came_over_the_same_connection_before(client: Client) -> None:
    body = {"tasks": {"task_name": "test.trace"}, "block": True}
    for headers in (TRACED, SECRET, SECRET | {"traceparent": "nonsense"}, SECRET | {"traceparent": TRACE + "\xe9"}):
        ((status,),) = await post(client, "/v1/create", body, headers)
        assert status["result"] == (TRACE if headers is TRACED else None)
        (detailed,) = await client.status(status["key"], details=True)
        assert detailed["traceparent"] == status["result"]


async def test_it_costs_nothing_where_there_is_none(client: Client, system: System) -> None:
    keys = [(await client.run("hello"))["key"]]
    ((status,),) = await post(client, "/v1/create", {"tasks": {"task_name": "hello"}, "block": True})
    keys.append(status["key"])
    with redis.Redis.from_url(system.config.redis.url) as connection:
        facts = [connection.hget(names.TASK + key, "facts") for key in keys]
    assert facts == [b"3 demo ", f"3 demo  {TRACE}".encode()]


async def test_it_stays_with_a_task_that_serves_many_and_with_each_of_its_attempts(client: Client) -> None:
    async def look(trace: str) -> tuple[int, str]:
        query = {"task_name": "test.file", "text": "traced", "secret": "123456"}
        headers = {"traceparent": trace}
        async with client.session.get("/v1/create_file/a.txt", params=query, headers=headers) as answer:
            return answer.status, str(answer.url)

    first, second = await look(TRACE), await look(TRACE[:-2] + "00")
    assert first == second
    key = first[1].split("/")[-2]
    assert (await client.status(key, details=True))[0]["traceparent"] == TRACE
    ((status,),) = await post(client, "/v1/create", {"tasks": {"task_name": "test.die_once"}, "block": True})
    assert status["result"] == 2
    assert (await client.status(status["key"], details=True))[0]["traceparent"] == TRACE


async def test_the_log_of_server_and_worker_has_it(own_system: OwnSystem) -> None:
    system = own_system(log__format="json", log__level="debug")
    server = system.start_server()
    worker = system.start_worker("--executors", "1")
    async with system.client() as client:
        ((status,),) = await post(client, "/v1/create", {"tasks": {"task_name": "test.raise"}, "block": True})
        await client.run("hello")
    key = status["key"]
    traced = [event["message"] for event in events_of(worker.log) if event.get("traceparent") == TRACE]
    assert traced[0] == f"{key} start test.raise attempt=1"
    assert traced[1].startswith(f"{key} failed test.raise ")
    assert traced[2].startswith(f"{key} error test.raise ")
    assert len(traced) == 3, "and no event of the other task"
    (queued,) = [event for event in events_of(server.log) if event.get("key") == key]
    assert queued["traceparent"] == TRACE
