"""Hundreds of clients that trickle heads, bodies or reads, each again as soon as it is cut: others notice little."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.attack.healthy_client import measure_apart
from tests.auditing import assert_sound
from tests.figures import FULL, note, scale, seeded
from tests.server.talking import check_common, gauge, held, parse_answers
from tests.system import SECRET, Client, System, eventually

CONNECTIONS = scale(500, 60)
SECONDS = scale(60, 3)  # of the attack
MOST = 30.0  # seconds that a connection may live
QUIET = scale(30, 1)  # seconds of measuring before the attack, and after it
#: The full form has the default settings; the short one has no time to wait for twenty seconds.
SETTINGS = {} if FULL else {"server__client_timeout": 2.0}


@dataclass
class Attack:
    """What the attackers found."""

    system: System
    ends: float  # when no new connections are made, if all have been there by then; of time.monotonic()
    were_all_there: bool = False
    lives: list[tuple[float, str]] = field(default_factory=list)  # seconds, and what was done meanwhile
    answers: Counter[str] = field(default_factory=Counter)

    async def attack(self, name: str, trickle: Callable[[socket.socket], Awaitable[bytes]], small: bool) -> None:
        """One attacker: connects and trickles, again and again; each connection is watched until it is cut."""
        loop = asyncio.get_running_loop()
        while time.monotonic() < self.ends or not self.were_all_there:
            with socket.socket() as connection:
                connection.setblocking(False)
                if small:
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
                begun = time.monotonic()
                await loop.sock_connect(connection, ("127.0.0.1", self.system.config.server.port))
                async with asyncio.timeout(3 * MOST):
                    data = await trickle(connection)
                self.lives.append((time.monotonic() - begun, name))
                self._note_answer(data)

    def _note_answer(self, data: bytes) -> None:
        if not data:
            self.answers["reset"] += 1
            return
        (answer,) = parse_answers(data)
        check_common(answer)
        self.answers[str(answer.status)] += 1


def sender(begin: bytes, byte: bytes) -> Callable[[socket.socket], Awaitable[bytes]]:
    """Sends the beginning of a request and then a byte a second; gives what was answered when the server has closed."""

    async def trickle(connection: socket.socket) -> bytes:
        loop = asyncio.get_running_loop()

        async def send() -> None:
            await loop.sock_sendall(connection, begin)
            while True:
                await asyncio.sleep(1)
                await loop.sock_sendall(connection, byte)

        sending = asyncio.create_task(send())
        data = b""
        try:
            while block := await loop.sock_recv(connection, 65536):
                data += block
        except ConnectionError:
            pass
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
        return data

    return trickle


def reader(request: bytes) -> Callable[[socket.socket], Awaitable[bytes]]:
    """Asks and then reads a byte a second until the server's end is gone; fails when the answer comes to its end."""

    async def trickle(connection: socket.socket) -> bytes:
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(connection, request)
        with contextlib.suppress(ConnectionError):
            begin = await loop.sock_recv(connection, 16)
            assert b" 200 " in begin, begin
            await asyncio.sleep(1)
            while connection.getsockname()[1] in HELD and not was_reset(connection):
                assert await loop.sock_recv(connection, 1), "the answer came to its end"
                await asyncio.sleep(1)
        return b""

    return trickle


def was_reset(connection: socket.socket) -> bool:
    """Whether it has ended although there may be more to read; its port may be another connection's by now."""
    return connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == TCP_CLOSE


TCP_CLOSE = 7  # of Linux's tcpi_state
HELD: set[int] = set()  # the ports of clients whose connections the server's kernel still has


async def look(port: int) -> None:
    """Keeps HELD up to date, for all readers at once."""
    while True:
        HELD.update(found := held(port))
        HELD.intersection_update(found)
        await asyncio.sleep(0.5)


async def attacks_on(
    client: Client, flood: str, chance: random.Random
) -> dict[str, Callable[[socket.socket], Awaitable[bytes]]]:
    """The ways to trickle; what there is to read is made before. `flood` is the key of a task that never rests."""
    large = await client.create(*[{"task_name": "test.large", "size": 200_000}] * 2, block=True)
    file = await client.run("test.two_files", text="x" * 8000)
    path = "/files/" + file["result"]["large"].partition("/files/")[2]
    keys = "&".join(f"tasks={status['key']}" for status in large)
    head = "Host: x\r\nAuthorization: Secret 123456\r\n"
    size = chance.randrange(1000, 1 << 20)
    return {
        "head": sender(b"GET /v1/status?tasks=", b"A"),
        "many headers": sender(f"POST /v1/create HTTP/1.1\r\n{head}X: ".encode(), b"x"),
        "body": sender(f"POST /v1/create HTTP/1.1\r\n{head}Content-Length: {size}\r\n\r\n{{".encode(), b" "),
        "chunks": sender(
            f"POST /v1/status HTTP/1.1\r\n{head}Transfer-Encoding: chunked\r\n\r\n".encode(), b"1\r\n \r\n"
        ),
        "stream": reader(f"GET /v1/stream?tasks={flood} HTTP/1.1\r\n{head}\r\n".encode()),
        "events": reader(f"GET /v1/stream?tasks={flood} HTTP/1.1\r\n{head}Accept: text/event-stream\r\n\r\n".encode()),
        "large answer": reader(f"GET /v1/status?{keys} HTTP/1.1\r\n{head}\r\n".encode()),
        "file": reader(f"GET {path} HTTP/1.1\r\n{head}\r\n".encode()),
    }


def percentile(values: Sequence[float], part: float) -> float:
    """In milliseconds."""
    return 1000 * sorted(values)[min(len(values) - 1, int(len(values) * part))]


def told(values: Sequence[float]) -> str:
    return f"{percentile(values, 0.5):.1f} / {percentile(values, 0.99):.1f}"


def memory(pid: int) -> float:
    """MiB that the process alone occupies."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


async def gauges(client: Client) -> tuple[float, float, float]:
    async with client.session.get("/metrics") as response:
        text = await response.text()
    return gauge(text, "dragon_connections"), gauge(text, "dragon_streams"), gauge(text, "dragon_followed_tasks")


@pytest.mark.timeout(scale(600, 300))
async def test_slow_clients_are_cut_and_cost_the_others_little(own_system: Callable[..., System]) -> None:
    chance = seeded()
    system = own_system(**SETTINGS)
    server = system.start_server()
    system.start_worker("--executors", "2")
    async with system.client() as client:
        (flood,) = await client.create({"task_name": "test.flood", "seconds": 4 * MOST + SECONDS + 2 * QUIET})
        await client.wait_for_status(flood["key"], "executing")
        ways = await attacks_on(client, flood["key"], chance)
        before = await measure_apart(system.url, QUIET)
        occupied = memory(server.pid)
        looking = asyncio.create_task(look(system.config.server.port))
        attack = Attack(system, time.monotonic() + SECONDS)
        attackers = []
        for number in range(CONNECTIONS):
            name = list(ways)[number % len(ways)]
            attackers.append(asyncio.create_task(attack.attack(name, ways[name], name not in SENDERS)))
        measuring = asyncio.create_task(measure_apart(system.url, SECONDS))
        try:
            await eventually(lambda: _all_are_there(client), 60)
        finally:
            attack.were_all_there = True  # or they would never end
        during = await measuring
        grown = memory(server.pid) - occupied
        await asyncio.gather(*attackers)
        looking.cancel()
        after = await measure_apart(system.url, QUIET)
        await eventually(lambda: _is_at_rest(client), 60)
        async with client.session.delete(f"/v1/tasks/{flood['key']}", headers=SECRET) as response:
            assert response.status == 200
    (longest, slowest), cut = max(attack.lives), len(attack.lives)
    ratio = percentile(during, 0.99) / percentile(before + after, 0.99)
    note(
        "slow",
        f"{CONNECTIONS} connections for {SECONDS} s, each again when it was cut ({cut} in all): "
        "heads, bodies, streams, answers and files at a byte a second",
        f"each cut after at most {longest:.1f} s ({slowest}), {attack.answers['408']} with 408, "
        f"{attack.answers['reset']} reset; "
        f"p50 / p99 of the others' requests {told(before)} ms before, {told(during)} during, {told(after)} after: "
        f"p99 times {ratio:.2f}; the server grew by {grown:.0f} MiB",
        chance,
    )
    assert longest <= MOST, slowest
    assert cut >= CONNECTIONS
    assert set(attack.answers) <= {"408", "reset"}
    assert attack.answers["408"] >= CONNECTIONS // 2
    if FULL:
        assert ratio <= 2
    assert "Traceback" not in server.output
    await assert_sound(system.config)


SENDERS = ("head", "many headers", "body", "chunks")


async def _all_are_there(client: Client) -> bool:
    return (await gauges(client))[0] >= 0.9 * CONNECTIONS


async def _is_at_rest(client: Client) -> bool:
    connections, *others = await gauges(client)
    return connections <= 3 and others == [0, 0]  # those of the healthy client
