"""Streams as clients read them, what a stream owes its reader, and the marks that tasks leave of their starts."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import orjson

from tests.system import SECRET, Client, eventually

FINAL = ("success", "error")


@dataclass
class Stream:
    """What came of one stream so far. `complete`: its body ended as a chunked body has to."""

    first: list[dict[str, Any]] = field(default_factory=list)
    lines: list[dict[str, Any]] = field(default_factory=list)
    complete: bool = False

    @property
    def keys(self) -> list[str]:
        return [status["key"] for status in self.first]

    def finals(self) -> dict[str, dict[str, Any]]:
        """The final status of each key that has one; fails when there are two, or anything follows the end."""
        ended: dict[str, dict[str, Any]] = {}
        for status in [*{status["key"]: status for status in self.first}.values(), *self.lines]:
            assert status["key"] not in ended, f"a line after the end: {ended[status['key']]}, {status}"
            if status["status"] in FINAL:
                ended[status["key"]] = status
        return ended

    def assert_ended(self) -> dict[str, dict[str, Any]]:
        """A whole body with exactly one final line a key."""
        assert self.complete, "the stream was cut"
        ended = self.finals()
        assert set(ended) == set(self.keys), f"{len(set(self.keys) - set(ended))} keys without an end"
        return ended


async def follow(client: Client, path: str, tasks: Sequence[Any], stream: Stream | None = None) -> Stream:
    """Opens a stream and reads it to its end, or until it is cut. Raises ClientError when there is no answer of 200."""
    stream = Stream() if stream is None else stream
    body = orjson.dumps({"tasks": tasks})
    timeout = aiohttp.ClientTimeout(total=None, sock_read=60)
    async with client.session.post(path, data=body, headers=SECRET, timeout=timeout) as response:
        response.raise_for_status()
        try:
            async for line in response.content:
                if stream.first:
                    stream.lines.append(orjson.loads(line))
                else:
                    stream.first = orjson.loads(line)
        except aiohttp.ClientError:
            return stream
        stream.complete = True
    return stream


class Crowd:
    """Clients of one create_stream each, all of which have their first line; `streams` is what they have read."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._reading: list[asyncio.Task[Stream]] = []
        self.streams: list[Stream] = []

    async def open(self, count: int, definitions: Callable[[], list[dict[str, Any]]]) -> None:
        for _ in range(count):
            stream = Stream()
            self.streams.append(stream)
            self._reading.append(asyncio.create_task(follow(self._client, "/v1/create_stream", definitions(), stream)))
        await eventually(lambda: all(stream.first for stream in self.streams), 30)

    async def end(self) -> None:
        """Waits until every stream has ended, or was cut."""
        await asyncio.gather(*self._reading)

    @property
    def keys(self) -> list[str]:
        return [key for stream in self.streams for key in stream.keys]


async def statuses_of(client: Client, keys: Sequence[str], **members: Any) -> list[dict[str, Any]]:
    """As `client.status`, for more keys than one call takes."""
    found: list[dict[str, Any]] = []
    for start in range(0, len(keys), 500):
        found += await client.status(*keys[start : start + 500], **members)
    return found


class Mark(NamedTuple):
    """What `test.mark` has noted: the start or the end of an attempt, in Unix time."""

    key: str
    attempt: int
    what: str
    time: float


def marks(path: Path) -> list[Mark]:
    """All marks so far, in the order in which they were made."""
    if not path.exists():
        return []
    found = []
    for line in path.read_text().splitlines():
        key, attempt, what, moment = line.split(" ")
        found.append(Mark(key, int(attempt), what, float(moment)))
    return found


def starts(path: Path) -> Counter[str]:
    """How often each task was started."""
    return Counter(mark.key for mark in marks(path) if mark.what == "start")
