"""The limits of accounts: exact under calls that come together, and a 401 that says which limit it is."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from dragon.auth import hash_key
from dragon.config import Config
from dragon.embedded import EmbeddedRedis, find_server
from tests.server.talking import Answer, ask, ended, error, normalised, queued
from tests.system import Client, System, eventually, test_config

LIMITS = {
    "queue": "tasks_queued = 7",
    "other": "tasks_queued = 1",
    "call": "tasks_queued = 3",
    "minute0": "tasks_per_minute = 9",
    "minute1": "tasks_per_minute = 9",
    "size": "tasks_per_call = 2",
    "bytes": "bytes_stored = 1000",
    "joins": "tasks_queued = 1, tasks_per_minute = 1000",
    "free": "",
    "none": "tasks_queued = 0",
}


@pytest.fixture(scope="module")
def limited() -> Iterator[System]:
    """A server without a worker, and accounts whose secret keys are their names."""
    folder = Path(tempfile.mkdtemp(prefix="dragon-test-"))
    accounts = folder / "accounts.toml"
    accounts.write_text(
        "".join(f"[{name}]\nsecrets = [{hash_key(name)!r}]\nlimits = {{ {text} }}\n" for name, text in LIMITS.items())
    )
    try:
        with EmbeddedRedis(find_server(Config()), folder / "redis", folder / "sock", durable=False) as store:
            system = System(test_config(folder, store.url, accounts=accounts))
            try:
                system.start_server()
                yield system
            finally:
                system.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def create(client: Client, account: str, tasks: Any = None, **headers: str) -> Answer:
    body = {"tasks": tasks or {"task_name": "hello"}}
    return await ask(client.session, "POST", "/v1/create", body, {"Authorization": f"Secret {account}", **headers})


async def create_together(system: System, account: str, count: int = 50) -> list[Answer]:
    async with aiohttp.ClientSession(system.url, connector=aiohttp.TCPConnector(limit=count)) as session:
        return list(await asyncio.gather(*(create(Client(session), account) for _ in range(count))))


async def test_exactly_as_many_tasks_are_queued_as_the_account_may_have(limited: System) -> None:
    answers = await create_together(limited, "queue")
    taken = [answer for answer in answers if answer.status == 200]
    refused = [answer for answer in answers if answer.status != 200]
    assert (len(taken), len(refused)) == (7, 43)
    for answer in refused:
        assert (answer.status, answer.json) == (401, error("account limit reached: 7 tasks queued at once"))
        assert answer.headers["Retry-After"] == "5"
    async with limited.client() as client:
        keys = [answer.json[0]["key"] for answer in taken]
        assert {status["status"] for status in await client.status(*keys)} == {"queued"}
        assert (await create(client, "other")).status == 200  # another account's limit is its own
        cancelled = await ask(client.session, "DELETE", f"/v1/tasks/{keys[0]}", None, {"Authorization": "Secret queue"})
        assert cancelled.status == 200
        assert [(await create(client, "queue")).status for _ in range(2)] == [200, 401]
        worker = limited.start_worker("--executors", "1")
        await client.status(*keys, block=True)
        await eventually(lambda: _is_created(client, "queue"))
        worker.terminate()


async def _is_created(client: Client, account: str) -> bool:
    return (await create(client, account)).status == 200


async def test_a_call_over_a_limit_creates_none_of_its_tasks(limited: System) -> None:
    async with limited.client() as client:
        hello = {"task_name": "hello"}
        assert (await create(client, "call", [hello] * 4)).status == 401
        answer = await create(client, "call", [hello] * 3)  # so the four before left nothing behind
        assert (answer.status, len(answer.json)) == (200, 3)
        assert (await create(client, "call", [hello])).status == 401
        answer = await create(client, "call", [{"task_name": "no.such"}])  # does not queue
        assert answer.status == 200
        for path in ("/v1/create_stream", "/v1/create_file"):
            body = {"tasks": hello, "task": {"task_name": "test.file"}}
            answer = await ask(client.session, "POST", path, body, {"Authorization": "Secret call"})
            assert (answer.status, answer.json) == (401, error("account limit reached: 3 tasks queued at once"))
        answer = await ask(client.session, "GET", "/v1/create_file?task_name=test.file&secret=call")
        assert (answer.status, answer.headers["Cache-Control"]) == (401, "no-store")


async def test_exactly_as_many_tasks_are_created_a_minute(limited: System) -> None:
    for name in ("minute0", "minute1"):  # another account when the minute ended meanwhile
        began = time.time() // 60
        answers = await create_together(limited, name)
        if time.time() // 60 == began:
            break
    refused = [answer for answer in answers if answer.status != 200]
    assert len(refused) == 41
    for answer in refused:
        assert (answer.status, answer.json) == (401, error("account limit reached: 9 tasks created per minute"))
        assert 1 <= int(answer.headers["Retry-After"]) <= 60


async def test_a_call_has_as_many_tasks_as_the_account_may_send(limited: System) -> None:
    async with limited.client() as client:
        hello = {"task_name": "hello"}
        answer = await create(client, "size", [hello] * 3)
        assert (answer.status, answer.json) == (401, error("account limit reached: 2 tasks in one call"))
        assert "Retry-After" not in answer.headers  # waiting does not help
        answer = await create(client, "size", [hello] * 2)
        assert (answer.status, normalised(answer.json)) == (200, [queued(key="KEY 1"), queued(key="KEY 2")])


async def test_no_more_tasks_when_the_stored_bytes_are_used_up(limited: System) -> None:
    worker = limited.start_worker("--executors", "1")
    async with limited.client() as client:
        for size, status in ((600, 200), (399, 200), (1, 200), (1, 401)):
            body = {"tasks": {"task_name": "test.file", "text": "x" * size}, "block": True}
            answer = await ask(client.session, "POST", "/v1/create", body, {"Authorization": "Secret bytes"})
            assert answer.status == status
            if status == 200:
                assert normalised(answer.json) == [ended("success", {"output": "http://HOST/files/KEY 1/output.txt"})]
        assert answer.json == error("account limit reached: 1000 bytes of output files stored")
        assert "Retry-After" not in answer.headers
    worker.terminate()


async def test_what_is_joined_and_not_created_counts_against_no_limit(limited: System) -> None:
    async with limited.client() as client:
        answers = [await create(client, "joins", **{"Idempotency-Key": "one"}) for _ in range(5)]
        assert {answer.status for answer in answers} == {200}
        assert len({answer.body for answer in answers}) == 1
        assert (await create(client, "joins")).status == 401


async def test_unset_is_unlimited_and_zero_is_nothing(limited: System) -> None:
    async with limited.client() as client:
        answer = await create(client, "free", [{"task_name": "hello"}] * 1000)
        assert (answer.status, len(answer.json)) == (200, 1000)
        answer = await create(client, "none")
        assert (answer.status, answer.json) == (401, error("account limit reached: 0 tasks queued at once"))
