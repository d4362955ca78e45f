"""Where a worker is built and lives: reserving, signs of life, looking after the dead, sweeping, stopping."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import signal
import socket
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import orjson
from redis.exceptions import RedisError, ResponseError

from dragon import connections
from dragon.config import Config
from dragon.connections import Redis, insist
from dragon.errors import Unavailable, WorkerFailed
from dragon.fetch import Fetcher
from dragon.files import Files, open_files
from dragon.processes import calm_collector
from dragon.status import ERROR, QUEUED, Status, error_result, parse_line, timestamp
from dragon.store import names, tasks, workers
from dragon.store.queues import LOOK
from dragon.store.tasks import Write
from dragon.store.workers import WorkerFacts
from dragon.tracing import open_tracing
from dragon.worker.engine import KIND_LOOK, Engine, new_worker_id
from dragon.worker.scratch import ScratchLock, remove_abandoned

log = logging.getLogger("dragon.worker")

BLOCK = 5  # seconds that one wait for a queue lasts at most
PAUSED_LOOK = 0.5  # seconds between two looks at what is suspended or paused
SAMPLE = Path(__file__).parent.parent / "server" / "static"
SWEEP_COUNT = 200  # tasks a trip
_CANCEL = re.compile(rb"cancel ([A-Z2-7]{26}) ([0-9]{1,9})")


class Worker:
    """One worker process."""

    def __init__(self, config: Config, redis_url: str) -> None:
        self._config = config
        self._url = redis_url
        self._redis = Redis(self._url, config.redis.timeout)
        self._files = open_files(config)
        worker_id = new_worker_id()
        # Downloads under way lie in the folder that goes with this worker, however it ends.
        scratch = config.scratch_dir / worker_id
        self._fetcher = Fetcher(config.fetch, scratch=scratch, local=own_files(config, self._files))
        self._tracing = open_tracing(config.log, "dragon-worker")
        self._engine = Engine(config, worker_id, self._redis, self._files, self._fetcher, self._tracing)
        self._watch = _QueueWatch(config, self._url)
        self._started = timestamp()
        self._told = b""  # what its executors did when that was last written
        self._stopped = asyncio.Event()
        self._dead_seen = asyncio.Event()  # workers died that had tasks: their scratch folders can go

    async def run(self) -> None:
        """Works until SIGTERM, SIGINT or RQ's shutdown command.

        Raises ConfigError when no task can be imported; WorkerFailed, after it has left in order, when it cannot go on.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopped.set)
        self._scratch = scratch = ScratchLock(self._config.scratch_dir / self._engine.id)
        await self._engine.start()
        writing = asyncio.create_task(self._engine.writer.run(), name="writer")
        await self._register()
        loops = [
            asyncio.create_task(work(), name=work.__qualname__)
            for work in (
                *(self._reserve, self._heartbeat, self._hear_commands, self._sweep),
                *(self._watch.run, self._engine.measures.run),
            )
        ]
        calm_collector()
        print(f"dragon worker {self._engine.id} ready: {len(self._engine.catalogue)} tasks", flush=True)
        try:
            failure = await self._until_stopped([*loops, writing])
        finally:
            await self._leave(loops, writing)
            scratch.release()
        if failure:
            raise WorkerFailed(f"the worker could not go on and has left: {failure}")

    async def _until_stopped(self, loops: list[asyncio.Task[None]]) -> str:
        """Returns why it cannot go on, "" when it was told to stop."""
        stopped = asyncio.create_task(self._stopped.wait())
        failed = self._engine.pool.failed
        waited: list[asyncio.Future[Any]] = [stopped, failed, *loops]
        done, _ = await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
        if stopped in done:
            return ""
        stopped.cancel()
        for loop in loops:
            if loop in done:
                failure = f"internal error in {loop.get_name()}"
                log.error("this worker cannot go on and leaves: %s", failure, exc_info=loop.exception())
                return failure
        log.error("this worker cannot go on and leaves: %s", failed.result())
        return failed.result()

    async def _leave(self, loops: list[asyncio.Task[None]], writing: asyncio.Task[None]) -> None:
        reserving, heartbeat, *rest = loops
        self._engine.stopping = True  # a reservation under way is still accepted, and given back
        self._watch.arrived.set()
        self._engine.places_freed.set()
        await asyncio.wait([reserving], timeout=self._config.redis.timeout + 1)
        for task in (reserving, *rest):
            task.cancel()
        try:
            async with asyncio.timeout(self._config.worker.stop_grace + 5):
                # Without executors nothing could finish anything.
                grace = 0.0 if self._engine.pool.failed.done() else self._config.worker.stop_grace
                await self._engine.stop(grace)
                await self._engine.measures.finish()
                await workers.unregister(self._redis, self._engine.id)
        except (TimeoutError, Unavailable) as error:
            log.error("left without order (%s): other workers take over when the lease is over", type(error).__name__)
        heartbeat.cancel()
        writing.cancel()
        await asyncio.gather(*loops, writing, return_exceptions=True)
        await self._fetcher.close()
        await self._redis.close()
        if self._tracing:
            await asyncio.to_thread(self._tracing.close)

    async def _register(self) -> None:
        facts = WorkerFacts(
            self._engine.id,
            self._config.worker.queues,
            tuple(self._engine.catalogue),
            os.getpid(),
            socket.gethostname(),
            version("rq"),
            sys.version,
            self._engine.executor_count,
            self._engine.concurrency,
            self._started,
        )
        self._told = b""  # its hash may be new
        await insist(
            lambda: workers.register(self._redis, facts, self._config.worker.lease),
            "register",
            until=self._stopped.is_set,
        )

    async def _reserve(self) -> None:
        """Takes tasks whenever there is place, and waits, blocked in Redis, when there is nothing to take."""
        engine, watch = self._engine, self._watch
        while not engine.stopping:
            engine.places_freed.clear()
            if not engine.wants_more():
                if engine.is_blind:
                    await _wait_briefly(engine.places_freed, KIND_LOOK)
                else:
                    await engine.places_freed.wait()
                continue
            watch.arrived.clear()
            reservation = await insist(engine.reserve, "reserve", until=lambda: engine.stopping)
            if reservation is None or reservation.tasks:
                continue
            if reservation.suspended or reservation.gone:
                await asyncio.sleep(PAUSED_LOOK)
            elif reservation.left:
                await _wait_briefly(engine.places_freed, KIND_LOOK)
            else:
                await watch.wait(reservation.paused)

    async def _heartbeat(self) -> None:
        """Renews the lease, notices what was taken away, and hands dead workers' tasks on."""
        while True:
            started = time.monotonic()
            try:
                await self._renew()
                await self._take_over_lost()
            except (Unavailable, ResponseError) as error:
                log.warning("no sign of life: %s", error)
            await asyncio.sleep(max(0.05, self._config.worker.heartbeat - (time.monotonic() - started)))

    async def _renew(self) -> None:
        engine = self._engine
        state = "busy" if engine.is_busy else "idle"
        doing = engine.doing()
        news = b"" if doing == self._told else doing
        keys = await workers.renew(self._redis, engine.id, self._config.worker.lease, state, news)
        self._told = doing
        if keys is None:
            engine.abandon_all()
            await self._register()
        else:
            await engine.check_ownership(keys)

    async def _take_over_lost(self) -> None:
        count, orphans = await tasks.take_over_lost(self._redis, self._engine.id)
        if count:
            log.warning("%d tasks of dead workers are back in their queues", count)
        if count or orphans:
            self._dead_seen.set()
        for orphan in orphans:
            try:
                status = parse_line(orphan.line, orphan.key)
            except ValueError:
                status = Status(QUEUED, orphan.key, timestamp())  # damaged; it ends all the same
            text = f"the worker was lost while it ran the task (attempt {orphan.attempt})"
            line = status.ended(ERROR, error_result(text), timestamp()).line()
            log.error("%s error: lost with worker %s, no attempt left", orphan.key, orphan.worker)
            self._engine.end_orphan(Write(orphan.key, orphan.attempt, ERROR, line), orphan.name)

    async def _hear_commands(self) -> None:
        """Cancellations, and RQ's own commands to a worker."""
        channels = [names.WORKER + self._engine.id, names.RQ_PUBSUB + self._engine.id]
        async for message in connections.listen(self._url, channels, self._config.redis.timeout):
            if message is not None:
                self._obey(message)

    def _obey(self, message: bytes) -> None:
        if found := _CANCEL.fullmatch(message):
            self._engine.cancel(found[1].decode(), int(found[2]))
            return
        if message == LOOK:
            self._watch.look()
            return
        try:
            command = orjson.loads(message)
        except orjson.JSONDecodeError:
            command = None
        match command:
            case {"command": "shutdown"}:
                self._stopped.set()
            case {"command": "stop-job", "job_id": str(key)}:
                self._engine.cancel_and_end(key)
            case {"command": str(other)}:
                log.info("RQ's command %.100r does not concern dragon's worker", other)
            case _:
                log.warning("a command that is not understood: %r", message[:100])

    async def _sweep(self) -> None:
        """Removes ended tasks, with their files, whose life is over, and what dead workers have left."""
        while True:
            with contextlib.suppress(OSError):  # no folder can be made: tasks that want one say so
                self._scratch.hold()
            await asyncio.to_thread(remove_abandoned, self._config.scratch_dir)
            with contextlib.suppress(Unavailable, ResponseError):
                while keys := await tasks.expired(self._redis, await workers.clock(self._redis), SWEEP_COUNT):
                    for key in keys:
                        await asyncio.to_thread(self._files.drop, key)
                    await tasks.forget(self._redis, keys)
                await tasks.forget(self._redis, [])
            await _wait_briefly(self._dead_seen, self._config.files.sweep_interval)
            self._dead_seen.clear()


class _QueueWatch:
    """Waits for the queues, blocked in Redis: BLMOVE of a list's head onto itself takes nothing and loses nothing."""

    def __init__(self, config: Config, url: str) -> None:
        self._queues = config.worker.queues
        self._timeout = config.redis.timeout
        self._url = url
        self._wanted = asyncio.Event()
        self._paused: frozenset[str] = frozenset()
        self.arrived = asyncio.Event()

    async def wait(self, paused: frozenset[str] = frozenset()) -> None:
        """Returns when one of the queues has something, or may have; of those that are paused, after half a second."""
        self._paused = paused
        self._wanted.set()
        await self.arrived.wait()

    async def run(self) -> None:
        await asyncio.gather(*(self._watch(queue) for queue in self._queues))

    async def _watch(self, queue: str) -> None:
        name = names.RQ_QUEUE + queue
        while True:
            connection = connections.Dedicated(self._url, self._timeout)
            try:
                while True:
                    await self._wanted.wait()
                    if queue in self._paused:  # what waits there would end each wait at once
                        await asyncio.sleep(PAUSED_LOOK)
                        self.look()
                        continue
                    await connection.send("BLMOVE", name, name, "LEFT", "LEFT", BLOCK)
                    if await connection.receive() is not None:
                        self.look()
            except (RedisError, OSError, TimeoutError) as error:
                log.warning("cannot wait for queue %s: %s", queue, type(error).__name__)
            finally:
                await connection.close()
            await asyncio.sleep(0.5)
            self.look()  # Redis may be back, with tasks in it

    def look(self) -> None:
        """Ends a wait."""
        self._wanted.clear()
        self.arrived.set()


async def _wait_briefly(event: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()


def own_files(config: Config, files: Files) -> Callable[[str], Path | None]:
    """Maps URLs of this very server to files on this machine: the sample picture, and output files by their key."""
    ours = urlsplit(config.public_url)
    names_of_this_host = {ours.hostname, "localhost", "127.0.0.1"} if config.listens_on_loopback else {ours.hostname}

    def local(url: str) -> Path | None:
        parts = urlsplit(url)
        if parts.scheme != ours.scheme or parts.port != ours.port or parts.hostname not in names_of_this_host:
            return None
        match [unquote(part) for part in parts.path.split("/")]:
            case ["", "static", "sample.jpg"]:
                return SAMPLE / "sample.jpg"
            case ["", "files", key, filename]:
                return files.find(key, filename)
        return None

    return local


async def work(config: Config, redis_url: str) -> None:
    """Runs one worker until it is told to stop."""
    await Worker(config, redis_url).run()
