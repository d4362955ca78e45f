"""Measurements: what ends is counted once, in fixed space, and read again as slots, totals, quantiles and means."""

from __future__ import annotations

import asyncio
import itertools
import math
import random
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from dragon.connections import Redis
from dragon.errors import Unavailable
from dragon.keys import new_key
from dragon.status import CANCELLED, ERROR, QUEUED, SUCCESS, Status, timestamp_of
from dragon.store import measures, names
from dragon.store.measures import BOUNDS, BUCKETS, Histogram, Measures
from dragon.store.scripts import script
from tests.faults.redis_proxy import RedisProxy
from tests.figures import scale, seeded

KNOWN = ("hello", "image.thumb", "name: with:colons")
QUEUED_AT = datetime(2026, 11, 1, 12, tzinfo=UTC)


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    connection = Redis(redis_url, 5)
    yield connection
    await connection.close()


def ended(waiting: float = 0.5, running: float = 2.0, kind: str = SUCCESS, result: bytes = b"1") -> Status:
    started = QUEUED_AT + timedelta(seconds=waiting)
    status = Status(QUEUED, new_key(), timestamp_of(QUEUED_AT)).executing(timestamp_of(started))
    return status.ended(kind, result, timestamp_of(started + timedelta(seconds=running)))


async def only(redis: Redis, period: measures.Period = "hour", name: str | None = None) -> measures.Sample:
    """The one slot that has something; the minute may turn between two flushes."""
    (sample,) = [one for one in await measures.history(redis, period, name) if one.success or one.error]
    return sample


async def all_names(redis: Redis) -> set[str]:
    found = [name.decode() for name in await redis.command("KEYS", "*")]
    return {name.rstrip("0123456789") if "flushed" not in name else name[:24] for name in found}


async def test_each_outcome_is_counted_under_its_name_and_with_all(redis: Redis) -> None:
    measured = Measures(redis, KNOWN)
    for _ in range(3):
        measured.ended("hello", ended())
    measured.ended("hello", ended(kind=ERROR, result=b'"the task took longer than its 2 s"'))
    measured.ended("image.thumb", ended(kind=ERROR, result=CANCELLED))
    measured.count("name: with:colons", "error")
    await measured.flush()
    nothing = {"success": 0, "error": 0, "cancelled": 0}
    assert await measures.totals(redis) == {
        "hello": nothing | {"success": 3, "error": 1},
        "image.thumb": nothing | {"cancelled": 1},
        "name: with:colons": nothing | {"error": 1},
    }
    assert await measures.names_measured(redis) == sorted(KNOWN)
    everything = await only(redis)
    assert (everything.success, everything.error, everything.cancelled) == (3, 2, 1)
    one = await only(redis, "day", "hello")
    assert (one.seconds, one.success, one.error, one.cancelled) == (900, 3, 1, 0)


async def test_the_seconds_of_a_task_are_found_again_within_a_bucket(redis: Redis) -> None:
    measured = Measures(redis, KNOWN)
    for tenth in range(1, 101):
        measured.ended("hello", ended(waiting=tenth / 10, running=tenth / 100))
    await measured.flush()
    sample = await only(redis, name="hello")
    for found, true in (
        (sample.waiting_p50, 5.0),
        (sample.waiting_p95, 9.5),
        (sample.running_p50, 0.5),
        (sample.running_p95, 0.95),
    ):
        assert found is not None
        assert true / 2**0.5 <= found <= true * 2**0.5
    assert await measures.mean_running(redis) == {"hello": pytest.approx(0.505)}
    found = (await measures.measured(redis))["hello"]
    assert (found.waiting.count, found.waiting.seconds) == (100, pytest.approx(505.0))


async def test_what_never_ran_and_what_was_cancelled_has_no_seconds(redis: Redis) -> None:
    measured = Measures(redis, KNOWN)
    measured.ended("hello", ended(kind=ERROR, result=CANCELLED))
    measured.ended(
        "hello", Status(ERROR, new_key(), timestamp_of(QUEUED_AT), None, timestamp_of(QUEUED_AT), None, b"1")
    )
    await measured.flush()
    sample = await only(redis)
    assert (sample.error, sample.cancelled) == (1, 1)
    assert (sample.waiting_p50, sample.waiting_p95, sample.running_p50, sample.running_p95) == (None,) * 4
    assert await measures.mean_running(redis) == {}


@pytest.mark.parametrize("queued", ["2026-1\ufffd-27T23:48:48.281979Z", "2026-11-27T23:48:48.281979", ""])
async def test_a_task_whose_date_somebody_has_damaged_counts_and_has_no_seconds(redis: Redis, queued: str) -> None:
    measured = Measures(redis, KNOWN)
    start, end = "2026-11-27T23:48:49.000000+00:00", "2026-11-27T23:48:50.000000+00:00"
    measured.ended("hello", Status(SUCCESS, new_key(), queued, start, end))
    await measured.flush()
    sample = await only(redis)
    assert (sample.success, sample.waiting_p50, sample.running_p50) == (1, None, None)


async def test_names_that_no_task_has_count_as_unknown_and_become_no_names_in_redis(redis: Redis) -> None:
    measured = Measures(redis, KNOWN)
    for number in range(1000):
        measured.count(f"made up {number}", "error")
    measured.count("dragon:workers", "error")
    await measured.flush()
    assert await measures.totals(redis) == {"unknown": {"success": 0, "error": 1001, "cancelled": 0}}
    assert await all_names(redis) == {
        "dragon:measures:minute:",
        "dragon:measures:quarter:",
        "dragon:measures:totals",
        "dragon:measures:names",
        "dragon:measures:flushed:",
    }


async def test_a_name_takes_the_same_space_however_many_tasks_of_it_end(redis: Redis) -> None:
    chance = seeded()
    measured = Measures(redis, KNOWN)
    for _ in range(3):
        for _ in range(5000):
            measured.ended(chance.choice(KNOWN), ended(10 ** chance.uniform(-4, 5), 10 ** chance.uniform(-4, 5)))
        await measured.flush()
    fields = 3 + 2 * (BUCKETS + 2)
    assert await redis.command("HLEN", names.MEASURES + "totals") <= (len(KNOWN) + 1) * fields
    for kind, kept in (("minute:", 75 * 60), ("quarter:", 100 * 900), ("flushed:", 86400)):
        for name in await redis.command("KEYS", f"{names.MEASURES}{kind}*"):
            assert 0 < await redis.command("TTL", name) <= kept, name


async def test_history_has_empty_slots_too_the_oldest_first(redis: Redis) -> None:
    before = time.time()
    measured = Measures(redis, KNOWN)
    measured.ended("hello", ended())
    await measured.flush()
    for period, seconds, count in (("hour", 60, 60), ("day", 900, 96)):
        samples = await measures.history(redis, period)  # type: ignore[arg-type]
        starts = [sample.start for sample in samples]
        assert len(samples) == count
        assert starts == [starts[0] + seconds * number for number in range(count)]
        assert before - 2 * seconds < starts[-1] <= time.time()
        assert sum(sample.success for sample in samples) == 1
        assert await measures.history(redis, period, "image.thumb") == [  # type: ignore[arg-type]
            measures.Sample(start, seconds, 0, 0, 0, None, None, None, None) for start in starts
        ]


async def test_recent_waiting_is_that_of_this_minute_and_the_one_before_in_one_round_trip(redis: Redis) -> None:
    now = 1_800_000_000.0  # a minute begins
    for minutes, seconds in ((2, 1000.0), (1, 0.3), (0, 40.0), (-1, 1000.0)):
        tally = measures._Tally()
        tally.add(
            timestamp_of(QUEUED_AT), timestamp_of(QUEUED_AT + timedelta(seconds=seconds)), timestamp_of(QUEUED_AT)
        )
        slot = f"{names.MEASURES}minute:{int(now // 60) - minutes}"
        for field, count in tally.fields().items():
            await redis.command("HSET", slot, f":{field}", count, f"hello:{field}", 7)
    await redis.command("PING")
    before = redis.round_trips
    found = await measures.recent_waiting(redis, now + 59.9)
    assert redis.round_trips == before + 1
    assert (found.count, found.seconds) == (2, 40.3)
    quick, slow = found.quantile(0.5), found.quantile(0.95)
    assert quick is not None
    assert slow is not None
    assert 0.3 / 2**0.5 <= quick <= 0.3 * 2**0.5
    assert 40 / 2**0.5 <= slow <= 40 * 2**0.5
    nothing = await measures.recent_waiting(redis, now + 600)
    assert (nothing.count, nothing.quantile(0.5), nothing.quantile(0.95)) == (0, None, None)


async def test_a_flush_that_is_sent_twice_counts_once(redis: Redis) -> None:
    arguments = ("process", 1, 60, 1, "hello", "hello:success", 2)
    assert await redis.run(script("measure"), arguments) == 1
    assert await redis.run(script("measure"), arguments) == 0
    assert await redis.run(script("measure"), ("process", 2, 60, 1, "hello", "hello:success", 3)) == 1
    assert await redis.run(script("measure"), arguments) == 0, "an old one that comes late"
    assert await redis.run(script("measure"), ("another", 1, 60, 1, "hello", "hello:success", 4)) == 1
    assert (await measures.totals(redis))["hello"]["success"] == 9


async def test_nothing_is_written_when_nothing_has_ended(redis: Redis) -> None:
    measured = Measures(redis, KNOWN)
    await measured.flush()
    await measured.finish()
    assert await redis.command("DBSIZE") == 0


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A folder for a socket, for which tmp_path is too long."""
    with tempfile.TemporaryDirectory(prefix="dragon-test-") as name:
        yield Path(name)


@pytest.mark.parametrize("k", [1, 2, 3])
async def test_replies_that_are_lost_count_nothing_twice_and_lose_nothing(
    redis_url: str, short_path: Path, k: int
) -> None:
    proxy = RedisProxy(short_path / "proxy.sock", redis_url, random.Random(k))
    async with proxy.serving():
        redis = Redis(proxy.url, 5)
        measured = Measures(redis, KNOWN)
        proxy.drop_every, failed, counted = k, 0, 0
        for number in range(20):
            if k == 1 and number == 10:
                proxy.drop_every = 0  # every reply is lost until here: nothing can be known to be written
            measured.ended("hello", ended())
            counted += 1
            try:
                await measured.flush()
            except Unavailable:
                failed += 1
        proxy.drop_every = 0
        await measured.finish()
        assert (await measures.totals(redis))["hello"]["success"] == counted
        assert failed == proxy.dropped > 5
        await redis.close()


async def test_the_loop_goes_on_when_redis_refuses_and_brings_all_later(
    redis: Redis, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(measures, "INTERVAL", 0.01)
    measured = Measures(redis, KNOWN)
    strange = f"{names.MEASURES}flushed:{measured._id}"
    await redis.command("HSET", strange, "of another", "type")
    measured.ended("hello", ended())
    running = asyncio.create_task(measured.run())
    async with asyncio.timeout(10):
        while "measurements cannot be written" not in caplog.text:
            await asyncio.sleep(0.01)
        measured.ended("hello", ended())
        await asyncio.sleep(0.05)
        assert caplog.text.count("measurements cannot be written") == 1, "said once, not once a second"
        await redis.command("DEL", strange)
        while (await measures.totals(redis)).get("hello", {}).get("success") != 2:
            await asyncio.sleep(0.01)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


def test_the_buckets_reach_from_a_millisecond_to_three_hours() -> None:
    assert BOUNDS[0] == 0.001
    assert 3 * 3600 < BOUNDS[-1] < 4 * 3600
    for lower, upper in itertools.pairwise(BOUNDS):
        assert upper / lower == pytest.approx(math.sqrt(2))


def buckets(**counts: int) -> Histogram:
    """A histogram by the number of the bucket: b0=1."""
    found = [counts.get(f"b{number}", 0) for number in range(BUCKETS)]
    return Histogram(sum(found), 0.0, tuple(found))


def test_quantiles_are_interpolated_within_their_bucket() -> None:
    assert buckets().quantile(0.5) is None
    assert buckets(b0=1).quantile(0.5) == 0.0005
    assert buckets(b0=4).quantile(0.25) == 0.00025
    assert buckets(b2=2, b4=2).quantile(0.5) == BOUNDS[2] == pytest.approx(0.002)
    assert buckets(b2=2, b4=2).quantile(0.75) == (BOUNDS[3] + BOUNDS[4]) / 2
    assert buckets(b48=3).quantile(0.95) == BOUNDS[-1], "longer than all buckets: at least so long"


def test_quantiles_of_random_seconds_are_those_of_their_order_within_a_bucket() -> None:
    chance = seeded()
    for _ in range(scale(500, 50)):
        seconds = sorted(10 ** chance.uniform(-3, 4) for _ in range(chance.randint(1, 300)))
        tally = measures._Tally()
        for one in seconds:
            status = ended(running=one)
            assert status.started and status.completed
            tally.add(status.queued, status.started, status.completed)
        histogram = Histogram(0, 0.0, tuple(tally.running))
        for share in (0.5, 0.95):
            true = seconds[math.ceil(share * len(seconds)) - 1]
            found = histogram.quantile(share)
            assert found is not None
            assert true / 2**0.5 - 0.001 <= found <= true * 2**0.5 + 0.001


async def test_a_recent_mean_counts_more_than_all_that_ever_ran(redis: Redis) -> None:
    await redis.command("HSET", names.MEASURES + "totals", "hello:running.count", 1000, "hello:running.us", 10**10)
    await redis.command("SADD", names.MEASURES + "names", "hello", "image.thumb")
    assert await measures.mean_running(redis) == {"hello": 10.0}
    measured = Measures(redis, KNOWN)
    measured.ended("hello", ended(running=2.0))
    await measured.flush()
    assert await measures.mean_running(redis) == {"hello": 2.0}


async def test_what_a_stranger_has_put_there_counts_as_nothing(redis: Redis) -> None:
    await redis.command("SADD", names.MEASURES + "names", "hello")
    await redis.command(
        "HSET", names.MEASURES + "totals", "hello:success", "many", "hello:running.count", "-1", "x", "y"
    )
    assert (await measures.totals(redis))["hello"] == {"success": 0, "error": 0, "cancelled": 0}
    assert await measures.mean_running(redis) == {}
