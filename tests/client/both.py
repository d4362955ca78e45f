"""The blocking and the asynchronous client under one face, so that one test serves both."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from dragon.client import AsyncDragon, Dragon, Status, Timing

KINDS = ("blocking", "asynchronous")
#: For networks that fail all the time.
QUICK = Timing(backoff=0.02, backoff_most=0.2, retries=60)


class Both:
    """One of the two clients: `call` a verb, take `all` that it gives."""

    def __init__(self, kind: str, url: str, *, secret: str | None = "123456", **settings: Any) -> None:
        made = Dragon if kind == "blocking" else AsyncDragon
        self.client: Any = made(url, secret=secret, **settings)
        self.is_blocking = kind == "blocking"

    async def __aenter__(self) -> Both:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self.is_blocking:
            self.client.close()
        else:
            await self.client.close()

    def _method(self, verb: str) -> Any:
        found = self.client
        for name in verb.split("."):
            found = getattr(found, name)
        return found

    async def call(self, verb: str, *args: Any, **more: Any) -> Any:
        method = self._method(verb)
        if self.is_blocking:
            return await asyncio.to_thread(method, *args, **more)
        return await method(*args, **more)

    async def all(self, verb: str, *args: Any, most: int = 1 << 40, **more: Any) -> list[Any]:
        """All that a verb gives; it is closed after `most`."""
        giving = self._method(verb)(*args, **more)
        if self.is_blocking:
            return await asyncio.to_thread(_first, giving, most)
        found: list[Any] = []
        async for item in giving:
            found.append(item)
            if len(found) == most:
                await giving.aclose()
        return found


def _first(giving: Any, most: int) -> list[Any]:
    found: list[Any] = []
    for item in giving:
        found.append(item)
        if len(found) == most:
            giving.close()
    return found


def assert_followed(statuses: Sequence[Status], keys: Sequence[str]) -> dict[str, Status]:
    """Each task has one end, nothing after it, nothing twice, and nothing goes back; the ends by key."""
    ends: dict[str, Status] = {}
    last: dict[str, Status] = {}
    for status in statuses:
        assert status.key not in ends, f"a status after the end: {status}"
        before = last.get(status.key)
        assert before is None or (before.rank <= status.rank and before.raw != status.raw), (before, status)
        last[status.key] = status
        if status.final:
            ends[status.key] = status
    assert set(ends) == set(keys)
    return ends
