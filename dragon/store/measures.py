"""What is measured of ended tasks: how many, how long they waited and ran, by task name, in fixed space.

Each process gathers what ends in it and writes it once a second, to the slots of this minute and of this quarter of an
hour, and to the totals. Seconds are counted in buckets of a histogram. Fields are named after tasks that are declared;
others count as `unknown`, and the empty name is all names added up.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from bisect import bisect_left
from collections.abc import Container, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from redis.exceptions import ResponseError

from dragon.connections import Argument, Redis
from dragon.errors import Unavailable
from dragon.status import CANCELLED, ERROR, Status
from dragon.store import names
from dragon.store.scripts import script
from dragon.store.workers import clock

log = logging.getLogger("dragon.measures")

Outcome = Literal["success", "error", "cancelled"]
Period = Literal["hour", "day"]

OUTCOMES: tuple[Outcome, ...] = ("success", "error", "cancelled")
UNKNOWN = "unknown"  # the name under which tasks count that nobody has declared
ALL = ""  # the name under which every task counts once more

INTERVAL = 1.0  # seconds between two flushes
REPEATABLE = 86400  # seconds for which a flush whose reply was lost may be sent again; Redis remembers it as long
LAST_REPEATABLE = 60  # the same for a process's last one
LAST_WAIT = 2.0  # seconds that the last flush may take

#: The upper bounds of the buckets in seconds: 1 ms, each the square root of two times the one before, to 3.3 hours.
BOUNDS: tuple[float, ...] = tuple(0.001 * 2 ** (k / 2) for k in range(48))
BUCKETS = len(BOUNDS) + 1  # the last is for what takes longer
_date = datetime.fromisoformat

#: By period: seconds of a slot, how many make the period, and their name in Redis, which keeps a few more.
_PERIODS: dict[Period, tuple[int, int, str]] = {"hour": (60, 60, "minute:"), "day": (900, 96, "quarter:")}
_RECENT = 5  # quarters of an hour, the present one included, that count as recent

# Fields of a slot are a task's name, ":" and one of these words.
_WAITING, _RUNNING = "waiting", "running"
_COUNT, _MICROSECONDS = ".count", ".us"
_SECONDS_FIELDS = {
    kind: (kind + _COUNT, kind + _MICROSECONDS, *(f"{kind}.{bucket}" for bucket in range(BUCKETS)))
    for kind in (_WAITING, _RUNNING)
}
_FIELDS = (*OUTCOMES, *_SECONDS_FIELDS[_WAITING], *_SECONDS_FIELDS[_RUNNING])


@dataclass(frozen=True, slots=True)
class Histogram:
    """Seconds of many tasks; `buckets` has how many were in each of BOUNDS, and those that took longer."""

    count: int
    seconds: float
    buckets: tuple[int, ...]

    def quantile(self, share: float) -> float | None:
        """The seconds that a share of the tasks stayed below, as if those of a bucket were spread evenly in it."""
        total = sum(self.buckets)
        wanted, before, lower = share * total, 0, 0.0
        for bound, count in zip((*BOUNDS, BOUNDS[-1]), self.buckets, strict=True):
            if count and before + count >= wanted:
                return lower + (bound - lower) * (wanted - before) / count
            before, lower = before + count, bound
        return None


@dataclass(frozen=True, slots=True)
class Measured:
    """What was measured of one task name."""

    outcomes: Mapping[Outcome, int]
    waiting: Histogram  # from being queued to the start
    running: Histogram  # from the start to the end; neither counts what was cancelled


@dataclass(frozen=True, slots=True)
class Sample:
    """One slot of one task name, or of all names added up."""

    start: float  # unix time
    seconds: int  # its length: 60 or 900
    success: int
    error: int
    cancelled: int
    waiting_p50: float | None  # seconds
    waiting_p95: float | None
    running_p50: float | None
    running_p95: float | None


class _Tally:
    """What has gathered of one task name since the last flush. Every task comes by."""

    __slots__ = ("outcomes", "running", "running_seconds", "waiting", "waiting_seconds")

    def __init__(self) -> None:
        self.outcomes = dict.fromkeys(OUTCOMES, 0)
        self.waiting = [0] * BUCKETS
        self.waiting_seconds = 0.0
        self.running = [0] * BUCKETS
        self.running_seconds = 0.0

    def add(self, queued: str, started: str, completed: str) -> None:
        """Counts the times between three dates."""
        start = _date(started)
        waiting = (start - _date(queued)).total_seconds()
        running = (_date(completed) - start).total_seconds()
        self.waiting[bisect_left(BOUNDS, waiting)] += 1
        self.waiting_seconds += waiting
        self.running[bisect_left(BOUNDS, running)] += 1
        self.running_seconds += running

    def fields(self) -> dict[str, int]:
        found: dict[str, int] = {outcome: count for outcome, count in self.outcomes.items() if count}
        for kind, buckets, seconds in (
            (_WAITING, self.waiting, self.waiting_seconds),
            (_RUNNING, self.running, self.running_seconds),
        ):
            if count := sum(buckets):
                found |= {kind + _COUNT: count, kind + _MICROSECONDS: round(seconds * 1e6)}
                found |= {f"{kind}.{bucket}": count for bucket, count in enumerate(buckets) if count}
        return found


@dataclass(frozen=True, slots=True)
class _Flush:
    """What is on its way to Redis, until Redis has said that it has it."""

    number: int
    names: Sequence[str]
    fields: Sequence[Argument]
    made: float  # monotonic seconds


class Measures:
    """What ends in this process, and its way to Redis: `run` flushes, `finish` is the last flush."""

    def __init__(self, redis: Redis, known: Container[str]) -> None:
        """`known`: the names of the tasks that are declared."""
        self.known = known
        self._redis = redis
        self._id = secrets.token_hex(8)
        self._tallies: dict[str, _Tally] = {}
        self._under_way: _Flush | None = None
        self._last_number = 0
        self._is_refused = False

    def ended(self, name: str, status: Status) -> None:
        """Counts a task that has ended in that status, with its seconds."""
        if status.status == ERROR and status.result == CANCELLED:
            self.count(name, "cancelled")
            return
        tally = self.count(name, "error" if status.status == ERROR else "success")
        if status.started is not None and status.completed is not None:
            with suppress(ValueError, TypeError):  # a date that somebody has damaged in Redis: it tells no seconds
                tally.add(status.queued, status.started, status.completed)

    def count(self, name: str, outcome: Outcome) -> _Tally:
        """Counts a task that has ended without having run here."""
        if name not in self.known:
            name = UNKNOWN
        tally = self._tallies.get(name)
        if tally is None:
            tally = self._tallies[name] = _Tally()
        tally.outcomes[outcome] += 1
        return tally

    async def run(self) -> None:
        """Flushes for ever."""
        while True:
            await asyncio.sleep(INTERVAL)
            try:
                await self.flush()
                self._is_refused = False
            except Unavailable:
                pass  # the next flush brings it; that Redis is away, others say
            except ResponseError as error:
                if not self._is_refused:
                    log.warning("measurements cannot be written: %s", error)
                self._is_refused = True

    async def flush(self, repeatable: int = REPEATABLE) -> None:
        """Writes what has gathered; what an earlier call could not write goes first, as it was.

        Raises Unavailable or ResponseError; whether it was written is not known then, and nothing is lost or doubled.
        """
        for _ in range(2 if self._under_way else 1):
            if self._under_way is None:
                self._under_way = self._gather()
            flush = self._under_way
            if flush is None:
                return
            if time.monotonic() - flush.made < REPEATABLE:
                head = (self._id, flush.number, repeatable, len(flush.names))
                await self._redis.run(script("measure"), (*head, *flush.names, *flush.fields))
            self._under_way = None

    async def finish(self) -> None:
        """The last flush of a process that stops, as far as Redis is there."""
        try:
            async with asyncio.timeout(LAST_WAIT):
                await self.flush(LAST_REPEATABLE)
        except (Unavailable, ResponseError, TimeoutError) as error:
            log.warning("the last measurements are lost: %s", error or type(error).__name__)

    def _gather(self) -> _Flush | None:
        tallies, self._tallies = self._tallies, {}
        if not tallies:
            return None
        self._last_number += 1
        fields: list[Argument] = []
        together: dict[str, int] = {}
        for name, tally in tallies.items():
            for field, count in tally.fields().items():
                fields += (f"{name}:{field}", count)
                together[field] = together.get(field, 0) + count
        for field, count in together.items():
            fields += (f"{ALL}:{field}", count)
        return _Flush(self._last_number, tuple(tallies), fields, time.monotonic())


async def history(redis: Redis, period: Period, name: str | None = None) -> list[Sample]:
    """The slots of the last hour or day, the oldest first, the present one last; of one task name or of all."""
    seconds, count, prefix = _PERIODS[period]
    newest = int(await clock(redis) // seconds)
    numbers = range(newest - count + 1, newest + 1)
    fields = [f"{name or ALL}:{field}" for field in _FIELDS]
    replies = await asyncio.gather(
        *(redis.command("HMGET", f"{names.MEASURES}{prefix}{number}", *fields) for number in numbers)
    )
    return [
        _sample(float(number * seconds), seconds, _measured(dict(zip(_FIELDS, reply, strict=True))))
        for number, reply in zip(numbers, replies, strict=True)
    ]


async def recent_waiting(redis: Redis, now: float) -> Histogram:
    """How long tasks waited that ended in this minute or the one before; `now` by Redis's clock."""
    newest = int(now // 60)
    fields = [f"{ALL}:{field}" for field in _SECONDS_FIELDS[_WAITING]]
    slots = await asyncio.gather(
        *(redis.command("HMGET", f"{names.MEASURES}minute:{number}", *fields) for number in (newest - 1, newest))
    )
    count, microseconds, *buckets = (sum(map(_number, both)) for both in zip(*slots, strict=True))
    return Histogram(count, microseconds / 1e6, tuple(buckets))


def _sample(start: float, seconds: int, measured: Measured) -> Sample:
    quantiles = (part.quantile(share) for part in (measured.waiting, measured.running) for share in (0.5, 0.95))
    return Sample(start, seconds, *(measured.outcomes[outcome] for outcome in OUTCOMES), *quantiles)


def _measured(fields: dict[str, bytes | None]) -> Measured:
    outcomes = {outcome: _number(fields.get(outcome)) for outcome in OUTCOMES}
    return Measured(outcomes, _histogram(_WAITING, fields), _histogram(_RUNNING, fields))


def _histogram(kind: str, fields: dict[str, bytes | None]) -> Histogram:
    count, microseconds, *buckets = (_number(fields.get(field)) for field in _SECONDS_FIELDS[kind])
    return Histogram(count, microseconds / 1e6, tuple(buckets))


def _number(value: bytes | None) -> int:
    """What HINCRBY has written; what a stranger may have put there is nothing."""
    return int(value) if value is not None and len(value) < 20 and value.isdigit() else 0


async def names_measured(redis: Redis) -> list[str]:
    """The task names that something was ever measured of."""
    found = await redis.command("SMEMBERS", names.MEASURES + "names")
    return sorted(name.decode(errors="replace") for name in found)


async def measured(redis: Redis) -> dict[str, Measured]:
    """All that was ever measured, by task name."""
    known = await names_measured(redis)
    replies = await asyncio.gather(
        *(redis.command("HMGET", names.MEASURES + "totals", *(f"{name}:{word}" for word in _FIELDS)) for name in known)
    )
    return {name: _measured(dict(zip(_FIELDS, reply, strict=True))) for name, reply in zip(known, replies, strict=True)}


async def totals(redis: Redis) -> dict[str, dict[str, int]]:
    """How many tasks have ever ended, by task name and outcome."""
    return {
        name: {str(outcome): count for outcome, count in one.outcomes.items()}
        for name, one in (await measured(redis)).items()
    }


async def mean_running(redis: Redis) -> dict[str, float]:
    """Mean running seconds by task name: of the last hour or so, else of all time; without names that never ran."""
    known = await names_measured(redis)
    if not known:
        return {}
    newest = int(await clock(redis) // 900)
    slots = [f"{names.MEASURES}quarter:{newest - back}" for back in range(_RECENT)] + [names.MEASURES + "totals"]
    fields = [f"{name}:{_RUNNING}{word}" for name in known for word in (_COUNT, _MICROSECONDS)]
    *recent, ever = await asyncio.gather(*(redis.command("HMGET", slot, *fields) for slot in slots))
    means: dict[str, float] = {}
    for slots_of in ([ever], recent):  # the recent ones replace the others
        for at, name in enumerate(known):
            count, microseconds = (sum(_number(slot[2 * at + part]) for slot in slots_of) for part in (0, 1))
            if count:
                means[name] = microseconds / count / 1e6
    return means
