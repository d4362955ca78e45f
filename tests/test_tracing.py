"""Spans of requests and tasks: below their callers', and none of OpenTelemetry where it is not wanted."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import orjson
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from dragon.config import ROOT, LogConfig
from dragon.errors import ConfigError
from dragon.tracing import Tracing, open_tracing
from tests.system import SECRET, Process, System, eventually

OwnSystem = Callable[..., System]
TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
TRACE = f"00-{TRACE_ID}-b7ad6b7169203331-01"


@pytest.fixture
def kept() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def tracing(kept: InMemorySpanExporter) -> Tracing:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(kept))
    return Tracing(provider)


def test_a_span_is_below_its_parent_and_what_is_within_below_it(tracing: Tracing, kept: InMemorySpanExporter) -> None:
    outer = tracing.begin("GET /v1/status", "server", TRACE, {"a": 1})
    inner = tracing.begin("task hello", "consumer", outer.traceparent, {})
    inner.end({"dragon.status": "success"})
    inner.end({"dragon.status": "error"}, "ended already")
    outer.end({"b": 2}, "it failed")
    task, request = kept.get_finished_spans()
    assert outer.traceparent == f"00-{TRACE_ID}-{request.context.span_id:016x}-01"
    assert [f"{span.context.trace_id:032x}" for span in (task, request)] == [TRACE_ID] * 2
    assert request.parent is not None and task.parent is not None
    assert f"{request.parent.span_id:016x}" == "b7ad6b7169203331"
    assert task.parent.span_id == request.context.span_id
    assert (task.name, task.kind.name, dict(task.attributes or {})) == (
        "task hello",
        "CONSUMER",
        {"dragon.status": "success"},
    )
    assert (request.kind.name, dict(request.attributes or {})) == ("SERVER", {"a": 1, "b": 2})
    assert (task.status.is_ok, request.status.is_ok, request.status.description) == (True, False, "it failed")


def test_a_span_without_a_parent_begins_a_trace(tracing: Tracing, kept: InMemorySpanExporter) -> None:
    spans = [tracing.begin("a", "server", "", {}) for _ in range(2)]
    for span in spans:
        span.end({})
    first, second = kept.get_finished_spans()
    assert first.parent is None
    assert first.context.trace_id != second.context.trace_id


def test_nothing_that_makes_spans_is_imported_where_none_are_wanted() -> None:
    """(redis-py imports OpenTelemetry's metrics by itself, where they are there.)"""
    code = (
        "import sys, dragon.server.app, dragon.worker.main; from dragon.config import LogConfig; "
        "from dragon.tracing import open_tracing; assert open_tracing(LogConfig(), 'x') is None; "
        "print([name for name in sys.modules if 'opentelemetry.sdk.trace' in name or 'opentelemetry.exporter' in name])"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (ended.stdout, ended.stderr) == ("[]\n", "")


def test_that_it_is_wanted_and_not_there_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(ConfigError, match=r"log\.otel wants OpenTelemetry, which is not there .*'dragon\[otel\]'"):
        open_tracing(LogConfig(otel=True), "x")


def test_an_exporter_that_dragon_does_not_know_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "pigeon")
    with pytest.raises(ConfigError, match="OTEL_TRACES_EXPORTER is 'pigeon', dragon knows otlp, console, none"):
        open_tracing(LogConfig(otel=True), "x")


@pytest.mark.parametrize("exporter", ["otlp", "none"])
def test_a_process_ends_in_time_although_nobody_takes_its_spans(monkeypatch: pytest.MonkeyPatch, exporter: str) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", exporter)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    tracing = open_tracing(LogConfig(otel=True), "x")
    assert tracing is not None
    tracing.begin("a", "server", "", {}).end({})
    tracing.close()


def spans_of(process: Process) -> list[dict[str, Any]]:
    whole, _, _ = process.output.rpartition("\n")  # a line that is being written is not there yet
    found = [orjson.loads(line) for line in whole.splitlines() if line.startswith('{"name"')]
    return [span for span in found if "/v1" in span["name"] or "task" in span["name"]]


async def test_a_whole_system_makes_spans_of_requests_and_of_what_becomes_of_tasks(
    own_system: OwnSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "console")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=a-secret")
    system = own_system(log__otel=True)
    server, worker = system.start_server(), system.start_worker("--executors", "1")
    bodies = ["test.trace", "test.async_trace", "test.task_error", "test.die_once", "test.environment"]
    async with system.client() as client:
        statuses = []
        for name in bodies:
            body = orjson.dumps({"tasks": {"task_name": name}, "block": True})
            headers = SECRET | {"traceparent": TRACE, "X-Request-Id": name}
            async with client.session.post("/v1/create?x=unseen", data=body, headers=headers) as answer:
                statuses += orjson.loads(await answer.read())
        async with client.session.get("/nowhere/unseen") as answer:
            assert answer.status == 404
    await eventually(lambda: len(spans_of(server)) == 5 and len(spans_of(worker)) == 6)
    requests = {span["attributes"]["dragon.request"]: span for span in spans_of(server)}
    attempts = {
        (span["attributes"]["dragon.task"], span["attributes"]["dragon.attempt"]): span for span in spans_of(worker)
    }
    assert {span["context"]["trace_id"] for span in (*requests.values(), *attempts.values())} == {f"0x{TRACE_ID}"}
    for name, span in requests.items():
        assert (span["name"], span["parent_id"]) == ("POST /v1/create", "0xb7ad6b7169203331")
        assert span["resource"]["attributes"]["service.name"] == "dragon-server"
        assert span["attributes"] == {
            "http.request.method": "POST",
            "http.route": "/v1/create",
            "dragon.request": name,
            "http.response.status_code": 200,
        }
    for (name, _), span in attempts.items():
        assert span["parent_id"] == requests[name]["context"]["span_id"]
        assert span["resource"]["attributes"]["service.name"] == "dragon-worker"
    by_name = dict(zip(bodies, statuses, strict=True))
    for name in ("test.trace", "test.async_trace"):
        assert by_name[name]["result"].split("-")[2] == attempts[name, 1]["context"]["span_id"].removeprefix("0x")
    assert attempts["test.trace", 1]["attributes"]["dragon.status"] == "success"
    assert attempts["test.task_error", 1]["status"] == {
        "status_code": "ERROR",
        "description": '"meant for the client"',
    }
    assert "dragon.status" not in attempts["test.die_once", 1]["attributes"]
    assert attempts["test.die_once", 2]["attributes"]["dragon.status"] == "success"
    assert "OTEL_BSP_SCHEDULE_DELAY" in by_name["test.environment"]["result"]
    assert "OTEL_EXPORTER_OTLP_HEADERS" not in by_name["test.environment"]["result"]
    assert "unseen" not in server.output
    assert server.terminate() == worker.terminate() == 0
