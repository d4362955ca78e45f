"""The way to Redis: the one place where timeouts and retries are decided.

redis-py's `socket_timeout` stays off: on Python 3.11 it sends through asyncio.wait_for, which swallows a cancellation
that meets a finished write. Its retries stay off too: a re-sent write must be somebody's decision. Instead every round
trip as a whole has a time limit here, after which the connection is thrown away.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import hiredis
import redis.asyncio
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError, ResponseError

from dragon.errors import Unavailable

log = logging.getLogger("dragon.redis")
T = TypeVar("T")

Argument = str | bytes | int | float
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 2.0  # seconds until a cut subscription is tried again
_INSIST_PAUSE = 0.1  # seconds until a command that failed is tried again, doubled each time
RETRY_AFTER = 2.0  # seconds, told to clients when Redis is away


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script and the digest that Redis knows it by."""

    name: str
    source: str

    @property
    def sha(self) -> str:
        return hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest()


def client(url: str, timeout: float) -> redis.asyncio.Redis:
    """A redis-py client with the settings explained above; `timeout` bounds connecting, in seconds."""
    keepalive = {} if url.startswith("unix") else {"socket_keepalive": True}
    return redis.asyncio.Redis.from_url(
        url,
        socket_timeout=None,
        socket_connect_timeout=timeout,
        retry=Retry(NoBackoff(), 0),
        protocol=2,
        **keepalive,
    )


class Redis:
    """Commands of many callers over one connection: what one turn of the event loop gathers travels as one pipeline.

    Nobody waits for anybody else's reply before sending: replies come in the order of the commands.
    """

    def __init__(self, url: str, timeout: float) -> None:
        """`timeout`: seconds from sending a command to its reply."""
        self._client = client(url, timeout)
        self._timeout = timeout
        self._waiting: list[tuple[tuple[Argument, ...], asyncio.Future[Any]]] = []
        self._sent: deque[tuple[float, asyncio.Future[Any]]] = deque()  # when its reply is overdue
        self._sender: asyncio.Task[None] | None = None
        self._reader: asyncio.Task[None] | None = None
        self._connection: AbstractConnection | None = None
        self._shas: dict[str, str] = {}
        self._clock: float | None = None  # Redis's clock less the event loop's, in seconds
        self.round_trips = 0

    async def command(self, *arguments: Argument) -> Any:
        """Sends one command and returns its raw reply. Raises Unavailable, or redis-py's ResponseError."""
        return await self._enqueue(arguments)

    async def run(self, script: Script, arguments: Sequence[Argument]) -> Any:
        """Runs a script (idempotent: it is sent again when Redis does not know it yet). Raises as `command`."""
        sha = self._shas.get(script.name)
        if sha is None:
            sha = self._shas[script.name] = script.sha
        try:
            return await self._enqueue(("EVALSHA", sha, 0, *arguments))
        except NoScriptError:
            return await self._enqueue(("EVAL", script.source, 0, *arguments))

    def give_up_at(self) -> float | None:
        """The time by Redis's clock when a command that is sent now counts as failed; None before the first connection.

        A script that is given it can refuse to run later: a Redis that hung would otherwise do what nobody waits for.
        """
        return None if self._clock is None else asyncio.get_running_loop().time() + self._clock + self._timeout

    async def close(self) -> None:
        """Waits for what is under way, `timeout` seconds at most."""
        running = [task for task in (self._sender, self._reader) if task is not None]
        if running:
            await asyncio.wait(running, timeout=self._timeout)
            for task in running:
                task.cancel()
            await asyncio.wait(running)
        await self._drop_connection()
        await self._client.aclose()

    def _enqueue(self, arguments: tuple[Argument, ...]) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append((arguments, future))
        if self._sender is None:
            self._sender = asyncio.create_task(self._send_all(), name="redis sender")
        return future

    async def _send_all(self) -> None:
        """Sends until nothing waits. The task starts at the end of the loop's turn, when all have gathered."""
        try:
            while self._waiting:
                trip, self._waiting = self._waiting, []
                await self._send([(arguments, future) for arguments, future in trip if not future.done()])
        finally:
            self._sender = None

    async def _send(self, trip: list[tuple[tuple[Argument, ...], asyncio.Future[Any]]]) -> None:
        overdue = asyncio.get_running_loop().time() + self._timeout
        try:
            async with asyncio.timeout_at(overdue):
                connection = await self._connected()
                self._sent += [(overdue, future) for _, future in trip]
                self.round_trips += 1
                if self._reader is None:
                    self._reader = asyncio.create_task(self._read_all(connection), name="redis reader")
                packed = b"".join([hiredis.pack_command(arguments) for arguments, _ in trip])  # type: ignore[arg-type]
                await connection.send_packed_command(packed, check_health=False)
        except BaseException as error:
            await self._fail(error, [future for _, future in trip])

    async def _read_all(self, connection: AbstractConnection) -> None:
        """Hands out replies until none is awaited."""
        try:
            async with asyncio.timeout(None) as limit:
                while self._sent:
                    if limit.when() != self._sent[0][0]:
                        limit.reschedule(self._sent[0][0])
                    try:
                        reply = await connection.read_response(disable_decoding=True)
                    except ResponseError as error:
                        reply = error
                    _settle(self._sent.popleft()[1], reply)
            self._reader = None
        except BaseException as error:
            if self._reader is not asyncio.current_task():
                return  # cancelled by `_fail`, which has told everybody
            self._reader = None
            await self._fail(error, [])

    async def _fail(self, error: BaseException, futures: list[asyncio.Future[Any]]) -> None:
        """The connection is lost: so are the replies that were awaited on it. Whether the commands ran is not known."""
        reason = "did not answer in time" if isinstance(error, TimeoutError) else "cannot be reached"
        lost = [future for _, future in self._sent] + futures
        self._sent.clear()
        for future in lost:
            _settle(future, Unavailable(f"the task store {reason}, try again", retry_after=RETRY_AFTER))
        if self._reader is not None:
            self._reader.cancel()
            self._reader = None
        await self._drop_connection()
        if not isinstance(error, Exception):
            raise error  # cancelled
        expected = isinstance(error, RedisError | OSError | TimeoutError)
        log.warning("redis: %s (%s: %s)", reason, type(error).__name__, error, exc_info=not expected)

    async def _connected(self) -> AbstractConnection:
        if self._connection is None:
            # The pool hands out a connection that is open and has nothing left to read.
            connection = await self._client.connection_pool.get_connection()  # type: ignore[no-untyped-call]
            self._connection = connection
            await connection.send_packed_command(hiredis.pack_command(("TIME",)), check_health=False)
            seconds, microseconds = await connection.read_response(disable_decoding=True)
            self._clock = int(seconds) + int(microseconds) / 1e6 - asyncio.get_running_loop().time()
        return self._connection

    async def _drop_connection(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.disconnect(nowait=True)
            await self._client.connection_pool.release(connection)


def _settle(future: asyncio.Future[Any], reply: Any) -> None:
    if future.done():
        return  # its caller has gone
    if isinstance(reply, Exception):
        future.set_exception(reply)
    else:
        future.set_result(reply)


async def insist(
    call: Callable[[], Awaitable[T]], doing: str, *, until: Callable[[], bool] = lambda: False
) -> T | None:
    """Calls until Redis answers, for what must not be lost; None when `until` became true before it did."""
    pause = _INSIST_PAUSE
    while not until():
        try:
            return await call()
        except (Unavailable, ResponseError) as error:
            log.warning("cannot %s: %s; again in %.1f s", doing, error, pause)
        await asyncio.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)
    return None


class Dedicated:
    """A connection of one's own, for a caller that blocks: one command at a time, and no time limit on its reply."""

    def __init__(self, url: str, timeout: float) -> None:
        """`timeout` bounds connecting, in seconds."""
        self._client = client(url, timeout)
        self._connection: AbstractConnection | None = None

    async def send(self, *arguments: Argument) -> None:
        """Sends a command, connecting first if need be. Raises redis-py's errors and OSError."""
        if self._connection is None:
            self._connection = await self._client.connection_pool.get_connection()  # type: ignore[no-untyped-call]
        await self._connection.send_packed_command(hiredis.pack_command(arguments), check_health=False)  # type: ignore[arg-type]

    async def receive(self) -> Any:
        """Waits for the next reply or message, however long that takes."""
        assert self._connection is not None
        return await self._connection.read_response(disable_decoding=True)

    async def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.disconnect(nowait=True)
            await self._client.connection_pool.release(connection)
        await self._client.aclose()


async def listen(url: str, channels: Sequence[str], timeout: float) -> AsyncIterator[bytes | None]:
    """Yields the messages of the channels for ever; None each time that the subscription (again) begins.

    Pub/sub forgets: after each None the caller has to read the truth again. Not redis-py's PubSub, which reconnects
    without a word and has to be owned by one task all the same.
    """
    pause = _FIRST_PAUSE
    while True:
        connection = Dedicated(url, timeout)
        try:
            await connection.send("SUBSCRIBE", *channels)
            for _ in channels:
                await connection.receive()
            pause = _FIRST_PAUSE
            yield None
            while True:
                yield (await connection.receive())[2]  # b"message", the channel, the data
        except (RedisError, OSError, TimeoutError) as error:
            log.warning("redis: the subscription was cut (%s), again in %.2f s", type(error).__name__, pause)
        finally:
            await connection.close()
        await asyncio.sleep(pause)
        pause = min(pause * 2, _LONGEST_PAUSE)
