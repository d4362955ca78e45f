"""AsyncDragon: the client for programs on asyncio. aiohttp is imported when it is used, so that `Dragon` needs none."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar, overload

from dragon.client import operations, verbs
from dragon.client.errors import DragonClientError, Lost, Silence
from dragon.client.protocol import (
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

if TYPE_CHECKING:
    import aiohttp

P = ParamSpec("P")
T = TypeVar("T")


class _Sessions:
    """The aiohttp session of a client, made with the first call, in its event loop."""

    def __init__(self, core: Core, context: ssl.SSLContext | None) -> None:
        self.core = core
        self._context = context
        self._session: aiohttp.ClientSession | None = None

    def get(self) -> aiohttp.ClientSession:
        import aiohttp

        if self._session is None or self._session.closed:
            self._session = aiohttp.ClientSession(
                # Without aiohttp's limit of 100: that many streams would leave no connection for a call.
                connector=aiohttp.TCPConnector(limit=0, ssl=self._context or True),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=self.core.timing.connect),
                trace_configs=[_trace()],
            )
        return self._session

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()


def _trace() -> aiohttp.TraceConfig:
    """Calls what came with a request as `trace_request_ctx` once it has a connection and its head is sent."""
    import aiohttp

    async def sent(_session: object, context: Any, _parameters: object) -> None:
        context.trace_request_ctx()

    trace = aiohttp.TraceConfig()
    trace.on_request_headers_sent.append(sent)
    return trace


class _Exchange:
    """Does the steps of one verb: at most one answer is open at a time."""

    def __init__(self, sessions: _Sessions) -> None:
        self._sessions = sessions
        self._answer: aiohttp.ClientResponse | None = None
        self._origin = ""

    async def do(self, flow: Generator[Any, Any, Any], step: Step) -> tuple[Callable[[Any], Any], Any]:
        """What to do next with the verb: to send what came of the step, or to throw what went wrong."""
        try:
            return flow.send, await self._do(step)
        except DragonClientError as error:
            return flow.throw, error

    async def _do(self, step: Step) -> Any:
        if isinstance(step, Read):
            return await self._read(step.timeout)
        self.close()
        if isinstance(step, Sleep):
            return await asyncio.sleep(step.seconds)
        return await self._open(step.request)

    async def _open(self, request: Request) -> Head:
        import aiohttp
        from yarl import URL

        self._origin = request.address.origin
        try:
            async with asyncio.timeout(None) as silence:
                self._answer = await self._sessions.get().request(
                    request.method,
                    URL(self._origin + request.target, encoded=True),
                    data=request.body,
                    headers=self._sessions.core.headers(request),
                    allow_redirects=False,
                    trace_request_ctx=lambda: silence.reschedule(asyncio.get_running_loop().time() + request.silence),
                )
        except aiohttp.ClientConnectorCertificateError as error:
            raise DragonClientError(f"{self._origin} is not trusted: {error.certificate_error}") from None
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise Lost(f"cannot reach {self._origin}: {_reason(error)}", sent=False) from None
        except TimeoutError:
            raise self._silence() from None
        except (aiohttp.ClientError, OSError) as error:
            raise self._lost(error) from None
        return Head(self._answer.status, {name.lower(): value for name, value in self._answer.headers.items()})

    async def _read(self, timeout: float) -> bytes:
        import aiohttp

        if self._answer is None:
            return b""
        try:
            async with asyncio.timeout(timeout):
                data = await self._answer.content.readany()
        except TimeoutError:
            raise self._silence() from None
        except (aiohttp.ClientError, OSError) as error:
            raise self._lost(error) from None
        if not data:
            self._answer.release()
            self._answer = None
        return data

    def _silence(self) -> Silence:
        return Silence(f"no sign of life from {self._origin}")

    def _lost(self, error: Exception) -> Lost:
        return Lost(f"lost the connection to {self._origin}: {_reason(error)}")

    def close(self) -> None:
        if self._answer is not None:
            self._answer.close()
            self._answer = None


def _reason(error: Exception) -> str:
    return reason_of(getattr(error, "os_error", error))


class _Driver:
    """Does the steps of the verbs."""

    _core: Core
    _sessions: _Sessions

    async def _do(self, flow: Flow[T]) -> T:
        """What a verb returns."""
        with contextlib.closing(_Exchange(self._sessions)) as exchange, contextlib.closing(flow):
            act, value = flow.send, None
            while True:
                try:
                    step = act(value)
                except StopIteration as end:
                    result: T = end.value
                    return result
                act, value = await exchange.do(flow, step)

    async def _each(self, giving: Giving[T]) -> AsyncGenerator[T, None]:
        """What a verb gives; who stops listening closes the connection."""
        with contextlib.closing(_Exchange(self._sessions)) as exchange, contextlib.closing(giving):
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
                    act, value = await exchange.do(giving, step)


def _does(
    verb: Callable[Concatenate[Core, P], Flow[T]],
) -> Callable[Concatenate[_Driver, P], Coroutine[Any, Any, T]]:
    """The method of a verb that returns something."""

    async def method(self: _Driver, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._do(verb(self._core, *args, **kwargs))

    return named_as(verb, method)


def _gives(
    verb: Callable[Concatenate[Core, P], Giving[T]],
) -> Callable[Concatenate[_Driver, P], AsyncGenerator[T, None]]:
    """The method of a verb that gives several things, one after the other."""

    def method(self: _Driver, /, *args: P.args, **kwargs: P.kwargs) -> AsyncGenerator[T, None]:
        return self._each(verb(self._core, *args, **kwargs))

    return named_as(verb, method)


class AsyncDragon(_Driver):
    """As `Dragon`, for asyncio: the same verbs, to be awaited, or iterated with `async for`.

    One client serves any number of tasks of one event loop. `async with` closes its connections at the end.
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
        self._sessions = _Sessions(self._core, ssl_context)
        self.operator = AsyncOperator(self._core, self._sessions)

    def __repr__(self) -> str:
        return f"AsyncDragon({str(self._core)!r})"

    async def __aenter__(self) -> AsyncDragon:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the client's connections."""
        await self._sessions.close()

    create = _does(verbs.create)
    stream = _gives(verbs.stream)
    follow = _gives(verbs.follow)
    status = _does(verbs.status)
    cancel = _does(verbs.cancel)
    log = _gives(verbs.log)
    tasks = _does(verbs.tasks)
    call = _does(verbs.call)

    async def run(self, name: str, params: Mapping[str, Any] | None = None, /, **more: Any) -> Any:
        """Runs a task: its result. Raises TaskFailed when it ends in an error."""
        last: Status | None = None
        async with contextlib.aclosing(self.stream([(name, {**(params or {}), **more})])) as statuses:
            async for status in statuses:
                last = status
        return verbs.result_of(last)

    @overload
    async def file(self, key: Key, name: str | None = None, *, path: None = None) -> bytes: ...

    @overload
    async def file(self, key: Key, name: str | None = None, *, path: str | Path) -> Path: ...

    async def file(self, key: Key, name: str | None = None, *, path: str | Path | None = None) -> bytes | Path:
        """A task's output file, as soon as the task has ended: its content, or written to `path`."""
        if path is None:
            return await self._do(verbs.read_file(self._core, key, name))
        return await self._do(verbs.save_file(self._core, key, name, Path(path)))

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


class AsyncOperator(_Driver):
    """What an operator sees and does; the account's own tasks only, unless it is an operator's."""

    def __init__(self, core: Core, sessions: _Sessions) -> None:
        self._core = core
        self._sessions = sessions

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
