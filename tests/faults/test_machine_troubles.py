"""Disks that are full, folders that are gone, clocks that are wrong: clear errors, nothing lost, and work goes on."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
import redis

from dragon.config import Config
from dragon.embedded import EmbeddedRedis, find_server
from tests.auditing import assert_sound
from tests.faults import failpoints
from tests.faults.failpoints import Child, Nursery
from tests.faults.lanes import Lane, Stream
from tests.figures import note, scale
from tests.system import MODULES, eventually, test_config

HOUR = 3600.0
SMALL = 2 << 20  # bytes of a disk that is easily filled
TASKS = scale(200, 20)
LEASE = scale(1, 6)  # seconds: in the short form longer than a worker may stall, whose lease would be over rightly


@pytest.fixture
def folder() -> Iterator[Path]:
    """Short enough for sockets."""
    made = Path(tempfile.mkdtemp(prefix="dragon-test-"))
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture
def closing() -> Iterator[contextlib.ExitStack]:
    """Contexts that end with the test."""
    with contextlib.ExitStack() as stack:
        yield stack


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[bool]:
    """Makes the folder a disk of SMALL bytes, where we may; tells whether it is one. It has to be empty."""
    folder.mkdir(parents=True, exist_ok=True)
    if os.geteuid() != 0:
        yield False
        return
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SMALL}", "tmpfs", folder], check=True)
    try:
        yield True
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def fill(disk: Path) -> Path:
    """Writes until there is no room left; returns the file to remove."""
    filler = disk / "filler"
    descriptor = os.open(filler, os.O_CREAT | os.O_WRONLY)
    try:
        while True:
            os.write(descriptor, b"x" * 4096)
    except OSError as error:
        assert error.errno == errno.ENOSPC
    finally:
        os.close(descriptor)
    return filler


def settings(**more: Any) -> dict[str, Any]:
    return {"tasks__modules": (*MODULES, *failpoints.MODULES)} | more


async def create(session: aiohttp.ClientSession, definition: dict[str, Any]) -> dict[str, Any]:
    """Runs one task; its final status."""
    async with session.post("/v1/create", data=orjson.dumps({"tasks": definition, "block": True})) as response:
        assert response.status == 200, await response.text()
        status: dict[str, Any] = (await response.json())[0]
        return status


@contextlib.asynccontextmanager
async def system(lane: Lane, **worker: Any) -> AsyncIterator[tuple[aiohttp.ClientSession, Child]]:
    """A server and a worker of one executor."""
    with lane.closing():
        running = [await lane.start("server"), await lane.start("worker", "--executors", "1", **worker)]
        async with lane.session() as session:
            yield session, running[1]
        assert all(child.is_alive for child in running), "a process has ended"
        await lane.end(*running)


def remove(folder: Path) -> None:
    """Removes a folder in which others remove things too."""
    while folder.exists():
        shutil.rmtree(folder, ignore_errors=True)


FILE = {"task_name": "step.file", "seconds": 0, "size": 200_000}


async def test_a_full_disk_for_output_files_is_an_error_that_says_so_and_the_next_task_is_stored(
    nursery: Nursery, redis_url: str, folder: Path
) -> None:
    lane = Lane(test_config(folder, redis_url, **settings()), nursery)
    with small_disk(folder / "files") as is_small:
        filler = fill(folder / "files") if is_small else None
        # Who may not mount gets the error of a full disk from the function that copies the second file.
        async with system(lane, steps="" if is_small else "worker.files.full:2") as (session, worker):
            status = await create(session, FILE)
            assert (status["status"], status["result"]) == (
                "error",
                "the output files cannot be stored: No space left on device",
            )
            assert "see to the folder that the setting files.url names" in worker.output
            if filler is not None:
                assert [path for path in (folder / "files").rglob("*") if path != filler] == [], "it left something"
                filler.unlink()
            assert (await create(session, FILE))["status"] == "success"
            await eventually(lambda: not list((folder / "scratch").glob("*/*.*.*")), 45)
        await assert_sound(lane.config)


async def test_a_full_disk_for_scratch_is_an_error_that_says_so(nursery: Nursery, redis_url: str, folder: Path) -> None:
    lane = Lane(test_config(folder, redis_url, **settings()), nursery)
    with small_disk(folder / "scratch") as is_small:
        async with system(lane, steps="" if is_small else "executor.full:2") as (session, worker):
            filler = fill(folder / "scratch") if is_small else None
            status = await create(session, FILE)
            assert status["status"] == "error"
            assert status["result"].startswith("the task could not write its files: No space left on device, reference")
            assert "No space left on device" in worker.output
            if filler is not None:
                filler.unlink()
            assert (await create(session, FILE))["status"] == "success"
        await assert_sound(lane.config)


def replace(folder: Path) -> None:
    """Puts a file where a folder was; whoever needs the folder may make it again in between."""
    while not folder.is_file():
        remove(folder)
        with contextlib.suppress(OSError):
            folder.write_text("no folder")


async def test_folders_that_are_removed_or_replaced_while_the_worker_runs(
    nursery: Nursery, redis_url: str, folder: Path
) -> None:
    lane = Lane(test_config(folder, redis_url, **settings(files__sweep_interval=0.1)), nursery)
    files, scratch = folder / "files", folder / "scratch"
    async with system(lane) as (session, worker):
        assert (await create(session, FILE))["status"] == "success"
        for gone in (files, scratch):
            remove(gone)
            await asyncio.sleep(0.3)  # several sweeps find nothing
            assert (await create(session, FILE))["status"] == "success", "a folder that is gone is made again"
        replace(files)
        status = await create(session, FILE)
        assert (status["status"], status["result"]) == (
            "error",
            "the output files cannot be stored: Not a directory",
        )
        assert "see to the folder that the setting files.url names" in worker.output
        assert (await create(session, {"task_name": "hello"}))["status"] == "success"
        files.unlink()
        assert (await create(session, FILE))["status"] == "success"

        (own,) = scratch.iterdir()
        replace(own)
        status = await create(session, FILE)
        assert status["result"].startswith("the task's scratch folder cannot be made: Not a directory, reference")
        own.unlink()
        status = await create(session, FILE)
        assert status["status"] == "success"
        # What was removed is gone for good; what was stored since is served.
        async with session.get(status["result"]["first"]) as response:
            assert await response.text() == "1" * FILE["size"]  # type: ignore[operator]


@contextlib.contextmanager
def refusing_writes(disk: Path, url: str, *, is_small: bool) -> Iterator[str]:
    """Redis takes no writes: its disk is full or, where we may not mount a small one, it misses a replica."""
    if is_small:
        filler = fill(disk)
        yield "make room on the disk of its append-only file"
        filler.unlink()
        return
    with redis.Redis.from_url(url) as client:
        client.config_set("min-replicas-to-write", 1)
        yield "it has fewer replicas than min-replicas-to-write asks for"
        client.config_set("min-replicas-to-write", 0)


async def test_a_full_disk_under_redis_is_a_503_and_nothing_that_was_accepted_is_lost(
    nursery: Nursery, folder: Path
) -> None:
    disk = folder / "disk"
    with small_disk(disk) as is_small, EmbeddedRedis(find_server(Config()), disk / "r", folder / "s") as server:
        lane = Lane(test_config(folder / "data", server.url, **settings()), nursery)
        async with system(lane) as (session, worker):
            slow = {"task_name": "step.async", "seconds": 1}
            stream = Stream(session, "/v1/create_stream", {"tasks": [slow] * TASKS})
            await stream.head()
            with refusing_writes(disk, server.url, is_small=is_small) as remedy:
                accepted = await create_until_refused(session)
                async with session.post("/v1/status", data=orjson.dumps({"tasks": stream.keys})) as response:
                    assert response.status == 200, "what is stored can be read"
                # Tasks end meanwhile, and their worker keeps what it cannot write; its operator is told what to do.
                await asyncio.sleep(1.5)
                await eventually(lambda: remedy in worker.output, 45)
            await stream.over(45)
            assert {status["status"] for status in stream.check()} == {"success"}
            body = {"tasks": [*accepted, *stream.keys], "block": True}
            async with session.post("/v1/status", data=orjson.dumps(body)) as response:
                assert {status["status"] for status in await response.json()} == {"success"}
        await assert_sound(lane.config)
        note(
            "13",
            f"the disk under Redis full, {TASKS} tasks at work",
            f"503 until there is room, then all {TASKS + len(accepted)} accepted tasks end, no restart",
        )


async def create_until_refused(session: aiohttp.ClientSession) -> list[str]:
    """Creates tasks until five creates were answered 503; the keys of those that were not."""
    accepted: list[str] = []
    refused = 0
    data = orjson.dumps({"tasks": {"task_name": "test.echo", "text": "x" * 1000}})
    async with asyncio.timeout(45):
        while refused < 5:
            async with session.post("/v1/create", data=data) as response:
                answer = await response.json()
                if response.status == 200:
                    accepted.append(answer[0]["key"])
                    continue
                assert response.status == 503, answer
                assert answer == {"status": "error", "message": "the task store cannot write now, try again"}
                assert response.headers["Retry-After"]
                refused += 1
    return accepted


async def played(session: aiohttp.ClientSession, definitions: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The final statuses of a stream of these tasks."""
    stream = Stream(session, "/v1/create_stream", {"tasks": definitions})
    await stream.head()
    await stream.over(60)
    return stream.check()


@pytest.mark.timeout(300)
async def test_clocks_that_are_an_hour_off_end_all_tasks_and_no_lease(
    nursery: Nursery, redis_url: str, folder: Path, closing: contextlib.ExitStack
) -> None:
    life = 600  # seconds: less than the clocks are apart
    config = test_config(
        folder,
        redis_url,
        **settings(files__life=life, files__sweep_interval=0.1, worker__lease=LEASE, worker__heartbeat=0.2),
    )
    lane = Lane(config, nursery)
    closing.enter_context(lane.closing())
    server = await lane.start("server", clock=-HOUR)
    ahead = await lane.start("worker", "--executors", "1", clock=HOUR)
    behind = await lane.start("worker", "--executors", "1", clock=-HOUR)
    async with lane.session() as session:
        kinds = [{"task_name": name, "seconds": 0.05} for name in ("step.file", "step.def", "step.async")]
        now, finals, days = datetime.now(UTC), [], set[int]()
        for _ in range(20):
            finals += await played(session, kinds * TASKS)
            days = {
                round((datetime.fromisoformat(one["events"]["completed"]) - now).total_seconds() / HOUR)
                for one in finals
            }
            if days == {-1, 1}:
                break
        assert days == {-1, 1}, "both workers have worked, each by its own clock, however late one of them was"
        assert {status["status"] for status in finals} == {"success"}
        for status in finals:
            events = [status["events"][name] for name in ("queued", "started", "completed")]
            assert events == sorted(events), "a task ends before it begins"

        # Several sweeps of a worker whose clock says that the life of all of this is over.
        await asyncio.sleep(1)
        picture = [status for status in finals if isinstance(status["result"], dict)]
        for status in picture:
            async with session.get(status["result"]["second"]) as response:
                assert response.status == 200, "its files were removed an hour early"
        path = "/v1/create_file/first?task_name=step.file"
        async with session.get(path, allow_redirects=False) as response:
            age = int(response.headers["Cache-Control"].rpartition("=")[2])
            assert response.status == 302 and age <= life, "a browser keeps the redirect longer than the file lives"

        # The lease of a dead worker is over when it is over, whatever the clock of the one who looks says.
        gate = lane.gate()  # both are at it, one task each, until one is dead
        waiting = Stream(session, "/v1/create_stream", {"tasks": [{"task_name": "step.def", "gate": str(gate)}] * 2})
        await waiting.head()
        await eventually(lambda: len({one["key"] for one in waiting.lines[1:] if "started" in one["events"]}) == 2, 45)
        behind.kill()
        gate.touch()
        await waiting.over(45)
        assert sorted(status["result"] for status in waiting.check()) == [1, 2]
        for worker in (ahead, behind):
            assert "lease was over" not in worker.output
    await lane.end(server, ahead)
    await assert_sound(config)
    note(
        "13",
        f"a server an hour behind, a worker an hour ahead and one an hour behind, {len(finals)} tasks",
        "all ended, no lease ended early or late, no file was swept early",
    )
