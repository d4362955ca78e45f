"""The shapes of the contract that are no task's: statuses, errors, bodies, the catalogue."""

from __future__ import annotations

from dragon.config import Config
from dragon.server.openapi import operator_schemas
from dragon.server.openapi.parts import DATE, Schema, one_or_many, ref, shape
from dragon.server.plain_examples import EXAMPLE_KEY

QUEUED = {"status": "queued", "key": EXAMPLE_KEY, "events": {"queued": "2013-04-03T15:47:27.703674+00:00"}}
FAILED = {
    "status": "error",
    "key": EXAMPLE_KEY,
    "events": {"queued": "2013-04-03T15:47:27.703717+00:00", "completed": "2013-04-03T15:47:27.729026+00:00"},
    "result": "File 'http://files.com/cat.jpeg' is not a valid image file",
}
FINAL = {
    "status": "success",
    "key": EXAMPLE_KEY,
    "events": {
        "queued": "2013-04-03T15:47:27.703674+00:00",
        "started": "2013-04-03T15:47:27.707526+00:00",
        "completed": "2013-04-03T15:47:27.726229+00:00",
    },
    "result": "Hello John",
}

_KEY: Schema = {
    "type": "string",
    "pattern": "^[A-Z2-7]{26}$",
    "description": "A task's key: 16 random bytes in unpadded base32.",
    "examples": [EXAMPLE_KEY],
}
_FLAG: Schema = {"enum": [True, False, "true", "false", 1, 0, "1", "0", None], "default": False}
_CREDENTIALS: Schema = {
    "secret": {"type": ["string", "null"], "description": "A secret key, unless it is in the Authorization header."},
    "api_key": {"type": ["string", "null"], "description": "An api key, unless it is in the Authorization header."},
}
_REPEATABLE: Schema = {
    "idempotency_key": {
        "type": ["string", "null"],
        "maxLength": 255,
        "description": "As the header Idempotency-Key, which wins; a page that sends it here needs no preflight.",
    },
}

_STATUS = shape(
    {
        "status": {
            "enum": ["queued", "executing", "success", "error"],
            "description": "`success` and `error` are final.",
        },
        "key": ref("Key"),
        "events": shape(
            {
                "queued": DATE | {"description": "Always there."},
                "started": DATE | {"description": "Once a worker has it."},
                "completed": DATE | {"description": "At the end."},
            },
            description="Always there, except for a key that nobody knows.",
        ),
        "progress": {"description": "Once the task reported one: any JSON value, `null` included; 0 to 100 by custom."},
        "result": {
            "description": "With success and error, and with executing when there is a partial result: any JSON value, "
            '`null` included. For an error the message, or `{"parameters": {name: [sentences]}}`.'
        },
        "position": {
            "type": ["integer", "null"],
            "minimum": 1,
            "description": "In streams and details, while the task waits: its place in the queue, 1 comes next.",
        },
        "eta": {
            "type": ["number", "null"],
            "minimum": 0,
            "description": "With position: seconds until the task is expected to end, null when that is not known.",
        },
    },
    ["status", "key"],
    description="One status of one task, always whole.",
    examples=[FINAL],
)

_DETAILS = {
    "task_name": {"type": "string"},
    "parameters": {"type": "object"},
    "task_metas": {"type": ["object", "null"], "description": "The client's own object, as it was given."},
    "attempt": {"type": "integer", "description": "0 until a worker has it."},
    "worker": {"type": ["string", "null"]},
    "traceparent": {"type": ["string", "null"], "description": "The place in a trace that its creator had."},
    "expires": {"anyOf": [DATE, {"type": "null"}], "description": "When the status and its files are forgotten."},
    "waiting_for": {
        "type": ["string", "null"],
        "description": "Of a task that waits: what has to be done before it can start, and null when nothing has.",
    },
}

_LOG_LINE = shape(
    {
        "number": {"type": "integer", "minimum": 1, "description": "Goes up by one over all attempts of the task."},
        "time": DATE,
        "attempt": {"type": "integer"},
        "text": {"type": "string"},
    },
    ["number", "time", "attempt", "text"],
    description="One line that a task has said.",
)

PARAMETER_ERRORS = shape(
    {
        "status": {"const": "error"},
        "errors": {
            "type": "array",
            "minItems": 1,
            "items": shape(
                {
                    "name": {"type": "string", "description": "With a path for nested ones: `tasks.0.task_name`."},
                    "location": {"enum": ["body", "querystring", "path", "header"]},
                    "description": {"type": "string"},
                },
                ["name", "location", "description"],
            ),
        },
    },
    ["status", "errors"],
    description="A 400: all errors of the request at once.",
    examples=[
        {"status": "error", "errors": [{"name": "tasks", "location": "body", "description": "tasks is missing"}]}
    ],
)

_CATALOGUE_ENTRY = shape(
    {
        "name": {"type": "string"},
        "description": {"type": "string"},
        "parameters": {"type": "object", "description": "JSON Schema of the parameters."},
        "result": {"type": "object", "description": "JSON Schema of the result."},
        "output_files": {"type": "array", "items": {"type": "string"}},
        "queue": {"type": "string"},
        "timeout": {"type": "number", "description": "Seconds of one attempt."},
        "max_attempts": {"type": "integer"},
        "workers": {"type": "integer", "description": "How many workers serve it now."},
    },
    ["name", "description", "parameters", "result", "output_files", "queue", "timeout", "max_attempts", "workers"],
)


def _timeout(config: Config) -> Schema:
    most = config.server.block_timeout
    text = f"How long to wait with `block`, in seconds; more than {most:g} counts as {most:g}."
    return {"type": ["number", "string", "null"], "minimum": 0, "default": most, "description": text}


def shapes(config: Config) -> dict[str, Schema]:
    """The shapes of the contract that are no task's."""
    most = config.server.max_tasks_per_call
    block = _FLAG | {"description": "Answer when all tasks are final, or when `timeout` is over."}
    waiting = {"block": block, "timeout": _timeout(config)}
    keys = one_or_many(ref("Key"), most) | {"description": "Task keys."}
    definitions = one_or_many(ref("TaskDefinition"), most) | {"description": "Task definitions."}
    text = (
        "Add `task_name`, `parameters`, `task_metas`, `attempt`, `worker`, `expires`, `traceparent`; "
        "`waiting_for` while it waits."
    )
    details = _FLAG | {"description": text}
    return {
        "Key": _KEY,
        "Status": _STATUS,
        "DetailedStatus": {"allOf": [ref("Status"), shape(_DETAILS)]},
        "LogLine": _LOG_LINE,
        "Message": shape(
            {"status": {"const": "error"}, "message": {"type": "string"}},
            ["status", "message"],
            description="Any error but a 400: one sentence for the reader.",
        ),
        "ParameterErrors": PARAMETER_ERRORS,
        "CreateBody": shape({"tasks": definitions, **waiting, **_REPEATABLE, **_CREDENTIALS}, ["tasks"]),
        "CreateStreamBody": shape({"tasks": definitions, **_REPEATABLE, **_CREDENTIALS}, ["tasks"]),
        "CreateFileBody": shape({"task": ref("TaskDefinition"), **_CREDENTIALS}, ["task"]),
        "StatusBody": shape({"tasks": keys, **waiting, "details": details}, ["tasks"]),
        "StatusStreamBody": shape({"tasks": keys}, ["tasks"]),
        "CatalogueEntry": _CATALOGUE_ENTRY,
        **operator_schemas.SHAPES,
    }
