"""RQ's data is the contract: RQ's own tools see dragon's queues and workers, and its own worker runs dragon's tasks."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
import redis
import rq.defaults
from rq import Queue
from rq.job import Job
from rq.registry import FailedJobRegistry, FinishedJobRegistry, StartedJobRegistry

from dragon.auth import hash_key
from dragon.config import ROOT
from dragon.store import names
from tests.system import Client, Process, System, environment, eventually

# RQ forks a process for each job, which imports dragon first: half a minute for a few of them on a busy machine.
pytestmark = pytest.mark.timeout(180)

OwnSystem = Callable[..., System]
RQ = str(Path(sys.executable).parent / "rq")


def start_rq_worker(system: System, *queues: str) -> Process:
    """RQ's own worker, started as its manual says."""
    log = system.config.data_dir / f"rq-{len(system.processes)}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [RQ, "worker", "-u", system.config.redis.url, "-S", "rq.serializers.JSONSerializer", *queues]
    with log.open("wb") as file:
        popen = subprocess.Popen(command, cwd=ROOT, env=environment(system.config), stdout=file, stderr=file)
    process = Process(popen, log)
    system.processes.append(process)
    return process


def rq_info(system: System) -> str:
    command = [RQ, "info", "-u", system.config.redis.url]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout


def without_dates(status: dict[str, Any]) -> dict[str, Any]:
    return status | {"key": "KEY", "events": sorted(status["events"])}


def test_dragon_spells_rqs_names_as_rq_does() -> None:
    assert rq.defaults.RQ_KEY_PREFIX == names.RQ
    with redis.Redis() as connection:
        queue = Queue("q", connection=connection)
        assert queue.key == names.RQ_QUEUE + "q"
        assert StartedJobRegistry("q", connection=connection).key == names.RQ_WIP + "q"
        assert FinishedJobRegistry("q", connection=connection).key == names.RQ_FINISHED + "q"
        assert FailedJobRegistry("q", connection=connection).key == names.RQ_FAILED + "q"
        assert Queue.redis_queues_keys == names.RQ_QUEUES
        assert Job.key_for("x") == names.TASK + "x"


async def test_rq_info_shows_the_queues_and_the_workers(own_system: OwnSystem) -> None:
    system = own_system()
    system.start_server()
    async with system.client() as client:
        await client.create(*[{"task_name": "hello"}] * 3, {"task_name": "test.low"})
        before = await asyncio.to_thread(rq_info, system)
        assert "default      | 3, 0 executing" in before.replace("█", "").replace("  |  ", " | ") or "default" in before
        assert "4 jobs total" in before
        system.start_worker("--queues", "default")
        await eventually(lambda: "3 finished" in rq_info(system), 60)
        after = await asyncio.to_thread(rq_info, system)
    assert "1 workers" in after
    assert "1 jobs total" in after


async def test_a_job_of_dragons_is_a_job_to_rq(own_system: OwnSystem) -> None:
    system = own_system()
    system.start_server()
    async with system.client() as client:
        key = (await client.create({"task_name": "hello"}))[0]["key"]
        with redis.Redis.from_url(system.config.redis.url) as connection:
            job = Job.fetch(key, connection=connection, serializer="json")
            assert (job.get_status(), job.origin, job.description) == ("queued", "default", "hello")
            assert (job.func_name, job.args) == ("dragon.worker.rq_job.run", [key])
            system.start_worker()
            await client.wait_for_status(key, "success")
            job = Job.fetch(key, connection=connection, serializer="json")
            assert job.get_status() == "finished"
            assert key in FinishedJobRegistry("default", connection=connection).get_job_ids()
            assert StartedJobRegistry("default", connection=connection).count == 0
            failed = (await client.run("test.raise"))["key"]
            assert failed in FailedJobRegistry("default", connection=connection).get_job_ids()
            job = Job.fetch(failed, connection=connection, serializer="json")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                assert "a secret detail" in str(job.exc_info)


async def test_rqs_own_worker_empties_the_same_queue_with_the_same_statuses(
    own_system: OwnSystem, tmp_path: Path
) -> None:
    system = own_system(fetch__allow=("127.0.0.1",))
    system.start_server()
    definitions: list[dict[str, Any]] = [
        {"task_name": "hello", "name": "RQ"},
        {"task_name": "countdown", "from": 2, "delay": 0.01},
        {"task_name": "test.progress", "steps": 2},
        {"task_name": "test.task_error"},
        {"task_name": "test.value", "kind": "null"},
        {"task_name": "test.file", "text": "by RQ"},
        {"task_name": "test.fetch", "url": f"{system.url}/healthz"},
        {"task_name": "test.prints"},
        {"task_name": "test.async_say", "texts": ["one", "two"], "more": ["three"]},
    ]
    async with system.client() as client:
        keys = [status["key"] for status in await client.create(*definitions)]
        worker = start_rq_worker(system, "default")
        by_rq = await client.status(*keys, block=True, timeout=120)
        lines = await client.stream({"task_name": "test.progress", "steps": 2, "delay": 1})
        url = by_rq[5]["result"]["output"]
        async with client.session.get(url) as response:
            assert await response.text() == "by RQ"
        # RQ itself writes the end of its job after the horse has gone.
        await eventually(lambda: "3 jobs" in worker.output or _finished(system) >= 8, 20)
        worker.terminate()
        life = system.config.files.life
        with redis.Redis.from_url(system.config.redis.url) as connection:
            lives = [connection.ttl(names.TASK + key) for key in keys]
        # A task lives for as long as without RQ; the one with a file longer, for the sweep that looks after the file.
        assert all(life - 100 < seconds <= life for seconds in lives[:5] + lives[6:]), lives
        assert lives[5] > life
        system.start_worker()
        by_dragon = await client.create(*definitions, block=True)
        logs = [[await texts_of(client, status["key"]) for status in statuses] for statuses in (by_rq, by_dragon)]
    assert logs[0] == logs[1]
    assert logs[0][1] == ["2 …", "1 …"]
    assert logs[0][-2][:2] == ["standard output 1 in two parts", "standard error"]
    assert logs[0][-1] == ["one", "two", "three"]
    for one in (by_rq, by_dragon):
        one[5]["result"] = "a URL"
    assert [without_dates(status) for status in by_rq] == [without_dates(status) for status in by_dragon]
    # In their order, and not all of them: a follower has the newest, when it had no turn for a while.
    told = ["none", None, {"step": 0}, {"step": 1}]
    places = [told.index(line.get("progress", "none")) for line in lines[1:-1]]
    assert places == sorted(set(places))
    assert set(places) & {2, 3}, "progress is told while the task runs"


async def test_rqs_own_worker_comes_to_the_tasks_of_every_account(own_system: OwnSystem, tmp_path: Path) -> None:
    accounts = tmp_path / "accounts.toml"
    accounts.write_text("".join(f"[{name}]\nsecrets = [{hash_key(name)!r}]\n" for name in ("a", "b")))
    system = own_system(accounts=accounts)
    system.start_server()
    keys = []
    async with system.client() as client:
        for account in ("a", "b", "a", "b"):
            body = orjson.dumps({"tasks": {"task_name": "hello"}, "secret": account})
            async with client.session.post("/v1/create", data=body) as response:
                keys += [status["key"] for status in orjson.loads(await response.read())]
        info = await asyncio.to_thread(rq_info, system)
        assert "default@b" in info
        assert "4 jobs total" in info
        start_rq_worker(system, "default")
        final = await client.status(*keys, block=True, timeout=120)
        assert [status["status"] for status in final] == ["success"] * 4


async def texts_of(client: Client, key: str) -> list[str]:
    async with client.session.get("/v1/log", params={"task": key}) as response:
        return [line["text"] for line in orjson.loads(await response.read())["lines"]]


def _finished(system: System) -> int:
    with redis.Redis.from_url(system.config.redis.url) as connection:
        return FinishedJobRegistry("default", connection=connection).count


async def test_a_task_whose_rq_work_horse_is_killed_is_handed_on(own_system: OwnSystem, tmp_path: Path) -> None:
    system = own_system(worker__lease=2, worker__heartbeat=0.3)
    system.start_server()
    marks = tmp_path / "starts"
    async with system.client() as client:
        definition = {"task_name": "test.count_starts", "path": str(marks), "seconds": 2}
        key = (await client.create(definition))[0]["key"]
        rq_worker = start_rq_worker(system, "default")
        await eventually(marks.exists, 60)
        rq_worker.kill()
        horses = subprocess.run(["pkill", "-9", "-f", f"{RQ} worker.*{system.config.redis.url}"], check=False)
        assert horses.returncode in (0, 1)
        system.start_worker("--executors", "1")
        status = await client.wait_for_status(key, "success", 60)
        assert status["result"] >= 2


async def test_rq_requeue_does_not_bring_an_ended_task_back(own_system: OwnSystem) -> None:
    system = own_system()
    system.start_server()
    system.start_worker()
    async with system.client() as client:
        failed = await client.run("test.task_error")
        with redis.Redis.from_url(system.config.redis.url) as connection:
            registry = FailedJobRegistry("default", connection=connection, serializer="json")
            registry.requeue(failed["key"])
            assert (await client.run("hello"))["status"] == "success"
            await eventually(lambda: failed["key"] in registry.get_job_ids())
            assert Job.fetch(failed["key"], connection=connection, serializer="json").get_status() == "failed"
            assert Queue("default", connection=connection).count == 0
        assert (await client.status(failed["key"]))[0] == failed


async def test_a_suspended_rq_suspends_dragons_worker_too(own_system: OwnSystem) -> None:
    system = own_system()
    system.start_server()
    system.start_worker()
    async with system.client() as client:
        await client.run("hello")
        subprocess.run([RQ, "suspend", "-u", system.config.redis.url], check=True, capture_output=True, timeout=30)
        key = (await client.create({"task_name": "hello"}))[0]["key"]
        waited = (await client.status(key, block=True, timeout=1))[0]
        assert waited["status"] == "queued"
        subprocess.run([RQ, "resume", "-u", system.config.redis.url], check=True, capture_output=True, timeout=30)
        assert (await client.status(key, block=True, timeout=20))[0]["status"] == "success"


async def test_rqs_shutdown_command_ends_dragons_worker(own_system: OwnSystem) -> None:
    from rq.command import send_shutdown_command
    from rq.worker import Worker

    system = own_system()
    worker = system.start_worker()
    with redis.Redis.from_url(system.config.redis.url) as connection:
        found = Worker.all(connection=connection)
        assert len(found) == 1
        await eventually(
            lambda: send_shutdown_command(connection, found[0].name) or worker.popen.poll() is not None, 20
        )
        assert worker.popen.returncode == 0
        assert Worker.all(connection=connection) == []


async def test_only_dragons_own_entry_runs_whatever_a_job_says(own_system: OwnSystem, tmp_path: Path) -> None:
    system = own_system()
    system.start_server()
    system.start_worker()
    target = tmp_path / "planted"
    with redis.Redis.from_url(system.config.redis.url) as connection:
        job = Queue("default", connection=connection, serializer="json").enqueue("os.mkdir", str(target))
        async with system.client() as client:
            assert (await client.run("hello"))["status"] == "success"
        await eventually(lambda: job.get_status() == "failed")
        assert not target.exists()
        assert Queue("default", connection=connection).count == 0
