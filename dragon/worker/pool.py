"""The executor processes as the worker sees them: forked by the fork server, ended by a kill."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import orjson

from dragon.config import ROOT, Config
from dragon.errors import ConfigError
from dragon.processes import adopt_orphans, kill_descendants, kill_group
from dragon.worker.bounds import bounds_of
from dragon.worker.executor import limits_of
from dragon.worker.messages import Frame, FrameBuffer, pack

#: Environment variables that the processes which run user code do not get.
_SECRET_PREFIXES = (
    *("DRAGON_REDIS", "REDIS_URL", "DRAGON_SECRET", "DRAGON_ACCOUNTS", "DRAGON_FILES"),
    *("OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_TRACES_HEADERS"),
)
_START_TIMEOUT = 60.0  # seconds to import the tasks


@dataclass(frozen=True, slots=True)
class TaskFacts:
    """What the worker knows of a task; its code lives in the executors only."""

    name: str
    is_async: bool
    timeout: float  # seconds
    outputs: tuple[str, ...]


class Executor(asyncio.Protocol):
    """One executor process and its channel."""

    def __init__(
        self, *, is_async: bool, on_frames: Callable[[Executor, list[Frame]], None], on_lost: Callable[[Executor], None]
    ) -> None:
        self.is_async = is_async
        self.numbers: dict[int, str] = {}  # the tasks it has, in the order in which they were sent: scratch folders
        self.scratched: set[int] = set()  # those of them that have made their scratch folder
        self.slowest = 0.0  # the longest expected duration among them, in seconds
        self.pid = 0
        self.ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()  # exit code
        self._on_frames = on_frames
        self._on_lost = on_lost
        self._buffer = FrameBuffer()
        self._frames: list[bytes] = []
        self._transport: asyncio.Transport
        self.is_lost = False
        self.was_killed = False  # by us
        self.is_ready = False  # it has said so
        self.has_grown = False  # and was killed by the fork server: too many processes were below it

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass

    def data_received(self, data: bytes) -> None:
        self._on_frames(self, self._buffer.feed(data))

    def connection_lost(self, _error: Exception | None) -> None:
        if not self.is_lost:
            self.is_lost = True
            self._on_lost(self)

    def send(self, kind: int, number: int, payload: bytes = b"") -> None:
        """Sends a frame; those of one turn of the event loop go in one write."""
        if not self._frames:
            asyncio.get_running_loop().call_soon(self._flush)
        self._frames.append(pack(kind, number, payload))

    def _flush(self) -> None:
        frames, self._frames = self._frames, []
        if not self._transport.is_closing():
            self._transport.write(b"".join(frames))

    def close(self) -> None:
        """The process has ended: closes the channel once what it said last has been read."""
        if not self._transport.is_closing():
            asyncio.get_running_loop().call_later(0.5, self._transport.abort)

    def kill(self) -> None:
        """Ends the process with all that it started; `on_lost` follows."""
        self.was_killed = True
        if self.pid and not self.ended.done():
            kill_group(self.pid)
        self._transport.abort()


class Pool:
    """Starts the fork server, and executors through it."""

    def __init__(
        self, config: Config, on_frames: Callable[[Executor, list[Frame]], None], on_lost: Callable[[Executor], None]
    ) -> None:
        self._config = config
        self._on_frames = on_frames
        self._on_lost = on_lost
        self._control: socket.socket
        self._process: subprocess.Popen[bytes]
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter
        self._by_pid: dict[int, Executor] = {}
        self._forked: list[Executor] = []  # asked for, pid not yet known; answers come in order
        self._watching: asyncio.Task[None]
        self.failed: asyncio.Future[str] = asyncio.get_running_loop().create_future()  # why no executor can be had

    async def start(self) -> dict[str, TaskFacts]:
        """Starts the fork server and returns the tasks that it imported. Raises ConfigError when it could not."""
        adopt_orphans()  # those of a fork server that is killed
        self._control, theirs = socket.socketpair()
        # Its words of command; read on a copy, so that descriptors can be sent on the original.
        self._process = subprocess.Popen(  # noqa: ASYNC220 - once, at start
            [
                sys.executable,
                "-m",
                "dragon.worker.forkserver",
                str(theirs.fileno()),
                orjson.dumps(self._setup()).decode(),
            ],
            pass_fds=[theirs.fileno()],
            env=safe_environment(os.environ),
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
        )
        theirs.close()
        self._reader, self._writer = await asyncio.open_connection(sock=self._control.dup(), limit=1 << 24)
        async with asyncio.timeout(_START_TIMEOUT):
            first = await self._reader.readline()
        answer: dict[str, Any] = orjson.loads(first) if first else {"error": "the fork server ended at its start"}
        if "error" in answer:
            sys.stderr.write(answer.get("traceback", ""))
            raise ConfigError(answer["error"])
        self._watching = asyncio.create_task(self._watch(), name="fork server")
        return {facts["name"]: TaskFacts(**facts) for facts in answer["tasks"]}

    def _setup(self) -> dict[str, Any]:
        return {
            "modules": self._config.tasks.modules,
            "limits": dataclasses.asdict(limits_of(self._config)),
            "bounds": dataclasses.asdict(bounds_of(self._config)),
            "result_bytes": self._config.limits.result_bytes,
        }

    async def fork(self, *, is_async: bool) -> Executor:
        """Asks for one more executor; it may be given work at once."""
        ours, theirs = socket.socketpair()
        executor = Executor(is_async=is_async, on_frames=self._on_frames, on_lost=self._on_lost)
        await asyncio.get_running_loop().create_connection(lambda: executor, sock=ours)
        try:
            self._forked.append(executor)
            socket.send_fds(self._control, [b"a" if is_async else b"s"], [theirs.fileno()])
        except OSError:
            self._forked.remove(executor)
            executor.kill()
        finally:
            theirs.close()
        return executor

    def count_processes(self) -> None:
        """Has the fork server kill the executors that have more processes below them than they may."""
        with contextlib.suppress(OSError):  # full, or gone: the first has a look to do already, the second says so
            self._control.send(b"c", socket.MSG_DONTWAIT)

    async def stop(self) -> None:
        """Ends the fork server and, with it, every executor and what they started."""
        self._watching.cancel()
        self._control.close()
        self._writer.close()  # the copy, so that the other end sees that nobody is left
        for pid in self._by_pid:
            kill_group(pid)
        await asyncio.to_thread(self._wait)

    def _wait(self) -> None:
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    async def _watch(self) -> None:
        with contextlib.suppress(ConnectionError):  # as when it is killed before it has read an order
            await self._read_answers()
        self.give_up("the fork server is gone, so no executor can be started any more")
        # It was killed: nobody else would end what its executors started.
        for pid in self._by_pid:
            kill_group(pid)
        await asyncio.to_thread(kill_descendants)

    async def _read_answers(self) -> None:
        while line := await self._reader.readline():
            message = orjson.loads(line)
            if "forked" in message:
                executor = self._forked.pop(0)
                executor.pid = message["forked"]
                self._by_pid[executor.pid] = executor
                if executor.is_lost:
                    kill_group(executor.pid)
            elif "grown" in message:
                self._by_pid[message["grown"]].has_grown = True
            else:
                ended = self._by_pid.pop(message["ended"], None)
                if ended is not None and not ended.ended.done():
                    ended.ended.set_result(os.waitstatus_to_exitcode(message["status"]))
                    ended.close()

    def give_up(self, reason: str) -> None:
        """From here on, no executors: whoever waits for `failed` hears why."""
        if not self.failed.done():
            self.failed.set_result(reason)


def safe_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment without what user code has no business to know."""
    kept = {name: value for name, value in environ.items() if not name.startswith(_SECRET_PREFIXES)}
    path = kept.get("PYTHONPATH")
    return kept | {"PYTHONPATH": f"{ROOT}{os.pathsep}{path}" if path else str(ROOT)}
