"""The calls that create tasks, follow them, read their logs and cancel them."""

from __future__ import annotations

from collections.abc import Iterator

from dragon.config import Config
from dragon.server.openapi.answers import BY_HEADER, BY_HEADER_OR_BODY
from dragon.server.openapi.parts import TEXT_FLAG, Call, Schema, answer, body, content, operation, query, ref, shape
from dragon.server.openapi.samples import HELLO, LIVE, MAKE_KEY, ONE_KEY
from dragon.server.openapi.schemas import FINAL
from dragon.store.logs import MOST_NUMBERS

_IDEMPOTENCY_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "A repetition with the same key within a day joins the same tasks instead of creating them again.",
    "schema": {"type": "string", "maxLength": 255},
}
_LAST_EVENT_ID = {
    "name": "Last-Event-ID",
    "in": "header",
    "description": "Sent by EventSource when it comes back; `end` is answered with 204, and it stays away.",
    "schema": {"type": "string"},
}
_TASK_KEYS = query(
    "tasks",
    "Task keys; repeat it for several.",
    {"type": "array", "items": ref("Key"), "minItems": 1},
    required=True,
    style="form",
    explode=True,
)

_CREATED = {"400": "BadRequest", "401": "Unauthorized", "413": "TooLarge", "503": "Unavailable"}
_READ = {"400": "BadRequest", "503": "Unavailable"}


def calls(config: Config) -> Iterator[Call]:
    create, status, status_stream = ("/v1/create",), ("/v1/status",), ("/v1/status_stream", "/v1/stream")
    yield (
        create,
        "post",
        operation(
            "create and follow",
            "Create tasks",
            "Queues one or more tasks and answers with their statuses, in the order of `tasks`. With `block` it "
            "answers when all are final, or when `timeout` is over, with what they are then; while it waits, white "
            "space goes out in front of the JSON.",
            {"200": "Statuses", **_CREATED},
            """curl $ADDRESS$PATH -H 'Authorization: Secret $SECRET' \\
  -d '{"tasks": [{"task_name": "hello", "name": "John"}, {"task_name": "hello", "name": "Jane"}], "block": true}'""",
            security=BY_HEADER_OR_BODY,
            parameters=[_IDEMPOTENCY_KEY],
            requestBody=body("CreateBody", HELLO),
        ),
    )
    yield (
        ("/v1/create_stream",),
        "post",
        operation(
            "create and follow",
            "Create tasks and stream their statuses",
            "Queues one or more tasks and streams every update of their statuses, interleaved, until all are final.",
            {"200": "Stream", **_CREATED},
            """curl -N $ADDRESS$PATH -H 'Authorization: Secret $SECRET' \\
  -d '{"tasks": [{"task_name": "hello", "name": "John"}, {"task_name": "countdown"}]}'""",
            security=BY_HEADER_OR_BODY,
            parameters=[_IDEMPOTENCY_KEY],
            requestBody=body("CreateStreamBody", LIVE),
        ),
    )
    block = query("block", "Answer when all are final, or when `timeout` is over.", TEXT_FLAG, example="true")
    timeout = query("timeout", "In seconds.", {"type": "number", "minimum": 0, "default": config.server.block_timeout})
    more = query(
        "details", "Add task_name, parameters, task_metas, attempt, worker, expires and traceparent.", TEXT_FLAG
    )
    found = answer(
        "A list of statuses in the order asked for, doubles included. A key that nobody knows is an error status with "
        'the result "unknown task key" in its place.',
        content({"type": "array", "items": {"anyOf": [ref("Status"), ref("DetailedStatus")]}}, example=[FINAL]),
    )
    yield (
        status,
        "get",
        operation(
            "create and follow",
            "Statuses of tasks",
            "Tells the status of one or more tasks, at once or (with `block`) when all are final.",
            {"200": found, **_READ},
            MAKE_KEY + 'curl "$ADDRESS$PATH?tasks=$KEY&block=true&details=true"',
            parameters=[_TASK_KEYS, block, timeout, more],
        ),
    )
    yield (
        status,
        "post",
        operation(
            "create and follow",
            "Statuses of many tasks",
            "As GET, for more keys than a URL holds.",
            {"200": found, "413": "TooLarge", **_READ},
            MAKE_KEY + """curl $ADDRESS$PATH -d "{\\"tasks\\": [\\"$KEY\\"], \\"block\\": true}\"""",
            requestBody=body("StatusBody", ONE_KEY | {"block": True}),
        ),
    )
    streamed = {
        "200": "Stream",
        "204": answer("An EventSource that has seen the end came back: it stays away."),
        **_READ,
    }
    yield (
        status_stream,
        "get",
        operation(
            "create and follow",
            "Stream the statuses of existing tasks",
            "As create_stream, for tasks that exist. EventSource works on it.",
            streamed,
            MAKE_KEY + 'curl -N "$ADDRESS$PATH?tasks=$KEY"',
            parameters=[_TASK_KEYS, _LAST_EVENT_ID],
        ),
    )
    yield (
        status_stream,
        "post",
        operation(
            "create and follow",
            "Stream the statuses of many existing tasks",
            "As GET, for more keys than a URL holds.",
            streamed | {"413": "TooLarge"},
            MAKE_KEY + """curl -N $ADDRESS$PATH -d "{\\"tasks\\": \\"$KEY\\"}\"""",
            parameters=[_LAST_EVENT_ID],
            requestBody=body("StatusStreamBody", ONE_KEY),
        ),
    )
    yield _log_call()
    yield (
        ("/v1/tasks/{key}",),
        "delete",
        operation(
            "create and follow",
            "Cancel a task",
            'Ends a task of the same account in an error "cancelled", whatever it does. A final one stays as it is.',
            {
                "200": answer("The status.", content(ref("Status"))),
                "400": "BadRequest",
                "401": "Unauthorized",
                "404": "UnknownKey",
                "503": "Unavailable",
            },
            MAKE_KEY + "curl -X DELETE $ADDRESS/v1/tasks/$KEY -H 'Authorization: Secret $SECRET'",
            security=BY_HEADER,
        ),
    )


def _log_call() -> Call:
    page = shape(
        {
            "key": ref("Key"),
            "lines": {"type": "array", "items": ref("LogLine")},
            "next": {"type": "integer", "description": "What to give as `after` to read on."},
            "ended": {"type": "boolean", "description": "The task has ended, and nothing comes after these lines."},
        },
        ["key", "lines", "next", "ended"],
    )
    streamed = {media: {"schema": {"type": "string"}} for media in ("application/x-ndjson", "text/event-stream")}
    after: Schema = {"type": "integer", "minimum": 0, "maximum": MOST_NUMBERS, "default": 0}
    return (
        ("/v1/log",),
        "get",
        operation(
            "create and follow",
            "The log lines of a task",
            "What a task has said with `ctx.log`, and what it has printed: the newest lines. With `follow` they come "
            "as a stream, one a line, until the task ends; with `Accept: text/event-stream` as server-sent events.",
            {
                "200": answer("The lines.", content(page) | streamed),
                "204": answer("An EventSource that has seen the end came back: it stays away."),
                "404": "UnknownKey",
                **_READ,
            },
            MAKE_KEY + 'curl -N "$ADDRESS$PATH?task=$KEY&follow=true"',
            parameters=[
                query("task", "The task's key.", ref("Key"), required=True),
                query("after", "The number of the last line that is known.", after),
                query("follow", "Stream the lines as they are said.", TEXT_FLAG),
                _LAST_EVENT_ID,
            ],
        ),
    )
