"""One look after another at something that many watch: shared by all of them, and only while somebody does."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from redis.exceptions import ResponseError

from dragon.errors import Unavailable

log = logging.getLogger("dragon.sampling")
T = TypeVar("T")

INTERVAL = 1.0  # seconds between two looks


class Watcher(Generic[T]):
    """One of those who watch: it has the newest sample and nothing more, so that a slow reader costs no memory."""

    def __init__(self, news: Callable[[T], list[bytes]]) -> None:
        """`news` makes the lines out of a sample that tell what the ones before did not."""
        self._news = news
        self._newest: T | None = None
        self._changed = asyncio.Event()
        self.finished = False

    def offer(self, sample: T) -> None:
        self._newest = sample
        self._changed.set()

    def close(self) -> None:
        self.finished = True
        self._changed.set()

    async def take(self, timeout: float) -> list[bytes]:
        """Waits up to `timeout` seconds for news; an empty list when there were none, or no more will come."""
        try:
            async with asyncio.timeout(timeout):
                while not self.finished:
                    await self._changed.wait()
                    self._changed.clear()
                    sample, self._newest = self._newest, None
                    lines = [] if sample is None else self._news(sample)
                    if lines:
                        return lines
        except TimeoutError:
            pass
        return []


class Sampler(Generic[T]):
    """Looks once a second while somebody watches."""

    def __init__(self, look: Callable[[], Awaitable[T]]) -> None:
        self._look = look
        self._watchers: set[Watcher[T]] = set()
        self._running: asyncio.Task[None] | None = None
        self._newest: tuple[float, T] | None = None  # with the time of the look

    @property
    def is_idle(self) -> bool:
        return not self._watchers

    async def watch(self, news: Callable[[T], list[bytes]]) -> Watcher[T]:
        """A watcher that has its first sample; the caller has to `leave` it. Raises what the look raises."""
        sample = await self._recent()
        watcher = Watcher(news)
        watcher.offer(sample)
        self._watchers.add(watcher)
        if self._running is None:
            self._running = asyncio.create_task(self._run(), name="sampler")
        return watcher

    def leave(self, watcher: Watcher[T]) -> None:
        self._watchers.discard(watcher)
        if self.is_idle and self._running is not None:
            self._running.cancel()
            self._running = None

    async def _recent(self) -> T:
        if self._newest is None or time.monotonic() - self._newest[0] > INTERVAL:
            self._newest = (time.monotonic(), await self._look())
        return self._newest[1]

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(INTERVAL)
            try:
                self._newest = (time.monotonic(), await self._look())
            except (Unavailable, ResponseError) as error:
                log.warning("no look at what is watched: %s", error)
                continue
            except Exception:
                log.exception("a look at what is watched has failed")
                continue
            for watcher in self._watchers:
                watcher.offer(self._newest[1])
