"""The operator API: who may, the overview, tasks in lists, retry, cancel, failures, queues that pause."""

from __future__ import annotations

import asyncio
import base64
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pytest
import redis

from dragon.auth import hash_key
from dragon.config import Config
from dragon.connections import Redis
from dragon.embedded import EmbeddedRedis, find_server
from dragon.keys import new_key
from dragon.sampling import INTERVAL
from dragon.status import Status, parse_line, timestamp
from dragon.store import names, tasks, workers
from dragon.store.listing import date_of
from dragon.store.tasks import NewTask, Reserved, Usage, Write
from dragon.store.workers import WorkerFacts
from tests.server.talking import UNKNOWN, Answer, ask, bad_request, error, gauge
from tests.system import SECRET, Client, System, eventually, test_config

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
    facts = {"queues": "default", "tasks": "hello", "hostname": "here", "pid": "7", "doing": orjson.dumps(doing)}
    store.hset(names.WORKER + "w", mapping=facts)
    store.hset(names.WORKER + "dead", mapping={"queues": "default", "tasks": "hello"})
    store.sadd(names.RQ_WORKERS, names.RQ_WORKER + "w", names.RQ_WORKER + "theirs", names.RQ_WORKER + "gone")
    theirs = {"queues": "low,default", "hostname": "there", "pid": "8"}
    store.hset(names.RQ_WORKER + "theirs", mapping=theirs)
    store.expire(names.RQ_WORKER + "theirs", 100)
    store.sadd(names.RQ_WORKER + "theirs:executions", f"{'A' * 26}:an execution")
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


async def test_definitions_that_were_refused_are_errors_of_no_queue(house: Client) -> None:
    keys = await create(house, {"task_name": "hello", "nam": "x"}, {"task_name": "no.such"}, {"task_name": "hello"})
    await create(house, {"task_name": "hello", "nam": "y"}, headers=OTHER)
    snapshot = (await get(house, "overview")).json
    assert snapshot["counts"] == {"waiting": 1, "executing": 0, "success": 0, "error": 3}
    assert snapshot["rates"]["errors_per_second"] == 0.05
    rows = (await get(house, "tasks?state=error&account=shop")).json["tasks"]
    assert sorted(row["key"] for row in rows) == sorted(keys[:2])
    assert {row["queue"] for row in rows} == {""}
    groups = (await get(house, "failures?name=hello")).json["groups"]
    assert [(group["message"], group["count"]) for group in groups] == [
        ("nam: unknown parameter, did you mean 'name'?", 2)
    ]
    assert (await get(house, "overview", SHOP)).json["counts"]["error"] is None


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
        assert await asyncio.wait_for(response.content.readexactly(5), 20) == b"     ", "signs of life, no snapshot"
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
    began, start = time.monotonic(), looks()
    await eventually(lambda: looks() >= start + 2)
    assert looks() - start <= (time.monotonic() - began) / INTERVAL + 1, "20 watch, one looks"
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


# --- tasks in lists ---------------------------------------------------------------------------------------------------


@dataclass
class Stock:
    """Fills Redis with tasks as the scripts do, without a worker."""

    redis: Redis
    count: int = 0

    async def worker(self) -> None:
        facts = WorkerFacts("w", ("default", "low"), ("hello",), 1, "host", "3", "3.11")
        await workers.register(self.redis, facts, 1000)

    async def waiting(
        self, number: int, account: str = "shop", name: str = "hello", queue: str = "default"
    ) -> list[str]:
        """Tasks of moments that follow each other, the oldest first."""
        new = []
        for _ in range(number):
            self.count += 1
            line = Status("queued", new_key(), date_of(START + self.count)).line()
            key = line[26:52].decode()
            parameters = orjson.dumps({"name": f"number {self.count} http://x.example/?token=hidden-7"})
            new.append(NewTask(key, line, False, name, parameters, b"", queue, 3, 60, ""))
        for first in range(0, number, 500):
            await tasks.create(self.redis, account, new[first : first + 500], Usage(), life=LIFE)
        return [task.key for task in new]

    async def executing(self, number: int, queue: str = "default") -> list[Reserved]:
        found: list[Reserved] = []
        while len(found) < number:
            reservation = await tasks.reserve(
                self.redis,
                "w",
                [queue],
                sync_places=min(200, number - len(found)),
                async_places=0,
                ahead=0,
                known=[],
            )
            assert reservation.tasks
            writes = []
            for one in reservation.tasks:
                self.count += 1
                line = parse_line(one.line).executing(date_of(START + self.count)).line()
                writes.append(Write(one.key, one.attempt, "executing", line))
                found.append(one._replace(line=line))
            assert all(await tasks.update(self.redis, "w", writes, life=LIFE))
        return found

    async def ended(self, reserved: list[Reserved], error: str = "") -> list[str]:
        writes = []
        for one in reserved:
            self.count += 1
            status, result = ("error", orjson.dumps(error)) if error else ("success", b'"done"')
            line = parse_line(one.line).ended(status, result, timestamp()).line()
            writes.append(Write(one.key, one.attempt, status, line))  # type: ignore[arg-type]
        for first in range(0, len(writes), 500):
            assert all(await tasks.update(self.redis, "w", writes[first : first + 500], life=LIFE))
        return [one.key for one in reserved]


START = 1_700_000_000
LIFE = 7 * 86400


@pytest.fixture
async def stock(idle: tuple[System, Any]) -> AsyncIterator[Stock]:
    system, store = idle
    store.flushdb()
    connection = Redis(system.config.redis.url, 10)
    found = Stock(connection)
    await found.worker()
    yield found
    await connection.close()


async def pages(client: Client, query: str, headers: dict[str, str] = ROOT) -> list[list[dict[str, Any]]]:
    """All pages of a search."""
    found, after = [], ""
    while True:
        answer = (await get(client, f"tasks?{query}&after={after}", headers)).json
        found.append(answer["tasks"])
        after = answer["next"]
        if after is None:
            return found


async def keys_of(client: Client, query: str, headers: dict[str, str] = ROOT) -> list[str]:
    return [row["key"] for page in await pages(client, query, headers) for row in page]


async def test_a_row_says_what_is_known_of_a_task(house: Client, stock: Stock) -> None:
    (waits,) = await stock.waiting(1)
    (reserved,) = await stock.executing(1)
    (row,) = (await get(house, "tasks")).json["tasks"]
    executing = {
        "key": waits,
        "status": "executing",
        "task_name": "hello",
        "account": "shop",
        "queue": "default",
        "queued": date_of(START + 1),
        "started": date_of(START + 2),
        "completed": None,
        "worker": "w",
        "attempt": 1,
        "message": None,
        "retried_as": None,
    }
    assert row == executing
    line = parse_line(reserved.line).reported(b'{"step":1}', None).line()
    await tasks.update(stock.redis, "w", [Write(waits, 1, "executing", line)], life=LIFE)
    assert (await get(house, "tasks")).json["tasks"] == [executing | {"progress": {"step": 1}}]
    await stock.ended([reserved], "no cat at https://me:word@cats.example/?sig=1")
    (row,) = (await get(house, "tasks")).json["tasks"]
    assert row.pop("completed") > executing["started"]
    del executing["completed"]
    assert [row] == [
        executing
        | {
            "status": "error",
            "message": "no cat at https://…@cats.example/?sig=…",
        }
    ]


async def test_tasks_of_all_states_come_newest_first_over_all_pages(house: Client, stock: Stock) -> None:
    await stock.waiting(40)
    done = await stock.ended(await stock.executing(10))
    failed = await stock.ended(await stock.executing(5), "broken")
    busy = [one.key for one in await stock.executing(7)]
    await stock.waiting(9, "other")
    for limit in (1, 7, 50, 500):
        rows = [row for page in await pages(house, f"limit={limit}") for row in page]
        moments = [row["completed"] or row["started"] or row["queued"] for row in rows]
        assert len(rows) == len({row["key"] for row in rows}) == 49
        assert moments == sorted(moments, reverse=True) or limit < 10, (
            "of tasks that ended in the same second any first"
        )
    for state, expected in {
        "executing": busy[::-1],
        "success": done,
        "error": failed,
        "ended": done + failed,
    }.items():
        assert sorted(await keys_of(house, f"state={state}&limit=3")) == sorted(expected), state
    assert await keys_of(house, "state=executing&limit=3") == busy[::-1]
    assert len(await keys_of(house, "state=waiting&limit=4")) == 27


async def test_every_filter_leaves_what_it_says(house: Client, stock: Stock) -> None:
    first = await stock.waiting(3, "shop", "hello")
    second = await stock.waiting(2, "other", "image.thumb", "low")
    third = await stock.waiting(1, "other", "hello")
    for query, expected in {
        "name=hello": [*third, *first[::-1]],
        "account=other": [*third, *second[::-1]],
        "account=other&name=hello": third,
        "text=NUMBER%202": [first[1]],
        f"text={first[0].lower()}": [first[0]],
        "text=image": second[::-1],
        "text=hidden-7": [],
        f"since={START + 4}": [*third, *second[::-1]],
        f"until={START + 3}": first[::-1],
        f"since={date_of(START + 2)[:19]}Z&until={date_of(START + 4)}": [second[0], *first[:0:-1]],
        "name=nobody": [],
        "account=nobody": [],
    }.items():
        assert await keys_of(house, query) == expected, query
    ended = await stock.ended(await stock.executing(2), "a sad end")
    # Of those that ended in the same second any comes first.
    assert sorted(await keys_of(house, "text=SAD")) == sorted(ended)
    now = time.time()
    assert sorted(await keys_of(house, f"state=error&since={now - 60}&until={now + 1}")) == sorted(ended)
    assert await keys_of(house, f"state=error&since={now + 1}") == await keys_of(house, f"until={START}") == []


async def test_an_account_that_is_no_operator_sees_its_own_tasks_whatever_it_asks_for(
    house: Client, stock: Stock
) -> None:
    own = await stock.waiting(3, "shop")
    others = await stock.waiting(30, "other")
    for query in ("", "account=other", "state=waiting", f"text={others[0]}", "limit=1"):
        found = await keys_of(house, query, SHOP)
        assert set(found) <= set(own), query
    assert await keys_of(house, "limit=1", SHOP) == own[::-1]
    answer = await get(house, "tasks?limit=1", SHOP)
    told = base64.urlsafe_b64decode(answer.json["next"] + "===").decode()
    assert not any(key in told or key in answer.body.decode() for key in others), "a cursor gives no key away"
    assert (await get(house, f"tasks/{others[0]}", SHOP)).status == 404
    assert (await get(house, f"tasks/{own[0]}", SHOP)).status == 200


@pytest.mark.parametrize("after", ["x", "W10", "AAAA", "W10=", "%00", "bnVsbA", "W1tdLHt9XQ", "é", "WyJ4Iix7fV0"])
async def test_a_cursor_that_is_none_is_a_400(house: Client, after: str) -> None:
    answer = await get(house, f"tasks?after={after}")
    assert answer.status == 400
    assert [item["name"] for item in answer.json["errors"]] == ["after"]


@pytest.mark.parametrize(
    "cursor",
    [
        {"w:default": [-1, ""]}, {"w:default": [1, "x" * 33]}, {"w:default": ["1", ""]}, {"w:default": [1]},
        {"w:default": [True, ""]}, {"s:default": [1, "-1"]}, {"s:default": [1 << 51, "1"]}, {"x": [1, None]},
        {"x": {"a": 1}}, {"e:default": [1.5, "1"]}, {"w:default": [1, ""]}, {"y": [1, "1"]}, {"": [1, "1"]},
    ],
)  # fmt: skip
async def test_a_cursor_with_places_that_are_none_is_a_400(house: Client, stock: Stock, cursor: Any) -> None:
    await stock.waiting(3)
    good = (await get(house, "tasks?limit=1")).json["next"]
    mark = orjson.loads(base64.urlsafe_b64decode(good + "==="))[0]
    forged = base64.urlsafe_b64encode(orjson.dumps([mark, cursor])).decode().rstrip("=")
    answer = await get(house, f"tasks?limit=1&after={forged}")
    assert (answer.status, answer.json["errors"][0]["name"]) == (400, "after")
    other = await get(house, f"tasks?limit=1&name=x&after={good}")
    assert other.json == bad_request(
        ("after", "querystring", "this cursor is of a search with other filters: start without it")
    )


async def test_whatever_is_wrong_with_a_search_is_told_at_once(house: Client) -> None:
    answer = await get(
        house, "tasks?state=gone&since=soon&until=99999999999999&limit=501&name=a&name=b&text=" + "x" * 201
    )
    assert answer.status == 400
    assert {item["name"] for item in answer.json["errors"]} == {"state", "since", "until", "limit", "name", "text"}
    assert b"soon" not in answer.body


async def test_tasks_that_move_while_they_are_listed_are_not_listed_twice_in_order(house: Client, stock: Stock) -> None:
    waiting = await stock.waiting(30)
    first = (await get(house, "tasks?state=waiting&limit=10")).json
    await stock.executing(5)  # the list is shorter by five, at its other end
    await stock.waiting(5)
    rest = (await get(house, f"tasks?state=waiting&limit=500&after={first['next']}")).json
    assert [row["key"] for row in first["tasks"] + rest["tasks"]] == waiting[:4:-1]


async def test_tasks_of_one_moment_are_each_listed_once(house: Client, store: Any) -> None:
    """Those of one call are queued in the same microsecond, and the list loses its head while it is read."""
    keys = []
    for _ in range(3):
        keys += await create(house, *[{"task_name": "hello"}] * 10)
    found: list[str] = []
    after: str | None = ""
    while after is not None:
        answer = (await get(house, f"tasks?limit=4&after={after}")).json
        found += [row["key"] for row in answer["tasks"]]
        after = answer["next"]
        await cancel(house, keys[len(found) // 8])
    assert [key for key in found if key in keys[4:]] == keys[:3:-1]
    assert len(found) == len(set(found))


async def test_a_search_that_finds_little_among_thousands_comes_in_pieces_and_ends(house: Client, stock: Stock) -> None:
    rare = await stock.waiting(2, "shop", "rare")
    await stock.waiting(6000)
    rare += await stock.waiting(1, "other", "rare")
    await stock.ended(await stock.executing(2000, "default"))
    assert sorted(await keys_of(house, "name=rare")) == sorted(rare)
    answer = await get(house, "tasks?name=nobody")
    assert 200 <= answer.json["scanned"] <= 6003
    first = await get(house, "tasks?limit=50")
    assert len(first.json["tasks"]) == 50
    assert first.json["scanned"] < 2000, "a page without filters looks at little more than it shows"


async def test_strangers_in_rqs_lists_are_passed_over(house: Client, stock: Stock, store: Any) -> None:
    keys = await stock.waiting(3)
    store.rpush(names.RQ_QUEUE + "default", "not a key", "B" * 26)
    store.hset(names.TASK + "C" * 26, mapping={"state": "1 1 w  ", "facts": "x", "line": "{", "origin": "default"})
    store.rpush(names.RQ_QUEUE + "default", "C" * 26, keys[0])
    store.set(names.TASK + "D" * 26, "no hash")
    store.zadd(names.RQ_FAILED + "default", {"D" * 26: 3e9, "junk": 3e9})
    store.set(names.RQ_FINISHED + "default", "no zset")
    assert set(await keys_of(house, "limit=2")) == set(keys)
    assert (await get(house, f"tasks/{'C' * 26}")).status == 404
    assert (await get(house, f"tasks/{'D' * 26}")).status == 404


async def test_a_large_result_is_not_read_for_a_list(house: Client, stock: Stock) -> None:
    await stock.waiting(2)
    first, second = await stock.executing(2)
    line = parse_line(first.line).ended("error", orjson.dumps("x" * 5_000_000), date_of(START + 9)).line()
    await tasks.update(stock.redis, "w", [Write(first.key, 1, "error", line)], life=LIFE)
    await stock.ended([second], "y" * 1000)
    answer = await get(house, "tasks")
    assert len(answer.body) < 3000
    assert {row["key"]: row["message"] for row in answer.json["tasks"]} == {
        first.key: "(a long error)",
        second.key: "y" * 300 + "…",
    }


# --- one task ---------------------------------------------------------------------------------------------------------


async def test_one_task_is_shown_with_all_that_is_kept_of_it_but_its_secrets(house: Client) -> None:
    parameters = {"text": "https://me:word@host/?token=x", "key": "the key", "words": ["a"]}
    metas = {"id": 7, "password": "p"}
    (key,) = await create(house, {"task_name": "test.echo", "task_metas": metas, **parameters})

    async def seen() -> Any:  # who works may have been looked at a second ago, in another test
        answer = (await get(house, f"tasks/{key}")).json
        return answer["waiting_for"] and answer

    found = await eventually(seen)
    status = found.pop("status")
    assert (status["status"], status["key"]) == ("queued", key)
    assert found == {
        "task_name": "test.echo",
        "account": "shop",
        "queue": "default",
        "parameters": {"text": "https://…@host/?token=…", "key": "…", "words": ["a"]},
        "task_metas": {"id": 7, "password": "…"},
        "attempt": 0,
        "max_attempts": 3,
        "timeout": 300.0,
        "worker": None,
        "expires": None,
        "traceparent": None,
        "retry_of": None,
        "retried_as": None,
        "bytes": None,
        "attempts": [],
        "traceback": None,
        "position": 1,
        "eta": None,
        "waiting_for": "no worker serves the queue 'default'",
    }


async def test_a_traceback_is_for_operators(house: Client, stock: Stock) -> None:
    await stock.waiting(1)
    (one,) = await stock.executing(1)
    line = parse_line(one.line).ended("error", b'"internal error"', date_of(START + 9)).line()
    write = Write(one.key, 1, "error", line, 17, "Traceback: http://a:b@c")
    await tasks.update(stock.redis, "w", [write], life=LIFE)
    found = (await get(house, f"tasks/{one.key}")).json
    assert (found["traceback"], found["bytes"], found["waiting_for"]) == ("Traceback: http://…@c", 17, None)
    assert found["expires"] > found["status"]["events"]["completed"]
    assert (await get(house, f"tasks/{one.key}", SHOP)).json["traceback"] is None


async def test_a_key_that_is_none_is_a_400_and_an_unknown_one_a_404(house: Client) -> None:
    assert (await get(house, "tasks/x")).json == bad_request(
        ("key", "path", "this is not a task key (26 characters A-Z2-7)")
    )
    answer = await get(house, f"tasks/{UNKNOWN}")
    assert (answer.status, answer.json) == (404, error("unknown task key"))


async def test_no_secret_in_a_task_is_seen_in_any_answer(house: Client, stock: Stock, idle: tuple[System, Any]) -> None:
    canary = f"canary{new_key()}"
    url = f"https://me:{canary}@host.example/x?token={canary}&X-Amz-Signature={canary}"
    definition = {
        "task_name": "test.echo",
        "text": url,
        "words": [url],
        "key": canary,
        "task_metas": {"api_key": canary},
    }
    (key,) = await create(house, definition)
    (reserved,) = await stock.executing(1)
    line = parse_line(reserved.line).ended("error", orjson.dumps(f"cannot read {url}"), timestamp()).line()
    write = Write(key, 1, "error", line, -1, f"Traceback: {url}")
    assert await tasks.update(stock.redis, "w", [write], life=LIFE) == [True]
    bodies = [
        (await get(house, path)).body
        for path in ("overview", "tasks", f"tasks?text={canary}", "tasks?text=host.example", "failures")
    ]
    async with house.session.get("/v1/operator/tasks_stream", headers=ROOT) as response:
        bodies.append(await response.content.readline())
    shown = (await get(house, f"tasks/{key}")).json
    assert canary in orjson.dumps(shown.pop("status")).decode(), "the status is what every client may read"
    bodies += [orjson.dumps(shown), (await post(house, "retry", {"tasks": [key]})).body]
    assert not any(canary.encode() in body for body in bodies)
    assert [len(orjson.loads(bodies[number])["tasks"]) for number in (1, 2, 3)] == [1, 0, 1]
    assert not any(canary in process.output for process in idle[0].processes)


# --- streams of tasks -------------------------------------------------------------------------------------------------


async def anext_but_executing(lines: AsyncIterator[Any]) -> Any:
    """The next row; the server may have looked between a start and an end."""
    row = await anext(lines)
    return await anext(lines) if row["status"] == "executing" else row


async def test_a_stream_of_tasks_begins_with_a_page_and_goes_on_with_what_changes(house: Client, stock: Stock) -> None:
    old = await stock.waiting(3)
    async with house.session.get("/v1/operator/tasks_stream?limit=3&account=shop", headers=ROOT) as response:
        lines = lines_of(response)
        assert [row["key"] for row in await anext(lines)] == old[::-1]
        new = await stock.waiting(2)
        await stock.waiting(1, "other")
        rows = [await anext(lines) for _ in range(2)]
        assert [row["key"] for row in rows] == new, "the newest page, its oldest first"
        await stock.ended(await stock.executing(1))
        row = await anext_but_executing(lines)
        assert (row["key"], row["status"]) == (old[0], "success"), "it was shown once, and its end is told"
        assert await asyncio.wait_for(response.content.readexactly(1), 10) == b" "


async def test_a_page_that_has_nothing_of_the_one_before_comes_as_a_list_again(house: Client, stock: Stock) -> None:
    old = await stock.waiting(2)
    async with house.session.get("/v1/operator/tasks_stream?limit=2&account=shop", headers=ROOT) as response:
        lines = lines_of(response)
        assert [row["key"] for row in await anext(lines)] == old[::-1]
        new = await stock.waiting(5)
        page = await anext(lines)
        assert [row["key"] for row in page] == new[:2:-1], "what waits longer is not on it, and is not told either"
        await stock.waiting(1)
        await anext(lines)
        await stock.ended(await stock.executing(1))
        row = await anext_but_executing(lines)
        assert (row["key"], row["status"]) == (old[0], "success"), "what was told before is told on"


# --- acting -----------------------------------------------------------------------------------------------------------


async def failed(stock: Stock, count: int = 1, message: str = "broken", account: str = "shop") -> list[str]:
    await stock.waiting(count, account)
    return await stock.ended(await stock.executing(count), message)


async def test_cancelling_many_answers_with_their_statuses_in_order(house: Client, stock: Stock) -> None:
    (over,) = await failed(stock, 1, "broken")
    (own,) = await stock.waiting(1, "shop")
    (others,) = await stock.waiting(1, "other")
    answer = await post(house, "cancel", {"tasks": [UNKNOWN, others, over, own, own]}, SHOP)
    assert [(status["key"], status["result"]) for status in answer.json] == [
        (UNKNOWN, "unknown task key"),
        (others, "unknown task key"),
        (over, "broken"),
        (own, "cancelled"),
        (own, "cancelled"),
    ]
    assert (await house.status(others))[0]["status"] == "queued"
    again = await post(house, "cancel", {"tasks": [others, own]})
    assert again.json == await house.status(others, own)
    assert (again.json[0]["result"], again.json[1]) == ("cancelled", answer.json[3])


async def test_a_failed_task_is_retried_once_whoever_asks_again(house: Client, stock: Stock, store: Any) -> None:
    (key,) = await create(house, {"task_name": "hello", "name": "John", "task_metas": {"id": 7}})
    await stock.ended(await stock.executing(1), "broken")
    answers = await asyncio.gather(*(post(house, "retry", {"tasks": [key]}) for _ in range(5)))
    (retried,) = {answer.json[0]["retried_as"] for answer in answers}
    assert answers[0].json == [{"key": key, "retried_as": retried, "message": None}]
    assert store.llen(names.RQ_QUEUE + "default") == 1
    old, new = [(await get(house, f"tasks/{one}")).json for one in (key, retried)]
    assert (old["retried_as"], old["retry_of"], new["retried_as"], new["retry_of"]) == (retried, None, None, key)
    for member in ("task_name", "parameters", "task_metas", "account", "queue"):
        assert old[member] == new[member]
    assert new["status"]["status"] == "queued"
    assert old["status"]["status"] == "error"
    (row,) = (await get(house, "tasks?state=error")).json["tasks"]
    assert row["retried_as"] == retried
    await stock.ended(await stock.executing(1), "broken again")
    again = (await post(house, "retry", {"tasks": [key, retried]})).json
    assert again[0]["retried_as"] == retried
    assert again[1]["retried_as"] not in (key, retried, None)


async def test_a_retry_whose_answer_and_note_were_lost_finds_its_task(house: Client, stock: Stock, store: Any) -> None:
    (key,) = await failed(stock)
    first = (await post(house, "retry", {"tasks": [key]})).json
    store.hdel(names.TASK + key, "retried_as")  # the process died before it could note it
    assert (await post(house, "retry", {"tasks": [key]})).json == first
    assert store.llen(names.RQ_QUEUE + "default") == 1


async def test_a_clients_idempotency_key_is_never_a_retrys(house: Client, stock: Stock) -> None:
    (key,) = await failed(stock)
    for spelling in (f"retry{key}", f"retry {key}", f"retry%0A{key}"):
        headers = SHOP | {"Idempotency-Key": spelling}
        await ask(house.session, "POST", "/v1/create", {"tasks": {"task_name": "hello", "name": "x"}}, headers)
    assert (await post(house, "retry", {"tasks": [key]})).json[0]["message"] is None


async def test_what_is_not_retried_says_why(house: Client, stock: Stock, store: Any) -> None:
    (gone,) = await failed(stock, 1, "broken", "nobody")
    (unknown_task,) = await stock.waiting(1, "shop", "no.such.task")
    await stock.ended(await stock.executing(1), "broken")
    (good,) = await failed(stock, 1, "broken", "other")
    await stock.waiting(1)
    (success,) = await stock.ended(await stock.executing(1))
    (refused,) = await create(house, {"task_name": "hello", "nam": "x"})
    (invalid,) = await failed(stock, 1, "broken", "other")
    store.hset(names.TASK + invalid, "params", '{"nam": 1}')
    (open_,) = await stock.waiting(1)
    keys = [UNKNOWN, gone, unknown_task, success, open_, refused, invalid, good]
    found = {item["key"]: item for item in (await post(house, "retry", {"tasks": keys})).json}
    assert list(found) == keys
    messages = {key: item["message"] for key, item in found.items()}
    assert messages == {
        UNKNOWN: "unknown task key",
        gone: "its account does not exist any more",
        unknown_task: messages[unknown_task],
        success: "it ended in success: only a task that ended in an error is retried",
        open_: "it has not ended: only a task that ended in an error is retried",
        refused: "its definition was refused: correct it, and create it anew",
        invalid: "it would be refused now: nam: unknown parameter, did you mean 'name'?",
        good: None,
    }
    assert messages[unknown_task].startswith("it would be refused now: ")
    assert [item["retried_as"] is None for item in found.values()] == [True] * 7 + [False]
    answer = await post(house, "retry", {"tasks": [good, gone]}, SHOP)
    assert {item["message"] for item in answer.json} == {"unknown task key"}


async def test_retries_are_within_the_limits_of_the_tasks_account(house: Client, stock: Stock, store: Any) -> None:
    keys = await failed(stock, 40, "broken", "shop")  # which may have 30 tasks queued
    answers = (await post(house, "retry", {"tasks": keys})).json
    made = [item for item in answers if item["retried_as"]]
    assert len(made) == store.llen(names.RQ_QUEUE + "default") == 30
    assert {item["message"] for item in answers if not item["retried_as"]} == {
        "account limit reached: 30 tasks queued at once"
    }


@pytest.mark.parametrize(
    ("body", "wrong"),
    [
        ({}, {"tasks"}),
        ({"tasks": []}, {"tasks"}),
        ({"tasks": ["x"]}, {"tasks.0"}),
        ({"tasks": [UNKNOWN] * 1001}, {"tasks"}),
        ({"group": "x"}, {"group"}),
        ({"group": 1, "limit": 0}, {"group", "limit"}),
        ({"group": "0" * 16, "tasks": [UNKNOWN]}, {"group"}),
        ({"group": "0" * 16, "limit": True}, {"limit"}),
    ],
)
async def test_a_retry_of_nothing_is_a_400(house: Client, body: Any, wrong: set[str]) -> None:
    answer = await post(house, "retry", body)
    assert (answer.status, {item["name"] for item in answer.json["errors"]}) == (400, wrong)


async def test_failures_that_say_the_same_are_one_group_and_retried_together(house: Client, stock: Stock) -> None:
    alike = []
    for number in range(7):
        place = f"http://x.example/{number}: line {number * 11} of task {new_key()}"
        text = f"cannot read {place}, reference 1f9a0c{number}e"
        alike += await failed(stock, 1, text)
    others = await failed(stock, 2, "out of luck", "other")
    found = (await get(house, "failures")).json
    assert (found["scanned"], found["complete"]) == (9, True)
    first, second = found["groups"]
    assert first["message"] == "out of luck"
    assert second["message"] == "cannot read URL line N of task KEY, reference N"
    assert (first["count"], second["count"], second["retried"], second["task_name"]) == (2, 7, 0, "hello")
    assert second["first"] < second["last"] < first["last"]
    assert len(second["keys"]) == 5
    assert set(second["keys"]) <= set(alike)
    own = (await get(house, "failures", OTHER)).json["groups"]
    assert [(group["message"], set(group["keys"])) for group in own] == [("out of luck", set(others))]
    answer = await post(house, "retry", {"group": second["group"], "limit": 3})
    assert len(answer.json) == 3
    assert all(item["retried_as"] for item in answer.json)
    rest = await post(house, "retry", {"group": second["group"]})
    assert sorted(item["key"] for item in [*answer.json, *rest.json]) == sorted(alike)
    assert (await post(house, "retry", {"group": second["group"]})).json == []
    (group,) = [group for group in (await get(house, "failures?name=hello")).json["groups"] if group["count"] == 7]
    assert group["retried"] == 7
    assert (await get(house, "failures?name=nobody")).json == {"groups": [], "scanned": 9, "complete": True}
    assert (await get(house, f"failures?since={time.time() + 60}")).json["groups"] == []


async def test_clearing_a_queue_empties_all_its_lanes_and_none_of_another(
    house: Client, stock: Stock, store: Any
) -> None:
    own = await stock.waiting(450, "shop")
    lane = await stock.waiting(250, "other")
    low = await stock.waiting(3, "other", "hello", "low")
    busy = await stock.executing(2)
    answer = await post(house, "queues/default", {"action": "clear"})
    assert answer.json == {"queue": "default", "paused": False, "cleared": 698}
    rows = (await get(house, "tasks?state=waiting")).json["tasks"]
    assert {row["key"] for row in rows} == set(low)
    assert len(await keys_of(house, "state=executing")) == len(busy) == 2
    assert set(await keys_of(house, "state=error&limit=500")) == {*own, *lane} - {one.key for one in busy}
    assert store.hget(names.ACCOUNT + "shop", "queued") == b"0"
    assert store.hget(names.ACCOUNT + "other", "queued") == b"3"
    refused = await post(house, "queues/default", {"action": "clear"}, SHOP)
    assert (refused.status, refused.json) == (
        401,
        error("the account 'shop' may not do that: it takes `operator = true` in the accounts file"),
    )


async def test_a_worker_that_crashes_leaves_its_attempts_in_the_task(own_system: Any) -> None:
    system = own_system()
    system.start_server()
    system.start_worker("--executors", "1")
    async with system.client() as client:
        key = (await client.run("test.die_once"))["key"]
        answer = await ask(client.session, "GET", f"/v1/operator/tasks/{key}", None, SECRET)
    (attempt,) = answer.json["attempts"]
    assert answer.json["attempt"] == 2
    assert attempt.keys() == {"attempt", "worker", "started", "ended", "ending"}
    assert (attempt["attempt"], attempt["ending"]) == (1, "the task's process has ended (exit code 1)")
    assert attempt["started"] < attempt["ended"] <= answer.json["status"]["events"]["started"]
