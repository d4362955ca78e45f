"""The operator API as a dialect over dragon.operator: request, call, answer."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

from aiohttp import web

from dragon.auth import Account, Accounts
from dragon.definition import NAME_LIMIT
from dragon.errors import BadRequest, ParameterError
from dragon.keys import is_key
from dragon.operator import Operator, QueueState, read_cursor
from dragon.server.answers import json_answer
from dragon.server.requests import is_utf8, one_of, read_keys, read_object
from dragon.server.streaming import line_list, stream_news
from dragon.status import timestamp_of
from dragon.store.listing import STATES, Filters
from dragon.store.measures import Period

MOST_ROWS, USUAL_ROWS = 500, 50  # of a page
MOST_TASKS = 1000  # in a call that retries or cancels
FILTER_LIMIT = 200  # characters
PERIODS: dict[str, Period] = {"hour": "hour", "day": "day"}
GROUP = re.compile(r"[0-9a-f]{16}")

Errors = list[ParameterError]


class OperatorApi:
    """The handlers; `routes` is their table."""

    def __init__(self, operator: Operator, accounts: Accounts, heartbeat: float) -> None:
        """`heartbeat` in seconds: how long a stream may be silent."""
        self._operator = operator
        self._accounts = accounts
        self._heartbeat = heartbeat
        self._actions: dict[str, Callable[[Account, str], Awaitable[QueueState]]] = {
            "pause": operator.pause,
            "resume": operator.resume,
            "clear": operator.clear,
        }

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/v1/operator/account", self.account),
            web.get("/v1/operator/overview", self.overview),
            web.get("/v1/operator/overview_stream", self.overview_stream, allow_head=False),
            web.get("/v1/operator/tasks", self.tasks),
            web.get("/v1/operator/tasks_stream", self.tasks_stream, allow_head=False),
            web.get("/v1/operator/tasks/{key}", self.task),
            web.get("/v1/operator/failures", self.failures),
            web.get("/v1/operator/history", self.history, allow_head=False),
            web.post("/v1/operator/retry", self.retry),
            web.post("/v1/operator/cancel", self.cancel),
            web.post("/v1/operator/queues/{queue}", self.queue),
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

    async def tasks(self, request: web.Request) -> web.StreamResponse:
        account = self._authenticate(request)
        filters, limit = _read_search(request)
        after = one_of(request, "after", [])
        try:
            cursor = read_cursor(after, account, filters) if after else None
        except ValueError as error:
            raise BadRequest(ParameterError("after", "querystring", str(error))) from None
        return json_answer(await self._operator.tasks(account, filters, limit, cursor))

    async def tasks_stream(self, request: web.Request) -> web.StreamResponse:
        account = self._authenticate(request)
        watcher = await self._operator.watch_tasks(account, *_read_search(request))
        try:
            return await stream_news(request, watcher, self._heartbeat)
        finally:
            self._operator.leave(watcher)

    async def task(self, request: web.Request) -> web.StreamResponse:
        account = self._authenticate(request)
        key = request.match_info["key"]
        if not is_key(key):
            raise BadRequest(ParameterError("key", "path", "this is not a task key (26 characters A-Z2-7)"))
        return json_answer(await self._operator.task(account, key))

    async def failures(self, request: web.Request) -> web.StreamResponse:
        account = self._authenticate(request)
        errors: Errors = []
        since, name = _read_date(request, "since", errors), _read_text(request, "name", errors)
        if errors:
            raise BadRequest(*errors)
        return json_answer(await self._operator.failures(account, since, name))

    async def history(self, request: web.Request) -> web.StreamResponse:
        account = self._authenticate(request)
        errors: Errors = []
        period, name = PERIODS.get(one_of(request, "period", errors) or "hour"), one_of(request, "name", errors) or ""
        if period is None:
            errors.append(ParameterError("period", "querystring", "period must be hour or day"))
        if len(name) > NAME_LIMIT or not is_utf8(name):
            text = f"name must be a task name, {NAME_LIMIT} characters at most"
            errors.append(ParameterError("name", "querystring", text))
        if errors or period is None:
            raise BadRequest(*errors)
        return json_answer(await self._operator.history(account, period, name or None))

    async def retry(self, request: web.Request) -> web.StreamResponse:
        account = self._authenticate(request)
        body = await read_object(request)
        errors: Errors = []
        limit = _read_limit(body.get("limit"), "body", MOST_TASKS, MOST_TASKS, errors)
        group = body.get("group")
        if group is None:
            keys = read_keys(body.get("tasks"), "body", MOST_TASKS, errors)
        elif "tasks" in body:
            errors.append(ParameterError("group", "body", "give tasks or a group, not both"))
        elif not (isinstance(group, str) and GROUP.fullmatch(group)):
            errors.append(ParameterError("group", "body", "group must be the id of a group of failures"))
        if errors:
            raise BadRequest(*errors)
        if group is None:
            return json_answer(await self._operator.retry(account, keys))
        return json_answer(await self._operator.retry_group(account, group, limit))

    async def cancel(self, request: web.Request) -> web.StreamResponse:
        account = self._authenticate(request)
        body = await read_object(request)
        errors: Errors = []
        keys = read_keys(body.get("tasks"), "body", MOST_TASKS, errors)
        if errors:
            raise BadRequest(*errors)
        return json_answer(line_list(await self._operator.cancel(account, keys)))

    async def queue(self, request: web.Request) -> web.StreamResponse:
        account = self._authenticate(request)
        body = await read_object(request)
        action = body.get("action")
        if not (isinstance(action, str) and action in self._actions):
            text = f"action must be one of: {', '.join(self._actions)}"
            raise BadRequest(ParameterError("action", "body", text))
        return json_answer(await self._actions[action](account, request.match_info["queue"]))

    def _authenticate(self, request: web.Request) -> Account:
        return self._accounts.authenticate_operator(request.headers)


def _read_search(request: web.Request) -> tuple[Filters, int]:
    errors: Errors = []
    state = one_of(request, "state", errors) or ""
    if state not in STATES:
        choices = ", ".join(sorted(filter(None, STATES)))
        errors.append(ParameterError("state", "querystring", f"state must be one of: {choices}; or empty for all"))
    filters = Filters(
        state,
        _read_text(request, "name", errors),
        _read_text(request, "account", errors),
        _read_date(request, "since", errors),
        _read_date(request, "until", errors),
        _read_text(request, "text", errors),
    )
    one_of(request, "after", errors)
    limit = _read_limit(one_of(request, "limit", errors), "querystring", USUAL_ROWS, MOST_ROWS, errors)
    if errors:
        raise BadRequest(*errors)
    return filters, limit


def _read_text(request: web.Request, name: str, errors: Errors) -> str:
    text = one_of(request, name, errors) or ""
    if len(text) > FILTER_LIMIT:
        errors.append(ParameterError(name, "querystring", f"{name} has {FILTER_LIMIT} characters at most"))
    elif not is_utf8(text):
        errors.append(ParameterError(name, "querystring", f"{name} must be UTF-8"))
    else:
        return text
    return ""


def _read_date(request: web.Request, name: str, errors: Errors) -> str:
    """A moment, as dragon writes dates; "" when it is missing or wrong."""
    text = one_of(request, name, errors) or ""
    if not text:
        return ""
    try:
        return timestamp_of(_moment(text))
    except (ValueError, OverflowError, OSError):
        wanted = f"{name} must be a date in ISO 8601, as 2026-01-31T12:00:00Z, or unix time in seconds"
        errors.append(ParameterError(name, "querystring", wanted))
        return ""


def _moment(text: str) -> datetime:
    if re.fullmatch(r"\d{1,11}(\.\d{1,9})?", text, re.ASCII):
        return datetime.fromtimestamp(float(text), UTC)
    # A + that was not written as %2B has become a space.
    found = datetime.fromisoformat(re.sub(r" (?=\d\d:?\d\d$)", "+", text) if "T" in text else text)
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _read_limit(value: Any, location: str, usual: int, most: int, errors: Errors) -> int:
    if value is None:
        return usual
    if isinstance(value, str) and re.fullmatch(r"\d{1,6}", value, re.ASCII):
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= most:
        return value
    errors.append(ParameterError("limit", location, f"limit must be a number, 1 to {most}"))
    return usual
