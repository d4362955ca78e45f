"""The order of a worker's writes."""

from __future__ import annotations

import asyncio

from dragon.connections import Redis
from dragon.keys import new_key
from dragon.status import EXECUTING, QUEUED, Status, timestamp
from dragon.store import tasks
from dragon.store.tasks import NewTask, Usage, Write
from dragon.worker.writer import Writer


async def test_progress_that_follows_a_start_is_not_put_in_front_of_it(redis_url: str) -> None:
    """As when a task crashes and starts again here while its first progress still waits to be written."""
    redis = Redis(redis_url, 5)
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
    async with asyncio.timeout(5):
        await writer.idle.wait()
    running.cancel()
    (found,) = await tasks.follow(redis, "", {status.key: 0})
    assert found is not None and found.line == second.line
    await redis.close()
