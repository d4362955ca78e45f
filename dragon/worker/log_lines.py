"""What a task says: `ctx.log` and what it prints, as lines on their way to the worker.

Bounded where they are made, so that a chatty task costs nobody else anything: BURST lines at once, RATE a second after
that. Of what is more, the newest KEPT wait for their turn, or for the end; a line says how many others were dropped.
"""

from __future__ import annotations

import io
import re
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from typing import Any, TextIO

BURST, RATE = 500, 100.0  # lines at once, and a second
BURST_BYTES, RATE_BYTES = 256 * 1024, 64 * 1024.0
KEPT = 100  # newest lines that wait when there are more
#: What a log is none the better for: colours and movements of a terminal, and other control characters but the tab.
_CONTROL = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|[\x00-\x08\x0a-\x1f\x7f]")
_ELLIPSIS = "…".encode()


def clean_line(text: str, limit: int) -> bytes:
    """A line as it is kept: UTF-8, without control characters, cut where it is longer than `limit` bytes."""
    # What a "\r" stands behind has been overwritten, as on a terminal: of a progress bar, its last state is a line.
    text = text.rstrip("\r").rpartition("\r")[2][: 4 * limit]
    line = _CONTROL.sub("", text).encode(errors="replace")
    if len(line) <= limit:
        return line
    return line[: limit - len(_ELLIPSIS)].decode(errors="ignore").encode() + _ELLIPSIS


def stamped(line: bytes) -> bytes:
    """A line with its time in front of it."""
    return b"%d %s" % (time.time_ns() // 1000, line)


def dropped_line(count: int) -> bytes:
    """The line in the place of lines that nobody will see."""
    return f"… {count} {'line was' if count == 1 else 'lines were'} dropped: too many at once".encode()


class LogLines:
    """The log of one task, in its executor. `send` is given lines with their times, joined by newlines."""

    def __init__(self, send: Callable[[bytes], None], line_bytes: int) -> None:
        """`line_bytes`: of the longest line; longer ones are cut."""
        self._send = send
        self._limit = line_bytes
        # A signal handler of the task's may print while it prints.
        self._lock = threading.RLock()
        self._unfinished = ""  # what was printed of a line that is not whole yet
        self._kept: deque[bytes] = deque()
        self._dropped = 0
        self._lines, self._bytes = float(BURST), float(BURST_BYTES)  # that may be sent now
        self._counted = time.monotonic()
        self.is_closed = False

    def log(self, text: str) -> None:
        """Says a text of one or more lines."""
        with self._lock:
            self._add(text.split("\n"))

    def write(self, text: str) -> None:
        """Prints a text: lines are what stands before a newline, and the rest waits for its own."""
        with self._lock:
            *lines, rest = text.split("\n")
            if lines:
                lines[0] = self._unfinished + lines[0]
                self._unfinished = ""
                self._add(lines)
            self._unfinished = self._continued(rest)

    def _continued(self, rest: str) -> str:
        """What is not a whole line yet, with more of it: without what is overwritten, and what is too long."""
        text = self._unfinished + rest
        shown = text.rstrip("\r")
        return shown.rpartition("\r")[2][: 4 * self._limit] + text[len(shown) :][:1]

    def close(self) -> None:
        """The task has ended: sends what is left, unfinished lines too."""
        with self._lock:
            if self._unfinished:
                self._add([self._unfinished])
            self.is_closed = True
            self._send_some(list(self._kept))
            self._kept.clear()

    def _add(self, texts: Iterable[str]) -> None:
        if self.is_closed:
            return
        for text in texts:
            self._kept.append(stamped(clean_line(text, self._limit)))
            if len(self._kept) > KEPT:
                self._send_allowed()
                if len(self._kept) > KEPT:
                    self._kept.popleft()
                    self._dropped += 1
        self._send_allowed()

    def _send_allowed(self) -> None:
        now = time.monotonic()
        passed, self._counted = now - self._counted, now
        self._lines = min(BURST, self._lines + passed * RATE)
        self._bytes = min(BURST_BYTES, self._bytes + passed * RATE_BYTES)
        some = []
        while self._kept and self._lines >= 1 and self._bytes > 0:
            some.append(self._kept.popleft())
            self._lines -= 1
            self._bytes -= len(some[-1])
        self._send_some(some)

    def _send_some(self, lines: list[bytes]) -> None:
        if not lines:
            return
        if self._dropped:
            lines.insert(0, stamped(dropped_line(self._dropped)))
            self._dropped = 0
        self._send(b"\n".join(lines))


Speaker = Callable[[], LogLines]  # the log of a task that runs

#: The `async def` task that runs: each has a context of its own, and so have the threads that asyncio starts for it.
_speaker: ContextVar[Speaker | None] = ContextVar("speaker", default=None)


class Printed(io.TextIOBase):
    """`sys.stdout` and `sys.stderr` of a process that runs tasks: what a task prints is its log.

    What nobody's task prints goes where it went before, and so does what a copy of the process prints.
    """

    def __init__(self, stream: TextIO, is_copy: Callable[[], bool]) -> None:
        self._stream = stream
        self._is_copy = is_copy
        self._only: Speaker | None = None  # the one `def` task that runs: its threads have no context of its own
        self.buffer = _PrintedBytes(self)

    @classmethod
    def install(cls, is_copy: Callable[[], bool]) -> Printed:
        """Puts one in the place of both streams."""
        printed = cls(sys.stderr, is_copy)
        sys.stdout = sys.stderr = printed
        return printed

    def begin(self, speaker: Speaker) -> None:
        """From now on the process prints for this task."""
        self._only = speaker
        sys.stdout = sys.stderr = self  # whatever the task before has put there

    def end(self) -> None:
        self._only = None

    def begin_here(self, speaker: Speaker) -> None:
        """From now on the calling asyncio task, and what it starts, prints for this task."""
        _speaker.set(speaker)

    def write(self, text: str) -> int:
        speaker = _speaker.get() or self._only
        lines = None if speaker is None or self._is_copy() else speaker()
        if lines is None or lines.is_closed:
            return self._stream.write(text)
        lines.write(text)
        return len(text)

    def flush(self) -> None:
        self._stream.flush()

    def fileno(self) -> int:
        return self._stream.fileno()

    def isatty(self) -> bool:
        return False

    def writable(self) -> bool:
        return True

    def close(self) -> None:
        """Stays open: the next task prints, too."""

    def reconfigure(self, **_options: Any) -> None:
        """There is nothing to configure; libraries ask for UTF-8, which it is."""

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return "utf-8"


class _PrintedBytes(io.RawIOBase):
    """`sys.stdout.buffer`."""

    def __init__(self, printed: Printed) -> None:
        self._printed = printed

    def write(self, data: Any) -> int:
        self._printed.write(bytes(data).decode(errors="replace"))
        return len(data)

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._printed.fileno()

    def close(self) -> None:
        """As the stream that it belongs to."""
