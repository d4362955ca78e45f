"""An operator API whose facts a test decides: a hundred thousand tasks, text that wants to run, a Redis that is away.

The pages are the real ones. It answers only what the dashboard asks; that dashboard and API fit is what the tests with
the real server say.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import orjson
from aiohttp import web

from dragon.config import Config
from dragon.server.dashboard_pages import DashboardPages
from dragon.server.pages import Pages
from dragon.task import Registry

KEY_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
SECRET = "Secret 123456"
IN_STATE = {
    "waiting": {"queued"},
    "executing": {"executing"},
    "success": {"success"},
    "error": {"error"},
    "ended": {"success", "error"},
    "": {"queued", "executing", "success", "error"},
}


def key_of(number: int) -> str:
    letters = []
    for _ in range(26):
        number, rest = divmod(number, 32)
        letters.append(KEY_LETTERS[rest])
    return "".join(reversed(letters))


def iso(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="microseconds")


def row(number: int, status: str = "success", **members: Any) -> dict[str, Any]:
    """A row of the list; a higher number was queued later."""
    queued = members.pop("at", time.time() - 200_000 + number)
    started = None if status == "queued" else iso(queued + 0.012)
    completed = iso(queued + 0.512) if status in ("success", "error") else None
    return {
        "key": key_of(number),
        "status": status,
        "task_name": "image.thumb",
        "account": "demo",
        "queue": "default",
        "queued": iso(queued),
        "started": started,
        "completed": completed,
        "worker": "AAAA",
        "attempt": 1,
        "message": "it did not work" if status == "error" else None,
        "retried_as": None,
    } | members


def snapshot(**members: Any) -> dict[str, Any]:
    return {
        "time": iso(time.time()),
        "queues": [],
        "workers": [],
        "rates": {"per_second": 0.0, "errors_per_second": 0.0, "waiting_p50": None, "waiting_p95": None},
        "counts": {"waiting": 0, "executing": 0, "success": 0, "error": 0},
        "suspended": False,
        "streams": 1,
        "redis": {"version": "8.1.4", "memory_bytes": 5_000_000, "persistence": "everysec"},
    } | members


@dataclass
class FakeOperator:
    """What there is, and who listens."""

    rows: list[dict[str, Any]] = field(default_factory=list)  # oldest first
    overview: dict[str, Any] = field(default_factory=snapshot)
    details: dict[str, Any] = field(default_factory=dict)
    lines: list[dict[str, Any]] = field(default_factory=list)
    groups: list[dict[str, Any]] = field(default_factory=list)
    samples: list[dict[str, Any]] = field(default_factory=list)
    account: dict[str, Any] = field(default_factory=lambda: {"id": "demo", "name": "demo", "operator": True})
    secret: str = SECRET
    away: bool = False  # as without Redis
    asked: list[tuple[str, str, Any]] = field(default_factory=list)
    listeners: dict[str, list[asyncio.Queue[bytes | None]]] = field(default_factory=dict)

    def app(self, config: Config, registry: Registry) -> web.Application:
        app = web.Application(middlewares=[self.check])
        app.add_routes(DashboardPages(config).routes())
        app.add_routes(Pages(config, registry).routes())
        operator = "/v1/operator"
        app.add_routes(
            [
                web.get("/v1/tasks", self.catalogue),
                web.get("/v1/log", self.log),
                web.post("/v1/status_stream", self.status_stream),
                web.get(f"{operator}/account", self.who),
                web.get(f"{operator}/overview_stream", self.overview_stream),
                web.get(f"{operator}/tasks", self.tasks),
                web.get(f"{operator}/tasks_stream", self.tasks_stream),
                web.get(f"{operator}/tasks/{{key}}", self.task),
                web.post(f"{operator}/retry", self.retry),
                web.post(f"{operator}/cancel", self.cancel),
                web.get(f"{operator}/failures", self.failures),
                web.post(f"{operator}/queues/{{queue}}", self.queue),
                web.get(f"{operator}/history", self.history),
            ]
        )
        return app

    @web.middleware
    async def check(self, request: web.Request, handler: Any) -> web.StreamResponse:
        if request.path.startswith("/v1/operator"):
            if request.headers.get("Authorization") != self.secret:
                return answer({"status": "error", "message": "unknown secret key"}, 401)
            if self.away:
                return answer({"status": "error", "message": "Redis cannot be reached"}, 503)
        body = await request.read()
        self.asked.append((request.method, request.path_qs, orjson.loads(body) if body else None))
        response: web.StreamResponse = await handler(request)
        return response

    # --- Streams ---

    def send(self, path: str, *values: Any) -> None:
        """More lines for everybody who listens at a path; those of one look travel in one write, as the server's do."""
        for queue in self.listeners.get(path, []):
            queue.put_nowait(b"".join(orjson.dumps(value) + b"\n" for value in values))

    def cut(self) -> None:
        """Ends all streams, as a server that stops."""
        for queues in self.listeners.values():
            for queue in queues:
                queue.put_nowait(None)

    async def stream(self, request: web.Request, first: list[Any]) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await response.prepare(request)
        queue: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.listeners.setdefault(request.path, []).append(queue)
        try:
            for value in first:
                await response.write(orjson.dumps(value) + b"\n")
            while (line := await queue.get()) is not None:
                await response.write(line)
        finally:
            self.listeners[request.path].remove(queue)
            with suppress(ConnectionError):
                await response.write_eof()
        return response

    async def overview_stream(self, request: web.Request) -> web.StreamResponse:
        return await self.stream(request, [self.overview])

    async def tasks_stream(self, request: web.Request) -> web.StreamResponse:
        return await self.stream(request, [list(reversed(self.rows[-50:]))])

    async def status_stream(self, request: web.Request) -> web.StreamResponse:
        keys = orjson.loads(await request.read())["tasks"]
        return await self.stream(request, [[self.details[key]["status"] for key in keys]])

    async def log(self, request: web.Request) -> web.StreamResponse:
        return await self.stream(request, self.lines)

    # --- Answers ---

    async def catalogue(self, _request: web.Request) -> web.Response:
        return answer([{"name": "hello"}, {"name": "image.thumb"}])

    async def who(self, _request: web.Request) -> web.Response:
        return answer(self.account)

    async def tasks(self, request: web.Request) -> web.Response:
        query = request.query
        wanted = IN_STATE[query.get("state", "")]
        until = query.get("until", "9")
        limit = int(query.get("limit", "50"))
        found: list[dict[str, Any]] = []
        at = int(query.get("after", len(self.rows)))
        while at > 0 and len(found) < limit:
            at -= 1
            candidate = self.rows[at]
            fits = candidate["status"] in wanted and query.get("name", "") in candidate["task_name"]
            if fits and candidate["queued"] <= until.replace("Z", "+00:00"):
                found.append(candidate)
        return answer({"tasks": found, "next": str(at) if at else None, "scanned": limit})

    async def task(self, request: web.Request) -> web.Response:
        found = self.details.get(request.match_info["key"])
        return answer(found) if found else answer({"status": "error", "message": "unknown task key"}, 404)

    async def retry(self, request: web.Request) -> web.Response:
        body = orjson.loads(await request.read())
        if "group" in body:
            return answer([{"key": key_of(1), "retried_as": key_of(2), "message": None}])
        return answer([{"key": key, "retried_as": key_of(7), "message": None} for key in body["tasks"]])

    async def cancel(self, request: web.Request) -> web.Response:
        keys = orjson.loads(await request.read())["tasks"]
        return answer([{"key": key, "status": "error", "result": "cancelled", "events": {}} for key in keys])

    async def failures(self, _request: web.Request) -> web.Response:
        return answer({"groups": self.groups, "scanned": 10_000, "complete": False})

    async def queue(self, request: web.Request) -> web.Response:
        action = orjson.loads(await request.read())["action"]
        return answer({"queue": request.match_info["queue"], "paused": action == "pause", "cleared": 3})

    async def history(self, request: web.Request) -> web.Response:
        names = ["hello", "image.thumb"]
        return answer({"period": request.query.get("period", "hour"), "names": names, "samples": self.samples})


def answer(value: Any, status: int = 200) -> web.Response:
    return web.Response(body=orjson.dumps(value), status=status, content_type="application/json")
