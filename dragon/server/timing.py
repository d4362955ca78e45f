"""Server-Timing: what an answer that waited for tasks has waited for, as browsers show it in their tools."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from dragon.status import ended_dates, has_events

#: The output file of a request that was made before: nothing has waited or run for this answer.
REUSED = {"Server-Timing": "reused", "Timing-Allow-Origin": "*"}


def timing(lines: Iterable[bytes]) -> dict[str, str]:
    """The headers for the statuses of tasks that have all ended; none, when one has not, or nobody knows them.

    `queue` is the time until the first of them started, `run` from there to the end of the last.
    """
    dates = []
    for line in lines:
        found = ended_dates(line)
        if found is not None:
            dates.append(found)
        elif has_events(line):
            return {}
    if not dates:
        return {}
    queued = min(date for date, _, _ in dates)
    completed = max(date for _, _, date in dates)
    started = min((date for _, date, _ in dates if date), default=b"")
    try:
        value = f"queue;dur={_milliseconds(queued, started or completed)}"
        if started:
            value += f", run;dur={_milliseconds(started, completed)}"
    except ValueError:
        return {}  # what stands in Redis is not dragon's
    return {"Server-Timing": value, "Timing-Allow-Origin": "*"}


def _milliseconds(since: bytes, until: bytes) -> str:
    seconds = (datetime.fromisoformat(until.decode()) - datetime.fromisoformat(since.decode())).total_seconds()
    return f"{max(0.0, seconds) * 1000:.1f}"
