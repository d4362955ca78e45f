"""Waiting made visible: the place of a task in its queue, when it is expected to end, and what it waits for.

Who follows tasks that have waited for a while is told their places as these change. One look a process serves all that
follow, it costs the same however many wait, and what it says is never stored: any stored line is newer.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

import orjson
from redis.exceptions import ResponseError

from dragon.connections import Redis
from dragon.errors import Unavailable
from dragon.feed import Follower
from dragon.store import measures, queues, tasks, waiting, workers
from dragon.store.tasks import Ticket
from dragon.store.waiting import Lanes
from dragon.store.workers import TaskPicture, WorkerPicture
from dragon.task import Registry

log = logging.getLogger("dragon.positions")

SCENE_AGE = 1.0  # seconds for which one look at workers and measurements serves all
SAMPLE = 50  # tasks of a list whose names tell what kind of work stands in it
MOST_LOOKED = 100_000  # followed tasks that one round looks at, those of the oldest streams first
MOST_TOLD = 20_000  # waiting ones among them whose places are looked for
MOST_LINES = 1000  # lines of one round, over all streams; those that were told longest ago first
REST = 20  # a round that has taken a second is followed by so many without one
TURN = 1000  # tasks that are looked at before others get their turn


class Wait(NamedTuple):
    """What is known of a task that waits."""

    position: int | None  # 1 comes next
    eta: float | None  # seconds until it is expected to end
    waiting_for: str | None  # what has to be done before it can start


NOTHING_KNOWN = Wait(None, None, None)


@dataclass(frozen=True, slots=True)
class _Scene:
    """What waiting depends on, but for the queues."""

    workers: list[WorkerPicture]
    means: dict[str, float]  # running seconds by task name
    is_suspended: bool
    paused: set[str]

    def waiting_for(self, queue: str) -> str | None:
        if not any(queue in worker.queues for worker in self.workers):
            return f"no worker serves the queue '{queue}'"
        if queue in self.paused:
            return f"the queue '{queue}' is paused"
        return "RQ is suspended: rq resume" if self.is_suspended else None


class _Crew:
    """The executors that serve a task, and what they have to do before they come to it."""

    def __init__(self, scene: _Scene, ticket: Ticket, registry: Registry, sample: Sequence[str]) -> None:
        self._scene = scene
        self._registry = registry
        self._is_async = self._is_async_task(ticket.name)
        serving = [one for one in scene.workers if ticket.queue in one.queues]
        serving = [one for one in serving if one.kind == "rq" or ticket.name in one.tasks]
        self._places = sum(one.concurrency if self._is_async and one.kind != "rq" else one.places for one in serving)
        kinds = ("rq", "async" if self._is_async else "def")
        self._busy = [
            task for one in serving for executor in one.executors if executor.kind in kinds for task in executor.tasks
        ]
        alike = [name for name in sample if self._is_async_task(name) == self._is_async]
        known = [scene.means[name] for name in alike if name in scene.means]
        self._share = len(alike) / len(sample) if sample else 1.0
        self._mean = sum(known) / len(known) if known else scene.means.get(ticket.name, 0.0)

    def _is_async_task(self, name: str) -> bool:
        task = self._registry.get(name)
        return task is not None and task.is_async

    def seconds_until_free(self, before: int) -> float | None:
        """Seconds until one of them comes to the task that has `before` others before it; None without any."""
        if not self._places:
            return None
        ahead = before * self._share
        if len(self._busy) + ahead < self._places:
            return 0.0
        left = sum(self._left(task) for task in self._busy)
        return (left + ahead * self._mean) / self._places

    def _left(self, task: TaskPicture) -> float:
        mean = self._scene.means.get(task.name, self._mean)
        try:
            begun = datetime.fromisoformat(task.started).timestamp()
        except ValueError:
            return mean
        return min(mean, max(0.0, mean - (time.time() - begun)))


class Positions:
    """Looks for places; `run` tells followers of them."""

    def __init__(self, redis: Redis, registry: Registry, interval: float) -> None:
        """`interval` in seconds: how long a task has to wait to have its place told, and how often; 0: never."""
        self._redis = redis
        self._registry = registry
        self._interval = interval
        self._followers: dict[Follower, None] = {}  # in the order in which they came
        self._wanted = asyncio.Event()
        self._noted: dict[
            str, tuple[Ticket, bytes] | None
        ] = {}  # tasks that waited at the last round; with their lines
        self._told: dict[tuple[Follower, str], tuple[int, int]] = {}  # position, number of the round
        self._round = 0
        self._scene: asyncio.Task[_Scene] | None = None
        self._scene_begun = float("-inf")

    def add(self, follower: Follower) -> None:
        """From now on, this follower is told the places of its tasks that wait."""
        if self._interval and any(map(follower.is_waiting, follower.open)):
            self._followers[follower] = None
            self._wanted.set()

    def remove(self, follower: Follower) -> None:
        self._followers.pop(follower, None)

    async def waits(self, tickets: Sequence[Ticket]) -> dict[str, Wait]:
        """What is known of tasks that wait, by key."""
        scene = await self._look()
        by_queue: dict[str, list[Ticket]] = defaultdict(list)
        for ticket in tickets:
            by_queue[ticket.queue].append(ticket)
        found: dict[str, Wait] = {}
        for queue, some in by_queue.items():
            found |= await self._waits_in(queue, some, scene)
        return found

    async def _waits_in(self, queue: str, tickets: Sequence[Ticket], scene: _Scene) -> dict[str, Wait]:
        lanes = await waiting.read_lanes(self._redis, queue)
        by_account: dict[str, list[Ticket]] = defaultdict(list)
        for ticket in tickets:
            by_account[ticket.account].append(ticket)
        before: dict[str, int] = {}
        for account, some in by_account.items():
            ranks = await waiting.read_ranks(self._redis, lanes.list_of(account), {ticket.key for ticket in some})
            before |= {key: lanes.before(account, rank) for key, rank in ranks.items()}
        waiting_for = scene.waiting_for(queue)
        sample = [] if waiting_for else await self._sample(lanes, tickets[0].account)
        crews: dict[str, _Crew] = {}
        found = {}
        for ticket in tickets:
            place = before.get(ticket.key)
            eta = None
            if place is not None and waiting_for is None:
                crew = crews.get(ticket.name) or _Crew(scene, ticket, self._registry, sample)
                eta = _eta(crews.setdefault(ticket.name, crew), place, scene.means.get(ticket.name))
            found[ticket.key] = Wait(None if place is None else place + 1, eta, waiting_for)
        return found

    async def _sample(self, lanes: Lanes, account: str) -> list[str]:
        """Names of tasks that come soon."""
        lists = {lanes.list_of(lanes.own), lanes.list_of(account)}
        found = await asyncio.gather(*(waiting.names_in(self._redis, name, SAMPLE) for name in lists))
        return [name for some in found for name in some]

    async def _look(self) -> _Scene:
        now = time.monotonic()
        if self._scene is None or now - self._scene_begun > SCENE_AGE:
            self._scene_begun = now
            self._scene = asyncio.create_task(self._look_anew(), name="positions")
            self._scene.add_done_callback(_retrieved)
        return await asyncio.shield(self._scene)

    async def _look_anew(self) -> _Scene:
        found = await asyncio.gather(
            workers.doing(self._redis),
            measures.mean_running(self._redis),
            queues.is_suspended(self._redis),
            queues.paused(self._redis),
        )
        return _Scene(*found)

    # Telling followers

    async def run(self) -> None:
        """Tells for ever, while there is somebody to be told."""
        while self._interval:
            await self._wanted.wait()
            began = time.monotonic()
            try:
                await self._tell_all()
            except (Unavailable, ResponseError) as error:
                log.debug("no places this time: %s", error)
            await asyncio.sleep(max(self._interval, REST * (time.monotonic() - began)))
            if not self._followers:
                self._wanted.clear()
                self._noted, self._told = {}, {}

    async def _tell_all(self) -> None:
        """One round. A task that waits for the first time in it is noted, and looked for in the next."""
        self._round += 1
        followed = await self._waiting_tasks()
        noted, self._noted = self._noted, {key: self._noted.get(key) for key in followed}
        await self._note([key for key in followed if key in noted and noted[key] is None])
        tickets = [found[0] for found in self._noted.values() if found is not None]
        waits = await self.waits(tickets) if tickets else {}
        news = []
        told, self._told = self._told, {}
        for key, wait in waits.items():
            for follower in followed[key]:
                before = told.get((follower, key))
                if before is not None:
                    self._told[follower, key] = before
                if wait.position is not None and (before is None or before[0] != wait.position):
                    news.append((before[1] if before else 0, follower, key, wait.position))
        news.sort(key=lambda item: item[0])
        for _, follower, key, position in news[:MOST_LINES]:
            self._told[follower, key] = (position, self._round)
            noted_one = self._noted[key]
            assert noted_one is not None
            follower.hint(key, line_with(noted_one[1], waits[key]))

    async def _waiting_tasks(self) -> dict[str, list[Follower]]:
        """The followed tasks that wait, with who follows them."""
        found: dict[str, list[Follower]] = {}
        for number, (follower, key) in enumerate(self._open_tasks(), 1):
            if number > MOST_LOOKED or len(found) >= MOST_TOLD:
                break
            if follower.is_waiting(key):
                found.setdefault(key, []).append(follower)
            if number % TURN == 0:
                await asyncio.sleep(0)
        return found

    def _open_tasks(self) -> Iterator[tuple[Follower, str]]:
        for follower in tuple(self._followers):
            for key in tuple(follower.open):
                yield follower, key

    async def _note(self, keys: Sequence[str]) -> None:
        for first in range(0, len(keys), TURN):
            for ticket, line in await tasks.read_tickets(self._redis, keys[first : first + TURN]):
                self._noted[ticket.key] = (ticket, line)


def _retrieved(looking: asyncio.Task[_Scene]) -> None:
    """Who asked may have gone: then nobody else takes the exception."""
    if not looking.cancelled():
        looking.exception()


def _eta(crew: _Crew, before: int, own_mean: float | None) -> float | None:
    seconds = crew.seconds_until_free(before)
    return None if seconds is None or own_mean is None else round(seconds + own_mean, 1)


def line_with(line: bytes, wait: Wait) -> bytes:
    """A queued task's line with its place and when it is expected to end."""
    return line[:-1] + b"," + orjson.dumps({"position": wait.position, "eta": wait.eta})[1:]
