"""Server-Timing: what an answer that waited for tasks has waited for, as browsers show it in their tools."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from dragon.status import ended_dates

#: The output file of a request that was made before: nothing has waited or run for this answer.
REUSED = {"Server-Timing": "reused", "Timing-Allow-Origin": "*"}


def timing(lines: Iterable[bytes]) -> dict[str, str]:
    """The headers for the statuses of tasks that have all ended; none, when one has not, or nobody knows them.

    `queue` is the time until the first of them started, `run` from there to the end of the last.
    """
    found = [ended_dates(line) for line in lines if b'"events"' in line]
    dates = [one for one in found if one is not None]
    if not dates or len(dates) < len(found):
        return {}
    queued = min(date for date, _, _ in dates)
    completed = max(date for _, _, date in dates)
    started = min((date for _, date, _ in dates if date is not None), default=None)
    value = f"queue;dur={_milliseconds(queued, started or completed)}"
    if started is not None:
        value += f", run;dur={_milliseconds(started, completed)}"
    return {"Server-Timing": value, "Timing-Allow-Origin": "*"}


def _milliseconds(since: str, until: str) -> str:
    seconds = (datetime.fromisoformat(until) - datetime.fromisoformat(since)).total_seconds()
    return f"{max(0.0, seconds) * 1000:.1f}"
