"""What runs in an executor process: task code, and the frames that carry its reports to the worker."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import errno
import os
import random
import secrets
import socket
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from dragon.config import Config
from dragon.errors import TaskError
from dragon.processes import adopt_orphans, end_below
from dragon.task import Limits, OutputFile, ParametersError, Registry, Task
from dragon.worker import bounds
from dragon.worker.bounds import Bounds, CpuBound
from dragon.worker.log_lines import LogLines, Printed
from dragon.worker.messages import Frame, FrameBuffer, Kind, pack

#: What a disk says that cannot take more: not the task's fault, and no secret.
_DISK_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO})

Send = Callable[[int, int, bytes], None]

CPU_BEAT = 0.5  # seconds between two moves of the bound of CPU time while `async def` tasks run


@dataclasses.dataclass(frozen=True, slots=True)
class Setup:
    """What every executor of a worker is given."""

    registry: Registry
    limits: Limits
    bounds: Bounds
    result_bytes: int


def run(channel: socket.socket, setup: Setup, *, is_async: bool) -> None:
    """Runs tasks until the worker closes its end. A task may print what it likes: that becomes its log."""
    random.seed()
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)  # what others than Python write there, and what nobody's task prints, is the worker's log
    adopt_orphans()  # what a task starts stays below its executor, whatever it does to get away
    bounds.apply(setup.bounds)
    if is_async:
        serve_async(_AsyncExecutor(channel, setup).serve())
    else:
        _SyncExecutor(channel, setup).serve()


def end_children() -> None:
    """Ends the processes that are left of a task. That there are none, nearly always, costs one call of the kernel."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return
    if not end_below(os.getpid()):
        print("executor: processes of a task outlast being killed", file=sys.stderr)
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


class Copies:
    """Tells a process that a task has forked: it must not go on as if it were the executor."""

    def __init__(self) -> None:
        self.is_one = False
        os.register_at_fork(after_in_child=self._mark)

    def _mark(self) -> None:
        self.is_one = True

    def leave(self) -> None:
        sys.stderr.flush()
        os._exit(0)


def serve_async(coroutine: Coroutine[Any, Any, None]) -> None:
    """Runs on uvloop where there is one."""
    try:
        import uvloop
    except ImportError:
        asyncio.run(coroutine)
    else:
        uvloop.run(coroutine)


def limits_of(config: Config) -> Limits:
    """The part of [limits] that a task sees."""
    limits = config.limits
    return Limits(limits.pixels, limits.frames, limits.output_pixels, limits.log_line_bytes)


class Order(NamedTuple):
    """One task to run."""

    number: int
    name: str
    key: str
    attempt: int
    scratch: str
    parameters: bytes

    @classmethod
    def read(cls, number: int, payload: bytes) -> Order:
        head, _, parameters = payload.partition(b"\n")
        facts = orjson.loads(head)
        return cls(number, facts["name"], facts["key"], facts["attempt"], facts["scratch"], parameters)


class Reports:
    """The part of the context that every kind of task has (dragon.task.Reporting)."""

    def __init__(self, order: Order, limits: Limits, result_bytes: int, send: Send) -> None:
        self.key = order.key
        self.attempt = order.attempt
        self.limits = limits
        self._order = order
        self._result_bytes = result_bytes
        self._send = send
        self._has_scratch = False
        self._lines: LogLines | None = None

    @property
    def scratch(self) -> Path:
        # Made when first asked for: most tasks write nothing. The worker, which will remove it, is told before.
        folder = Path(self._order.scratch)
        if not self._has_scratch:
            self._has_scratch = True
            self._send(Kind.SCRATCH, self._order.number, b"")
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise ResultError(f"the task's scratch folder cannot be made: {error.strerror}") from error
        return folder

    def progress(self, value: Any) -> None:
        self._send(Kind.PROGRESS, self._order.number, encode(value, self._result_bytes))

    def partial(self, value: Any) -> None:
        self._send(Kind.PARTIAL, self._order.number, encode(value, self._result_bytes))

    def log(self, *values: Any) -> None:
        self.lines().log(" ".join(map(str, values)))

    def lines(self) -> LogLines:
        """The task's log, made when it says something first: most say nothing."""
        if self._lines is None:
            number, send = self._order.number, self._send
            self._lines = LogLines(lambda lines: send(Kind.LOG, number, lines), self.limits.log_line_bytes)
        return self._lines

    def end_log(self) -> None:
        """Sends what is left of the log, before the end is told."""
        if self._lines is not None:
            with contextlib.suppress(Exception):  # as when there is no memory: the end is more important
                self._lines.close()

    def output_file(self, name: str, extension: str) -> OutputFile:
        folder = self.scratch / "output"
        folder.mkdir(exist_ok=True)
        return OutputFile(name, folder / f"{name}{extension}")


class ResultError(Exception):
    """Raised when a value is not one that JSON can say, or too large a one."""


def encode(value: Any, limit: int) -> bytes:
    """JSON bytes of what a task reports or returns. Raises ResultError."""
    try:
        data = orjson.dumps(value)
    except TypeError as error:
        raise ResultError(f"the task gave a value that JSON cannot express: {error}") from None
    if len(data) > limit:
        raise ResultError(
            f"the task gave {len(data)} bytes of JSON, the limit is {limit} (setting limits.result_bytes)"
        )
    return data


def encode_result(task: Task, value: Any, limit: int) -> bytes:
    """The payload of a RESULT frame: the output files, a newline, the result without them."""
    if not task.outputs:
        return b"[]\n" + encode(value, limit)
    outputs = []
    members = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    for name in task.outputs:
        output = members.pop(name)
        if not output.path.is_file():
            raise ResultError(f"the task did not write its output file {name!r}")
        outputs.append((name, str(output.path)))
    return orjson.dumps(outputs) + b"\n" + encode(members, limit)


def encode_failure(error: BaseException, bounded: Bounds) -> bytes:
    """The payload of a FAILED frame: the public result, a newline, the traceback unless the client may know it all."""
    if isinstance(error, MemoryError):
        traceback.clear_frames(error.__traceback__)  # what fills the memory hangs on the task's variables
    match error:
        case ParametersError():
            return orjson.dumps({"parameters": error.problems}) + b"\n"
        case TaskError():
            return orjson.dumps(error.message) + b"\n"
    reference = secrets.token_hex(4)
    sentence = str(error) if isinstance(error, ResultError) else bounds.sentence_for(error, bounded)
    if sentence is None and isinstance(error, OSError) and error.errno in _DISK_ERRORS:
        sentence = f"the task could not write its files: {os.strerror(error.errno)}"
    sentence = sentence or "the task failed with an internal error"
    trace = "".join(traceback.format_exception(error))
    return orjson.dumps(f"{sentence}, reference {reference}") + f"\n[reference {reference}] {trace}".encode(
        errors="replace"
    )


def known_task(registry: Registry, name: str) -> Task:
    task = registry.get(name)
    if task is None:
        raise TaskError(f"this worker does not know the task {name!r}")
    return task


class _SyncExecutor:
    """`def` tasks, one at a time, in the order in which they came."""

    def __init__(self, channel: socket.socket, setup: Setup) -> None:
        self._channel = channel
        self._setup = setup
        self._limits = setup.limits
        self._result_bytes = setup.result_bytes
        self._buffer = FrameBuffer()
        self._frames: deque[Frame] = deque()
        self._copies = Copies()
        self._printed = Printed.install(lambda: self._copies.is_one)
        self._cpu = CpuBound(setup.bounds.cpu_seconds)
        self._outgoing: deque[bytes] = deque()
        self._sending = threading.Lock()

    def serve(self) -> None:
        self._send(Kind.READY, 0, b"")
        while True:
            if not self._frames:  # short tasks that were sent together share a bound
                self._cpu.move()
            frame = self._next(Kind.RUN)
            if frame is None:
                return
            self._run(Order.read(frame[1], frame[2]))

    def _run(self, order: Order) -> None:
        context = _SyncContext(order, self._limits, self._result_bytes, self._send, self._fetch)
        self._printed.begin(context.lines)
        kind = Kind.FAILED
        try:
            task = known_task(self._setup.registry, order.name)
            value = task.function(context, **task.arguments(order.parameters))
            payload = encode_result(task, value, self._result_bytes)
            kind = Kind.RESULT
        except BaseException as error:  # also SystemExit: a task does not end its executor
            payload = encode_failure(error, self._setup.bounds)
        if self._copies.is_one:
            self._copies.leave()
        self._printed.end()
        context.end_log()
        if not self._frames:  # they share the look for processes that they left, too
            end_children()
        self._send(kind, order.number, payload)

    def _send(self, kind: int, number: int, payload: bytes) -> None:
        """Sends a frame whole, whichever thread or signal handler it comes from: who finds the channel taken leaves
        it to the one who has it."""
        if self._copies.is_one:
            return  # a copy must not speak in the middle of what the executor says
        self._outgoing.append(pack(kind, number, payload))
        while self._outgoing and self._sending.acquire(blocking=False):
            try:
                while self._outgoing:
                    self._channel.sendall(self._outgoing.popleft())
            finally:
                self._sending.release()

    def _fetch(self, number: int, url: str) -> bytes:
        self._send(Kind.FETCH, number, b"0\n" + url.encode())
        frame = self._next(Kind.FETCHED)
        if frame is None:
            raise SystemExit  # the worker is gone
        return frame[2].partition(b"\n")[2]

    def _next(self, kind: int) -> Frame | None:
        """The next frame of that kind; those of other kinds stay for later. None when the worker has closed."""
        while True:
            for frame in self._frames:
                if frame[0] == kind:
                    self._frames.remove(frame)
                    return frame
            data = self._channel.recv(65536)
            if not data:
                return None
            self._frames.extend(self._buffer.feed(data))


class _SyncContext(Reports):
    def __init__(
        self, order: Order, limits: Limits, result_bytes: int, send: Send, fetch: Callable[[int, str], bytes]
    ) -> None:
        super().__init__(order, limits, result_bytes, send)
        self._fetch = fetch

    def fetch(self, url: str) -> Path:
        return fetched(self._fetch(self._order.number, url))


def fetched(answer: bytes) -> Path:
    """The path in a FETCHED frame; raises the TaskError that it carries instead."""
    text = answer[1:].decode()
    if answer[:1] == b"-":
        raise TaskError(text)
    return Path(text)


class _AsyncExecutor:
    """`async def` tasks, many at a time, on one event loop."""

    def __init__(self, channel: socket.socket, setup: Setup) -> None:
        self._channel = channel
        self._setup = setup
        self._copies = Copies()
        self._printed = Printed.install(lambda: self._copies.is_one)
        self._cpu = CpuBound(setup.bounds.cpu_seconds)
        self._beat: asyncio.TimerHandle | None = None
        self._running: dict[int, asyncio.Task[None]] = {}
        self._fetches: dict[int, asyncio.Future[bytes]] = {}
        self._last_fetch = 0
        self._sending: list[bytes] = []
        self._writer: asyncio.StreamWriter
        self._loop: asyncio.AbstractEventLoop
        self._thread = threading.get_ident()

    async def serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        reader, self._writer = await asyncio.open_connection(sock=self._channel)
        self._send(Kind.READY, 0, b"")
        buffer = FrameBuffer()
        while data := await reader.read(65536):
            for kind, number, payload in buffer.feed(data):
                self._handle(kind, number, payload)

    def _handle(self, kind: int, number: int, payload: bytes) -> None:
        match kind:
            case Kind.RUN:
                if self._beat is None:
                    self._move_cpu_bound()
                self._running[number] = asyncio.create_task(self._run(Order.read(number, payload)))
            case Kind.CANCEL:
                if number in self._running:
                    self._running[number].cancel()
            case Kind.FETCHED:
                fetch, _, answer = payload.partition(b"\n")
                future = self._fetches.get(int(fetch))
                if future is not None and not future.done():
                    future.set_result(answer)

    def _move_cpu_bound(self) -> None:
        """Bounds what is used between two turns of the loop: many tasks share it, none may keep it for itself."""
        self._cpu.move()
        wait = asyncio.get_running_loop().call_later
        self._beat = wait(CPU_BEAT, self._move_cpu_bound) if self._running or self._beat is None else None

    async def _run(self, order: Order) -> None:
        setup = self._setup
        context = _AsyncContext(order, setup.limits, setup.result_bytes, self._send, self._fetch)
        self._printed.begin_here(context.lines)
        kind = Kind.FAILED
        try:
            task = known_task(setup.registry, order.name)
            value = await task.function(context, **task.arguments(order.parameters))
            payload = encode_result(task, value, setup.result_bytes)
            kind = Kind.RESULT
        except BaseException as error:
            payload = encode_failure(error, setup.bounds)
        finally:
            self._running.pop(order.number, None)
        if self._copies.is_one:
            self._copies.leave()
        context.end_log()
        if not self._running:  # whose they are cannot be told: they may live as long as any task here
            end_children()
        self._send(kind, order.number, payload)

    def _send(self, kind: int, number: int, payload: bytes) -> None:
        """Sends a frame; those of one turn of the event loop go in one write."""
        if self._copies.is_one:
            return
        if threading.get_ident() != self._thread:
            self._loop.call_soon_threadsafe(self._send, kind, number, payload)
            return
        if not self._sending:
            self._loop.call_soon(self._flush)
        self._sending.append(pack(kind, number, payload))

    def _flush(self) -> None:
        self._writer.write(b"".join(self._sending))
        self._sending.clear()

    async def _fetch(self, number: int, url: str) -> bytes:
        self._last_fetch += 1
        fetch = self._last_fetch
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._fetches[fetch] = future
        self._send(Kind.FETCH, number, f"{fetch}\n{url}".encode())
        try:
            return await future
        finally:
            del self._fetches[fetch]


class _AsyncContext(Reports):
    def __init__(self, order: Order, limits: Limits, result_bytes: int, send: Send, fetch: Any) -> None:
        super().__init__(order, limits, result_bytes, send)
        self._fetch = fetch

    async def fetch(self, url: str) -> Path:
        return fetched(await self._fetch(self._order.number, url))
