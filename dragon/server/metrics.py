"""/metrics, for Prometheus: what this process does, and what Redis knows of all, as far as it answers in time."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from aiohttp import web
from prometheus_client import generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from redis.exceptions import ResponseError

from dragon.errors import Unavailable
from dragon.server.protocol import Tally
from dragon.service import Service
from dragon.store import measures, queues, workers
from dragon.store.measures import BOUNDS, Histogram, Measured
from dragon.store.queues import QueuePicture, QueuesPicture
from dragon.store.workers import WorkerPicture

log = logging.getLogger("dragon.server")

LOOK_WAIT = 2.0  # seconds that Redis has to answer; then the process's own metrics go out without the rest
LOOK_AGE = 1.0  # seconds for which one look serves all who ask
_THINNED = range(0, len(BOUNDS), 2)  # every second bucket: powers of two


@dataclass(frozen=True, slots=True)
class _Look:
    """What Redis knows."""

    queues: QueuesPicture
    measured: dict[str, Measured]
    workers: list[WorkerPicture]


class Metrics:
    """One page of numbers."""

    def __init__(self, service: Service, tally: Tally) -> None:
        self._service = service
        self._tally = tally
        self._queues = {task.queue for task in service.registry.tasks.values()} | set(service.config.worker.queues)
        self._looking: asyncio.Task[_Look] | None = None
        self._looked = float("-inf")  # monotonic seconds: when the look was begun

    def routes(self) -> list[web.RouteDef]:
        return [web.get("/metrics", self.metrics)]

    async def metrics(self, _request: web.Request) -> web.Response:
        look = await self._look()
        families = [
            *_of_process(self._service, self._tally),
            _gauge("dragon_redis_up", "Redis answers.", look is not None),
        ]
        if look is not None:
            families += [
                *_of_queues([queue for queue in look.queues.queues if queue.name in self._queues]),
                *_of_tasks(look.measured),
                *_of_workers(look.workers),
            ]
        body = generate_latest(_Page(families))
        return web.Response(body=body, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})

    async def _look(self) -> _Look | None:
        """What Redis says, None when it does not say it in time. Anybody may ask, so all who ask at once share it."""
        now = time.monotonic()
        if self._looking is None or now - self._looked > LOOK_AGE:
            self._looked = now
            self._looking = asyncio.create_task(self._ask(), name="metrics")
            self._looking.add_done_callback(_retrieved)
        try:
            async with asyncio.timeout(LOOK_WAIT):
                return await asyncio.shield(self._looking)
        except (Unavailable, TimeoutError):
            return None
        except ResponseError as error:
            log.warning("metrics: Redis refuses: %s", error)
            return None

    async def _ask(self) -> _Look:
        redis = self._service.redis
        found = await asyncio.gather(
            queues.look(redis, self._service.config.files.life, self._queues),
            measures.measured(redis),
            workers.doing(redis),
        )
        return _Look(*found)


def _retrieved(looking: asyncio.Task[_Look]) -> None:
    """Who asked may have gone: then nobody else takes the exception."""
    if not looking.cancelled():
        looking.exception()


class _Page(Collector):
    """Metrics that were read already."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)


def _of_process(service: Service, tally: Tally) -> Iterator[Metric]:
    yield _gauge("dragon_followed_tasks", "Tasks that streams and waits follow now.", service.feed.followed)
    yield _gauge("dragon_redis_round_trips", "Round trips to Redis since the start.", service.redis.round_trips)
    yield _gauge("dragon_streams", "Streams and waiting calls that are open now.", service.streams.count)
    yield _gauge("dragon_connections", "Connections that are open now.", tally.open)
    yield CounterMetricFamily("dragon_refused_connections", "Connections that were too many.", value=tally.refused)
    cut = CounterMetricFamily(
        "dragon_cut_connections", "Connections whose clients were too slow with something.", labels=["with"]
    )
    for what in ("head", "body", "answer"):
        cut.add_metric([what], tally.cut[what])
    yield cut
    yield from _of_requests(tally)


def _of_requests(tally: Tally) -> Iterator[Metric]:
    labels = ["method", "route", "status"]
    requests = CounterMetricFamily(
        "dragon_http_requests", "Requests that were answered, or whose clients have left meanwhile.", labels=labels
    )
    seconds = CounterMetricFamily(
        "dragon_http_request_seconds", "Seconds that they took, streams included.", labels=labels
    )
    for which, (count, took) in tally.requests.items():
        requests.add_metric(which, count)
        seconds.add_metric(which, took)
    yield requests
    yield seconds


def _of_queues(seen: list[QueuePicture]) -> Iterator[Metric]:
    count = GaugeMetricFamily("dragon_queue_tasks", "Tasks that wait, by queue.", labels=["queue"])
    oldest = GaugeMetricFamily(
        "dragon_queue_oldest_seconds", "How long the task waits that comes next; 0 when none does.", labels=["queue"]
    )
    paused = GaugeMetricFamily("dragon_queue_paused", "Workers take nothing from the queue.", labels=["queue"])
    for queue in seen:
        count.add_metric([queue.name], queue.waiting)
        oldest.add_metric([queue.name], queue.oldest or 0.0)
        paused.add_metric([queue.name], queue.paused)
    yield count
    yield oldest
    yield paused


def _of_tasks(measured: dict[str, Measured]) -> Iterator[Metric]:
    ended = CounterMetricFamily("dragon_tasks", "Tasks that have ended.", labels=["task", "outcome"])
    kept_waiting = HistogramMetricFamily(
        "dragon_task_waiting_seconds", "From being queued to the start.", labels=["task"]
    )
    running = HistogramMetricFamily("dragon_task_running_seconds", "From the start to the end.", labels=["task"])
    for name, one in measured.items():
        for outcome, count in one.outcomes.items():
            ended.add_metric([name, outcome], count)
        kept_waiting.add_metric([name], _cumulated(one.waiting), one.waiting.seconds)
        running.add_metric([name], _cumulated(one.running), one.running.seconds)
    yield ended
    yield kept_waiting
    yield running


def _cumulated(histogram: Histogram) -> list[tuple[str, float]]:
    """The buckets as Prometheus has them: how many were in each bound or below."""
    buckets = [(f"{BOUNDS[at]:g}", float(sum(histogram.buckets[: at + 1]))) for at in _THINNED]
    return [*buckets, ("+Inf", float(sum(histogram.buckets)))]


def _of_workers(seen: list[WorkerPicture]) -> Iterator[Metric]:
    count = GaugeMetricFamily("dragon_workers", "Workers that give signs of life; rq: RQ's own.", labels=["kind"])
    for kind in ("dragon", "rq"):
        count.add_metric([kind], sum(worker.kind == kind for worker in seen))
    yield count
    executors = GaugeMetricFamily("dragon_executors", "Processes that run tasks.", labels=["kind"])
    busy = GaugeMetricFamily("dragon_executors_busy", "Those that have a task.", labels=["kind"])
    tasks = GaugeMetricFamily("dragon_executing_tasks", "Tasks that they have.", labels=["kind"])
    for kind in ("def", "async", "rq"):
        found = [executor for worker in seen for executor in worker.executors if executor.kind == kind]
        executors.add_metric([kind], len(found))
        busy.add_metric([kind], sum(bool(executor.tasks) for executor in found))
        tasks.add_metric([kind], sum(len(executor.tasks) + executor.more for executor in found))
    yield from (executors, busy, tasks)
