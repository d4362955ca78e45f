"""What a supervisor, a load balancer and a monitor ask."""

from __future__ import annotations

from collections.abc import Iterator

from aiohttp import web
from prometheus_client import CollectorRegistry, Gauge, generate_latest
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from dragon import __version__
from dragon.errors import Unavailable
from dragon.server.answers import json_answer
from dragon.server.protocol import Tally
from dragon.service import Service


class Health:
    """The process's own state."""

    def __init__(self, service: Service, tally: Tally) -> None:
        self._service = service
        self._registry = CollectorRegistry()
        followed = Gauge("dragon_followed_tasks", "Tasks that streams and waits follow now.", registry=self._registry)
        followed.set_function(lambda: service.feed.followed)
        trips = Gauge("dragon_redis_round_trips", "Round trips to Redis since the start.", registry=self._registry)
        trips.set_function(lambda: service.redis.round_trips)

        streams = Gauge("dragon_streams", "Streams and waiting calls that are open now.", registry=self._registry)
        streams.set_function(lambda: service.streams.count)
        connections = Gauge("dragon_connections", "Connections that are open now.", registry=self._registry)
        connections.set_function(lambda: tally.open)
        self._registry.register(_Clients(tally))

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/healthz", self.healthz),
            web.get("/readyz", self.readyz),
            web.get("/metrics", self.metrics),
        ]

    async def healthz(self, request: web.Request) -> web.Response:
        # By which HTTP it was asked only the server can tell: `dragon doctor URL` looks whether a proxy asks by 1.0.
        asked = f"{request.version.major}.{request.version.minor}"
        return json_answer({"status": "ok", "version": __version__, "http": asked})

    async def readyz(self, _request: web.Request) -> web.Response:
        try:
            reason = await self._service.unready()
        except Unavailable as error:
            reason = error.message
        if reason is None:
            return json_answer({"status": "ok"})
        return json_answer({"status": "error", "message": reason}, 503, {"Retry-After": "2"})

    async def metrics(self, _request: web.Request) -> web.Response:
        body = generate_latest(self._registry)
        return web.Response(body=body, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})


class _Clients(Collector):
    """What was done about clients that are too slow or too many."""

    def __init__(self, tally: Tally) -> None:
        self._tally = tally

    def collect(self) -> Iterator[Metric]:
        yield CounterMetricFamily(
            "dragon_refused_connections", "Connections that were too many.", value=self._tally.refused
        )
        cut = CounterMetricFamily(
            "dragon_cut_connections", "Connections whose clients were too slow with something.", labels=["with"]
        )
        for what in ("head", "body", "answer"):
            cut.add_metric([what], self._tally.cut[what])
        yield cut
