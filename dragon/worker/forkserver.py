"""The fork server: has imported the tasks, and forks executors when the worker asks.

It has no event loop, no threads, no Redis connection and no credentials, so that forking is safe and cheap at any time.
Its orders come over a stream socket: one byte, `s` or `a`, with the executor's end of a socket pair attached, or `c`:
count the processes below each executor, and kill those that have too many. It answers in JSON lines: what it imported,
a pid for each executor, a wait status for each end. When the socket closes, the worker is dead: everything below is
killed, and this process leaves.
"""

from __future__ import annotations

import contextlib
import gc
import os
import select
import signal
import socket
import sys
import time
import traceback
from typing import Any

import orjson

from dragon.errors import ConfigError
from dragon.processes import (
    adopt_orphans,
    below,
    die_with,
    end_below,
    families,
    kill_descendants,
    kill_group,
    newest_process,
)
from dragon.task import Limits, load_tasks, preload
from dragon.worker import executor
from dragon.worker.bounds import Bounds


def main(descriptor: int, setup: dict[str, Any]) -> None:
    """Runs until the worker's end of the socket closes."""
    control = socket.socket(fileno=descriptor)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is the worker's business
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    adopt_orphans()
    try:
        registry = load_tasks(tuple(setup["modules"]))
        preload(registry)
    except ConfigError as error:
        _tell(control, {"error": error.message, "traceback": traceback.format_exc()})
        return
    gc.collect()
    gc.freeze()  # what was imported is never looked at by the collector, so its pages stay shared
    _tell(control, {"tasks": [_facts(task) for task in registry.tasks.values()]})
    given = executor.Setup(registry, Limits(**setup["limits"]), Bounds(**setup["bounds"]), setup["result_bytes"])
    _ForkServer(control, given).run()


def _facts(task: Any) -> dict[str, Any]:
    return {
        "name": task.name,
        "is_async": task.is_async,
        "timeout": task.timeout,
        "outputs": task.outputs,
    }


def _tell(control: socket.socket, message: dict[str, Any]) -> None:
    with contextlib.suppress(OSError):
        control.sendall(orjson.dumps(message) + b"\n")


#: Times that a count has taken, until the next: where a machine has many processes it takes 10 us for each of them, and
#: orders to count must not gather in front of those to fork.
REST = 20


class _ForkServer:
    def __init__(self, control: socket.socket, setup: executor.Setup) -> None:
        self._control = control
        self._setup = setup
        self._executors: set[int] = set()
        self._grown: set[int] = set()  # executors that were killed because they had too many processes
        self._newest = 0  # process of the machine when they were counted last
        self._rests_until = 0.0  # monotonic seconds

    def run(self) -> None:
        wake_read, wake_write = socket.socketpair()
        for end in (wake_read, wake_write):
            end.setblocking(False)
        signal.set_wakeup_fd(wake_write.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        while True:
            readable, _, _ = select.select([self._control, wake_read], [], [])
            if wake_read in readable:
                with contextlib.suppress(BlockingIOError):
                    wake_read.recv(4096)
                self._reap()
            if self._control in readable and not self._take_order((wake_read, wake_write)):
                break
        self._kill_all()

    def _take_order(self, inherited: tuple[socket.socket, ...]) -> bool:
        try:
            order, descriptors, _, _ = socket.recv_fds(self._control, 1, 1)
        except OSError:
            return False
        if not order:
            return False
        if order == b"c":
            self._count_processes()
            return True
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            for end in (self._control, *inherited):
                end.close()
            self._become_executor(socket.socket(fileno=descriptors[0]), parent, is_async=order == b"a")
        os.close(descriptors[0])
        self._executors.add(pid)
        _tell(self._control, {"forked": pid})
        return True

    def _become_executor(self, channel: socket.socket, parent: int, *, is_async: bool) -> None:
        status = 1
        try:
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGCHLD, signal.SIGTERM):
                signal.signal(number, signal.SIG_DFL)
            os.setsid()  # a process group of its own: what a task starts is killed with it
            die_with(parent, signal.SIGKILL)
            executor.run(channel, self._setup, is_async=is_async)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)

    def _count_processes(self) -> None:
        began = time.monotonic()
        most, newest = self._setup.bounds.processes, newest_process()
        if not most or began < self._rests_until or (newest and newest == self._newest):
            return  # nothing new runs on this machine: the cheap answer, on most of them most of the time
        self._newest = newest
        all_families = families()
        for pid in self._executors - self._grown:
            if len(below(pid, all_families)) > most:
                self._grown.add(pid)
                _tell(self._control, {"grown": pid})
                kill_group(pid)  # all of its group at once; the rest comes here as orphans when it has gone
        self._rests_until = began + REST * (time.monotonic() - began)

    def _reap(self) -> None:
        """Ends what dead executors have left, which is this process's own now, and says which of them have ended."""
        reaped = False
        ended = []
        while (child := self._next_ended()) is not None:
            pid, status = child
            reaped = True
            if pid in self._executors:
                self._executors.discard(pid)
                ended.append({"ended": pid, "status": status})
                self._grown.discard(pid)
        if reaped and not end_below(os.getpid(), spared=self._executors):
            print("fork server: processes of a task outlast being killed", file=sys.stderr)
        for message in ended:  # after that: the worker removes their scratch folders now
            _tell(self._control, message)

    def _next_ended(self) -> tuple[int, int] | None:
        """A child that has ended, and its wait status. What is left of an executor's process group is killed."""
        try:
            if sys.platform != "linux":
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid in self._executors:
                    kill_group(pid)
                return (pid, status) if pid else None
            child = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if child is None:
                return None
            if child.si_pid in self._executors:
                kill_group(child.si_pid)  # before it is reaped: until then its number is nobody else's
            return os.waitpid(child.si_pid, 0)
        except ChildProcessError:
            return None

    def _kill_all(self) -> None:
        for pid in self._executors:
            kill_group(pid)
        kill_descendants()


if __name__ == "__main__":
    main(int(sys.argv[1]), orjson.loads(sys.argv[2]))
