"""Dragon's processes with fail-points: at the n-th passage of a named step the process stops, and the test kills it.

`python -m tests.faults.failpoints` is a nursery: it has imported dragon, and forks a server or a worker for each order,
since starting Python anew would take a second of each of some eighty cases. What runs is dragon's own code, started by
dragon's own commands; only the functions named in STEPS are wrapped, and only in a process whose environment says so:

    FAILPOINTS=worker.reserved:1,...   FAILPOINTS_FOLDER=/where/markers/go   FAILPOINTS_CLOCK=3600

A worker's fork server and executors are forked from it, so their steps stop too. A process that stops leaves a marker
(a file named as the step, which holds its pid) and sends itself SIGSTOP; passages are counted over all of them.
"""

from __future__ import annotations

import datetime
import errno
import functools
import importlib
import inspect
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import orjson

from dragon.config import ROOT, Config
from dragon.processes import die_with
from tests.system import environment
from tests.waiting import is_alive

MODULES = ("tests.faults.step_tasks",)

# ---- steps ----------------------------------------------------------------------------------------------------------

Condition = Callable[[Sequence[Any], Any], bool]  # the call's arguments, its result (None before it)


@dataclass(frozen=True)
class Step:
    """A moment of a function: before or after a call (`half`: when a frame is half sent) that fulfils a condition.

    `full`: the call does not happen, the disk is full; the process does not stop.
    """

    target: str  # module:attribute
    moment: str
    condition: Condition = lambda _arguments, _result: True


def _sent(script: str, *words: bytes, without: bytes = b"\0") -> Step:
    """A script has been sent to Redis and its reply has not been read: it runs while its caller is stopped."""

    def is_it(arguments: Sequence[Any], _result: Any) -> bool:
        from dragon.store.scripts import script as find

        packed = b"".join(command for command, _ in arguments[1])
        wanted = find(script).sha.encode() in packed and without not in packed
        return wanted and all(word in packed for word in words)

    return Step("dragon.connections:_Wire.send", "after", is_it)


def _writes(*words: bytes, without: bytes = b"\0") -> Condition:
    """Whether the worker's writer sends a status line that holds these words."""

    def is_it(arguments: Sequence[Any], _result: Any) -> bool:
        lines = [write.line for write, _ in arguments[1]]
        return any(all(word in line for word in words) and without not in line for line in lines)

    return is_it


def _written(prefix: str, *words: bytes, without: bytes = b"\0") -> dict[str, Step]:
    """The three moments of a status line on its way from the worker to Redis."""
    condition, target = _writes(*words, without=without), "dragon.worker.writer:Writer._send"
    return {
        f"{prefix}.before": Step(target, "before", condition),
        f"{prefix}.sent": _sent("update", *words, without=without),
        f"{prefix}.after": Step(target, "after", condition),
    }


def _called(prefix: str, target: str, script: str, condition: Condition = Step.condition) -> dict[str, Step]:
    """The three moments of a script's call: before it, sent, and its reply read."""
    return {
        f"{prefix}.before": Step(target, "before"),
        f"{prefix}.sent": _sent(script),
        f"{prefix}.after": Step(target, "after", condition),
    }


def _tells(word: str) -> Condition:
    return lambda arguments, _: word in arguments[1]


def _frame(kind: int, at: int = 1) -> Condition:
    return lambda arguments, _: arguments[at] == kind


RUN, RESULT = 1, 12  # dragon.worker.messages.Kind
_STARTED = (b'"executing"', b'"started"')

WORKER_STEPS: dict[str, Step] = {
    "worker.registered": Step("dragon.store.workers:register", "after"),
    **_called("worker.reserve", "dragon.store.tasks:reserve", "reserve", lambda _, result: bool(result.tasks)),
    "worker.accepted": Step("dragon.worker.engine:Engine._accept", "after"),
    "worker.run.before": Step("dragon.worker.pool:Executor.send", "before", _frame(RUN)),
    "worker.run.queued": Step("dragon.worker.pool:Executor.send", "after", _frame(RUN)),
    "worker.run.written": Step("dragon.worker.pool:Executor._flush", "after"),
    **_written("worker.start", *_STARTED, without=b'"progress"'),
    "worker.first.received": Step("dragon.worker.engine:Engine._report", "before"),
    **_written("worker.first", b'"executing"', b'"progress":1'),
    **_written("worker.last", b'"executing"', b'"progress":2'),
    "worker.result.received": Step("dragon.worker.engine:Engine._on_result", "before"),
    "worker.final.queued": Step("dragon.worker.engine:Engine._end", "after"),
    **_written("worker.final", b'"success"'),
    "worker.ended": Step("dragon.worker.engine:Engine._after_end", "after"),
}
#: Signs of life of a worker that has tasks.
RENEW_STEPS: dict[str, Step] = {
    "worker.renew.before": Step("dragon.store.workers:renew", "before", lambda arguments, _: arguments[3] == "busy"),
    "worker.renew.sent": _sent("renew", b"busy"),
    "worker.renew.after": Step("dragon.store.workers:renew", "after", lambda arguments, _: arguments[3] == "busy"),
}
#: Those of a task with output files.
FILE_STEPS: dict[str, Step] = {
    "worker.files.before": Step("dragon.worker.engine:keep_outputs", "before"),
    "worker.files.half": Step("dragon.files.local:_move", "after"),
    "worker.files.kept": Step("dragon.worker.engine:keep_outputs", "after"),
    "executor.scratch": Step("dragon.worker.executor:Reports.output_file", "after"),
}
#: A task whose executor crashes.
CRASH_STEPS: dict[str, Step] = {
    **_called("worker.retry", "dragon.store.tasks:retry", "retry"),
    "forkserver.ended.before": Step("dragon.worker.forkserver:_tell", "before", _tells("ended")),
    "forkserver.ended.after": Step("dragon.worker.forkserver:_tell", "after", _tells("ended")),
}
#: A worker that is told to stop while it has a long task.
STOP_STEPS: dict[str, Step] = {
    **_called("worker.give_back", "dragon.store.tasks:give_back", "give_back"),
    **_called("worker.unregister", "dragon.store.workers:unregister", "unregister"),
}
#: A worker that hands on the tasks of one that died before.
LOST_STEPS: dict[str, Step] = _called("worker.take_over", "dragon.store.tasks:take_over_lost", "lost")
#: A worker that ends such a task, which has no attempt left.
ORPHAN_STEPS: dict[str, Step] = {
    "worker.orphan.taken": Step("dragon.worker.engine:Engine.end_orphan", "before"),
    **_written("worker.orphan", b"worker was lost"),
}
#: A worker that was stopped for longer than its lease, and wakes.
LATE_STEPS: dict[str, Step] = {
    "worker.late.told": Step("dragon.worker.engine:Engine.abandon_all", "before"),
    "worker.late.dropped": Step("dragon.worker.engine:Engine.abandon_all", "after"),
}
EXECUTOR_STEPS: dict[str, Step] = {
    "executor.received": Step("dragon.worker.executor:known_task", "before"),
    "executor.arguments": Step("dragon.task:Task.arguments", "after"),
    "executor.first.before": Step("dragon.worker.executor:Reports.progress", "before", _frame(1)),
    "executor.first.after": Step("dragon.worker.executor:Reports.progress", "after", _frame(1)),
    "executor.last.before": Step("dragon.worker.executor:Reports.progress", "before", _frame(2)),
    "executor.last.after": Step("dragon.worker.executor:Reports.progress", "after", _frame(2)),
    "executor.returned": Step("dragon.worker.executor:encode_result", "before"),
    "executor.result.before": Step("dragon.worker.executor:encode_result", "after"),
}
SYNC_EXECUTOR_STEPS: dict[str, Step] = {
    "executor.result.half": Step("dragon.worker.executor:_SyncExecutor._send", "half", _frame(RESULT)),
    "executor.result.after": Step("dragon.worker.executor:_SyncExecutor._send", "after", _frame(RESULT)),
}
ASYNC_EXECUTOR_STEPS: dict[str, Step] = {
    "executor.result.queued": Step("dragon.worker.executor:_AsyncExecutor._send", "after", _frame(RESULT)),
}
FORK_SERVER_STEPS: dict[str, Step] = {
    "forkserver.imported": Step("dragon.worker.forkserver:load_tasks", "after"),
    "forkserver.forked": Step("dragon.worker.forkserver:_tell", "before", _tells("forked")),
    "forkserver.told": Step("dragon.worker.forkserver:_tell", "after", _tells("forked")),
    "forkserver.child": Step("dragon.worker.forkserver:_ForkServer._become_executor", "before"),
}
SERVER_STEPS: dict[str, Step] = {
    **_called("server.create", "dragon.store.tasks:create", "create"),
    "server.stream.begun": Step("dragon.server.streaming:_begin", "after"),
    "server.stream.written": Step("aiohttp.web:StreamResponse.write", "after"),
    "server.stream.dispatch": Step("dragon.feed:Feed.dispatch", "before"),
    "server.stream.over": Step("aiohttp.web:StreamResponse.write_eof", "before"),
    "server.follow.sent": _sent("follow"),
    "server.follow.after": Step("dragon.store.tasks:follow", "after"),
    "server.wait": Step("dragon.service:Service.wait", "before"),
    "server.file.wait": Step("dragon.service:Service._await_file", "before"),
    "server.reused.after": Step("dragon.store.tasks:reused", "after"),
    "server.cancel.sent": _sent("cancel"),
    "server.cancel.after": Step("dragon.store.tasks:cancel", "after"),
}
#: Where those who may not mount a small disk get the error of one that is full.
DISK_STEPS: dict[str, Step] = {
    "worker.files.full": Step("dragon.files.local:_move", "full"),
    "executor.full": Step("dragon.worker.executor:Reports.output_file", "full"),
}
STEPS: dict[str, Step] = {
    **DISK_STEPS,
    **WORKER_STEPS,
    **RENEW_STEPS,
    **FILE_STEPS,
    **CRASH_STEPS,
    **STOP_STEPS,
    **LOST_STEPS,
    **ORPHAN_STEPS,
    **LATE_STEPS,
    **EXECUTOR_STEPS,
    **SYNC_EXECUTOR_STEPS,
    **ASYNC_EXECUTOR_STEPS,
    **FORK_SERVER_STEPS,
    **SERVER_STEPS,
}


# ---- stopping: in the process under test ----------------------------------------------------------------------------


def arm(names: str, folder: Path) -> None:
    """Wraps the functions of the steps in `names` ("STEP:COUNT,STEP:COUNT")."""
    for one in filter(None, names.split(",")):
        name, _, count = one.partition(":")
        _wrap(STEPS[name], _Stop(folder / f"{name}.at", int(count or 1)))


class _Stop:
    """Stops the process that makes the n-th call of all processes; each has a share in a file that counts."""

    def __init__(self, marker: Path, count: int) -> None:
        self._marker = marker
        self._count = count

    def is_here(self) -> bool:
        """Counts the passage; whether it is the one."""
        count = os.open(self._marker.with_suffix(".count"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(count, b"1")
        passages = os.lseek(count, 0, os.SEEK_CUR)
        os.close(count)
        return passages == self._count

    def __call__(self) -> None:
        if not self.is_here():
            return
        written = self._marker.with_suffix(".pid")
        written.write_text(str(os.getpid()))
        written.rename(self._marker)
        # To this thread, so that it does not take another step; the signal stops all of the process.
        signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)


def _wrap(step: Step, stop: _Stop) -> None:
    module_name, _, path = step.target.partition(":")
    holder: Any = importlib.import_module(module_name)
    *owners, attribute = path.split(".")
    for owner in owners:
        holder = getattr(holder, owner)
    function = getattr(holder, attribute)
    if step.moment == "half":
        wrapped = _half(step, stop)
    elif step.moment == "full":
        wrapped = _full(function, stop)
    elif inspect.iscoroutinefunction(function):
        wrapped = _asynchronous(function, step, stop)
    else:
        wrapped = _synchronous(function, step, stop)
    setattr(holder, attribute, functools.wraps(function)(wrapped))


def _synchronous(function: Callable[..., Any], step: Step, stop: _Stop) -> Callable[..., Any]:
    def call(*arguments: Any, **named: Any) -> Any:
        if step.moment == "before" and step.condition(arguments, None):
            stop()
        result = function(*arguments, **named)
        if step.moment == "after" and step.condition(arguments, result):
            stop()
        return result

    return call


def _asynchronous(function: Callable[..., Any], step: Step, stop: _Stop) -> Callable[..., Any]:
    async def call(*arguments: Any, **named: Any) -> Any:
        if step.moment == "before" and step.condition(arguments, None):
            stop()
        result = await function(*arguments, **named)
        if step.moment == "after" and step.condition(arguments, result):
            stop()
        return result

    return call


def _half(step: Step, stop: _Stop) -> Callable[..., Any]:
    """Sends a frame in two halves, and stops between them."""

    def call(executor: Any, kind: int, number: int, payload: bytes) -> None:
        from dragon.worker.messages import pack

        frame = pack(kind, number, payload)
        if step.condition((executor, kind, number, payload), None):
            half = len(frame) // 2
            executor._channel.sendall(frame[:half])
            stop()
            frame = frame[half:]
        executor._channel.sendall(frame)

    return call


def _full(function: Callable[..., Any], stop: _Stop) -> Callable[..., Any]:
    def call(*arguments: Any, **named: Any) -> Any:
        if stop.is_here():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return function(*arguments, **named)

    return call


def set_clock(ahead: float) -> None:
    """Has this process read a clock that is `ahead` seconds ahead of the machine's."""
    real_time, real_time_ns, real = time.time, time.time_ns, datetime.datetime
    time.time = lambda: real_time() + ahead
    time.time_ns = lambda: real_time_ns() + int(ahead * 1e9)

    class Moved(real):  # type: ignore[valid-type, misc]
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> datetime.datetime:
            return real.now(tz) + datetime.timedelta(seconds=ahead)

    for module in [one for name, one in sys.modules.items() if name.startswith("dragon.")]:
        if getattr(module, "datetime", None) is real:
            module.datetime = Moved  # type: ignore[attr-defined]


# ---- the nursery: a process of its own ------------------------------------------------------------------------------


def serve_orders() -> None:
    """Forks a process for each line of standard input, and answers with its pid; ends with its input."""
    for name in (
        "dragon.cli.processes",
        "dragon.server.app",
        "dragon.worker.main",
        "dragon.worker.forkserver",
        "uvloop",
    ):
        importlib.import_module(name)
    from dragon.task import load_tasks, preload

    preload(load_tasks(("tasks", *MODULES)))
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody asks how they ended
    print("born", flush=True)
    for line in sys.stdin.buffer:
        order = orjson.loads(line)
        pid = os.fork()
        if pid == 0:
            _become(order)
        print(pid, flush=True)


def _become(order: dict[str, Any]) -> NoReturn:
    code = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setsid()
        die_with(os.getppid(), signal.SIGKILL)
        log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.environ.clear()
        os.environ.update(order["environment"])
        _run_command(order["command"])
    except SystemExit as ending:
        code = ending.code if isinstance(ending.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _run_command(command: Sequence[str]) -> None:
    from dragon.cli import processes, run
    from dragon.worker import pool

    arm(os.environ.pop("FAILPOINTS", ""), Path(os.environ.pop("FAILPOINTS_FOLDER", "/")))
    set_clock(float(os.environ.pop("FAILPOINTS_CLOCK", "0")))
    pool.subprocess = _Subprocess  # type: ignore[attr-defined]
    name, *arguments = command
    sys.argv = [f"run_{name}.py", *arguments]
    run(getattr(processes, name), f"run_{name}.py")


class _ForkedForkServer:
    """In the place of subprocess.Popen in dragon.worker.pool: the fork server is forked, not started anew."""

    def __init__(self, command: Sequence[str], *, pass_fds: Sequence[int], env: dict[str, str], **_: Any) -> None:
        assert list(command[1:3]) == ["-m", "dragon.worker.forkserver"]
        self.pid = os.fork()
        if self.pid == 0:
            _become_fork_server(int(command[3]), orjson.loads(command[4]), pass_fds, env)

    def wait(self, timeout: float = 60) -> int:
        ends = time.monotonic() + timeout
        while time.monotonic() < ends:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.005)
        raise subprocess.TimeoutExpired("the fork server", timeout)

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)


class _Subprocess:
    Popen = _ForkedForkServer
    DEVNULL = subprocess.DEVNULL
    TimeoutExpired = subprocess.TimeoutExpired


def _become_fork_server(
    descriptor: int, setup: dict[str, Any], kept: Sequence[int], environment: dict[str, str]
) -> NoReturn:
    from dragon.worker import forkserver

    try:
        signal.set_wakeup_fd(-1)
        last = 2
        for one in sorted(kept):
            os.closerange(last + 1, one)
            last = one
        os.closerange(last + 1, 1 << 16)
        os.environ.clear()
        os.environ.update(environment)
        os.chdir(ROOT)
        forkserver.main(descriptor, setup)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(0)


# ---- the test's side ------------------------------------------------------------------------------------------------


@dataclass
class Child:
    """A process that the nursery has forked."""

    pid: int
    log: Path
    folder: Path  # where its markers are

    @property
    def output(self) -> str:
        return self.log.read_text(errors="replace")

    @property
    def is_alive(self) -> bool:
        return is_alive(self.pid)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)

    def signal(self, number: int) -> None:
        try:
            os.kill(self.pid, number)
        except ProcessLookupError:
            pass

    def stopped_at(self, step: str) -> int:
        """The pid of the process that has stopped at a step; 0 as long as none has."""
        try:
            pid = int((self.folder / f"{step}.at").read_text())
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (OSError, ValueError):
            return 0
        return pid if state == "T" else 0


@dataclass
class Nursery:
    """The test's end of the nursery."""

    folder: Path
    process: subprocess.Popen[bytes]
    children: list[Child] = field(default_factory=list)

    @classmethod
    def open(cls, folder: Path) -> Nursery:
        folder.mkdir(parents=True, exist_ok=True)
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.failpoints"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert process.stdout and process.stdout.readline() == b"born\n"
        return cls(folder, process)

    def start(self, config: Config, name: str, *arguments: str, steps: str = "", clock: float = 0) -> Child:
        """Starts `server` or `worker`; it is not ready yet."""
        assert self.process.stdin and self.process.stdout
        number = len(self.children)
        folder = self.folder / f"{name}-{number}"
        folder.mkdir()
        (folder / "log").touch()
        given = {"FAILPOINTS": steps, "FAILPOINTS_FOLDER": str(folder), "FAILPOINTS_CLOCK": str(clock)}
        order = {
            "command": [name, *arguments],
            "environment": environment(config) | given,
            "log": str(folder / "log"),
        }
        self.process.stdin.write(orjson.dumps(order) + b"\n")
        self.process.stdin.flush()
        child = Child(int(self.process.stdout.readline()), folder / "log", folder)
        self.children.append(child)
        return child

    def close(self) -> None:
        """Ends every process that is still there, stopped ones too."""
        for child in self.children:
            if child.is_alive:
                child.kill()
        assert self.process.stdin and self.process.stdout
        self.process.stdin.close()
        self.process.wait(20)
        self.process.stdout.close()


if __name__ == "__main__":
    serve_orders()
