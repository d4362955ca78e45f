"""What a supervisor, a load balancer and a monitor ask."""

from __future__ import annotations

from aiohttp import web
from prometheus_client import CollectorRegistry, Gauge, generate_latest

from dragon import __version__
from dragon.errors import Unavailable
from dragon.server.answers import json_answer
from dragon.service import Service


class Health:
    """The process's own state."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._registry = CollectorRegistry()
        followed = Gauge("dragon_followed_tasks", "Tasks that streams and waits follow now.", registry=self._registry)
        followed.set_function(lambda: service.feed.followed)
        trips = Gauge("dragon_redis_round_trips", "Round trips to Redis since the start.", registry=self._registry)
        trips.set_function(lambda: service.redis.round_trips)

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/healthz", self.healthz),
            web.get("/readyz", self.readyz),
            web.get("/metrics", self.metrics),
        ]

    async def healthz(self, _request: web.Request) -> web.Response:
        return json_answer({"status": "ok", "version": __version__})

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
