"""What is kept of tasks' logs: a stream of lines for each task that has said something.

A line's number goes up by one over all attempts of a task. Lines live as long as their task, and a little longer.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple

from redis.exceptions import ResponseError

from dragon.connections import Argument, Redis
from dragon.status import timestamp_of
from dragon.store import names
from dragon.store.scripts import script
from dragon.store.tasks import State

MARGIN = 3600  # seconds that a log outlives its task, so that it never ends before it
LINES_A_RUN = 250  # that one run of the script appends: others wait while it runs
PAGE = 200  # lines that are read at once: under a MiB with the default settings
MOST_NUMBERS = (1 << 53) - 1  # lines that a task has at most, as far as JavaScript counts


class LogLine(NamedTuple):
    """One line that a task has said."""

    number: int
    time: str  # ISO 8601
    attempt: int
    text: str


@dataclass(frozen=True, slots=True)
class LogPage:
    """Some lines of a log. `next`: what to read on after; `ended`: the task has, and nothing comes after these."""

    lines: list[LogLine]
    next: int
    ended: bool


class LogWrite(NamedTuple):
    """Lines of one attempt to append, LINES_A_RUN at most: each with its mark, as `ATTEMPT TIME TEXT`.

    The time is in microseconds of unix time. `timeout`: seconds that the task may take and its log has to live.
    """

    key: str
    attempt: int
    timeout: float
    lines: Sequence[tuple[int, bytes]]


def new_marks() -> Iterator[int]:
    """The marks of one writer's lines, by which the store knows those that it has: one more each, nobody else's."""
    return itertools.count((10**8 + secrets.randbelow(9 * 10**8)) * 10**10)


async def append(redis: Redis, owner: str, writes: Sequence[LogWrite], *, life: int, most: int) -> list[bool]:
    """Appends lines; False where the task is another's by now, or over.

    `life`: seconds that an ended task is kept; `most`: lines that are kept of one. What is sent again, because a
    reply was lost, is there once.
    """
    runs = [redis.run(script("log"), _arguments(owner, some, life, most)) for some in _runs(writes)]
    return [bool(kept) for answer in await asyncio.gather(*runs) for kept in answer]


def _runs(writes: Sequence[LogWrite]) -> Iterator[list[LogWrite]]:
    """The writes in their order, as many for each run of the script as it may do."""
    some: list[LogWrite] = []
    count = 0
    for write in writes:
        if some and count + len(write.lines) > LINES_A_RUN:
            yield some
            some, count = [], 0
        some.append(write)
        count += len(write.lines)
    if some:
        yield some


def _arguments(owner: str, writes: Sequence[LogWrite], life: int, most: int) -> list[Argument]:
    arguments: list[Argument] = [owner, most]
    for key, attempt, timeout, lines in writes:
        arguments += (key, attempt, math.ceil(timeout) + life + MARGIN, len(lines))
        for mark, text in lines:
            arguments += (mark, text)
    return arguments


async def read_log(redis: Redis, key: str, after: int = 0, count: int = PAGE) -> LogPage | None:
    """The lines after number `after`, `count` at most; None when nobody knows the task.

    The state is read first: once it is that of an ended task, every line was there before.
    """
    try:
        state, found = await asyncio.gather(
            redis.command("HGET", names.TASK + key, "state"),
            redis.command("XRANGE", names.LOG + key, f"{after + 1}-0", "+", "COUNT", count),
        )
        if state is None:
            return None
        lines = [_read_line(name, fields) for name, fields in found]
        has_ended = State.read(state).phase == "e"
    except (ValueError, ResponseError):
        return None  # what stands there is not dragon's
    return LogPage(lines, lines[-1].number if lines else after, has_ended and len(lines) < count)


def _read_line(name: bytes, fields: Sequence[bytes]) -> LogLine:
    """Raises ValueError for what log.lua does not write."""
    attempt, time, text = fields[1].decode(errors="replace").split(" ", 2)
    moment = datetime.fromtimestamp(int(time) / 1e6, UTC)
    return LogLine(int(name.partition(b"-")[0]), timestamp_of(moment), int(attempt), text)
