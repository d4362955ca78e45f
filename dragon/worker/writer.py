"""The worker's writes, of statuses and log lines: what gathers while one trip to Redis is under way is in the next."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from redis.exceptions import ResponseError

from dragon.connections import Redis, insist
from dragon.store import logs, tasks
from dragon.store.logs import LogWrite
from dragon.store.tasks import Write
from dragon.worker.logbook import Logbook

log = logging.getLogger("dragon.worker")

MOST_A_TRIP = 512  # writes
HOLD = 0.002  # seconds that a start waits at most for its task's end, so that both travel in one trip
LOG_HOLD = 0.05  # seconds that log lines wait at most for a trip of statuses, or for more of them


class Writer:
    """Writes in the order given; keeps trying while Redis is away, since a final status must not be lost."""

    def __init__(
        self, redis: Redis, owner: str, life: int, on_trip: Callable[[], None], *, log_lines: int = 1000
    ) -> None:
        """`owner`: the worker's id; `life`: seconds for which an ended task is kept; `on_trip` hears of each trip;
        `log_lines`: that are kept of a task."""
        self._on_trip = on_trip
        self._redis = redis
        self._owner = owner
        self._life = life
        self._waiting: list[tuple[Write, Callable[[bool], None] | None]] = []
        self._last_progress: dict[str, int] = {}  # key -> place in _waiting of a progress line that may be replaced
        self._wake = asyncio.Event()
        self._hold: asyncio.TimerHandle | None = None
        self._log = Logbook()
        self._log_lines = log_lines
        self._log_hold: asyncio.TimerHandle | None = None
        self._log_waiters: list[asyncio.Future[None]] = []
        self._is_sending_log = False
        self.idle = asyncio.Event()
        self.idle.set()

    @property
    def is_behind(self) -> bool:
        """Whether more is waiting than goes into two trips: Redis is slower than the executors."""
        return len(self._waiting) > 2 * MOST_A_TRIP

    def write(self, write: Write, then: Callable[[bool], None] | None = None) -> None:
        """Queues a write; `then` is told whether it was accepted."""
        self._append(write, then)
        self._wake.set()

    def write_start(self, write: Write) -> None:
        """Queues the start of a task that is known to be short: it may wait for the end, at most HOLD seconds."""
        self._append(write, None)
        if self._hold is None:
            self._hold = asyncio.get_running_loop().call_later(HOLD, self._end_hold)

    def _append(self, write: Write, then: Callable[[bool], None] | None) -> None:
        self._last_progress.pop(write.key, None)  # what comes later must not be put in front of this
        self._waiting.append((write, then))
        self.idle.clear()

    def _end_hold(self) -> None:
        self._hold = None
        self._wake.set()

    def write_progress(self, write: Write) -> None:
        """Queues a status that a newer one may replace before it is sent: each line is a full status."""
        place = self._last_progress.get(write.key)
        if place is not None:
            self._waiting[place] = (write, None)
            return
        self.write(write)
        self._last_progress[write.key] = len(self._waiting) - 1

    def write_log(self, key: str, attempt: int, timeout: float, payload: bytes) -> None:
        """Queues the log lines of a LOG frame: they go with the next trip, and never after their task's end."""
        self._log.add(key, attempt, timeout, payload)
        self.idle.clear()
        if self._log_hold is None:
            self._log_hold = asyncio.get_running_loop().call_later(LOG_HOLD, self._end_log_hold)

    async def log_written(self) -> None:
        """Returns when the log lines that have been queued are written: a task that goes back must not leave them here,
        for then it belongs to somebody else.
        """
        if self._log or self._is_sending_log:
            written = asyncio.get_running_loop().create_future()
            self._log_waiters.append(written)
            self._wake.set()
            await written

    def _end_log_hold(self) -> None:
        self._log_hold = None
        self._wake.set()

    async def run(self) -> None:
        """Sends for ever."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._waiting or self._log or self._log_waiters:
                batch, self._waiting = self._waiting[:MOST_A_TRIP], self._waiting[MOST_A_TRIP:]
                self._last_progress.clear()
                # What was said before these statuses goes before them: who hears of a task's end finds all of its log.
                waiters, self._log_waiters = self._log_waiters, []
                if said := self._log.take():
                    await self._send_log(said)
                for waiter in waiters:
                    if not waiter.done():
                        waiter.set_result(None)
                if batch:
                    await self._send(batch)
                    self._on_trip()
            self.idle.set()

    async def _send(self, batch: list[tuple[Write, Callable[[bool], None] | None]]) -> None:
        writes = [write for write, _ in batch]
        accepted = await insist(
            lambda: tasks.update(self._redis, self._owner, writes, life=self._life), f"write {len(writes)} statuses"
        )
        assert accepted is not None
        for (write, then), written in zip(batch, accepted, strict=True):
            if not written:
                log.info("%s refused attempt=%d: the task is another's by now, or over", write.key, write.attempt)
            if then is not None:
                try:
                    then(written)
                except Exception:  # an error of ours: it must not keep what others have to say from Redis
                    log.exception("internal error behind a write of %s", write.key)

    async def _send_log(self, writes: list[LogWrite]) -> None:
        self._is_sending_log = True
        kept = await insist(lambda: self._append_log(writes), f"write log lines of {len(writes)} tasks")
        self._is_sending_log = False
        for write, was_kept in zip(writes, kept or (), strict=False):
            if not was_kept:
                log.info("%s log refused attempt=%d: the task is another's by now, or over", write.key, write.attempt)

    async def _append_log(self, writes: list[LogWrite]) -> list[bool]:
        try:
            return await logs.append(self._redis, self._owner, writes, life=self._life, most=self._log_lines)
        except ResponseError as error:  # as when its user may not: statuses must not wait for that
            log.error("log lines of %d tasks are lost: Redis refuses them: %s", len(writes), error)
            return []
