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
from contextvars import Context
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
MOST_GATHERED = 16  # commands that wait for the end of the loop's turn
MOST_TOGETHER = 3000  # arguments of callers that share one run of a script: others wait while it runs
CLOCK_AGE = 5.0  # seconds after which Redis's clock is looked at again: somebody may have set it
LAST_LOOK = 0.01  # seconds for reading what has come, before a reply counts as missing
ALLOWED = 0.9  # share of the timeout for which a script may still begin to run: its reply has to come in time too
RETRY_AFTER = 2.0  # seconds, told to clients when Redis is away
REFUSAL_PAUSE = 10.0  # seconds between two lines of the log that say why Redis refuses to write
#: What the connection does is done for many: the log must not tell it of the request that happened to begin it.
_NOBODY = Context()
#: Why Redis takes no writes, by the first word of its error, and what its operator has to do. Scripts change nothing
#: then: they are refused at their first write.
_REFUSALS = {
    "MISCONF": "make room on the disk of its append-only file (dragon's own Redis: DRAGON_DATA/redis), then it goes on",
    "OOM": "give it more memory (maxmemory), or let ended tasks go sooner (setting files.life)",
    "READONLY": "it is a replica: DRAGON_REDIS_URL has to name the primary",
    "NOREPLICAS": "it has fewer replicas than min-replicas-to-write asks for: start them",
}


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
        """`timeout`: seconds from sending a command to its reply, and to connect."""
        self._client = client(url, timeout)
        self._timeout = timeout
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: list[tuple[bytes, asyncio.Future[Any]]] = []  # packed commands
        self._together: dict[Script, deque[tuple[Callable[[], Sequence[Argument]], Sequence[Argument], Any]]] = {}
        self._wire: _Wire | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._count = 0  # commands that wait
        self._shas: dict[str, str] = {}
        self._clock: float | None = None  # Redis's clock less the event loop's, in seconds
        self._clock_read = 0.0  # when it was asked for, by the event loop's clock
        self.round_trips = 0

    async def command(self, *arguments: Argument) -> Any:
        """Sends one command and returns its raw reply. Raises Unavailable, or redis-py's ResponseError."""
        return await self._enqueue(arguments)

    async def run(self, script: Script, arguments: Sequence[Argument]) -> Any:
        """Runs a script (idempotent: it is sent again when Redis does not know it yet). Raises as `command`."""
        try:
            return await self._enqueue(("EVALSHA", self._sha(script), 0, *arguments))
        except NoScriptError:
            return await self._enqueue(("EVAL", script.source, 0, *arguments))

    def run_together(
        self, script: Script, head: Callable[[], Sequence[Argument]], part: Sequence[Argument]
    ) -> asyncio.Future[Any]:
        """As `run`, for a script that takes a head and then the parts of several callers, and gives each an answer.

        The parts of one turn of the loop share one run, in their order; the head is that of the first.
        """
        self._expect_sending()
        assert self._loop is not None
        future: asyncio.Future[Any] = self._loop.create_future()
        self._together.setdefault(script, deque()).append((head, part, future))
        self._gathered()
        return future

    def give_up_at(self) -> float | None:
        """The time by Redis's clock when a command that is sent now counts as failed; None before the first connection.

        A script that is given it can refuse to run later: a Redis that hung would otherwise do what nobody waits for.
        """
        if self._clock is None or self._loop is None:
            return None
        now = self._loop.time()
        if now - self._clock_read > CLOCK_AGE:
            self._clock_read = now
            self._enqueue(("TIME",)).add_done_callback(self._on_time)
        overdue = now + self._timeout
        if self._wire is not None and self._wire.awaited:
            overdue = min(overdue, self._wire.awaited[0][0])  # what is overdue first takes all that is awaited with it
        return overdue - (1 - ALLOWED) * self._timeout + self._clock

    def _on_time(self, reply: asyncio.Future[Any]) -> None:
        if not reply.cancelled() and reply.exception() is None:
            self._set_clock(reply.result())

    def _set_clock(self, time: Sequence[bytes]) -> None:
        assert self._loop is not None
        self._clock = int(time[0]) + int(time[1]) / 1e6 - self._loop.time()

    async def close(self) -> None:
        """Waits for what is under way, `timeout` seconds at most."""
        self._join()
        under_way = [future for _, future in self._waiting]
        if self._wire is not None:
            under_way += [future for _, future in self._wire.awaited]
        if under_way:
            await asyncio.wait(under_way, timeout=self._timeout)
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.wait([self._connecting])
        if self._wire is not None:
            self._wire.close()
            self._wire = None
        await self._client.aclose()

    def _enqueue(self, arguments: Sequence[Argument]) -> asyncio.Future[Any]:
        self._expect_sending()
        assert self._loop is not None
        future: asyncio.Future[Any] = self._loop.create_future()
        self._waiting.append((hiredis.pack_command(arguments), future))  # type: ignore[arg-type]
        self._gathered()
        return future

    def _expect_sending(self) -> None:
        """What is put into `_waiting` or `_together` is sent at the end of the loop's turn, when all have gathered."""
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        if not self._waiting and not self._together:
            self._count = 0
            self._loop.call_soon(self._send_all, context=_NOBODY)

    def _gathered(self) -> None:
        """When a turn brings very many, Redis begins with the first of them while we make the others."""
        self._count += 1
        if self._count == MOST_GATHERED and self._wire is not None:
            self._send_all()

    def _send_all(self) -> None:
        if self._connecting is not None:
            return  # it sends when it is through
        assert self._loop is not None
        if self._wire is None:
            self._connecting = self._loop.create_task(self._connect(), name="redis connect", context=_NOBODY)
            return
        self._join()
        trip, self._waiting = self._waiting, []
        trip = [(packed, future) for packed, future in trip if not future.done()]  # else its caller has gone
        if trip:
            self.round_trips += 1
            self._wire.send(trip, self._loop.time() + self._timeout)

    def _join(self) -> None:
        """Makes few commands of the parts that have gathered for the same scripts."""
        together, self._together = self._together, {}
        for script, callers in together.items():
            while callers:
                head = callers[0][0]()
                arguments: list[Argument] = []
                futures = []
                while callers and len(arguments) < MOST_TOGETHER:
                    _, part, future = callers.popleft()
                    if not future.done():
                        arguments += part
                        futures.append(future)
                if futures:
                    self._run_joined(script, ("EVALSHA", self._sha(script), 0, *head, *arguments), futures)

    def _run_joined(self, script: Script, command: Sequence[Argument], futures: Sequence[asyncio.Future[Any]]) -> None:
        def share_out(reply: asyncio.Future[Any]) -> None:
            error = None if reply.cancelled() else reply.exception()
            if isinstance(error, NoScriptError):
                self._run_joined(script, ("EVAL", script.source, *command[2:]), futures)
                return
            answers = [error] * len(futures) if error else reply.result()
            for future, answer in zip(futures, answers, strict=True):
                _settle(future, answer)

        self._enqueue(command).add_done_callback(share_out)

    def _sha(self, script: Script) -> str:
        sha = self._shas.get(script.name)
        if sha is None:
            sha = self._shas[script.name] = script.sha
        return sha

    async def _connect(self) -> None:
        """Opens the connection and sends what waits for it; fails that when there is no connection to be had."""
        try:
            async with asyncio.timeout(self._timeout):
                connection = self._client.connection_pool.make_connection()  # type: ignore[no-untyped-call]
                await connection.connect()
                self._set_clock(await self._ask(connection, "TIME"))
            assert self._loop is not None
            self._clock_read = self._loop.time()
            self._wire = _Wire(connection, self._loop, self._on_lost)
        except BaseException as error:
            self._join()
            lost, self._waiting = self._waiting, []
            self._on_lost(error, [future for _, future in lost])
            if not isinstance(error, Exception):
                raise  # cancelled
        finally:
            self._connecting = None
        if self._waiting or self._together:
            self._send_all()

    async def _ask(self, connection: AbstractConnection, command: str) -> Any:
        await connection.send_packed_command(hiredis.pack_command((command,)), check_health=False)
        return await connection.read_response(disable_decoding=True)

    def _on_lost(self, error: BaseException, futures: Sequence[asyncio.Future[Any]]) -> None:
        """The connection is lost: so are the replies that were awaited on it. Whether the commands ran is not known."""
        self._wire = None
        reason = "did not answer in time" if isinstance(error, TimeoutError) else "cannot be reached"
        for future in futures:
            _settle(future, Unavailable(f"the task store {reason}, try again", retry_after=RETRY_AFTER))
        expected = isinstance(error, RedisError | OSError | TimeoutError | asyncio.CancelledError)
        log.warning("redis: %s (%s: %s)", reason, type(error).__name__, error, exc_info=None if expected else error)


class _Wire(asyncio.Protocol):
    """An open connection, read without a task and without redis-py's streams.

    redis-py has made it (addresses, passwords, TLS, databases) and leaves its transport to this protocol.
    """

    def __init__(
        self,
        connection: AbstractConnection,
        loop: asyncio.AbstractEventLoop,
        on_lost: Callable[[BaseException, Sequence[asyncio.Future[Any]]], None],
    ) -> None:
        writer = connection._writer
        assert writer is not None
        self._connection = connection  # keeps the streams alive that belong to the transport
        self._transport = writer.transport
        self._loop = loop
        self._on_lost = on_lost
        self._reader = hiredis.Reader(protocolError=ConnectionError, replyError=self._reply_error)
        self._refused = float("-inf")  # when the log was last told that Redis refuses to write
        self._timer: asyncio.TimerHandle | None = None
        self._is_closed = False
        self.awaited: deque[tuple[float, asyncio.Future[Any]]] = deque()  # when a reply is overdue
        self._transport.set_protocol(self)
        self._transport.set_write_buffer_limits(high=0)  # uvloop writes at once, not at the end of the loop's turn

    def send(self, trip: Sequence[tuple[bytes, asyncio.Future[Any]]], overdue: float) -> None:
        """Writes packed commands; each future gets its reply, or is lost at `overdue` (the loop's time)."""
        self.awaited.extend([(overdue, future) for _, future in trip])
        self._transport.write(b"".join([packed for packed, _ in trip]))
        if self._timer is None:
            self._timer = self._loop.call_at(overdue, self._check, False, context=_NOBODY)

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        try:
            while (reply := self._reader.gets()) is not False:
                _settle(self.awaited.popleft()[1], reply)
        except Exception as error:  # bytes that are no reply, or one that nobody asked for
            self.fail(error)

    def connection_lost(self, error: Exception | None) -> None:
        self.fail(error or ConnectionError("Redis closed the connection"))

    def fail(self, error: BaseException) -> None:
        """Gives the connection up, and what is awaited on it."""
        if not self._is_closed:
            self.close()
            self._on_lost(error, [future for _, future in self.awaited])
            self.awaited.clear()

    def close(self) -> None:
        self._is_closed = True
        if self._timer is not None:
            self._timer.cancel()
        self._transport.abort()
        self._connection._close()  # type: ignore[no-untyped-call]

    def _reply_error(self, text: str) -> Exception:
        """A Redis error as the exception that redis-py would raise, or the one that a caller can wait out."""
        code, _, rest = text.partition(" ")
        if code == "NOSCRIPT":
            return NoScriptError(rest)
        if code in ("LOADING", "MASTERDOWN", "CLUSTERDOWN"):
            return Unavailable("the task store is not ready yet, try again", retry_after=RETRY_AFTER)
        if code in _REFUSALS:
            if self._loop.time() - self._refused > REFUSAL_PAUSE:
                self._refused = self._loop.time()
                log.error("redis refuses to write: %s; %s", text, _REFUSALS[code])
            return Unavailable("the task store cannot write now, try again", retry_after=RETRY_AFTER)
        return ResponseError(text)

    def _check(self, has_read: bool) -> None:
        """One timer looks at the oldest reply that is awaited, not one for each.

        `has_read`: what had come by the time that it was overdue has been read since. A process that stood still for
        long has its timers run before that, by uvloop, and what has come in time is not to be called lost.
        """
        self._timer = None
        if not self.awaited:
            return
        overdue = self.awaited[0][0]
        if overdue > self._loop.time():
            self._timer = self._loop.call_at(overdue, self._check, False, context=_NOBODY)
        elif has_read:
            self.fail(TimeoutError("no reply"))
        else:
            self._timer = self._loop.call_later(LAST_LOOK, self._check, True, context=_NOBODY)


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
