"""Processes and their families: dying with a parent, adopting orphans, killing groups, naming ends."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import signal
import sys
import time
from collections.abc import Collection, Iterator, Mapping

#: Pause before a dead process is started again, in seconds: doubled each time, forgotten after a long enough life.
FIRST_PAUSE, LONGEST_PAUSE, LONG_LIFE = 0.5, 30.0, 30.0

_KILLING_LOOKS = 1000  # at what does not die of a kill, asleep in the kernel

_BORN = 19  # where /proc/PID/stat has it, behind the name

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


#: Processes by their numbers, with the moment when each began: numbers are given again, moments are not.
Family = dict[int, int]


def families() -> dict[int, Family]:
    """The children of every process that has some (Linux; elsewhere nothing)."""
    found: dict[int, Family] = {}
    for pid, parent, _, born in _processes():
        found.setdefault(parent, {})[pid] = born
    return found


def below(ancestor: int, children: Mapping[int, Family], spared: Collection[int] = ()) -> Family:
    """All that `families` has below a process, of any generation, but for the spared ones and what is below those."""
    found: Family = {}
    waiting = [ancestor]
    while waiting:
        family = children.get(waiting.pop(), {})
        born = {pid: moment for pid, moment in family.items() if pid not in spared and pid not in found}
        found |= born
        waiting += born
    return found


def end_below(ancestor: int, spared: Collection[int] = ()) -> bool:
    """Kills all that `below` finds, look by look until a look finds nobody who lives; False when they outlast it.

    They cannot hide: orphans stay below a subreaper.
    """
    for look in range(_KILLING_LOOKS):
        living = [pid for pid, born in below(ancestor, families(), spared).items() if _kill_same(pid, born)]
        if not living:
            return True
        if look:
            time.sleep(0.001)  # the killed need a moment to go
    return False


def _kill_same(pid: int, born: int) -> bool:
    """Kills a process that has been seen, and no other that has its number by now; whether it was alive."""
    with contextlib.suppress(OSError):
        handle = os.pidfd_open(pid)
        try:
            fields = _fields(pid)
            if fields[0] in (b"Z", b"X") or int(fields[_BORN]) != born:
                return False
            signal.pidfd_send_signal(handle, signal.SIGKILL)
            return True
        finally:
            os.close(handle)
    return False


def kill_session(leader: int) -> None:
    """Kills what a dead session leader has left running."""
    for pid, _, session, _ in _processes():
        if session == leader:
            kill(pid)


def kill_descendants() -> None:
    """Kills all that is below, generation by generation: the orphans of the killed become our children."""
    while sys.platform == "linux":
        for pid in children_of(os.getpid()):
            kill(pid)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def children_of(parent: int) -> list[int]:
    """The children of a process (Linux; elsewhere nothing)."""
    return list(families().get(parent, ()))


def newest_process() -> int:
    """The number that the kernel gave last: as long as it stays the same, nothing new runs anywhere (0: not known)."""
    with contextlib.suppress(OSError, ValueError):
        return int(_read("/proc/loadavg").rpartition(b" ")[2])
    return 0


def _processes() -> Iterator[tuple[int, int, int, int]]:
    """Every process: its number, its parent's, its session's, when it began (Linux; elsewhere nothing)."""
    if sys.platform != "linux":
        return
    for name in os.listdir("/proc"):  # noqa: PTH208 - a look at all processes is to be quick: 8 us each, pathlib takes 35
        if name.isdigit():
            with contextlib.suppress(OSError):
                fields = _fields(int(name))
                yield int(name), int(fields[1]), int(fields[3]), int(fields[_BORN])


def _fields(pid: int) -> list[bytes]:
    """State, parent, group, session and on."""
    return _read(f"/proc/{pid}/stat").rpartition(b")")[2].split()  # a name may hold blanks and brackets


def _read(path: str) -> bytes:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return os.read(descriptor, 4096)
    finally:
        os.close(descriptor)
