"""Statuses and log lines as the clients give them, and which status is newer than which."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

#: How far a task is; it never goes back. Words that this client does not know are in between.
_RANKS = {"queued": 0, "executing": 1, "success": 2, "error": 2}


@dataclass(frozen=True, slots=True)
class Status:
    """One status of one task. `raw` is all that the server said, for what has no member here."""

    key: str
    status: str  # queued, executing, success, error
    events: dict[str, str] = field(default_factory=dict)  # queued, started, completed: ISO 8601
    progress: Any = None
    result: Any = None
    raw: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def final(self) -> bool:
        return self.rank == 2

    @property
    def rank(self) -> int:
        return _RANKS.get(self.status, 1)

    @property
    def known(self) -> bool:
        """False for a key that the server does not know, or whose time is over."""
        return bool(self.events)

    @property
    def position(self) -> int | None:
        """The place in the queue, 1 is the next; None when the server does not say."""
        position = self.raw.get("position")
        return position if isinstance(position, int) else None

    @property
    def eta(self) -> float | None:
        """Seconds until the task is expected to end, None when the server does not say."""
        eta = self.raw.get("eta")
        return float(eta) if isinstance(eta, int | float) else None

    @classmethod
    def read(cls, value: object) -> Status:
        """Takes in what the server said. Raises ValueError for what is no status."""
        if not isinstance(value, dict) or not isinstance(value.get("key"), str):
            raise ValueError("this is no status")
        word, events = value.get("status"), value.get("events", {})
        if not isinstance(word, str) or not isinstance(events, dict):
            raise ValueError("this is no status")
        return cls(value["key"], word, events, value.get("progress"), value.get("result"), value)


def read_statuses(value: object) -> list[Status]:
    """A list of them. Raises ValueError."""
    if not isinstance(value, list):
        raise ValueError("this is no list of statuses")
    return [Status.read(item) for item in value]


def is_news(given: Status, present: Status | None) -> bool:
    """Whether a status tells something after `present`, the last one of the same task.

    Lines have no number. The server never sends an earlier one after a later one, so that equal ones are repeats, from
    a stream that was taken up again, and what is of a lower rank is late; another attempt is a difference like any
    other, because the clocks of two workers say nothing about which was first.
    """
    if present is None:
        return True
    if present.final or given.rank < present.rank:
        return False
    if given.rank == 0 and present.rank == 0 and "position" not in given.raw:
        return False  # the stored line again, after one that knew the task's place
    return given.rank > present.rank or not _are_equal(given.raw, present.raw)


def _are_equal(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    # For Python 1, 1.0 and true are equal; as JSON they are not.
    return one == other and json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line of a task's log; `number` goes up by one over all attempts."""

    number: int
    time: str
    attempt: int
    text: str

    @classmethod
    def read(cls, value: object) -> LogLine:
        """Takes in what the server said. Raises ValueError for what is no line."""
        if not isinstance(value, dict) or not isinstance(value.get("number"), int):
            raise ValueError("this is no log line")
        return cls(value["number"], str(value.get("time")), value.get("attempt") or 0, str(value.get("text")))


#: What the verbs take for a task: its key, or a status of it.
Key = str | Status
#: For tasks: one or several.
Keys = Key | Iterable[Key]


def key_of(given: Key) -> str:
    """The key of what was given."""
    return given.key if isinstance(given, Status) else given


def read_keys(given: Keys) -> list[str]:
    """The keys of what was given, in order, doubles included."""
    return [key_of(item) for item in ([given] if isinstance(given, str | Status) else given)]
