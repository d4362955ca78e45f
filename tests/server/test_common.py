"""What all answers have in common: CORS, preflights, the JSON shapes of errors, and no HTML."""

from __future__ import annotations

import orjson
import pytest

from dragon import __version__
from tests.server.talking import UNKNOWN, ask, error, raw
from tests.system import SECRET, Client, System

PATHS = {
    "/v1/create": {"POST"},
    "/v1/create_stream": {"POST"},
    "/v1/status": {"GET", "POST"},
    "/v1/status_stream": {"GET", "POST"},
    "/v1/stream": {"GET", "POST"},
    "/v1/create_file": {"GET", "POST"},
    "/v1/create_file/cat.jpg": {"GET", "POST"},
    "/v1/log": {"GET"},
    "/v1/file": {"GET", "HEAD"},
    "/v1/file/cat.jpg": {"GET", "HEAD"},
    "/v1/tasks": {"GET", "HEAD"},
    f"/v1/tasks/{UNKNOWN}": {"DELETE"},
    f"/files/{UNKNOWN}/output.jpg": {"GET", "HEAD"},
    "/healthz": {"GET", "HEAD"},
    "/readyz": {"GET", "HEAD"},
    "/metrics": {"GET", "HEAD"},
}
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "TRACE", "PROPFIND")
ELSEWHERE = (
    "/nowhere",
    "/v1",
    "/v1/",
    "/v1/create/",
    "/v2/create",
    "/v1/Create",
    "/.git/config",
    "/v1/create_file/a/b",
)


@pytest.mark.parametrize("path", [*PATHS, *ELSEWHERE, "/"])
async def test_the_preflight_is_answered_on_every_path(client: Client, path: str) -> None:
    headers = {
        "Origin": "https://anywhere.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization, content-type, idempotency-key, last-event-id",
    }
    answer = await ask(client.session, "OPTIONS", path, None, headers)
    assert (answer.status, answer.body) == (204, b"")
    found = {name: value for name, value in answer.headers.items() if name.startswith("Access-Control")}
    assert found == {
        "Access-Control-Allow-Origin": "*",
        "Access-Control-Allow-Methods": "GET, HEAD, POST, DELETE, OPTIONS",
        "Access-Control-Allow-Headers": "Authorization, Content-Type, Idempotency-Key, Last-Event-ID",
        "Access-Control-Max-Age": "86400",
    }


@pytest.mark.parametrize("path", PATHS)
async def test_another_method_is_a_405_that_allows_the_right_ones(client: Client, path: str) -> None:
    allowed = PATHS[path]
    for method in METHODS:
        if method in allowed:
            continue
        answer = await ask(client.session, method, path, b"x" if method in ("PUT", "PATCH") else None, SECRET)
        assert answer.status == 405, method
        assert set(answer.headers["Allow"].split(", ")) == allowed
        message = f"{method} is not allowed here, use {', '.join(sorted(allowed))}"
        assert answer.body == (b"" if method == "HEAD" else orjson.dumps(error(message)))


@pytest.mark.parametrize("path", ELSEWHERE)
async def test_an_unknown_path_is_a_404(client: Client, path: str) -> None:
    for method in ("GET", "POST", "DELETE"):
        answer = await ask(client.session, method, path, b"{}" if method == "POST" else None, SECRET)
        assert (answer.status, answer.json) == (404, error("there is nothing at this path, see /docs"))


async def test_paths_that_no_client_would_write_are_a_404(system: System) -> None:
    for path in ("//v1/tasks", "/v1//tasks", "/v1/%2e%2e/healthz", "/%zz", "/v1/..", "/v1/status%00", "/%F0%9F%90%89"):
        (answer,) = await raw(system, f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        assert (answer.status, answer.json) == (404, error("there is nothing at this path, see /docs")), path
        assert answer.headers["Access-Control-Allow-Origin"] == "*"


async def test_every_kind_of_answer_may_be_read_by_any_page(client: Client) -> None:
    headers = SECRET | {"Origin": "https://anywhere.example"}
    definition = {"task_name": "test.file"}
    seen = set()
    for method, path, body in (
        ("POST", "/v1/create", {"tasks": definition}),  # 200
        ("POST", "/v1/create_stream", {"tasks": definition}),
        ("POST", "/v1/create", {}),  # 400
        ("POST", "/v1/create", {"tasks": definition, "secret": "x"}),
        ("POST", "/v1/create_file", {"task": definition}),  # 302
        ("GET", f"/v1/file?task={UNKNOWN}", None),  # 404
        ("PUT", "/v1/create", None),  # 405
        ("POST", "/v1/create", b" " * (1 << 20) + b"  "),  # 413
        ("GET", "/metrics", None),
        ("GET", "/v1/tasks", None),
        ("GET", "/v1/status_stream?tasks=" + UNKNOWN, None),
    ):
        seen.add((await ask(client.session, method, path, body, headers)).status)  # `ask` looks at the headers
    seen.add((await ask(client.session, "POST", "/v1/create", {"tasks": definition})).status)  # 401
    assert seen == {200, 302, 400, 401, 404, 405, 413}


async def test_no_answer_is_html_even_for_those_who_ask_for_it(client: Client) -> None:
    headers = {"Accept": "text/html"}
    for method, path in (
        ("GET", "/nowhere"),
        ("PUT", "/v1/create"),
        ("GET", "/v1/create_file"),
        ("POST", "/v1/create"),
    ):
        answer = await ask(client.session, method, path, None, headers)
        assert answer.headers["Content-Type"] == "application/json"


async def test_the_server_does_not_tell_what_it_is_made_of(client: Client) -> None:
    for path in ("/healthz", "/nowhere"):
        answer = await ask(client.session, "GET", path)
        assert answer.headers["Server"] == "dragon"


async def test_healthz_readyz_and_metrics(client: Client) -> None:
    answer = await ask(client.session, "GET", "/healthz")
    assert (answer.status, answer.json) == (200, {"status": "ok", "version": __version__})
    answer = await ask(client.session, "GET", "/readyz")
    assert (answer.status, answer.json) == (200, {"status": "ok"})
    answer = await ask(client.session, "GET", "/metrics")
    assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert b"\ndragon_followed_tasks " in answer.body


async def test_the_catalogue_names_every_task_with_its_schema_and_workers(client: Client) -> None:
    answer = await ask(client.session, "GET", "/v1/tasks")
    tasks = {task["name"]: task for task in answer.json}
    assert list(tasks) == sorted(tasks)
    assert {"hello", "countdown", "image.info", "image.thumb", "image.gif", "image.strip"} <= tasks.keys()
    assert tasks["hello"] == {
        "name": "hello",
        "description": "Greet somebody.",
        "parameters": {
            "type": "object",
            "additionalProperties": False,
            "properties": {"name": {"type": "string", "default": "World"}},
        },
        "result": {"type": "string"},
        "output_files": [],
        "queue": "default",
        "timeout": 10,
        "max_attempts": 3,
        "workers": 1,
    }  # fmt: skip
    assert tasks["test.two_files"]["output_files"] == ["small", "large"]
    assert tasks["countdown"]["parameters"]["properties"]["from"] == {
        "type": "integer", "default": 5, "minimum": 1, "maximum": 1000
    }  # fmt: skip
