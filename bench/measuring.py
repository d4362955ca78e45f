"""Figures and how they are taken: candidates that take turns, medians with their spread, goals as ratios."""

from __future__ import annotations

import statistics
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Role = Literal["dragon", "peer", "yardstick"]


@dataclass(frozen=True, slots=True)
class Candidate:
    """One of those that take turns: `measure` is one round of it and returns its figure."""

    name: str
    role: Role
    measure: Callable[[], Awaitable[float]]
    note: str = ""  # version, settings, and what it leaves out


@dataclass(frozen=True, slots=True)
class Row:
    """A candidate's figures, one a round."""

    name: str
    role: Role
    values: tuple[float, ...]
    note: str = ""

    @property
    def median(self) -> float:
        return statistics.median(self.values)


@dataclass(frozen=True, slots=True)
class Goal:
    """A floor or a ceiling from the issue, with what was found."""

    text: str
    found: float
    limit: float
    at_least: bool  # else at most

    @property
    def holds(self) -> bool:
        return self.found >= self.limit if self.at_least else self.found <= self.limit


@dataclass(slots=True)
class Table:
    """What one part found: rows of one unit."""

    part: str
    title: str
    unit: str
    more_is_better: bool
    rows: list[Row] = field(default_factory=list)
    goals: list[Goal] = field(default_factory=list)

    def row(self, name: str) -> Row:
        return next(row for row in self.rows if row.name == name)

    def best(self, role: Role) -> Row:
        """The best row of a role."""
        rows = [row for row in self.rows if row.role == role]
        return max(rows, key=lambda row: row.median if self.more_is_better else -row.median)

    def as_dict(self) -> dict[str, Any]:
        """For JSON: everything, with medians and whether goals hold."""
        found = asdict(self)
        for data, row in zip(found["rows"], self.rows, strict=True):
            data["median"] = row.median
        for data, goal in zip(found["goals"], self.goals, strict=True):
            data["holds"] = goal.holds
        return found


async def alternate(candidates: Sequence[Candidate], rounds: int) -> list[Row]:
    """Each candidate once a round, one after the other; the order turns round each time, so that drift hits all."""
    values: dict[str, list[float]] = {candidate.name: [] for candidate in candidates}
    for number in range(rounds):
        for candidate in candidates if number % 2 == 0 else reversed(candidates):
            values[candidate.name].append(await candidate.measure())
    return [Row(one.name, one.role, tuple(values[one.name]), one.note) for one in candidates]
