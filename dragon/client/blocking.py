"""Dragon: the client for programs that wait, on http.client. It may be shared by threads."""

from __future__ import annotations

import contextlib
import http.client
import io
import os
import selectors
import ssl
import time
import weakref
from collections import deque
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, TypeVar, cast, overload

from dragon.client import operations, verbs
from dragon.client.errors import DragonClientError, Lost, Silence
from dragon.client.protocol import (
    Address,
    Core,
    Flow,
    Give,
    Giving,
    Head,
    Read,
    Request,
    Sleep,
    Step,
    Timing,
    named_as,
    reason_of,
)
from dragon.client.status import Key, Status

P = ParamSpec("P")
T = TypeVar("T")

CHUNK = 1 << 16  # bytes read at a time
IDLE_MOST = 8  # connections that are kept for the next call
IDLE_LIFE = 30.0  # seconds that they are kept: less than servers do

_Selector = getattr(selectors, "PollSelector", selectors.SelectSelector)  # poll costs least, and Windows has none


class _Pool:
    """Connections that wait for the next call; several threads take and keep them."""

    def __init__(self, core: Core, context: ssl.SSLContext | None) -> None:
        self._core = core
        self._context = context
        self._idle: deque[tuple[float, int, _Connection]] = deque()  # since when, in which process
        self._closed = False
        weakref.finalize(self, _close_all, self._idle)  # of a client that nobody closed

    def take(self, request: Request) -> _Connection:
        """A connection that is open, or a new one for what must not be sent twice."""
        while request.repeatable and self._idle:
            with contextlib.suppress(IndexError):  # another thread was faster
                since, pid, connection = self._idle.pop()
                is_fresh = pid == os.getpid() and self._core.clock() - since < IDLE_LIFE
                if is_fresh and connection.address == request.address and not connection.is_stale():
                    return connection
                connection.close()
        if request.address.scheme == "https" and self._context is None:
            self._context = ssl.create_default_context()
        return _Connection(request.address, self._core, self._context)

    def keep(self, connection: _Connection) -> None:
        if self._closed or len(self._idle) >= IDLE_MOST:
            connection.close()
        else:
            self._idle.append((self._core.clock(), os.getpid(), connection))

    def close(self) -> None:
        self._closed = True
        _close_all(self._idle)


def _close_all(idle: deque[tuple[float, int, _Connection]]) -> None:
    while idle:
        with contextlib.suppress(IndexError):
            idle.pop()[2].close()


class _Answer(http.client.HTTPResponse):
    """An answer whose head has to be whole. http.client takes one that was cut for one with fewer headers, or with a
    Content-Length of fewer digits."""

    def begin(self) -> None:
        fp, watched = self.fp, _Watched(self.fp)
        self.fp = cast("io.BufferedReader", watched)
        try:
            super().begin()
        finally:
            if self.fp is not None:  # it was closed
                self.fp = fp
        if watched.last not in (b"\r\n", b"\n"):
            raise http.client.IncompleteRead(watched.last)


class _Watched:
    """Reads lines, and remembers the last one."""

    def __init__(self, fp: io.BufferedReader) -> None:
        self._fp = fp
        self.last = b""

    def readline(self, limit: int) -> bytes:
        self.last = self._fp.readline(limit)
        return self.last

    def close(self) -> None:
        self._fp.close()


class _Connection:
    """One connection, and the answer that is open on it."""

    def __init__(self, address: Address, core: Core, context: ssl.SSLContext | None) -> None:
        self.address = address
        self._core = core
        self._http = (
            http.client.HTTPConnection(address.host, address.port, timeout=core.timing.connect)
            if address.scheme == "http"
            else http.client.HTTPSConnection(address.host, address.port, timeout=core.timing.connect, context=context)
        )
        self._http.response_class = _Answer
        self._answer: http.client.HTTPResponse | None = None

    def is_stale(self) -> bool:
        """Whether the server has closed it, or says something that nobody asked for."""
        sock = self._http.sock
        if sock is None:
            return True
        with _Selector() as selector:
            selector.register(sock, selectors.EVENT_READ)
            return bool(selector.select(0))

    def open(self, request: Request) -> Head:
        sent = False
        try:
            if self._http.sock is None:
                self._http.connect()
            self._sock = self._http.sock  # http.client forgets it where the answer ends with the connection
            sent = True
            self._sock.settimeout(request.silence)
            self._http.request(request.method, request.target, request.body, self._core.headers(request))
            self._answer = self._http.getresponse()
        except ssl.SSLCertVerificationError as error:
            raise DragonClientError(f"{self.address.origin} is not trusted: {error.verify_message}") from None
        except TimeoutError:
            raise self._timeout(sent) from None
        except (OSError, http.client.HTTPException) as error:
            raise self._lost(error, sent) from None
        headers = {name.lower(): value for name, value in self._answer.getheaders()}
        return Head(self._answer.status, headers)

    def read(self, timeout: float) -> bytes:
        answer = self._answer
        if answer is None:
            return b""
        try:
            self._sock.settimeout(timeout)
            return answer.read1(CHUNK)
        except TimeoutError:
            raise self._timeout(sent=True) from None
        except (OSError, http.client.HTTPException, ValueError) as error:  # ValueError: it was closed by a cut before
            raise self._lost(error, sent=True) from None

    def finish(self) -> bool:
        """After the end of the answer: tells whether the connection serves again."""
        answer, self._answer = self._answer, None
        if answer is None or answer.length or (answer.length is None and not answer.chunked):
            return False  # a body that was cut, or one that ends with its connection
        answer.close()
        return self._http.sock is not None and not answer.will_close

    def close(self) -> None:
        if self._answer is not None:
            self._answer.close()
        self._http.close()

    def _timeout(self, sent: bool) -> Lost:
        if not sent:
            return Lost(f"cannot reach {self.address.origin}: no connection in time", sent=False)
        return Silence(f"no sign of life from {self.address.origin}")

    def _lost(self, error: Exception, sent: bool) -> Lost:
        what = "lost the connection to" if sent else "cannot reach"
        return Lost(f"{what} {self.address.origin}: {reason_of(error)}", sent=sent)


class _Exchange:
    """Does the steps of one verb: at most one answer is open at a time."""

    def __init__(self, pool: _Pool) -> None:
        self._pool = pool
        self._connection: _Connection | None = None

    def do(self, flow: Generator[Any, Any, Any], step: Step) -> tuple[Callable[[Any], Any], Any]:
        """What to do next with the verb: to send what came of the step, or to throw what went wrong."""
        try:
            return flow.send, self._do(step)
        except DragonClientError as error:
            return flow.throw, error

    def _do(self, step: Step) -> Any:
        if isinstance(step, Read):
            return self._read(step.timeout)
        self.close()
        if isinstance(step, Sleep):
            time.sleep(step.seconds)
            return None
        self._connection = self._pool.take(step.request)
        return self._connection.open(step.request)

    def _read(self, timeout: float) -> bytes:
        if self._connection is None:
            return b""
        data = self._connection.read(timeout)
        if not data:
            connection, self._connection = self._connection, None
            if connection.finish():
                self._pool.keep(connection)
            else:
                connection.close()
        return data

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class _Driver:
    """Does the steps of the verbs."""

    _core: Core
    _pool: _Pool

    def _do(self, flow: Flow[T]) -> T:
        """What a verb returns."""
        with contextlib.closing(_Exchange(self._pool)) as exchange, contextlib.closing(flow):
            act, value = flow.send, None
            while True:
                try:
                    step = act(value)
                except StopIteration as end:
                    result: T = end.value
                    return result
                act, value = exchange.do(flow, step)

    def _each(self, giving: Giving[T]) -> Generator[T, None, None]:
        """What a verb gives; who stops listening closes the connection."""
        with contextlib.closing(_Exchange(self._pool)) as exchange, contextlib.closing(giving):
            act, value = giving.send, None
            while True:
                try:
                    step = act(value)
                except StopIteration:
                    return
                if isinstance(step, Give):
                    yield step.item
                    act, value = giving.send, None
                else:
                    act, value = exchange.do(giving, step)


def _does(verb: Callable[Concatenate[Core, P], Flow[T]]) -> Callable[Concatenate[_Driver, P], T]:
    """The method of a verb that returns something."""

    def method(self: _Driver, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._do(verb(self._core, *args, **kwargs))

    return named_as(verb, method)


def _gives(
    verb: Callable[Concatenate[Core, P], Giving[T]],
) -> Callable[Concatenate[_Driver, P], Generator[T, None, None]]:
    """The method of a verb that gives several things, one after the other."""

    def method(self: _Driver, /, *args: P.args, **kwargs: P.kwargs) -> Generator[T, None, None]:
        return self._each(verb(self._core, *args, **kwargs))

    return named_as(verb, method)


class Dragon(_Driver):
    """A dragon server, as its tasks are created, followed and read.

    `url` is the server's address, `secret` or `api_key` the key of an account; without them the environment has them:
    DRAGON_URL and DRAGON_SECRET. An api key counts on the pages of its whitelist only: `origin` is the page's.
    `account` is the account's id, which signing needs. One client serves any number of threads: each call has a
    connection of its own while it lasts.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        secret: str | None = None,
        api_key: str | None = None,
        origin: str | None = None,
        account: str = "",
        timing: Timing | None = None,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self._core = Core(url, secret=secret, api_key=api_key, origin=origin, account=account, timing=timing)
        self._pool = _Pool(self._core, ssl_context)
        self.operator = Operator(self._core, self._pool)

    def __repr__(self) -> str:
        return f"Dragon({str(self._core)!r})"

    def __enter__(self) -> Dragon:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections that wait for a next call."""
        self._pool.close()

    create = _does(verbs.create)
    stream = _gives(verbs.stream)
    follow = _gives(verbs.follow)
    status = _does(verbs.status)
    cancel = _does(verbs.cancel)
    log = _gives(verbs.log)
    tasks = _does(verbs.tasks)
    call = _does(verbs.call)

    def run(self, name: str, params: Mapping[str, Any] | None = None, /, **more: Any) -> Any:
        """Runs a task: its result. Raises TaskFailed when it ends in an error."""
        last: Status | None = None
        for status in self.stream([(name, {**(params or {}), **more})]):
            last = status
        return verbs.result_of(last)

    @overload
    def file(self, key: Key, name: str | None = None, *, path: None = None) -> bytes: ...

    @overload
    def file(self, key: Key, name: str | None = None, *, path: str | Path) -> Path: ...

    def file(self, key: Key, name: str | None = None, *, path: str | Path | None = None) -> bytes | Path:
        """A task's output file, as soon as the task has ended: its content, or written to `path`."""
        if path is None:
            return self._do(verbs.read_file(self._core, key, name))
        return self._do(verbs.save_file(self._core, key, name, Path(path)))

    def img_url(
        self,
        name: str,
        params: Mapping[str, Any] | None = None,
        *,
        filename: str | None = None,
        sign: bool = False,
        expires: float | None = None,
    ) -> str:
        """The URL of a task's output file for an `<img>`; with `sign` it works anywhere until `expires` (unix time)."""
        return verbs.img_url(self._core, name, params or {}, filename=filename, sign=sign, expires=expires)


class Operator(_Driver):
    """What an operator sees and does; the account's own tasks only, unless it is an operator's."""

    def __init__(self, core: Core, pool: _Pool) -> None:
        self._core = core
        self._pool = pool

    overview = _does(operations.overview)
    overviews = _gives(operations.overviews)
    tasks = _does(operations.tasks)
    rows = _gives(operations.rows)
    changes = _gives(operations.changes)
    task = _does(operations.task)
    retry = _does(operations.retry)
    cancel = _does(operations.cancel)
    failures = _does(operations.failures)
    pause = _does(operations.pause)
    resume = _does(operations.resume)
    clear = _does(operations.clear)
    history = _does(operations.history)
    account = _does(operations.account)
