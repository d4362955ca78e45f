"""The status feed: one subscription a server process, many followers.

A follower holds the newest line of each key it follows and nothing more, so a reader that is stuck costs no memory.
What Redis stores is the truth; messages are doorbells. After each (re)subscription and every RECONCILE seconds the feed
reads what is newer than what it has.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Iterable, Mapping

from dragon import connections
from dragon.connections import Redis
from dragon.errors import Unavailable
from dragon.status import is_line, unknown_line
from dragon.store import names, tasks
from dragon.store.tasks import Line

log = logging.getLogger("dragon.feed")

RECONCILE = 10.0  # seconds between two looks at what messages may have missed
CHUNK = 500  # keys read in one script
FIRST = 1  # seq of the line that a task is created with: as long as it is the newest, the task waits for its start


class Follower:
    """One client that follows tasks: the newest line of each key that it has not taken yet."""

    __slots__ = ("_hints", "_pending", "_waiter", "closed", "is_early", "open", "seen")

    def __init__(self, lines: Iterable[Line], *, is_early: bool = False) -> None:
        """`is_early`: the tasks are about to be created, and that Redis does not know them yet means nothing."""
        self.is_early = is_early
        self.seen = {line.key: line.seq for line in lines}
        self.open = {line.key for line in lines if not line.final}
        self.closed = False  # ended by `close`, before every key had
        self._pending: dict[str, bytes] = {}
        self._hints: dict[str, bytes] | None = None  # of tasks that have nothing pending; most streams have none
        self._waiter: asyncio.Future[None] | None = None

    @property
    def finished(self) -> bool:
        """Whether nothing more comes and every line was taken: every key has ended, or the follower was closed."""
        return not self.open and not self._pending

    def offer(self, line: Line) -> None:
        """Takes in a line, unless it is not newer than what was seen."""
        if line.key not in self.open or line.seq <= self.seen[line.key]:
            return
        self.seen[line.key] = line.seq
        if line.final:
            self.open.discard(line.key)
        self._pending[line.key] = line.line
        if self._hints:
            self._hints.pop(line.key, None)
        self._wake()

    def ring(self) -> None:
        """There is more in a task's log, which is nothing to a follower of statuses."""

    def is_waiting(self, key: str) -> bool:
        """Whether nothing was heard of a task since its creation."""
        return key in self.open and self.seen[key] == FIRST

    def hint(self, key: str, line: bytes) -> None:
        """Takes in what is not stored about a task that waits: a newer hint replaces it, and any stored line."""
        if self.is_waiting(key) and key not in self._pending:
            if self._hints is None:
                self._hints = {}
            self._hints[key] = line
            self._wake()

    def close(self) -> None:
        """Ends the following: what was not taken yet can be, nothing more comes."""
        self.closed = bool(self.open)
        self.open.clear()
        self._hints = None
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def take(self, timeout: float) -> list[bytes]:
        """Waits up to `timeout` seconds for lines and takes all there are; an empty list when there were none."""
        if not self._pending and not self._hints and self.open:
            await self._wait(timeout)
        lines = [*self._hints.values(), *self._pending.values()] if self._hints else list(self._pending.values())
        self._hints = None
        self._pending.clear()
        return lines

    async def _wait(self, timeout: float) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(timeout):
                await self._waiter
        except TimeoutError:
            pass
        finally:
            self._waiter = None


class Listener(Follower):
    """One client that follows the log of a task: it holds nothing, and hears when there may be more to read."""

    __slots__ = ("_rung",)

    def __init__(self, line: Line) -> None:
        super().__init__([line])
        self._rung = False

    @property
    def finished(self) -> bool:
        """Whether the task has ended, so that nothing is added to its log any more; or the listener was closed."""
        return not self.open

    def offer(self, line: Line) -> None:
        if line.key in self.open and line.seq > self.seen[line.key]:
            self.seen[line.key] = line.seq
            if line.final:
                self.open.discard(line.key)
                self.ring()

    def ring(self) -> None:
        self._rung = True
        self._wake()

    async def hear(self, timeout: float) -> bool:
        """Waits up to `timeout` seconds for the bell; tells whether it rang, or the task ended, since the last time."""
        if not self._rung and self.open:
            await self._wait(timeout)
        rung, self._rung = self._rung or not self.open, False
        return rung


class Feed:
    """Hands each published line to the followers of its key."""

    def __init__(self, redis: Redis, url: str, timeout: float) -> None:
        """`url` and `timeout` (seconds) are for the subscription's own connection."""
        self.id = secrets.token_hex(8)
        self._redis = redis
        self._url = url
        self._timeout = timeout
        self._followers: dict[str, set[Follower]] = {}
        self._closed = False

    @property
    def followed(self) -> int:
        """How many keys are followed now."""
        return len(self._followers)

    def close(self) -> None:
        """Ends every stream and wait, with what they have; their clients come back to another process."""
        self._closed = True
        for followers in list(self._followers.values()):
            for follower in tuple(followers):
                follower.close()

    def add(self, follower: Follower) -> None:
        if self._closed:
            follower.close()
        for key in follower.open:
            self._followers.setdefault(key, set()).add(follower)

    def remove(self, follower: Follower) -> None:
        for key in follower.seen:
            present = self._followers.get(key)
            if present is not None:
                present.discard(follower)
                if not present:
                    del self._followers[key]

    async def run(self) -> None:
        """Listens for ever."""
        reconciling = asyncio.create_task(self._reconcile_always(), name="feed reconcile")
        try:
            async for message in connections.listen(self._url, [names.FEED + self.id], self._timeout):
                if message is None:
                    await self._read_again()
                    for key in self._followers:
                        self._ring(key)
                else:
                    self.dispatch(message)
        finally:
            reconciling.cancel()
            await asyncio.gather(reconciling, return_exceptions=True)

    def dispatch(self, message: bytes) -> None:
        """Hands out one message's entries: `KEY`, `F` when final else `.`, seq, a space, the line; or a bell, `KEY`,
        `L` and the number of the newest line in the task's log.
        """
        for entry in message.split(b"\n"):
            key = entry[:26].decode("ascii", "replace")
            if key not in self._followers:
                continue
            if entry[26:27] == b"L":
                self._ring(key)
                continue
            seq, _, line = entry[27:].partition(b" ")
            if not (seq.isdigit() and len(seq) < 19 and is_line(line, entry[:26])):
                log.warning("feed: a message that is not dragon's: %r", entry[:100])
                continue
            self._give(Line(key, int(seq), entry[26:27] == b"F", line))

    def _give(self, line: Line) -> None:
        for follower in tuple(self._followers.get(line.key, ())):
            follower.offer(line)
        if line.final:
            self._followers.pop(line.key, None)

    def _ring(self, key: str) -> None:
        for follower in self._followers.get(key, ()):
            follower.ring()

    async def refresh(self, keys: Iterable[str]) -> None:
        """Registers this feed for the keys again and reads what is newer than what their followers have."""
        wanted = [key for key in keys if self._is_followed(key)]
        for start in range(0, len(wanted), CHUNK):
            seen = {key: self._oldest_seen(key) for key in wanted[start : start + CHUNK] if self._is_followed(key)}
            for line in await tasks.follow(self._redis, self.id, seen):
                if line is not None:
                    self._give(line if line.seq >= 0 else _forgotten(line.key))

    def _is_followed(self, key: str) -> bool:
        """Whether somebody follows a task that has been created: an early follower's is not looked for yet, and its
        messages arrive since this feed listens."""
        return any(not follower.is_early for follower in self._followers.get(key, ()))

    def _oldest_seen(self, key: str) -> int:
        return min(follower.seen[key] for follower in self._followers[key])

    async def _read_again(self) -> None:
        try:
            await self.refresh(list(self._followers))
        except Unavailable as error:
            log.warning("feed: cannot read again: %s", error)

    async def _reconcile_always(self) -> None:
        while True:
            await asyncio.sleep(RECONCILE)
            await self._read_again()


def first_look(keys: Iterable[str]) -> Mapping[str, int]:
    """The seqs to follow with when nothing was seen yet."""
    return dict.fromkeys(keys, 0)


def _forgotten(key: str) -> Line:
    return Line(key, 1 << 62, True, unknown_line(key))
