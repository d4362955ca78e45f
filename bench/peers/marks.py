"""What a peer's tasks do: they mark the time in a shared file, so that a drain is timed without the worker's start."""

from __future__ import annotations

import os
import struct
import time

#: CLOCK_MONOTONIC is one clock for all processes, and appending so few bytes is atomic: forked workers may share it.
_file = os.open(os.environ.get("BENCH_MARKS", os.devnull), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


def mark() -> None:
    """Appends the time now: a microsecond or two a task."""
    os.write(_file, struct.pack("d", time.monotonic()))
