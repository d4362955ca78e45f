"""The way to Redis: gathering, time limits, cancellation, a script that Redis has forgotten."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable, Coroutine

import pytest
import uvloop
from redis.exceptions import ResponseError

from dragon.connections import Redis, Script
from dragon.errors import Unavailable
from tests.system import eventually
from tests.waiting import PATIENCE


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    connection = Redis(redis_url, PATIENCE)
    yield connection
    await connection.close()


@pytest.fixture
async def hurried(redis_url: str) -> AsyncIterator[Redis]:
    """A way to Redis that gives up soon."""
    connection = Redis(redis_url, 1)
    yield connection
    await connection.close()


@pytest.mark.parametrize(("count", "trips"), [(2, 1), (15, 1), (16, 1), (17, 2), (320, 20)])
async def test_commands_of_one_turn_of_the_loop_share_trips_of_sixteen(redis: Redis, count: int, trips: int) -> None:
    await redis.command("PING")
    before = redis.round_trips
    replies = await asyncio.gather(*(redis.command("ECHO", str(number)) for number in range(count)))
    assert replies == [str(number).encode() for number in range(count)]
    assert redis.round_trips == before + trips


async def test_an_error_is_its_own_commands_alone(redis: Redis) -> None:
    found = await asyncio.gather(
        redis.command("SET", "k", "v"),
        redis.command("LPUSH", "k", "x"),
        redis.command("GET", "k"),
        return_exceptions=True,
    )
    assert (found[0], found[2]) == (b"OK", b"v")
    assert isinstance(found[1], ResponseError)


async def test_a_forgotten_script_is_sent_again(redis: Redis) -> None:
    script = Script("one", "return 41 + ARGV[1]")
    assert await redis.run(script, [1]) == 42
    await redis.command("SCRIPT", "FLUSH")
    assert await redis.run(script, [2]) == 43


ADD_HEAD = Script("add", "local found = {} for i = 2, #ARGV do found[i - 1] = ARGV[1] + ARGV[i] end return found")


async def test_callers_of_one_turn_share_one_run_of_a_script_and_each_has_its_answer(redis: Redis) -> None:
    await redis.command("CONFIG", "RESETSTAT")
    for _ in range(2):  # the first time Redis does not know the script
        await redis.command("SCRIPT", "FLUSH")
        found = await asyncio.gather(*(redis.run_together(ADD_HEAD, lambda: (40,), (i,)) for i in range(15)))
        assert found == list(range(40, 55))
    stats = (await redis.command("INFO", "commandstats")).decode()
    assert "cmdstat_eval:calls=2," in stats
    assert "cmdstat_evalsha:calls=2," in stats


async def test_a_caller_that_has_gone_before_its_run_takes_no_part_in_it(redis: Redis) -> None:
    await redis.command("PING")
    push = Script("push", "for i = 2, #ARGV do redis.call('RPUSH', ARGV[1], ARGV[i]) end return {'done'}")
    gone, stays = (redis.run_together(push, lambda: ("pushed",), (i,)) for i in range(2))
    gone.cancel()
    assert await stays == b"done"
    assert await redis.command("LRANGE", "pushed", 0, -1) == [b"1"]
    with pytest.raises(ResponseError):
        await asyncio.gather(*(redis.run_together(ADD_HEAD, lambda: ("no number",), (i,)) for i in range(2)))


async def test_a_redis_that_hangs_is_unavailable_in_time_and_well_again_afterwards(hurried: Redis) -> None:
    await hurried.command("PING")
    await hurried.command("CLIENT", "PAUSE", "2500", "ALL")
    with pytest.raises(Unavailable, match="in time") as caught:
        await hurried.command("SET", "k", "v")
    assert caught.value.retry_after

    async def answers() -> bool:
        try:
            return bool(await hurried.command("PING") == b"PONG")
        except Unavailable:
            return False

    await eventually(answers)


class Standstill(asyncio.Protocol):
    """As a process that gets no time of the machine's for a second, when it has just read something."""

    def data_received(self, data: bytes) -> None:
        time.sleep(1)


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_a_reply_that_came_in_time_is_read_by_a_process_that_stood_still(
    redis_url: str, run: Callable[[Coroutine[None, None, None]], None]
) -> None:
    async def ask() -> None:
        redis = Redis(redis_url, 0.5)
        await redis.command("PING")
        ours, others = socket.socketpair()
        transport, _ = await asyncio.get_running_loop().create_connection(Standstill, sock=ours)
        try:
            asked = asyncio.ensure_future(redis.command("BLPOP", "empty", "0.1"))
            while redis._wire is None or not redis._wire.awaited:
                await asyncio.sleep(0)
            others.send(b"x")
            assert await asked is None
        finally:
            transport.close()
            others.close()
            await redis.close()

    run(ask())


async def test_what_is_sent_behind_a_command_that_hangs_is_given_up_with_it(redis: Redis) -> None:
    await redis.command("PING")
    await redis.command("CLIENT", "PAUSE", "2000", "ALL")
    hung = asyncio.ensure_future(redis.command("PING"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    first = redis.give_up_at()
    await asyncio.sleep(0.2)
    second = redis.give_up_at()
    assert first is not None
    assert second == pytest.approx(first, abs=0.05)
    assert await hung == b"PONG"
    third = redis.give_up_at()
    assert third is not None and third > first + 0.15


async def test_a_redis_whose_clock_was_set_is_believed_again(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dragon.connections.CLOCK_AGE", 0.0)
    await redis.command("PING")
    assert redis._clock is not None
    redis._clock -= 3600
    seconds = float((await redis.command("TIME"))[0])
    redis.give_up_at()
    await redis.command("PING")
    moment = redis.give_up_at()
    assert moment is not None and moment > seconds


async def test_what_was_asked_for_just_before_the_way_is_closed_is_still_answered(redis: Redis) -> None:
    await redis.command("PING")
    joined = redis.run_together(ADD_HEAD, lambda: (40,), (1,))
    await redis.close()
    assert joined.done() and joined.result() == 41


async def test_a_redis_that_is_not_there_is_unavailable() -> None:
    redis = Redis("unix:///nonexistent/redis.sock", 1)
    with pytest.raises(Unavailable, match="cannot be reached"):
        await redis.command("PING")
    found = await asyncio.gather(
        *(redis.run_together(ADD_HEAD, lambda: (40,), (i,)) for i in range(2)), return_exceptions=True
    )
    assert all(isinstance(error, Unavailable) for error in found)
    await redis.close()


async def test_a_caller_that_is_cancelled_does_not_disturb_the_others(redis: Redis) -> None:
    await redis.command("PING")
    tasks = [asyncio.create_task(redis.command("ECHO", str(number))) for number in range(200)]
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    found = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(reply, asyncio.CancelledError) for reply in found[::2])
    assert found[1::2] == [str(number).encode() for number in range(1, 200, 2)]
