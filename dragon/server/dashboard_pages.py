"""/dashboard and what it is made of: files that are read at start. They are public; what they show needs a key."""

from __future__ import annotations

import html
from collections.abc import Mapping
from pathlib import Path

from aiohttp import web

from dragon.config import Config
from dragon.errors import NotFound
from dragon.server.openapi import demo_secret
from dragon.server.pages import Document, fill, page, read_static

DASHBOARD = Path(__file__).parent / "dashboard"


class DashboardPages:
    """One page, whose views are told apart behind the # of its address, and its modules by their plain names."""

    def __init__(self, config: Config) -> None:
        self._page = page(fill(DASHBOARD / "index.html", _values(config)))
        self._files = read_static(DASHBOARD) | read_static(DASHBOARD / "vendor")

    def routes(self) -> list[web.RouteDef]:
        return [web.get("/dashboard", self.dashboard), web.get("/dashboard/{name}", self.file)]

    async def dashboard(self, request: web.Request) -> web.Response:
        return self._page.answer(request)

    async def file(self, request: web.Request) -> web.Response:
        document: Document | None = self._files.get(request.match_info["name"])
        if document is None:
            raise NotFound("there is no such file")
        return document.answer(request)


def _values(config: Config) -> Mapping[str, str]:
    """What the page has to know before anybody logs in: nothing that /docs does not say as well."""
    known = {
        "address": config.public_url,
        "demo": demo_secret(config) if config.listens_on_loopback else "",
        "heartbeat": str(config.server.heartbeat),
    }
    return {name: html.escape(text) for name, text in known.items()}
