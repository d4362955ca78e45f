"""What the server says of itself, and the client that it serves."""

from __future__ import annotations

from collections.abc import Iterator

from dragon.server.openapi.parts import Call, Schema, answer, content, message, operation, ref, shape

_HEALTH: dict[str, Schema] = {
    "status": {"const": "ok"},
    "version": {"type": "string"},
    "http": {"enum": ["1.0", "1.1"]},
}


def calls() -> Iterator[Call]:
    yield from _own_calls()
    yield from _client_calls()


def _own_calls() -> Iterator[Call]:
    ok = shape({"status": {"const": "ok"}}, ["status"])
    yield (
        ("/v1/tasks",),
        "get",
        operation(
            "server",
            "The task catalogue",
            "Every task with its description, the JSON Schemas of its parameters and result, its output files, and how "
            "many workers serve it now.",
            {
                "200": answer("The catalogue.", content({"type": "array", "items": ref("CatalogueEntry")})),
                "503": "Unavailable",
            },
            "curl $ADDRESS$PATH",
        ),
    )
    yield (
        ("/healthz",),
        "get",
        operation(
            "server",
            "The process is up",
            "Says nothing of Redis or workers.",
            {"200": answer("It is; `http` is the version by which it was asked.", content(shape(_HEALTH)))},
            "curl $ADDRESS$PATH",
        ),
    )
    yield (
        ("/readyz",),
        "get",
        operation(
            "server",
            "Tasks would run",
            "Redis answers, and at least one worker is registered.",
            {
                "200": answer("They would.", content(ok)),
                "503": message("They would not; the message says why.", "no worker is registered", ["Retry-After"]),
            },
            "curl $ADDRESS$PATH",
        ),
    )
    yield (
        ("/metrics",),
        "get",
        operation(
            "server",
            "Metrics",
            "In Prometheus's text format: what this process does and, as far as Redis answers, queues, tasks and "
            "executors of all.",
            {"200": answer("The metrics.", content({"type": "string"}, "text/plain"))},
            "curl $ADDRESS$PATH",
        ),
    )
    yield (
        ("/openapi.json",),
        "get",
        operation(
            "server",
            "This description",
            "OpenAPI 3.1.",
            {
                "200": answer("The description.", content({"type": "object"}), ["ETag"]),
                "304": "NotModified",
            },
            "curl $ADDRESS$PATH",
        ),
    )


def _client_calls() -> Iterator[Call]:
    script, types = "text/javascript", "application/typescript"
    for path, media, summary, text in (
        ("/v1/dragon.js", script, "The JavaScript client", "One ES module without dependencies, for pages and Node."),
        ("/v1/dragon-elements.js", script, "Custom elements", "`<dragon-img>` and `<dragon-progress>`, on the client."),
        ("/v1/dragon.d.ts", types, "The client's types", "For TypeScript, and for editors."),
        (
            "/v1/tasks.d.ts",
            types,
            "The types of this server's tasks",
            "Beside dragon.d.ts, `dragon.run` knows them all.",
        ),
    ):
        file = answer("The file.", content({"type": "string"}, media), ["ETag", "Cache-Control"])
        answers = {"200": file, "304": "NotModified"}
        yield (path,), "get", operation("server", summary, text, answers, "curl -O $ADDRESS$PATH")
