"""What a supervisor and a load balancer ask."""

from __future__ import annotations

from aiohttp import web

from dragon import __version__
from dragon.errors import Unavailable
from dragon.server.answers import json_answer
from dragon.service import Service


class Health:
    """Whether the process is up, and whether tasks would run."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def routes(self) -> list[web.RouteDef]:
        return [web.get("/healthz", self.healthz), web.get("/readyz", self.readyz)]

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
