"""The feed: what a follower gets when messages are lost, doubled, late or out of order; on a real Redis."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from dragon import feed as feed_module
from dragon.connections import Redis
from dragon.feed import Feed, Follower
from dragon.keys import new_key
from dragon.status import EXECUTING, SUCCESS, Status, timestamp, unknown_line
from dragon.store import names, tasks
from dragon.store.tasks import Line, NewTask, State, Usage, Write
from tests.system import eventually
from tests.waiting import PATIENCE

KEY = new_key()


def line(seq: int, text: bytes = b"line", *, key: str = KEY, final: bool = False) -> Line:
    return Line(key, seq, final, text)


async def taken(follower: Follower) -> list[bytes]:
    return await follower.take(0.01)


async def test_a_follower_holds_the_newest_line_of_each_key_only() -> None:
    other = new_key()
    follower = Follower([line(1), line(1, key=other)])
    for seq in range(2, 1000):
        follower.offer(line(seq, b"%d" % seq))
    follower.offer(line(2, b"other", key=other))
    assert await taken(follower) == [b"999", b"other"]
    assert await taken(follower) == []


async def test_what_is_not_newer_is_not_given_again() -> None:
    follower = Follower([line(5)])
    for seq in (3, 4, 5):
        follower.offer(line(seq))
    assert await taken(follower) == []
    follower.offer(line(6, b"6"))
    follower.offer(line(6, b"again"))
    assert await taken(follower) == [b"6"]


async def test_nothing_comes_after_the_final_line() -> None:
    follower = Follower([line(1)])
    follower.offer(line(2, b"end", final=True))
    follower.offer(line(3, b"later"))
    assert not follower.finished
    assert await taken(follower) == [b"end"]
    assert follower.finished


async def test_what_is_final_already_is_not_followed() -> None:
    follower = Follower([line(1, final=True)])
    follower.offer(line(2))
    assert follower.finished
    assert await taken(follower) == []


async def test_taking_waits_for_the_next_line() -> None:
    follower = Follower([line(1)])
    waiting = asyncio.create_task(follower.take(PATIENCE))
    await asyncio.sleep(0)
    follower.offer(line(2, b"next"))
    assert await waiting == [b"next"]


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    connection = Redis(redis_url, PATIENCE)
    yield connection
    await connection.close()


@pytest.fixture
async def feed(redis: Redis, redis_url: str) -> AsyncIterator[Feed]:
    found = Feed(redis, redis_url, 5)
    running = asyncio.create_task(found.run())
    await eventually(lambda: redis.command("PUBLISH", names.FEED + found.id, ""))
    yield found
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def new_task(redis: Redis) -> Status:
    """A task in the store, owned by the worker `w`."""
    status = Status("queued", new_key(), timestamp())
    new = NewTask(status.key, status.line(), False, "hello", b"{}", b"", "default", 3, 60, "")
    await tasks.create(redis, "a", [new], Usage(), life=100)
    await redis.command("HSET", names.TASK + status.key, "state", State(0, 1, "r", "w", "").field())
    return status


async def feeds_of(redis: Redis, status: Status) -> str:
    return State.read(await redis.command("HGET", names.TASK + status.key, "state")).feeds


async def write(redis: Redis, status: Status, *, is_final: bool = False) -> bytes:
    status = status.ended(SUCCESS, b"1", timestamp()) if is_final else status.executing(timestamp())
    kind: tasks.WriteKind = SUCCESS if is_final else EXECUTING
    assert await tasks.update(redis, "w", [Write(status.key, 0, kind, status.line())], life=100) == [True]
    return status.line()


async def follow(redis: Redis, feed: Feed, status: Status) -> Follower:
    (found,) = await tasks.follow(redis, feed.id, {status.key: 0})
    assert found is not None
    follower = Follower([found])
    feed.add(follower)
    return follower


async def test_a_published_line_reaches_the_follower(redis: Redis, feed: Feed) -> None:
    status = await new_task(redis)
    follower = await follow(redis, feed, status)
    written = await write(redis, status)
    assert await follower.take(PATIENCE) == [written]
    written = await write(redis, status, is_final=True)
    assert await follower.take(PATIENCE) == [written]
    assert follower.finished
    assert feed.followed == 0


@pytest.fixture
def no_reconciliation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is read again just because it is time: for who asks for it before `feed`."""
    monkeypatch.setattr(feed_module, "RECONCILE", 3600.0)


async def test_after_the_subscription_was_cut_all_keys_are_read_again(
    no_reconciliation: None, redis: Redis, feed: Feed
) -> None:
    status = await new_task(redis)
    follower = await follow(redis, feed, status)
    # One pipeline: the status is written before the feed can be back, so its message reaches nobody.
    cut, written = await asyncio.gather(
        redis.command("CLIENT", "KILL", "TYPE", "pubsub"), write(redis, status, is_final=True)
    )
    assert cut == 1
    assert await follower.take(PATIENCE) == [written], "not by the reconciliation that comes every ten seconds"


async def test_a_lost_message_is_made_up_for(redis: Redis, feed: Feed, monkeypatch: pytest.MonkeyPatch) -> None:
    status = await new_task(redis)
    follower = await follow(redis, feed, status)
    monkeypatch.setattr(feed, "dispatch", lambda message: None)
    written = await write(redis, status, is_final=True)
    assert await follower.take(0.2) == []
    await feed.refresh([status.key])
    assert await taken(follower) == [written]


async def test_reconciliation_happens_by_itself(redis: Redis, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed_module, "RECONCILE", 0.05)
    found = Feed(redis, redis_url, 5)
    monkeypatch.setattr(found, "dispatch", lambda message: None)
    running = asyncio.create_task(found.run())
    status = await new_task(redis)
    follower = await follow(redis, found, status)
    written = await write(redis, status, is_final=True)
    assert await follower.take(PATIENCE) == [written]
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_a_task_that_is_forgotten_while_it_is_followed_ends_the_stream(redis: Redis, feed: Feed) -> None:
    status = await new_task(redis)
    follower = await follow(redis, feed, status)
    await redis.command("DEL", names.TASK + status.key)
    await feed.refresh([status.key])
    assert await taken(follower) == [unknown_line(status.key)]
    assert follower.finished


async def test_a_task_that_is_about_to_be_created_is_not_taken_for_forgotten(redis: Redis, feed: Feed) -> None:
    early = Follower([line(1)], is_early=True)
    feed.add(early)
    await feed.refresh([KEY])
    assert await taken(early) == []
    early.is_early = False
    await feed.refresh([KEY])
    assert await taken(early) == [unknown_line(KEY)]


async def test_a_feed_that_nobody_listens_to_is_dropped_from_the_task(redis: Redis) -> None:
    status = await new_task(redis)
    await tasks.follow(redis, "gone", {status.key: 0})
    await tasks.follow(redis, "gone", {status.key: 0})
    assert await feeds_of(redis, status) == "gone"
    await write(redis, status)
    assert await feeds_of(redis, status) == ""


async def test_a_closed_feed_ends_its_followers_with_what_they_have(redis: Redis, feed: Feed) -> None:
    status = await new_task(redis)
    follower = await follow(redis, feed, status)
    follower.offer(line(2, b"pending", key=status.key))
    feed.close()
    assert await follower.take(PATIENCE) == [b"pending"]
    assert follower.finished
    late = Follower([line(1)])
    feed.add(late)
    assert late.finished
