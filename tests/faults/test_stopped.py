"""Workers and executors that are stopped (SIGSTOP) and go on later: what was decided meanwhile stays decided."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from dragon.processes import children_of
from tests.auditing import assert_sound
from tests.figures import FULL, note, scale
from tests.following import follow
from tests.system import Client, Process, System, eventually

OwnSystem = Callable[..., System]


def family(pid: int) -> list[int]:
    """A process and all below it."""
    return [pid, *(found for child in children_of(pid) for found in family(child))]


def send(number: int, pids: Iterable[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
            os.kill(pid, number)


def is_stopped(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
    except OSError:
        return False  # it is gone


def worker_id(process: Process) -> str:
    """As the worker has printed it."""
    return process.output.partition("dragon worker ")[2].split(" ")[0]


async def _busy_worker(system: System, client: Client, gates: list[Path]) -> tuple[Process, list[str]]:
    """A worker and the tasks that it is at: each waits for its gate and then writes an output file."""
    worker = await asyncio.to_thread(system.start_worker, "--executors", str(len(gates)))
    made = await client.create(*[{"task_name": "test.gated_file", "gate": str(gate)} for gate in gates])
    keys = [status["key"] for status in made]
    for key in keys:
        await client.wait_for_status(key, "executing", 45)
    return worker, keys


def open_gates(gates: list[Path], attempt: int) -> None:
    for gate in gates:
        Path(f"{gate}.{attempt}").touch()


@pytest.mark.timeout(300)
async def test_a_worker_that_was_stopped_changes_nothing_when_it_goes_on(own_system: OwnSystem, tmp_path: Path) -> None:
    pause = scale(30, 3)
    system = own_system(**({} if FULL else {"worker__lease": 6, "worker__heartbeat": 0.3}))
    system.start_server()
    gates = [tmp_path / f"gate{number}" for number in range(4)]
    async with system.client() as client:
        alone, of_alone = await _busy_worker(system, client, gates[:2])  # its executors finish while it is stopped
        whole, of_whole = await _busy_worker(system, client, gates[2:])  # its executors are stopped with it
        stopped = [alone.pid, *family(whole.pid)]
        send(signal.SIGSTOP, stopped)
        began = time.monotonic()
        await eventually(lambda: all(is_stopped(pid) for pid in stopped))
        open_gates(gates, attempt=1)
        keys = of_alone + of_whole
        stream = asyncio.create_task(follow(client, "/v1/status_stream", keys))
        await asyncio.to_thread(system.start_worker, "--executors", "4")
        early, late = keys[::2], keys[1::2]  # decided before the stopped ones go on, and after
        open_gates(gates[::2], attempt=2)
        decided = await client.status(*early, block=True, details=True)
        await eventually(lambda: _run_again(client, late), 45)
        await asyncio.sleep(max(0.0, began + pause - time.monotonic()))
        send(signal.SIGCONT, stopped)
        for worker in (alone, whole):
            await asyncio.to_thread(worker.wait_for, "its tasks are others' now", 60)
        await _assert_unchanged(client, decided, late)
        open_gates(gates[1::2], attempt=2)
        decided += await client.status(*late, block=True, details=True)
        assert {status["status"] for status in decided} == {"success"}
        assert all(status["attempt"] > 1 for status in decided)
        await _assert_unchanged(client, decided, [])
        (await stream).assert_ended()
        for worker in (alone, whole):
            scratch = system.config.scratch_dir / worker_id(worker)
            await eventually(lambda scratch=scratch: [path.name for path in scratch.iterdir()] == [".lock"], 45)
        files = system.config.data_dir / "files"
        won = {(status["key"], str(status["attempt"]), "output.txt") for status in decided}
        await eventually(lambda: {path.parts[-3:] for path in files.rglob("*.*")} == won, 45)
        assert (await client.run("hello"))["status"] == "success"
    await assert_sound(system.config)
    found = "no final status changed, no late end counted, no file left"
    note("6", f"{pause} s, a worker alone and one with its executors, 4 tasks", found)


async def _run_again(client: Client, keys: list[str]) -> bool:
    """Whether another worker is at each of them."""
    statuses = await client.status(*keys, details=True)
    return all(status["status"] == "executing" and status["attempt"] > 1 for status in statuses)


async def _assert_unchanged(client: Client, decided: list[dict[str, Any]], undecided: list[str]) -> None:
    """For as long as what is late may take to be written: ends stay as they are, and what has none gets none."""
    ends = time.monotonic() + scale(10, 1)
    keys = [status["key"] for status in decided]
    while time.monotonic() < ends:
        now = await client.status(*keys, details=True)
        assert [_lasting(status) for status in now] == [_lasting(status) for status in decided]
        for status in now:
            async with client.session.get(status["result"]["output"]) as response:
                assert (response.status, await response.text()) == (200, f"attempt {status['attempt']}")
        if undecided:
            assert {status["status"] for status in await client.status(*undecided)} == {"executing"}
        await asyncio.sleep(0.05)


def _lasting(status: dict[str, Any]) -> dict[str, Any]:
    """Without the time that it will be kept, which is computed from what is left."""
    return {name: value for name, value in status.items() if name != "expires"}


async def test_a_stopped_executor_costs_its_task_and_nothing_else(system: System, client: Client) -> None:
    worker = system.processes[1]
    for _ in range(30):
        status = (await client.create({"task_name": "test.never_ends"}))[0]
        await eventually(lambda status=status: _is_underway(client, status["key"]), 45)
        executors = [pid for fork_server in children_of(worker.pid) for pid in children_of(fork_server)]
        send(signal.SIGSTOP, executors)  # whichever has it; those without a task go on
        if (await client.status(status["key"]))[0]["status"] == "executing":
            break
        send(signal.SIGCONT, executors)  # the task's second was over before they were stopped: once more
    else:
        raise AssertionError("no executor was stopped while it had the task")
    final = await client.wait_for_status(status["key"], "error", 45)
    assert final["result"] == "the task took longer than its 1 s"
    send(signal.SIGCONT, executors)
    assert (await client.run("hello"))["status"] == "success"
    assert (await client.status(status["key"]))[0] == final


async def _is_underway(client: Client, key: str) -> bool:
    return (await client.status(key))[0]["status"] != "queued"
