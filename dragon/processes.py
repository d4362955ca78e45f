"""Processes and their families: dying with a parent, adopting orphans, killing groups, naming ends."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

#: Pause before a dead process is started again, in seconds: doubled each time, forgotten after a long enough life.
FIRST_PAUSE, LONGEST_PAUSE, LONG_LIFE = 0.5, 30.0, 30.0

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_CHILD_SUBREAPER = 36
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


def die_with(parent: int, number: int = signal.SIGTERM) -> None:
    """Has the kernel send a signal to this process when `parent` dies, kill -9 included (Linux; elsewhere nothing).

    For a child between fork and exec, or at its very start. The kernel watches the *thread* that forked: start such
    children from the main thread.
    """
    if _libc is None:
        return
    _libc.prctl(_PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:  # it died before the line above
        os._exit(1)


def before_exec(parent: int) -> None:
    """`preexec_fn` for subprocess: the child ends with `parent`, whatever handlers that one has set."""
    # A handler of Python's would catch a signal between fork and exec, remember it and forget it with the exec.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    die_with(parent)


def keep_private() -> None:
    """Closes this process's memory, environment and descriptors to others of the same user (Linux; elsewhere nothing).

    The processes that have the way to Redis call it: tasks run under the same user. It ends with an exec, and leaves no
    core dump. Not kept out is who may trace every process: root, unless it has neither CAP_SYS_PTRACE nor CAP_SYS_ADMIN
    nor CAP_PERFMON, as in most containers.
    """
    if _libc is not None:
        _libc.prctl(_PR_SET_DUMPABLE, 0)


def calm_collector() -> None:
    """Has Python's cycle collector leave alone what was imported, and look at the rest less often.

    For a process that has started up and now makes many short-lived objects, few of them in cycles: the collector's
    default of 700 objects between two looks was 2.4% of the server's samples (docs/performance.md).
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


def next_pause(pause: float, life: float) -> float:
    """The pause after a child has died that lived for `life` seconds; `pause` is the one before (0: none)."""
    return FIRST_PAUSE if pause == 0 or life >= LONG_LIFE else min(2 * pause, LONGEST_PAUSE)


def how_it_ended(code: int) -> str:
    """An exit code of subprocess in words."""
    if code >= 0:
        return f"exit code {code}"
    with contextlib.suppress(ValueError):
        return f"killed by {signal.Signals(-code).name}"
    return f"killed by signal {-code}"


def adopt_orphans() -> None:
    """Makes descendants whose parent dies our own children, so that none escapes (Linux; elsewhere nothing)."""
    if _libc is not None:
        _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1)


def kill(pid: int) -> None:
    """kill -9, of a process that may be gone already."""
    with contextlib.suppress(OSError):
        os.kill(pid, signal.SIGKILL)


def kill_group(leader: int) -> None:
    """Kills a process and its process group."""
    with contextlib.suppress(OSError):
        os.killpg(leader, signal.SIGKILL)
    kill(leader)


def kill_session(leader: int) -> None:
    """Kills what a dead session leader has left running."""
    for pid, _, session in _processes():
        if session == leader:
            kill(pid)


def kill_children(spared: frozenset[int] | set[int] = frozenset()) -> None:
    """Kills the children of this process, adopted ones too, but for those that are spared."""
    for pid in children_of(os.getpid()):
        if pid not in spared:
            kill(pid)


def kill_descendants() -> None:
    """Kills all that is below, generation by generation: the orphans of the killed become our children."""
    while sys.platform == "linux":
        kill_children()
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def children_of(parent: int) -> list[int]:
    """The children of a process (Linux; elsewhere nothing)."""
    return [pid for pid, found, _ in _processes() if found == parent]


def _processes() -> Iterator[tuple[int, int, int]]:
    """Every process: its number, its parent's, its session's (Linux; elsewhere nothing)."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = path.read_bytes().rpartition(b")")[2].split()  # a name may hold blanks and brackets
            yield int(path.parent.name), int(fields[1]), int(fields[3])
