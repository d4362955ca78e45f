"""What the tests of the HTTP contract share: raw requests, whole answers, values with keys and dates replaced."""

from __future__ import annotations

import asyncio
import http.client
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import orjson

from tests.system import System

KEY = re.compile(r"[A-Z2-7]{26}")
DATE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}\+00:00")
UNKNOWN = "A" * 26  # a key that no task has


def normalised(value: Any, keys: dict[str, str] | None = None) -> Any:
    """The value with each key replaced by `KEY 1`, `KEY 2` in their order, each date by `DATE`, and without a host."""
    keys = {} if keys is None else keys
    if isinstance(value, dict):
        return {name: normalised(member, keys) for name, member in value.items()}
    if isinstance(value, list):
        return [normalised(member, keys) for member in value]
    if not isinstance(value, str):
        return value
    if DATE.fullmatch(value):
        return "DATE"
    value = re.sub(r"http://127\.0\.0\.1:\d+", "http://HOST", value)
    return KEY.sub(lambda found: keys.setdefault(found[0], f"KEY {len(keys) + 1}"), value)


def ended(status: str, result: Any, *, key: str = "KEY 1") -> dict[str, Any]:
    """A normalised final status of a task that a worker had."""
    events = {"queued": "DATE", "started": "DATE", "completed": "DATE"}
    return {"status": status, "key": key, "events": events, "result": result}


def refused(result: Any, *, key: str = "KEY 1") -> dict[str, Any]:
    """A normalised final status of a task that never reached a worker."""
    return {"status": "error", "key": key, "events": {"queued": "DATE", "completed": "DATE"}, "result": result}


def queued(*, key: str = "KEY 1") -> dict[str, Any]:
    """A normalised first status."""
    return {"status": "queued", "key": key, "events": {"queued": "DATE"}}


def bad_request(*errors: tuple[str, str, str]) -> dict[str, Any]:
    """The body of a 400, from (name, location, description)."""
    return {
        "status": "error",
        "errors": [
            {"name": name, "location": location, "description": description} for name, location, description in errors
        ],
    }


def error(message: str) -> dict[str, str]:
    """The body of any other error."""
    return {"status": "error", "message": message}


@dataclass(frozen=True)
class Answer:
    """A whole answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)


async def ask(
    session: aiohttp.ClientSession, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
) -> Answer:
    """One request without following redirects; `body` is bytes or a JSON value."""
    encoded = body if isinstance(body, bytes) or body is None else orjson.dumps(body)
    data = None if encoded is None else io.BytesIO(encoded)  # aiohttp warns of large bytes
    async with session.request(method, path, data=data, headers=headers, allow_redirects=False) as response:
        answer = Answer(response.status, response.headers, await response.read())
    check_common(answer)
    return answer


def check_common(answer: Answer) -> None:
    """What holds for every answer: CORS, no HTML (but pages), no traceback, errors in their shapes."""
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    if answer.status < 400:
        return
    assert answer.headers["Content-Type"].startswith("application/json")
    assert answer.headers["Cache-Control"] == "no-store"
    assert b"Traceback" not in answer.body
    assert b"<html" not in answer.body.lower()
    if answer.body:
        check_error_shape(answer.status, answer.json)


def check_error_shape(status: int, body: Any) -> None:
    """The shapes that the contract knows for an error."""
    assert body["status"] == "error"
    if "key" in body:  # a failed task
        assert status == 400
        assert body.keys() >= {"status", "key", "events", "result"}
    elif status == 400:
        assert body.keys() == {"status", "errors"}
        assert body["errors"]
        for item in body["errors"]:
            assert item.keys() == {"name", "location", "description"}
            assert item["location"] in ("body", "querystring", "path", "header")
            assert all(isinstance(text, str) for text in item.values())
    else:
        assert body.keys() == {"status", "message"}
        assert isinstance(body["message"], str)


async def connect(system: System) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", system.config.server.port)


async def raw(system: System, request: bytes, *, half_close: bool = False) -> list[Answer]:
    """Sends bytes and returns the answers until the server closes; the last request must ask it to, or be wrong."""
    reader, writer = await connect(system)
    try:
        try:
            writer.write(request)
            await writer.drain()
            if half_close:
                writer.write_eof()
            async with asyncio.timeout(15):
                data = await reader.read()
        except ConnectionResetError:
            data = b""
    finally:
        writer.close()
    return parse_answers(data)


def parse_answers(data: bytes) -> list[Answer]:
    """Reads answers that follow each other."""
    buffer = _Buffer(data)
    answers = []
    while buffer.tell() < len(data):
        response = http.client.HTTPResponse(buffer)  # type: ignore[arg-type]
        response.begin()
        answers.append(Answer(response.status, response.headers, response.read()))  # type: ignore[arg-type]
    return answers


class _Buffer(io.BytesIO):
    """A socket for http.client."""

    def makefile(self, _mode: str) -> _Buffer:
        return self

    def close(self) -> None:
        pass


def held(server_port: int) -> set[int]:
    """The clients' ports of all connections whose server's end the kernel still holds; Linux only.

    A client whose window is closed may not hear that it was cut: a reset that is not exactly in its window is ignored.
    """
    found = set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, state, *_ = line.split()
        if int(local.partition(":")[2], 16) == server_port and state not in (TIME_WAIT, LISTEN):
            found.add(int(remote.partition(":")[2], 16))
    return found


TIME_WAIT, LISTEN = "06", "0A"  # as /proc/net/tcp writes them


def gauge(text: str, name: str) -> float:
    """The value of a metric."""
    found = re.search(rf"^{name} (\S+)$", text, re.MULTILINE)
    assert found, f"no metric {name}"
    return float(found[1])
