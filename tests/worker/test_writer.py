"""The order of a worker's writes, and what becomes of them when something is lost."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from redis.exceptions import ResponseError

from dragon.connections import Redis, Script
from dragon.errors import Unavailable
from dragon.keys import new_key
from dragon.status import EXECUTING, QUEUED, SUCCESS, Status, parse_line, timestamp
from dragon.store import logs, names, tasks
from dragon.store.tasks import NewTask, Reserved, Usage, Write
from dragon.worker.writer import Writer


async def test_progress_that_follows_a_start_is_not_put_in_front_of_it(redis_url: str) -> None:
    """As when a task crashes and starts again here while its first progress still waits to be written."""
    redis = Redis(redis_url, 20)
    status = Status(QUEUED, new_key(), timestamp())
    new = NewTask(status.key, status.line(), False, "hello", b"{}", b"", "default", 3, 60, "")
    await tasks.create(redis, "a", [new], Usage(), life=100)
    reserved = await tasks.claim(redis, status.key, "w", 60)
    assert reserved is not None
    started = status.executing(timestamp())
    lines = [started.reported(b"1", None), started, started.reported(b"2", None)]
    first, start, second = (Write(status.key, reserved.attempt, EXECUTING, line.line()) for line in lines)
    writer = Writer(redis, "w", 100, lambda: None)
    writer.write_progress(first)
    writer.write_start(start)
    writer.write_progress(second)
    running = asyncio.create_task(writer.run())
    async with asyncio.timeout(45):
        await writer.idle.wait()
    running.cancel()
    (found,) = await tasks.follow(redis, "", {status.key: 0})
    assert found is not None and found.line == second.line
    await redis.close()


async def test_an_error_of_who_hears_of_a_write_does_not_stop_the_writing(
    redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    redis = Redis(redis_url, 20)
    writer = Writer(redis, "w", 100, lambda: None)
    running = asyncio.create_task(writer.run())
    heard: list[bool] = []

    def hear(accepted: bool) -> None:
        heard.append(accepted)
        if len(heard) == 1:
            raise ValueError("of ours")

    for _ in range(2):
        writer.write(end(await taken(redis)), hear)
        async with asyncio.timeout(45):
            await writer.idle.wait()
    assert heard == [True, True]
    assert "of ours" in caplog.text
    running.cancel()
    await redis.close()


async def taken(redis: Redis) -> Reserved:
    status = Status(QUEUED, new_key(), timestamp())
    new = NewTask(status.key, status.line(), False, "hello", b"{}", b"", "default", 3, 60, "")
    await tasks.create(redis, "a", [new], Usage(), life=100)
    reserved = await tasks.claim(redis, status.key, "w", 60)
    assert reserved is not None
    return reserved


def end(task: Reserved) -> Write:
    return Write(task.key, 1, SUCCESS, parse_line(task.line).ended(SUCCESS, b"1", timestamp()).line())


class Meddled(Redis):
    """A Redis to which something happens before (`before`) or after (`after`) the run of a script, once each."""

    def __init__(self, url: str) -> None:
        super().__init__(url, 20)
        self.before: dict[str, Any] = {}
        self.after: dict[str, Any] = {}

    async def run(self, script: Script, arguments: Any) -> Any:
        for meddle in (self.before, self.after):
            if meddle is self.after:
                answer = await super().run(script, arguments)
            if happening := meddle.pop(script.name, None):
                happening()
        return answer


def raising(error: Exception) -> Any:
    def happen() -> None:
        raise error

    return happen


async def texts_after(redis: Meddled, task: Reserved, writer: Writer) -> list[str]:
    """The log when everything was written."""
    running = asyncio.create_task(writer.run())
    async with asyncio.timeout(45):
        await writer.idle.wait()
    running.cancel()
    page = await logs.read_log(redis, task.key)
    assert page is not None and page.ended
    await redis.close()
    return [line.text for line in page.lines]


async def test_what_a_task_says_and_its_end_come_while_lines_are_written_and_still_in_their_order(
    redis_url: str,
) -> None:
    redis = Meddled(redis_url)
    task = await taken(redis)
    writer = Writer(redis, "w", 100, lambda: None)

    def say_more_and_end() -> None:
        writer.write_log(task.key, 1, 60, b"2 two\n3 three")
        writer.write(end(task))

    redis.after["log"] = say_more_and_end
    writer.write_log(task.key, 1, 60, b"1 one")
    assert await texts_after(redis, task, writer) == ["one", "two", "three"]


@pytest.mark.parametrize("place", ["before", "after"])
@pytest.mark.parametrize("name", ["log", "update"])
async def test_lines_and_the_end_are_written_once_when_a_command_or_its_reply_is_lost(
    redis_url: str, place: str, name: str
) -> None:
    redis = Meddled(redis_url)
    task = await taken(redis)
    writer = Writer(redis, "w", 100, lambda: None)
    getattr(redis, place)[name] = raising(Unavailable("lost"))
    writer.write_log(task.key, 1, 60, b"1 one\n2 two")
    writer.write(end(task))
    assert await texts_after(redis, task, writer) == ["one", "two"]


async def test_statuses_do_not_wait_for_lines_that_redis_refuses(
    redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    redis = Meddled(redis_url)
    task = await taken(redis)
    writer = Writer(redis, "w", 100, lambda: None)
    redis.before["log"] = raising(ResponseError("NOPERM this user may not"))
    writer.write_log(task.key, 1, 60, b"1 one")
    writer.write(end(task))
    assert await texts_after(redis, task, writer) == []
    assert "log lines of 1 tasks are lost: Redis refuses them: NOPERM" in caplog.text


async def test_a_task_that_says_nothing_costs_no_command(redis_url: str) -> None:
    redis = Meddled(redis_url)
    task = await taken(redis)
    writer = Writer(redis, "w", 100, lambda: None)
    redis.before["log"] = raising(AssertionError("nothing was said"))
    writer.write(end(task))
    assert await texts_after(redis, task, writer) == []


async def test_lines_of_a_late_worker_are_refused(redis_url: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    redis = Meddled(redis_url)
    task = await taken(redis)
    writer = Writer(redis, "late", 100, lambda: None)
    writer.write_log(task.key, 1, 60, b"1 one")
    running = asyncio.create_task(writer.run())
    async with asyncio.timeout(45):
        await writer.idle.wait()
    running.cancel()
    assert f"{task.key} log refused attempt=1" in caplog.text
    assert await redis.command("EXISTS", names.LOG + task.key) == 0
    await redis.close()


async def test_a_task_that_goes_back_leaves_none_of_its_lines_behind(redis_url: str) -> None:
    redis = Meddled(redis_url)
    task, other = await taken(redis), await taken(redis)
    writer = Writer(redis, "w", 100, lambda: None)
    running = asyncio.create_task(writer.run())
    async with asyncio.timeout(45):
        await writer.log_written()  # there are none
        writer.write_log(task.key, 1, 60, b"1 one")
        redis.before["log"] = lambda: writer.write_log(other.key, 1, 60, b"2 two")
        await writer.log_written()
        await tasks.give_back(redis, "w", [(task.key, 1)])
        await writer.log_written()
        await tasks.give_back(redis, "w", [(other.key, 1)])
    running.cancel()
    for key, text in ((task.key, "one"), (other.key, "two")):
        page = await logs.read_log(redis, key)
        assert page is not None
        assert [line.text for line in page.lines] == [text]
    await redis.close()
