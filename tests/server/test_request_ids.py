"""X-Request-Id in every answer and in the lines of the log; the log as JSON, through real processes."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from dragon.journal import MEMBERS
from tests.system import SECRET, Client, System, eventually

OwnSystem = Callable[..., System]
UNKNOWN = "A" * 26
HELLO = b'{"tasks": {"task_name": "hello"}}'
REQUESTS: dict[str, tuple[str, str, bytes | None]] = {
    "an answer": ("GET", "/healthz", None),
    "a creation": ("POST", "/v1/create", HELLO),
    "a stream": ("POST", "/v1/create_stream", HELLO),
    "a page": ("GET", "/", None),
    "a file": ("GET", "/static/sample.jpg", None),
    "an output file that is none": ("GET", f"/files/{UNKNOWN}/a.txt", None),
    "a wrong request": ("POST", "/v1/create", b"{"),
    "an unknown key": ("GET", f"/v1/file?task={UNKNOWN}", None),
    "a log": ("GET", f"/v1/log?task={UNKNOWN}", None),
    "an unknown path": ("GET", "/nowhere", None),
    "a wrong method": ("PUT", "/v1/create", None),
    "a preflight": ("OPTIONS", "/v1/create", None),
    "no head": ("HEAD", "/v1/create_file", None),
}


@pytest.mark.parametrize("what", REQUESTS)
async def test_every_answer_has_the_id_of_its_request(client: Client, what: str) -> None:
    method, path, body = REQUESTS[what]
    headers = SECRET | {"X-Request-Id": "mine_1.a-b"}
    async with client.session.request(method, path, data=body, headers=headers) as answer:
        assert answer.headers.getall("X-Request-Id") == ["mine_1.a-b"]
    made = []
    for given in ({}, {"X-Request-Id": "no id"}):
        async with client.session.request(method, path, data=body, headers=SECRET | given) as answer:
            made += answer.headers.getall("X-Request-Id")
    assert all(re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]+", one) for one in made)
    assert len(set(made)) == 2


async def test_a_stream_that_waits_has_the_id_too(impatient: System, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    body = orjson.dumps({"tasks": {"task_name": "test.say", "texts": [], "gate": str(gate)}, "block": True})
    async with impatient.client() as client:
        headers = SECRET | {"X-Request-Id": "waits"}
        async with client.session.post("/v1/create", data=body, headers=headers) as answer:
            assert answer.headers["X-Request-Id"] == "waits"
            assert await answer.content.readexactly(1) == b" "
            gate.touch()
            (status,) = orjson.loads(await answer.read())
            assert status["status"] == "success"


def events_of(path: Path) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in path.read_bytes().splitlines() if line.startswith(b"{")]


async def test_the_log_as_json_has_the_key_and_the_request_of_each_event(own_system: OwnSystem) -> None:
    system = own_system(log__format="json", log__level="debug")
    server = system.start_server()
    worker = system.start_worker("--executors", "1")
    async with system.client() as client:
        headers = SECRET | {"X-Request-Id": "find-me"}
        body = b'{"tasks": {"task_name": "test.raise"}, "block": true}'
        async with client.session.post("/v1/create?x=unseen", data=body, headers=headers) as answer:
            (status,) = orjson.loads(await answer.read())

        def told() -> list[dict[str, Any]]:
            return [event for event in events_of(server.log) if event.get("request") == "find-me"]

        await eventually(lambda: len(told()) == 2)
    key = status["key"]
    created, answered = told()
    assert created["key"] == key
    assert created["message"] == f"{key} queued test.raise account=demo"
    assert (answered["message"], answered["level"]) == ("POST /v1/create: 200", "debug")
    assert "unseen" not in server.output
    (failed,) = [event for event in events_of(worker.log) if " failed " in event["message"]]
    assert (failed["key"], failed["level"], failed["logger"]) == (key, "error", "dragon.worker")
    assert failed["message"].startswith(f"{key} failed test.raise [reference ")
    assert "RuntimeError: a secret detail" in failed["traceback"]
    for process in (server, worker):
        others = [line for line in process.output.splitlines() if not line.startswith("{")]
        assert all(line.startswith("dragon") for line in others), "what the start says to people"
        for event in events_of(process.log):
            assert list(event) == [name for name in MEMBERS if name in event]


async def test_what_a_connection_says_is_no_requests(own_system: OwnSystem) -> None:
    system = own_system()
    server = system.start_server()
    import redis

    async with system.client() as client:
        await client.create({"task_name": "hello"})
        with redis.Redis.from_url(system.config.redis.url) as connection:
            for kind in ("normal", "pubsub"):
                connection.client_kill_filter(_type=kind, skipme=True)
        await eventually(lambda: "redis: cannot be reached" in server.output)
        headers = SECRET | {"X-Request-Id": "of-mine"}
        async with client.session.post("/v1/create", data=HELLO, headers=headers) as answer:
            assert answer.status == 200
        with redis.Redis.from_url(system.config.redis.url) as connection:
            connection.client_kill_filter(_type="normal", skipme=True)
        await eventually(lambda: server.output.count("redis: cannot be reached") == 2)
    assert "of-mine" not in server.output
