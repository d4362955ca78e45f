"""What RQ's own worker runs: `run(key)` inside its work horse, with the same statuses as dragon's worker.

RQ keeps its registries itself. The task is held under a lease of its own, which a thread renews, so that another worker
hands it on when the horse dies.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import inspect
import logging
import sys
import threading
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

from redis.exceptions import ResponseError
from rq.job import Job

from dragon.config import Config, load_config
from dragon.connections import Redis
from dragon.embedded import redis_url
from dragon.errors import TaskError, Unavailable
from dragon.fetch import Fetcher
from dragon.files import Files, open_files
from dragon.status import ERROR, EXECUTING, QUEUED, SUCCESS, Status, parse_line, timestamp
from dragon.store import logs, tasks, workers
from dragon.store.tasks import Reserved, Write
from dragon.task import Limits, load_tasks
from dragon.worker.bounds import UNBOUNDED
from dragon.worker.engine import new_worker_id
from dragon.worker.executor import Copies, Order, Reports, encode_failure, encode_result, known_task, limits_of
from dragon.worker.log_lines import Printed
from dragon.worker.logbook import Logbook
from dragon.worker.main import own_files
from dragon.worker.messages import Kind
from dragon.worker.outputs import keep_outputs
from dragon.worker.scratch import ScratchLock

log = logging.getLogger("dragon.rq")
T = TypeVar("T")


class TaskFailed(Exception):
    """Raised after the task's error status has been written, so that RQ too counts the job as failed."""


#: What RQ's worker reads of a task's hash to run it and to show it. Left out: `data`, callbacks, webhooks,
#: dependencies, repetitions, retries, and whatever else could name code or make more jobs.
_KEPT = frozenset(
    {b"created_at", b"description", b"ended_at", b"enqueued_at", b"exc_info", b"failure_ttl", b"last_heartbeat"}
    | {b"origin", b"result_ttl", b"started_at", b"status", b"timeout", b"worker_name"}
)


class TaskJob(Job):
    """RQ's job, for `rq worker --job-class`: whatever its hash says, it is a call of `run` with its own key."""

    def restore(self, raw_data: Any) -> Any:
        kept = {name: value for name, value in raw_data.items() if name in _KEPT}
        return super().restore(kept | {b"data": self.serializer.dumps((f"{__name__}.run", None, [self.id], {}))})


def run(key: str) -> None:
    """Runs the task with that key; does nothing when it is over or somebody else's."""
    with contextlib.closing(_Horse(load_config())) as horse:
        horse.run(key)


class _Horse:
    """The event loop in a thread, for Redis and downloads; the task has the main thread, where RQ's timeout strikes."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._owner = "rq-" + new_worker_id()
        self._scratch = config.scratch_dir / self._owner
        self._lock = ScratchLock(self._scratch)
        self._lease: concurrent.futures.Future[None] | None = None
        self._logbook = Logbook()
        self._files: Files = open_files(config)
        self._redis, self._fetcher = self.call(self._open())

    async def _open(self) -> tuple[Redis, Fetcher]:
        config = self._config
        fetcher = Fetcher(config.fetch, scratch=self._scratch, local=own_files(config, self._files))
        return Redis(redis_url(config), config.redis.timeout), fetcher

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def close(self) -> None:
        if self._lease is not None:
            self._lease.cancel()
        self.call(self._leave())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._lock.release()

    async def _leave(self) -> None:
        await workers.unregister(self._redis, self._owner)
        await self._fetcher.close()
        await self._redis.close()

    def run(self, key: str) -> None:
        reserved = self.call(tasks.claim(self._redis, key, self._owner, self._config.worker.lease))
        if reserved is None:
            log.info("%s dropped: over, unknown or another's", key)
            return
        self._lease = asyncio.run_coroutine_threadsafe(self._renew_always(), self._loop)
        execution = _Execution(self, reserved)
        execution.report(EXECUTING)
        try:
            payload = self._perform(execution)
        except BaseException as error:
            self._end_failed(execution, error)
            raise TaskFailed(f"{reserved.name} ended in an error, see its status") from error
        self._end(execution, payload)

    async def _renew_always(self) -> None:
        while True:
            with contextlib.suppress(Unavailable):
                await workers.renew(self._redis, self._owner, self._config.worker.lease, "busy")
            await asyncio.sleep(self._config.worker.heartbeat)

    def _perform(self, execution: _Execution) -> bytes:
        reserved = execution.reserved
        task = known_task(load_tasks(self._config.tasks.modules), reserved.name)
        result_bytes = self._config.limits.result_bytes
        execution.timeout = task.timeout
        order = Order(0, reserved.name, reserved.key, reserved.attempt, str(self._scratch), reserved.parameters)
        context_type = _AsyncContext if task.is_async else _Context
        context = context_type(order, limits_of(self._config), result_bytes, execution.on_frame, self.fetch)
        with _printing_for(context):
            value = task.function(context, **task.arguments(reserved.parameters))
            if inspect.iscoroutine(value):
                value = asyncio.run(value)
            return encode_result(task, value, result_bytes)

    def fetch(self, url: str) -> Path:
        folder = self._scratch / "sources"
        folder.mkdir(parents=True, exist_ok=True)
        return self.call(self._fetcher.fetch(url, folder))

    def _end(self, execution: _Execution, payload: bytes) -> None:
        reserved = execution.reserved
        result, size = keep_outputs(self._files, reserved.key, reserved.attempt, payload)
        execution.end(SUCCESS, result, size)

    def _end_failed(self, execution: _Execution, error: BaseException) -> None:
        if type(error).__name__ == "JobTimeoutException":
            error = TaskError("the task took longer than its time limit")
        result, _, trace = encode_failure(error, UNBOUNDED).partition(b"\n")
        if trace:
            log.error("%s failed %s", execution.reserved.key, trace.decode(errors="replace"))
        execution.end(ERROR, result, -1)

    def drop_files(self, reserved: Reserved) -> None:
        """Another has the task by now: the files of this attempt are nobody's."""
        self._files.drop(reserved.key, reserved.attempt)

    def write_log(self, reserved: Reserved, timeout: float, payload: bytes) -> None:
        """Writes log lines at once. That Redis does not take them is no reason to fail the task."""
        self._logbook.add(reserved.key, reserved.attempt, timeout, payload)
        limits, life = self._config.limits, self._config.files.life
        with contextlib.suppress(Unavailable, ResponseError):
            writes = self._logbook.take()
            self.call(logs.append(self._redis, self._owner, writes, life=life, most=limits.log_lines))

    def write(self, write: Write) -> bool:
        life = self._config.files.life
        return self.call(tasks.update(self._redis, self._owner, [write], life=life, with_rq=False))[0]


@contextlib.contextmanager
def _printing_for(context: Reports) -> Iterator[None]:
    """What is printed meanwhile is the task's log, as in an executor."""
    streams, copies = (sys.stdout, sys.stderr), Copies()
    Printed.install(lambda: copies.is_one).begin(context.lines)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = streams
        context.end_log()


class _Execution:
    """The statuses and the log of one task."""

    def __init__(self, horse: _Horse, reserved: Reserved) -> None:
        self._horse = horse
        self.reserved = reserved
        self.timeout = 0.0  # seconds
        try:
            status = parse_line(reserved.line, reserved.key)
        except ValueError:
            status = Status(QUEUED, reserved.key, timestamp())  # damaged; what it does is written all the same
        self._status: Status = status.executing(timestamp())

    def on_frame(self, kind: int, _number: int, payload: bytes) -> None:
        if kind == Kind.SCRATCH:
            return  # the folder goes with the horse
        if kind == Kind.LOG:
            self._horse.write_log(self.reserved, self.timeout, payload)
            return
        progress = payload if kind == Kind.PROGRESS else None
        self._status = self._status.reported(progress, payload if kind == Kind.PARTIAL else None)
        self.report(EXECUTING)

    def report(self, kind: tasks.WriteKind, size: int = -1) -> bool:
        return self._horse.write(Write(self.reserved.key, self.reserved.attempt, kind, self._status.line(), size))

    def end(self, kind: tasks.WriteKind, result: bytes, size: int) -> None:
        self._status = self._status.ended(kind, result, timestamp())
        if not self.report(kind, size) and size >= 0:
            self._horse.drop_files(self.reserved)


class _Context(Reports):
    def __init__(self, order: Order, limits: Limits, result_bytes: int, send: Any, fetch: Any) -> None:
        super().__init__(order, limits, result_bytes, send)
        self._fetch = fetch

    def fetch(self, url: str) -> Any:
        return self._fetch(url)


class _AsyncContext(_Context):
    async def fetch(self, url: str) -> Any:
        return await asyncio.to_thread(self._fetch, url)
