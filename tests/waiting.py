"""Waiting for what other processes do: a condition and a deadline, never a sleep that hopes."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

#: Seconds that a test waits for what is sure to come, as a machine may need on which every process stands still now and
#: then. It promises nothing: a test that is about how fast something is has a deadline of its own.
PATIENCE = 30.0


def wait_until(condition: Callable[[], T], timeout: float = PATIENCE, what: str = "") -> T:
    """Returns the first true value of `condition`; fails the test when there is none in time."""
    ends = time.monotonic() + timeout
    while not (found := condition()):
        assert time.monotonic() < ends, f"waited {timeout} s in vain for {what or condition}"
        time.sleep(0.01)
    return found


def is_alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
