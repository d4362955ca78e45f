"""Following the log of a task: what the store has, read when the feed rings.

The store is the truth and the bell only a bell: it is read every RECONCILE seconds too. A follower holds no lines, so a
reader that is stuck costs no memory but that of the few lines that it is given at once.
"""

from __future__ import annotations

import asyncio
import time

from dragon.connections import Redis
from dragon.errors import Unavailable
from dragon.feed import RECONCILE, Listener
from dragon.store import logs
from dragon.store.logs import LogLine

PAGE = 20  # lines that are read at once
PAUSE = 1.0  # seconds until the store is read again when it could not be


class LogFollower:
    """One client that follows the log of a task, from the line after number `after`."""

    def __init__(self, redis: Redis, key: str, after: int, listener: Listener) -> None:
        self.key = key
        self.listener = listener
        self.finished = False  # every line was taken, or the listener was closed
        self._redis = redis
        self._after = after
        self._has_more = True  # as far as is known
        self._read = 0.0  # monotonic seconds of the last look

    @property
    def ended(self) -> bool:
        """Whether the task has ended, and every line was taken."""
        return self.finished and not self.listener.closed

    async def take(self, timeout: float) -> list[LogLine]:
        """The next lines, PAGE at most, waiting up to `timeout` seconds for some; an empty list when there are none."""
        ends = time.monotonic() + timeout
        while not self.finished:
            if self._has_more and (lines := await self._read_on()):
                return lines
            left = ends - time.monotonic()
            if left <= 0 or self.finished:
                break
            until_look = self._read + RECONCILE - time.monotonic()
            rung = await self.listener.hear(max(0.0, min(left, until_look)))
            self._has_more = rung or time.monotonic() - self._read >= RECONCILE
        return []

    async def _read_on(self) -> list[LogLine]:
        self._read = time.monotonic()
        is_last = self.listener.finished  # known before the look: then all lines were there
        try:
            page = await logs.read_log(self._redis, self.key, self._after, PAGE)
        except Unavailable:
            self.finished = self.listener.closed
            await asyncio.sleep(PAUSE)
            return []
        if page is None:  # forgotten meanwhile
            self.finished = True
            return []
        self._after = page.next
        self._has_more = len(page.lines) == PAGE
        self.finished = page.ended or (is_last and not self._has_more)
        return page.lines
