"""What the doctor says: one line a thing that was looked at."""

from __future__ import annotations

from typing import Literal, NamedTuple

#: "skipped": it could not be looked at, and the sentence says what is missing for that.
Level = Literal["ok", "warning", "problem", "skipped"]


class Finding(NamedTuple):
    """One thing that was looked at."""

    level: Level
    about: str  # a word or two
    sentence: str  # what was found; where it is not well, what to do
    fault: str = ""  # the row of advice.LINES that mends it
