"""Where the measuring happens: one embedded Redis for all, and dragon's processes when a part asks for them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import redis
import redis.asyncio

ROOT = Path(__file__).resolve().parent.parent
SECRET = "123456"  # the demo account's


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True)
class Child:
    """A process that the bench started, and what it has used."""

    popen: subprocess.Popen[bytes]

    @property
    def pid(self) -> int:
        return self.popen.pid

    def cpu_seconds(self) -> float:
        """User and system time of the process and of its living descendants."""
        ticks = 0
        for pid in [self.pid, *descendants(self.pid)]:
            with contextlib.suppress(OSError):
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def memory(self) -> int:
        """Bytes that this process alone occupies (PSS)."""
        for line in Path(f"/proc/{self.pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
        raise RuntimeError("the kernel does not tell memory")


def descendants(pid: int) -> list[int]:
    found = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found += [int(child), *descendants(int(child))]
    return found


class Place:
    """The bench's Redis (`url`), a folder of its own (`data`), and the processes that parts start and end."""

    def __init__(self, url: str, data: Path, redis_pid: int) -> None:
        self.url = url
        self.data = data
        self.redis_pid = redis_pid

    @contextlib.contextmanager
    def child(self, *command: str, cwd: Path = ROOT, **environment: str) -> Iterator[Child]:
        """A Python process for the length of the context: SIGTERM at its end, SIGKILL 20 s later."""
        log = (self.data / "children.log").open("ab")
        process = subprocess.Popen(
            [sys.executable, *command], cwd=cwd, env=os.environ | environment, stdout=log, stderr=log
        )
        log.close()
        try:
            yield Child(process)
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    @contextlib.asynccontextmanager
    async def server(self, **settings: str) -> AsyncIterator[tuple[Child, int]]:
        """One dragon server process and its port; `settings` as in the environment (DRAGON_SERVER__...)."""
        port = free_port()
        with self.child("run_server.py", **self.environment(port), **settings) as child:
            await self.until_answers(port, "/healthz", child)
            yield child, port

    @contextlib.asynccontextmanager
    async def worker(self, *, executors: int = 1, **settings: str) -> AsyncIterator[Child]:
        """One dragon worker process, registered and ready."""
        environment = self.environment(0) | {"DRAGON_WORKER__EXECUTORS": str(executors)} | settings
        store = self.redis()
        before = await store.zcard("dragon:workers")
        with self.child("run_worker.py", **environment) as child:
            while await store.zcard("dragon:workers") <= before:
                assert child.popen.poll() is None, f"the worker ended, see {self.data}/children.log"
                await asyncio.sleep(0.05)
            await store.aclose()
            await asyncio.sleep(0.3)  # its executors are forked
            yield child

    def environment(self, port: int) -> dict[str, str]:
        """The settings that dragon's processes get here."""
        return {
            "DRAGON_REDIS_URL": self.url,
            "DRAGON_DATA": str(self.data / "dragon"),
            "PORT": str(port),
            "DRAGON_TASKS__MODULES": "tasks,bench.tasks",
            "DRAGON_LOG__LEVEL": "warning",
        }

    @contextlib.asynccontextmanager
    async def bare_http(self) -> AsyncIterator[tuple[Child, int]]:
        """The yardstick for HTTP: an aiohttp handler that reads JSON and answers with JSON (bench/bare.py)."""
        port = free_port()
        with self.child("-m", "bench.bare", str(port)) as child:
            await self.until_answers(port, "/", child)
            yield child, port

    async def until_answers(self, port: int, path: str, child: Child) -> None:
        """Waits until an HTTP server answers with 200."""
        ends = time.monotonic() + 30
        while time.monotonic() < ends:
            assert child.popen.poll() is None, f"the process ended, see {self.data}/children.log"
            with contextlib.suppress(OSError):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
                answer = await reader.read()
                writer.close()
                if b" 200 " in answer[:20]:
                    return
            await asyncio.sleep(0.05)
        raise SystemExit(f"port {port} never answered {path} with 200")

    def redis(self) -> redis.asyncio.Redis:
        return redis.asyncio.Redis.from_url(self.url)

    def clear(self) -> None:
        """An empty Redis for whoever comes next; its scripts stay loaded."""
        with redis.Redis.from_url(self.url) as connection:
            connection.flushall()


@contextlib.contextmanager
def new_place(data: Path) -> Iterator[Place]:
    """The embedded Redis with its usual settings, the append-only file among them."""
    from dragon.config import load_config
    from dragon.embedded import EmbeddedRedis, find_server

    folder = data / "redis"
    with EmbeddedRedis(find_server(load_config()), folder, folder / "redis.sock") as embedded:
        assert embedded.process is not None
        yield Place(embedded.url, data, embedded.process.pid)
