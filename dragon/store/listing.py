"""Lists of tasks in pages, newest first, out of what there is: RQ's queues, its registries of what runs and has ended.

There is no index beside these. A page reads the hashes that the lists name in pieces, holds them against the filters,
and stops when it is full or its time is over; its cursor says where each list was left. While tasks move, one may come
twice or be left out.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple, Protocol

import orjson
from redis.exceptions import ResponseError

from dragon.connections import Redis
from dragon.keys import is_key
from dragon.status import timestamp_of
from dragon.store import names
from dragon.store.scripts import script
from dragon.store.tasks import Facts, State

PIECE = 200  # hashes a trip
BYTES_A_TRIP = 256 * 1024
LINE_LIMIT = 4096  # bytes of a status line that are read: larger ones have large results
BUDGET = 0.2  # seconds after which a page is given back as it is
MOST_EXECUTING = 5000  # tasks that are looked at, of those that workers have in one queue
CLOCKS_APART = 2  # seconds between Redis's clock and a worker's, at most, that since and until allow for
MOST_LANES = 300  # lists that one queue may add to a page: with more accounts waiting, ask for one of them
TEXT_LIMIT = 300  # characters of an error's text in a row

WAITING, EXECUTING, SUCCESS_, ERROR_, ENDED = "waiting", "executing", "success", "error", "ended"
#: Which lists a state is looked for in.
STATES: dict[str, frozenset[str]] = {
    "": frozenset({WAITING, EXECUTING, SUCCESS_, ERROR_}),
    ENDED: frozenset({SUCCESS_, ERROR_}),
    **{state: frozenset({state}) for state in (WAITING, EXECUTING, SUCCESS_, ERROR_)},
}

_HEAD = re.compile(
    rb'\{"status":"(\w+)","key":"([A-Z2-7]{26})","events":\{"queued":"([0-9T:.+-]{32})"'
    rb'(?:,"started":"([0-9T:.+-]{32})")?(?:,"completed":"([0-9T:.+-]{32})")?\}'
)
#: The second half of a place, by the first letter of the list's name.
_PLACES = {
    "w": re.compile(r"[0-9T:.+-]{1,32} \d{1,9}", re.ASCII),
    "x": re.compile(r"[0-9T:.+-]{0,32}", re.ASCII),
    "s": re.compile(r"\d{1,9}", re.ASCII),
    "e": re.compile(r"\d{1,9}", re.ASCII),
}

Place = tuple[int, str]  # where a list was left
Position = Place | None  # None: at its end
Cursor = dict[str, Position]  # by the list's name
Fits = Callable[["Record"], bool] | None


class Filters(NamedTuple):
    """What is looked for; "" is everything. Dates as dragon writes them, of a task's newest event."""

    state: str = ""
    name: str = ""
    account: str = ""
    since: str = ""
    until: str = ""
    text: str = ""


class Record(NamedTuple):
    """What a list shows of one task, as it was read."""

    key: str
    state: State
    account: str
    queue: str
    name: str
    status: str
    queued: str
    started: str | None
    completed: str | None
    line: bytes  # its beginning, where it is longer than LINE_LIMIT
    retried_as: str | None
    parameters: bytes

    @property
    def moment(self) -> str:
        """When the newest event happened; what waits again after a lost attempt is as old as it ever was."""
        return self.queued if self.state.phase == "w" else self.completed or self.started or self.queued

    def result(self) -> dict[str, Any]:
        """The members `progress` and `result` that the line has; none of a line that was too long."""
        try:
            data = orjson.loads(self.line)
        except orjson.JSONDecodeError:
            return {}
        return {name: data[name] for name in ("progress", "result") if name in data}


@dataclass(frozen=True, slots=True)
class Page:
    """A piece of a list; `cursor` is None when nothing follows."""

    records: list[Record]
    cursor: Cursor | None
    scanned: int


def error_text(result: object) -> str:
    """The result of an error in one line."""
    if isinstance(result, dict) and isinstance(parameters := result.get("parameters"), dict):
        sentences = (f"{name}: {_joined(problems)}" for name, problems in parameters.items())
        result = "; ".join(sentences)
    elif not isinstance(result, str):
        result = orjson.dumps(result).decode()
    return result if len(result) <= TEXT_LIMIT else result[:TEXT_LIMIT] + "…"


def _joined(problems: object) -> str:
    return ", ".join(map(str, problems)) if isinstance(problems, list) else str(problems)


# --- Reading hashes ---------------------------------------------------------------------------------------------------


async def read(redis: Redis, keys: Sequence[str], *, with_parameters: bool = False) -> list[Record | None]:
    """What is kept of each task; None for a key that nobody knows, or that is not dragon's."""
    found: list[Record | None] = []
    while len(found) < len(keys):
        some = keys[len(found) : len(found) + PIECE]
        flag = "1" if with_parameters else ""
        replies = await redis.run(script("rows"), (BYTES_A_TRIP, LINE_LIMIT, flag, *some))
        found += [_record(key, reply) for key, reply in zip(some, replies, strict=False)]
    return found


def _record(key: str, reply: Sequence[bytes | None]) -> Record | None:
    if not reply:
        return None
    field, facts, queue, name, line, retried_as, parameters = reply
    head = _HEAD.match(line or b"")
    if head is None or facts is None or queue is None or name is None or head[2] != key.encode():
        return None
    try:
        state = State.read(field or b"")
        account = Facts.read(facts).account
    except ValueError:
        return None
    return Record(
        key,
        state,
        account,
        queue.decode(errors="replace"),
        name.decode(errors="replace"),
        head[1].decode(),
        head[3].decode(),
        _text_or_none(head[4]),
        _text_or_none(head[5]),
        line or b"",
        _text_or_none(retried_as),
        parameters or b"",
    )


@dataclass(frozen=True, slots=True)
class Detail:
    """All that is kept of one task."""

    record: Record
    line: bytes
    metas: bytes  # JSON, b"" for none
    max_attempts: int
    timeout: float | None  # seconds
    expires: float | None  # unix time
    traceback: str | None
    traceparent: str | None
    retry_of: str | None
    size: int | None  # bytes of output files
    attempts: bytes  # JSON


async def detail(redis: Redis, key: str) -> Detail | None:
    """All that is kept of one task; None as in `read`."""
    name = names.TASK + key
    fields = ("facts", "line", "metas", "timeout", "exc_info", "retry_of", "bytes", "attempts")
    found, values, left, score = await asyncio.gather(
        read(redis, [key], with_parameters=True),
        _ask(redis, [None] * len(fields), "HMGET", name, *fields),
        redis.command("PTTL", name),
        redis.command("ZSCORE", names.EXPIRIES, key),
    )
    record = found[0]
    facts, line, metas, timeout, traceback, retry_of, size, attempts = values
    if record is None or facts is None or line is None:
        return None
    known = Facts.read(facts)
    return Detail(
        record,
        line,
        metas or b"",
        known.max_attempts,
        float(timeout) if timeout and timeout.isdigit() else None,
        time.time() + int(left) / 1000 if int(left) > 0 else float(score) if score is not None else None,
        _text_or_none(traceback),
        known.traceparent or None,
        _text_or_none(retry_of),
        int(size) if size and size.isdigit() else None,
        attempts or b"[]",
    )


def _text_or_none(field: bytes | None) -> str | None:
    return None if field is None else field.decode(errors="replace")


# --- Pages ------------------------------------------------------------------------------------------------------------


async def page(
    redis: Redis,
    filters: Filters,
    limit: int,
    *,
    life: int,
    cursor: Cursor | None = None,
    budget: float = BUDGET,
    fits: Fits = None,
) -> Page:
    """The next tasks that pass the filters. `life` of ended tasks in seconds: RQ's registries have the end of it.

    `fits` decides about a text, which may be looked for in more than is known here.
    """
    ends = time.monotonic() + budget
    search = _Search(redis, filters, limit, fits)
    sources = await _sources(search, life, cursor)
    records: list[Record] = []
    if sources:
        search.piece = PIECE if filters != Filters(filters.state) else max(8, min(PIECE, 2 * limit // len(sources)))
        await asyncio.gather(*(source.fill() for source in sources))
        search.piece = PIECE
    while len(records) < limit:
        empty = [source for source in sources if not source.found and not source.is_done]
        if empty:
            if time.monotonic() > ends:
                break
            await asyncio.gather(*(source.fill() for source in empty))
            continue
        newest = max((source for source in sources if source.found), key=_newest_moment, default=None)
        if newest is None:
            break
        records.append(newest.take())
    rest = {source.name: source.position for source in sources}
    is_over = all(position is None for position in rest.values())
    records.sort(key=lambda record: record.moment, reverse=True)  # RQ's registries count in seconds
    return Page(records, None if is_over else rest, search.scanned)


def _newest_moment(source: _Source) -> str:
    return source.found[0][0].moment


class _Search:
    """What all lists of one page have in common."""

    def __init__(self, redis: Redis, filters: Filters, limit: int, fits: Fits) -> None:
        self.redis = redis
        self.filters = filters
        self.limit = limit
        self.piece = PIECE
        self.scanned = 0
        self._fits = fits

    async def read(self, keys: Sequence[str]) -> list[Record | None]:
        self.scanned += len(keys)
        return await read(self.redis, keys, with_parameters=bool(self.filters.text))

    def sift(self, records: Iterable[Record | None], phase: str) -> list[Record | None]:
        """The tasks that are in that phase and pass the filters; None in the place of the others."""
        return [record if record is not None and self._passes(record, phase) else None for record in records]

    def _passes(self, record: Record, phase: str) -> bool:
        wanted = self.filters
        return (
            record.state.phase == phase
            and wanted.name in ("", record.name)
            and wanted.account in ("", record.account)
            and wanted.since <= record.moment
            and (not wanted.until or record.moment <= wanted.until)
            and (not wanted.text or self._fits is None or self._fits(record))
        )


class _Source(Protocol):
    """One list of keys, walked from its newest on. `found` has what passed, each with the position behind it."""

    name: str
    found: deque[tuple[Record, Place]]
    is_done: bool  # nothing is left to be read

    @property
    def position(self) -> Position: ...

    async def fill(self) -> None: ...

    def take(self) -> Record: ...


class _Walk:
    """What the kinds of lists share: where they are."""

    def __init__(self, search: _Search, name: str, start: Place) -> None:
        self.name = name
        self.found: deque[tuple[Record, Place]] = deque()
        self.is_done = False
        self._search = search
        self._taken = start  # behind the last that was taken
        self._read_to = start  # behind the last that was looked at

    @property
    def position(self) -> Position:
        """Where the next page goes on."""
        if self.found:
            return self._taken
        return None if self.is_done else self._read_to

    def take(self) -> Record:
        record, self._taken = self.found.popleft()
        return record

    def _keep(self, records: Iterable[Record | None], places: Iterable[Place]) -> None:
        for record, place in zip(records, places, strict=True):
            if record is not None:
                self.found.append((record, place))


class _Waiting(_Walk):
    """A queue's own list or a lane, from its tail on. Place: an index, when the task there was queued, and how many of
    that moment were looked at from there on.

    What is taken from the head moves all others down: the next page begins at the same index, and leaves out what is
    newer, and as many of that moment.
    """

    TOP = (1 << 40, "9 0")  # after every date

    def __init__(self, search: _Search, name: str, start: Position) -> None:
        super().__init__(search, name, start or self.TOP)
        self._next, text = self._read_to
        self._seen_date, _, count = text.partition(" ")
        self._seen = int(count)
        self._place = self._read_to[0], self._seen_date, self._seen
        self._date, self._count = "", 0  # of the moment that is looked at: how many there were

    async def fill(self) -> None:
        redis, name = self._search.redis, names.RQ_QUEUE + self.name.partition(":")[2]
        last = min(self._next, int(await _ask(redis, 0, "LLEN", name)) - 1)
        first = max(0, last - self._search.piece + 1)
        keys = _keys(await _ask(redis, [], "LRANGE", name, first, last))[::-1] if last >= 0 else []
        records = await self._search.read(keys)
        fresh, places = [], []
        for index, record in zip(range(last, -1, -1), records, strict=False):
            fresh.append(record if record is not None and self._is_new(index, record) else None)
            places.append((self._place[0], f"{self._place[1]} {self._place[2]}"))
        self._next = first - 1
        self._read_to = places[-1] if places else self._read_to
        self.is_done = first <= 0 or self._place[1] < self._search.filters.since
        self._keep(self._search.sift(fresh, "w"), places)

    def _is_new(self, index: int, record: Record) -> bool:
        """Whether no page had the task before; notes the place behind it."""
        if record.queued > self._seen_date:
            self._place = index, self._seen_date, self._seen
            return False
        is_first = record.queued != self._date
        self._date, self._count = record.queued, 1 if is_first else self._count + 1
        self._place = index if is_first else self._place[0], self._date, self._count
        return record.queued != self._seen_date or self._count > self._seen


class _Ended(_Walk):
    """A registry of RQ's, by the end of the tasks' lives. Place: that time, and how many of it were looked at.

    Nothing is put into a second that is over.
    """

    def __init__(self, search: _Search, name: str, start: Position, life: int) -> None:
        since, until = search.filters.since, search.filters.until
        newest = _seconds(until) + life + CLOCKS_APART if until else 1 << 40
        super().__init__(search, name, start or (newest, "0"))
        self._rank: int | None = None
        self._oldest = _seconds(since) + life - CLOCKS_APART if since else 0

    async def fill(self) -> None:
        piece = self._search.piece
        if self._rank is None:
            self._rank = await self._first_rank()
        command = ("ZREVRANGE", self._registry, self._rank, self._rank + piece - 1, "WITHSCORES")
        found = await _ask(self._search.redis, [], *command)
        scores = [score for score in (int(float(one)) for one in found[1::2]) if score >= self._oldest]
        places = list(self._places(scores))
        records = await self._search.read(_keys(found[: 2 * len(scores) : 2]))
        self._rank += len(scores)
        self._read_to = places[-1] if places else self._read_to
        self.is_done = len(scores) < piece
        self._keep(self._search.sift(records, "e"), places)

    @property
    def _registry(self) -> str:
        kind, _, queue = self.name.partition(":")
        return (names.RQ_FINISHED if kind == "s" else names.RQ_FAILED) + queue

    async def _first_rank(self) -> int:
        score, passed = self._read_to
        newer = await _ask(self._search.redis, 0, "ZCOUNT", self._registry, f"({score}", "+inf")
        return int(newer) + int(passed)

    def _places(self, scores: Sequence[int]) -> Iterable[Place]:
        score, passed = self._read_to[0], int(self._read_to[1])
        for found in scores:
            passed = passed + 1 if found == score else 1
            score = found
            yield score, str(passed)


class _Executing(_Walk):
    """What workers have, of all queues: few enough to be read at once, and put in order by when they started.

    Place: how many of one moment were taken, and the moment.
    """

    def __init__(self, search: _Search, start: Position, queues: Sequence[str]) -> None:
        super().__init__(search, "x", start or (0, ""))
        self._queues = queues

    async def fill(self) -> None:
        redis = self._search.redis
        wips = [_ask(redis, [], "ZRANGE", names.RQ_WIP + queue, 0, MOST_EXECUTING - 1) for queue in self._queues]
        keys = _keys(member.partition(b":")[0] for members in await asyncio.gather(*wips) for member in members)
        records = [record for record in self._search.sift(await self._search.read(keys), "r") if record is not None]
        records.sort(key=lambda record: (record.moment, record.key), reverse=True)
        self.is_done = True
        self._keep(*self._behind_start(records))

    def _behind_start(self, records: Sequence[Record]) -> tuple[list[Record], list[Place]]:
        passed, newest = self._read_to
        kept: list[Record] = []
        places: list[Place] = []
        count, moment = 0, ""
        for record in records:
            count = count + 1 if record.moment == moment else 1
            moment = record.moment
            if not newest or moment < newest or (moment == newest and count > passed):
                kept.append(record)
                places.append((count, moment))
        return kept, places


def _seconds(date: str) -> int:
    return int(datetime.fromisoformat(date).timestamp())


async def _sources(search: _Search, life: int, cursor: Cursor | None) -> list[_Source]:
    """The lists that the filters ask for, from where the cursor left them; not those that have come since."""
    wanted = STATES[search.filters.state]
    lists = [
        name.removeprefix(names.RQ_QUEUE) for name in _texts(await search.redis.command("SMEMBERS", names.RQ_QUEUES))
    ]
    queues = sorted({name.partition(names.LANE_MARK)[0] for name in lists})
    made: list[_Source] = []
    if WAITING in wanted:
        for name in _lists_of(lists, queues, search.filters.account):
            made.append(_Waiting(search, f"w:{name}", _start(cursor, f"w:{name}")))
    if EXECUTING in wanted:
        made.append(_Executing(search, _start(cursor, "x"), queues))
    for state, kind in ((SUCCESS_, "s"), (ERROR_, "e")):
        if state in wanted:
            of_queues = [*queues, *([""] if kind == "e" else [])]  # "": definitions that were refused
            made += [_Ended(search, f"{kind}:{queue}", _start(cursor, f"{kind}:{queue}"), life) for queue in of_queues]
    if cursor is None:
        return made
    return [source for source in made if cursor.get(source.name) is not None]


def _lists_of(lists: Sequence[str], queues: Sequence[str], account: str) -> list[str]:
    if account:
        return [*queues, *(f"{queue}{names.LANE_MARK}{account}" for queue in queues)]
    lanes = sorted(name for name in lists if names.LANE_MARK in name)
    return [*queues, *lanes[:MOST_LANES]]


def _start(cursor: Cursor | None, name: str) -> Position:
    return cursor.get(name) if cursor else None


async def _ask(redis: Redis, otherwise: Any, *command: str | int) -> Any:
    """The reply of a command; `otherwise`, when what stands under that name is of another type."""
    try:
        return await redis.command(*command)
    except ResponseError as error:
        if not str(error).startswith("WRONGTYPE"):
            raise
        return otherwise


def _keys(raw: Iterable[bytes]) -> list[str]:
    """As texts; what is no key of dragon's stays in its place, and is found to be no task."""
    return [text if is_key(text) else "" for text in _texts(raw)]


def _texts(raw: Iterable[bytes]) -> list[str]:
    return [one.decode(errors="replace") for one in raw]


# --- Cursors ----------------------------------------------------------------------------------------------------------


def is_cursor(value: object) -> bool:
    """Whether a value that came from a client can be a cursor: names and positions; there are no keys in it."""
    return isinstance(value, dict) and all(
        isinstance(name, str) and (position is None or _is_position(name, position)) for name, position in value.items()
    )


def _is_position(name: str, position: object) -> bool:
    match position:
        case [int(number), str(text)] if 0 <= number < 1 << 50 and not isinstance(number, bool):
            return _PLACES[name[:1]].fullmatch(text) is not None if name[:1] in _PLACES else False
    return False


def date_of(moment: float) -> str:
    """A unix time as dragon writes dates, which sort as text."""
    return timestamp_of(datetime.fromtimestamp(moment, UTC))
