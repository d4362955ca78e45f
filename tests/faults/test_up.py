"""`dragon up` as a whole: kill -9 of the supervisor leaves nothing running and loses nothing."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from pathlib import Path
from typing import Any

import pytest

from dragon.config import Config
from dragon.processes import children_of
from tests.auditing import assert_sound
from tests.figures import FULL, note, scale, seeded
from tests.following import Crowd
from tests.system import Client, Process, System, eventually, test_config
from tests.waiting import is_alive, wait_until

_families: dict[Path, set[int]] = {}  # by data folder: the supervisors, and what was seen below them


def processes_of(data: Path) -> list[int]:
    """Every living process that was once seen below a supervisor of that data folder, or whose command names it.

    Their environment, which names it too, is closed to everybody but root (dragon.processes.keep_private).
    """
    family = _families[data]
    waiting = list(family)
    while waiting:
        below = set(children_of(waiting.pop())) - family
        family |= below
        waiting += below
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if f"{data}/".encode() in (folder / "cmdline").read_bytes():
                family.add(int(folder.name))
    return [pid for pid in family if pid != os.getpid() and is_alive(pid)]


async def _all_gone(data: Path) -> None:
    """The last of them may still be dying when the supervisor, whose end takes them along, has gone."""
    await asyncio.to_thread(wait_until, lambda: not processes_of(data), 20, "all processes to be gone")


def up(config: Config) -> tuple[System, Process]:
    system = System(config)
    supervisor = system.start("-m", "dragon", "up", ready="is ready at")
    _families.setdefault(config.data_dir, set()).add(supervisor.pid)
    return system, supervisor


@pytest.mark.timeout(300)
async def test_a_killed_supervisor_leaves_nothing_running_and_loses_nothing(tmp_path: Path) -> None:
    config = test_config(tmp_path / "data", "", worker__stop_grace=1)
    system, supervisor = up(config)
    async with system.client() as client:
        gate = tmp_path / "gate"  # they are at work until all is dead
        statuses = await client.create(*[{"task_name": "test.say", "texts": [], "gate": str(gate)}] * 8)
        await client.wait_for_status(statuses[0]["key"], "executing", 45)
        assert len(processes_of(config.data_dir)) >= 5
        supervisor.kill()
    await asyncio.to_thread(wait_until, lambda: not processes_of(config.data_dir), 60, "all processes to be gone")
    gate.touch()
    system, supervisor = up(config)
    try:
        async with system.client() as client:
            final = await client.status(*[status["key"] for status in statuses], block=True)
            assert [status["status"] for status in final] == ["success"] * 8
    finally:
        assert supervisor.terminate(90) == 0
    await _all_gone(config.data_dir)


@pytest.mark.timeout(400)
async def test_each_child_that_is_killed_comes_back(tmp_path: Path) -> None:
    config = test_config(tmp_path / "data", "")
    system, supervisor = up(config)
    try:
        for name in ("worker", "dragon.worker.forkserver", "server", "dragon.embedded", "valkey-server"):
            victims = await eventually(
                lambda name=name: [pid for pid in processes_of(config.data_dir) if _is(pid, name)], 60
            )
            for pid in victims:
                with contextlib.suppress(ProcessLookupError):  # one of several takes the others with it
                    os.kill(pid, 9)
            await eventually(lambda victims=victims: not set(victims) & set(processes_of(config.data_dir)), 45)
            async with system.client() as client:
                await eventually(lambda client=client: _works(client), 60)
        assert "this worker cannot go on and leaves: the fork server is gone" in supervisor.output
        assert "dragon: worker has ended (exit code 1), starting it again" in supervisor.output
    finally:
        assert supervisor.terminate(90) == 0


@pytest.mark.timeout(300)
async def test_sigterm_ends_all_of_it_within_ten_seconds_and_loses_nothing(tmp_path: Path) -> None:
    chance = seeded()
    count = scale(200, 50)
    config = test_config(tmp_path / "data", "", **({} if FULL else {"worker__stop_grace": 1}))
    system, supervisor = up(config)

    def definitions() -> list[dict[str, Any]]:
        return [{"task_name": "test.async_sleep", "seconds": chance.uniform(0.3, 3)}]

    async with system.client() as client:
        crowd = Crowd(client)
        await crowd.open(count, definitions)
        gate = tmp_path / "gate"  # longer than the grace
        await crowd.open(2, lambda: [{"task_name": "test.say", "texts": [], "gate": str(gate)}])
        await client.wait_for_status(crowd.streams[-1].keys[0], "executing", 45)
        began = time.monotonic()
        assert await asyncio.to_thread(supervisor.terminate, 90) == 0
        seconds = time.monotonic() - began
        gate.touch()
        await crowd.end()
    assert all(stream.complete for stream in crowd.streams), "a stream was cut instead of ended"
    await _all_gone(config.data_dir)
    system, supervisor = up(config)
    try:
        async with system.client() as client:
            finals = await client.status(*crowd.keys, block=True)
            assert {status["status"] for status in finals} == {"success"}
        await assert_sound(config)
    finally:
        assert supervisor.terminate(90) == 0
    found = f"all of it out in {seconds:.1f} s; whole bodies, 0 of {len(crowd.keys)} tasks lost"
    note("11", f"SIGTERM to `dragon up`, {count} streams", found, chance)
    assert seconds < scale(10, 45), found


def _is(pid: int, name: str) -> bool:
    with contextlib.suppress(OSError):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
        if name == "valkey-server":
            return name in words[0]
        return (words[1:3] == ["-m", "dragon"] and words[3] == name) or words[1:3] == ["-m", name]
    return False


async def _works(client: Client) -> bool:
    import aiohttp

    with contextlib.suppress(aiohttp.ClientError, AssertionError, asyncio.TimeoutError):
        status = (await client.create({"task_name": "hello"}, block=True, timeout=2))[0]
        return bool(status["status"] == "success")
    return False
