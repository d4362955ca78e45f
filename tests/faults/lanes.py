"""A system whose processes come from the nursery (failpoints.py), and a client on a stream."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import signal
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import redis

from dragon.config import Config
from dragon.store import names
from tests.faults.failpoints import Child, Nursery
from tests.system import SECRET, eventually

FINAL = ("success", "error")
_numbers = itertools.count(1)
_ORDER = {"queued": 0, "executing": 1, "success": 2, "error": 2}


@dataclass
class Lane:
    """A system of its own: settings, and processes that are started as the case wants them."""

    config: Config
    nursery: Nursery
    children: list[Child] = field(default_factory=list)

    async def start(self, name: str, *arguments: str, steps: str = "", clock: float = 0) -> Child:
        """Starts a process and, unless it may stop before it is ready, waits until that is so."""
        child = self.nursery.start(self.config, name, *arguments, steps=steps, clock=clock)
        self.children.append(child)
        if not steps:
            await self.until_ready(child, name)
        return child

    async def until_ready(self, child: Child, name: str) -> None:
        ready = {"server": "listening", "worker": "ready"}[name]
        await eventually(lambda: ready in child.output or not child.is_alive, 60)
        assert ready in child.output, f"{name} did not start:\n{child.output}"

    async def worker(self, executors: int = 1) -> Child:
        return await self.start("worker", "--executors", str(executors))

    async def victim(self, steps: str, name: str = "worker") -> Child:
        return await self.start(name, *(("--executors", "1") if name == "worker" else ()), steps=steps)

    async def stopped(self, child: Child, step: str) -> int:
        """Waits until a process has stopped at the step; its pid."""
        try:
            pid: int = await eventually(lambda: child.stopped_at(step), 60)
        except AssertionError:
            raise AssertionError(f"nothing stopped at {step}:\n{child.output}") from None
        return pid

    async def end(self, *children: Child) -> None:
        """SIGTERM, and waits for the end."""
        for child in children:
            child.signal(signal.SIGTERM)
        for child in children:
            await eventually(lambda child=child: not child.is_alive, 60)

    @contextlib.contextmanager
    def closing(self) -> Iterator[None]:
        """Kills what is left when the context ends: another test's tasks are not for this one's workers."""
        try:
            yield
        finally:
            for child in self.children:
                child.kill()

    @contextlib.asynccontextmanager
    async def session(self) -> AsyncIterator[aiohttp.ClientSession]:
        url = f"http://127.0.0.1:{self.config.server.port}"
        timeout = aiohttp.ClientTimeout(total=60)
        async with aiohttp.ClientSession(url, headers=SECRET, timeout=timeout) as session:
            yield session

    def gate(self) -> Path:
        """The path of a new file that tasks wait for; `touch` it."""
        self.config.data_dir.mkdir(parents=True, exist_ok=True)
        return self.config.data_dir / f"gate-{next(_numbers)}"

    def tasks(self) -> set[str]:
        """The keys of all tasks that Redis has."""
        return keys_in(self.config.redis.url)

    def leases_run_out(self) -> bool:
        with redis.Redis.from_url(self.config.redis.url) as client:
            return not client.zcount(names.WORKERS, client.time()[0], "+inf")  # type: ignore[index]


def keys_in(url: str) -> set[str]:
    """The keys of all tasks that a Redis has."""
    with redis.Redis.from_url(url) as client:
        return {name.decode().removeprefix(names.TASK) for name in client.scan_iter(names.TASK + "*", 1000)}


class Stream:
    """A client on a stream, that reads as long as there is something to read."""

    def __init__(
        self, session: aiohttp.ClientSession, path: str, body: dict[str, Any], idempotency_key: str = ""
    ) -> None:
        self.lines: list[Any] = []
        self.is_whole = False
        headers = {"Idempotency-Key": idempotency_key} if idempotency_key else {}
        self._reading = asyncio.ensure_future(self._read(session, path, body, headers))

    async def _read(self, session: aiohttp.ClientSession, path: str, body: Any, headers: dict[str, str]) -> None:
        with contextlib.suppress(aiohttp.ClientError):
            async with session.post(path, data=orjson.dumps(body), headers=headers) as response:
                assert response.status == 200, await response.text()
                async for line in response.content:
                    self.lines.append(orjson.loads(line))
                    self.on_line(self.lines[-1])
                self.is_whole = True

    def on_line(self, line: Any) -> None:
        """For those who look at the time."""

    async def head(self) -> list[str]:
        """The keys, when the first line is there."""
        await eventually(lambda: self.lines or self._reading.done(), 45)
        assert self.lines, await self._reading
        return self.keys

    @property
    def keys(self) -> list[str]:
        return [status["key"] for status in self.lines[0]] if self.lines else []

    async def over(self, timeout: float) -> None:
        async with asyncio.timeout(timeout):
            await self._reading

    def check(self) -> list[dict[str, Any]]:
        """One final line for each task, as the last of it; nothing goes back. The final statuses, by `keys`."""
        assert self.is_whole, "the stream was cut"
        history: dict[str, list[dict[str, Any]]] = {status["key"]: [status] for status in self.lines[0]}
        for status in self.lines[1:]:
            history[status["key"]].append(status)
        for statuses in history.values():
            ranks = [_ORDER[status["status"]] for status in statuses]
            assert ranks == sorted(ranks), f"a status went back: {statuses}"
            assert ranks.count(2) == 1, f"not exactly one final status: {statuses}"
        return [statuses[-1] for statuses in history.values()]
