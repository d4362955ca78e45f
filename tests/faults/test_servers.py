"""Servers that are killed or told to end under open streams, and streams that are left: what is kept, what goes."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
import redis

from dragon.store import names
from dragon.store.tasks import State
from tests.auditing import assert_sound
from tests.faults.lanes import keys_in
from tests.figures import FULL, note, scale, seeded
from tests.following import FINAL, Crowd, Stream, follow
from tests.system import SECRET, Client, Process, System, eventually

OwnSystem = Callable[..., System]


async def metric(client: Client, name: str) -> float:
    async with client.session.get("/metrics") as response:
        for line in (await response.text()).splitlines():
            if line.startswith(f"{name} "):
                return float(line.split(" ")[1])
    raise AssertionError(f"/metrics has no {name}")


async def come_back(client: Client, keys: list[str]) -> Stream:
    """Follows keys as a client does whose server is away for a while."""
    for _ in range(600):
        try:
            return await follow(client, "/v1/status_stream", keys)
        except aiohttp.ClientConnectionError:
            await asyncio.sleep(0.1)
    raise AssertionError("the server never came back")


def feeds_in_states(connection: redis.Redis, keys: list[str]) -> set[str]:
    """The servers that Redis lists as followers of these tasks."""
    fields = [connection.hget(names.TASK + key, "state") for key in keys]
    return {feed for field in fields for feed in State.read(field).feeds.split(",") if feed}


@pytest.mark.timeout(200)
async def test_clients_of_a_killed_server_come_back_and_nothing_of_it_is_left(
    own_system: OwnSystem, tmp_path: Path
) -> None:
    chance = seeded()
    count = scale(200, 50)
    system = own_system()
    server = system.start_server()
    system.start_worker("--executors", "2", "--queues", "high,default")

    def definitions() -> list[dict[str, Any]]:
        return [
            {"task_name": "test.async_sleep", "seconds": chance.uniform(0.3, 3)},
            {"task_name": "test.sleep", "seconds": chance.choice([0.001, 0.01])},
        ]

    with redis.Redis.from_url(system.config.redis.url) as connection:
        async with system.client() as client:
            assert (await client.run("hello"))["status"] == "success"  # all have connected that do
            await eventually(lambda: len(connection.pubsub_channels("*")) >= 3, 30)  # a server's, and a worker's two
            connected = await _connections_at_rest(connection)
            crowd = Crowd(client)
            await crowd.open(count, definitions)
            gate = tmp_path / "gate"  # one task at least is open when the server is killed
            await crowd.open(1, lambda: [{"task_name": "test.async_say", "texts": [], "gate": str(gate)}])
            assert feeds_in_states(connection, crowd.keys)
            waiting = Crowd(client)
            await waiting.open(1, lambda: [{"task_name": "test.low"}])  # nobody serves that queue
            dead = feeds_in_states(connection, waiting.keys)
            server.kill()
            gate.touch()
            await crowd.end()
            assert not any(stream.complete for stream in crowd.streams if set(stream.keys) - set(stream.finals()))
            coming = [asyncio.create_task(come_back(client, stream.keys)) for stream in crowd.streams]
            await asyncio.to_thread(system.start_server)
            for stream, later in zip(crowd.streams, await asyncio.gather(*coming), strict=True):
                finals = later.assert_ended()
                assert set(finals) == set(stream.keys)
                assert {status["status"] for status in finals.values()} == {"success"}
                assert stream.finals().items() <= finals.items(), "an end that was told before stays as it was"
            again = asyncio.create_task(come_back(client, waiting.keys))
            await eventually(lambda: feeds_in_states(connection, waiting.keys) - dead, 45)
            assert not feeds_in_states(connection, waiting.keys) & dead, "it went when somebody came back for the task"
            async with client.session.delete(f"/v1/tasks/{waiting.keys[0]}", headers=SECRET) as response:
                assert response.status == 200
            assert (await again).assert_ended()
            began = time.monotonic()
            await eventually(lambda: not feeds_in_states(connection, crowd.keys), 30)
            await eventually(lambda: len(connection.pubsub_channels(names.FEED + "*")) == 1, 30)
            await eventually(lambda: _nobody_follows(client), 30)
            await eventually(lambda: _are_no_more_than(connection, connected), 30)
            left = time.monotonic() - began
    await assert_sound(system.config)
    found = f"all {len(crowd.keys)} final statuses, after {left:.1f} s nothing was left"
    note("5", f"{count} streams of {len(crowd.keys)} tasks", found, chance)


async def _connections_at_rest(connection: redis.Redis) -> int:
    """How many there are when the worker waits for its two queues."""
    await eventually(lambda: sum(one["cmd"] == "blmove" for one in connection.client_list()) == 2, 30)
    return len(connection.client_list())


async def _are_no_more_than(connection: redis.Redis, count: int) -> bool:
    return await _connections_at_rest(connection) <= count


async def _nobody_follows(client: Client) -> bool:
    return await metric(client, "dragon_followed_tasks") == 0


@pytest.mark.timeout(200)
async def test_server_and_worker_end_within_ten_seconds_of_sigterm_and_lose_nothing(
    own_system: OwnSystem, tmp_path: Path
) -> None:
    chance = seeded()
    count = scale(200, 50)
    system = own_system(**({} if FULL else {"worker__stop_grace": 1}))
    server = system.start_server()
    worker = system.start_worker("--executors", "2", "--queues", "high,default")

    def definitions() -> list[dict[str, Any]]:
        return [{"task_name": "test.async_sleep", "seconds": chance.uniform(0.3, 3)}]

    async with system.client() as client:
        crowd = Crowd(client)
        await crowd.open(count, definitions)
        await crowd.open(1, lambda: [{"task_name": "test.low"}])  # nobody serves that queue: it will not end by itself
        waits = [asyncio.create_task(client.create(*definitions(), block=True)) for _ in range(10)]
        # A create's tasks are followed before they exist: those that wait will hear of the server's end.
        await eventually(lambda: len(keys_in(system.config.redis.url)) == count + 1 + len(waits), 45)
        server_seconds = await _seconds_to_end(server)
        await crowd.end()
        waited = [status for statuses in await asyncio.gather(*waits) for status in statuses]
        assert all(stream.complete for stream in crowd.streams), "a stream was cut instead of ended"
        await asyncio.to_thread(system.start_server)
        keys = crowd.keys + [status["key"] for status in waited]
        low = await asyncio.to_thread(system.start_worker, "--queues", "low")
        finals = (await come_back(client, keys)).assert_ended()
        assert {status["status"] for status in finals.values()} == {"success"}

        assert await asyncio.to_thread(low.terminate) == 0
        crowd = Crowd(client)
        await crowd.open(count, definitions)
        gate = tmp_path / "gate"  # longer than the grace: they go back
        await crowd.open(2, lambda: [{"task_name": "test.say", "texts": [], "gate": str(gate)}])
        for stream in crowd.streams[-2:]:
            await client.wait_for_status(stream.keys[0], "executing", 45)
        worker_seconds = await _seconds_to_end(worker)
        assert "did not finish in" in worker.output
        gate.touch()
        await asyncio.to_thread(system.start_worker, "--executors", "2")
        await crowd.end()
        for stream in crowd.streams:
            assert {status["status"] for status in stream.assert_ended().values()} == {"success"}
    await assert_sound(system.config)
    found = f"the server out in {server_seconds:.1f} s, the worker in {worker_seconds:.1f} s; whole bodies, 0 lost"
    note("11", f"SIGTERM to server and worker, {count} streams each", found, chance)
    assert max(server_seconds, worker_seconds) < scale(10, 30), found


async def _seconds_to_end(process: Process) -> float:
    began = time.monotonic()
    assert await asyncio.to_thread(process.terminate, 60) == 0
    return time.monotonic() - began


class Leaver:
    """Opens streams on bare sockets, reads the first line of each, and leaves: politely (FIN) or not (RST)."""

    def __init__(self, port: int) -> None:
        self._port = port

    async def wave(self, requests: list[tuple[str, Any, bool]]) -> list[str]:
        """All of them open at once, then all left. Returns the keys of the tasks."""
        opened = await asyncio.gather(*(self._open(path, tasks) for path, tasks, _ in requests))
        for (writer, _), (_, _, is_rude) in zip(opened, requests, strict=True):
            if is_rude:
                raw = writer.get_extra_info("socket")
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                writer.transport.abort()
            else:
                writer.close()
        return [key for _, keys in opened for key in keys]

    async def _open(self, path: str, tasks: Any) -> tuple[asyncio.StreamWriter, list[str]]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        body = orjson.dumps({"tasks": tasks})
        head = f"POST {path} HTTP/1.1\r\nHost: test\r\nAuthorization: {SECRET['Authorization']}\r\n"
        writer.write(head.encode() + f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
        async with asyncio.timeout(30):
            assert b" 200 " in await reader.readuntil(b"\r\n\r\n")
            await reader.readline()  # the chunk's size
            statuses = orjson.loads(await reader.readline())
        assert all(status["status"] not in FINAL for status in statuses), "to be left mid-way it has to be open"
        return writer, [status["key"] for status in statuses]


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def resident_megabytes(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 1e6


@pytest.mark.timeout(900)
async def test_streams_that_are_left_leave_nothing(own_system: OwnSystem) -> None:
    chance = seeded()
    streams, a_wave = scale(10_000, 500), scale(500, 250)
    warm_up = scale(4, 1)  # waves until memory has found its size
    system = own_system(**({} if FULL else {"server__heartbeat": 60}))  # the process may stall before the next one
    server = system.start_server()
    keys: list[str] = []
    with redis.Redis.from_url(system.config.redis.url) as connection:
        await eventually(lambda: connection.pubsub_channels(names.FEED + "*"), 30)  # its descriptors are open
    async with system.client() as client:
        waiting = [status["key"] for status in await client.create(*[{"task_name": "test.low"}] * 20)]
        base = descriptors(server.pid)
        leaver = Leaver(system.config.server.port)
        sizes: list[float] = []
        for wave in range(warm_up + streams // a_wave):
            if wave == warm_up:
                sizes.append(resident_megabytes(server.pid))
            requests: list[tuple[str, Any, bool]] = [
                ("/v1/status_stream", chance.sample(waiting, 3), chance.random() < 0.5)
                if chance.random() < 0.5
                else ("/v1/create_stream", [{"task_name": "test.low"}], chance.random() < 0.5)
                for _ in range(a_wave)
            ]
            keys += await leaver.wave(requests)
            # Sooner than the next heartbeat: that would find out too.
            await eventually(lambda: _nobody_follows(client), system.config.server.heartbeat / 2)
            await eventually(lambda: descriptors(server.pid) <= base, 30)
        sizes.append(resident_megabytes(server.pid))
        with redis.Redis.from_url(system.config.redis.url) as connection:
            assert len(feeds_in_states(connection, keys)) == 1, "the tasks are still open, and so is the server"
            await asyncio.to_thread(system.start_worker, "--queues", "low")
            await eventually(lambda: not feeds_in_states(connection, keys), 60)
    await assert_sound(system.config)
    grown = sizes[1] - sizes[0]
    found = f"0 followers, {base} descriptors as before, memory {sizes[0]:.0f} -> {sizes[1]:.0f} MB"
    note("12", f"{streams} streams left, half by reset, {a_wave} at a time", found, chance)
    assert grown < scale(10, 8), found
