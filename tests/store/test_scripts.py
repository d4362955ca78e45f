"""The scripts: fences, counters, idempotence; each called as the code calls it, on a real Redis."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import orjson
import pytest

from dragon.config import Config
from dragon.connections import Redis
from dragon.embedded import EmbeddedRedis, find_server
from dragon.errors import Unavailable
from dragon.keys import new_key
from dragon.status import ERROR, SUCCESS, Status, parse_line, timestamp
from dragon.store import names, tasks, workers
from dragon.store.tasks import LimitReached, Line, NewTask, Reserved, Usage, Write
from dragon.store.workers import WorkerFacts

UNLIMITED = Usage()
LIFE = 100


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    connection = Redis(redis_url, 5)
    yield connection
    await connection.close()


def new_task(name: str = "hello", queue: str = "default", reuse: str = "", max_attempts: int = 3) -> NewTask:
    status = Status("queued", new_key(), timestamp())
    return NewTask(status.key, status.line(), False, name, b"{}", b"", queue, max_attempts, 60, reuse)


async def create(redis: Redis, *new: NewTask, account: str = "a", usage: Usage = UNLIMITED, **more: str) -> list[Line]:
    created = await tasks.create(redis, account, new, usage, life=LIFE, **more)  # type: ignore[arg-type]
    assert isinstance(created, list), created
    return created


async def register(redis: Redis, worker: str, lease: float = 60) -> None:
    await workers.register(redis, WorkerFacts(worker, ("default",), ("hello",), 1, "host", "3", "3.11"), lease)


async def reserve(redis: Redis, worker: str, places: int = 10) -> list[Reserved]:
    reservation = await tasks.reserve(
        redis, worker, ("default",), sync_places=places, async_places=0, ahead=0, known=[("hello", False, None)]
    )
    return reservation.tasks


def final(reserved: Reserved, result: bytes = b"1") -> Write:
    line = parse_line(reserved.line).ended(SUCCESS, result, timestamp()).line()
    return Write(reserved.key, reserved.attempt, "success", line)


async def usage_of(redis: Redis, account: str = "a") -> tuple[int, int]:
    queued, size = await redis.command("HMGET", names.ACCOUNT + account, "queued", "bytes")
    return int(queued or 0), int(size or 0)


async def test_a_creation_that_is_sent_twice_creates_and_counts_once(redis: Redis) -> None:
    new = [new_task(), new_task()]
    assert await create(redis, *new) == await create(redis, *new)
    assert await redis.command("LLEN", names.RQ_QUEUE + "default") == 2
    assert await usage_of(redis) == (2, 0)


async def test_a_redis_that_hung_does_not_create_what_was_answered_with_503(tmp_path: Path) -> None:
    with EmbeddedRedis(find_server(Config()), tmp_path / "data", tmp_path / "sock", durable=False) as server:
        impatient, patient = Redis(server.url, 2), Redis(server.url, 20)
        (first,) = await create(impatient, new_task())  # now both the clock and the script are known
        assert await patient.command("PING") == b"PONG"
        os.kill(server.process.pid, signal.SIGSTOP)
        try:
            with pytest.raises(Unavailable):
                await create(impatient, new_task())
            waiting = asyncio.create_task(create(patient, new_task()))
            await asyncio.sleep(0)
        finally:
            os.kill(server.process.pid, signal.SIGCONT)
        (last,) = await waiting
        queued = await patient.command("LRANGE", names.RQ_QUEUE + "default", 0, -1)
        assert [key.decode() for key in queued] == [first.key, last.key]
        for connection in (impatient, patient):
            await connection.close()


async def test_a_limit_refuses_all_tasks_of_a_call_or_none(redis: Redis) -> None:
    usage = Usage(tasks_queued=3)
    await create(redis, new_task(), new_task(), usage=usage)
    answer = await tasks.create(redis, "a", [new_task(), new_task()], usage, life=LIFE)
    assert isinstance(answer, LimitReached)
    assert (answer.limit, answer.value) == ("tasks_queued", 3)
    assert await redis.command("LLEN", names.RQ_QUEUE + "default") == 2
    await create(redis, new_task(), usage=usage)


@pytest.mark.parametrize("usage", [Usage(tasks_queued=3), Usage(tasks_per_minute=3)])
async def test_limits_hold_exactly_when_many_create_at_once(redis: Redis, usage: Usage) -> None:
    """They share one run of the script; the one of two tasks that does not fit is refused whole."""
    answers = await asyncio.gather(
        *(tasks.create(redis, "a", [new_task() for _ in range(count)], usage, life=LIFE) for count in (1, 1, 2, 1, 1)),
        tasks.create(redis, "b", [new_task()], usage, life=LIFE),
    )
    assert [isinstance(answer, LimitReached) for answer in answers] == [False, False, True, False, True, False]
    assert await redis.command("LLEN", names.RQ_QUEUE + "default") == 3
    assert await redis.command("LLEN", names.RQ_QUEUE + "default@b") == 1
    assert await usage_of(redis) == (3, 0)


async def test_the_same_request_twice_at_once_is_one_task(redis: Redis) -> None:
    found = await asyncio.gather(*(create(redis, new_task(reuse="same")) for _ in range(3)))
    assert len({lines[0].key for lines in found}) == 1
    repeated = await asyncio.gather(
        *(create(redis, new_task(), new_task(), idempotency="i", request="r" * 64) for _ in range(3))
    )
    assert repeated[0] == repeated[1] == repeated[2]
    assert await redis.command("LLEN", names.RQ_QUEUE + "default") == 3


async def test_a_status_of_another_attempt_or_owner_is_refused(redis: Redis) -> None:
    await create(redis, new_task())
    await register(redis, "w")
    (reserved,) = await reserve(redis, "w")
    write = final(reserved)
    stale = Write(write.key, write.attempt + 1, "success", write.line)
    assert await tasks.update(redis, "other", [write], life=LIFE) == [False]
    assert await tasks.update(redis, "w", [stale], life=LIFE) == [False]
    assert await tasks.update(redis, "w", [write], life=LIFE) == [True]


async def test_a_final_status_never_changes_and_its_repetition_is_accepted(redis: Redis) -> None:
    await create(redis, new_task())
    await register(redis, "w")
    (reserved,) = await reserve(redis, "w")
    write = final(reserved)
    assert await tasks.update(redis, "w", [write, write, final(reserved, b"2")], life=LIFE) == [True, True, False]
    (line,) = await tasks.follow(redis, "", {reserved.key: 0})
    assert line == Line(reserved.key, 2, True, write.line)
    assert await redis.command("ZCARD", names.RQ_FINISHED + "default") == 1
    assert await redis.command("HGET", names.RQ_WORKER + "w", "successful_job_count") == b"1"


async def test_what_is_given_back_keeps_its_order_and_its_attempts(redis: Redis) -> None:
    new = [new_task() for _ in range(4)]
    await create(redis, *new)
    await register(redis, "w")
    taken = await reserve(redis, "w", 3)
    assert await usage_of(redis) == (1, 0)
    pairs = [(reserved.key, reserved.attempt) for reserved in taken]
    assert await tasks.give_back(redis, "w", pairs) == 3
    assert await tasks.give_back(redis, "w", pairs) == 0, "the reply was lost and it is sent again"
    assert await usage_of(redis) == (4, 0)
    again = await reserve(redis, "w")
    assert [(reserved.key, reserved.attempt) for reserved in again] == [(task.key, 1) for task in new]


async def test_a_dead_workers_tasks_go_back_once_and_the_exhausted_are_handed_over(redis: Redis) -> None:
    await create(redis, new_task(), new_task(max_attempts=1))
    await register(redis, "dead", lease=-1)
    await redis.command("ZADD", names.WORKERS, "inf", "dead")
    first, last = await reserve(redis, "dead")
    await redis.command("ZADD", names.WORKERS, 1, "dead")
    await register(redis, "w")
    count, orphans = await tasks.take_over_lost(redis, "w")
    assert count == 1
    assert [(orphan.key, orphan.attempt, orphan.worker) for orphan in orphans] == [(last.key, 1, "dead")]
    assert await tasks.take_over_lost(redis, "w") == (0, [])
    assert await tasks.update(redis, "dead", [final(first), final(last)], life=LIFE) == [False, False]
    (again,) = await reserve(redis, "w")
    assert (again.key, again.attempt) == (first.key, 2)
    ended = parse_line(last.line).ended(ERROR, b'"lost"', timestamp())
    assert await tasks.update(redis, "w", [Write(last.key, 1, "error", ended.line())], life=LIFE) == [True]
    assert await redis.command("SMEMBERS", names.RQ_WORKERS) == [b"rq:worker:w"]


async def test_a_worker_whose_lease_is_over_gets_nothing_until_it_registers_again(redis: Redis) -> None:
    await create(redis, new_task())
    reservation = await tasks.reserve(
        redis, "ghost", ("default",), sync_places=1, async_places=0, ahead=0, known=[("hello", False, None)]
    )
    assert reservation.gone
    assert reservation.tasks == []
    assert await workers.renew(redis, "ghost", 5, "idle") is None


async def test_a_cancelled_task_leaves_its_queue_and_the_limits(redis: Redis) -> None:
    new = new_task(reuse="same")
    await create(redis, new)
    answer = await tasks.cancel(redis, new.key, "a")
    assert isinstance(answer, Line)
    ended = parse_line(answer.line).ended(ERROR, b'"cancelled"', timestamp()).line()
    assert await tasks.cancel(redis, new.key, "other", answer.seq, ended, life=LIFE) == "unknown"
    assert await tasks.cancel(redis, new.key, "a", answer.seq + 1, ended, life=LIFE) == answer
    assert await tasks.cancel(redis, new.key, "a", answer.seq, ended, life=LIFE) == "ended"
    assert await tasks.cancel(redis, new.key, "a") == Line(new.key, 2, True, ended)
    assert await redis.command("LLEN", names.RQ_QUEUE + "default") == 0
    assert await usage_of(redis) == (0, 0)
    assert await redis.command("EXISTS", names.REUSE + "same") == 0


async def test_a_reserved_task_that_was_cancelled_refuses_its_worker(redis: Redis) -> None:
    new = new_task()
    await create(redis, new)
    await register(redis, "w")
    (reserved,) = await reserve(redis, "w")
    ended = parse_line(reserved.line).ended(ERROR, b'"cancelled"', timestamp()).line()
    assert await tasks.cancel(redis, new.key, "a", 1, ended, life=LIFE) == "ended"
    assert await tasks.update(redis, "w", [final(reserved)], life=LIFE) == [False]
    assert await workers.renew(redis, "w", 5, "busy") == set()
    assert await redis.command("ZCARD", names.RQ_WIP + "default") == 0


async def test_single_flight_joins_what_runs_and_what_is_done_but_not_what_failed(redis: Redis) -> None:
    first = new_task(reuse="same")
    await create(redis, first)
    (joined,) = await create(redis, new_task(reuse="same"))
    assert joined.key == first.key
    await register(redis, "w")
    (reserved,) = await reserve(redis, "w")
    await tasks.update(redis, "w", [final(reserved)], life=LIFE)
    (done,) = await create(redis, new_task(reuse="same"))
    assert (done.key, done.final) == (first.key, True)
    failing = new_task(reuse="other")
    await create(redis, failing)
    (reserved,) = await reserve(redis, "w")
    line = parse_line(reserved.line).ended(ERROR, b'"no"', timestamp()).line()
    await tasks.update(redis, "w", [Write(reserved.key, 1, "error", line)], life=LIFE)
    (again,) = await create(redis, new_task(reuse="other"))
    assert again.key != failing.key


async def test_files_are_counted_and_forgotten_with_their_task(redis: Redis) -> None:
    new = new_task(reuse="same")
    await create(redis, new)
    await register(redis, "w")
    (reserved,) = await reserve(redis, "w")
    write = final(reserved)
    with_files = Write(write.key, 1, "success", write.line, bytes=500)
    assert await tasks.update(redis, "w", [with_files], life=LIFE) == [True]
    assert await usage_of(redis) == (0, 500)
    assert await tasks.expired(redis, 0, 10) == []
    seconds = int((await redis.command("TIME"))[0])
    assert await tasks.expired(redis, seconds + LIFE + 1, 10) == [new.key]
    assert await tasks.forget(redis, [new.key]) == 1
    assert await tasks.forget(redis, [new.key]) == 0
    assert await usage_of(redis) == (0, 0)
    (line,) = await tasks.follow(redis, "", {new.key: 0})
    assert line is not None
    assert line.seq == -1
    assert await redis.command("EXISTS", names.REUSE + "same", names.TASK + new.key) == 0


async def test_an_async_task_is_taken_past_a_def_task_that_has_no_place(redis: Redis) -> None:
    await create(redis, new_task("slow"), new_task("slow"), new_task("light"))
    await register(redis, "w")
    reservation = await tasks.reserve(
        redis,
        "w",
        ("default",),
        sync_places=1,
        async_places=5,
        ahead=0,
        known=[("slow", False, None), ("light", True, None)],
    )
    assert [reserved.name for reserved in reservation.tasks] == ["slow", "light"]
    assert reservation.left


async def test_what_is_taken_ahead_is_bounded_by_measured_durations(redis: Redis) -> None:
    await create(redis, *[new_task("fast") for _ in range(20)], *[new_task("unknown") for _ in range(5)])
    await register(redis, "w")
    known = [("fast", False, 0.01), ("unknown", False, None)]
    reservation = await tasks.reserve(redis, "w", ("default",), sync_places=1, async_places=0, ahead=0.05, known=known)
    assert len(reservation.tasks) == 6, "one for the free place, and five of 10 ms in 50 ms"


async def test_async_tasks_are_taken_ahead_within_a_budget_of_their_own(redis: Redis) -> None:
    await create(redis, *[new_task("short") for _ in range(20)], *[new_task("unknown") for _ in range(5)])
    await register(redis, "w")
    known = [("short", True, 0.01), ("unknown", True, None)]
    reservation = await tasks.reserve(
        redis, "w", ("default",), sync_places=0, async_places=2, ahead=9, async_ahead=0.05, known=known
    )
    assert len(reservation.tasks) == 7, "two for the free places, and five of 10 ms in 50 ms"
    assert reservation.left


async def test_queues_are_served_in_the_order_of_their_urgency(redis: Redis) -> None:
    await create(redis, new_task("a", "low"), new_task("b", "default"), new_task("c", "high"))
    await register(redis, "w")
    reservation = await tasks.reserve(
        redis, "w", ("high", "default", "low"), sync_places=2, async_places=0, ahead=0, known=[]
    )
    assert [reserved.name for reserved in reservation.tasks] == ["c", "b"]


async def attempts_of(redis: Redis, key: str) -> list[dict[str, object]]:
    found: list[dict[str, object]] = orjson.loads(await redis.command("HGET", names.TASK + key, "attempts") or b"[]")
    return found


async def begin(redis: Redis, reserved: Reserved, worker: str = "w") -> str:
    """Writes the start of an attempt; returns its date."""
    started = timestamp()
    line = parse_line(reserved.line).executing(started).line()
    write = Write(reserved.key, reserved.attempt, "executing", line)
    assert await tasks.update(redis, worker, [write], life=LIFE) == [True]
    return started


async def test_attempts_that_end_without_ending_the_task_are_remembered_with_their_endings(redis: Redis) -> None:
    await create(redis, new_task(max_attempts=9))
    await register(redis, "w")
    expected: list[dict[str, object]] = []

    async def expect(ending: str, attempt: int, worker: str, started: str) -> None:
        found = await attempts_of(redis, one.key)
        ended = found[-1]["ended"] if found else None
        entry = {"attempt": attempt, "worker": worker, "started": started, "ended": ended, "ending": ending}
        expected.append(entry)
        assert found == expected
        assert isinstance(ended, str)
        assert ended > started

    (one,) = await reserve(redis, "w")
    started = await begin(redis, one)
    assert await tasks.retry(redis, "w", one.key, 1, 'killed "by" a signal') == "queued"
    await expect('killed "by" a signal', 1, "w", started)
    (one,) = await reserve(redis, "w")
    assert await tasks.give_back(redis, "w", [(one.key, 2)], "stopped") == 1
    assert await attempts_of(redis, one.key) == expected, "it had not begun"
    (one,) = await reserve(redis, "w")
    started = await begin(redis, one)
    for _ in range(2):
        await tasks.give_back(redis, "w", [(one.key, 2)], "stopped")
    await expect("stopped", 2, "w", started)
    await register(redis, "dead", lease=-1)
    await redis.command("ZADD", names.WORKERS, 2e9, "dead")
    (one,) = await reserve(redis, "dead")
    started = await begin(redis, one, "dead")
    await redis.command("ZADD", names.WORKERS, 1, "dead")
    assert await tasks.take_over_lost(redis, "w") == (1, [])
    await expect("the worker was lost", 2, "dead", started)
    (one,) = await reserve(redis, "w")
    await tasks.update(redis, "w", [final(one)], life=LIFE)
    assert await attempts_of(redis, one.key) == expected


async def test_a_field_of_attempts_is_bounded_and_a_damaged_one_begins_anew(redis: Redis) -> None:
    await create(redis, new_task(max_attempts=99))
    await register(redis, "w")
    for number in range(25):
        (one,) = await reserve(redis, "w")
        await begin(redis, one)
        assert await tasks.retry(redis, "w", one.key, one.attempt, str(number)) == "queued"
    assert [attempt["ending"] for attempt in await attempts_of(redis, one.key)] == [str(n) for n in range(5, 25)]
    for damaged in ("{", "7", "null", '"x"'):
        await redis.command("HSET", names.TASK + one.key, "attempts", damaged)
        (one,) = await reserve(redis, "w")
        await begin(redis, one)
        assert await tasks.retry(redis, "w", one.key, one.attempt, "again") == "queued"
        assert [attempt["ending"] for attempt in await attempts_of(redis, one.key)] == ["again"]
