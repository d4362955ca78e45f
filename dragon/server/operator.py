"""The operator API as a dialect over dragon.operator: request, call, answer."""

from __future__ import annotations

from aiohttp import web

from dragon.auth import Account, Accounts
from dragon.operator import Operator
from dragon.server.answers import json_answer
from dragon.server.streaming import stream_news


class OperatorApi:
    """The handlers; `routes` is their table."""

    def __init__(self, operator: Operator, accounts: Accounts, heartbeat: float) -> None:
        """`heartbeat` in seconds: how long a stream may be silent."""
        self._operator = operator
        self._accounts = accounts
        self._heartbeat = heartbeat

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/v1/operator/account", self.account),
            web.get("/v1/operator/overview", self.overview),
            web.get("/v1/operator/overview_stream", self.overview_stream, allow_head=False),
        ]

    async def account(self, request: web.Request) -> web.StreamResponse:
        return json_answer(await self._operator.account(self._authenticate(request)))

    async def overview(self, request: web.Request) -> web.StreamResponse:
        return json_answer(await self._operator.overview(self._authenticate(request)))

    async def overview_stream(self, request: web.Request) -> web.StreamResponse:
        watcher = await self._operator.watch_overview(self._authenticate(request))
        try:
            return await stream_news(request, watcher, self._heartbeat)
        finally:
            self._operator.leave(watcher)

    def _authenticate(self, request: web.Request) -> Account:
        return self._accounts.authenticate_operator(request.headers)
