"""Clients that trickle: heads, bodies and reads that do not get on are cut; those that are only slow are served."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import orjson
import pytest

from dragon.config import Config
from dragon.embedded import EmbeddedRedis, find_server
from dragon.server.patience import Pace, Patience, reset
from tests.server.talking import Answer, check_common, error, gauge, held, parse_answers
from tests.system import SECRET, Client, System, eventually, free_port, running_system, test_config

TIMEOUT = 1.5  # seconds
RATE = 1000  # bytes a second
LATE = 25  # seconds: no cut that is due comes so late, on a machine that has much else to do
HEAD = b"Host: x\r\nAuthorization: Secret 123456\r\n"
LATE_HEAD = error("the head of the request was not whole within 1.5 seconds")
LATE_BODY = error("the body of the request came too slowly: less than 1500 bytes within 1.5 seconds")
HELLO = b'{"tasks": {"task_name": "hello"}}'


@pytest.fixture(scope="module")
def hurried() -> Iterator[System]:
    """A server that has patience for a second and a half."""
    folder = Path(tempfile.mkdtemp(prefix="dragon-test-"))
    try:
        with EmbeddedRedis(find_server(Config()), folder / "redis", folder / "sock", durable=False) as server:
            config = test_config(folder, server.url, server__client_timeout=TIMEOUT, server__client_rate=RATE)
            with running_system(config, "--executors", "2") as running:
                yield running
    finally:
        shutil.rmtree(folder, ignore_errors=True)


#: Of the server whose clients are slow and get on: neither they nor it may stand still for so long on a busy machine.
LONG_TIMEOUT, LOW_RATE = 7.0, 300


@pytest.fixture(scope="module")
def patient(hurried: System) -> Iterator[System]:
    """Another server of the same system, which waits for longer."""
    changed = {"port": free_port(), "client_timeout": LONG_TIMEOUT, "client_rate": LOW_RATE}
    server = hurried.config.server.model_copy(update=changed)
    system = System(hurried.config.model_copy(update={"server": server}), count=100)
    try:
        system.start_server()
        yield system
    finally:
        system.close()


@pytest.fixture
async def client(hurried: System) -> AsyncIterator[Client]:
    async with hurried.client() as client:
        yield client


class Slow:
    """A client that is told how to send and to read, byte by byte."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._server = int(connection.getpeername()[1])
        self.port = int(connection.getsockname()[1])
        self.begun = time.monotonic()

    @classmethod
    async def connect(cls, system: System, *, small: bool = False) -> Slow:
        """`small`: with the smallest receive buffer, so that the server's side notices what is not read."""
        connection = socket.socket()
        connection.setblocking(False)
        if small:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        await asyncio.get_running_loop().sock_connect(connection, ("127.0.0.1", system.config.server.port))
        return cls(connection)

    async def __aenter__(self) -> Slow:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._socket.close()

    async def send(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self._socket, data)

    async def trickle(self, data: bytes, size: int = 1, pause: float = 0.1) -> None:
        """Sends so many bytes at a time; ends early when the server has gone."""
        with contextlib.suppress(OSError):
            for start in range(0, len(data), size):
                await self.send(data[start : start + size])
                await asyncio.sleep(pause)

    async def read(self, size: int) -> bytes:
        async with asyncio.timeout(LATE):
            return await asyncio.get_running_loop().sock_recv(self._socket, size)

    async def rest(self) -> tuple[bytes, float]:
        """All that comes until the server closes, and when it did: in seconds since the connection."""
        data = bytearray()
        with contextlib.suppress(ConnectionError):
            while block := await self.read(1 << 16):
                data += block
        return bytes(data), time.monotonic() - self.begun

    async def until_cut(self, size: int, pause: float) -> float:
        """Reads so many bytes at a time until the server cuts it; tells when, in seconds since the connection."""
        try:
            async with asyncio.timeout(LATE):
                while self.port in held(self._server):
                    await asyncio.sleep(pause)
                    assert not size or await self.read(size), "the answer came to its end"
        except ConnectionError:
            pass
        return time.monotonic() - self.begun


def one(data: bytes) -> Answer:
    (answer,) = parse_answers(data)
    check_common(answer)
    return answer


def assert_timed_out(data: bytes, seconds: float, body: object) -> None:
    answer = one(data)
    assert (answer.status, answer.json, answer.headers["Connection"]) == (408, body, "close")
    assert TIMEOUT <= seconds < LATE


async def metric(client: Client, name: str) -> float:
    async with client.session.get("/metrics") as response:
        return gauge(await response.text(), name)


# --- heads ------------------------------------------------------------------------------------------------------------


GET = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.mark.parametrize("begin", [b"", GET], ids=["first", "second request"])
async def test_a_head_that_does_not_come_to_its_end_is_a_408(hurried: System, begin: bytes) -> None:
    async def begin_one(pause: float) -> None:
        async with await Slow.connect(hurried) as slow:
            if begin:
                await slow.send(begin)
                assert one(await slow.read(4096)).status == 200
            sending = asyncio.create_task(slow.trickle(b"GET /healthz HTTP/1.1\r\nX: " + b"x" * 1000, 1, pause))
            assert_timed_out(*await slow.rest(), LATE_HEAD)
            sending.cancel()

    await asyncio.gather(begin_one(0.1), begin_one(30))


async def test_a_connection_without_a_byte_is_no_slow_client(hurried: System) -> None:
    async with await Slow.connect(hurried) as silent, await Slow.connect(hurried) as idle:
        await idle.send(GET)
        assert one(await idle.read(4096)).status == 200
        await asyncio.sleep(2 * TIMEOUT)
        for slow in (silent, idle):
            await slow.send(GET)
            assert one(await slow.read(4096)).status == 200


async def test_the_time_for_the_next_head_runs_once_the_request_before_it_is_answered(hurried: System) -> None:
    body = b'{"block": true, "tasks": {"task_name": "test.sleep", "seconds": 2.5}}'
    async with await Slow.connect(hurried) as slow:
        await slow.send(b"POST /v1/create HTTP/1.1\r\n" + HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        await asyncio.sleep(0.1)
        await slow.send(b"GET /heal")
        data, seconds = await slow.rest()
    first, second = parse_answers(data)
    assert (first.status, first.json[0]["status"]) == (200, "success")
    assert (second.status, second.json) == (408, LATE_HEAD)
    assert seconds >= 2.5 + TIMEOUT


# --- bodies -----------------------------------------------------------------------------------------------------------


async def test_a_body_that_does_not_get_on_is_a_408(hurried: System) -> None:
    async def begin_one(path: str) -> None:
        async with await Slow.connect(hurried) as slow:
            await slow.send(f"POST {path} HTTP/1.1\r\n".encode() + HEAD + b"Content-Length: 100000\r\n\r\n{")
            sending = asyncio.create_task(slow.trickle(b" " * 1000))
            assert_timed_out(*await slow.rest(), LATE_BODY)
            sending.cancel()

    paths = ("create", "create_stream", "create_file", "status", "stream")
    await asyncio.gather(*(begin_one(f"/v1/{path}") for path in paths))


async def test_a_burst_does_not_buy_a_body_more_time(hurried: System) -> None:
    async with await Slow.connect(hurried) as slow:
        await slow.send(b"POST /v1/create HTTP/1.1\r\n" + HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
        await slow.trickle(b"1\r\n \r\n", 6, TIMEOUT / 3)
        burst = b"c350\r\n" + b" " * 50_000 + b"\r\n"  # by the rate alone, it would do for 50 seconds
        await slow.trickle(burst, len(burst), 0)
        sending = asyncio.create_task(slow.trickle(b"1\r\n \r\n" * 1000))
        assert_timed_out(*await slow.rest(), LATE_BODY)
        sending.cancel()


async def test_a_slow_body_that_gets_on_is_served(patient: System) -> None:
    body = HELLO + b" " * 15_000
    head = b"POST /v1/create HTTP/1.1\r\n" + HEAD + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body)
    async with await Slow.connect(patient) as slow:
        await slow.send(head)
        await slow.trickle(body, 500, 0.4)
        data, seconds = await slow.rest()
    assert one(data).status == 200
    assert seconds > 1.5 * LONG_TIMEOUT


async def test_a_body_that_trickles_beside_a_stream_ends_the_stream(hurried: System, client: Client) -> None:
    key = (await client.create({"task_name": "test.sleep", "seconds": 50}))[0]["key"]
    async with await Slow.connect(hurried) as slow:
        head = f"GET /v1/status_stream?tasks={key} HTTP/1.1\r\nContent-Length: 100\r\n".encode()
        await slow.send(head + HEAD + b"\r\n{")
        data, seconds = await slow.rest()
    assert data.startswith(b"HTTP/1.1 200 ")
    assert not data.endswith(b"0\r\n\r\n")
    assert seconds < LATE
    async with client.session.delete(f"/v1/tasks/{key}", headers=SECRET) as response:
        assert response.status == 200


# --- answers ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def large(hurried: System) -> dict[str, bytes]:
    """Requests with large answers, by their kind."""
    return asyncio.run(requests_for_large_answers(hurried))


async def requests_for_large_answers(hurried: System) -> dict[str, bytes]:
    async with hurried.client() as client:
        text = {"task_name": "test.large", "size": 400_000}
        results = [status["key"] for status in await client.create(*[text] * 10, block=True)]
        file = await client.run("test.two_files", text="x" * 8000)
    url = file["result"]["large"].partition(hurried.url)[2]
    keys = "&".join(f"tasks={key}" for key in results)
    return {
        "status": f"GET /v1/status?{keys} HTTP/1.1\r\n".encode() + HEAD + b"\r\n",
        "stream": f"GET /v1/stream?{keys} HTTP/1.1\r\n".encode() + HEAD + b"\r\n",
        "events": f"GET /v1/stream?{keys} HTTP/1.1\r\nAccept: text/event-stream\r\n".encode() + HEAD + b"\r\n",
        "file": f"GET {url} HTTP/1.1\r\n".encode() + HEAD + b"\r\n",
    }


async def test_an_answer_that_is_not_taken_is_cut(hurried: System, client: Client, large: dict[str, bytes]) -> None:
    async def ask_one(request: bytes, size: int) -> None:
        async with await Slow.connect(hurried, small=True) as slow:
            await slow.send(request)
            assert b" 200 " in await slow.read(100)
            assert TIMEOUT <= await slow.until_cut(size, 0.1) < LATE

    await asyncio.gather(*(ask_one(request, size) for request in large.values() for size in (0, 1)))
    await eventually(lambda: _is(client, "dragon_streams", 0))


async def _is(client: Client, name: str, value: float) -> bool:
    return await metric(client, name) == value


async def test_an_answer_that_is_taken_below_the_rate_is_cut_though_the_system_sees_it_taken(
    hurried: System, client: Client, large: dict[str, bytes]
) -> None:
    before = await metric(client, 'dragon_cut_connections_total{with="answer"}')
    async with await Slow.connect(hurried) as slow:
        slow._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        await slow.send(large["stream"])
        await slow.until_cut(100, 0.1)
    assert await metric(client, 'dragon_cut_connections_total{with="answer"}') > before


async def test_a_slow_reader_that_gets_on_has_all_of_it(patient: System, large: dict[str, bytes]) -> None:
    async def ask_one(request: bytes) -> None:
        async with await Slow.connect(patient) as slow:
            await slow.send(request.replace(b"Host: x", b"Host: x\r\nConnection: close"))
            data = bytearray()
            while time.monotonic() - slow.begun < 1.5 * LONG_TIMEOUT:
                data += await slow.read(20_000)
                await asyncio.sleep(0.1)
            rest, _ = await slow.rest()
        answer = one(bytes(data) + rest)
        assert answer.status == 200
        assert len(answer.body) > 4_000_000

    await asyncio.gather(*map(ask_one, large.values()))


async def test_a_stream_with_nothing_to_send_waits_for_as_long_as_it_takes(client: Client) -> None:
    *_, last = await client.stream({"task_name": "test.sleep", "seconds": 4})
    assert last["status"] == "success"


async def test_the_place_of_a_stream_that_is_cut_is_free_again(hurried: System, client: Client) -> None:
    # For so long that it is cut before their end, whatever else the machine has to do.
    flood = {"task_name": "test.progress", "steps": 20_000, "delay": 0.002}
    keys = [status["key"] for status in await client.create(flood, flood)]
    body = orjson.dumps({"tasks": keys})
    async with await Slow.connect(hurried, small=True) as slow:
        request = b"POST /v1/status_stream HTTP/1.1\r\n" + HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body
        await slow.send(request)
        assert b" 200 " in await slow.read(100)
        assert await metric(client, "dragon_streams") == 1
        await slow.until_cut(1, 0.1)
    await eventually(lambda: _is(client, "dragon_streams", 0))
    await eventually(lambda: _is(client, "dragon_followed_tasks", 0))
    for key in keys:
        async with client.session.delete(f"/v1/tasks/{key}", headers=SECRET) as response:
            assert response.status == 200


async def test_what_was_answered_and_closed_and_is_not_taken_does_not_stay_in_the_kernel(
    hurried: System, large: dict[str, bytes]
) -> None:
    async with await Slow.connect(hurried, small=True) as slow:
        await slow.send(b"GET /static/sample.jpg HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert b" 200 " in await slow.read(100)
        assert slow.port in held(hurried.config.server.port)
        await eventually(lambda: slow.port not in held(hurried.config.server.port), 15)


async def test_a_reset_leaves_nothing_to_the_kernel() -> None:
    made: asyncio.Queue[asyncio.BaseTransport] = asyncio.Queue()

    class Writer(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            made.put_nowait(transport)

    loop = asyncio.get_running_loop()
    server = await loop.create_server(Writer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    with socket.socket() as stuck:
        stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        stuck.setblocking(False)
        await loop.sock_connect(stuck, ("127.0.0.1", port))
        transport = await made.get()
        assert isinstance(transport, asyncio.Transport)
        transport.write(b"x" * 5_000_000)
        assert held(port)
        reset(transport)
        await eventually(lambda: not held(port), 2)
    server.close()


async def test_every_cut_is_counted_and_told_in_one_line_without_keys(hurried: System, client: Client) -> None:
    for what in ("head", "body", "answer"):
        assert await metric(client, f'dragon_cut_connections_total{{with="{what}"}}') > 0
        assert f"connections cut, too slow with the {what}" in hurried.processes[0].output
    assert "Traceback" not in hurried.processes[0].output


# --- the rule ---------------------------------------------------------------------------------------------------------


def test_a_pace_is_late_when_a_goal_is_not_reached_in_time_and_each_goal_has_its_own_time() -> None:
    pace = Pace("a body", 100, now=0)
    assert not pace.is_late(99, 0, now=20, seconds=20)
    assert pace.is_late(99, 0, now=20.1, seconds=20)
    assert not pace.is_late(100, 200, now=20.1, seconds=20)
    assert not pace.is_late(199, 0, now=40, seconds=20)
    assert pace.is_late(199, 0, now=40.2, seconds=20)


def test_patience_is_a_rate_over_a_time() -> None:
    assert Patience(20, 50).least == 1000
    assert Patience(0.5, 0.1).least == 1
    assert Patience(20, 50).interval == 1.25
