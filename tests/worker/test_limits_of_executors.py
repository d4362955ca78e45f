"""What tasks may use: memory, CPU time, files, processes; who wants more ends in a sentence, the worker serves on."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from dragon.embedded import EmbeddedRedis, find_server
from dragon.processes import below, families
from tests.auditing import assert_sound
from tests.figures import scale
from tests.system import Client, System, eventually, running_system, test_config

pytestmark = pytest.mark.timeout(200)  # of which a busy machine may need more than the usual minute

MEGABYTE = 1 << 20
MEMORY = 300 * MEGABYTE
BOUNDS = {
    "limits__memory_bytes": MEMORY,
    "limits__cpu_seconds": 1,
    "limits__file_bytes": 4 * MEGABYTE,
    "limits__processes": 40,
}
MEMORY_SENTENCE = f"the task needed more memory than {MEMORY} bytes (limits.memory_bytes), reference "
CPU_SENTENCE = "the task used more than 1 s of CPU time (limits.cpu_seconds)"
PROCESSES_SENTENCE = "the task started more than 40 processes (limits.processes)"


@pytest.fixture(scope="module")
def bounded() -> Iterator[System]:
    """A server, and a worker with narrow limits and two executors."""
    with tempfile.TemporaryDirectory(prefix="dragon-test-") as name:
        folder = Path(name)
        redis = EmbeddedRedis(find_server(test_config(folder, "")), folder / "r", folder / "s", durable=False)
        config = test_config(folder / "data", f"unix://{folder / 's'}", **BOUNDS)
        with redis, running_system(config, "--executors", "2") as system:
            yield system


@pytest.fixture
async def limited(bounded: System) -> AsyncIterator[Client]:
    """Speaks to it; afterwards both kinds of executors must serve, and nothing but them be left below the worker."""
    async with bounded.client() as client:
        yield client
        assert (await client.run("hello"))["status"] == "success"
        assert (await client.run("test.async_sleep", seconds=0))["status"] == "success"
    worker = bounded.processes[1]
    assert worker.popen.poll() is None
    await eventually(lambda: len(below(worker.pid, families())) == 1 + 3, 60)  # the fork server, three executors
    await eventually(lambda: folders(bounded) == [], 45)
    await assert_sound(bounded.config)


def folders(system: System) -> list[str]:
    """The scratch folders of tasks that are still there."""
    return [name for worker in system.config.scratch_dir.iterdir() for name in os.listdir(worker) if name != ".lock"]


async def executors_of(system: System) -> set[int]:
    """The three executors, when all are there."""
    worker = system.processes[1].pid
    (fork_server,) = families()[worker]
    return await eventually(lambda: len(found := set(below(fork_server, families()))) == 3 and found, 45)


def is_alive(pid: int, born: int | None = None) -> bool:
    """Whether a process runs, and is the one that began at that moment: numbers are given again."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return False
    return fields[0] != "Z" and born in (None, int(fields[19]))


# Memory


@pytest.mark.parametrize("how", ["block", "blocks", "small"])
async def test_a_task_that_wants_too_much_memory_ends_and_its_executor_serves_on(
    limited: Client, bounded: System, how: str
) -> None:
    before = await executors_of(bounded)  # all of them: which has a task next is not to be known
    status = await limited.run("test.hog", how=how)
    assert status["status"] == "error"
    assert status["result"].startswith(MEMORY_SENTENCE)
    assert {(await limited.run("test.pid"))["result"] for _ in range(10)} <= before
    assert await executors_of(bounded) == before


async def test_an_async_task_that_wants_too_much_memory_ends_alone(limited: Client) -> None:
    statuses = await limited.create(
        {"task_name": "test.async_hog"}, {"task_name": "test.async_sleep", "seconds": 1}, block=True
    )
    assert statuses[0]["result"].startswith(MEMORY_SENTENCE)
    assert statuses[1]["status"] == "success"


# CPU time


@pytest.mark.parametrize("how", ["loop", "power", "regex"])
async def test_a_task_that_computes_for_too_long_ends_at_once_and_is_not_tried_again(limited: Client, how: str) -> None:
    began = time.monotonic()
    status = await limited.run("test.burn", how=how)
    assert (status["status"], status["result"]) == ("error", CPU_SENTENCE)
    assert time.monotonic() - began < 60  # its own timeout is 120 s; another attempt, of three, would show, too
    attempts = (await limited.status(status["key"], details=True))[0]["attempt"]
    assert attempts == 1


async def test_the_cpu_time_of_each_task_is_its_own(limited: Client) -> None:
    for _ in range(8):
        status = await limited.run("test.burn", seconds=0.6)
        assert status["status"] == "success", status


async def test_time_that_a_task_waits_is_no_cpu_time(limited: Client) -> None:
    assert (await limited.run("test.sleep", seconds=4))["status"] == "success"


async def test_an_async_task_that_computes_for_too_long_ends_after_its_attempts(limited: Client) -> None:
    status = await limited.run("test.async_burn")
    assert status["result"] == f"the task's process has ended ({CPU_SENTENCE}) on attempt 3"


# Files


async def test_a_file_that_grows_too_large_ends_its_task(limited: Client) -> None:
    status = await limited.run("test.fill", size=5 * MEGABYTE)
    assert status["status"] == "error"
    sentence = f"the task wrote a file of more than {4 * MEGABYTE} bytes (limits.file_bytes), reference "
    assert status["result"].startswith(sentence)
    assert (await limited.run("test.fill", size=4 * MEGABYTE))["status"] == "success"


# Processes


@pytest.mark.parametrize("how", ["wide", "fork", "session", "double"])
async def test_a_bomb_of_processes_ends_with_all_of_them(limited: Client, how: str) -> None:
    status = await limited.run("test.bomb", how=how, most=scale(2000, 120))
    assert (status["status"], status["result"]) == ("error", PROCESSES_SENTENCE)
    assert (await limited.status(status["key"], details=True))[0]["attempt"] == 1


@pytest.mark.parametrize("how", ["child", "session", "double"])
async def test_what_a_task_leaves_running_ends_with_it_and_its_executor_serves_on(
    limited: Client, tmp_path: Path, how: str
) -> None:
    status = await limited.run("test.leave", path=str(tmp_path / "pid"), how=how)
    assert status["status"] == "success"
    assert not is_alive(int((tmp_path / "pid").read_text()))
    assert is_alive(status["result"])


async def test_what_async_tasks_leave_running_ends_when_none_of_them_runs(limited: Client, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    other = (await limited.create({"task_name": "test.async_say", "texts": [], "gate": str(gate)}))[0]["key"]
    await limited.wait_for_status(other, "executing", 45)
    status = await limited.run("test.async_leave", path=str(tmp_path / "pid"))
    process = int((tmp_path / "pid").read_text())
    assert is_alive(process), "whose it is cannot be told"
    gate.touch()
    await limited.wait_for_status(other, "success", 45)
    await eventually(lambda: not is_alive(process), 45)
    assert is_alive(status["result"])


async def test_a_copy_that_a_task_forks_does_not_go_on_as_the_executor(limited: Client) -> None:
    for _ in range(3):
        status = await limited.run("test.fork_on")
        assert status["result"] > 0, "the copy's result"


# All of them


async def test_the_kernel_holds_the_limits_of_every_executor(limited: Client) -> None:
    bounds: dict[str, Any] = (await limited.run("test.bounds"))["result"]
    assert bounds == {"RLIMIT_DATA": [MEMORY] * 2, "RLIMIT_FSIZE": [4 * MEGABYTE] * 2, "RLIMIT_CORE": [0, 0]}


async def test_zero_is_no_limit(own_system: Any) -> None:
    system: System = own_system(**dict.fromkeys(BOUNDS, 0))
    system.start_server()
    system.start_worker("--executors", "1")
    async with system.client() as client:
        bounds: dict[str, Any] = (await client.run("test.bounds"))["result"]
        assert (bounds["RLIMIT_DATA"], bounds["RLIMIT_FSIZE"]) == ([-1, -1], [-1, -1])
        assert (await client.run("test.fill", size=5 * MEGABYTE))["status"] == "success"
        assert (await client.run("test.burn", seconds=3))["status"] == "success"
        status = await client.run("test.hog")
        assert status["result"].startswith("the task needed more memory than there is, reference ")


@pytest.mark.parametrize("victim", ["worker", "fork server"])
@pytest.mark.parametrize("how", ["session", "double"])
async def test_a_bomb_does_not_outlive_a_killed_worker_or_fork_server(own_system: Any, victim: str, how: str) -> None:
    system: System = own_system(limits__processes=1000)
    system.start_server()
    worker = system.start_worker("--executors", "1")
    (fork_server,) = families()[worker.pid]
    async with system.client() as client:
        await client.create({"task_name": "test.bomb", "how": how, "most": 50})
        found = await eventually(lambda: len(family := below(worker.pid, families())) > 40 and family, 40)
        with contextlib.suppress(ProcessLookupError):
            os.kill(worker.pid if victim == "worker" else fork_server, signal.SIGKILL)
        await eventually(lambda: not any(is_alive(pid, born) for pid, born in found.items()), 60)
        await asyncio.to_thread(worker.popen.wait, 45)
