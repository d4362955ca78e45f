"""Server-Timing on what waits for tasks: how long they waited and ran, or that nothing had to."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any

import pytest

from dragon.keys import new_key
from dragon.server.timing import timing
from dragon.status import EXECUTING, QUEUED, SUCCESS, Status, ended_dates, timestamp, unknown_line
from tests.server.talking import UNKNOWN, ask
from tests.system import SECRET, Client

QUEUED_AT = "2026-11-01T12:00:00.000000+00:00"
STARTED_AT = "2026-11-01T12:00:01.500000+00:00"
COMPLETED_AT = "2026-11-01T12:00:05.250000+00:00"


def line(
    queued: str = QUEUED_AT, started: str | None = STARTED_AT, completed: str | None = COMPLETED_AT, **more: bytes
) -> bytes:
    status = SUCCESS if completed else EXECUTING if started else QUEUED
    return Status(status, new_key(), queued, started, completed, **more).line()


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([line(result=b"1")], "queue;dur=1500.0, run;dur=3750.0"),
        ([line(progress=b"1", result=b'{"events":{}}')], "queue;dur=1500.0, run;dur=3750.0"),
        ([line(started=None, result=b"1")], "queue;dur=5250.0"),
        ([line(), line(started=STARTED_AT.replace("01.5", "00.2"))], "queue;dur=200.0, run;dur=5050.0"),
        ([line(), line(started=None, completed=QUEUED_AT)], "queue;dur=1500.0, run;dur=3750.0"),
        ([line(), unknown_line(UNKNOWN)], "queue;dur=1500.0, run;dur=3750.0"),
        ([line(), line(completed=None)], None),
        ([line(), line(started=None, completed=None)], None),
        ([unknown_line(UNKNOWN)], None),
        ([b""], None),
        ([b"{}"], None),
        ([line(completed="2026-99-01T12:00:05.250000+00:00")], None),
        ([line(completed="x" * 32)], None),
        ([], None),
    ],
)
def test_the_times_are_those_of_the_dates_in_the_statuses(lines: list[bytes], expected: str | None) -> None:
    assert timing(lines).get("Server-Timing") == expected


def test_the_dates_of_a_status_are_none_before_it_is_final() -> None:
    assert ended_dates(line()) == (QUEUED_AT.encode(), STARTED_AT.encode(), COMPLETED_AT.encode())
    assert ended_dates(line(started=None)) == (QUEUED_AT.encode(), b"", COMPLETED_AT.encode())
    assert ended_dates(unknown_line(UNKNOWN)) is None
    assert ended_dates(line(completed=None, progress=b'"completed"')) is None
    assert ended_dates(Status(QUEUED, new_key(), timestamp()).line()) is None


def said(answer: Any) -> dict[str, float]:
    """The times of a Server-Timing header in milliseconds."""
    assert answer.headers["Timing-Allow-Origin"] == "*"
    parts = answer.headers["Server-Timing"].split(", ")
    return {part.partition(";dur=")[0]: float(part.partition(";dur=")[2] or -1) for part in parts}


async def test_a_create_that_waits_tells_what_it_has_waited_for(client: Client) -> None:
    body = {"tasks": {"task_name": "test.sleep", "seconds": 0.3}, "block": True}
    answer = await ask(client.session, "POST", "/v1/create", body, SECRET)
    events = {name: datetime.fromisoformat(date) for name, date in answer.json[0]["events"].items()}
    times = said(answer)
    assert times.keys() == {"queue", "run"}
    assert times["run"] == pytest.approx((events["completed"] - events["started"]).total_seconds() * 1000, abs=0.1)
    assert times["run"] >= 300
    key = answer.json[0]["key"]
    blocking = await ask(client.session, "GET", f"/v1/status?tasks={key}&block=true&details=true")
    assert said(blocking) == times
    assert "Server-Timing" not in (await ask(client.session, "GET", f"/v1/status?tasks={key}")).headers


async def test_what_has_not_ended_in_time_has_no_times(client: Client) -> None:
    body = {"tasks": {"task_name": "test.async_sleep", "seconds": 50}, "block": True, "timeout": 0.1}
    answer = await ask(client.session, "POST", "/v1/create", body, SECRET)
    assert answer.json[0]["status"] in (QUEUED, EXECUTING)
    assert "Server-Timing" not in answer.headers
    await ask(client.session, "DELETE", f"/v1/tasks/{answer.json[0]['key']}", None, SECRET)


async def test_a_file_says_whether_it_was_there_already(client: Client) -> None:
    path = "/v1/create_file/x.txt?task_name=test.file&text=of-test-timing"
    first = await ask(client.session, "GET", path, None, SECRET)
    assert (first.status, said(first).keys()) == (302, {"queue", "run"})
    again = await ask(client.session, "GET", path, None, SECRET)
    assert (again.status, again.headers["Server-Timing"]) == (302, "reused")
    assert again.headers["Timing-Allow-Origin"] == "*"
    found = re.search(r"/files/([A-Z2-7]{26})/", first.headers["Location"])
    assert found
    by_key = await ask(client.session, "GET", f"/v1/file?task={found[1]}")
    assert said(by_key) == said(first)
    posted = await ask(client.session, "POST", "/v1/create_file", {"task": {"task_name": "test.file"}}, SECRET)
    assert said(posted).keys() == {"queue", "run"}
