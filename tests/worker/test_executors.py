"""Executor processes: they end with what they started, hold no secrets, and leave nothing behind."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
import redis

from dragon.connections import Redis
from dragon.store import names, tasks
from dragon.store.tasks import State
from dragon.worker.engine import MOST_STILLBORN
from tests.auditing import assert_sound
from tests.system import MODULES, Client, System, eventually
from tests.waiting import wait_until

pytestmark = pytest.mark.timeout(180)  # of which a busy machine may need more than the usual minute


def is_alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def spawned(client: Client, path: Path, **parameters: object) -> tuple[str, int, int]:
    """Starts a task that starts a process; returns its key, the executor's pid, the process's."""
    status = (await client.create({"task_name": "test.spawn", "path": str(path), **parameters}))[0]
    text = await eventually(lambda: path.exists() and path.read_text(), 45)
    executor, process = (int(pid) for pid in text.split())
    assert is_alive(executor)
    assert is_alive(process)
    return status["key"], executor, process


@pytest.mark.parametrize("detached", [False, True])
async def test_a_cancelled_task_ends_with_the_processes_that_it_started(
    client: Client, tmp_path: Path, detached: bool
) -> None:
    key, executor, process = await spawned(client, tmp_path / "pids", detached=detached)
    async with client.session.delete(f"/v1/tasks/{key}", headers={"Authorization": "Secret 123456"}) as response:
        cancelled = await response.json()
    assert (cancelled["status"], cancelled["result"]) == ("error", "cancelled")
    await eventually(lambda: not is_alive(executor) and not is_alive(process), 45)
    assert (await client.status(key))[0] == cancelled


async def test_a_task_that_was_taken_away_unheard_is_stopped(own_system: object, tmp_path: Path) -> None:
    system: System = own_system(worker__heartbeat=0.2)  # type: ignore[operator]
    system.start_server()
    system.start_worker("--executors", "1")
    async with system.client() as client:
        key, executor, process = await spawned(client, tmp_path / "pids")
        with redis.Redis.from_url(system.config.redis.url) as connection:
            worker = State.read(connection.hget(names.TASK + key, "state")).owner
            # What a cancellation does whose message is lost.
            connection.srem(f"{names.WORKER}{worker}:tasks", key)
        await eventually(lambda: not is_alive(executor) and not is_alive(process), 45)
        assert (await client.run("hello"))["status"] == "success"


async def test_a_task_that_was_reserved_unheard_goes_back_and_runs(own_system: object) -> None:
    system: System = own_system(worker__heartbeat=0.2)  # type: ignore[operator]
    system.start_server()
    system.start_worker("--executors", "1")
    async with system.client() as client:
        store = Redis(system.config.redis.url, 5)
        await store.command("SET", names.RQ_SUSPENDED, "1")
        key = (await client.create({"task_name": "hello"}))[0]["key"]
        (worker,) = await store.command("ZRANGE", names.WORKERS, 0, -1)
        # What a reservation does whose reply is lost.
        assert await tasks.claim(store, key, worker.decode(), 60)
        await store.command("LREM", names.RQ_QUEUE + "default", 1, key)
        await store.command("DEL", names.RQ_SUSPENDED)
        await client.wait_for_status(key, "success", 45)
        await store.close()


async def test_a_killed_worker_takes_its_executors_and_their_processes_along(
    own_system: object, tmp_path: Path
) -> None:
    system: System = own_system()  # type: ignore[operator]
    system.start_server()
    worker = system.start_worker("--executors", "1")
    async with system.client() as client:
        for detached in (False, True):
            _, executor, process = await spawned(client, tmp_path / f"pids{detached}", detached=detached)
            worker.kill()
            await eventually(
                lambda executor=executor, process=process: not (is_alive(executor) or is_alive(process)), 45
            )
            (tmp_path / f"pids{detached}").unlink()
            worker = system.start_worker("--executors", "2")


async def test_a_killed_fork_server_ends_the_worker_and_all_below_it(own_system: object, tmp_path: Path) -> None:
    system: System = own_system()  # type: ignore[operator]
    system.start_server()
    worker = system.start_worker("--executors", "1")
    async with system.client() as client:
        _, executor, process = await spawned(client, tmp_path / "pids")
        fork_server = int(Path(f"/proc/{executor}/stat").read_text().rpartition(")")[2].split()[1])
        os.kill(fork_server, 9)
        await eventually(lambda: not is_alive(executor) and not is_alive(process), 45)
        await asyncio.to_thread(worker.popen.wait, 45)
        assert "the fork server is gone" in worker.output
        assert worker.popen.returncode == 1, "whoever supervises it sees that it did not end of its own will"


async def test_a_worker_whose_executors_cannot_live_says_so_and_leaves_and_no_task_pays_for_it(
    own_system: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flag = tmp_path / "dying"
    flag.touch()
    monkeypatch.setenv("DYING", str(flag))
    system: System = own_system(tasks__modules=(*MODULES, "tests.dying_tasks"))  # type: ignore[operator]
    system.start_server()
    async with system.client() as client:
        key = (await client.create({"task_name": "test.once"}))[0]["key"]
        worker = system.start_worker("--executors", "2", "--concurrency", "0")
        assert await asyncio.to_thread(worker.popen.wait, 45) == 1
        found = "executors in a row have ended before they were ready (exit code 9)"
        assert f"this worker cannot go on and leaves: {MOST_STILLBORN} {found}" in worker.output
        started = worker.output.count("an executor has ended before it was ready")
        assert MOST_STILLBORN <= started <= MOST_STILLBORN + 1, "it did not go on and on"
        assert (await client.status(key))[0]["status"] in ("queued", "executing")
        flag.unlink()
        system.start_worker("--executors", "1")
        status = await client.wait_for_status(key, "success", 45)
        assert status["result"] == 1, "its only attempt was not spent on an executor that never was ready"
    await assert_sound(system.config)


async def test_executors_hold_no_credentials(client: Client) -> None:
    names = (await client.run("test.environment"))["result"]
    assert "PATH" in names
    assert not [name for name in names if "REDIS" in name or "SECRET" in name or "ACCOUNTS" in name]


async def test_executors_are_forked_with_what_their_tasks_preload(client: Client) -> None:
    assert (await client.run("test.preloaded"))["result"] is True


async def test_scratch_folders_are_removed(client: Client) -> None:
    status = await client.run("test.scratch")
    folder = Path(status["result"])
    await eventually(lambda: not folder.exists(), 45)


async def test_a_new_worker_removes_the_scratch_folders_of_dead_ones(own_system: object, tmp_path: Path) -> None:
    system: System = own_system()  # type: ignore[operator]
    worker = system.start_worker()
    folders = list(system.config.scratch_dir.iterdir())
    assert len(folders) == 1
    worker.kill()
    second = system.start_worker()
    wait_until(lambda: not folders[0].exists(), 45)
    assert second.popen.poll() is None


async def test_a_download_is_refused_by_the_guard_and_allowed_by_the_setting(own_system: object) -> None:
    system: System = own_system(fetch__allow=())  # type: ignore[operator]
    system.start_server()
    system.start_worker()
    url = f"{system.url}/healthz"
    async with system.client() as client:
        refused = await client.run("test.fetch", url=url)
        assert refused["status"] == "error"
        assert refused["result"] == f"File '{url}' cannot be fetched: its address is not allowed"
        sample = await client.run("test.fetch", url=f"{system.url}/static/sample.jpg")
        assert (sample["status"], sample["result"] > 100_000) == ("success", True)


async def test_async_tasks_download_several_at_a_time(client: Client, system: System) -> None:
    urls = [f"{system.url}/healthz", f"{system.url}/readyz", f"{system.url}/healthz?2"]
    status = await client.run("test.async_fetch", urls=urls)
    assert status["status"] == "success", status
    assert len(status["result"]) == 3


async def test_async_tasks_run_many_at_a_time_in_one_executor(client: Client, tmp_path: Path) -> None:
    gate = tmp_path / "gate"  # none of them ends before all have started
    made = await client.create(*[{"task_name": "test.async_say", "texts": [], "gate": str(gate)}] * 20)
    keys = [status["key"] for status in made]

    async def all_run() -> bool:
        return {status["status"] for status in await client.status(*keys)} == {"executing"}

    try:
        await eventually(all_run, 45)
    finally:
        gate.touch()
    assert {status["status"] for status in await client.status(*keys, block=True)} == {"success"}
