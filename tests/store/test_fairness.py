"""Queues are fair across accounts: turns, lanes beside the queue's own list, and what random handling does to them."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator

import pytest

from dragon.connections import Redis
from dragon.keys import new_key
from dragon.status import SUCCESS, Status, parse_line, timestamp
from dragon.store import names, tasks, workers
from dragon.store.tasks import NewTask, Reserved, Usage, Write
from dragon.store.workers import WorkerFacts
from tests.figures import scale, seeded

OWN = names.RQ_QUEUE + "default"


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    connection = Redis(redis_url, 5)
    for worker in ("w", "v"):
        facts = WorkerFacts(worker, ("default",), ("hello", "slow"), 1, "host", "3", "3.11")
        await workers.register(connection, facts, 1000)
    yield connection
    await connection.close()


async def create(redis: Redis, account: str, count: int = 1, name: str = "hello") -> list[str]:
    new = []
    for _ in range(count):
        status = Status("queued", new_key(), timestamp())
        new.append(NewTask(status.key, status.line(), False, name, b"{}", b"", "default", 100, 60, ""))
    assert isinstance(await tasks.create(redis, account, new, Usage(), life=100), list)
    return [task.key for task in new]


async def reserve(redis: Redis, places: int, worker: str = "w", ahead: float = 0.0) -> list[Reserved]:
    reservation = await tasks.reserve(
        redis,
        worker,
        ("default",),
        sync_places=places,
        async_places=0,
        ahead=ahead,
        known=[("hello", False, 0.001), ("slow", False, None)],
    )
    return reservation.tasks


async def owners(redis: Redis, reserved: list[Reserved]) -> str:
    """The accounts of tasks, in their order: 'abab'."""
    facts = [await redis.command("HGET", names.TASK + one.key, "facts") for one in reserved]
    return "".join(fact.decode().split(" ")[1] for fact in facts)


async def end(redis: Redis, reserved: Reserved, worker: str = "w") -> None:
    line = parse_line(reserved.line).ended(SUCCESS, b"1", timestamp()).line()
    assert await tasks.update(redis, worker, [Write(reserved.key, reserved.attempt, SUCCESS, line)], life=100) == [True]


async def test_accounts_take_turns_however_much_one_of_them_sends(redis: Redis) -> None:
    await create(redis, "a", 100)
    await create(redis, "b", 3)
    await create(redis, "c", 2)
    assert await owners(redis, await reserve(redis, 9)) == "abcabcaba"


async def test_a_turn_is_kept_from_one_call_to_the_next(redis: Redis) -> None:
    await create(redis, "a", 10)
    await create(redis, "b", 10)
    assert "".join([await owners(redis, await reserve(redis, 1)) for _ in range(6)]) == "ababab"


async def test_the_tasks_of_one_account_stay_in_their_order(redis: Redis) -> None:
    first = await create(redis, "a", 5)
    second = await create(redis, "b", 5)
    first += await create(redis, "a", 5)
    taken = [one.key for one in await reserve(redis, 15)]
    assert [key for key in taken if key in first] == first
    assert [key for key in taken if key in second] == second


async def test_one_account_alone_has_the_queues_own_list_and_no_turns(redis: Redis) -> None:
    for account in ("a", "b"):
        await create(redis, account, 5)
        assert await redis.command("LLEN", OWN) == 5
        assert await redis.command("EXISTS", names.TURNS + "default", f"{OWN}@{account}") == 0
        assert len(await reserve(redis, 5)) == 5
    assert await redis.command("SMEMBERS", names.RQ_QUEUES) == [OWN.encode()]


async def test_the_next_lane_takes_the_place_of_an_own_list_that_has_run_empty(redis: Redis) -> None:
    await create(redis, "a", 1)
    keys = await create(redis, "b", 4)
    assert await owners(redis, await reserve(redis, 1)) == "a"
    assert await redis.command("LRANGE", OWN, 0, -1) == [key.encode() for key in keys]
    assert await redis.command("GET", names.LANE + "default") == b"b"
    assert await redis.command("EXISTS", names.TURNS + "default", f"{OWN}@b") == 0


async def test_a_lane_whose_tasks_have_no_place_does_not_hold_up_the_others(redis: Redis) -> None:
    await create(redis, "a", 100, name="slow")
    await create(redis, "b", 3)
    # No second place, but what is known to be short is taken ahead; 'slow' is not known to be.
    assert await owners(redis, await reserve(redis, 1, ahead=0.05)) == "abbb"


async def test_what_goes_back_goes_to_the_front_of_its_own_account(redis: Redis) -> None:
    first = await create(redis, "a", 3)
    second = await create(redis, "b", 3)
    taken = await reserve(redis, 4)
    assert await owners(redis, taken) == "abab"
    assert await tasks.give_back(redis, "w", [(one.key, one.attempt) for one in taken]) == 4
    again = [one.key for one in await reserve(redis, 6)]
    assert [key for key in again if key in first] == first
    assert [key for key in again if key in second] == second


async def test_what_rq_itself_puts_into_an_empty_list_has_its_turn_too(redis: Redis) -> None:
    await redis.command("RPUSH", OWN, "planted")
    await create(redis, "a", 2)
    assert await owners(redis, await reserve(redis, 2)) == "aa"
    assert await redis.command("EXISTS", OWN) == 0


async def test_a_worker_brings_forward_what_rq_has_left_in_a_lane(redis: Redis) -> None:
    await create(redis, "a", 2)
    keys = await create(redis, "b", 2)
    await redis.command("DEL", OWN)  # `rq empty`
    assert await workers.renew(redis, "w", 10, "idle") == set()
    assert await redis.command("LRANGE", OWN, 0, -1) == [key.encode() for key in keys]


async def assert_lanes_are_sound(redis: Redis, waiting: dict[str, str]) -> None:
    """Each waiting key (with its account) is in one list, its account's; the turns are those of the lists."""
    own = await redis.command("LRANGE", OWN, 0, -1)
    owner = (await redis.command("GET", names.LANE + "default") or b"").decode()
    found = Counter(key.decode() for key in own)
    lanes = set()
    for account in "abcd":
        lane = await redis.command("LRANGE", f"{OWN}@{account}", 0, -1)
        found.update(key.decode() for key in lane)
        assert all(waiting[key.decode()] == account for key in lane)
        lanes |= {account} if lane else set()
    assert found == Counter(waiting.keys())
    assert all(waiting[key.decode()] == owner for key in own)
    turns = [turn.decode() for turn in await redis.command("LRANGE", names.TURNS + "default", 0, -1)]
    assert sorted(turns) == (sorted(lanes | {owner}) if lanes else [])
    assert own or not lanes
    assert {name.decode() for name in await redis.command("SMEMBERS", names.RQ_QUEUES)} - {OWN} == {
        f"{OWN}@{account}" for account in lanes
    }
    for account, count in Counter(waiting.values()).items():
        assert int(await redis.command("HGET", names.ACCOUNT + account, "queued")) == count


async def test_random_handling_leaves_each_task_in_one_list(redis: Redis) -> None:
    chance = seeded()
    waiting: dict[str, str] = {}
    running: dict[str, tuple[Reserved, str, str]] = {}  # key -> task, worker, account
    for _ in range(scale(20_000, 1500)):
        match chance.choice(["create", "create", "reserve", "reserve", "back", "retry", "end", "cancel", "pop"]):
            case "create":
                account = chance.choice("aaabcd")
                for key in await create(redis, account, chance.randint(1, 4)):
                    waiting[key] = account
            case "reserve":
                worker = chance.choice("wv")
                for one in await reserve(redis, chance.randint(1, 6), worker, ahead=chance.choice([0, 0.003])):
                    running[one.key] = (one, worker, waiting.pop(one.key))
            case "back" | "retry" as how if running:
                one, worker, account = running.pop(chance.choice(list(running)))
                if how == "back":
                    assert await tasks.give_back(redis, worker, [(one.key, one.attempt)]) == 1
                else:
                    assert await tasks.retry(redis, worker, one.key, one.attempt) == "queued"
                waiting[one.key] = account
            case "end" if running:
                one, worker, _ = running.pop(chance.choice(list(running)))
                await end(redis, one, worker)
            case "cancel" if waiting:
                key = chance.choice(list(waiting))
                line = parse_line(await redis.command("HGET", names.TASK + key, "line"))
                seq = int((await redis.command("HGET", names.TASK + key, "state")).split(b" ")[1])
                ended = line.ended("error", b'"cancelled"', timestamp()).line()
                assert await tasks.cancel(redis, key, waiting.pop(key), seq, ended, life=100) == "ended"
            case "pop" if waiting:  # as RQ's own worker does
                key = (await redis.command("LPOP", OWN)).decode()
                claimed = await tasks.claim(redis, key, "rq-worker", 1000)
                assert claimed is not None
                running[key] = (claimed, "rq-worker", waiting.pop(key))
        await assert_lanes_are_sound(redis, waiting)
