"""All that dragon can do, without HTTP: a dialect translates requests into these calls and answers out of them."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import orjson
from redis.exceptions import ResponseError

from dragon import journal, queue
from dragon.auth import Account
from dragon.config import Config
from dragon.connections import Redis
from dragon.definition import Definition
from dragon.errors import FilenameError, NotFound, Unauthorized
from dragon.feed import Feed, Follower, Listener, first_look
from dragon.files import Files
from dragon.log_follower import LogFollower
from dragon.positions import NOTHING_KNOWN, Positions, Wait
from dragon.status import CANCELLED, ERROR, parse_line, timestamp, timestamp_of, unknown_line
from dragon.store import logs, tasks, workers
from dragon.store.logs import LogPage
from dragon.store.measures import Measures
from dragon.store.tasks import Line, NewTask, Ticket, Usage
from dragon.streams import Place, Streams
from dragon.task import Registry, Task

LOG_BYTES = 1 << 20  # of log lines in one answer, after which the next has to be asked for
log = logging.getLogger("dragon.service")


@dataclass(frozen=True, slots=True)
class FileAnswer:
    """What became of a wait for an output file: its URL, or the failed status line, or neither yet."""

    key: str
    url: str | None = None
    failed: bytes | None = None
    life: int = 0  # seconds that the file will live on
    line: bytes = b""  # the final status of its task
    reused: bool = False  # it was there already


class Service:
    """The verbs. Holds no state of its own but the feed's followers and their places."""

    def __init__(
        self, config: Config, redis: Redis, feed: Feed, registry: Registry, files: Files, streams: Streams
    ) -> None:
        self.config = config
        self.redis = redis
        self.feed = feed
        self.registry = registry
        self.files = files
        self.streams = streams
        self.measures = Measures(redis, registry.tasks)
        self.positions = Positions(redis, registry, config.server.position_interval)
        self._places: dict[Follower, Place] = {}

    async def create(
        self, account: Account, definitions: Sequence[Definition], *, idempotency_key: str = ""
    ) -> list[Line]:
        """Creates tasks; a line for each, in their order. Unauthorized when a limit of the account is reached."""
        self._check_call_limit(account, len(definitions))
        new = queue.prepare_all(definitions, self.registry)
        return await self.create_prepared(account, new, idempotency_key=idempotency_key)

    async def create_prepared(
        self, account: Account, new: Sequence[NewTask], *, idempotency_key: str = ""
    ) -> list[Line]:
        """As `create`, for tasks that `queue.prepare` has made."""
        lines = await queue.create(self.redis, new, self._request(account, "", idempotency_key))
        self._count_refused(new, lines)
        return lines

    async def create_and_follow(
        self,
        account: Account,
        definitions: Sequence[Definition],
        *,
        idempotency_key: str = "",
        single_flight: bool = False,
    ) -> tuple[list[Line], Follower]:
        """As `create`, with a follower that misses nothing from then on; the caller has to `leave` it.

        Full, or Unauthorized, when there may be no more streams; no task was created then.
        """
        self._check_call_limit(account, len(definitions))
        place = self.streams.open(len(definitions), account)
        try:
            lines, follower = await self._create_and_follow(account, definitions, idempotency_key, single_flight)
        except BaseException:
            self.streams.close(place)
            raise
        self._places[follower] = place
        return lines, follower

    async def _create_and_follow(
        self, account: Account, definitions: Sequence[Definition], idempotency_key: str, single_flight: bool
    ) -> tuple[list[Line], Follower]:
        reuse_for = account.id if single_flight else ""
        new = queue.prepare_all(definitions, self.registry, reuse_for=reuse_for)
        # Followed before they exist: the first message may be here before the script's reply has been read.
        follower = Follower([Line(task.key, 1, task.final, task.line) for task in new], is_early=True)
        self.feed.add(follower)
        try:
            request = self._request(account, self.feed.id, idempotency_key)
            lines = await queue.create(self.redis, new, request)
        except BaseException:
            self.feed.remove(follower)
            raise
        follower.is_early = False
        self._count_refused(new, lines)
        if [line.key for line in lines] != [task.key for task in new]:
            self.feed.remove(follower)
            follower = await self._follow_lines(lines)
        return lines, follower

    async def read(self, keys: Sequence[str]) -> list[Line]:
        """The present statuses in the order of the keys, doubles included; unknown keys have seq -1."""
        found = await tasks.follow(self.redis, "", first_look(keys))
        return _in_order(keys, found)

    async def follow(self, keys: Sequence[str]) -> tuple[list[Line], Follower]:
        """The present statuses, and a follower of all that comes; the caller has to `leave` it. Full as above."""
        place = self.streams.open(len(set(keys)))
        try:
            found = await tasks.follow(self.redis, self.feed.id, first_look(keys))
            lines = _in_order(keys, found)
            follower = await self._follow_lines(lines)
        except BaseException:
            self.streams.close(place)
            raise
        self._places[follower] = place
        return lines, follower

    async def log(self, key: str, after: int) -> LogPage:
        """The lines of a task's log after number `after`, a LOG_BYTES or so at most. NotFound for an unknown key."""
        lines, size = [], 0
        while True:
            page = await logs.read_log(self.redis, key, after)
            if page is None:
                raise NotFound("unknown task key")
            lines += page.lines
            size += sum(len(line.text) for line in page.lines)
            if len(page.lines) < logs.PAGE or size > LOG_BYTES:
                return LogPage(lines, page.next, page.ended)
            after = page.next

    async def follow_log(self, key: str, after: int) -> LogFollower:
        """A follower of a task's log; the caller has to `leave` its listener. NotFound for an unknown key."""
        place = self.streams.open(1)
        try:
            (line,) = _in_order([key], await tasks.follow(self.redis, self.feed.id, first_look([key])))
            if line.seq < 0:
                raise NotFound("unknown task key")
            listener = Listener(line)
            await self._add(listener)
        except BaseException:
            self.streams.close(place)
            raise
        self._places[listener] = place
        return LogFollower(self.redis, key, after, listener)

    def leave(self, follower: Follower) -> None:
        self.feed.remove(follower)
        self.positions.remove(follower)
        self.streams.close(self._places.pop(follower))

    async def wait(self, lines: Sequence[Line], follower: Follower, timeout: float) -> list[bytes]:
        """Waits until all are final, `timeout` seconds at most, and returns the statuses as they are then."""
        newest = {line.key: line.line for line in lines}
        ends = time.monotonic() + timeout
        while not follower.finished:
            left = ends - time.monotonic()
            if left <= 0:
                break
            for line in await follower.take(left):
                newest[key_of(line)] = line
        return [newest[line.key] for line in lines]

    async def details(self, lines: Sequence[bytes]) -> list[bytes]:
        """The statuses with task_name, parameters, task_metas, attempt, worker, expires and traceparent.

        Those of tasks that wait also with position, eta and waiting_for.
        """
        keys = [key_of(line) for line in lines]
        facts = await asyncio.gather(*(tasks.details(self.redis, key) for key in keys))
        tickets = [
            Ticket(key, found["queue"], found["account"], found["name"])
            for key, found in zip(keys, facts, strict=True)
            if found is not None and found["waits"]
        ]
        waits = await self.waits(tickets) if tickets else {}
        return [
            line if found is None else _with_details(line, found, waits.get(key))
            for line, key, found in zip(lines, keys, facts, strict=True)
        ]

    async def waits(self, tickets: Sequence[Ticket]) -> dict[str, Wait]:
        """What is known of tasks that wait; nothing, where Redis keeps it from us."""
        try:
            return await self.positions.waits(tickets)
        except ResponseError as error:
            log.warning("the places of waiting tasks cannot be read: %s", error)
            return {ticket.key: NOTHING_KNOWN for ticket in tickets}

    async def cancel(self, account: Account, key: str) -> bytes:
        """Ends a task of this account in an error "cancelled", whatever it is doing; a final one stays as it is."""
        seq: int | None = None
        line = b""
        name = await tasks.name_of(self.redis, key)
        while True:
            answer = await tasks.cancel(self.redis, key, account.id, seq, line, life=self.config.files.life)
            if answer == "unknown":
                raise NotFound("unknown task key")
            if answer == "ended":
                self.measures.count(name, "cancelled")
                return line
            assert isinstance(answer, Line)
            if answer.final:
                return answer.line
            seq = answer.seq
            try:
                present = parse_line(answer.line, key)
            except ValueError:
                raise NotFound("unknown task key") from None  # what stands there is not dragon's
            line = present.ended(ERROR, CANCELLED, timestamp()).line()

    def check_filename(self, task_name: str, filename: str | None) -> None:
        """Raises FilenameError when the task can have no output file of that name; unknown tasks fail later."""
        task = self.registry.get(task_name)
        if task is not None:
            choose_output(task, filename)

    async def create_file(
        self, account: Account, definition: Definition, filename: str | None, *, single_flight: bool
    ) -> FileAnswer:
        """Creates a task (or joins the same one) and waits for its output file."""
        self.check_filename(definition.task_name, filename)
        if single_flight and not definition.problems:
            made = await tasks.reused(self.redis, queue.same_task(account.id, definition))
            if made is not None and made.final:  # the page's second visitor: nothing to check, create or follow
                return self._file_answer(made.line, filename, definition.task_name, reused=True)
        lines, follower = await self.create_and_follow(account, [definition], single_flight=single_flight)
        return await self._await_file(lines, follower, filename, definition.task_name)

    async def file(self, key: str, filename: str | None) -> FileAnswer:
        """Waits for an existing task's output file. NotFound for an unknown key."""
        facts = await tasks.details(self.redis, key)
        if facts is None:
            raise NotFound("unknown task key")
        self.check_filename(facts["name"], filename)
        lines, follower = await self.follow([key])
        return await self._await_file(lines, follower, filename, facts["name"])

    async def catalogue(self) -> list[dict[str, Any]]:
        """Every task with its schema and how many workers serve it."""
        living = (await workers.living(self.redis)).values()
        entries = []
        for task in self.registry.tasks.values():
            serving = sum(task.name in names and task.queue in queues for queues, names in living)
            entries.append(task.describe() | {"workers": serving})
        return sorted(entries, key=lambda entry: str(entry["name"]))

    async def unready(self) -> str | None:
        """Why no task would run now, None when all is well. Raises Unavailable without Redis."""
        if await workers.living(self.redis) or await workers.rq_worker_count(self.redis):
            return None
        return "no worker is registered: start one with run_worker.py"

    def _request(self, account: Account, feed: str, idempotency_key: str) -> queue.Request:
        limits = account.limits
        usage = Usage(limits.tasks_queued, limits.tasks_per_minute, limits.bytes_stored)
        trace = journal.request().traceparent
        return queue.Request(account.id, usage, self.config.files.life, feed, idempotency_key, trace)

    def _count_refused(self, new: Sequence[NewTask], lines: Sequence[Line]) -> None:
        """Tasks that were wrong from the start have no worker that would count them; repeated ones were counted."""
        refused = [task for task in new if task.final]
        if refused:  # rare: everything that is created comes by here
            created = {line.key for line in lines}
            for task in refused:
                if task.key in created:
                    self.measures.count(task.name, "error")

    def _check_call_limit(self, account: Account, count: int) -> None:
        most = account.limits.tasks_per_call
        if most is not None and count > most:
            raise Unauthorized(f"account limit reached: {most} tasks in one call")

    async def _follow_lines(self, lines: Sequence[Line]) -> Follower:
        follower = Follower(lines)
        await self._add(follower)
        return follower

    async def _add(self, follower: Follower) -> None:
        self.feed.add(follower)
        try:
            # A message between the script and `add` found no follower: look once more.
            await self.feed.refresh(follower.open.copy())
        except BaseException:
            self.feed.remove(follower)
            raise

    async def _await_file(
        self, lines: list[Line], follower: Follower, filename: str | None, task_name: str
    ) -> FileAnswer:
        try:
            status = (await self.wait(lines, follower, self.config.server.file_wait))[0]
        finally:
            self.leave(follower)
        return self._file_answer(status, filename, task_name)

    def _file_answer(self, status: bytes, filename: str | None, task_name: str, *, reused: bool = False) -> FileAnswer:
        try:
            data = orjson.loads(status)
            if data["status"] == ERROR:
                return FileAnswer(data["key"], failed=status)
            if data["status"] != "success":
                return FileAnswer(data["key"])
            task = self.registry.get(task_name)
            if task is None:
                raise NotFound("this server does not know the task's name any more")
            url = str(data["result"][choose_output(task, filename)])
            completed = datetime.fromisoformat(data["events"]["completed"])
        except (ValueError, TypeError, LookupError):
            raise NotFound("unknown task key") from None  # what stands in Redis is not dragon's
        age = max(0.0, (datetime.now(UTC) - completed).total_seconds())  # the worker's clock may be ahead of ours
        life = max(0, int(self.config.files.life - age))
        return FileAnswer(data["key"], url=url, life=life, line=status, reused=reused)


def _with_details(line: bytes, facts: dict[str, Any], wait: Wait | None) -> bytes:
    expires = facts["expires"]
    members = {
        "task_name": facts["name"],
        "parameters": orjson.Fragment(facts["parameters"]),
        "task_metas": orjson.Fragment(facts["metas"]) if facts["metas"] else None,
        "attempt": facts["attempt"],
        "worker": facts["owner"] or None,
        "expires": timestamp_of(datetime.fromtimestamp(expires, UTC)) if expires else None,
        "traceparent": facts["traceparent"] or None,
    }
    if wait is not None:
        members |= wait._asdict()
    return line[:-1] + b"," + orjson.dumps(members)[1:]


def choose_output(task: Task, filename: str | None) -> str:
    """The declared output that a filename selects. A single one takes any name; raises FilenameError otherwise."""
    if not task.outputs:
        raise FilenameError(f"this task has no output file: {task.name!r} returns its result as JSON, use create")
    if len(task.outputs) == 1:
        return task.outputs[0]
    stem = (filename or "").rpartition(".")[0] or filename
    if filename in task.outputs:
        return str(filename)
    if stem in task.outputs:
        return str(stem)
    choices = ", ".join(f"'{name}'" for name in task.outputs)
    given = f"'{filename}' is not a valid filename" if filename else "the filename is missing"
    raise FilenameError(f"{given}, choose one of: {choices}")


def key_of(line: bytes) -> str:
    """The key in a status line; dragon's own lines have it in one place, those for unknown keys too."""
    start = line.index(b'"key":"') + 7
    return line[start : start + 26].decode()


def _in_order(keys: Sequence[str], found: Sequence[Line | None]) -> list[Line]:
    lines = {line.key: line for line in found if line is not None}
    return [lines[key] if lines[key].seq >= 0 else Line(key, -1, True, unknown_line(key)) for key in keys]
