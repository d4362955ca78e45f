"""One look at all queues: what strangers have put there counts as nothing, what may not be asked is said."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from redis.exceptions import ResponseError

from dragon.connections import Redis
from dragon.keys import new_key
from dragon.status import QUEUED, Status, timestamp
from dragon.store import names, queues, tasks
from dragon.store.queues import QueuePicture
from dragon.store.tasks import NewTask, Usage


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    connection = Redis(redis_url, 5)
    yield connection
    await connection.close()


async def create(redis: Redis, account: str, count: int) -> None:
    new = []
    for _ in range(count):
        status = Status(QUEUED, new_key(), timestamp())
        new.append(NewTask(status.key, status.line(), False, "hello", b"{}", b"", "default", 3, 60, ""))
    await tasks.create(redis, account, new, Usage(), life=1000)


async def test_lanes_count_with_their_queue_in_one_round_trip(redis: Redis) -> None:
    for account in ("a", "b", "c"):
        await create(redis, account, 2)
    await queues.pause(redis, "low")
    await queues.look(redis, 1000)
    before = redis.round_trips
    seen = await queues.look(redis, 1000, ["high"])
    assert redis.round_trips == before + 1
    oldest = seen.queues[0].oldest
    assert oldest is not None
    assert 0 <= oldest < 60
    assert seen.queues == (
        QueuePicture("default", 6, 0, False, oldest, 0, 0, 0, 0),
        QueuePicture("high", 0, 0, False, None, 0, 0, 0, 0),
        QueuePicture("low", 0, 0, True, None, 0, 0, 0, 0),
    )
    assert (await queues.paused(redis), await queues.is_suspended(redis), seen.suspended) == ({"low"}, False, False)


async def test_what_a_stranger_has_put_there_counts_as_nothing(redis: Redis) -> None:
    await create(redis, "a", 1)
    for name in (names.RQ_WIP + "default", names.RQ_FINISHED + "default", names.PAUSED, names.RQ_FAILED):
        await redis.command("SET", name, "of another type")
    (seen,) = (await queues.look(redis, 1000)).queues
    assert (seen.waiting, seen.executing, seen.paused, seen.success) == (1, 0, False, 0)


async def test_what_a_user_of_redis_may_not_ask_is_an_error_and_no_zero(redis: Redis, redis_url: str) -> None:
    await create(redis, "a", 1)
    await redis.command("ACL", "SETUSER", "few", "on", ">word", "~*", "&*", "+@all", "-zcard")
    limited = Redis(redis_url, 5)
    try:
        await limited.command("AUTH", "few", "word")
        with pytest.raises(ResponseError, match=r"(?i)permission|ACL"):
            await queues.look(limited, 1000)
    finally:
        await limited.close()
        await redis.command("ACL", "DELUSER", "few")
