"""Following tasks to their end through bad networks: streams, taken up again where they were cut, or long polls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dragon.client.calls import LineReader, Manner, ask
from dragon.client.errors import DragonClientError, Lost, Refused, Silence, Unavailable
from dragon.client.protocol import Core, Give, Giving, Request, Sleep, Trouble
from dragon.client.status import Status, is_news, read_statuses


class Followed:
    """The tasks that one call follows: which there are, and the last status of each that was given."""

    def __init__(self, core: Core, *, definitions: Sequence[dict[str, Any]] = (), keys: Sequence[str] = ()) -> None:
        """Of tasks that are to be created, or of existing ones."""
        self._core = core
        self._definitions = list(definitions)
        self._idempotency_key = core.new_idempotency_key() if definitions else ""
        self._present: dict[str, Status | None] = dict.fromkeys(keys)

    @property
    def finished(self) -> bool:
        return bool(self._present) and not self.open

    @property
    def open(self) -> list[str]:
        """The keys that have not ended."""
        return [key for key, status in self._present.items() if status is None or not status.final]

    def stream_request(self) -> Request:
        """Creates the tasks, again if nobody knows whether they were, or takes up their stream."""
        if not self._present:
            return self._creation("/v1/create_stream")
        return self._core.request(
            "POST", "/v1/status_stream", {"tasks": self.open}, silence=self._core.timing.first_line
        )

    def poll_request(self) -> Request:
        """The same without a stream: an answer that is over soon, whatever holds it back."""
        if not self._present:
            return self._creation("/v1/create")
        body = {"tasks": self.open, "block": True, "timeout": self._core.timing.poll}
        return self._core.request("POST", "/v1/status", body)

    def _creation(self, path: str) -> Request:
        is_stream = path.endswith("_stream")
        return self._core.request(
            "POST",
            path,
            {"tasks": self._definitions},
            silence=self._core.timing.first_line if is_stream else 0.0,
            idempotency_key=self._idempotency_key,
            authorized=True,
        )

    def take(self, value: object) -> list[Status]:
        """The statuses in a line, or list, that tell something new. Raises Lost for what is neither."""
        try:
            statuses = read_statuses(value) if isinstance(value, list) else [Status.read(value)]
        except ValueError as error:
            raise Lost(f"the stream is damaged: {error}") from None
        if not self._present:
            self._present = dict.fromkeys(status.key for status in statuses)
        return [status for status in statuses if self._take(status)]

    def _take(self, status: Status) -> bool:
        if status.key not in self._present or not is_news(status, self._present[status.key]):
            return False
        self._present[status.key] = status
        return True


def statuses_of(core: Core, followed: Followed) -> Giving[Status]:
    """Gives the present status of each task and then every change, each once, until all have ended."""
    trouble, manner = core.trouble(), Manner(core)
    while True:
        error: DragonClientError = Lost("the stream ended before its tasks did")
        try:
            yield from (_poll if manner.is_polling else _read_stream)(core, followed, trouble, manner)
        except (Unavailable, Refused) as caught:
            error = caught
        if followed.finished:
            return
        yield Sleep(trouble.pause(error))


def _read_stream(core: Core, followed: Followed, trouble: Trouble, manner: Manner) -> Giving[Status]:
    reader = LineReader(core, followed.stream_request(), is_immediate=True)
    count = 0
    try:
        yield from reader.open()
        while values := (yield from reader.read()):
            for value in values:
                news = followed.take(value)
                trouble.over() if news else trouble.heard()
                for status in news:
                    yield Give(status)
                count += 1
            if count > 1:
                manner.stream_had_news()
            if followed.finished:
                yield from reader.read_end()
                return
    except Silence:
        manner.stream_fell_silent(had_lines=count > 0)
        raise


def _poll(core: Core, followed: Followed, trouble: Trouble, manner: Manner) -> Giving[Status]:
    while not followed.finished:
        value = yield from ask(followed.poll_request())
        manner.poll_was_answered()
        trouble.over()
        for status in followed.take(value):
            yield Give(status)
