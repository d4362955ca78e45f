"""How dragon writes its log: one event after another, as text or as JSON; and which request an event belongs to.

Text: a line an event, `DATE LEVEL LOGGER MESSAGE`; what belongs to it, as a traceback, stands below it, indented. JSON:
an object a line. Messages about a task begin with its key.
"""

from __future__ import annotations

import itertools
import logging
import re
import secrets
import sys
from collections.abc import Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, NamedTuple, TextIO

import orjson

from dragon.config import LogConfig

#: The members of a JSON event in their order; those that it does not have are left out.
MEMBERS = ("time", "level", "logger", "message", "key", "request", "traceparent", "traceback")

_KEY = re.compile(r"[A-Z2-7]{26}(?= )")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
#: Version 00 of the W3C's Trace Context: version, trace id, parent id, flags. Ids of zeros are none.
_TRACEPARENT = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


class Request(NamedTuple):
    """What an event's request is known by: its id, and the caller's place in a trace; "" for none."""

    id: str = ""
    traceparent: str = ""


_NO_REQUEST = Request()
_request: ContextVar[Request] = ContextVar("request", default=_NO_REQUEST)
_prefix, _numbers = secrets.token_hex(4), itertools.count(1)


def request() -> Request:
    """The request that is being served here, an empty one where there is none."""
    return _request.get()


def begin_request(request_id: str | None, traceparent: str | None) -> Request:
    """Notes that a request is served from here on, by what its headers say as far as that is as it should be."""
    if request_id is None or not _REQUEST_ID.fullmatch(request_id):
        request_id = f"{_prefix}-{next(_numbers):x}"
    if traceparent is None or not _TRACEPARENT.fullmatch(traceparent):
        traceparent = ""
    begun = Request(request_id, traceparent)
    _request.set(begun)
    return begun


def enter_span(traceparent: str) -> None:
    """From here on the request's place in the trace is within a span of its own."""
    _request.set(_request.get()._replace(traceparent=traceparent))


def set_up(config: LogConfig, stream: TextIO | None = None) -> None:
    """Has everything that this process logs written to `stream`, or to standard error."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if config.format == "json" else TextFormatter())
    logging.basicConfig(level=config.level.upper(), handlers=[handler])


class TextFormatter(logging.Formatter):
    """For people: `DATE LEVEL LOGGER MESSAGE`, and `request=ID` where there is one."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:
        text = super().formatMessage(record)
        found = _request.get()
        return f"{text} request={found.id}" if found.id else text

    def format(self, record: logging.LogRecord) -> str:
        # What a stranger has sent must not look like an event of its own, nor move about on a terminal.
        text = _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", super().format(record))
        return text.replace("\n", "\n    ")


class JsonFormatter(logging.Formatter):
    """For programs: an object with MEMBERS."""

    def format(self, record: logging.LogRecord) -> str:
        message, traceback = record.getMessage(), None
        if record.exc_info:
            traceback = self.formatException(record.exc_info)
        elif "\n" in message:  # an executor's traceback comes as text
            message, _, traceback = message.partition("\n")
        found = _request.get()
        key = _KEY.match(message)
        values = (
            datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds"),
            record.levelname.lower(),
            record.name,
            message,
            key[0] if key else None,
            found.id or None,
            getattr(record, "traceparent", "") or found.traceparent or None,
            traceback,
        )
        event = {name: _clean(value) for name, value in zip(MEMBERS, values, strict=True) if value is not None}
        return orjson.dumps(event).decode()


def _clean(text: str) -> str:
    """The text without halves of characters, which JSON cannot say."""
    return text.encode(errors="replace").decode()


def about(traceparent: str) -> Mapping[str, Any] | None:
    """What `extra` of a logging call says of a task that is part of a trace."""
    return {"traceparent": traceparent} if traceparent else None
