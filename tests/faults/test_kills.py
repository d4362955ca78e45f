"""kill -9 of workers and executors: every accepted task ends in one final status, and soon."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dragon.processes import children_of
from tests.auditing import assert_sound
from tests.figures import FULL, note, scale, seeded
from tests.following import follow, marks, starts, statuses_of
from tests.system import Client, Process, System, eventually

OwnSystem = Callable[..., System]
#: Longer than a process may stall on a machine that other tests keep busy: its tasks would start again without a kill.
LEASE = {} if FULL else {"worker__lease": 6, "worker__heartbeat": 0.3}
SETTLED = scale(15, 45)  # seconds


def executors_of(pid: int) -> list[int]:
    """The executor processes below a worker: the children of its fork server."""
    return [executor for fork_server in children_of(pid) for executor in children_of(fork_server)]


class Fleet:
    """Workers that are killed, and started again at once."""

    def __init__(self, system: System, chance: random.Random, count: int) -> None:
        self._system = system
        self._chance = chance
        self._starting: set[asyncio.Task[None]] = set()
        self.workers: list[Process] = [self._start() for _ in range(count)]
        self.killed = {"worker": 0, "executor": 0}

    def _start(self) -> Process:
        return self._system.start_worker("--executors", "2")

    async def kill_one(self) -> None:
        """After a while, a random worker, or a random executor of one, of those that are ready at that moment."""
        await asyncio.sleep(self._chance.uniform(0.25, 1))
        while not self.workers:  # not at the very moment when one is ready, but at one that has nothing to do with it
            await asyncio.sleep(self._chance.uniform(0.25, 1))
        worker = self._chance.choice(self.workers)
        executors = executors_of(worker.pid)
        if self._chance.random() < 0.5 and executors:
            with contextlib.suppress(ProcessLookupError):  # it may have ended since its worker was looked at
                os.kill(self._chance.choice(executors), 9)
                self.killed["executor"] += 1
                return
        self.workers.remove(worker)
        worker.kill()
        self.killed["worker"] += 1
        starting = asyncio.create_task(self._replace())
        self._starting.add(starting)
        starting.add_done_callback(self._starting.discard)

    async def _replace(self) -> None:
        self.workers.append(await asyncio.to_thread(self._start))

    async def settle(self) -> None:
        await asyncio.gather(*self._starting)


def mixed_task(chance: random.Random, path: Path) -> dict[str, Any]:
    """75% of 1 to 10 ms, 24% of 50 ms, 1% of 0.3 to 1 s; a third of them `async def`; with progress."""
    seconds = chance.choices([chance.uniform(0.001, 0.01), 0.05, chance.uniform(0.3, 1)], [75, 24, 1])[0]
    name = chance.choice(["test.mark", "test.mark", "test.async_mark"])
    return {"task_name": name, "path": str(path), "seconds": seconds, "reports": chance.randrange(4)}


@pytest.mark.timeout(1800)
async def test_random_kills_of_workers_and_executors_lose_nothing(own_system: OwnSystem, tmp_path: Path) -> None:
    chance = seeded()
    kills, a_stream = scale(100, 8), 20
    system = own_system(**LEASE)
    system.start_server()
    fleet = Fleet(system, chance, 2)
    path = tmp_path / "marks"
    async with system.client() as client:
        reading = []
        for _ in range(kills):
            definitions = [mixed_task(chance, path) for _ in range(a_stream)]
            reading.append(asyncio.create_task(follow(client, "/v1/create_stream", definitions)))
            await fleet.kill_one()
        last = time.monotonic()
        streams = await asyncio.wait_for(asyncio.gather(*reading), scale(60, 120))
        settled = time.monotonic() - last
        await fleet.settle()
        finals = {key: status for stream in streams for key, status in stream.assert_ended().items()}
        assert len(finals) == kills * a_stream
        unlucky = [status for status in finals.values() if status["status"] != "success"]
        assert unlucky == [], "with 50 attempts nobody is that unlucky"
        assert await statuses_of(client, list(finals)) == list(finals.values()), (
            "a final status is what the stream said"
        )
    await assert_sound(system.config, timeout=SETTLED)
    extra = starts(path).total() - len(finals)
    again = repeated_ends(path)
    found = (
        f"0 lost, 0 stuck, one final line each; {extra / kills:.2f} extra starts a kill ({extra}: {extra - again} "
        f"tasks that were running, {again} whose end was not yet written); settled {settled:.1f} s after the last kill"
    )
    done = (
        f"{kills} kills ({fleet.killed['worker']} workers, {fleet.killed['executor']} executors), {len(finals)} tasks"
    )
    note("2", done, found, chance)
    assert set(starts(path)) == set(finals)
    # So few kills may all hit a busy one, and a busy machine is slow to end what is running.
    assert extra <= kills * (0.5 if FULL else 3), found
    assert settled < SETTLED


def repeated_ends(path: Path) -> int:
    """How many executions were repeated although they had come to their end."""
    ends = [mark.key for mark in marks(path) if mark.what == "end"]
    return len(ends) - len(set(ends))


@pytest.mark.timeout(600)
async def test_the_tasks_of_a_dead_worker_start_elsewhere_within_ten_seconds(
    own_system: OwnSystem, tmp_path: Path
) -> None:
    chance = seeded()
    rounds = scale(10, 1)
    system = own_system()  # with the lease that it has by default
    system.start_server()
    waits: list[float] = []
    async with system.client() as client:
        for turn in range(rounds):
            path = tmp_path / f"marks{turn}"
            waits += await _kill_two_workers(system, client, path, chance)
        assert len(waits) == rounds * 8
    await assert_sound(system.config)
    found = f"p50 {statistics.median(waits):.1f} s, longest {max(waits):.1f} s"
    note("3", f"{2 * rounds} workers killed, {len(waits)} tasks", found, chance)
    assert statistics.median(waits) <= scale(6, 20), found
    assert max(waits) <= scale(10, 30), found


async def _kill_two_workers(system: System, client: Client, path: Path, chance: random.Random) -> list[float]:
    """Seconds from the kill of its worker to the second start of each of eight tasks."""
    doomed: list[tuple[Process, list[str]]] = []
    for _ in range(2):
        worker = await asyncio.to_thread(system.start_worker, "--executors", "4")
        definition = {"task_name": "test.mark", "path": str(path), "seconds": 100}
        keys = [status["key"] for status in await client.create(*[definition] * 4)]
        await eventually(lambda keys=keys: set(keys) <= set(starts(path)), 45)
        doomed.append((worker, keys))
    heir = await asyncio.to_thread(system.start_worker, "--executors", "8")
    killed: dict[str, float] = {}
    for worker, keys in doomed:
        await asyncio.sleep(chance.uniform(0, 1))  # anywhere between two signs of life
        worker.kill()
        killed |= dict.fromkeys(keys, time.time())
    await eventually(lambda: set(starts(path).values()) == {2}, 45)
    second = {mark.key: mark.time for mark in marks(path) if mark.attempt == 2}
    for key in killed:
        async with client.session.delete(f"/v1/tasks/{key}", headers={"Authorization": "Secret 123456"}) as response:
            assert response.status == 200
    assert await asyncio.to_thread(heir.terminate) == 0
    return [second[key] - killed[key] for key in killed]


@pytest.mark.timeout(200)
async def test_a_task_whose_workers_all_die_ends_in_an_error_that_says_so(
    own_system: OwnSystem, tmp_path: Path
) -> None:
    system = own_system(worker__lease=1, worker__heartbeat=0.2)
    system.start_server()
    path = tmp_path / "starts"
    async with system.client() as client:
        definition = {"task_name": "test.mark_twice", "path": str(path), "seconds": 60}
        key = (await client.create(definition))[0]["key"]
        for attempt in (1, 2):
            worker = system.start_worker("--executors", "1")
            await eventually(lambda attempt=attempt: len(marks(path)) == attempt, 45)
            worker.kill()
        system.start_worker()
        status = await client.wait_for_status(key, "error", 45)
        assert status["result"] == "the worker was lost while it ran the task (attempt 2)"
    await assert_sound(system.config)


async def test_a_task_of_no_queue_that_a_worker_serves_stays_queued(own_system: OwnSystem) -> None:
    system = own_system()
    system.start_server()
    system.start_worker("--queues", "high")
    async with system.client() as client:
        for members in ({}, {"block": True}):
            status = (await client.create({"task_name": "hello"}, timeout=0.3, **members))[0]
            assert status["status"] == "queued"
        assert (await client.run("test.high"))["result"] == "high"
