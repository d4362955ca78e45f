"""Idempotency-Key: a repeated call joins its tasks, whoever of the repetitions comes first."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import orjson
import pytest

from dragon.auth import hash_key
from tests.server.talking import Answer, ask, bad_request, ended, normalised, queued, raw
from tests.system import SECRET, Client, System, eventually


async def post(client: Client, key: str, tasks: Any, path: str = "/v1/create", **members: Any) -> Answer:
    body = {"tasks": tasks, **members}
    return await ask(client.session, "POST", path, body, SECRET | {"Idempotency-Key": key})


async def test_a_repeat_joins_the_same_tasks(client: Client, tmp_path: Path) -> None:
    key, path = str(uuid4()), tmp_path / "starts"
    tasks = [{"task_name": "test.count_starts", "path": str(path)}, {"task_name": "no.such"}, {"task_name": "hello"}]
    first = (await post(client, key, tasks)).json
    assert normalised(first)[0] == queued()
    for _ in range(3):
        again = await post(client, key, tasks, block=True)
        assert again.status == 200
        assert [status["key"] for status in again.json] == [status["key"] for status in first]
        assert normalised(again.json[0]) == ended("success", 1)
        assert again.json[1] == first[1]
        assert normalised(again.json[2]) == ended("success", "Hello World")
    assert path.read_text() == f"{first[0]['key']} 1\n"


async def test_repeats_that_come_together_make_one_task(client: Client, tmp_path: Path) -> None:
    key, path = str(uuid4()), tmp_path / "starts"
    task = {"task_name": "test.count_starts", "path": str(path), "seconds": 0.2}
    answers = await asyncio.gather(*(post(client, key, task, block=True) for _ in range(20)))
    assert {answer.status for answer in answers} == {200}
    assert len({answer.body for answer in answers}) == 1
    assert len(path.read_text().splitlines()) == 1


async def test_another_body_under_the_same_key_is_a_400_that_names_the_header(client: Client) -> None:
    key = str(uuid4())
    hello = {"task_name": "hello", "name": "Ann"}
    first = (await post(client, key, hello)).json
    for other in (
        {"task_name": "hello"},
        {"task_name": "hello", "name": "Bob"},
        [hello, hello],
        {"task_name": "test.low"},
        hello | {"task_metas": {"a": 1}},
    ):
        for path in ("/v1/create", "/v1/create_stream"):
            answer = await post(client, key, other, path)
            text = "this key was used with other tasks before, use a new key for a new request"
            assert (answer.status, answer.json) == (400, bad_request(("Idempotency-Key", "header", text)))
    assert (await post(client, key, hello)).json[0]["key"] == first[0]["key"]


async def test_create_stream_continues_the_stream(client: Client) -> None:
    key = str(uuid4())
    tasks = [{"task_name": "test.sleep", "seconds": 0.6}, {"task_name": "hello"}]
    created = (await post(client, key, tasks)).json
    streams = await asyncio.gather(*(post(client, key, tasks, "/v1/create_stream") for _ in range(3)))
    later = await post(client, key, tasks, "/v1/create_stream")
    for stream in streams:
        first, *rest = [orjson.loads(line) for line in stream.body.splitlines()]
        assert [status["key"] for status in first] == [status["key"] for status in created]
        finals = [status for status in [*first, *rest] if status["status"] == "success"]
        keys = {created[0]["key"]: "KEY 1", created[1]["key"]: "KEY 2"}
        assert sorted(normalised(finals, keys), key=lambda status: str(status["key"])) == [
            ended("success", 0.6, key="KEY 1") | {"progress": "asleep"},
            ended("success", "Hello World", key="KEY 2"),
        ]
    assert later.body.count(b"\n") == 1  # all of it is over


async def test_a_client_that_was_cut_off_continues_with_the_same_tasks(system: System, client: Client) -> None:
    key = str(uuid4())
    body = orjson.dumps({"tasks": {"task_name": "test.async_sleep", "seconds": 1}})
    async with client.session.post(
        "/v1/create_stream", data=body, headers=SECRET | {"Idempotency-Key": key}
    ) as response:
        first = orjson.loads(await response.content.readline())
        response.close()
    again = await post(client, key, {"task_name": "test.async_sleep", "seconds": 1}, "/v1/create_stream")
    lines = [orjson.loads(line) for line in again.body.splitlines()]
    assert lines[0][0]["key"] == first[0]["key"]
    last = lines[-1] if len(lines) > 1 else lines[0][0]  # it may have ended meanwhile
    assert normalised(last) == ended("success", 1.0) | {"progress": "asleep"}


async def test_no_key_or_an_empty_one_makes_new_tasks(client: Client) -> None:
    hello = {"task_name": "hello"}
    keys = {(await post(client, "", hello)).json[0]["key"] for _ in range(2)}
    keys |= {(await client.create(hello))[0]["key"] for _ in range(2)}
    assert len(keys) == 4


async def test_the_same_key_of_another_account_is_another_key(
    own_system: Callable[..., System], tmp_path: Path
) -> None:
    accounts = tmp_path / "accounts.toml"
    accounts.write_text("".join(f"[{name}]\nsecrets = [{hash_key(name)!r}]\n" for name in ("one", "two")))
    system = own_system(accounts=accounts)
    system.start_server()
    async with system.client() as client:
        keys = set()
        for name in ("one", "two", "one"):
            headers = {"Authorization": f"Secret {name}", "Idempotency-Key": "k"}
            answer = await ask(client.session, "POST", "/v1/create", {"tasks": {"task_name": "hello"}}, headers)
            keys.add(answer.json[0]["key"])
        assert len(keys) == 2


@pytest.mark.parametrize("path", ["/v1/create", "/v1/create_stream"])
async def test_a_key_that_is_too_long_or_no_utf_8_is_a_400_with_all_other_errors(system: System, path: str) -> None:
    long = ("Idempotency-Key", "header", "an Idempotency-Key has 255 characters at most")
    bytes_ = ("Idempotency-Key", "header", "an Idempotency-Key must be UTF-8")
    missing = ("tasks", "body", "tasks is missing")
    for key, body, errors in (
        (b"x" * 256, b"{}", [missing, long]),
        (b"\xff", b"{}", [missing, bytes_]),
        (b"\xff", b'{"tasks":{"task_name":"hello"}}', [bytes_]),
    ):
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Secret 123456\r\nConnection: close\r\n".encode()
        (answer,) = await raw(
            system, head + b"Idempotency-Key: " + key + b"\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        )
        assert (answer.status, answer.json) == (400, bad_request(*errors))


@pytest.mark.parametrize("path", ["/v1/create", "/v1/create_stream"])
async def test_a_page_may_send_the_key_in_the_body_and_the_header_wins(client: Client, path: str) -> None:
    first, second = str(uuid4()), str(uuid4())
    task = {"task_name": "hello"}

    async def key_of(header: str, member: Any) -> str:
        answer = await post(client, header, task, path, idempotency_key=member)
        found: str = orjson.loads(answer.body.splitlines()[0])[0]["key"]
        return found

    by_body = await key_of("", first)
    assert await key_of("", first) == by_body
    assert await key_of(first, second) == by_body, "the same keys, wherever they stand"
    assert await key_of(second, first) != by_body, "the header wins"
    assert len({await key_of("", absent) for absent in (None, "")}) == 2, "no key"


async def test_a_key_in_the_body_that_is_none_is_a_400_that_names_the_member(client: Client) -> None:
    hello = {"task_name": "hello"}
    for wrong, text in (
        (3, "idempotency_key must be a string"),
        (["a"], "idempotency_key must be a string"),
        ("x" * 256, "an Idempotency-Key has 255 characters at most"),
    ):
        answer = await post(client, "", hello, idempotency_key=wrong)
        assert (answer.status, answer.json) == (400, bad_request(("idempotency_key", "body", text)))


async def test_a_key_may_be_any_text(client: Client) -> None:
    for key in ("x" * 255, "ключ 🐉", "a,b", "' OR 1=1"):
        answers = [await post(client, key + str(uuid4())[: 255 - len(key)], {"task_name": "hello"}) for _ in range(1)]
        assert [answer.status for answer in answers] == [200]


async def test_a_repeat_after_the_tasks_are_gone_says_so(own_system: Callable[..., System]) -> None:
    system = own_system(files__life=1)
    system.start_server()
    system.start_worker("--executors", "1")
    async with system.client() as client:
        tasks = [{"task_name": "hello"}, {"task_name": "no.such"}]
        first = (await post(client, "k", tasks, block=True)).json
        keys = [status["key"] for status in first]
        gone = [{"status": "error", "key": key, "result": "unknown task key"} for key in keys]

        async def is_over() -> bool:
            return await client.status(*keys) == gone

        await eventually(is_over)
        for path in ("/v1/create", "/v1/create_stream"):
            answer = await post(client, "k", tasks, path)
            assert (answer.status, answer.json) == (200, gone)
