"""DELETE /v1/tasks/KEY: a task ends at once, whatever it is doing, and only for the account that made it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest

from dragon.auth import hash_key
from tests.server.talking import UNKNOWN, Answer, ask, bad_request, ended, error, normalised, refused
from tests.system import SECRET, Client, System, eventually


async def cancel(client: Client, key: str, headers: dict[str, str] = SECRET) -> Answer:
    return await ask(client.session, "DELETE", f"/v1/tasks/{key}", None, headers)


async def started(client: Client, name: str) -> str:
    key: str = (await client.create({"task_name": name, "seconds": 50}))[0]["key"]

    async def asleep() -> bool:
        return "progress" in (await client.status(key))[0]

    await eventually(asleep)
    return key


@pytest.mark.parametrize("name", ["test.sleep", "test.async_sleep"])
async def test_an_executing_task_is_ended_and_not_waited_for(client: Client, name: str) -> None:
    key = await started(client, name)
    began = time.monotonic()
    answer = await cancel(client, key)
    assert time.monotonic() - began < 20, "the task takes 50 seconds"
    assert (answer.status, normalised(answer.json)) == (200, ended("error", "cancelled") | {"progress": "asleep"})
    assert await client.status(key, block=True) == [answer.json]
    assert (await client.run("hello"))["result"] == "Hello World"


async def test_a_queued_task_is_cancelled_at_once_and_never_runs(
    own_system: Callable[..., System], tmp_path: Path
) -> None:
    system = own_system()
    system.start_server()
    async with system.client() as client:
        path = tmp_path / "starts"
        first, second = await client.create(*[{"task_name": "test.count_starts", "path": str(path)}] * 2)
        answer = await cancel(client, first["key"])
        assert (answer.status, normalised(answer.json)) == (200, refused("cancelled"))
        system.start_worker("--executors", "1")
        statuses = await client.status(first["key"], second["key"], block=True)
        assert statuses[0] == answer.json
        assert normalised(statuses[1]) == ended("success", 1)
        assert path.read_text() == f"{second['key']} 1\n"


async def test_cancelling_a_final_task_changes_nothing(client: Client) -> None:
    for status in (await client.run("hello"), await client.run("test.raise"), await client.run("no.such")):
        for _ in range(2):
            answer = await cancel(client, status["key"])
            assert (answer.status, answer.json) == (200, status)


async def test_a_stream_ends_with_the_cancelled_status(client: Client) -> None:
    key = await started(client, "test.async_sleep")
    async with client.session.get(f"/v1/status_stream?tasks={key}") as response:
        first = orjson.loads(await response.content.readline())
        assert first[0]["status"] == "executing"
        cancelled = (await cancel(client, key)).json
        assert [orjson.loads(line) async for line in response.content] == [cancelled]


async def test_many_cancels_at_once_agree(client: Client) -> None:
    key = await started(client, "test.async_sleep")
    answers = await asyncio.gather(*(cancel(client, key) for _ in range(10)))
    assert {answer.status for answer in answers} == {200}
    assert len({answer.body for answer in answers}) == 1


async def test_unknown_and_malformed_keys(client: Client) -> None:
    answer = await cancel(client, UNKNOWN)
    assert (answer.status, answer.json) == (404, error("unknown task key"))
    answer = await cancel(client, "x")
    assert (answer.status, answer.json) == (
        400,
        bad_request(("key", "path", "this is not a task key (26 characters A-Z2-7)")),
    )


async def test_only_the_same_account_may_cancel(own_system: Callable[..., System], tmp_path: Path) -> None:
    accounts = tmp_path / "accounts.toml"
    accounts.write_text(
        f"[one]\nsecrets = [{hash_key('key-of-one')!r}]\n"
        f"[two]\nsecrets = [{hash_key('key-of-two')!r}]\napi_keys = [{hash_key('api-of-two')!r}]\n"
        "referrers = ['two.test']\n"
    )
    system = own_system(accounts=accounts)
    system.start_server()
    async with system.client() as client:
        two = {"Authorization": "Secret key-of-two"}
        created = await ask(client.session, "POST", "/v1/create", {"tasks": {"task_name": "hello"}}, two)
        key = created.json[0]["key"]
        answer = await cancel(client, key, {})
        assert answer.status == 401
        answer = await cancel(client, key, {"Authorization": "Secret key-of-one"})
        assert (answer.status, answer.json) == (404, error("unknown task key"))
        assert await client.status(key) == created.json
        answer = await cancel(client, key, {"Authorization": "Api-Key api-of-two", "Origin": "https://two.test"})
        assert (answer.status, answer.json["result"]) == (200, "cancelled")
