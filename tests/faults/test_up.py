"""`dragon up` as a whole: kill -9 of the supervisor leaves nothing running and loses nothing."""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path

from dragon.config import Config
from dragon.processes import children_of
from tests.system import Client, Process, System, eventually, test_config, wait_until
from tests.waiting import is_alive

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


def up(config: Config) -> tuple[System, Process]:
    system = System(config)
    supervisor = system.start("-m", "dragon", "up", ready="is ready at")
    _families.setdefault(config.data_dir, set()).add(supervisor.pid)
    return system, supervisor


async def test_a_killed_supervisor_leaves_nothing_running_and_loses_nothing(tmp_path: Path) -> None:
    config = test_config(tmp_path / "data", "")
    system, supervisor = up(config)
    async with system.client() as client:
        statuses = await client.create(*[{"task_name": "test.sleep", "seconds": 0.5}] * 8)
        await client.wait_for_status(statuses[0]["key"], "executing")
        assert len(processes_of(config.data_dir)) >= 5
        supervisor.kill()
    await asyncio.to_thread(wait_until, lambda: not processes_of(config.data_dir), 25, "all processes to be gone")
    system, supervisor = up(config)
    try:
        async with system.client() as client:
            final = await client.status(*[status["key"] for status in statuses], block=True)
            assert [status["status"] for status in final] == ["success"] * 8
    finally:
        assert supervisor.terminate(40) == 0
    assert not processes_of(config.data_dir)


async def test_each_child_that_is_killed_comes_back(tmp_path: Path) -> None:
    config = test_config(tmp_path / "data", "")
    system, supervisor = up(config)
    try:
        for name in ("worker", "server", "dragon.embedded", "valkey-server"):
            victims = await eventually(
                lambda name=name: [pid for pid in processes_of(config.data_dir) if _is(pid, name)], 20
            )
            for pid in victims:
                os.kill(pid, 9)
            await eventually(lambda victims=victims: not set(victims) & set(processes_of(config.data_dir)))
            async with system.client() as client:
                await eventually(lambda client=client: _works(client), 30)
    finally:
        assert supervisor.terminate(40) == 0


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
