"""The operator API: who may, the overview, tasks in lists, retry, cancel, failures, queues that pause."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import redis

from dragon.auth import hash_key
from dragon.config import Config
from dragon.embedded import EmbeddedRedis, find_server
from dragon.store import names
from tests.server.talking import Answer, ask, error, gauge
from tests.system import Client, System, eventually, test_config

ROOT = {"Authorization": "Secret key-of-root"}
SHOP = {"Authorization": "Secret key-of-shop"}
OTHER = {"Authorization": "Secret key-of-other"}
ACCOUNTS = f"""
[root]
name = "The operator"
secrets = ["{hash_key("key-of-root")}"]
api_keys = ["{hash_key("api-of-root")}"]
referrers = ["root.test"]
operator = true
[shop]
secrets = ["{hash_key("key-of-shop")}"]
limits.tasks_queued = 30
[other]
secrets = ["{hash_key("key-of-other")}"]
limits.streams = 1
"""


def make_system(folder: Path, url: str, **more: Any) -> System:
    accounts = folder / "accounts.toml"
    accounts.write_text(ACCOUNTS)
    return System(test_config(folder, url, accounts=accounts, **more))


@pytest.fixture(scope="module")
def idle() -> Iterator[tuple[System, Any]]:
    """A server without a worker that sends a sign of life every 0.3 s, and its Redis."""
    folder = Path(tempfile.mkdtemp(prefix="dragon-test-"))
    try:
        with EmbeddedRedis(find_server(Config()), folder / "redis", folder / "sock", durable=False) as server:
            system = make_system(folder, server.url, server__heartbeat=0.3)
            try:
                system.start_server()
                with redis.Redis.from_url(server.url) as store:
                    yield system, store
            finally:
                system.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
async def house(idle: tuple[System, Any]) -> AsyncIterator[Client]:
    """Speaks to a server whose Redis is empty."""
    system, store = idle
    store.flushdb()
    async with system.client() as client:
        yield client


@pytest.fixture
def store(idle: tuple[System, Any]) -> Any:
    return idle[1]


async def get(client: Client, path: str, headers: dict[str, str] = ROOT) -> Answer:
    return await ask(client.session, "GET", f"/v1/operator/{path}", None, headers)


async def post(client: Client, path: str, body: Any, headers: dict[str, str] = ROOT) -> Answer:
    return await ask(client.session, "POST", f"/v1/operator/{path}", body, headers)


async def create(client: Client, *definitions: dict[str, Any], headers: dict[str, str] = SHOP) -> list[str]:
    answer = await ask(client.session, "POST", "/v1/create", {"tasks": list(definitions)}, headers)
    assert answer.status == 200, answer.body
    return [status["key"] for status in answer.json]


async def cancel(client: Client, key: str, headers: dict[str, str] = SHOP) -> None:
    assert (await ask(client.session, "DELETE", f"/v1/tasks/{key}", None, headers)).json["result"] == "cancelled"


async def metric(client: Client, name: str) -> float:
    return gauge((await ask(client.session, "GET", "/metrics")).body.decode(), name)


# --- who may ----------------------------------------------------------------------------------------------------------


async def test_an_account_is_told_who_it_is_and_what_it_uses(house: Client) -> None:
    await create(house, {"task_name": "hello"}, {"task_name": "hello"})
    unlimited = dict.fromkeys(["tasks_queued", "tasks_per_minute", "tasks_per_call", "bytes_stored", "streams"])
    assert (await get(house, "account")).json == {
        "id": "root",
        "name": "The operator",
        "operator": True,
        "limits": unlimited,
        "tasks_queued": 0,
        "bytes_stored": 0,
    }
    assert (await get(house, "account", SHOP)).json == {
        "id": "shop",
        "name": None,
        "operator": False,
        "limits": unlimited | {"tasks_queued": 30},
        "tasks_queued": 2,
        "bytes_stored": 0,
    }


@pytest.mark.parametrize(
    ("headers", "sentence"),
    [
        ({}, "no credentials: the operator API takes a secret key, in the header 'Authorization: Secret KEY'"),
        ({"Authorization": "Secret nobody"}, "unknown secret key"),
        (
            {"Authorization": "Api-Key api-of-root", "Origin": "https://root.test"},
            "an api key is not enough for the operator API: send a secret key, 'Authorization: Secret KEY'",
        ),
        (
            {"Authorization": "Bearer key-of-root"},
            "the Authorization header is not understood: "
            "write 'Authorization: Secret KEY' or 'Authorization: Api-Key KEY'",
        ),
    ],
)
async def test_only_a_secret_key_in_the_header_will_do(house: Client, headers: dict[str, str], sentence: str) -> None:
    for path in ("account", "overview", "overview_stream", "account?secret=key-of-root"):
        answer = await get(house, path, headers)
        assert (answer.status, answer.json) == (401, error(sentence))


# --- the overview -----------------------------------------------------------------------------------------------------


def queues_of(snapshot: dict[str, Any]) -> dict[str, tuple[int, int, bool, int]]:
    """Waiting, executing, paused and workers by queue."""
    return {
        queue["name"]: (queue["waiting"], queue["executing"], queue["paused"], queue["workers"])
        for queue in snapshot["queues"]
    }


async def test_the_overview_counts_waiting_tasks_of_all_lanes_and_knows_the_oldest(house: Client) -> None:
    (first,) = await create(house, {"task_name": "hello"})
    await create(house, *[{"task_name": "hello"}] * 2, headers=OTHER)
    await asyncio.sleep(0.2)  # the oldest task's age is to be seen
    snapshot = (await get(house, "overview")).json
    assert queues_of(snapshot)["default"] == (3, 0, False, 0)
    assert 0.2 <= snapshot["queues"][0]["oldest"] < 10
    assert snapshot["counts"] == {"waiting": 3, "executing": 0, "success": 0, "error": 0}
    assert (snapshot["workers"], snapshot["suspended"], snapshot["streams"]) == ([], False, 0)
    assert snapshot["redis"].keys() == {"version", "memory_bytes", "persistence"}
    assert snapshot["redis"]["memory_bytes"] > 0
    await cancel(house, first)
    snapshot = (await get(house, "overview")).json
    assert snapshot["counts"] == {"waiting": 2, "executing": 0, "success": 0, "error": 1}
    assert snapshot["rates"] == {
        "per_second": 0.017,
        "errors_per_second": 0.017,
        "waiting_p50": None,
        "waiting_p95": None,
    }


async def test_an_account_that_is_no_operator_sees_its_own_numbers_only(house: Client, store: Any) -> None:
    await create(house, *[{"task_name": "hello"}] * 2)
    await create(house, *[{"task_name": "hello"}] * 5, headers=OTHER)
    store.zadd(names.WORKERS, {"w": 2e9})
    store.hset(names.WORKER + "w", mapping={"queues": "default,high", "tasks": "hello"})
    for headers, waiting in ((SHOP, 2), (OTHER, 5)):
        snapshot = (await get(house, "overview", headers)).json
        found = queues_of(snapshot)
        assert (found["default"], found["high"]) == ((waiting, 0, False, 1), (0, 0, False, 1))
        assert snapshot["counts"] == {"waiting": waiting, "executing": 0, "success": None, "error": None}
        assert (snapshot["workers"], snapshot["streams"]) == ([], 0)
        assert set(snapshot["redis"].values()) | set(snapshot["rates"].values()) == {None}


async def test_workers_are_shown_with_what_their_executors_do(house: Client, store: Any) -> None:
    task = {"key": "A" * 26, "name": "hello", "started": "2026-01-02T03:04:05.000006+00:00"}
    doing = [{"pid": 12, "kind": "def", "tasks": [task]}, {"pid": 13, "kind": "async", "tasks": []}]
    store.zadd(names.WORKERS, {"w": 2e9, "rq-horse": 2e9, "dead": 1})
    store.hset(names.WORKER + "w", mapping={"queues": "default", "tasks": "hello", "doing": orjson.dumps(doing)})
    store.hset(names.WORKER + "dead", mapping={"queues": "default", "tasks": "hello"})
    store.hset(names.RQ_WORKER + "w", mapping={"hostname": "here", "pid": "7"})
    store.sadd(names.RQ_WORKERS, names.RQ_WORKER + "w", names.RQ_WORKER + "theirs", names.RQ_WORKER + "gone")
    theirs = {"queues": "low,default", "hostname": "there", "pid": "8", "current_job": "A" * 26}
    store.hset(names.RQ_WORKER + "theirs", mapping=theirs)
    store.expire(names.RQ_WORKER + "theirs", 100)
    store.hset(names.TASK + "A" * 26, mapping={"description": "hello", "started_at": "2026-01-02T03:04:05Z"})
    found = (await get(house, "overview")).json["workers"]
    assert [worker.pop("lease") > 50 for worker in found] == [True, True]
    theirs_doing = {"key": "A" * 26, "name": "hello", "started": "2026-01-02T03:04:05Z"}
    assert found == [
        {"id": "w", "hostname": "here", "pid": 7, "queues": ["default"], "executors": doing, "kind": "dragon"},
        {
            "id": "theirs",
            "hostname": "there",
            "pid": 8,
            "queues": ["low", "default"],
            "executors": [{"pid": 8, "kind": "rq", "tasks": [theirs_doing]}],
            "kind": "rq",
        },
    ]


@pytest.mark.parametrize("doing", ["", "{", "[1]", '[{"pid": "x", "kind": "def", "tasks": []}]', '{"a": 1}', "null"])
async def test_a_worker_whose_field_is_damaged_is_shown_without_executors(
    house: Client, store: Any, doing: str
) -> None:
    store.zadd(names.WORKERS, {"w": 2e9})
    store.hset(names.WORKER + "w", mapping={"queues": "default", "tasks": "hello", "doing": doing})
    (worker,) = (await get(house, "overview")).json["workers"]
    assert (worker["id"], worker["executors"]) == ("w", [])


async def test_names_of_another_type_leave_the_rest_of_the_overview(house: Client, store: Any) -> None:
    await create(house, {"task_name": "hello"})
    store.sadd(names.RQ_QUEUES, names.RQ_QUEUE + "odd")
    store.set(names.RQ_QUEUE + "odd", "no list")
    store.set(names.RQ_WIP + "default", "no zset")
    store.set(names.PAUSED, "no set")
    found = queues_of((await get(house, "overview")).json)
    assert (found["default"], found["odd"]) == ((1, 0, False, 0), (0, 0, False, 0))


# --- streams of overviews ---------------------------------------------------------------------------------------------


async def lines_of(response: Any) -> AsyncIterator[Any]:
    async for line in response.content:
        if line.strip():
            yield orjson.loads(line)


async def test_a_stream_of_overviews_tells_what_changes_and_is_silent_otherwise(house: Client) -> None:
    async with house.session.get("/v1/operator/overview_stream", headers=ROOT) as response:
        assert response.headers["Content-Type"] == "application/x-ndjson"
        first = orjson.loads(await response.content.readline())
        assert (first["counts"]["waiting"], first["streams"]) == (0, 1)
        assert await asyncio.wait_for(response.content.readexactly(5), 10) == b"     ", "signs of life, no snapshot"
        (key,) = await create(house, {"task_name": "hello"})
        lines = lines_of(response)
        assert (await anext(lines))["counts"]["waiting"] == 1
        await cancel(house, key)
        while (changed := await anext(lines))["counts"]["waiting"]:
            pass  # while it waited its age grew, which is a change too
        assert changed["counts"]["error"] == 1


async def test_all_who_watch_share_one_look_and_nobody_looks_when_they_have_left(house: Client, store: Any) -> None:
    def looks() -> int:
        return int(store.info("commandstats").get("cmdstat_pttl", {}).get("calls", 0))  # one for each worker of RQ's

    store.sadd(names.RQ_WORKERS, names.RQ_WORKER + "theirs")
    store.hset(names.RQ_WORKER + "theirs", mapping={"queues": "low"})
    streams = [await house.session.get("/v1/operator/overview_stream", headers=ROOT).__aenter__() for _ in range(20)]
    for response in streams:
        await response.content.readline()
    assert await metric(house, "dragon_streams") == 20
    before = looks()
    await eventually(lambda: looks() > before)
    start = looks()
    await eventually(lambda: looks() >= start + 2)
    assert looks() <= start + 3, "20 watch, one looks"
    for response in streams:
        response.close()

    async def is_left() -> bool:
        return await metric(house, "dragon_streams") == 0

    await eventually(is_left)
    after = looks()
    with pytest.raises(AssertionError, match="in vain"):
        await eventually(lambda: looks() > after, 2.5)


async def test_streams_of_overviews_count_among_the_accounts_streams(house: Client) -> None:
    async with house.session.get("/v1/operator/overview_stream", headers=OTHER) as response:
        assert orjson.loads(await response.content.readline())["streams"] == 1
        answer = await get(house, "overview_stream", OTHER)
        assert (answer.status, answer.json) == (
            401,
            error("account limit reached: 1 streams and waiting calls at once"),
        )


async def test_a_server_that_stops_ends_its_streams_whole(redis_url: str, tmp_path: Path) -> None:
    system = make_system(tmp_path, redis_url)
    try:
        server = system.start_server()
        async with (
            system.client() as client,
            client.session.get("/v1/operator/overview_stream", headers=ROOT) as response,
        ):
            await response.content.readline()
            stopping = asyncio.create_task(asyncio.to_thread(server.terminate))
            assert await response.content.read() == b"", "the body has an end"
            assert await stopping == 0
    finally:
        system.close()
