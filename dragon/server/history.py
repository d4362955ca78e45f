"""What was measured of ended tasks in the last hour or day, for plots."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from aiohttp import web

from dragon.auth import Account, Accounts, read_credentials
from dragon.definition import NAME_LIMIT
from dragon.errors import BadRequest, ParameterError, Unauthorized
from dragon.server.answers import json_answer
from dragon.server.requests import is_utf8, one_of
from dragon.service import Service
from dragon.store import measures
from dragon.store.measures import Period

_PERIODS: dict[str, Period] = {"hour": "hour", "day": "day"}
_NOT_A_SECRET = "the operator API needs a secret key in the header: Authorization: Secret KEY"  # noqa: S105


def require_operator(accounts: Accounts, headers: Mapping[str, str]) -> Account:
    """The account of a call of the operator API: a secret key in the header, nothing else. Raises Unauthorized."""
    credentials = read_credentials(headers)
    if credentials.secret is None:
        raise Unauthorized(_NOT_A_SECRET)
    return accounts.authenticate(credentials)


class History:
    """Throughput, waiting and running times; the same for all accounts."""

    def __init__(self, service: Service, accounts: Accounts) -> None:
        self._service = service
        self._accounts = accounts

    def routes(self) -> list[web.RouteDef]:
        return [web.get("/v1/operator/history", self.history, allow_head=False)]

    async def history(self, request: web.Request) -> web.StreamResponse:
        require_operator(self._accounts, request.headers)
        period, name = _read(request)
        samples = await measures.history(self._service.redis, period, name)
        return json_answer(
            {
                "period": period,
                "names": await measures.names_measured(self._service.redis),
                "samples": [dataclasses.asdict(sample) for sample in samples],
            }
        )


def _read(request: web.Request) -> tuple[Period, str | None]:
    errors: list[ParameterError] = []
    period = _PERIODS.get(one_of(request, "period", errors) or "hour")
    name = one_of(request, "name", errors)
    if period is None:
        errors.append(ParameterError("period", "querystring", "period must be hour or day"))
    if name is not None and (len(name) > NAME_LIMIT or not is_utf8(name)):
        text = f"name must be a task name, {NAME_LIMIT} characters at most"
        errors.append(ParameterError("name", "querystring", text))
    if errors or period is None:
        raise BadRequest(*errors)
    return period, name or None
