"""What an executor may use: the kernel's limits on memory, CPU time and files, and the sentences for their ends.

The bounds of memory and files hold for each process; children inherit them. How many processes there may be below an
executor is nothing that the kernel can say of a tree: the fork server counts (dragon/worker/forkserver.py).
"""

from __future__ import annotations

import errno
import sys
import time
from dataclasses import dataclass

from dragon.config import Config

try:
    import resource
except ImportError:  # Windows: nothing is bounded there
    resource = None  # type: ignore[assignment]

CPU_SLACK = (
    0.25  # seconds of wall time in which the bound of CPU time is not moved: short tasks pay a clock's look only
)


@dataclass(frozen=True, slots=True)
class Bounds:
    """The part of [limits] that holds for executor processes; 0 is unlimited."""

    memory_bytes: int  # of each process
    cpu_seconds: int  # of one `def` task's process; of an `async def` task between two awaits
    file_bytes: int  # of each file
    processes: int  # below one executor


UNBOUNDED = Bounds(0, 0, 0, 0)


def bounds_of(config: Config) -> Bounds:
    limits = config.limits
    return Bounds(limits.memory_bytes, limits.cpu_seconds, limits.file_bytes, limits.processes)


def apply(bounds: Bounds) -> None:
    """Bounds this process and all that it will start."""
    if resource is None:
        return
    _set(resource.RLIMIT_CORE, 0)  # a core file of an executor is gigabytes that nobody asked for
    if bounds.file_bytes:
        _set(resource.RLIMIT_FSIZE, bounds.file_bytes)  # Python ignores SIGXFSZ: writing on fails with EFBIG
    if bounds.memory_bytes:
        # Linux counts what is private and may be written. The whole address space, all that other systems count, has
        # 64 MB reserved by each thread's malloc, and libraries: a limit would have to be far above what is used.
        _set(resource.RLIMIT_DATA if sys.platform == "linux" else resource.RLIMIT_AS, bounds.memory_bytes)


def _set(kind: int, bound: int) -> None:
    _, hard = resource.getrlimit(kind)
    bound = bound if hard == resource.RLIM_INFINITY else min(bound, hard)
    try:
        resource.setrlimit(kind, (bound, bound))
    except (OSError, ValueError) as error:  # macOS refuses some below what is in use
        print(f"executor: a limit cannot be set: {error}", file=sys.stderr)


class CpuBound:
    """Moves the CPU time at which the kernel ends this process (SIGXCPU) ahead of what it has used so far.

    The kernel counts whole seconds of the process; a task gets its seconds and at most 1.25 more.
    """

    def __init__(self, seconds: int) -> None:
        self._seconds = seconds if resource is not None else 0
        self._moved = -CPU_SLACK

    def move(self) -> None:
        """At the start of every task: cheap, because tasks that follow each other closely share a bound."""
        if not self._seconds:
            return
        now = time.monotonic()
        if now - self._moved >= CPU_SLACK:
            self._moved = now
            _, hard = resource.getrlimit(resource.RLIMIT_CPU)
            wanted = int(time.process_time()) + 1 + self._seconds
            resource.setrlimit(resource.RLIMIT_CPU, (wanted if hard < 0 else min(wanted, hard), hard))


def cpu_sentence(bounds: Bounds) -> str:
    return f"the task used more than {bounds.cpu_seconds} s of CPU time (limits.cpu_seconds)"


def processes_sentence(bounds: Bounds) -> str:
    return f"the task started more than {bounds.processes} processes (limits.processes)"


def sentence_for(error: BaseException, bounds: Bounds) -> str | None:
    """The sentence for an exception that a bound made; None when it was none."""
    if isinstance(error, MemoryError):
        if not bounds.memory_bytes:
            return "the task needed more memory than there is"
        return f"the task needed more memory than {bounds.memory_bytes} bytes (limits.memory_bytes)"
    if isinstance(error, OSError) and error.errno == errno.EFBIG and bounds.file_bytes:
        return f"the task wrote a file of more than {bounds.file_bytes} bytes (limits.file_bytes)"
    return None
