"""The store of log lines: numbers, fences, bounds, lives; on a real Redis."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from dragon.connections import Redis
from dragon.feed import Feed
from dragon.keys import new_key
from dragon.status import SUCCESS, Status, parse_line, timestamp
from dragon.store import logs, names, tasks
from dragon.store.logs import MARGIN, LogLine, LogPage, LogWrite, new_marks
from dragon.store.tasks import NewTask, Reserved, Usage, Write
from tests.system import eventually

LIFE = 100
TIMEOUT = 60.5
MOMENT = 1_700_000_000_000_000
ISO = "2023-11-14T22:13:20.000000+00:00"


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    connection = Redis(redis_url, 5)
    yield connection
    await connection.close()


async def taken(redis: Redis, owner: str = "w") -> Reserved:
    """A new task that a worker has."""
    status = Status("queued", new_key(), timestamp())
    new = NewTask(status.key, status.line(), False, "hello", b"{}", b"", "default", 3, 60, "")
    await tasks.create(redis, "a", [new], Usage(), life=LIFE)
    return await claimed(redis, status.key, owner)


async def claimed(redis: Redis, key: str, owner: str) -> Reserved:
    reserved = await tasks.claim(redis, key, owner, 60)
    assert reserved is not None
    return reserved


class Writer:
    """Makes the writes of one worker."""

    def __init__(self) -> None:
        self._marks = new_marks()

    def lines(self, task: Reserved, *texts: str) -> LogWrite:
        lines = [(next(self._marks), f"{task.attempt} {MOMENT} {text}".encode()) for text in texts]
        return LogWrite(task.key, task.attempt, TIMEOUT, lines)


async def append(redis: Redis, *writes: LogWrite, owner: str = "w", most: int = 1000) -> list[bool]:
    return await logs.append(redis, owner, writes, life=LIFE, most=most)


async def texts(redis: Redis, key: str) -> list[tuple[int, str]]:
    page = await logs.read_log(redis, key, count=5000)
    assert page is not None
    return [(line.number, line.text) for line in page.lines]


async def end(redis: Redis, task: Reserved) -> None:
    line = parse_line(task.line).ended(SUCCESS, b"1", timestamp()).line()
    assert await tasks.update(redis, "w", [Write(task.key, task.attempt, SUCCESS, line)], life=LIFE) == [True]


async def test_lines_are_numbered_and_read_in_pages(redis: Redis) -> None:
    task, worker = await taken(redis), Writer()
    assert await logs.read_log(redis, task.key) == LogPage([], 0, False)
    assert await append(redis, worker.lines(task, "one", "two words ", ""), worker.lines(task, "four ✓")) == [True] * 2
    lines = [LogLine(n, ISO, 1, text) for n, text in enumerate(("one", "two words ", "", "four ✓"), 1)]
    assert await logs.read_log(redis, task.key) == LogPage(lines, 4, False)
    assert await logs.read_log(redis, task.key, after=1, count=2) == LogPage(lines[1:3], 3, False)
    assert await logs.read_log(redis, task.key, after=4) == LogPage([], 4, False)
    assert await logs.read_log(redis, new_key()) is None


async def test_an_ended_task_has_ended_with_its_last_page_and_says_nothing_more(redis: Redis) -> None:
    task, worker = await taken(redis), Writer()
    write = worker.lines(task, "one", "two")
    await append(redis, write)
    await end(redis, task)
    first, last = [await logs.read_log(redis, task.key, after, 2) for after in (0, 2)]
    assert first is not None
    assert (first.next, first.ended) == (2, False)
    assert last == LogPage([], 2, True)
    assert await append(redis, worker.lines(task, "late")) == [False]
    assert await append(redis, write) == [True], "it is there: only its reply was lost"
    assert await texts(redis, task.key) == [(1, "one"), (2, "two")]


async def test_what_is_sent_again_is_there_once_however_many_runs_it_took(redis: Redis) -> None:
    task, other, worker = await taken(redis), await taken(redis), Writer()
    writes = [worker.lines(task, *(f"{run}.{n}" for n in range(200))) for run in range(3)]
    writes.insert(1, worker.lines(other, "between"))
    for _ in range(2):
        assert await append(redis, *writes) == [True] * 4
    assert await texts(redis, task.key) == [(1 + 200 * run + n, f"{run}.{n}") for run in range(3) for n in range(200)]
    assert await texts(redis, other.key) == [(1, "between")]
    await append(redis, *writes[2:], worker.lines(task, "new"))
    assert (await texts(redis, task.key))[-2:] == [(600, "2.199"), (601, "new")]


async def test_lines_of_another_owner_or_attempt_are_refused(redis: Redis) -> None:
    task, worker = await taken(redis), Writer()
    assert await append(redis, worker.lines(task, "late"), owner="other") == [False]
    assert await append(redis, worker.lines(task._replace(attempt=2), "late")) == [False]
    assert await append(redis, worker.lines(task._replace(key=new_key()), "nobody's")) == [False]
    await tasks.give_back(redis, "w", [(task.key, 1)])
    assert await append(redis, worker.lines(task, "late")) == [False]
    assert await redis.command("EXISTS", names.LOG + task.key) == 0


async def test_numbers_go_on_over_attempts_and_over_the_same_attempt_of_another_worker(redis: Redis) -> None:
    task = await taken(redis)
    first, second = Writer(), Writer()
    assert await append(redis, first.lines(task, "a", "b")) == [True]
    await tasks.give_back(redis, "w", [(task.key, 1)])
    again = await claimed(redis, task.key, "v")
    assert again.attempt == 1, "it was given back, so this attempt did not count"
    assert await append(redis, second.lines(again, "a", "b"), owner="v") == [True]
    assert await append(redis, first.lines(task, "late")) == [False]
    assert await tasks.retry(redis, "v", task.key, 1) == "queued"
    third = await claimed(redis, task.key, "w")
    assert await append(redis, first.lines(third, "c")) == [True]
    page = await logs.read_log(redis, task.key)
    assert page is not None
    assert [(line.number, line.attempt, line.text) for line in page.lines] == [
        (1, 1, "a"),
        (2, 1, "b"),
        (3, 1, "a"),
        (4, 1, "b"),
        (5, 2, "c"),
    ]


async def test_only_the_newest_lines_are_kept_and_numbers_go_on(redis: Redis) -> None:
    task, worker = await taken(redis), Writer()
    for part in range(5):
        assert await append(redis, worker.lines(task, *(f"{part}.{n}" for n in range(7))), most=10) == [True]
    assert await redis.command("XLEN", names.LOG + task.key) == 10
    assert (await texts(redis, task.key))[0] == (26, "3.4")
    assert (await texts(redis, task.key))[-1] == (35, "4.6")


async def test_a_log_lives_longer_than_its_task_and_not_for_ever(redis: Redis) -> None:
    task = await taken(redis)
    await append(redis, Writer().lines(task, "a"))
    assert 0 <= 61 + LIFE + MARGIN - await redis.command("TTL", names.LOG + task.key) < 10
    await end(redis, task)
    log_life, life = await asyncio.gather(*(redis.command("TTL", n + task.key) for n in (names.LOG, names.TASK)))
    assert 0 < life < log_life


async def test_a_task_that_is_forgotten_with_its_files_is_forgotten_with_its_log(redis: Redis) -> None:
    task = await taken(redis)
    await append(redis, Writer().lines(task, "a"))
    line = parse_line(task.line).ended(SUCCESS, b"1", timestamp()).line()
    await tasks.update(redis, "w", [Write(task.key, 1, SUCCESS, line, bytes=5)], life=LIFE)
    assert await redis.command("EXISTS", names.LOG + task.key) == 1
    assert await tasks.forget(redis, [task.key]) == 1
    assert await redis.command("EXISTS", names.LOG + task.key) == 0
    assert await logs.read_log(redis, task.key) is None


async def test_what_has_a_logs_name_and_is_none_is_left_alone_and_read_as_unknown(redis: Redis) -> None:
    task, other, worker = await taken(redis), await taken(redis), Writer()
    await redis.command("SET", names.LOG + task.key, "a string")
    assert await append(redis, worker.lines(task, "a"), worker.lines(other, "b")) == [False, True]
    assert await logs.read_log(redis, task.key) is None
    assert await redis.command("GET", names.LOG + task.key) == b"a string"
    await redis.command("XADD", names.LOG + other.key, "9-9", "a", "not dragon's")
    assert await logs.read_log(redis, other.key) is None


async def test_a_server_that_follows_the_task_hears_the_bell(redis: Redis, redis_url: str) -> None:
    feed, heard = Feed(redis, redis_url, 5), []
    feed.dispatch = heard.append  # type: ignore[method-assign]
    listening = asyncio.create_task(feed.run())
    await eventually(lambda: redis.command("PUBLISH", names.FEED + feed.id, ""))
    task, other, quiet, worker = await taken(redis), await taken(redis), await taken(redis), Writer()
    await tasks.follow(redis, feed.id, {task.key: 0, other.key: 0})
    heard.clear()
    writes = [worker.lines(task, "a", "b"), worker.lines(quiet, "c"), worker.lines(other, "d")]
    assert await append(redis, *writes) == [True] * 3
    await eventually(lambda: heard)
    assert heard == [f"{task.key}L2\n{other.key}L1\n".encode()]
    listening.cancel()
    await asyncio.gather(listening, return_exceptions=True)
