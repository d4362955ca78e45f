"""create_stream and status_stream: the first line, what follows it, silence, and clients that leave or are slow."""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from dragon.errors import Unavailable
from dragon.feed import Follower
from dragon.server.streaming import answer_when_known, stream
from dragon.store.tasks import Line
from tests.server.talking import UNKNOWN, ask, ended, gauge, normalised, parse_answers, queued, raw, refused
from tests.system import SECRET, Client, System, eventually

LOST = {"status": "error", "key": UNKNOWN, "result": "unknown task key"}
FINAL = ("success", "error")


async def events(response: Any) -> list[tuple[str | None, Any]]:
    """The (id, data) pairs of an event stream that is read to its end."""
    return events_of(await response.read())


def events_of(data: bytes) -> list[tuple[str | None, Any]]:
    """The same of what was read, by the letter of the standard's grammar."""
    found: list[tuple[str | None, Any]] = []
    for block in data.decode().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.split("\n") if line and not line.startswith(":"))
        if fields:
            assert fields.keys() == {"id", "data"}
            found.append((fields["id"], orjson.loads(fields["data"])))
    return found


async def metric(client: Client, name: str) -> float:
    async with client.session.get("/metrics") as response:
        return gauge(await response.text(), name)


async def test_the_first_line_is_the_list_and_each_task_has_one_final_line(client: Client) -> None:
    definitions = [{"task_name": "hello", "name": str(number)} for number in range(100)]
    first, *rest = await client.stream(*definitions)
    assert normalised(first) == [queued(key=f"KEY {number}") for number in range(1, 101)]
    keys = [status["key"] for status in first]
    finals = {status["key"]: status for status in rest if status["status"] in FINAL}
    assert Counter(status["key"] for status in rest if status["status"] in FINAL) == Counter(keys)
    assert [finals[key]["result"] for key in keys] == [f"Hello {number}" for number in range(100)]
    assert {status["status"] for status in rest} <= {"executing", "success"}


async def test_nothing_follows_a_final_line_of_the_same_task(client: Client) -> None:
    lines = await client.stream(*[{"task_name": "test.progress", "steps": 5, "delay": 0.01}] * 6)
    over: set[str] = set()
    for status in lines[1:]:
        assert status["key"] not in over
        if status["status"] in FINAL:
            over.add(status["key"])
    assert len(over) == 6


async def test_a_task_that_is_final_in_the_first_line_gets_no_further_line(client: Client) -> None:
    first, *rest = await client.stream({"task_name": "no.such"}, {"task_name": "hello"}, {"task_name": "image.info"})
    assert normalised(first) == [
        refused("unknown task name, GET /v1/tasks lists them", key="KEY 1"),
        queued(key="KEY 2"),
        refused({"parameters": {"url": ["this field is required"]}}, key="KEY 3"),
    ]
    assert {status["key"] for status in rest} == {first[1]["key"]}
    assert normalised(rest[-1]) == ended("success", "Hello World")


async def test_a_stream_of_bad_tasks_is_one_line(client: Client) -> None:
    lines = await client.stream({"task_name": "no.such"})
    assert normalised(lines) == [[refused("unknown task name, GET /v1/tasks lists them")]]


async def test_the_lines_of_tasks_that_run_together_are_interleaved(client: Client) -> None:
    first, *rest = await client.stream(*[{"task_name": "countdown", "from": 4, "delay": 0.8}] * 2)
    keys = [status["key"] for status in first]
    ends = {key: max(i for i, status in enumerate(rest) if status["key"] == key) for key in keys}
    begins = {key: min(i for i, status in enumerate(rest) if status["key"] == key) for key in keys}
    assert max(begins.values()) < min(ends.values())


async def test_each_line_is_a_full_status_with_progress_and_partial_result(client: Client) -> None:
    # A server that has no turn for a while has the newest line only: not for so long that none is left.
    first, *rest = await client.stream({"task_name": "countdown", "from": 3, "delay": 1})
    key = first[0]["key"]
    executing = {"status": "executing", "key": "KEY 1", "events": {"queued": "DATE", "started": "DATE"}}
    shown = [normalised(status) for status in rest]
    assert shown[-1] == ended("success", [3, 2, 1]) | {"progress": 100}
    partial = [status for status in shown[:-1] if "result" in status]
    reported = [(33, 3), (67, 3), (67, 2), (100, 2), (100, 1)]  # progress first, then the number
    assert partial == [executing | {"progress": status["progress"], "result": status["result"]} for status in partial]
    places = [reported.index((status["progress"], status["result"])) for status in partial]
    assert places == sorted(set(places))
    assert partial
    assert {status["key"] for status in rest} == {key}


async def test_null_is_a_progress(client: Client) -> None:
    _, *rest = await client.stream({"task_name": "test.progress", "steps": 1, "delay": 2})
    assert None in [status["progress"] for status in rest if "progress" in status]
    assert rest[-1]["progress"] == {"step": 0}


@pytest.mark.parametrize(
    ("kind", "value"), [("null", b"null"), ("zero", b"0"), ("empty", b'""'), ("false", b"false"), ("list", b"[]")]
)
async def test_a_result_that_looks_like_nothing_is_in_its_line(client: Client, kind: str, value: bytes) -> None:
    body = {"tasks": {"task_name": "test.value", "kind": kind}}
    answer = await ask(client.session, "POST", "/v1/create_stream", body, SECRET)
    assert answer.body.endswith(b',"result":' + value + b"}\n")


async def test_the_headers_stop_proxies_from_buffering(client: Client) -> None:
    body = {"tasks": {"task_name": "hello"}}
    for headers, content_type in (({}, "application/x-ndjson"), ({"Accept": "text/event-stream"}, "text/event-stream")):
        answer = await ask(client.session, "POST", "/v1/create_stream", body, SECRET | headers)
        found = {name: answer.headers.get(name) for name in ("Content-Type", "Cache-Control", "X-Accel-Buffering")}
        assert found == {
            "Content-Type": content_type,
            "Cache-Control": "no-cache, no-transform",
            "X-Accel-Buffering": "no",
        }
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert "Content-Length" not in answer.headers
        assert "Content-Encoding" not in answer.headers


async def test_a_space_is_sent_in_silence_and_the_line_after_it_is_still_json(
    impatient: System, tmp_path: Path
) -> None:
    body = orjson.dumps({"tasks": {"task_name": "test.async_say", "texts": [], "gate": str(tmp_path / "gate")}})
    async with (
        impatient.client() as client,
        client.session.post("/v1/create_stream", data=body, headers=SECRET) as response,
    ):
        data = await until(response, b"  ", tmp_path / "gate")
    *lines, end = data.split(b"\n")
    assert end == b""
    assert lines[-1].startswith(b"  ")
    assert lines[-1].lstrip(b" ").startswith(b"{")
    assert normalised([orjson.loads(line) for line in lines])[-1] == ended("success", 1)
    assert not any(line.endswith(b" ") for line in lines)


async def until(response: aiohttp.ClientResponse, text: bytes, gate: Path) -> bytes:
    """Reads a stream; lets the task end that waits for a gate when the text has come, as soon as it executes."""
    data = b""
    async with asyncio.timeout(30):
        while b'"executing"' not in data or text not in data.rpartition(b'"executing"')[2]:
            part = await response.content.readany()
            assert part, data
            data += part
        gate.touch()
        return data + await response.content.read()


async def test_an_event_stream_has_the_same_lines_with_ids_and_comments_in_silence(
    impatient: System, tmp_path: Path
) -> None:
    async with impatient.client() as client:
        waiting = {"task_name": "test.async_say", "texts": [], "gate": str(tmp_path / "gate")}
        body = orjson.dumps({"tasks": [waiting, {"task_name": "no.such"}]})
        headers = SECRET | {"Accept": "text/event-stream"}
        async with client.session.post("/v1/create_stream", data=body, headers=headers) as response:
            found = events_of(await until(response, b"\n:\n\n:\n\n", tmp_path / "gate"))
    identifiers = [identifier for identifier, _ in found]
    assert identifiers == [*(str(number) for number in range(len(found) - 1)), "end"]
    assert [status["status"] for status in found[0][1]] == ["queued", "error"]
    assert normalised(found[-1][1]) == ended("success", 1)


async def test_an_event_source_follows_existing_keys_and_is_told_to_stay_away_after_the_end(
    client: Client, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    key = (await client.create({"task_name": "test.say", "texts": [], "gate": str(gate)}))[0]["key"]
    headers = {"Accept": "text/event-stream"}
    async with client.session.get(f"/v1/status_stream?tasks={key}", headers=headers) as response:
        gate.touch()  # the stream is open: it has the head of its answer
        found = await events(response)
    assert found[0][1][0]["key"] == key
    assert (found[-1][0], found[-1][1]["status"]) == ("end", "success")
    async with client.session.get(f"/v1/status_stream?tasks={key}", headers=headers) as response:
        assert await events(response) == [("end", [found[-1][1]])]
    answer = await ask(
        client.session, "GET", f"/v1/status_stream?tasks={key}", None, headers | {"Last-Event-ID": "end"}
    )
    assert (answer.status, answer.body) == (204, b"")
    async with client.session.get(f"/v1/status_stream?tasks={key}", headers=headers | {"Last-Event-ID": "3"}) as again:
        assert (again.status, len(await events(again))) == (200, 1)


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("path", ["/v1/status_stream", "/v1/stream"])
async def test_status_stream_of_finished_running_and_unknown_keys(client: Client, method: str, path: str) -> None:
    done = await client.run("hello")
    running = (await client.create({"task_name": "test.sleep", "seconds": 0.2}))[0]["key"]
    keys = [running, UNKNOWN, done["key"], running]
    if method == "GET":
        answer = await ask(client.session, "GET", path + "?" + "&".join(f"tasks={key}" for key in keys))
    else:
        answer = await ask(client.session, "POST", path, {"tasks": keys})
    assert answer.status == 200
    first, *rest = [orjson.loads(line) for line in answer.body.splitlines()]
    assert [status["key"] for status in first] == keys
    assert first[1:3] == [LOST, done]
    assert first[0] == first[3]
    assert {status["key"] for status in rest} <= {running}
    finals = [status for status in [first[0], *rest] if status["status"] in FINAL]
    assert normalised(finals) == [ended("success", 0.2) | {"progress": "asleep"}]


async def test_status_stream_of_ended_tasks_is_one_line(client: Client) -> None:
    done = await client.run("hello")
    answer = await ask(client.session, "POST", "/v1/status_stream", {"tasks": done["key"]})
    assert answer.body.count(b"\n") == 1
    assert answer.json == [done]


async def test_many_clients_follow_the_same_task(client: Client, tmp_path: Path) -> None:
    await eventually(lambda: _is(client, "dragon_streams", 0))
    gate = tmp_path / "gate"
    key = (await client.create({"task_name": "test.say", "texts": [], "gate": str(gate)}))[0]["key"]
    path = f"/v1/status_stream?tasks={key}"
    following = asyncio.gather(*(ask(client.session, "GET", path) for _ in range(30)))
    await eventually(lambda: _is(client, "dragon_streams", 30))
    gate.touch()
    answers = await following
    finals = {answer.body.splitlines()[-1] for answer in answers}
    assert len(finals) == 1
    assert normalised(orjson.loads(finals.pop())) == ended("success", 1)


async def test_a_client_that_leaves_frees_its_follower_and_the_task_goes_on(client: Client, tmp_path: Path) -> None:
    await eventually(lambda: _is(client, "dragon_followed_tasks", 0))
    gate = tmp_path / "gate"
    body = orjson.dumps({"tasks": [{"task_name": "test.async_say", "texts": [], "gate": str(gate)}] * 3})
    async with client.session.post("/v1/create_stream", data=body, headers=SECRET) as response:
        keys = [status["key"] for status in orjson.loads(await response.content.readline())]
        waiting: set[str] = set()
        while len(waiting) < 3:  # then nothing is written any more that could fail
            status = orjson.loads(await response.content.readline())
            waiting |= {status["key"]} if status["status"] == "executing" else set()
        assert await metric(client, "dragon_followed_tasks") == 3
        response.close()
    await eventually(lambda: _is(client, "dragon_followed_tasks", 0))
    assert [status["status"] for status in await client.status(*keys)] == ["executing"] * 3
    gate.touch()
    statuses = await client.status(*keys, block=True)
    assert [(status["status"], status["result"]) for status in statuses] == [("success", 1)] * 3


async def _is(client: Client, name: str, value: float) -> bool:
    return await metric(client, name) == value


async def test_a_reader_that_does_not_read_for_a_while_still_gets_the_last_lines(
    system: System, client: Client
) -> None:
    size, count = 200_000, 60  # 12 MB: more than the buffers between the two take
    body = orjson.dumps({"tasks": [{"task_name": "test.large", "size": size}] * count})
    with socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(slow, ("127.0.0.1", system.config.server.port))
        head = "POST /v1/create_stream HTTP/1.1\r\nHost: x\r\nAuthorization: Secret 123456\r\nConnection: close\r\n"
        await loop.sock_sendall(slow, f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        start = b""
        while b"}]\n" not in start:
            start += await loop.sock_recv(slow, 4096)
        keys = [status["key"] for status in orjson.loads(start[start.index(b"[") : start.index(b"]") + 1])]
        await client.status(*keys, block=True)  # all of it is written before anything more is read
        data = bytearray(start)
        while block := await loop.sock_recv(slow, 1 << 20):
            data += block
    lines = _unchunked(bytes(data)).splitlines()
    finals = [orjson.loads(line) for line in lines if line.startswith(b'{"status":"success"')]
    assert Counter(status["key"] for status in finals) == Counter(keys)
    assert {len(status["result"]) for status in finals} == {size}


def _unchunked(data: bytes) -> bytes:
    (answer,) = parse_answers(data)
    assert answer.status == 200
    return answer.body


async def test_a_stream_over_http_1_0_is_ended_by_closing(system: System) -> None:
    body = b'{"tasks": {"task_name": "hello"}}'
    head = b"POST /v1/create_stream HTTP/1.0\r\nAuthorization: Secret 123456\r\nContent-Length: %d\r\n\r\n" % len(body)
    (answer,) = await raw(system, head + body)
    assert answer.headers.get("Transfer-Encoding") is None
    lines = [orjson.loads(line) for line in answer.body.splitlines()]
    assert normalised(lines[0]) == [queued()]
    assert normalised(lines[-1]) == ended("success", "Hello World")


@asynccontextmanager
async def answering(
    handler: Callable[[web.Request], Awaitable[web.StreamResponse]],
) -> AsyncIterator[TestClient[Any, Any]]:
    """A client of a server of one handler, for what cannot be timed from outside."""
    app = web.Application()
    app.router.add_get("/", handler)
    async with TestClient(TestServer(app)) as client:
        yield client


async def test_an_event_stream_that_the_server_ends_early_does_not_tell_the_client_to_stay_away() -> None:
    executing = orjson.dumps({"status": "executing", "key": UNKNOWN})
    line = Line(UNKNOWN, 1, False, orjson.dumps({"status": "queued", "key": UNKNOWN}))

    async def handler(request: web.Request) -> web.StreamResponse:
        follower = Follower([line])
        follower.offer(Line(UNKNOWN, 2, False, executing))
        follower.close()  # as when the server stops: what is there is written, and nothing more comes
        return await stream(request, [line], follower, 15)

    async with answering(handler) as client, client.get("/", headers={"Accept": "text/event-stream"}) as response:
        assert await events(response) == [("0", [orjson.loads(line.line)]), ("1", orjson.loads(executing))]


async def test_an_answer_that_fails_after_it_has_begun_is_cut_off_and_not_taken_for_a_whole_one() -> None:
    begun = asyncio.Event()

    async def fail() -> bytes:
        await begun.wait()
        raise Unavailable("the task store cannot be reached, try again")

    async def handler(request: web.Request) -> web.StreamResponse:
        return await answer_when_known(request, fail(), 0.01)

    async with answering(handler) as client, client.get("/") as response:
        assert await response.content.readexactly(1) == b" "
        begun.set()
        with pytest.raises(aiohttp.ClientError):
            await response.read()
