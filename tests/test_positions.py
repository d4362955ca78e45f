"""Positions: the place of a task in its queue, when it is to end, what it waits for; and how streams tell of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import orjson
import pytest

from dragon import positions as positions_module
from dragon.connections import Redis
from dragon.feed import Feed, Follower
from dragon.keys import new_key
from dragon.positions import Positions, Wait, line_with
from dragon.status import QUEUED, Status, timestamp, timestamp_of
from dragon.store import names, tasks, waiting, workers
from dragon.store.measures import Measures
from dragon.store.tasks import Line, NewTask, Ticket, Usage
from dragon.store.waiting import Lanes
from dragon.store.workers import WorkerFacts
from dragon.task import Registry
from tests.figures import scale, seeded
from tests.system import eventually
from tests.waiting import PATIENCE

NAMES = {"short": False, "long": False, "async": True}
OWN = names.RQ_QUEUE + "default"


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    connection = Redis(redis_url, PATIENCE)
    yield connection
    await connection.close()


def registry() -> Registry:
    found = Registry()
    for name, is_async in NAMES.items():
        found.tasks[name] = SimpleNamespace(is_async=is_async)  # type: ignore[assignment]
    return found


def places(redis: Redis, interval: float = 0) -> Positions:
    return Positions(redis, registry(), interval)


async def create(redis: Redis, account: str, count: int = 1, name: str = "short", feed: str = "") -> list[Ticket]:
    new = []
    for _ in range(count):
        status = Status(QUEUED, new_key(), timestamp())
        new.append(NewTask(status.key, status.line(), False, name, b"{}", b"", "default", 100, 60, ""))
    assert isinstance(await tasks.create(redis, account, new, Usage(), life=100, feed=feed), list)
    return [Ticket(task.key, "default", account, name) for task in new]


async def register(redis: Redis, executors: int = 1, concurrency: int = 10, **more: Any) -> None:
    facts = WorkerFacts("w", ("default",), tuple(NAMES), 1, "host", "3", "3.11", executors, concurrency)
    await workers.register(redis, facts, 1000)
    if more:
        await workers.renew(redis, "w", 1000, "busy", orjson.dumps([more]))


async def measured(redis: Redis, **seconds: float) -> None:
    """Has each task name run for so many seconds."""
    measures = Measures(redis, NAMES)
    now = datetime.now(UTC)
    for name, took in seconds.items():
        status = Status(QUEUED, new_key(), timestamp_of(now)).executing(timestamp_of(now))
        measures.ended(name, status.ended("success", b"1", timestamp_of(now + timedelta(seconds=took))))
    await measures.flush()


async def reserved(redis: Redis) -> list[str]:
    """All keys in the order in which workers take them."""
    found: list[str] = []
    while True:
        known = [(name, is_async, None) for name, is_async in NAMES.items()]
        one = await tasks.reserve(redis, "w", ("default",), sync_places=1, async_places=0, ahead=0, known=known)
        if not one.tasks:
            return found
        found += [task.key for task in one.tasks]


async def test_places_are_those_in_which_workers_take_tasks_of_several_accounts(redis: Redis) -> None:
    await register(redis)
    chance = seeded()
    for _ in range(scale(100, 10)):
        tickets = []
        for _ in range(chance.randint(1, 12)):
            tickets += await create(redis, chance.choice("aaabcd"), chance.randint(1, 6))
        for _ in range(chance.randint(0, 3)):  # turns go on from where they are
            one = await tasks.reserve(redis, "w", ("default",), sync_places=1, async_places=0, ahead=0, known=[])
            tickets = [ticket for ticket in tickets if ticket.key not in {task.key for task in one.tasks}]
        found = await places(redis).waits(tickets)
        order = sorted(found, key=lambda key: found[key].position or 0)
        assert [found[key].position for key in order] == list(range(1, len(tickets) + 1))
        few = await places(redis).waits(tickets[:2])  # searched one by one, not in pages
        assert few == {ticket.key: found[ticket.key] for ticket in tickets[:2]}
        assert await reserved(redis) == order


async def test_a_place_that_is_too_deep_or_gone_is_not_known(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "DEPTH", 30)
    monkeypatch.setattr(waiting, "PAGE", 10)
    await register(redis)
    tickets = await create(redis, "a", 40)
    for some in (tickets, tickets[:1] + tickets[-1:]):
        found = await places(redis).waits(some)
        known = {key: wait.position for key, wait in found.items() if wait.position is not None}
        assert known == {ticket.key: place for place, ticket in enumerate(tickets[:30], 1) if ticket in some}
    gone = Ticket(new_key(), "default", "a", "short")
    assert (await places(redis).waits([gone]))[gone.key] == Wait(None, None, None)


async def test_a_list_is_read_in_pages_and_no_further_than_need_be(redis: Redis) -> None:
    keys = [ticket.key for ticket in await create(redis, "a", 2500)]
    before = redis.round_trips
    assert await waiting.read_ranks(redis, OWN, keys[:10]) == {key: rank for rank, key in enumerate(keys[:10])}
    assert redis.round_trips - before == 1
    assert await waiting.read_ranks(redis, OWN, keys[-10:]) == {key: 2490 + rank for rank, key in enumerate(keys[-10:])}
    assert redis.round_trips - before == 4


@pytest.mark.parametrize(
    ("commands", "expected"),
    [
        ([("ZADD", names.WORKERS, "1", "w")], "no worker serves the queue 'default'"),
        ([("SADD", names.PAUSED, "default")], "the queue 'default' is paused"),
        ([("SADD", names.PAUSED, "low")], None),
        ([("SET", names.RQ_SUSPENDED, "1")], "RQ is suspended: rq resume"),
        ([("HSET", names.WORKER + "w", "queues", "high,low")], "no worker serves the queue 'default'"),
        (
            [("ZADD", names.WORKERS, "1", "w"), ("SET", names.RQ_SUSPENDED, "1"), ("SADD", names.PAUSED, "default")],
            "no worker serves the queue 'default'",
        ),
    ],
)
async def test_what_a_task_waits_for_is_said_in_a_sentence(
    redis: Redis, commands: list[tuple[str, ...]], expected: str | None
) -> None:
    await register(redis)
    await measured(redis, short=1.0)
    (ticket,) = await create(redis, "a")
    for command in commands:
        await redis.command(*command)
    wait = (await places(redis).waits([ticket]))[ticket.key]
    assert wait == Wait(1, None if expected else 1.0, expected)


async def test_the_end_is_expected_after_what_comes_before_at_the_measured_times(redis: Redis) -> None:
    await register(redis, executors=2)
    await measured(redis, short=1.0, long=10.0)
    tickets = [*await create(redis, "a", 4, "long"), *await create(redis, "a", 4, "short")]
    found = [wait.eta for wait in (await places(redis).waits(tickets)).values()]
    # Two executors; of what stands in the queue half is long, so that one task takes 5.5 s before the next one begins.
    assert found[:2] == [10.0, 10.0], "two executors are free"
    assert found[2:] == [
        pytest.approx(rank * 5.5 / 2 + own, abs=0.1)
        for rank, own in zip(range(2, 8), (10, 10, 1, 1, 1, 1), strict=True)
    ]


async def test_what_runs_now_has_to_end_first(redis: Redis) -> None:
    begun = datetime.now(UTC) - timedelta(seconds=4)
    running = {"key": new_key(), "name": "long", "started": timestamp_of(begun)}
    await register(redis, pid=1, kind="def", tasks=[running])
    await measured(redis, short=1.0, long=10.0)
    (ticket,) = await create(redis, "a")
    asked = datetime.now(UTC)
    eta = (await places(redis).waits([ticket]))[ticket.key].eta
    # It has run for a bit longer than four seconds, by the time that all this takes.
    latest, earliest = (10 + 1 - (moment - begun).total_seconds() for moment in (asked, datetime.now(UTC)))
    assert eta is not None
    assert earliest - 0.1 <= eta <= latest + 0.1


async def test_async_tasks_do_not_wait_for_others(redis: Redis) -> None:
    running = {"key": new_key(), "name": "long", "started": timestamp()}
    await register(redis, pid=1, kind="def", tasks=[running])
    await measured(redis, short=1.0, long=10.0, **{"async": 3.0})
    await create(redis, "a", 5, "long")
    (ticket,) = await create(redis, "a", 1, "async")
    assert (await places(redis).waits([ticket]))[ticket.key] == Wait(6, 3.0, None)


@pytest.mark.parametrize("name", ["short", "made up"])
async def test_nothing_is_expected_that_was_never_measured(redis: Redis, name: str) -> None:
    await register(redis)
    (ticket,) = await create(redis, "a", name=name)
    assert (await places(redis).waits([ticket]))[ticket.key] == Wait(1, None, None)


async def test_no_executor_that_knows_the_task_means_no_expected_end(redis: Redis) -> None:
    await register(redis, executors=0)
    await measured(redis, short=1.0)
    (ticket,) = await create(redis, "a")
    assert (await places(redis).waits([ticket]))[ticket.key] == Wait(1, None, None)


def test_turns_decide_how_many_come_before() -> None:
    lanes = Lanes("q", "a", ("b", "a", "c"), {"a": 5, "b": 2, "c": 1})
    served = "bacbaaaa"  # the order in which they are taken
    for account in "abc":
        found = [lanes.before(account, rank) for rank in range(lanes.lengths[account])]
        assert found == [place for place, other in enumerate(served) if other == account]
    assert Lanes("q", "a", (), {}).before("a", 7) == 7


# What followers are told

KEY = new_key()


def line(seq: int, text: bytes = b"line", *, key: str = KEY, final: bool = False) -> Line:
    return Line(key, seq, final, text)


async def taken(follower: Follower) -> list[bytes]:
    return await follower.take(0.01)


async def test_a_hint_is_taken_like_a_line_and_a_newer_one_replaces_it() -> None:
    follower = Follower([line(1)])
    for place in range(1000):
        follower.hint(KEY, b"%d" % place)
    assert await taken(follower) == [b"999"]
    assert await taken(follower) == []
    sleeping = asyncio.create_task(follower.take(PATIENCE))
    await asyncio.sleep(0)
    follower.hint(KEY, b"wakes")
    assert await sleeping == [b"wakes"]


async def test_a_hint_never_follows_or_replaces_what_is_stored() -> None:
    other = new_key()
    follower = Follower([line(1), line(1, key=other)])
    follower.hint(KEY, b"hint")
    follower.hint(other, b"other's")
    follower.offer(line(2, b"started"))
    follower.hint(KEY, b"late")
    assert await taken(follower) == [b"other's", b"started"]
    follower.hint(KEY, b"later")
    assert await taken(follower) == []
    follower.offer(line(3, b"end", final=True))
    follower.hint(KEY, b"latest")
    assert await taken(follower) == [b"end"]
    assert not follower.finished
    follower.close()
    assert follower.finished


async def test_a_stream_that_is_ended_has_no_hint_left() -> None:
    follower = Follower([line(1)])
    follower.hint(KEY, b"hint")
    follower.close()
    assert follower.finished
    assert await taken(follower) == []


async def test_what_ran_before_and_waits_again_is_told_no_place() -> None:
    follower = Follower([line(2)])
    follower.hint(KEY, b"hint")
    assert await taken(follower) == []


def follow(positions: Positions, tickets: list[Ticket], seq: int = 1) -> Follower:
    follower = Follower([line(seq, key=ticket.key) for ticket in tickets])
    positions.add(follower)
    return follower


async def told(follower: Follower) -> dict[str, int]:
    return {status["key"]: status["position"] for status in map(orjson.loads, await taken(follower))}


async def test_places_are_told_in_the_second_round_and_then_when_they_change(redis: Redis) -> None:
    await register(redis)
    positions = places(redis, 0.001)
    first = await create(redis, "a", 2)
    tickets = await create(redis, "a", 3)
    follower = follow(positions, tickets)
    another = follow(positions, tickets[2:])
    await positions._tell_all()
    assert await told(follower) == {}, "they have not waited for an interval yet"
    await positions._tell_all()
    assert await told(follower) == {ticket.key: place for place, ticket in enumerate(tickets, 3)}
    assert await told(another) == {tickets[2].key: 5}
    await positions._tell_all()
    assert await told(follower) == {}, "nothing has changed"
    late = follow(positions, tickets[:1])
    await redis.command("LREM", OWN, 1, first[0].key)
    await positions._tell_all()
    assert await told(follower) == {ticket.key: place for place, ticket in enumerate(tickets, 2)}
    assert await told(late) == {tickets[0].key: 2}
    follower.offer(line(2, b"{}", key=tickets[0].key))
    await follower.take(0)
    await redis.command("LREM", OWN, 1, first[1].key)
    await positions._tell_all()
    assert await told(follower) == {tickets[1].key: 2, tickets[2].key: 3}
    for one in (follower, another, late):
        positions.remove(one)
    await positions._tell_all()
    assert (positions._noted, positions._told) == ({}, {})


async def test_the_told_line_is_the_stored_one_with_two_members(redis: Redis) -> None:
    await register(redis)
    await measured(redis, short=1.5)
    positions = places(redis, 0.001)
    tickets = await create(redis, "a", 1)
    follower = follow(positions, tickets)
    await positions._tell_all()
    await positions._tell_all()
    stored = await redis.command("HGET", names.TASK + tickets[0].key, "line")
    assert await taken(follower) == [stored[:-1] + b',"position":1,"eta":1.5}']
    assert await redis.command("HGET", names.TASK + tickets[0].key, "line") == stored
    assert line_with(b'{"a":1}', Wait(2, None, None)) == b'{"a":1,"position":2,"eta":null}'


async def test_a_round_tells_few_and_those_first_that_were_told_longest_ago(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(positions_module, "MOST_LINES", 3)
    await register(redis)
    positions = places(redis, 0.001)
    heads = await create(redis, "a", 6)
    tickets = await create(redis, "a", 9)
    follower = follow(positions, tickets)
    await positions._tell_all()
    seen: list[set[str]] = []
    for head in heads:
        await positions._tell_all()
        seen.append(set(await told(follower)))
        await redis.command("LREM", OWN, 1, head.key)
    assert [len(some) for some in seen] == [3] * 6
    everybody = {ticket.key for ticket in tickets}
    assert set.union(*seen[:3]) == set.union(*seen[3:]) == everybody


async def test_a_round_looks_at_a_bounded_number_of_tasks(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(positions_module, "MOST_TOLD", 5)
    await register(redis)
    positions = places(redis, 0.001)
    first, second = await create(redis, "a", 4), await create(redis, "a", 4)
    followers = [follow(positions, first), follow(positions, second)]
    for _ in range(3):
        await positions._tell_all()
    assert len(positions._noted) == 5
    assert len(await told(followers[0])) == 4, "the oldest streams come first"
    monkeypatch.setattr(positions_module, "MOST_LOOKED", 2)
    await positions._tell_all()
    assert len(positions._noted) == 2


async def test_nobody_who_follows_costs_redis_nothing(redis: Redis) -> None:
    positions = places(redis, 0.001)
    running = asyncio.create_task(positions.run())
    await redis.command("PING")
    before = redis.round_trips
    follower = follow(positions, [Ticket(new_key(), "default", "a", "short")], seq=2)
    await asyncio.sleep(0.05)
    assert redis.round_trips == before, "a task that runs has no place"
    positions.remove(follower)
    await eventually(lambda: not positions._wanted.is_set())
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    off = places(redis, 0)
    follow(off, [Ticket(new_key(), "default", "a", "short")])
    await off.run()
    assert off._followers == {}


async def test_a_redis_that_fails_ends_nothing(redis: Redis) -> None:
    await redis.command("SET", names.WORKERS, "of another type")
    positions = places(redis, 0.001)
    tickets = await create(redis, "a", 1)
    follower = follow(positions, tickets)
    running = asyncio.create_task(positions.run())
    await asyncio.sleep(0.05)
    assert await told(follower) == {}
    await redis.command("DEL", names.WORKERS)
    positions._scene_begun = float("-inf")
    assert await follower.take(PATIENCE)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_a_reader_that_is_stuck_holds_one_line_a_task(redis: Redis, redis_url: str) -> None:
    await register(redis)
    feed = Feed(redis, redis_url, 5)
    positions = places(redis, 0.001)
    heads, tickets = await create(redis, "a", 20), await create(redis, "a", 5)
    follower = follow(positions, tickets)
    feed.add(follower)
    await positions._tell_all()
    for head in heads:
        await positions._tell_all()
        await redis.command("LREM", OWN, 1, head.key)
    await positions._tell_all()
    assert len(follower._hints) == 5
    assert await told(follower) == {ticket.key: place for place, ticket in enumerate(tickets, 1)}
