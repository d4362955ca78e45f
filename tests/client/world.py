"""A server that is not there: drives the verbs of the clients, and decides at which byte each connection is cut."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from typing import Any

from dragon.client.errors import DragonClientError, Lost, Silence
from dragon.client.protocol import Core, Give, Head, Open, Read, Request, Sleep, Step

JSON = {"content-type": "application/json"}


@dataclass
class Answer:
    """What a connection brings: pieces of the body, and how it ends. `end` None: as it should."""

    pieces: list[bytes]
    end: DragonClientError | None = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=lambda: JSON)

    @classmethod
    def of(cls, value: object, status: int = 200, **headers: str) -> Answer:
        given = {name.replace("_", "-"): text for name, text in headers.items()}
        return cls([json.dumps(value).encode()], None, status, JSON | given)


@dataclass
class World:
    """Does the steps; `answer` says what comes of each request, and an error that it returns is of the connection."""

    answer: Callable[[Request], Answer | DragonClientError]
    now: float = 0.0
    requests: list[Request] = field(default_factory=list)
    pauses: list[float] = field(default_factory=list)
    limits: list[float] = field(default_factory=list)  # of the reads
    _open: Answer | None = None
    _pieces: Iterator[bytes] = field(default_factory=lambda: iter(()))

    def core(self, **settings: Any) -> Core:
        return Core("http://dragon.test", secret="123456", clock=lambda: self.now, **settings)

    def drive(self, verb: Generator[Any, Any, Any], most: int = 100_000) -> tuple[list[Any], Any]:
        """All that a verb gives, and what it returns."""
        given: list[Any] = []
        act, value = verb.send, None
        try:
            while True:
                step = act(value)
                if isinstance(step, Give):
                    given.append(step.item)
                    act, value = verb.send, None
                    if len(given) >= most:
                        return given, None
                    continue
                try:
                    act, value = verb.send, self._do(step)
                except DragonClientError as error:
                    act, value = verb.throw, error
        except StopIteration as end:
            return given, end.value
        finally:
            verb.close()

    def _do(self, step: Step) -> Any:
        if isinstance(step, Sleep):
            self._open = None
            self.pauses.append(step.seconds)
            self.now += step.seconds
            return None
        if isinstance(step, Open):
            return self._begin(step.request)
        self.limits.append(step.timeout)
        return self._read(step)

    def _begin(self, request: Request) -> Head:
        self.requests.append(request)
        answer = self.answer(request)
        if isinstance(answer, DragonClientError):
            self._open = None
            raise answer
        self._open, self._pieces = answer, iter(answer.pieces)
        return Head(answer.status, answer.headers)

    def _read(self, step: Read) -> bytes:
        assert self._open is not None, "nothing is open"
        piece = next(self._pieces, b"")
        if piece or self._open.end is None:
            return piece
        if isinstance(self._open.end, Silence):
            self.now += step.timeout
        raise self._open.end


def cut() -> Lost:
    return Lost("the connection was cut")


def body_of(request: Request) -> Any:
    return json.loads(request.body or b"null")
