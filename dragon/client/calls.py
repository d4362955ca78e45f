"""Requests and their answers, as steps: a JSON answer, and a stream of JSON lines."""

from __future__ import annotations

from typing import Any

from dragon.client.errors import DragonClientError, Lost, Refused, Unavailable
from dragon.client.protocol import Core, Flow, Lines, Open, Read, Request, Sleep, error_of, read_answer, read_values

QUIET_STREAMS = 2  # streams in a row that fell silent after their first line: something holds their lines back
END_WAIT = 0.25  # seconds for the end of a body of which all that matters was read


def read_body(silence: float) -> Flow[bytes]:
    """The whole body of the answer that is open; white space in front of it, a heartbeat, counts as a sign of life."""
    pieces = []
    while data := (yield Read(silence)):
        pieces.append(data)
    return b"".join(pieces)


def ask(request: Request) -> Flow[Any]:
    """The JSON of one answer."""
    head = yield Open(request)
    body = yield from read_body(request.silence)
    return read_answer(head, body)


def answer_of(core: Core, request: Request) -> Flow[Any]:
    """The same, and what can be tried again is."""
    trouble = core.trouble()
    while True:
        try:
            return (yield from ask(request))
        except (Unavailable, Refused) as error:
            if isinstance(error, Lost) and error.sent and not request.repeatable:
                raise
            yield Sleep(trouble.pause(error))


def read_object(answer: object) -> dict[str, Any]:
    """An answer that has to be an object."""
    if not isinstance(answer, dict):
        raise DragonClientError("the answer cannot be understood: this is no object")
    return answer


class LineReader:
    """Reads a stream of JSON lines."""

    def __init__(self, core: Core, request: Request, *, is_immediate: bool) -> None:
        """`is_immediate`: the server sends the first line at once, so that there is something in the way without it."""
        self._request = request
        self._silence = core.timing.silence
        self._limit = request.silence if is_immediate else self._silence
        self._lines = Lines()

    def open(self) -> Flow[None]:
        head = yield Open(self._request)
        if head.status != 200:
            raise error_of(head, (yield from read_body(self._silence)))

    def read(self) -> Flow[list[Any]]:
        """The next values; none at the end of the stream, which may have been cut."""
        while data := (yield Read(self._limit)):
            values = read_values(self._lines.feed(data))
            if values:
                self._limit = self._silence
                return values
        return []

    def read_end(self) -> Flow[None]:
        """Waits a moment for the end of the body, so that its connection serves again."""
        try:
            while (yield Read(END_WAIT)):
                pass
        except Lost:
            pass


class Manner:
    """Whether streams or polls bring what one call waits for: polls where something on the way holds streams back."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self.is_polling = core.is_buffered
        self._quiet = 0

    def stream_fell_silent(self, *, had_lines: bool) -> None:
        """A stream may fall silent because its network is gone; without a first line, or twice, it is held back."""
        self._quiet = self._quiet + 1 if had_lines else QUIET_STREAMS
        self.is_polling = self.is_polling or self._quiet >= QUIET_STREAMS

    def stream_had_news(self) -> None:
        self._quiet = 0

    def poll_was_answered(self) -> None:
        """So the server is there, and it was the stream that did not come through."""
        self._core.note_buffering()
