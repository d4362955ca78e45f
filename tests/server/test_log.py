"""GET /v1/log: what tasks have said, at once and followed; through a real server and worker."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
import redis

from dragon.connections import Redis
from dragon.feed import Feed, Follower, Listener
from dragon.keys import new_key
from dragon.log_follower import LogFollower
from dragon.status import SUCCESS, parse_line, timestamp
from dragon.store import names, tasks
from dragon.store.logs import LogLine
from dragon.store.tasks import Write
from dragon.worker.log_lines import BURST, KEPT
from tests.auditing import assert_sound
from tests.server.talking import bad_request, error
from tests.store.test_logs import LIFE, Writer, append, taken
from tests.system import Client, System, eventually

OwnSystem = Callable[..., System]
KEY_ERROR = ("task", "querystring", "this is not a task key (26 characters A-Z2-7)")
NUMBER_ERROR = ("after", "querystring", "after must be a whole number, 0 to 9007199254740991")


async def log_of(client: Client, key: str, **query: Any) -> dict[str, Any]:
    async with client.session.get("/v1/log", params={"task": key, **query}) as answer:
        assert answer.status == 200, await answer.text()
        assert answer.content_type == "application/json"
        found: dict[str, Any] = orjson.loads(await answer.read())
        return found


async def texts_of(client: Client, key: str, **query: Any) -> list[str]:
    return [line["text"] for line in (await log_of(client, key, **query))["lines"]]


class Stream:
    """An open GET /v1/log?follow=true."""

    def __init__(self, answer: aiohttp.ClientResponse) -> None:
        self.answer = answer

    async def texts(self, count: int) -> list[str]:
        async with asyncio.timeout(10):
            return [orjson.loads(await self.answer.content.readline())["text"] for _ in range(count)]

    async def rest(self) -> list[str]:
        async with asyncio.timeout(10):
            return [orjson.loads(line)["text"] async for line in self.answer.content]


async def follow(client: Client, key: str, **query: Any) -> aiohttp.ClientResponse:
    answer = await client.session.get("/v1/log", params={"task": key, "follow": "true", **query})
    assert answer.status == 200, await answer.text()
    return answer


@pytest.mark.parametrize("name", ["test.say", "test.async_say"])
async def test_the_log_of_an_ended_task(client: Client, name: str) -> None:
    status = await client.run(name, texts=["first", "second", "third"])
    found = await log_of(client, status["key"])
    times = [line.pop("time") for line in found["lines"]]
    assert found == {
        "key": status["key"],
        "lines": [
            {"number": number, "attempt": 1, "text": text}
            for number, text in enumerate(("first", "second", "third"), 1)
        ],
        "next": 3,
        "ended": True,
    }
    events = status["events"]
    assert [events["started"], *times, events["completed"]] == sorted([*times, events["started"], events["completed"]])
    assert await texts_of(client, status["key"], after=1) == ["second", "third"]
    empty = {"key": status["key"], "lines": [], "next": 7, "ended": True}
    assert await log_of(client, status["key"], after=7) == empty


async def test_a_task_that_says_nothing_has_an_empty_log_and_leaves_nothing_in_redis(
    client: Client, system: System
) -> None:
    key = (await client.run("hello"))["key"]
    assert await log_of(client, key) == {"key": key, "lines": [], "next": 0, "ended": True}
    with redis.Redis.from_url(system.config.redis.url) as connection:
        assert connection.exists(names.LOG + key) == 0


async def test_everything_that_python_prints_is_the_tasks_log(client: Client, system: System) -> None:
    status = await client.run("test.prints")
    assert status["status"] == "success", status
    texts = await texts_of(client, status["key"])
    at = next(i for i, text in enumerate(texts) if "UserWarning" in text)
    assert texts[:at] == [
        "standard output 1 in two parts",
        "standard error",
        "logged 2 None {'a': 'b'}",
        "two",
        "lines",
        "",
        " 30 %",
        "red and  and \ttab ?",
        "bytes é",
        "y" * 4093 + "…",
        "from a thread",
    ]
    assert texts[at].endswith("UserWarning: a warning")
    assert texts[-2:] == ["a library's warning", "no newline"]
    worker = system.processes[1].output
    assert "standard output" not in worker
    assert "a library's warning" not in worker


async def test_of_a_flood_the_newest_lines_are_there_and_the_status_is_not_kept_waiting(client: Client) -> None:
    flooding = (await client.create({"task_name": "test.prints", "how": "flood"}))[0]["key"]
    assert (await client.run("hello"))["status"] == "success"
    final = (await client.status(flooding, block=True))[0]
    assert final["status"] == "success"
    texts = await texts_of(client, flooding)
    assert texts[-KEPT:] == [str(number) for number in range(20_000 - KEPT, 20_000)]
    assert len(texts) <= 1000
    found = [re.fullmatch(r"… (\d+) lines? (?:was|were) dropped: too many at once", text) for text in texts]
    dropped = sum(int(match[1]) for match in found if match)
    assert dropped > 15_000
    assert texts[:BURST] == [str(number) for number in range(BURST)]
    assert dropped + sum(match is None for match in found) == 20_000, "each line is there, or counted"


async def test_a_copy_of_a_task_prints_into_the_workers_log(client: Client, system: System) -> None:
    key = (await client.run("test.prints", how="copy"))["key"]
    assert await texts_of(client, key) == ["from the task"]
    await eventually(lambda: "from a copy" in system.processes[1].output)
    assert (await client.run("hello"))["status"] == "success"


async def test_lines_of_an_attempt_that_crashed_stay(client: Client) -> None:
    status = await client.run("test.prints", how="crash")
    assert status["status"] == "success", status
    lines = (await log_of(client, status["key"]))["lines"]
    assert (lines[0]["text"], lines[0]["attempt"]) == ("about to crash", 1)
    assert (lines[1]["text"], lines[1]["attempt"]) == ("standard output 1 in two parts", 2)
    assert [line["number"] for line in lines] == list(range(1, len(lines) + 1))


@pytest.mark.parametrize("name", ["test.say", "test.async_say"])
async def test_a_follower_gets_each_line_when_it_is_said_and_the_end_with_the_task(
    client: Client, tmp_path: Path, name: str
) -> None:
    gate = tmp_path / "gate"
    definition = {"task_name": name, "texts": ["one", "two"], "gate": str(gate), "more": ["three"]}
    key = (await client.create(definition))[0]["key"]
    first, second = Stream(await follow(client, key)), Stream(await follow(client, key, after=1))
    assert first.answer.content_type == "application/x-ndjson"
    assert await first.texts(2) == ["one", "two"], "while it runs"
    assert await second.texts(1) == ["two"]
    assert (await log_of(client, key))["ended"] is False
    gate.touch()
    assert await first.rest() == ["three"]
    assert await second.rest() == ["three"]
    assert await Stream(await follow(client, key)).rest() == ["one", "two", "three"]
    assert await Stream(await follow(client, key, after=3)).rest() == []


async def test_an_event_source_gets_numbers_as_ids_comes_back_behind_them_and_stays_away_after_the_end(
    client: Client,
) -> None:
    key = (await client.run("test.say", texts=["one", "two"]))["key"]
    query = {"task": key, "follow": "true"}
    events = {"Accept": "text/event-stream"}
    line = '"time":"[^"]+","attempt":1,"text":"%s"}\n\n'
    first, second = 'id: 1\ndata: {"number":1,' + line % "one", 'id: 2\ndata: {"number":2,' + line % "two"
    for last, expected in (("", first + second), ("1", second), ("what", first + second)):
        async with client.session.get("/v1/log", params=query, headers=events | {"Last-Event-ID": last}) as answer:
            assert answer.content_type == "text/event-stream"
            assert re.fullmatch(expected + "id: end\n\n", await answer.text())
    async with client.session.get("/v1/log", params=query, headers=events | {"Last-Event-ID": "end"}) as answer:
        assert answer.status == 204


async def test_a_silent_stream_gets_signs_of_life(impatient: System, tmp_path: Path) -> None:
    async with impatient.client() as client:
        gate = tmp_path / "gate"
        key = (await client.create({"task_name": "test.say", "texts": ["one"], "gate": str(gate)}))[0]["key"]
        answer = await follow(client, key)
        async with asyncio.timeout(10):
            await answer.content.readline()
            assert await answer.content.readexactly(3) == b"   "
            gate.touch()
            assert (await answer.content.read()).strip() == b""
        async with client.session.get(
            "/v1/log", params={"task": key, "follow": "1"}, headers={"Accept": "text/event-stream"}
        ) as events:
            assert (await events.text()).endswith("id: end\n\n")


async def test_what_is_wrong_with_a_request_is_said(client: Client) -> None:
    async def ask(query: str) -> tuple[int, Any]:
        async with client.session.get(f"/v1/log?{query}") as answer:
            return answer.status, orjson.loads(await answer.read())

    key = new_key()
    assert await ask(f"task={key}") == (404, error("unknown task key"))
    assert await ask(f"task={key}&follow=true") == (404, error("unknown task key"))
    assert await ask("") == (400, bad_request(("task", "querystring", "task is missing")))
    follow_error = ("follow", "querystring", "follow must be true or false")
    assert await ask("task=x&after=-1&follow=maybe") == (400, bad_request(KEY_ERROR, NUMBER_ERROR, follow_error))
    for number in ("1.5", "9007199254740992", "²", "1" * 5000, "1e3", "+1"):
        assert await ask(f"task={key}&after={number}") == (400, bad_request(NUMBER_ERROR))
    once = ("after", "querystring", "after may be given once only")
    assert await ask(f"task={key}&after=1&after=2") == (400, bad_request(once))


async def test_a_follower_has_a_place_and_gives_it_back_when_it_leaves(own_system: OwnSystem, tmp_path: Path) -> None:
    system = own_system(server__streams=1)
    system.start_server()
    system.start_worker("--executors", "1")
    gate = tmp_path / "gate"
    async with system.client() as client:
        key = (await client.create({"task_name": "test.say", "texts": ["one"], "gate": str(gate)}))[0]["key"]
        stream = Stream(await follow(client, key))
        assert await stream.texts(1) == ["one"]
        for path in (f"/v1/log?task={key}&follow=true", f"/v1/status_stream?tasks={key}"):
            async with client.session.get(path) as answer:
                assert answer.status == 503
        assert await texts_of(client, key) == ["one"], "which holds no place"
        stream.answer.close()  # it says nothing meanwhile: that its reader left must be noticed without
        await eventually(lambda: is_free(client, key), 20)
        gate.touch()
        assert (await client.status(key))[0]["status"] in ("executing", "success")
    await assert_sound(system.config)


async def is_free(client: Client, key: str) -> bool:
    async with client.session.get(f"/v1/status_stream?tasks={key}") as answer:
        return answer.status == 200


async def test_a_stopping_server_ends_the_streams_of_logs_and_they_go_on_elsewhere(
    own_system: OwnSystem, tmp_path: Path
) -> None:
    system = own_system()
    server = system.start_server()
    system.start_worker("--executors", "1")
    gate = tmp_path / "gate"
    definition = {"task_name": "test.say", "texts": ["one"], "gate": str(gate), "more": ["two"]}
    async with system.client() as client:
        key = (await client.create(definition))[0]["key"]
        stream = Stream(await follow(client, key))
        assert await stream.texts(1) == ["one"]
        assert await asyncio.to_thread(server.terminate) == 0
        assert await stream.rest() == [], "it ends whole"
        await asyncio.to_thread(system.start_server)
        gate.touch()
        again = Stream(await follow(client, key, after=1))
        assert await again.rest() == ["two"]


async def test_log_lines_are_bounded_by_the_settings(own_system: OwnSystem) -> None:
    system = own_system(limits__log_lines=3, limits__log_line_bytes=20)
    system.start_server()
    system.start_worker("--executors", "1")
    async with system.client() as client:
        key = (await client.run("test.say", texts=["a", "b", "c", "d" * 30, "e"]))["key"]
        found = await log_of(client, key)
        assert [(line["number"], line["text"]) for line in found["lines"]] == [(3, "c"), (4, "d" * 17 + "…"), (5, "e")]


async def test_a_long_log_is_read_in_answers_of_a_mebibyte_or_so(own_system: OwnSystem) -> None:
    system = own_system()
    system.start_server()
    store = Redis(system.config.redis.url, 5)
    task, worker = await taken(store), Writer()
    writes = [worker.lines(task, *(f"{part} " + "x" * 4000 for _ in range(100))) for part in range(6)]
    await append(store, *writes)
    async with system.client() as client:
        first = await log_of(client, task.key)
        assert (len(first["lines"]), first["next"], first["ended"]) == (400, 400, False)
        second = await log_of(client, task.key, after=400)
        assert (len(second["lines"]), second["next"], second["ended"]) == (200, 600, False)
        stream = Stream(await follow(client, task.key))
        line = parse_line(task.line).ended(SUCCESS, b"1", timestamp()).line()
        await tasks.update(store, "w", [Write(task.key, 1, SUCCESS, line)], life=LIFE)
        assert len(await stream.rest()) == 600
    await store.close()


# The follower itself, when bells are lost


@pytest.fixture
async def store(redis_url: str) -> AsyncIterator[Redis]:
    connection = Redis(redis_url, 5)
    yield connection
    await connection.close()


@pytest.fixture
async def feed(store: Redis, redis_url: str) -> AsyncIterator[Feed]:
    found = Feed(store, redis_url, 5)
    running = asyncio.create_task(found.run())
    await eventually(lambda: store.command("PUBLISH", names.FEED + found.id, ""))
    yield found
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def following(store: Redis, feed: Feed, key: str) -> LogFollower:
    (line,) = await tasks.follow(store, feed.id, {key: 0})
    assert line is not None
    listener = Listener(line)
    feed.add(listener)
    return LogFollower(store, key, 0, listener)


def lines_of(found: list[LogLine]) -> list[str]:
    return [line.text for line in found]


async def test_the_bell_wakes_a_follower_and_only_those_of_that_log(store: Redis, feed: Feed) -> None:
    task, other, worker = await taken(store), await taken(store), Writer()
    first, second = await following(store, feed, task.key), await following(store, feed, other.key)
    statuses = Follower([line for line in await tasks.follow(store, feed.id, {task.key: 0}) if line])
    feed.add(statuses)
    waiting = asyncio.create_task(first.take(5))
    assert await second.take(0.01) == []
    await append(store, worker.lines(task, "a"))
    assert lines_of(await waiting) == ["a"]
    assert await second.take(0.05) == []
    assert await statuses.take(0.05) == [], "a bell is nothing to it"
    assert not first.finished


async def test_after_the_subscription_was_cut_a_log_is_read_again(store: Redis, feed: Feed) -> None:
    task, worker = await taken(store), Writer()
    follower = await following(store, feed, task.key)
    waiting = asyncio.create_task(follower.take(5))
    await asyncio.sleep(0)
    # One pipeline: the line is written before the feed can be back, so its bell is heard by nobody.
    cut, _ = await asyncio.gather(
        store.command("CLIENT", "KILL", "TYPE", "pubsub"), append(store, worker.lines(task, "a"))
    )
    assert cut == 1
    assert lines_of(await waiting) == ["a"]


async def test_a_bell_that_is_lost_is_made_up_for(store: Redis, feed: Feed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dragon.log_follower.RECONCILE", 0.2)
    task, worker = await taken(store), Writer()
    follower = await following(store, feed, task.key)
    assert await follower.take(0.01) == []
    monkeypatch.setattr(feed, "dispatch", lambda message: None)
    await append(store, worker.lines(task, "a"))
    async with asyncio.timeout(5):
        assert lines_of(await follower.take(30)) == ["a"]
    line = parse_line(task.line).ended(SUCCESS, b"1", timestamp()).line()
    await append(store, worker.lines(task, "b"))
    await tasks.update(store, "w", [Write(task.key, 1, SUCCESS, line)], life=LIFE)
    async with asyncio.timeout(5):
        assert lines_of(await follower.take(30)) == ["b"]
        assert await follower.take(30) == []
    assert follower.ended


async def test_a_log_that_is_away_is_read_when_it_is_back(store: Redis, feed: Feed) -> None:
    from dragon.errors import Unavailable

    task, worker = await taken(store), Writer()
    follower = await following(store, feed, task.key)
    await append(store, worker.lines(task, "a"))
    refused = 0

    class Away:
        async def command(self, *arguments: Any) -> Any:
            nonlocal refused
            refused += 1
            follower._redis = store
            raise Unavailable("away")

    follower._redis = Away()  # type: ignore[assignment]
    assert lines_of(await follower.take(5)) == ["a"]
    assert refused


async def test_a_follower_holds_no_lines(store: Redis, feed: Feed) -> None:
    task, worker = await taken(store), Writer()
    follower = await following(store, feed, task.key)
    for part in range(10):
        await append(store, worker.lines(task, *("x" * 4000 for _ in range(50))))
        await tasks.update(
            store, "w", [Write(task.key, 1, "executing", parse_line(task.line)._replace(progress=b"%d" % part).line())],
            life=LIFE,
        )  # fmt: skip
    await eventually(lambda: follower.listener.seen[task.key] > 5)
    assert follower.listener._pending == {}
    count = 0
    while count < 500 and (lines := await follower.take(5)):
        assert len(lines) <= 20
        count += len(lines)
    assert (count, await follower.take(0.01)) == (500, [])
