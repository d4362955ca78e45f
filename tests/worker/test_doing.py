"""What executors do is to be seen in Redis: written with the sign of life, when it has changed."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import orjson
import pytest

from dragon.connections import Redis
from dragon.keys import new_key
from dragon.store import names, workers
from dragon.store.workers import ExecutorPicture, TaskPicture, WorkerFacts, WorkerPicture
from tests.integration.test_rq_contract import start_rq_worker
from tests.system import SECRET, System, eventually

OwnSystem = Callable[..., System]
STARTED = "2026-11-01T12:00:00.000000+00:00"
FACTS = WorkerFacts("w", ("high", "default"), ("hello", "countdown"), 7, "host", "3", "3.11", 2, 50, STARTED)


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    connection = Redis(redis_url, 5)
    yield connection
    await connection.close()


async def test_a_worker_is_seen_with_what_it_has_said(redis: Redis) -> None:
    await workers.register(redis, FACTS, 60)
    key = new_key()
    task = {"key": key, "name": "hello", "started": STARTED}
    doing = [{"pid": 8, "kind": "def", "tasks": [task]}, {"pid": 9, "kind": "async", "tasks": [], "more": 3}]
    await workers.renew(redis, "w", 30, "busy", orjson.dumps(doing))
    (seen,) = await workers.doing(redis)
    assert 15 < seen.lease < 31  # whoever looks may be late
    executors = (ExecutorPicture(8, "def", (TaskPicture(key, "hello", STARTED),)), ExecutorPicture(9, "async", (), 3))
    facts = ("w", "dragon", "host", 7, ("high", "default"), frozenset({"hello", "countdown"}))
    assert seen == WorkerPicture(*facts, executors, 2, 50, STARTED, seen.lease)  # type: ignore[arg-type]
    await workers.renew(redis, "w", 30, "busy")
    assert (await workers.doing(redis))[0].executors == executors, "nothing new was said"
    await workers.unregister(redis, "w")
    assert await workers.doing(redis) == []


async def test_workers_whose_lease_is_over_and_work_horses_are_not_seen(redis: Redis) -> None:
    await workers.register(redis, FACTS, -10)
    await redis.command("ZADD", names.WORKERS, "inf", "rq-horse")
    assert await workers.doing(redis) == []


@pytest.mark.parametrize("damage", [b"{", b"5", b'[{"pid": 1}]', b'[{"pid": "x", "kind": "def", "tasks": []}]', b"[7]"])
async def test_what_a_stranger_has_written_is_nothing(redis: Redis, damage: bytes) -> None:
    await workers.register(redis, FACTS, 60)
    await redis.command("HSET", names.WORKER + "w", "doing", damage, "executors", "many", "pid", "-1")
    (seen,) = await workers.doing(redis)
    assert (seen.executors, seen.places, seen.pid) == ((), 0, 0)


async def test_each_executor_shows_the_task_that_it_has(own_system: OwnSystem) -> None:
    system = own_system(worker__heartbeat=0.1, worker__lease=60)  # seen, however late a sign of life is
    system.start_server()
    worker = system.start_worker("--executors", "2")
    redis = Redis(system.config.redis.url, 5)
    try:
        async with system.client() as client:
            sleeping = (await client.create({"task_name": "test.sleep", "seconds": 50}))[0]["key"]
            waiting = [s["key"] for s in await client.create(*[{"task_name": "test.async_sleep", "seconds": 50}] * 3)]

            async def look() -> dict[str, list[set[str]]]:
                (seen,) = await workers.doing(redis)
                found: dict[str, list[set[str]]] = {"def": [], "async": []}
                for executor in seen.executors:
                    found[executor.kind].append({task.key for task in executor.tasks})
                return {kind: sorted(some, key=len) for kind, some in found.items()}

            async def shows(expected: dict[str, list[set[str]]]) -> bool:
                return await look() == expected

            await eventually(lambda: shows({"def": [set(), {sleeping}], "async": [set(waiting)]}), 45)
            (seen,) = await workers.doing(redis)
            assert (seen.kind, seen.pid, seen.places, seen.concurrency) == ("dragon", worker.pid, 2, 100)
            assert (seen.hostname, seen.queues) == (os.uname().nodename, ("high", "default", "low"))
            (task,) = next(one.tasks for one in seen.executors if one.kind == "def" and one.tasks)
            status = (await client.status(sleeping))[0]
            assert task == TaskPicture(sleeping, "test.sleep", status["events"]["started"])
            for key in (sleeping, *waiting):
                async with client.session.delete(f"/v1/tasks/{key}", headers=SECRET) as answer:
                    assert answer.status == 200
            await eventually(lambda: shows({"def": [set(), set()], "async": [set()]}), 45)
    finally:
        await redis.close()


async def test_what_has_not_changed_is_not_written_again(own_system: OwnSystem) -> None:
    system = own_system(worker__heartbeat=0.05, worker__lease=60)
    system.start_worker("--executors", "1")
    redis = Redis(system.config.redis.url, 5)
    try:
        (worker,) = await eventually(lambda: _with_executors(redis), 45)
        await redis.command("HSET", names.WORKER + worker.id, "doing", "[]")
        lease = worker.lease
        for _ in range(5):  # signs of life

            async def another(before: float) -> float | None:
                now = (await workers.doing(redis))[0].lease
                return now if now != before else None

            lease = await eventually(lambda before=lease: another(before))  # type: ignore[misc]
        assert (await workers.doing(redis))[0].executors == ()
    finally:
        await redis.close()


async def _with_executors(redis: Redis) -> list[WorkerPicture] | None:
    found = await workers.doing(redis)
    return found if found and len(found[0].executors) == 2 else None


@pytest.mark.timeout(150)
async def test_rqs_own_worker_is_seen_with_its_job(own_system: OwnSystem, tmp_path: Path) -> None:
    system = own_system()
    system.start_server()
    redis = Redis(system.config.redis.url, 5)
    try:
        async with system.client() as client:
            rq_worker = start_rq_worker(system, "default")
            gate = tmp_path / "gate"  # it is at work for as long as it takes to look
            key = (await client.create({"task_name": "test.say", "texts": [], "gate": str(gate)}))[0]["key"]
            await client.wait_for_status(key, "executing", 45)
            (seen,) = await workers.doing(redis)
            assert (seen.kind, seen.pid, seen.queues) == ("rq", rq_worker.pid, ("default",))
            assert [(task.key, task.name) for task in seen.executors[0].tasks] == [(key, "test.say")]
            gate.touch()
            await client.wait_for_status(key, "success", 45)
            await asyncio.to_thread(rq_worker.terminate, 45)
        assert await workers.doing(redis) == []
    finally:
        await redis.close()
