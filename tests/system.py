"""A whole dragon for tests: real server and worker processes on a real Redis, and a client that speaks to them."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import orjson

from dragon.config import ROOT, Config, load_config
from tests.waiting import PATIENCE, wait_until

SECRET = {"Authorization": "Secret 123456"}
MODULES = ("tasks", "tests.sample_tasks")


def free_port() -> int:
    """A port that nobody listens on, and that nobody takes by chance before the test does.

    Not one that the kernel would choose: it may give that to the next connection of any process, also while a server of
    a test is being started again. A test process has ports of its own, and comes back to one after hundreds of others.
    """
    for port in itertools.islice(_PORTS, 1000):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("a thousand ports in a row are taken")


def _ports() -> Iterator[int]:
    """Below those that the kernel gives away (Linux: 32768), in a random order, and of 16 shares one."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "").removeprefix("gw")
    own = list(range(12_000 + (int(worker) if worker.isdecimal() else os.getpid()) % 16, 32_000, 16))
    random.SystemRandom().shuffle(own)
    return itertools.cycle(own)


_PORTS = _ports()


def test_config(data: Path, redis_url: str, **overrides: Any) -> Config:
    """Settings for a dragon of one's own."""
    given = {"data": data, "redis__url": redis_url, "server__port": free_port(), "tasks__modules": MODULES}
    return load_config(ROOT / "conf" / "dragon.toml", {}, **(given | overrides))


test_config.__test__ = False  # type: ignore[attr-defined]


def environment(config: Config) -> dict[str, str]:
    """The environment that gives a child process exactly these settings."""
    from dragon.config import settings

    kept = {name: value for name, value in os.environ.items() if not name.startswith(("DRAGON_", "REDIS_URL"))}
    for name in settings():
        value: Any = config
        for part in name.split("."):
            value = getattr(value, part)
        text = ",".join(value) if isinstance(value, tuple) else str(value)
        kept["DRAGON_" + name.upper().replace(".", "__")] = text
    return kept


@dataclass
class Process:
    """A child process whose output is kept in a file."""

    popen: subprocess.Popen[bytes]
    log: Path

    @property
    def pid(self) -> int:
        return self.popen.pid

    @property
    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def wait_for(self, text: str, timeout: float = PATIENCE) -> None:
        wait_until(lambda: text in self.output or self.popen.poll() is not None, timeout, f"{text!r} in {self.log}")
        assert text in self.output, f"the process ended with {self.popen.returncode}:\n{self.output}"

    def kill(self) -> None:
        """kill -9."""
        self.popen.kill()
        self.popen.wait()

    def terminate(self, timeout: float = PATIENCE) -> int:
        """SIGTERM; returns the exit code."""
        self.popen.send_signal(signal.SIGTERM)
        return self.popen.wait(timeout)


async def eventually(condition: Callable[[], Any], timeout: float = PATIENCE) -> Any:
    """As wait_until, for a condition that may be awaited."""
    ends = time.monotonic() + timeout
    while True:
        found = condition()
        if asyncio.iscoroutine(found):
            found = await found
        if found:
            return found
        assert time.monotonic() < ends, f"waited {timeout} s in vain"
        await asyncio.sleep(0.01)


@dataclass
class System:
    """The processes of one dragon; `client()` speaks to its server."""

    config: Config
    processes: list[Process] = field(default_factory=list)
    count: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.config.server.port}"

    def start(self, *command: str, ready: str) -> Process:
        """Starts a process from the checkout and waits for a text in its output."""
        self.count += 1
        log = self.config.data_dir / f"{Path(command[0]).stem}-{self.count}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as file:
            popen = subprocess.Popen(
                [sys.executable, *command], cwd=ROOT, env=environment(self.config), stdout=file, stderr=file
            )
        process = Process(popen, log)
        self.processes.append(process)
        process.wait_for(ready, 60)  # on a machine that has much else to do, too
        return process

    def start_server(self, *arguments: str) -> Process:
        return self.start("run_server.py", *arguments, ready="listening")

    def start_worker(self, *arguments: str) -> Process:
        return self.start("run_worker.py", *arguments, ready="ready")

    def close(self) -> None:
        for process in reversed(self.processes):
            if process.popen.poll() is None:
                process.popen.terminate()
        for process in reversed(self.processes):
            try:
                process.popen.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()

    @contextlib.asynccontextmanager
    async def client(self) -> AsyncIterator[Client]:
        # Without aiohttp's own limit of 100 connections: tests open more streams than that.
        async with aiohttp.ClientSession(self.url, connector=aiohttp.TCPConnector(limit=0)) as session:
            yield Client(session)


@contextlib.contextmanager
def running_system(config: Config, *worker_arguments: str) -> Iterator[System]:
    """A server and a worker, ended when the context ends."""
    system = System(config)
    try:
        system.start_server()
        system.start_worker(*worker_arguments)
        yield system
    finally:
        system.close()


@dataclass
class Client:
    """The calls that most tests make, with the demo account's secret key."""

    session: aiohttp.ClientSession

    async def create(self, *definitions: dict[str, Any], **members: Any) -> list[dict[str, Any]]:
        body = orjson.dumps({"tasks": list(definitions), **members})
        async with self.session.post("/v1/create", data=body, headers=SECRET) as response:
            assert response.status == 200, await response.text()
            statuses: list[dict[str, Any]] = orjson.loads(await response.read())
            return statuses

    async def run(self, name: str, **parameters: Any) -> dict[str, Any]:
        """Runs one task and returns its final status."""
        return (await self.create({"task_name": name, **parameters}, block=True))[0]

    async def status(self, *keys: str, **members: Any) -> list[dict[str, Any]]:
        async with self.session.post("/v1/status", data=orjson.dumps({"tasks": keys, **members})) as response:
            assert response.status == 200, await response.text()
            statuses: list[dict[str, Any]] = orjson.loads(await response.read())
            return statuses

    async def stream(self, *definitions: dict[str, Any]) -> list[Any]:
        """All lines of a create_stream."""
        body = orjson.dumps({"tasks": list(definitions)})
        async with self.session.post("/v1/create_stream", data=body, headers=SECRET) as response:
            assert response.status == 200, await response.text()
            return [orjson.loads(line) async for line in response.content]

    async def wait_for_status(self, key: str, wanted: str, timeout: float = PATIENCE) -> dict[str, Any]:
        async def look() -> dict[str, Any] | None:
            status = (await self.status(key))[0]
            return status if status["status"] == wanted else None

        found: dict[str, Any] = await eventually(look, timeout)
        return found
