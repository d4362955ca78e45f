"""The log: one event after another, whatever strangers have sent; as text and as JSON."""

from __future__ import annotations

import contextvars
import io
import logging
import re
import sys
from typing import Any

import orjson
import pytest

from dragon import journal
from dragon.config import LogConfig
from dragon.journal import JsonFormatter, Request, TextFormatter

KEY = "6GRQ3H5EHU7GXUTIOSS2GUDPGQ"
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
OTHER_TRACE = "00-1af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"


def record(message: str, *args: object, level: int = logging.WARNING, **more: Any) -> logging.LogRecord:
    made = logging.LogRecord("dragon.test", level, __file__, 1, message, args, more.pop("exc_info", None))
    vars(made).update(more)
    return made


def as_json(message: str, *args: object, **more: Any) -> dict[str, Any]:
    line = JsonFormatter().format(record(message, *args, **more))
    assert "\n" not in line
    event: dict[str, Any] = orjson.loads(line)
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}\+00:00", event.pop("time"))
    return event


def in_request(request_id: str, traceparent: str, work: Any) -> Any:
    def run() -> Any:
        journal.begin_request(request_id, traceparent)
        return work()

    return contextvars.copy_context().run(run)


@pytest.mark.parametrize("given", ["a", "A-b_c.9", "x" * 64])
def test_a_request_keeps_the_id_that_it_has(given: str) -> None:
    assert in_request(given, "", journal.request) == Request(given, "")


@pytest.mark.parametrize("given", [None, "", "x" * 65, "a b", "a\n", "é", "ab\x00", "a/b", "\ud800", "<script>"])
def test_a_request_whose_id_is_not_one_gets_another(given: str | None) -> None:
    found = contextvars.copy_context().run(journal.begin_request, given, None)
    assert re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]+", found.id)
    again = contextvars.copy_context().run(journal.begin_request, given, None)
    assert again.id != found.id


@pytest.mark.parametrize("given", [TRACE, OTHER_TRACE])
def test_a_traceparent_is_kept(given: str) -> None:
    assert in_request("a", given, journal.request).traceparent == given


@pytest.mark.parametrize(
    "given",
    [
        None,
        "",
        TRACE + "\n",
        TRACE + "-more",
        TRACE.upper(),
        "ff" + TRACE[2:],
        "01" + TRACE[2:],
        f"00-{'0' * 32}-b7ad6b7169203331-01",
        f"00-0af7651916cd43dd8448eb211c80319c-{'0' * 16}-01",
        TRACE[:-1],
        TRACE.replace("-", "_"),
        "00-٣af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    ],
)
def test_what_is_no_traceparent_is_ignored(given: str | None) -> None:
    assert contextvars.copy_context().run(journal.begin_request, "a", given) == Request("a", "")


def test_there_is_no_request_where_none_is_served() -> None:
    assert journal.request() == Request("", "")


def test_an_event_as_json() -> None:
    event = {"level": "warning", "logger": "dragon.test", "message": "3 of 4"}
    assert as_json("%d of %d", 3, 4) == event
    assert as_json(f"{KEY} failed %s", "hello", level=logging.ERROR) == {
        "level": "error",
        "logger": "dragon.test",
        "message": f"{KEY} failed hello",
        "key": KEY,
    }
    assert "key" not in as_json(f"{KEY}X no key"), "another word"
    assert "key" not in as_json(f"of {KEY} no key")
    assert in_request("r-1", TRACE, lambda: as_json("x")) == event | {
        "message": "x",
        "request": "r-1",
        "traceparent": TRACE,
    }
    assert as_json("x", **dict(journal.about(TRACE) or {}))["traceparent"] == TRACE
    assert "traceparent" not in as_json("x", **dict(journal.about("") or {}))


def test_a_traceback_is_a_member_wherever_it_comes_from() -> None:
    try:
        raise ValueError("two\nlines")
    except ValueError:
        event = as_json("it failed", exc_info=sys.exc_info())
    assert event["message"] == "it failed"
    assert event["traceback"].startswith("Traceback (most recent call last)")
    assert event["traceback"].endswith("ValueError: two\nlines")
    event = as_json(f"{KEY} failed hello %s", "[reference 1] Traceback\n  File")
    assert (event["message"], event["traceback"]) == (f"{KEY} failed hello [reference 1] Traceback", "  File")


def test_whatever_a_stranger_sends_is_one_event() -> None:
    evil = "\n2030-01-01 ERROR dragon.server all is lost\r\x1b[2J\ud800\x00"
    assert as_json("GET /%s", "a" + evil.replace("\n", " "))["message"] == "GET /a" + evil.replace("\n", " ").replace(
        "\ud800", "?"
    )
    text = TextFormatter().format(record("GET /%s: 503", evil))
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} WARNING dragon\.test GET /\n"
        r"    2030-01-01 ERROR dragon\.server all is lost\\x0d\\x1b\[2J\ud800\\x00: 503",
        text,
    )


def test_an_event_as_text_names_its_request_and_what_belongs_to_it_is_indented() -> None:
    try:
        raise ValueError("no")
    except ValueError:
        found = record("it failed", exc_info=sys.exc_info())
    text = in_request("r-1", "", lambda: TextFormatter().format(found))
    first, *rest = text.split("\n")
    assert first.endswith(" WARNING dragon.test it failed request=r-1")
    assert rest[0] == "    Traceback (most recent call last):"
    assert all(line.startswith("    ") for line in rest)


@pytest.mark.parametrize(("form", "begins"), [("text", "20"), ("json", '{"time":"20')])
def test_what_is_set_up_is_what_is_written(form: str, begins: str, monkeypatch: pytest.MonkeyPatch) -> None:
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr(root, "level", root.level)
    stream = io.StringIO()
    journal.set_up(LogConfig(level="info", format=form), stream)
    logging.getLogger("dragon.test").debug("not this")
    logging.getLogger("dragon.test").info("but this")
    assert stream.getvalue().startswith(begins)
    assert stream.getvalue().count("\n") == 1
    assert "but this" in stream.getvalue()
