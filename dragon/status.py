"""Statuses: the states of a task, and the one place that spells a status line.

A line is JSON bytes without a newline. It is made once, stored and published as it is, and never decoded on its way to
the client. `progress` and `result` are therefore JSON bytes too; `None` means that the member is absent, `b"null"` that
it is null.
"""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

import orjson

QUEUED: Final = "queued"  # waiting in its queue
EXECUTING: Final = "executing"  # a worker has it
SUCCESS: Final = "success"  # final: `result` is what the task returned
ERROR: Final = "error"  # final: `result` is the message, or the object of parameter errors

FINAL = frozenset({SUCCESS, ERROR})

#: Which state may follow which. Enforced by the scripts in store/scripts, which refuse to replace a final status.
FOLLOWS: dict[str, frozenset[str]] = {
    QUEUED: frozenset({EXECUTING, SUCCESS, ERROR}),
    EXECUTING: frozenset({EXECUTING, SUCCESS, ERROR}),
    SUCCESS: frozenset(),
    ERROR: frozenset(),
}

CANCELLED = b'"cancelled"'
UNKNOWN_KEY = "unknown task key"


class Status(NamedTuple):
    """One status of one task; dates are ISO 8601 strings with microseconds and offset.

    A tuple, not a dataclass: a worker makes three of them a task, and frozen dataclasses take four times as long.
    """

    status: str
    key: str
    queued: str
    started: str | None = None
    completed: str | None = None
    progress: bytes | None = None
    result: bytes | None = None

    @property
    def final(self) -> bool:
        return self.status in FINAL

    def line(self) -> bytes:
        """The status as the JSON bytes that every follower gets."""
        events = f'"queued":"{self.queued}"'
        if self.started is not None:
            events += f',"started":"{self.started}"'
        if self.completed is not None:
            events += f',"completed":"{self.completed}"'
        line = f'{{"status":"{self.status}","key":"{self.key}","events":{{{events}}}'.encode()
        if self.progress is not None:
            line += b',"progress":' + self.progress
        if self.result is not None:
            line += b',"result":' + self.result
        return line + b"}"

    def executing(self, started: str) -> Status:
        """The status of a task that a worker starts; what an earlier attempt reported is forgotten."""
        return Status(EXECUTING, self.key, self.queued, max(started, self.queued))

    def reported(self, progress: bytes | None, partial: bytes | None) -> Status:
        """The status with what a running task reported; None leaves a member as it was."""
        return Status(
            self.status,
            self.key,
            self.queued,
            self.started,
            self.completed,
            self.progress if progress is None else progress,
            self.result if partial is None else partial,
        )

    def ended(self, status: str, result: bytes, completed: str) -> Status:
        """The final status; progress stays, a partial result is replaced."""
        completed = max(completed, self.started or self.queued)
        return Status(status, self.key, self.queued, self.started, completed, self.progress, result)


_WORD = re.compile(r"[A-Z2-7]{26}|[0-9T:.+-]{32}")  # a key or a date
_LATER = {"started", "completed"}
_QUEUED_START = b'{"status":"queued","key":"'
_QUEUED_LENGTH = 109  # bytes of the line of a queued task, which has nothing but its key and one date


def is_line(line: bytes, key: bytes) -> bool:
    """Whether bytes from Redis look like a status line of that key; what they say in between is not looked at."""
    at = line.find(b'","key":"', 16, 30)
    return at > 0 and line.startswith(key, at + 9) and line.startswith(b'{"status":"') and line.endswith(b"}")


_DATE = 32  # bytes


def has_events(line: bytes) -> bool:
    """Whether a line tells dates; that of a key that nobody knows does not."""
    return line.find(b'"events":{"queued":"', 40, 80) > 0


def ended_dates(line: bytes) -> tuple[bytes, bytes, bytes] | None:
    """When the task of a final line was queued, started (b"": never) and completed; None for any other line."""
    queued = line.find(b'"events":{"queued":"', 40, 80) + 20
    started = queued + _DATE + 13  # without a parser: answers have many of them
    completed = queued + _DATE + 15
    if line[queued + _DATE : started] == b'","started":"':
        completed = started + _DATE + 15
    if queued < 40 or line[completed - 15 : completed] != b'","completed":"':
        return None
    has_started = completed > started + _DATE
    return (
        line[queued : queued + _DATE],
        line[started : started + _DATE] if has_started else b"",
        line[completed : completed + _DATE],
    )


def parse_line(line: bytes, key: str = "") -> Status:
    """Reads a stored line back, of that key if one is given. Raises ValueError when it is not as dragon writes it."""
    if len(line) == _QUEUED_LENGTH and line.startswith(_QUEUED_START):  # every task comes by here: without a parser
        status = Status(QUEUED, line[26:52].decode("ascii"), line[74:106].decode("ascii"))
    else:
        status = _parse_any(line)
    if key and status.key != key:
        raise ValueError("the line is another task's")
    return status


def _parse_any(line: bytes) -> Status:
    data = orjson.loads(line)
    if not isinstance(data, dict) or not isinstance(data.get("events"), dict) or str(data.get("status")) not in FOLLOWS:
        raise ValueError("this is no status line")
    events = data["events"]
    words = [data.get("key"), events.get("queued"), *(events[name] for name in _LATER & events.keys())]
    if not all(isinstance(word, str) and _WORD.fullmatch(word) for word in words):
        raise ValueError("this is no status line")  # its words go into new lines as they are

    def raw(name: str) -> bytes | None:
        return orjson.dumps(data[name]) if name in data else None

    return Status(
        data["status"],
        data["key"],
        events["queued"],
        events.get("started"),
        events.get("completed"),
        raw("progress"),
        raw("result"),
    )


def unknown_line(key: str) -> bytes:
    """What stands in the place of a key that nobody knows, so that one stale key does not stall a page."""
    return orjson.dumps({"status": ERROR, "key": key, "result": UNKNOWN_KEY})


def error_result(message: str | dict[str, Any]) -> bytes:
    """The `result` of an error status, as JSON bytes."""
    return orjson.dumps(message)


_second: tuple[int, str] = (-1, "")  # the newest that was spelled


def timestamp() -> str:
    """Now, in ISO 8601 with microseconds and offset, UTC: `2013-04-03T15:47:27.707526+00:00`. These sort as text."""
    global _second
    second, microseconds = divmod(time.time_ns() // 1000, 1_000_000)
    known, text = _second
    if second != known:
        text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        _second = (second, text)
    return f"{text}.{microseconds:06d}+00:00"


def timestamp_of(moment: datetime) -> str:
    """A moment as `timestamp` spells it."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds")
