"""The engine of a worker: reserves tasks, hands them to executors, and turns what comes back into statuses.

It never runs user code. Every task has one outcome here: `_end` (a final status), `_give_back`, or `_drop` (somebody
else decided). Whatever an executor says about a task after its outcome is ignored.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import shutil
import signal
import socket
import time
from collections import deque
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, Literal

import orjson

from dragon.config import Config
from dragon.connections import Redis, insist
from dragon.errors import TaskError
from dragon.fetch import Fetcher
from dragon.files import Files
from dragon.processes import how_it_ended
from dragon.status import CANCELLED, ERROR, EXECUTING, QUEUED, SUCCESS, Status, error_result, parse_line, timestamp
from dragon.store import tasks
from dragon.store.tasks import Reserved, Write
from dragon.worker.bounds import bounds_of, cpu_sentence, processes_sentence
from dragon.worker.messages import Frame, Kind
from dragon.worker.outputs import has_outputs, keep_outputs
from dragon.worker.pool import Executor, Pool, TaskFacts
from dragon.worker.writer import Writer

log = logging.getLogger("dragon.worker")

FAST = 0.005  # seconds: tasks known to be this short are sent to an executor several at a time
FAST_SENT = 64  # at most
CANCEL_GRACE = 2.0  # seconds that an `async def` task has to end after its cancellation
UNKNOWN_DURATION = 1.0  # seconds that a task is taken to last before its name has been measured
SMOOTHING = 0.2  # weight of the newest duration in a task name's average
KIND_LOOK = 0.25  # seconds between two looks past tasks of one kind (`def`, `async def`) for the other kind behind them
TIMEOUT_CHECK = 0.1  # seconds between two looks for tasks that take too long
END_WAIT = 5.0  # seconds that the fork server has to say how an executor ended: it may be busy killing what it left
FinalKind = Literal["success", "error"]
MOST_STILLBORN = 5  # executors in a row that ended before they were ready: the next will not do better
STILLBORN_PAUSE = 0.2  # seconds until another is started, times their number
MISSED_LOOKS = 2  # signs of life in a row that do not list a task, until it counts as taken away


_RESULT, _FAILED = int(Kind.RESULT), int(Kind.FAILED)  # plain numbers: every task comes by


class Running:
    """One reserved task on its way through this worker."""

    __slots__ = (
        "estimate",
        "executor",
        "facts",
        "fetches",
        "has_scratch",
        "missed",
        "number",
        "over",
        "reserved",
        "scratch",
        "started",
        "status",
    )

    def __init__(
        self, number: int, reserved: Reserved, status: Status, facts: TaskFacts, scratch: str, estimate: float
    ) -> None:
        self.number = number
        self.reserved = reserved
        self.facts = facts
        self.scratch = scratch
        self.estimate = estimate  # seconds that it is expected to run
        self.status = status
        self.executor: Executor | None = None
        self.started = 0.0  # monotonic seconds; 0: not yet
        self.has_scratch = False  # known when its executor is through with it
        self.fetches: set[asyncio.Task[None]] | None = None
        self.missed = 0
        self.over = False  # its outcome is decided


class Engine:
    """One worker's tasks and executors. `run` reserves until `stop`."""

    def __init__(self, config: Config, worker_id: str, redis: Redis, files: Files, fetcher: Fetcher) -> None:
        self.id = worker_id
        self.config = config
        self.redis = redis
        self.places_freed = asyncio.Event()
        self.writer = Writer(
            redis, self.id, config.files.life, self.places_freed.set, log_lines=config.limits.log_lines
        )
        self.pool = Pool(config, self._on_frames, self._on_executor_lost)
        self.catalogue: dict[str, TaskFacts] = {}
        self.running: dict[int, Running] = {}
        self.stopping = False
        self._bounds = bounds_of(config)
        self._files = files
        self._fetcher = fetcher
        self._scratch = str(config.scratch_dir / worker_id)
        self._executor_count = config.worker.executors or os.cpu_count() or 1
        self._executors: list[Executor] = []
        self._backlogs: dict[bool, deque[Running]] = {False: deque(), True: deque()}  # taken ahead; by facts.is_async
        self._ahead_used = {False: 0.0, True: 0.0}  # seconds of work in the backlogs
        self._durations: dict[str, float] = {}  # seconds by task name
        self._has_known = {False: False, True: False}  # whether one of them allows to take tasks ahead; by is_async
        self._orphans: set[str] = set()  # dead workers' tasks that this one is about to end
        self._strays: set[str] = set()  # keys that Redis listed as this worker's and that were not here
        self._last_number = 0
        self._blind_until = {False: 0.0, True: 0.0}  # monotonic seconds, by is_async: no look for tasks of that kind
        self._ahead_blind_until = {False: 0.0, True: 0.0}  # the same for tasks to take ahead
        self._timeout_check: asyncio.TimerHandle | None = None
        self._background: set[asyncio.Task[Any]] = set()
        self._stillborn = 0  # executors in a row that ended before they were ready

    async def start(self) -> None:
        """Starts the fork server and the executors. Raises ConfigError when the tasks cannot be imported."""
        self.catalogue = await self.pool.start()
        if any(not facts.is_async for facts in self.catalogue.values()):
            for _ in range(self._executor_count):
                self._executors.append(await self.pool.fork(is_async=False))
        if self.config.worker.concurrency and any(facts.is_async for facts in self.catalogue.values()):
            self._executors.append(await self.pool.fork(is_async=True))

    @property
    def is_busy(self) -> bool:
        return bool(self.running)

    # Reserving

    async def reserve(self) -> tasks.Reservation:
        """Takes what there is place for and hands it to the executors."""
        places = {kind: 0 if self._is_blind(self._blind_until[kind]) else self._places(kind) for kind in (False, True)}
        ahead = {
            kind: 0.0 if self._is_blind(self._ahead_blind_until[kind]) else self._ahead_left(kind)
            for kind in (False, True)
        }
        reservation = await tasks.reserve(
            self.redis,
            self.id,
            self.config.worker.queues,
            sync_places=places[False],
            async_places=places[True],
            ahead=ahead[False],
            async_ahead=ahead[True],
            known=[(name, facts.is_async, self._known_duration(facts)) for name, facts in self.catalogue.items()],
        )
        if reservation.left:
            self._close_eyes({self._is_async(one.name) for one in reservation.tasks}, places, ahead)
        for key in reservation.dropped:
            log.info("%s dropped: no task of dragon's, or over", key)
        for reserved in reservation.tasks:
            self._accept(reserved)
        self._send_backlogs()
        return reservation

    def _known_duration(self, facts: TaskFacts) -> float | None:
        """Seconds, as far as they allow to take a task ahead: an `async def` one waits for one of many places, so it
        must be short itself."""
        duration = self._durations.get(facts.name)
        is_long = facts.is_async and duration is not None and duration > self.config.worker.ahead
        return None if is_long else duration

    def _is_async(self, name: str) -> bool:
        facts = self.catalogue.get(name)
        return facts is not None and facts.is_async

    def _close_eyes(self, given: set[bool], places: dict[bool, int], ahead: dict[bool, float]) -> None:
        """For a kind of which there was nothing in a full queue: a look goes past many tasks, so the next is later."""
        until = time.monotonic() + KIND_LOOK
        for kind in {False, True} - given:
            if places[kind]:
                self._blind_until[kind] = until
            if ahead[kind]:
                self._ahead_blind_until[kind] = until

    def _is_blind(self, until: float) -> bool:
        return time.monotonic() < until

    @property
    def is_blind(self) -> bool:
        """Whether it does not look for tasks of some kind now, and has to look again later."""
        return self._is_blind(max(*self._blind_until.values(), *self._ahead_blind_until.values()))

    def wants_more(self) -> bool:
        """Whether there is place for another task, or a good part of what may be taken ahead is used up."""
        if self.stopping or self.writer.is_behind:
            return False  # what has ended here is not safe until it is written: no more of it than need be
        return any(self._wants_more_of(kind) for kind in (False, True))

    def _wants_more_of(self, is_async: bool) -> bool:
        if self._places(is_async) > 0 and not self._is_blind(self._blind_until[is_async]):
            return True
        is_short = self._ahead_left(is_async) <= self._ahead_allowed(is_async) / 2
        return not is_short and not self._is_blind(self._ahead_blind_until[is_async])

    def _places(self, is_async: bool) -> int:
        return self._async_places() if is_async else self._sync_places()

    def _sync_places(self) -> int:
        idle = sum(
            not executor.is_async and not executor.numbers and not executor.is_lost for executor in self._executors
        )
        return max(0, idle - len(self._backlogs[False]))

    def _async_places(self) -> int:
        return sum(
            self.config.worker.concurrency - len(executor.numbers)
            for executor in self._executors
            if executor.is_async and not executor.is_lost
        )

    def _ahead_allowed(self, is_async: bool) -> float:
        """Seconds of work that may be taken ahead: what all that run at the same time get through in `ahead`."""
        at_once = self._executor_count
        if is_async:
            at_once = self.config.worker.concurrency * sum(one.is_async and not one.is_lost for one in self._executors)
        return self.config.worker.ahead * at_once

    def _ahead_left(self, is_async: bool) -> float:
        """Seconds of work that may still be taken ahead; nothing, as long as no duration is known that allows it."""
        if not self._has_known[is_async]:
            return 0.0
        return self._ahead_allowed(is_async) - self._ahead_used[is_async]

    def _accept(self, reserved: Reserved) -> None:
        self._last_number += 1
        facts = self.catalogue.get(reserved.name)
        scratch = f"{self._scratch}/{reserved.key}.{reserved.attempt}"
        known = facts or TaskFacts(reserved.name, False, 0, ())
        estimate = self._durations.get(reserved.name, UNKNOWN_DURATION)
        try:
            status, damage = parse_line(reserved.line, reserved.key), ""
        except ValueError as error:
            status, damage = Status(QUEUED, reserved.key, timestamp()), str(error)
        running = Running(self._last_number, reserved, status, known, scratch, estimate)
        self.running[running.number] = running
        if damage:
            log.error("%s error: its status in Redis is damaged: %s", reserved.key, damage)
            self._end(running, ERROR, error_result("what was stored of this task is damaged"))
            return
        if facts is None:
            self._end(running, ERROR, error_result(f"no worker of this queue knows the task {reserved.name!r}"))
            return
        self._backlogs[facts.is_async].append(running)
        self._ahead_used[facts.is_async] += estimate

    # Sending

    def _send_backlogs(self) -> None:
        for is_async, backlog in self._backlogs.items():
            while backlog:
                executor = self._executor_for(backlog[0])
                if executor is None and not backlog[0].over:
                    break
                running = backlog.popleft()
                self._ahead_used[is_async] = self._ahead_used[is_async] - running.estimate if backlog else 0.0
                if executor is not None and not running.over:
                    self._send(running, executor)

    def _executor_for(self, running: Running) -> Executor | None:
        is_async = running.facts.is_async
        executor = None
        for one in self._executors:
            if one.is_async != is_async or one.is_lost:
                continue
            if executor is None or len(one.numbers) < len(executor.numbers):
                executor = one
        if executor is None:
            return None
        if is_async:
            return executor if len(executor.numbers) < self.config.worker.concurrency else None
        if not executor.numbers:
            return executor
        # Several at a time only while all of them are known to be short: nothing waits behind a slow one.
        is_fast = running.estimate <= FAST and executor.slowest <= FAST
        return executor if is_fast and len(executor.numbers) < FAST_SENT else None

    def _send(self, running: Running, executor: Executor) -> None:
        running.executor = executor
        is_first = not executor.numbers
        executor.slowest = running.estimate if is_first else max(executor.slowest, running.estimate)
        executor.numbers[running.number] = running.scratch
        reserved = running.reserved
        head = orjson.dumps(
            {
                "name": reserved.name,
                "key": reserved.key,
                "attempt": reserved.attempt,
                "scratch": running.scratch,
            }
        )
        executor.send(Kind.RUN, running.number, head + b"\n" + reserved.parameters)
        if is_first or executor.is_async:
            self._mark_started(running)

    def _mark_started(self, running: Running) -> None:
        running.started = time.monotonic()
        running.status = running.status.executing(timestamp())
        write = Write(running.reserved.key, running.reserved.attempt, EXECUTING, running.status.line())
        if running.estimate <= self.config.worker.ahead:
            self.writer.write_start(write)
        else:
            self.writer.write(write)
        if self._timeout_check is None:
            self._timeout_check = asyncio.get_running_loop().call_later(TIMEOUT_CHECK, self._check_timeouts)
        if log.isEnabledFor(logging.DEBUG):
            log.debug("%s start %s attempt=%d", running.reserved.key, running.reserved.name, running.reserved.attempt)

    # What executors say

    def _on_frames(self, executor: Executor, frames: list[Frame]) -> None:
        for frame in frames:
            self._on_frame(executor, frame)
        self._send_backlogs()
        self.places_freed.set()

    def _on_frame(self, executor: Executor, frame: Frame) -> None:
        kind, number, payload = frame
        running = self.running.get(number)
        if kind in (_RESULT, _FAILED):
            self._free(executor, number, running)
        elif kind == Kind.SCRATCH:
            executor.scratched.add(number)
        elif kind == Kind.READY:
            executor.is_ready = True
            self._stillborn = 0
        if running is None or running.over or running.executor is not executor:
            return
        if kind == _RESULT:
            self._on_result(running, payload)
            return
        match kind:
            case Kind.FAILED:
                self._on_failed(running, payload)
            case Kind.PROGRESS:
                self._report(running, progress=payload)
            case Kind.PARTIAL:
                self._report(running, partial=payload)
            case Kind.LOG:
                self.writer.write_log(running.reserved.key, running.reserved.attempt, running.facts.timeout, payload)
            case Kind.FETCH:
                executor.scratched.add(number)
                fetching = asyncio.create_task(self._fetch(running, executor, payload))
                if running.fetches is None:
                    running.fetches = set()
                running.fetches.add(fetching)
                fetching.add_done_callback(running.fetches.discard)

    def _free(self, executor: Executor, number: int, running: Running | None) -> None:
        """The executor is through with a task: its next one starts, and there is place for more."""
        scratch = executor.numbers.pop(number, None)
        if number in executor.scratched:
            executor.scratched.discard(number)
            if running is not None and not running.over:
                running.has_scratch = True  # until its outcome: its output files may lie there
            elif scratch is not None:
                self._remove_scratch(scratch)
        if not executor.is_async and executor.numbers:
            following = self.running.get(next(iter(executor.numbers)))
            if following is not None and not following.over and not following.started:
                self._mark_started(following)

    def _report(self, running: Running, *, progress: bytes | None = None, partial: bytes | None = None) -> None:
        running.status = running.status.reported(progress, partial)
        reserved = running.reserved
        self.writer.write_progress(Write(reserved.key, reserved.attempt, EXECUTING, running.status.line()))

    def _on_result(self, running: Running, payload: bytes) -> None:
        duration = time.monotonic() - running.started
        name = running.reserved.name
        known = self._durations.get(name)
        self._durations[name] = duration if known is None else known + SMOOTHING * (duration - known)
        if not self._has_known[running.facts.is_async] and self._known_duration(running.facts) is not None:
            self._has_known[running.facts.is_async] = True
        if not has_outputs(payload):
            self._end(running, SUCCESS, payload.partition(b"\n")[2])
            return
        running.over = True  # the task has done its part in time
        self._in_background(self._keep_outputs(running, payload))

    async def _keep_outputs(self, running: Running, payload: bytes) -> None:
        reserved = running.reserved
        try:
            result, size = await asyncio.to_thread(keep_outputs, self._files, reserved.key, reserved.attempt, payload)
        except OSError as error:
            await asyncio.to_thread(self._files.drop, reserved.key, reserved.attempt)  # what there is of them
            reason = error.strerror or type(error).__name__
            log.exception(
                "%s error: its output files cannot be stored (%s); see to the folder that the setting files.url names: "
                "it has to be a folder that this worker can write to, with room on its disk",
                reserved.key,
                reason,
            )
            self._end(running, ERROR, error_result(f"the output files cannot be stored: {reason}"))
        else:
            self._end(running, SUCCESS, result, size=size)

    def _on_failed(self, running: Running, payload: bytes) -> None:
        result, _, trace = payload.partition(b"\n")
        text = trace.decode(errors="replace")
        if text:
            log.error("%s failed %s %s", running.reserved.key, running.reserved.name, text)
        self._end(running, ERROR, result, trace=text)

    async def _fetch(self, running: Running, executor: Executor, payload: bytes) -> None:
        fetch, _, url = payload.partition(b"\n")
        try:
            folder = Path(running.scratch) / "sources"
            folder.mkdir(parents=True, exist_ok=True)
            answer = b"+" + str(await self._fetcher.fetch(url.decode(), folder)).encode()
        except TaskError as error:
            answer = b"-" + error.message.encode()
        except OSError as error:
            log.exception("%s a download cannot be stored; see to the folder %s", running.reserved.key, self._scratch)
            answer = f"-the download cannot be stored: {error.strerror or type(error).__name__}".encode()
        except Exception:  # whatever it is, the task waits for an answer
            log.exception("%s a download failed", running.reserved.key)
            answer = b"-the download failed with an internal error"
        executor.send(Kind.FETCHED, running.number, fetch + b"\n" + answer)

    # Outcomes

    def _end(self, running: Running, kind: FinalKind, result: bytes, *, size: int = -1, trace: str = "") -> None:
        """A final status: written, and the task forgotten once Redis has it."""
        self._settle(running)
        reserved = running.reserved
        running.status = running.status.ended(kind, result, timestamp())
        write = Write(reserved.key, reserved.attempt, kind, running.status.line(), size, trace)
        self.writer.write(write, lambda accepted: self._after_end(running, accepted, has_files=size >= 0))
        if log.isEnabledFor(logging.DEBUG):
            seconds = time.monotonic() - running.started if running.started else 0.0
            log.debug("%s %s %s %.3f s", reserved.key, kind, reserved.name, seconds)

    def _after_end(self, running: Running, accepted: bool, *, has_files: bool) -> None:
        self.running.pop(running.number, None)
        reserved = running.reserved
        if not accepted:
            if has_files:
                self._in_background(asyncio.to_thread(self._files.drop, reserved.key, reserved.attempt))
        elif reserved.attempt > 1 and running.facts.outputs:
            # A worker that was killed between storing its files and saying so has left them.
            self._in_background(asyncio.to_thread(self._files.drop_others, reserved.key, reserved.attempt))

    def _drop(self, running: Running) -> None:
        """Somebody else decided this task's outcome: forget it."""
        self._settle(running)
        self.running.pop(running.number, None)

    def _settle(self, running: Running) -> None:
        running.over = True
        for fetching in running.fetches or ():
            fetching.cancel()
        if running.has_scratch:
            self._remove_scratch(running.scratch)
        # Else it has none, or its executor may still write there: removed when the executor is through, or gone.

    def _remove_scratch(self, folder: str) -> None:
        if os.path.lexists(folder):
            self._in_background(asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True))

    async def _give_back(self, found: list[Running]) -> None:
        """Tasks that will not be finished here go back to the front of their queues."""
        if not found:
            return  # a worker that has nothing need not wait for a Redis that is away
        for running in found:
            self._settle(running)
        pairs = [(running.reserved.key, running.reserved.attempt) for running in found]
        await insist(lambda: tasks.give_back(self.redis, self.id, pairs), f"give {len(pairs)} tasks back")
        for running in found:
            self.running.pop(running.number, None)

    async def _retry(self, running: Running, cause: str) -> None:
        """A task whose executor crashed under it: once more, or an error that says what happened."""
        reserved = running.reserved
        answer = await insist(
            lambda: tasks.retry(self.redis, self.id, reserved.key, reserved.attempt), f"retry {reserved.key}"
        )
        log.warning("%s crashed %s attempt=%d: %s (%s)", reserved.key, reserved.name, reserved.attempt, cause, answer)
        if answer == "exhausted":
            text = f"the task's process has ended ({cause}) on attempt {reserved.attempt}"
            self._end(running, ERROR, error_result(text))
        else:
            self._drop(running)

    # What goes wrong

    def _check_timeouts(self) -> None:
        """Ends what takes too long. One look at all now and then: a timer a task would cost each of them more."""
        now = time.monotonic()
        lasts = False
        for running in list(self.running.values()):
            if running.started and not running.over and now - running.started > running.facts.timeout:
                self._on_timeout(running)
            elif running.started and now - running.started > TIMEOUT_CHECK:
                lasts = True
        if lasts:
            self.pool.count_processes()  # short tasks are not worth a look: what they leave ends with them
        busy = bool(self.running)
        loop = asyncio.get_running_loop()
        self._timeout_check = loop.call_later(TIMEOUT_CHECK, self._check_timeouts) if busy else None

    def _on_timeout(self, running: Running) -> None:
        limit = running.facts.timeout
        log.warning("%s timeout %s after %g s", running.reserved.key, running.reserved.name, limit)
        self._end(running, ERROR, error_result(f"the task took longer than its {limit:g} s"))
        self._stop_execution(running)

    def cancel(self, key: str, attempt: int | None = None) -> None:
        """Ends the execution of a task that was cancelled; its final status has been written already."""
        for running in self._of_key(key, attempt):
            log.info("%s cancelled %s", key, running.reserved.name)
            self._drop(running)
            self._stop_execution(running)

    def cancel_and_end(self, key: str) -> None:
        """Ends a task from here, as RQ's stop-job command wants."""
        for running in self._of_key(key, None):
            self._end(running, ERROR, CANCELLED)
            self._stop_execution(running)

    def _of_key(self, key: str, attempt: int | None) -> list[Running]:
        return [
            running
            for running in self.running.values()
            if running.reserved.key == key and attempt in (None, running.reserved.attempt) and not running.over
        ]

    def _stop_execution(self, running: Running) -> None:
        """Ends what runs of a task: a `def` task with its executor, an `async def` task by cancelling it first."""
        executor = running.executor
        if executor is None or running.number not in executor.numbers:
            return
        if executor.is_async:
            executor.send(Kind.CANCEL, running.number)
            asyncio.get_running_loop().call_later(CANCEL_GRACE, self._kill_if_still_running, executor, running.number)
        elif next(iter(executor.numbers)) == running.number:
            executor.kill()
        # else it was only sent ahead: its turn comes, and what it says is ignored.

    def _kill_if_still_running(self, executor: Executor, number: int) -> None:
        if number in executor.numbers and not executor.is_lost:
            log.warning("an async task did not end when it was cancelled: its executor is killed")
            executor.kill()

    def _on_executor_lost(self, executor: Executor) -> None:
        if executor in self._executors:
            self._executors.remove(executor)
            if not self.stopping and not self.pool.failed.done():
                self._in_background(self._replace(executor))

    async def _replace(self, executor: Executor) -> None:
        """A new executor for a lost one; its tasks are retried or given back."""
        limit, cause = await self._why_lost(executor)
        is_stillborn = not executor.is_ready and not executor.was_killed
        if is_stillborn:
            self._count_stillborn(cause)
        else:
            if not executor.numbers and not executor.was_killed:
                log.warning("an idle executor has ended (%s); starting another", cause)
                await asyncio.sleep(0.2)
            self._executors.append(await self.pool.fork(is_async=executor.is_async))
        for scratch in executor.numbers.values():
            self._remove_scratch(scratch)
        await self._hand_on(executor, limit, cause, is_blameless=executor.was_killed or is_stillborn)
        if is_stillborn:
            await asyncio.sleep(STILLBORN_PAUSE * self._stillborn)
            if self.stopping or self.pool.failed.done():
                return
            self._executors.append(await self.pool.fork(is_async=executor.is_async))
        self._send_backlogs()
        self.places_freed.set()

    async def _why_lost(self, executor: Executor) -> tuple[str | None, str]:
        """The sentence for an end that a limit made, None for any other; and the end in words."""
        code: int | None = None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(END_WAIT):
                code = await asyncio.shield(executor.ended)
        limit = None
        if executor.has_grown:
            limit = processes_sentence(self._bounds)
        elif code == -signal.SIGXCPU:
            limit = cpu_sentence(self._bounds)
        return limit, limit or ("for an unknown reason" if code is None else how_it_ended(code))

    async def _hand_on(self, executor: Executor, limit: str | None, cause: str, *, is_blameless: bool) -> None:
        """What becomes of a lost executor's tasks."""
        found = [self.running[number] for number in executor.numbers if number in self.running]
        found = [running for running in found if not running.over]
        # Of a `def` executor only the task that had started can be the cause; when we killed it ourselves, none is.
        blamed = [] if is_blameless else [running for running in found if running.started]
        others = [running for running in found if running not in blamed]
        if others:
            await self._give_back(others)
        for running in blamed:
            if limit is None or executor.is_async:  # of the many in that one, any may have done it
                await self._retry(running, cause)
            else:
                log.warning("%s killed %s: %s", running.reserved.key, running.reserved.name, limit)
                self._end(running, ERROR, error_result(limit))

    def _count_stillborn(self, cause: str) -> None:
        """No task is to blame for an executor that never was ready, and none of them may pay for it with an attempt."""
        self._stillborn += 1
        log.warning("an executor has ended before it was ready (%s), %d in a row", cause, self._stillborn)
        if self._stillborn >= MOST_STILLBORN:
            self.pool.give_up(f"{self._stillborn} executors in a row have ended before they were ready ({cause})")

    def end_orphan(self, write: Write) -> None:
        """Writes the end of a dead worker's task: until then Redis lists it as this worker's, which does not run it."""
        self._orphans.add(write.key)
        self.writer.write(write, lambda accepted: self._after_orphan(write.key, accepted))

    def _after_orphan(self, key: str, accepted: bool) -> None:
        self._orphans.discard(key)
        if accepted:  # its worker may have stored files, and was killed before it could say so
            self._in_background(asyncio.to_thread(self._files.drop, key))

    async def check_ownership(self, keys: set[str]) -> None:
        """Compares with what Redis says is this worker's: a cancellation or a reservation may have passed unheard."""
        here = set()
        for running in list(self.running.values()):
            here.add(running.reserved.key)
            running.missed = 0 if running.over or running.reserved.key in keys else running.missed + 1
            if running.missed >= MISSED_LOOKS:
                self.cancel(running.reserved.key, running.reserved.attempt)
        strays, self._strays = self._strays & (keys - here - self._orphans), keys - here - self._orphans
        if strays:
            log.warning("%d tasks were reserved without a word reaching this worker, and go back", len(strays))
            await tasks.give_back(self.redis, self.id, [(key, None) for key in strays])

    def abandon_all(self) -> None:
        """The lease was over and the tasks have been given to others: stop working on them.

        The worker keeps its id: what it may still say about them carries their old attempts, and is refused.
        """
        log.error("this worker's lease was over: its tasks are others' now")
        for running in list(self.running.values()):
            self._drop(running)
        for backlog in self._backlogs.values():
            backlog.clear()
        self._ahead_used = {False: 0.0, True: 0.0}
        for executor in list(self._executors):
            if executor.numbers:
                executor.kill()

    # Stopping

    async def stop(self, grace: float) -> None:
        """Gives back what has not started, waits `grace` seconds for what has, gives back the rest; no task is lost."""
        self.stopping = True
        await self._give_back(
            [running for running in self.running.values() if not running.started and not running.over]
        )
        ends = time.monotonic() + grace
        while self.running and time.monotonic() < ends:
            self.places_freed.clear()
            await self.writer.idle.wait()
            if not self.running:
                break
            try:
                async with asyncio.timeout(min(0.2, max(0.01, ends - time.monotonic()))):
                    await self.places_freed.wait()
            except TimeoutError:
                pass
        unfinished = [running for running in self.running.values() if not running.over]
        for running in unfinished:
            if running.executor is not None:
                running.executor.kill()
        if unfinished:
            log.warning("%d tasks did not finish in %g s and go back to their queues", len(unfinished), grace)
            await self._give_back(unfinished)
        while self._background:
            await asyncio.wait(self._background)
        await self.writer.idle.wait()
        await self.pool.stop()
        await asyncio.to_thread(shutil.rmtree, self._scratch, ignore_errors=True)

    def _in_background(self, work: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._forget_background)

    def _forget_background(self, task: asyncio.Task[Any]) -> None:
        self._background.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("internal error", exc_info=task.exception())


def new_worker_id() -> str:
    """A name that RQ shows too: the host and eight random characters."""
    host = "".join(character for character in socket.gethostname() if character.isalnum() or character in "-_.")
    return f"{host[:40] or 'worker'}-{secrets.token_hex(4)}"
