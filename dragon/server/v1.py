"""Version 1 of the API, as one dialect over the service: request, service call, response."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any
from urllib.parse import quote, urlsplit

from aiohttp import hdrs, web

from dragon.auth import Account, Accounts, read_credentials
from dragon.definition import NAME_LIMIT, RESERVED_ON_GET, Definition, read_definitions
from dragon.errors import BadRequest, ParameterError
from dragon.keys import is_key
from dragon.server.answers import json_answer
from dragon.server.requests import (
    is_utf8,
    one_of,
    read_filename,
    read_flag,
    read_key,
    read_keys,
    read_number,
    read_object,
    read_timeout,
)
from dragon.server.streaming import LAST_EVENT, answer_when_known, line_list, stream, stream_log, wants_events
from dragon.server.timing import REUSED, timing
from dragon.service import FileAnswer, Service
from dragon.signing import is_signed
from dragon.store.logs import MOST_NUMBERS
from dragon.store.tasks import Line
from dragon.task import ParametersError

MOST_CACHED = 3600  # seconds that a browser may keep a redirect to an output file
CONVERTED = 1024  # querystrings whose parameters are remembered
IDEMPOTENCY_KEY_LIMIT = 255  # characters


class Version1:
    """The handlers; `routes` is their table."""

    def __init__(self, service: Service, accounts: Accounts) -> None:
        self._service = service
        self._accounts = accounts
        self._config = service.config.server
        self._origin = "{0.scheme}://{0.netloc}/".format(urlsplit(service.config.public_url))
        # The pictures of a page are asked for by all of its visitors, in the same words.
        self._converted = lru_cache(CONVERTED)(self._convert)

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post("/v1/create", self.create),
            web.post("/v1/create_stream", self.create_stream),
            web.get("/v1/status", self.status, allow_head=False),
            web.post("/v1/status", self.status),
            web.get("/v1/status_stream", self.status_stream, allow_head=False),
            web.post("/v1/status_stream", self.status_stream),
            web.get("/v1/stream", self.status_stream, allow_head=False),
            web.post("/v1/stream", self.status_stream),
            web.post("/v1/create_file", self.create_file),
            web.post("/v1/create_file/{filename:[^/]+}", self.create_file),
            web.get("/v1/create_file", self.get_create_file, allow_head=False),
            web.get("/v1/create_file/{filename:[^/]+}", self.get_create_file, allow_head=False),
            web.get("/v1/file", self.file),
            web.get("/v1/file/{filename:[^/]+}", self.file),
            web.get("/v1/log", self.log, allow_head=False),
            web.get("/v1/tasks", self.tasks),
            web.delete("/v1/tasks/{key}", self.cancel),
        ]

    async def create(self, request: web.Request) -> web.StreamResponse:
        body = await read_object(request)
        account = self._authenticate(request, body)
        definitions, wait, timeout, idempotency_key = self._read_create(request, body)
        if not wait:
            lines = await self._service.create(account, definitions, idempotency_key=idempotency_key)
            return json_answer(line_list([line.line for line in lines]))
        lines, follower = await self._service.create_and_follow(account, definitions, idempotency_key=idempotency_key)
        try:
            return await self._answer_when_final(request, lines, self._service.wait(lines, follower, timeout))
        finally:
            self._service.leave(follower)

    async def create_stream(self, request: web.Request) -> web.StreamResponse:
        body = await read_object(request)
        account = self._authenticate(request, body)
        definitions, _, _, idempotency_key = self._read_create(request, body)
        lines, follower = await self._service.create_and_follow(account, definitions, idempotency_key=idempotency_key)
        self._service.positions.add(follower)
        try:
            return await stream(request, lines, follower, self._config.heartbeat)
        finally:
            self._service.leave(follower)

    async def status(self, request: web.Request) -> web.StreamResponse:
        keys, wait, timeout, with_details = await self._read_status(request)
        if not wait:
            lines = [line.line for line in await self._service.read(keys)]
            return json_answer(line_list(await self._service.details(lines) if with_details else lines))
        found, follower = await self._service.follow(keys)
        try:
            waiting = self._service.wait(found, follower, timeout)
            return await self._answer_when_final(request, found, waiting, with_details=with_details)
        finally:
            self._service.leave(follower)

    async def status_stream(self, request: web.Request) -> web.StreamResponse:
        keys, _, _, _ = await self._read_status(request)
        if request.headers.get("Last-Event-ID") == LAST_EVENT:
            return web.Response(status=204)  # an EventSource that has seen the end: it stops asking
        lines, follower = await self._service.follow(keys)
        self._service.positions.add(follower)
        try:
            return await stream(request, lines, follower, self._config.heartbeat)
        finally:
            self._service.leave(follower)

    async def create_file(self, request: web.Request) -> web.StreamResponse:
        errors: list[ParameterError] = []
        filename = read_filename(request, errors)
        body = await read_object(request)
        account = self._authenticate(request, body)
        if "task" not in body:
            errors.append(ParameterError("task", "body", "task is missing"))
        elif not isinstance(body["task"], dict):
            errors.append(ParameterError("task", "body", "task must be one task definition (an object)"))
        else:
            definition = _read_definitions(body["task"], 1, "task", errors)
        if errors:
            raise BadRequest(*errors)
        return await self._redirect(
            request, filename, self._service.create_file(account, definition[0], filename, single_flight=False)
        )

    async def get_create_file(self, request: web.Request) -> web.StreamResponse:
        errors: list[ParameterError] = []
        filename = read_filename(request, errors)
        account = self._authenticate_get(request, filename)
        definition = self._read_query_definition(request, errors)
        if errors:
            raise BadRequest(*errors)
        return await self._redirect(
            request, filename, self._service.create_file(account, definition, filename, single_flight=True)
        )

    async def file(self, request: web.Request) -> web.StreamResponse:
        errors: list[ParameterError] = []
        filename = read_filename(request, errors)
        key = read_key(request, "task", errors)
        if errors:
            raise BadRequest(*errors)
        if is_signed(request.query.items()):
            self._accounts.verify_signature("file", filename, list(request.query.items()))
        return await self._redirect(request, filename, self._service.file(key, filename))

    async def log(self, request: web.Request) -> web.StreamResponse:
        errors: list[ParameterError] = []
        key = read_key(request, "task", errors)
        after = read_number(request, "after", MOST_NUMBERS, errors)
        follows = read_flag("follow", one_of(request, "follow", errors), "querystring", errors)
        if errors:
            raise BadRequest(*errors)
        last = request.headers.get("Last-Event-ID", "") if wants_events(request) else ""
        if follows and last == LAST_EVENT:
            return web.Response(status=204)  # an EventSource that has seen the end: it stops asking
        if last.isascii() and last.isdigit() and len(last) < 16:  # one that was cut goes on behind what it has
            after = max(after, int(last))
        if not follows:
            page = await self._service.log(key, after)
            lines = [line._asdict() for line in page.lines]
            return json_answer({"key": key, "lines": lines, "next": page.next, "ended": page.ended})
        follower = await self._service.follow_log(key, after)
        try:
            return await stream_log(request, follower, self._config.heartbeat)
        finally:
            self._service.leave(follower.listener)

    async def tasks(self, _request: web.Request) -> web.StreamResponse:
        return json_answer(await self._service.catalogue())

    async def cancel(self, request: web.Request) -> web.StreamResponse:
        account = self._authenticate(request, None)
        key = request.match_info["key"]
        if not is_key(key):
            raise BadRequest(ParameterError("key", "path", "this is not a task key (26 characters A-Z2-7)"))
        return json_answer(await self._service.cancel(account, key))

    def _authenticate(self, request: web.Request, body: dict[str, Any] | None) -> Account:
        query = request.query if request.method == hdrs.METH_GET else None
        return self._accounts.authenticate(read_credentials(request.headers, body, query))

    def _authenticate_get(self, request: web.Request, filename: str | None) -> Account:
        if is_signed(request.query.items()):
            return self._accounts.verify_signature("create_file", filename, list(request.query.items()))
        credentials = read_credentials(request.headers, None, request.query)
        if credentials.missing:
            return self._accounts.keyless(credentials.page)
        return self._accounts.authenticate(credentials)

    def _read_create(self, request: web.Request, body: dict[str, Any]) -> tuple[list[Definition], bool, float, str]:
        errors: list[ParameterError] = []
        wait = read_flag("block", body.get("block"), "body", errors)
        timeout = read_timeout(body.get("timeout"), self._config.block_timeout, "body", errors)
        definitions: list[Definition] = []
        if "tasks" not in body:
            errors.append(ParameterError("tasks", "body", "tasks is missing"))
        else:
            definitions = _read_definitions(body["tasks"], self._config.max_tasks_per_call, "tasks", errors)
        idempotency_key = _read_idempotency_key(request, body, errors)
        if errors:
            raise BadRequest(*errors)
        return definitions, wait, timeout, idempotency_key

    async def _read_status(self, request: web.Request) -> tuple[list[str], bool, float, bool]:
        errors: list[ParameterError] = []
        if request.method == hdrs.METH_POST:
            place, values = "body", await read_object(request)
            tasks = values.get("tasks")
        else:
            place, values = (
                "querystring",
                {name: one_of(request, name, errors) for name in ("block", "timeout", "details")},
            )
            tasks = request.query.getall("tasks", None)
        keys = read_keys(tasks, place, self._config.max_tasks_per_call, errors)
        wait = read_flag("block", values.get("block"), place, errors)
        timeout = read_timeout(values.get("timeout"), self._config.block_timeout, place, errors)
        with_details = read_flag("details", values.get("details"), place, errors)
        if errors:
            raise BadRequest(*errors)
        return keys, wait, timeout, with_details

    def _read_query_definition(self, request: web.Request, errors: list[ParameterError]) -> Definition:
        name = one_of(request, "task_name", errors, required=True) or ""
        if len(name) > NAME_LIMIT:
            text = f"task_name must be a string of 1 to {NAME_LIMIT} characters"
            errors.append(ParameterError("task_name", "querystring", text))
        given = [(parameter, text) for parameter, text in request.query.items() if parameter not in RESERVED_ON_GET]
        return self._converted(name, tuple(given))

    def _convert(self, name: str, given: tuple[tuple[str, str], ...]) -> Definition:
        texts: dict[str, list[str]] = {}
        for parameter, text in given:
            texts.setdefault(parameter, []).append(text)
        task = self._service.registry.get(name)
        if task is None:
            return Definition(name, dict(texts))
        try:
            return Definition(name, task.convert(texts))
        except ParametersError as error:
            return Definition(name, dict(texts), problems=error.problems)

    async def _answer_when_final(
        self, request: web.Request, lines: Sequence[Line], waiting: Any, *, with_details: bool = False
    ) -> web.StreamResponse:
        headers: dict[str, str] = {}

        async def answer() -> bytes:
            statuses = await waiting
            headers.update(timing(statuses))
            return line_list(await self._service.details(statuses) if with_details else statuses)

        return await answer_when_known(request, answer(), self._config.heartbeat, headers)

    async def _redirect(self, request: web.Request, filename: str | None, waiting: Any) -> web.StreamResponse:
        answer: FileAnswer = await waiting
        if answer.failed is not None:
            return json_answer(answer.failed, 400)
        if answer.url is None:
            # Browsers follow twenty of these, and none of them meets a proxy's limit of 60 s.
            place = "/v1/file" + (f"/{quote(filename, safe='')}" if filename else "")
            return web.Response(
                status=302, headers={"Location": f"{place}?task={answer.key}", "Cache-Control": "no-store"}
            )
        cached = f"private, max-age={min(answer.life, MOST_CACHED)}"
        headers = {"Location": self._location(answer.url), "Cache-Control": cached}
        return web.Response(status=302, headers=headers | (REUSED if answer.reused else timing([answer.line])))

    def _location(self, url: str) -> str:
        """The server's own files are redirected to by their path, so that any name that reaches the server will do."""
        return url[len(self._origin) - 1 :] if url.startswith(self._origin) else url


def _read_definitions(value: object, limit: int, name: str, errors: list[ParameterError]) -> list[Definition]:
    try:
        return read_definitions(value, limit, name)
    except BadRequest as error:
        errors += error.errors
        return []


def _read_idempotency_key(request: web.Request, body: dict[str, Any], errors: list[ParameterError]) -> str:
    """The header or, so that a page's request needs no preflight, a member of the body; "" when there is none."""
    key: object = request.headers.get("Idempotency-Key", "")
    name, location = "Idempotency-Key", "header"
    if not key:
        key = body.get("idempotency_key") or ""
        name, location = "idempotency_key", "body"
    if not isinstance(key, str):
        errors.append(ParameterError(name, location, f"{name} must be a string"))
        return ""
    if len(key) > IDEMPOTENCY_KEY_LIMIT:
        text = f"an Idempotency-Key has {IDEMPOTENCY_KEY_LIMIT} characters at most"
        errors.append(ParameterError(name, location, text))
    elif not is_utf8(key):
        errors.append(ParameterError(name, location, "an Idempotency-Key must be UTF-8"))
    return key
