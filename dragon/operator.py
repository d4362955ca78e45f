"""What an operator can see and do, without HTTP: what runs, what waits, what failed, and the handles to change it.

An account with `operator = true` sees and changes everything; any other account its own tasks only.
"""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson

from dragon import queue
from dragon.auth import Account, Accounts, Limits
from dragon.connections import Redis
from dragon.definition import Definition
from dragon.errors import NotFound, Unauthorized
from dragon.failures import Group, Groups, group_of, message_of
from dragon.keys import new_key
from dragon.masking import masked, masked_text
from dragon.overview import Overview, Snapshot, own_only
from dragon.positions import NOTHING_KNOWN, Wait
from dragon.sampling import Sampler, Watcher
from dragon.service import Service
from dragon.status import CANCELLED, ERROR, SUCCESS, UNKNOWN_KEY, parse_line, timestamp, unknown_line
from dragon.store import listing, measures, names, queues, tasks
from dragon.store.listing import Filters, Record
from dragon.store.measures import Period, Sample
from dragon.store.tasks import Ticket
from dragon.streams import Place

FAILURES_BUDGET = 1.0  # seconds in which failures are looked at, to be grouped
GROUP_BUDGET = 10.0  # seconds in which those of one group are looked for, to be retried
MOST_SEARCHES = 2  # at once
MOST_FOLLOWED = 500  # tasks that a stream of tasks looks after when they are not on the first page any more


# --- Facts ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class OwnAccount:
    """Who asks, and what that account uses of its limits."""

    id: str
    name: str | None
    operator: bool
    limits: Limits
    tasks_queued: int
    bytes_stored: int


@dataclass(frozen=True, slots=True)
class TaskPage:
    """A page of rows."""

    tasks: list[dict[str, Any]]
    next: str | None  # the cursor of the page after it
    scanned: int  # tasks that were looked at


@dataclass(frozen=True, slots=True)
class Failures:
    """Failed tasks in groups; `complete`: all that are kept were looked at."""

    groups: list[Group]
    scanned: int
    complete: bool


@dataclass(frozen=True, slots=True)
class History:
    """What was measured of ended tasks, all accounts' together."""

    period: Period
    names: list[str]  # of all tasks that something was ever measured of
    samples: list[Sample]  # the oldest first


@dataclass(frozen=True, slots=True)
class Retried:
    """What became of the retry of one task."""

    key: str
    retried_as: str | None
    message: str | None  # why not


@dataclass(frozen=True, slots=True)
class QueueState:
    """A queue after something was done to it."""

    queue: str
    paused: bool
    cleared: int = 0


class _Seen(NamedTuple):
    """An overview as all its watchers get it."""

    line: bytes
    essence: bytes


class _Watching(NamedTuple):
    """What one watcher holds."""

    name: Any  # of what is watched
    sampler: Sampler[Any]
    place: Place


# --- The verbs --------------------------------------------------------------------------------------------------------


class Operator:
    """The verbs. Holds the looks that are shared by those who watch, and their places among the streams."""

    def __init__(self, service: Service, accounts: Accounts) -> None:
        self._service = service
        self._accounts = accounts
        self._redis = service.redis
        self._life = service.config.files.life
        self._overview = Overview(service)
        self._samplers: dict[Any, Sampler[Any]] = {}
        self._places: dict[Watcher[Any], _Watching] = {}
        self._searching = asyncio.Semaphore(MOST_SEARCHES)
        self._closed = False

    def close(self) -> None:
        """Ends every stream, with what it has; their clients come back to another process."""
        self._closed = True
        for watcher in self._places:
            watcher.close()

    async def account(self, account: Account) -> OwnAccount:
        """Who asks."""
        queued, size = await self._redis.command("HMGET", names.ACCOUNT + account.id, "queued", "bytes")
        return OwnAccount(
            account.id, account.name, account.operator, account.limits, max(0, int(queued or 0)), max(0, int(size or 0))
        )

    async def overview(self, account: Account) -> Snapshot:
        """Everything in one moment; for an account that is no operator, what is its own."""
        return await self._overview.look(account)

    async def watch_overview(self, account: Account) -> Watcher[Any]:
        """A watcher whose lines are overviews, the first at once; the caller has to `leave` it.

        Full, or Unauthorized, when there may be no more streams.
        """

        async def look() -> _Seen:
            snapshot = await self.overview(account)
            return _Seen(orjson.dumps(snapshot), orjson.dumps(snapshot.essence))

        return await self._watch(("overview", own_only(account)), account, look, _changes())

    async def tasks(self, account: Account, filters: Filters, limit: int, cursor: listing.Cursor | None) -> TaskPage:
        """A page of tasks, newest first. It may be short, even empty, and still have a next one."""
        filters = own_filters(account, filters)
        page = await self._page(filters, limit, cursor)
        following = None if page.cursor is None else spell_cursor(page.cursor, filters)
        return TaskPage([row_of(record) for record in page.records], following, page.scanned)

    async def watch_tasks(self, account: Account, filters: Filters, limit: int) -> Watcher[Any]:
        """A watcher of the first page: its lines are a list of rows, and then a row for each that is new or changed.

        A list again when the page has none of the rows that were told: others may have passed in between. The caller
        has to `leave` it. Full, or Unauthorized, when there may be no more streams.
        """
        filters = own_filters(account, filters)
        look = _FirstPage(self._redis, lambda: self._page(filters, limit)).look
        return await self._watch(("tasks", filters, limit), account, look, _new_rows())

    async def _page(self, filters: Filters, limit: int, cursor: listing.Cursor | None = None) -> listing.Page:
        """Few at a time: a search among very many tasks is work for this process, which serves others meanwhile."""
        async with self._searching:
            fits = _text_search(filters.text)
            return await listing.page(self._redis, filters, limit, life=self._life, cursor=cursor, fits=fits)

    async def task(self, account: Account, key: str) -> dict[str, Any]:
        """All that is known of one task. NotFound for one that nobody knows, or that is another account's."""
        found = await listing.detail(self._redis, key)
        if found is None or not may_see(account, found.record):
            raise NotFound(UNKNOWN_KEY)
        record = found.record
        wait = await self._wait_of(record)
        return {
            "status": orjson.Fragment(found.line),
            "task_name": record.name,
            "account": record.account,
            "queue": record.queue,
            "parameters": masked(orjson.loads(record.parameters)),
            "task_metas": masked(orjson.loads(found.metas)) if found.metas else None,
            "attempt": record.state.attempt,
            "max_attempts": found.max_attempts,
            "timeout": found.timeout,
            "worker": record.state.owner or None,
            "expires": None if found.expires is None else listing.date_of(found.expires),
            "traceparent": found.traceparent,
            "retry_of": found.retry_of,
            "retried_as": record.retried_as,
            "bytes": found.size,
            "attempts": read_attempts(found.attempts),
            # A traceback may show what the task's author did not mean for clients.
            "traceback": masked_text(found.traceback) if found.traceback and account.operator else None,
            **wait._asdict(),
        }

    async def _wait_of(self, record: Record) -> Wait:
        """Its place, when it is expected to end, and what keeps it waiting; nothing of a task that does not wait."""
        if record.state.phase != "w":
            return NOTHING_KNOWN
        ticket = Ticket(record.key, record.queue, record.account, record.name)
        return (await self._service.waits([ticket]))[record.key]

    async def cancel(self, account: Account, keys: Sequence[str]) -> list[bytes]:
        """Ends tasks in an error "cancelled"; their statuses, in order. One that has ended stays as it is."""
        records = await listing.read(self._redis, keys)
        return list(await asyncio.gather(*(self._cancel(account, *pair) for pair in zip(keys, records, strict=True))))

    async def _cancel(self, account: Account, key: str, record: Record | None) -> bytes:
        if record is None or not may_see(account, record):
            return unknown_line(key)
        try:
            return await self._service.cancel(Account(record.account), key)
        except NotFound:
            return unknown_line(key)

    async def retry(self, account: Account, keys: Sequence[str]) -> list[Retried]:
        """Creates failed tasks again, each once: a repetition finds what the first call has made."""
        records = await listing.read(self._redis, keys, with_parameters=True)
        answers = await asyncio.gather(*(self._retry(account, *pair) for pair in zip(keys, records, strict=True)))
        made = [(answer.key, answer.retried_as) for answer in answers if answer.retried_as is not None]
        if made:
            await tasks.note_retries(self._redis, made)
        return list(answers)

    async def _retry(self, account: Account, key: str, record: Record | None) -> Retried:
        if record is None or not may_see(account, record):
            return Retried(key, None, UNKNOWN_KEY)
        if record.retried_as is not None:
            return Retried(key, record.retried_as, None)
        owner = self._accounts.get(record.account)
        refusal = _why_not_retried(record, owner)
        if refusal or owner is None:
            return Retried(key, None, refusal)
        metas = await self._redis.command("HGET", names.TASK + key, "metas")
        definition = Definition(record.name, orjson.loads(record.parameters), orjson.loads(metas) if metas else None)
        new = queue.prepare(definition, self._service.registry, new_key(), timestamp())
        if new.final:
            text = listing.error_text(orjson.loads(new.line)["result"])
            return Retried(key, None, f"it would be refused now: {text}")
        try:
            # No header can hold a line break: this key is none that a client has sent.
            (line,) = await self._service.create_prepared(owner, [new], idempotency_key=f"retry\n{key}")
        except Unauthorized as error:
            return Retried(key, None, error.message)
        return Retried(key, line.key, None)

    async def retry_group(self, account: Account, group: str, limit: int) -> list[Retried]:
        """Retries the newest of a group of failures that have not been retried yet."""
        found: list[str] = []
        async for page in self._failed(account, "", "", GROUP_BUDGET):
            fitting = (record for record in page.records if record.retried_as is None)
            found += [record.key for record in fitting if group_of(record)[0] == group]
            if len(found) >= limit:
                break
        return await self.retry(account, found[:limit])

    async def failures(self, account: Account, since: str, name: str) -> Failures:
        """Failed tasks that are alike, in groups, the newest first: as many as there is time to look at."""
        groups = Groups()
        scanned, is_complete = 0, False
        async for page in self._failed(account, since, name, FAILURES_BUDGET):
            groups.add(page.records)
            scanned += page.scanned
            is_complete = page.cursor is None
        return Failures(groups.found(), scanned, is_complete)

    async def _failed(self, account: Account, since: str, name: str, budget: float) -> AsyncIterator[listing.Page]:
        filters = own_filters(account, Filters(listing.ERROR_, name, since=since))
        ends = time.monotonic() + budget
        cursor: listing.Cursor | None = None
        while time.monotonic() < ends:
            page = await self._page(filters, listing.PIECE, cursor)
            yield page
            cursor = page.cursor
            if cursor is None:
                break

    async def history(self, account: Account, period: Period, name: str | None) -> History:
        """Throughput, waiting and running times of a task, or of all, of all accounts together: for operators only."""
        require_operator(account)
        samples, known = await asyncio.gather(
            measures.history(self._redis, period, name), measures.names_measured(self._redis)
        )
        return History(period, known, samples)

    async def pause(self, account: Account, name: str) -> QueueState:
        """Dragon's workers take nothing from the queue any more; what they have goes on."""
        await self._check_queue(account, name)
        await queues.pause(self._redis, name)
        return QueueState(name, True)

    async def resume(self, account: Account, name: str) -> QueueState:
        """Ends a pause."""
        await self._check_queue(account, name)
        await queues.resume(self._redis, name)
        return QueueState(name, False)

    async def clear(self, account: Account, name: str) -> QueueState:
        """Cancels what waits in the queue now; what workers have goes on."""
        await self._check_queue(account, name)
        cleared = 0
        for waiting in await queues.lists_of(self._redis, name):
            cleared += await self._clear_list(waiting)
        return QueueState(name, name in await queues.paused(self._redis), cleared)

    async def _clear_list(self, name: str) -> int:
        """Not more than there were at the start: others may go on creating."""
        left = int(await self._redis.command("LLEN", name))
        cleared = kept = 0  # what is none of dragon's stays where it is
        while left > 0:
            keys = await queues.piece(self._redis, name, kept, listing.PIECE)
            if not keys:
                break
            ended = await asyncio.gather(*map(self._end_waiting, await listing.read(self._redis, keys)))
            cleared += sum(ended)
            kept += len(keys) - sum(ended)
            left -= len(keys)
        return cleared

    async def _end_waiting(self, record: Record | None) -> bool:
        if record is None or record.state.phase != "w":
            return False
        try:
            line = parse_line(record.line, record.key).ended(ERROR, CANCELLED, timestamp()).line()
        except ValueError:  # longer than what was read of it
            return await self._service.cancel(Account(record.account), record.key) != b""
        answer = await tasks.cancel(self._redis, record.key, record.account, record.state.seq, line, life=self._life)
        if answer == "ended":
            self._service.measures.count(record.name, "cancelled")
        return answer == "ended"

    async def _check_queue(self, account: Account, name: str) -> None:
        require_operator(account)
        known = {one.name for one in (await self.overview(account)).queues}
        if name not in known:
            raise NotFound(f"there is no queue of that name, there are: {', '.join(sorted(known))}")

    def leave(self, watcher: Watcher[Any]) -> None:
        """Ends a watching, and the looks when it was the last."""
        watching = self._places.pop(watcher)
        watching.sampler.leave(watcher)
        self._forget_idle(watching.name, watching.sampler)
        self._service.streams.close(watching.place)

    async def _watch(
        self, name: Any, account: Account, look: Callable[[], Any], news: Callable[[Any], list[bytes]]
    ) -> Watcher[Any]:
        """Watches what the name stands for, together with all who watch the same."""
        place = self._service.streams.open(0, account)
        sampler = self._samplers.setdefault(name, Sampler(look))
        try:
            watcher = await sampler.watch(news)
        except BaseException:
            self._service.streams.close(place)
            self._forget_idle(name, sampler)
            raise
        self._places[watcher] = _Watching(name, sampler, place)
        if self._closed:
            watcher.close()
        return watcher

    def _forget_idle(self, name: Any, sampler: Sampler[Any]) -> None:
        if sampler.is_idle and self._samplers.get(name) is sampler:
            del self._samplers[name]


def require_operator(account: Account) -> None:
    """Raises Unauthorized for an account that may not touch what is everybody's."""
    if not account.operator:
        raise Unauthorized(
            f"the account {account.id!r} may not do that: it takes `operator = true` in the accounts file"
        )


def own_filters(account: Account, filters: Filters) -> Filters:
    """The filters, with the account of one that is no operator in them."""
    return filters if account.operator else filters._replace(account=account.id)


def may_see(account: Account, record: Record) -> bool:
    return account.operator or record.account == account.id


def _why_not_retried(record: Record, owner: Account | None) -> str | None:
    if record.state.phase != "e":
        return "it has not ended: only a task that ended in an error is retried"
    if record.status != ERROR:
        return "it ended in success: only a task that ended in an error is retried"
    if not record.queue:
        return "its definition was refused: correct it, and create it anew"
    if owner is None:
        return "its account does not exist any more"
    return None


def _text_search(text: str) -> Callable[[Record], bool]:
    """Whether a text, in any case, is in what is shown of a task: a secret cannot be guessed by looking for it."""
    wanted = text.lower()

    def fits(record: Record) -> bool:
        if any(wanted in part.lower() for part in (record.key, record.name, record.account)):
            return True
        if record.status == ERROR and wanted in message_of(record).lower():
            return True
        try:
            shown = orjson.dumps(masked(orjson.loads(record.parameters)))
        except ValueError:
            return False
        return wanted in shown.decode().lower()

    return fits


def row_of(record: Record) -> dict[str, Any]:
    """A task as lists show it."""
    members = {} if record.status == SUCCESS and record.state.phase == "e" else record.result()
    return {
        "key": record.key,
        "status": record.status,
        "task_name": record.name,
        "account": record.account,
        "queue": record.queue,
        "queued": record.queued,
        "started": record.started,
        "completed": record.completed,
        **({"progress": members["progress"]} if "progress" in members else {}),
        "worker": record.state.owner or None,
        "attempt": record.state.attempt,
        "message": message_of(record) if record.status == ERROR else None,
        "retried_as": record.retried_as,
    }


def read_attempts(field: bytes) -> list[dict[str, Any]]:
    """The field `attempts` of a task; nothing, where that is not as the scripts write it."""
    try:
        found = orjson.loads(field)
    except ValueError:
        return []
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


def spell_cursor(cursor: listing.Cursor, filters: Filters) -> str:
    """A cursor as clients get it: it holds places in lists and no keys, which would be permissions to read."""
    return base64.urlsafe_b64encode(orjson.dumps([_mark(filters), cursor])).decode().rstrip("=")


def read_cursor(text: str, account: Account, filters: Filters) -> listing.Cursor:
    """Raises ValueError for what is no cursor of these filters."""
    try:
        found = orjson.loads(base64.b64decode(text + "=" * (-len(text) % 4), b"-_", validate=True))
    except (ValueError, UnicodeEncodeError):
        raise ValueError("this is no cursor: give `next` of the page before, as it is") from None
    match found:
        case [str(mark), dict(cursor)] if listing.is_cursor(cursor):
            if mark != _mark(own_filters(account, filters)):
                raise ValueError("this cursor is of a search with other filters: start without it")
            return {name: place and (place[0], place[1]) for name, place in cursor.items()}
    raise ValueError("this is no cursor: give `next` of the page before, as it is")


def _mark(filters: Filters) -> str:
    return names.digest(*filters)[:8]


class _FirstPage:
    """Looks at the first page of a search, and after those tasks that were on it and have not ended."""

    def __init__(self, redis: Redis, page: Callable[[], Awaitable[listing.Page]]) -> None:
        self._redis = redis
        self._page = page
        self._open: set[str] = set()

    async def look(self) -> _Rows:
        page = await self._page()
        records = {record.key: record for record in page.records}
        missing = [key for key in self._open if key not in records][:MOST_FOLLOWED]
        found = [record for record in await listing.read(self._redis, missing) if record is not None]
        on_page = frozenset(records)
        records |= {record.key: record for record in found}
        self._open = {key for key, record in records.items() if record.state.phase != "e"}
        return _Rows({key: orjson.dumps(row_of(record)) for key, record in records.items()}, on_page)


class _Rows(NamedTuple):
    by_key: dict[str, bytes]  # those of the page first, the newest first
    on_page: frozenset[str]

    def may_have_missed(self, before: _Rows) -> bool:
        """Whether there may be tasks between this page and the one before: they have none in common."""
        return bool(before.by_key) and before.by_key.keys().isdisjoint(self.on_page)


def _new_rows() -> Callable[[_Rows], list[bytes]]:
    """What of the first pages is to be sent to one watcher."""
    sent: _Rows | None = None

    def news(rows: _Rows) -> list[bytes]:
        nonlocal sent
        before, sent = sent, rows
        told = {} if before is None else before.by_key
        changed = {key: row for key, row in rows.by_key.items() if told.get(key) != row}
        page: list[bytes] = []
        if before is None or rows.may_have_missed(before):
            page = [b"[" + b",".join(changed.pop(key) for key in rows.by_key if key in rows.on_page) + b"]"]
        return page + list(reversed(changed.values()))

    return news


def _changes() -> Callable[[_Seen], list[bytes]]:
    """What of the snapshots is to be sent to one watcher: those that differ from the last that it had."""
    sent = b""

    def news(seen: _Seen) -> list[bytes]:
        nonlocal sent
        if seen.essence == sent:
            return []
        sent = seen.essence
        return [seen.line]

    return news
