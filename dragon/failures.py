"""Failures that are alike: tasks of one name whose errors say the same, but for numbers, keys, addresses."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from dragon.masking import masked_text
from dragon.store.listing import Record, error_text
from dragon.store.names import digest

MOST_KEYS = 5  # of a group, the newest
#: What differs between errors that mean the same, and what stands in its place.
_DIFFERENT = (
    (re.compile(r"\b[a-z][a-z0-9+.-]*://[^\s'\"<>]+", re.IGNORECASE), "URL"),
    (re.compile(r"\b[A-Z2-7]{26}\b"), "KEY"),
    (re.compile(r"\b(?=[0-9a-f-]*[0-9])[0-9a-f]{4,}(?:-[0-9a-f]{4,})*\b", re.IGNORECASE), "N"),
    (re.compile(r"\d+(?:[.,]\d+)*"), "N"),
)


@dataclass(frozen=True, slots=True)
class Group:
    """Failed tasks that are alike. Dates are those of their ends."""

    group: str  # names it in a retry
    task_name: str
    message: str  # with `N`, `KEY` and `URL` for what differs
    count: int
    retried: int
    first: str
    last: str
    keys: tuple[str, ...]


def alike(message: str) -> str:
    """A message with what differs between errors that mean the same taken out."""
    for pattern, word in _DIFFERENT:
        message = pattern.sub(word, message)
    return message


def message_of(record: Record) -> str:
    """What the error of a failed task says, without secrets."""
    result = record.result()
    return masked_text(error_text(result["result"])) if "result" in result else "(a long error)"


def group_of(record: Record) -> tuple[str, str]:
    """The id of a failed task's group, and what its message says."""
    message = alike(message_of(record))
    return digest(record.name, message)[:16], message


class Groups:
    """Gathers failed tasks, newest first."""

    def __init__(self) -> None:
        self._groups: dict[str, Group] = {}

    def add(self, records: Iterable[Record]) -> None:
        for record in records:
            group, message = group_of(record)
            ended, retried = record.moment, int(record.retried_as is not None)
            known = self._groups.get(group) or Group(group, record.name, message, 0, 0, ended, ended, ())
            self._groups[group] = Group(
                group,
                record.name,
                message,
                known.count + 1,
                known.retried + retried,
                min(known.first, ended),
                max(known.last, ended),
                known.keys if len(known.keys) == MOST_KEYS else (*known.keys, record.key),
            )

    def found(self) -> list[Group]:
        """The groups, that with the newest failure first."""
        return sorted(self._groups.values(), key=lambda group: group.last, reverse=True)
