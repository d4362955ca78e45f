"""How much a process has open at once: connections, streams, followed tasks, files; and streams of an account."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from dragon.auth import Account, Limits, hash_key
from dragon.config import Config, load_config
from dragon.embedded import EmbeddedRedis, find_server
from dragon.errors import Full, Unauthorized
from dragon.files.local import LocalFiles
from dragon.server.answers import answer
from dragon.server.outputs import Outputs
from dragon.server.room import KEPT, Room, open_files_limit
from dragon.streams import Streams
from tests.server.talking import Answer, ask, check_common, connect, error, gauge, parse_answers, raw
from tests.system import Client, System, eventually, test_config

CONNECTIONS, STREAMS, FOLLOWED = 40, 6, 20
GET = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
ACCOUNTS = {"free": "", "few": "streams = 2", "none": "streams = 0", "call": "streams = 1, tasks_per_call = 1"}
NO_CONNECTION = error(f"this server has {CONNECTIONS} connections open, and takes no more: try again")
NO_STREAM = error(f"this server has {STREAMS} streams and waiting calls open, and takes no more: try again")


@pytest.fixture(scope="module")
def small() -> Iterator[System]:
    """A server with room for little, without a worker, and accounts whose secret keys are their names."""
    folder = Path(tempfile.mkdtemp(prefix="dragon-test-"))
    accounts = folder / "accounts.toml"
    accounts.write_text(
        "".join(f"[{name}]\nsecrets = [{hash_key(name)!r}]\nlimits = {{ {text} }}\n" for name, text in ACCOUNTS.items())
    )
    try:
        with EmbeddedRedis(find_server(Config()), folder / "redis", folder / "sock", durable=False) as store:
            config = test_config(
                folder,
                store.url,
                accounts=accounts,
                server__connections=CONNECTIONS,
                server__streams=STREAMS,
                server__followed=FOLLOWED,
                server__file_wait=60.0,
            )
            system = System(config)
            try:
                system.start_server()
                yield system
            finally:
                system.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def secret(account: str) -> dict[str, str]:
    return {"Authorization": f"Secret {account}"}


async def metric(client: Client, name: str) -> float:
    async with client.session.get("/metrics") as response:
        return gauge(await response.text(), name)


async def nothing_is_open(client: Client) -> None:
    async def look() -> bool:
        return await metric(client, "dragon_streams") == 0 and await metric(client, "dragon_followed_tasks") == 0

    await eventually(look)


# --- connections ------------------------------------------------------------------------------------------------------


async def ask_alone(system: System, request: bytes = GET) -> Answer:
    """Over a connection of its own, which stays open in `KEPT_OPEN` unless the server closes it."""
    reader, writer = await connect(system)
    writer.write(request)
    async with asyncio.timeout(15):
        head = await reader.readuntil(b"\r\n\r\n")
        size = int(head.lower().partition(b"content-length: ")[2].split()[0])
        (answer,) = parse_answers(head + await reader.readexactly(size))
    if answer.status == 503:
        assert await reader.read() == b"", "it is not closed"
    check_common(answer)
    KEPT_OPEN.append(writer)
    return answer


KEPT_OPEN: list[asyncio.StreamWriter] = []


@contextlib.asynccontextmanager
async def all_connections(system: System) -> AsyncIterator[list[Answer]]:
    """All connections but those that are asked for meanwhile; asked for together, as an attack would."""
    await eventually(lambda: _no_connection(system))
    os.kill(system.processes[0].pid, signal.SIGSTOP)  # then it finds all of them in one turn of its loop
    asyncio.get_running_loop().call_later(0.5, os.kill, system.processes[0].pid, signal.SIGCONT)
    try:
        yield await asyncio.gather(*(ask_alone(system) for _ in range(3 * CONNECTIONS)))
    finally:
        for writer in KEPT_OPEN:
            writer.close()
        KEPT_OPEN.clear()


async def _no_connection(system: System) -> bool:
    (answer,) = await raw(system, b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    return answer.status == 200 and gauge(answer.body.decode(), "dragon_connections") == 1


async def test_exactly_so_many_connections_are_served_and_all_others_are_answered_with_503(small: System) -> None:
    async with all_connections(small) as answers:
        assert Counter(answer.status for answer in answers) == {200: CONNECTIONS, 503: 2 * CONNECTIONS}
        for answer in answers:
            if answer.status == 503:
                assert (answer.json, answer.headers["Connection"]) == (NO_CONNECTION, "close")
                assert answer.headers["Retry-After"] == "2"
                assert answer.headers["Access-Control-Expose-Headers"] == "Retry-After"
    await eventually(lambda: _no_connection(small))


async def test_a_request_with_a_large_body_that_is_turned_away_gets_its_answer(small: System) -> None:
    body = b'{"tasks": "' + b"x" * 900_000 + b'"}'
    async with all_connections(small):
        request = b"POST /v1/create HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        for answer in await asyncio.gather(*(ask_alone(small, request) for _ in range(10))):
            assert (answer.status, answer.json) == (503, NO_CONNECTION)


async def test_aiohttp_clients_read_the_503(small: System) -> None:
    async with all_connections(small):
        for _ in range(10):
            async with aiohttp.ClientSession(small.url) as session:
                answer = await ask(session, "POST", "/v1/status", {"tasks": []})
                assert (answer.status, answer.json) == (503, NO_CONNECTION)


async def test_connections_too_many_that_say_nothing_are_few_at_a_time_and_soon_gone(small: System) -> None:
    server = small.processes[0].pid

    def open_files() -> int:
        return len(os.listdir(f"/proc/{server}/fd"))

    async with all_connections(small):
        before = open_files()
        most = Room.of(small.config, open_files_limit()).refusals
        seen: list[int] = []

        async def look() -> None:
            while True:
                seen.append(open_files())
                await asyncio.sleep(0.01)

        looking = asyncio.create_task(look())
        silent = [await connect(small) for _ in range(2 * most)]
        async with asyncio.timeout(30):
            for reader, writer in silent:
                (answer,) = parse_answers(await reader.read())
                assert (answer.status, answer.json) == (503, NO_CONNECTION)
                writer.close()
        looking.cancel()
        assert before < max(seen) <= before + most
        await eventually(lambda: open_files() <= before, 10)


async def test_connections_turned_away_are_counted(small: System) -> None:
    await eventually(lambda: _no_connection(small))
    async with small.client() as client:
        assert await metric(client, "dragon_refused_connections_total") > 0
        assert await metric(client, "dragon_connections") == 1


# --- streams of a process ---------------------------------------------------------------------------------------------

HELLO = {"task_name": "hello"}


async def open_stream(client: Client, path: str, body: dict[str, Any], account: str = "free") -> Any:
    """An open stream; its client is to close it."""
    response = await client.session.post(path, data=orjson.dumps(body), headers=secret(account))
    assert response.status == 200, await response.text()
    await response.content.readline()
    return response


async def test_one_stream_or_waiting_call_too_many_is_a_503_and_creates_nothing(small: System) -> None:
    async with small.client() as client:
        await nothing_is_open(client)
        first = await open_stream(client, "/v1/create_stream", {"tasks": HELLO})
        (created,) = (await ask(client.session, "POST", "/v1/create", {"tasks": HELLO}, secret("free"))).json
        key = created["key"]
        streams = [first, *[await open_stream(client, "/v1/status_stream", {"tasks": key}) for _ in range(3)]]
        waiting = [
            asyncio.create_task(ask(client.session, "POST", "/v1/status", {"tasks": key, "block": True})),
            asyncio.create_task(
                ask(client.session, "POST", "/v1/create", {"tasks": HELLO, "block": True}, secret("free"))
            ),
        ]
        await eventually(lambda: _is(client, "dragon_streams", STREAMS))
        before = await _tasks(small)
        file = {"task_name": "test.file"}
        for method, path, body in (
            ("POST", "/v1/create_stream", {"tasks": HELLO}),
            ("POST", "/v1/create", {"tasks": HELLO, "block": True}),
            ("POST", "/v1/status_stream", {"tasks": key}),
            ("GET", f"/v1/stream?tasks={key}", None),
            ("POST", "/v1/status", {"tasks": key, "block": True}),
            ("GET", f"/v1/status?tasks={key}&block=1", None),
            ("POST", "/v1/create_file", {"task": file}),
            ("GET", "/v1/create_file?task_name=test.file&secret=free", None),
        ):
            answer = await ask(client.session, method, path, body, secret("free"))
            assert (answer.status, answer.json) == (503, NO_STREAM), path
            assert answer.headers["Retry-After"] == "2"
        assert await _tasks(small) == before
        assert (await ask(client.session, "GET", f"/v1/status?tasks={key}")).status == 200
        assert (await ask(client.session, "POST", "/v1/create", {"tasks": HELLO}, secret("free"))).status == 200
        streams[0].close()
        await eventually(lambda: _is(client, "dragon_streams", STREAMS - 1))
        streams[0] = await open_stream(client, "/v1/create_stream", {"tasks": HELLO})
        for task in waiting:
            task.cancel()
        for response in streams:
            response.close()
        await nothing_is_open(client)
    assert " 503 " not in small.processes[0].output, "a line of log for each would be an attack on the disk"


async def _is(client: Client, name: str, value: float) -> bool:
    return await metric(client, name) == value


async def _tasks(system: System) -> int:
    """How many tasks Redis has."""
    import redis.asyncio

    async with redis.asyncio.Redis.from_url(system.config.redis.url) as store:
        return len([key async for key in store.scan_iter("rq:job:*", count=1000)])


async def _tasks_of(system: System, name: str) -> list[str]:
    """The keys of the tasks of a name that wait."""
    import redis.asyncio

    async with redis.asyncio.Redis.from_url(system.config.redis.url, decode_responses=True) as store:
        jobs = [key async for key in store.scan_iter("rq:job:*", count=1000)]
        found = [await store.hmget(job, "description", "status") for job in jobs]
    return [job[7:] for job, job_is in zip(jobs, found, strict=True) if job_is == [name, "queued"]]


async def test_a_wait_for_a_file_has_a_place_too(small: System) -> None:
    async with small.client() as client:
        await nothing_is_open(client)
        file = {"task_name": "test.file"}
        waits = [
            asyncio.create_task(ask(client.session, "POST", "/v1/create_file", {"task": file}, secret("free")))
            for _ in range(STREAMS)
        ]
        await eventually(lambda: _is(client, "dragon_streams", STREAMS))
        answer = await ask(client.session, "POST", "/v1/create_file", {"task": file}, secret("free"))
        assert (answer.status, answer.json) == (503, NO_STREAM)
        one, *others = await _tasks_of(small, "test.file")
        assert len(others) == STREAMS - 1
        for key in others:
            await ask(client.session, "DELETE", f"/v1/tasks/{key}", None, secret("free"))
        await eventually(lambda: _is(client, "dragon_streams", 1))
        wait = asyncio.create_task(ask(client.session, "GET", f"/v1/file?task={one}"))
        await eventually(lambda: _is(client, "dragon_streams", 2))
        await ask(client.session, "DELETE", f"/v1/tasks/{one}", None, secret("free"))
        assert {answer.status for answer in [*await asyncio.gather(*waits), await wait]} == {400}, "cancelled"
        await nothing_is_open(client)


async def test_so_many_tasks_are_followed_and_doubles_count_once(small: System) -> None:
    async with small.client() as client:
        await nothing_is_open(client)
        answer = await ask(client.session, "POST", "/v1/create", {"tasks": [HELLO] * FOLLOWED}, secret("free"))
        keys = [status["key"] for status in answer.json]
        most = await open_stream(client, "/v1/status_stream", {"tasks": keys[1:] * 2})
        one = await open_stream(client, "/v1/status_stream", {"tasks": keys[0]})
        before = await _tasks(small)
        for path, body in (("/v1/status_stream", {"tasks": keys[0]}), ("/v1/create_stream", {"tasks": HELLO})):
            answer = await ask(client.session, "POST", path, body, secret("free"))
            text = f"the streams of this server follow {FOLLOWED} tasks, 1 more are too many: try again"
            assert (answer.status, answer.json) == (503, error(text))
        assert await _tasks(small) == before
        one.close()
        most.close()
        await nothing_is_open(client)
        (await open_stream(client, "/v1/status_stream", {"tasks": keys})).close()
        await nothing_is_open(client)


# --- streams of an account --------------------------------------------------------------------------------------------

TWO = error("account limit reached: 2 streams and waiting calls at once")


async def test_an_account_has_so_many_streams_and_waiting_calls_and_others_have_theirs(small: System) -> None:
    async with small.client() as client:
        await nothing_is_open(client)
        stream = await open_stream(client, "/v1/create_stream", {"tasks": HELLO}, "few")
        body = {"tasks": HELLO, "block": True}
        waiting = asyncio.create_task(ask(client.session, "POST", "/v1/create", body, secret("few")))
        await eventually(lambda: _is(client, "dragon_streams", 2))
        before = await _tasks(small)
        for method, path, refused in (
            ("POST", "/v1/create_stream", {"tasks": HELLO}),
            ("POST", "/v1/create", body),
            ("POST", "/v1/create_file", {"task": {"task_name": "test.file"}}),
            ("GET", "/v1/create_file?task_name=test.file&secret=few", None),
        ):
            answer = await ask(client.session, method, path, refused, secret("few"))
            assert (answer.status, answer.json, answer.headers["Retry-After"]) == (401, TWO, "5"), path
        assert await _tasks(small) == before
        answer = await ask(client.session, "POST", "/v1/create", {"tasks": HELLO}, secret("few"))
        assert answer.status == 200, "what waits for nothing has no limit"
        key = answer.json[0]["key"]
        (await open_stream(client, "/v1/status_stream", {"tasks": key}, "few")).close()  # belongs to no account
        (await open_stream(client, "/v1/create_stream", {"tasks": HELLO}, "free")).close()
        stream.close()
        await eventually(lambda: _is(client, "dragon_streams", 1))
        (await open_stream(client, "/v1/create_stream", {"tasks": HELLO}, "few")).close()
        waiting.cancel()
        await nothing_is_open(client)


async def test_zero_streams_is_none(small: System) -> None:
    async with small.client() as client:
        answer = await ask(client.session, "POST", "/v1/create_stream", {"tasks": HELLO}, secret("none"))
        text = "account limit reached: 0 streams and waiting calls at once"
        assert (answer.status, answer.json) == (401, error(text))
        assert (await ask(client.session, "POST", "/v1/create", {"tasks": HELLO}, secret("none"))).status == 200


async def test_a_call_that_fails_or_joins_gives_its_place_back(small: System) -> None:
    async with small.client() as client:
        await nothing_is_open(client)
        for _ in range(3):
            answer = await ask(client.session, "POST", "/v1/create_stream", {"tasks": [HELLO] * 2}, secret("call"))
            assert answer.json == error("account limit reached: 1 tasks in one call")
            answer = await ask(client.session, "POST", "/v1/create_file", {"task": HELLO}, secret("call"))
            assert answer.status == 404
            headers = secret("call") | {"Idempotency-Key": "one"}
            answer = await ask(
                client.session, "POST", "/v1/create", {"tasks": HELLO, "block": 1, "timeout": 0.1}, headers
            )
            assert answer.status == 200
            headers |= {"Idempotency-Key": "two"}
            unknown = {"tasks": {"task_name": "no.such"}}
            answer = await ask(client.session, "POST", "/v1/create_stream", unknown, headers)
            assert answer.status == 200
        await nothing_is_open(client)


async def test_places_are_given_back_when_redis_is_away(own_system: Callable[..., System], tmp_path: Path) -> None:
    system = own_system(redis__url=f"unix://{tmp_path}/nobody", server__streams=2)
    system.start_server()
    async with system.client() as client:
        for _ in range(4):
            for path, body in (("create_stream", {"tasks": HELLO}), ("status_stream", {"tasks": "A" * 26})):
                answer = await ask(client.session, "POST", f"/v1/{path}", body, {"Authorization": "Secret 123456"})
                assert answer.status == 503
                assert "streams" not in answer.json["message"]
        assert await metric(client, "dragon_streams") == 0


def test_streams_count_by_process_by_account_and_by_task() -> None:
    streams = Streams(3, 10)
    one, two = Account("one", limits=Limits(streams=1)), Account("two")
    place = streams.open(4, one)
    with pytest.raises(Unauthorized, match="1 streams and waiting calls"):
        streams.open(1, one)
    others = [streams.open(1, two), streams.open(5)]
    assert (streams.count, streams.followed) == (3, 10)
    with pytest.raises(Full, match="3 streams"):
        streams.open(0)
    streams.close(others.pop())
    with pytest.raises(Full, match="follow 5 tasks, 6 more"):
        streams.open(6)
    streams.close(place)
    others.append(streams.open(1, one))
    for left in others:
        streams.close(left)
    assert (streams.count, streams.followed) == (0, 0)


# --- file descriptors -------------------------------------------------------------------------------------------------


def test_there_is_room_for_what_the_settings_say_or_for_what_fits_into_the_file_descriptors() -> None:
    config = load_config(environ={}, server__connections=1000, server__streams=500)
    assert Room.of(config, 1 << 20) == Room(1000, 500, 1 << 17, 256)
    little = Room.of(config, 512)
    assert little.connections + little.files + little.refusals + KEPT == 512
    assert little.streams == little.connections // 2
    assert Room.of(config, 64).connections >= 1


async def test_one_file_too_many_at_once_is_a_503_and_not_a_404(tmp_path: Path) -> None:
    key = "A" * 26
    files = LocalFiles(tmp_path, "http://host")
    folder = tmp_path / key[:2] / key / "1"
    folder.mkdir(parents=True)
    (folder / "output.bin").write_bytes(b"x" * 20_000_000)
    app = web.Application(middlewares=[answer])
    app.add_routes(Outputs(files, 60, 1).routes())
    async with TestClient(TestServer(app)) as client:
        path = f"/files/{key}/output.bin"
        with socket.socket() as stuck:
            stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
            stuck.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(stuck, ("127.0.0.1", client.port))
            await loop.sock_sendall(stuck, f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            await loop.sock_recv(stuck, 100)
            async with client.get(path) as response:
                assert response.status == 503
                assert orjson.loads(await response.read()) == error(
                    "this server is sending 1 files, and takes no more: try again"
                )

        async def is_served() -> bool:
            async with client.get(path) as response:
                return response.status == 200

        await eventually(is_served)
