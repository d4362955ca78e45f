"""What is kept of tasks: functions that call one script each and give its answer a shape."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple

import orjson
from redis.exceptions import ResponseError

from dragon.connections import RETRY_AFTER, Argument, Redis
from dragon.errors import Unavailable
from dragon.keys import is_key
from dragon.status import QUEUED, is_line, parse_line, timestamp
from dragon.store import names
from dragon.store.scripts import script


class NewTask(NamedTuple):
    """What `create` stores of one task; `line` is its first status."""

    key: str
    line: bytes
    final: bool
    name: str
    parameters: bytes  # JSON
    metas: bytes  # JSON, b"" for none
    queue: str
    max_attempts: int
    timeout: float  # seconds
    reuse: str  # digest for single flight, "" for none
    has_files: bool = False  # it may have output files


class Line(NamedTuple):
    """A stored status line with its place in the task's history."""

    key: str
    seq: int
    final: bool
    line: bytes


class State(NamedTuple):
    """The field `state` of a task's hash, as the scripts write it."""

    attempt: int
    seq: int
    phase: str  # w (waiting), r (a worker has it), e (ended)
    owner: str  # the worker that has it, or had it last
    feeds: str  # that follow it, with commas

    @classmethod
    def read(cls, field: bytes) -> State:
        """Raises ValueError for what the scripts do not write."""
        attempt, seq, phase, owner, feeds = field.decode().split(" ")
        if len(attempt) > 9 or len(seq) > 9:
            raise ValueError("nothing is counted that far")
        return cls(int(attempt), int(seq), phase, owner, feeds)

    def field(self) -> str:
        return " ".join(map(str, self))


class Facts(NamedTuple):
    """The field `facts` of a task's hash: what never changes."""

    max_attempts: int
    account: str
    reuse: str  # digest for single flight, "" for none
    traceparent: str  # its creator's place in a trace, "" for none

    @classmethod
    def read(cls, field: bytes) -> Facts:
        """Raises ValueError for what the scripts do not write."""
        most, account, reuse, *trace = field.decode().split(" ")
        return cls(int(most), account, reuse, trace[0] if trace else "")


@dataclass(frozen=True, slots=True)
class LimitReached:
    """An account limit stands in the way: which, its value, seconds until it helps to try again (0: it does not)."""

    limit: str
    value: int
    retry_after: int


class Usage(NamedTuple):
    """The limits that `create` keeps for an account; None is unlimited."""

    tasks_queued: int | None = None
    tasks_per_minute: int | None = None
    bytes_stored: int | None = None


class Ticket(NamedTuple):
    """A task that waits, and what its place depends on."""

    key: str
    queue: str
    account: str
    name: str


class Reserved(NamedTuple):
    """A task that a worker has taken."""

    key: str
    attempt: int
    name: str
    parameters: bytes
    line: bytes
    traceparent: str = ""  # its creator's place in a trace


@dataclass(frozen=True, slots=True)
class Reservation:
    """The answer to a worker that asked for tasks."""

    tasks: list[Reserved]
    dropped: list[str]  # keys that were no tasks of dragon's, or over
    suspended: bool
    left: bool  # something waits that has no free place now
    gone: bool  # the worker's lease is over
    paused: frozenset[str]  # queues that it may take nothing from


WriteKind = Literal["executing", "success", "error"]


class Write(NamedTuple):
    """One status to write; `bytes` is the size of the output files, -1 without any."""

    key: str
    attempt: int
    kind: WriteKind
    line: bytes
    bytes: int = -1
    traceback: str = ""


@dataclass(frozen=True, slots=True)
class Orphan:
    """A dead worker's task without an attempt left, now the caller's to end."""

    key: str
    attempt: int
    line: bytes
    worker: str
    name: str


#: Seconds for which RQ is told to keep an ended job longer, where its task has files: the sweep needs it after them.
SWEEP_MARGIN = 86400


def rq_date() -> str:
    """Now, as RQ spells dates in its hashes."""
    return timestamp()[:-6] + "Z"


async def create(
    redis: Redis,
    account: str,
    tasks: Sequence[NewTask],
    usage: Usage,
    *,
    life: int,
    feed: str = "",
    traceparent: str = "",
    idempotency: str = "",
    request: str = "",
) -> list[Line] | LimitReached | None:
    """Creates all tasks or none; None: the Idempotency-Key was used with another request."""
    limits = ["" if limit is None else limit for limit in usage]
    arguments: list[Argument] = [account, feed, traceparent, idempotency, request, *limits, len(tasks)]
    for task in tasks:
        key, line, final, name, parameters, metas, queue, max_attempts, timeout, reuse, has_files = task
        rq_life = life + SWEEP_MARGIN if has_files else life
        arguments += (key, line, "1" if final else "", name, parameters, metas, queue, max_attempts)
        arguments += (max(1, round(timeout)), rq_life, reuse)

    def head() -> Sequence[Argument]:
        return rq_date(), life, redis.give_up_at() or ""

    answer = await redis.run_together(script("create"), head, arguments)
    match answer[0]:
        case b"new":
            return [Line(task[0], 1, task[2], task[1]) for task in tasks]
        case b"conflict":
            return None
        case b"late":
            raise Unavailable("the task store did not answer in time, try again", retry_after=RETRY_AFTER)
        case b"limit":
            return LimitReached(answer[1].decode(), int(answer[2]), int(answer[3]))
    return [
        Line(answer[i].decode(), int(answer[i + 1]), answer[i + 2] == b"1", answer[i + 3])
        for i in range(1, len(answer), 4)
    ]


async def reused(redis: Redis, reuse: str) -> Line | None:
    """The newest line of the task that serves a digest for single flight; None when there is none."""
    answer = await redis.run(script("reused"), (reuse,))
    if not answer or not is_line(answer[3], answer[0]):
        return None
    return Line(answer[0].decode(), int(answer[1]), answer[2] == b"1", answer[3])


async def follow(redis: Redis, feed: str, seen: Mapping[str, int]) -> list[Line | None]:
    """Registers `feed` (unless "") for the keys and reads what is newer than `seen`; seq -1: nobody knows the key."""
    arguments: list[Argument] = [feed]
    for key, seq in seen.items():
        arguments += (key, seq)
    answer = await redis.run(script("follow"), arguments)
    lines: list[Line | None] = []
    for i, key in enumerate(seen):
        seq, final, line = answer[3 * i : 3 * i + 3]
        if line and not is_line(line, key.encode()):
            lines.append(Line(key, -1, True, b""))  # what stands there is not dragon's
        else:
            lines.append(Line(key, int(seq), final == b"1", line) if seq else None)
    return lines


async def details(redis: Redis, key: str) -> dict[str, Any] | None:
    """What `details=true` adds to a status: name, parameters and metas as JSON bytes, attempt, owner, life left, and
    whether it waits.

    None when nobody knows the key, or what stands there is not dragon's.
    """
    hash_name = names.TASK + key
    try:
        fields, left, score = await asyncio.gather(
            redis.command("HMGET", hash_name, "state", "facts", "description", "params", "metas", "origin"),
            redis.command("PTTL", hash_name),
            redis.command("ZSCORE", names.EXPIRIES, key),
        )
        if None in fields[:4]:
            return None
        state = State.read(fields[0])
        known = Facts.read(fields[1])
        for text in (fields[3], fields[4]):
            orjson.loads(text or b"null")
    except (ValueError, ResponseError):
        return None
    expires = float(score) if score is not None else None
    if int(left) > 0:
        expires = datetime.now(UTC).timestamp() + int(left) / 1000
    return {
        "name": fields[2].decode(errors="replace"),
        "parameters": fields[3],
        "metas": fields[4],
        "attempt": state.attempt,
        "owner": state.owner,
        "account": known.account,
        "queue": (fields[5] or b"").decode(errors="replace"),
        "waits": state.phase == "w",
        "expires": expires,
        "traceparent": known.traceparent,
    }


async def read_tickets(redis: Redis, keys: Sequence[str]) -> list[tuple[Ticket, bytes]]:
    """Those of the tasks that wait and never ran yet, with their lines."""
    fields = ("state", "facts", "origin", "description", "line")
    replies = await asyncio.gather(
        *(redis.command("HMGET", names.TASK + key, *fields) for key in keys), return_exceptions=True
    )
    found = []
    for key, reply in zip(keys, replies, strict=True):
        if isinstance(reply, BaseException):
            if not isinstance(reply, ResponseError):
                raise reply
        elif None not in reply and (ticket := _ticket(key, *reply)):
            found.append((ticket, reply[4]))
    return found


def _ticket(key: str, state: bytes, facts: bytes, queue: bytes, name: bytes, line: bytes) -> Ticket | None:
    """None for a task that does not wait, or is not dragon's."""
    try:
        is_waiting = State.read(state).phase == "w" and parse_line(line, key).status == QUEUED
        account = Facts.read(facts).account
        return Ticket(key, queue.decode(), account, name.decode()) if is_waiting else None
    except ValueError:
        return None


async def name_of(redis: Redis, key: str) -> str:
    """The task's name, "" when nobody knows the key."""
    try:
        found = await redis.command("HGET", names.TASK + key, "description")
    except ResponseError:
        return ""  # a stranger's key of another type
    return (found or b"").decode(errors="replace")


async def cancel(
    redis: Redis, key: str, account: str, seq: int | None = None, line: bytes = b"", *, life: int = 0
) -> Line | Literal["unknown", "ended"]:
    """Ends a task in `line`, if `seq` is still its newest; else (or with None) returns what is."""
    arguments = (key, account, "" if seq is None else seq, line, life, rq_date())
    answer = await redis.run(script("cancel"), arguments)
    if answer[0] == b"now":
        return Line(key, int(answer[1]), answer[2] == b"1", answer[3])
    return "ended" if answer[0] == b"ended" else "unknown"


async def note_retries(redis: Redis, retries: Sequence[tuple[str, str]]) -> None:
    """Lets old tasks and new ones, in pairs, name each other: fields `retried_as` and `retry_of`."""
    await redis.run(script("retried"), [key for pair in retries for key in pair])


async def reserve(
    redis: Redis,
    worker: str,
    queues: Sequence[str],
    *,
    sync_places: int,
    async_places: int,
    ahead: float,
    async_ahead: float = 0.0,
    known: Sequence[tuple[str, bool, float | None]],
) -> Reservation:
    """Takes tasks for a worker; ahead in seconds of work; `known`: task name, whether async, measured seconds."""
    arguments: list[Argument] = [worker, rq_date(), sync_places, async_places, ahead * 1000, async_ahead * 1000]
    arguments += (len(queues), *queues)
    for name, is_async, duration in known:
        arguments += (name, "a" if is_async else "s", "" if duration is None else duration * 1000)
    answer = await redis.run(script("reserve"), arguments)
    tasks, dropped = [], []
    for i in range(3, len(answer), 5):
        key, attempt, name, parameters, line = answer[i : i + 5]
        trace = b""
        if len(attempt) > 9:
            attempt, _, trace = attempt.partition(b" ")
        if int(attempt):
            tasks.append(
                Reserved(key.decode(), int(attempt), name.decode(errors="replace"), parameters, line, trace.decode())
            )
        else:
            dropped.append(key.decode(errors="replace"))
    paused = frozenset(answer[2].decode().split(",")) if answer[2] else frozenset()
    return Reservation(tasks, dropped, answer[0] == b"1", answer[1] == b"1", answer[0] == b"gone", paused)


async def update(redis: Redis, owner: str, writes: Sequence[Write], *, life: int, with_rq: bool = True) -> list[bool]:
    """Writes statuses in one trip; False where the task is another's by now, or over."""
    arguments: list[Argument] = [owner, life, rq_date(), "1" if with_rq else ""]
    for key, attempt, kind, line, size, traceback in writes:
        if size < 0 and not traceback:
            arguments += (key, attempt, kind, line)
        else:
            arguments += (key, attempt, kind + "+", line, size, traceback)
    return [bool(written) for written in await redis.run(script("update"), arguments)]


async def give_back(redis: Redis, worker: str, tasks: Sequence[tuple[str, int | None]], why: str = "given back") -> int:
    """Returns (key, attempt) pairs to the front of their queues; the attempts do not count. None: any attempt."""
    arguments: list[Argument] = [worker, timestamp(), why]
    for key, attempt in tasks:
        arguments += (key, "" if attempt is None else attempt)
    return int(await redis.run(script("give_back"), arguments))


async def retry(
    redis: Redis, worker: str, key: str, attempt: int, ending: str = "crashed"
) -> Literal["queued", "exhausted", "refused"]:
    """Returns a task whose executor crashed to its queue, if it has an attempt left; `ending`: how, in words."""
    answer = int(await redis.run(script("retry"), (worker, key, attempt, timestamp(), ending)))
    return "queued" if answer == 1 else "exhausted" if answer == 0 else "refused"


async def take_over_lost(redis: Redis, caller: str) -> tuple[int, list[Orphan]]:
    """Hands dead workers' tasks on: how many went back to their queues, and those that `caller` must end."""
    answer = await redis.run(script("lost"), (caller, timestamp(), "the worker was lost"))
    orphans = []
    for i in range(1, len(answer), 5):
        key, attempt, line, worker, name = answer[i : i + 5]
        texts = (worker.decode(errors="replace"), name.decode(errors="replace"))
        orphans.append(Orphan(key.decode(), int(attempt), line, *texts))
    return int(answer[0]), orphans


async def claim(redis: Redis, key: str, owner: str, lease: float) -> Reserved | None:
    """Takes one task for an RQ job of RQ's own worker; None when it is unknown, over or somebody's."""
    answer = await redis.run(script("claim"), (key, owner, lease))
    if not answer:
        return None
    attempt, name, parameters, line, trace = answer
    return Reserved(key, int(attempt), name.decode(errors="replace"), parameters, line, trace.decode())


async def expired(redis: Redis, moment: float, count: int) -> list[str]:
    """Keys of ended tasks with output files whose life is over at `moment` (unix time)."""
    found = await redis.command("ZRANGEBYSCORE", names.EXPIRIES, "-inf", moment, "LIMIT", 0, count)
    keys = [key.decode(errors="replace") for key in found]
    if strange := [name for name, key in zip(found, keys, strict=True) if not is_key(key)]:
        await redis.command("ZREM", names.EXPIRIES, *strange)  # a folder of that name is none of ours to remove
    return [key for key in keys if is_key(key)]


async def forget(redis: Redis, keys: Sequence[str]) -> int:
    """Removes tasks whose files are gone."""
    return int(await redis.run(script("forget"), keys))
