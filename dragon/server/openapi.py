"""/openapi.json: the contract for machines (OpenAPI 3.1), written by hand around the schemas of the tasks' signatures.

The page at /docs is made of it too. tests/server/test_pages.py holds it against the routes and against real answers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import Any

from dragon import __version__
from dragon.config import Config
from dragon.definition import NAME_LIMIT, RESERVED
from dragon.server.examples import Places, call_samples, demo_definition, task_samples
from dragon.server.plain_examples import EXAMPLE_KEY as EXAMPLE_KEY
from dragon.store.logs import MOST_NUMBERS
from dragon.task import Registry, Task

Schema = dict[str, Any]

_KEY_PATTERN = "^[A-Z2-7]{26}$"
_QUEUED = {"status": "queued", "key": EXAMPLE_KEY, "events": {"queued": "2013-04-03T15:47:27.703674+00:00"}}
_FAILED = {
    "status": "error",
    "key": EXAMPLE_KEY,
    "events": {"queued": "2013-04-03T15:47:27.703717+00:00", "completed": "2013-04-03T15:47:27.729026+00:00"},
    "result": "File 'http://files.com/cat.jpeg' is not a valid image file",
}
_FINAL = {
    "status": "success",
    "key": EXAMPLE_KEY,
    "events": {
        "queued": "2013-04-03T15:47:27.703674+00:00",
        "started": "2013-04-03T15:47:27.707526+00:00",
        "completed": "2013-04-03T15:47:27.726229+00:00",
    },
    "result": "Hello John",
}

_ABOUT = """\
Post named task definitions, and follow the status of every task as it changes.

Bodies are JSON in UTF-8 whatever the Content-Type says, so a browser needs no preflight. Every answer carries \
`Access-Control-Allow-Origin: *`, `OPTIONS` answers on every path, and `HEAD` wherever `GET` does, except on the calls \
that create or follow tasks (`create_file`, `status`, `status_stream`).

Creating tasks needs credentials: a secret key (for servers), or an api key together with the page that sends the \
request, which must be on the account's whitelist (for pages). A key stands in the `Authorization` header (`Secret \
KEY` or `Api-Key KEY`), in the body (`secret`, `api_key`) or, for `GET`, in the querystring; the header wins over the \
body, the body over the querystring. Reading needs none: a task's key is 128 random bits and is itself the permission.

A request that is wrong as a whole is a 400 and creates nothing. A task that is wrong by itself (unknown name, wrong \
parameters) is an ordinary status of a task that has already ended in an error, and the other tasks go on.
"""

_TAGS = {
    "create and follow": "Create tasks, follow them, cancel them.",
    "output files": "Wait for a task, and be led to its output file.",
    "operator": "See what runs, what waits and what failed, and act on it. By a secret key in the header alone; an "
    "account with `operator = true` sees and changes the tasks of all accounts, any other its own.",
    "server": "What the server says of itself.",
    "pages": "Pages for people, and what they are made of.",
}


def demo_secret(config: Config) -> str:
    """The secret key for examples: the demo account's, which everybody knows, where there may be a demo account."""
    return Places.of(config).secret


def build_document(config: Config, registry: Registry) -> dict[str, Any]:
    """The whole document."""
    tasks = [registry.tasks[name] for name in sorted(registry.tasks)]
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "dragon",
            "version": __version__,
            "summary": "A streaming task queue.",
            "description": _ABOUT,
        },
        "servers": [{"url": config.public_url}],
        "tags": [{"name": name, "description": text} for name, text in _TAGS.items()],
        "paths": _paths(config),
        "components": {
            "schemas": _schemas(config) | _task_schemas(Places.of(config), tasks),
            "responses": _RESPONSES,
            "headers": _HEADERS,
            "securitySchemes": _SECURITY_SCHEMES,
        },
    }


# --- Schemas ----------------------------------------------------------------------------------------------------------


def _ref(name: str, kind: str = "schemas") -> Schema:
    return {"$ref": f"#/components/{kind}/{name}"}


def _object(properties: Mapping[str, Any], required: Iterable[str] = (), **more: Any) -> Schema:
    schema: Schema = {"type": "object", "properties": dict(properties), **more}
    return schema | {"required": list(required)} if required else schema


def _one_or_many(schema: Schema, most: int | None = None) -> Schema:
    return {"anyOf": [schema, {"type": "array", "items": schema, "minItems": 1} | ({"maxItems": most} if most else {})]}


_HEALTH: dict[str, Schema] = {
    "status": {"const": "ok"},
    "version": {"type": "string"},
    "http": {"enum": ["1.0", "1.1"]},
}
_DATE: Schema = {"type": "string", "format": "date-time", "examples": ["2013-04-03T15:47:27.707526+00:00"]}
_KEY: Schema = {
    "type": "string",
    "pattern": _KEY_PATTERN,
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


def _timeout(config: Config) -> Schema:
    most = config.server.block_timeout
    text = f"How long to wait with `block`, in seconds; more than {most:g} counts as {most:g}."
    return {"type": ["number", "string", "null"], "minimum": 0, "default": most, "description": text}


def _schemas(config: Config) -> dict[str, Schema]:
    """The shapes of the contract that are no task's."""
    most = config.server.max_tasks_per_call
    block = _FLAG | {"description": "Answer when all tasks are final, or when `timeout` is over."}
    waiting = {"block": block, "timeout": _timeout(config)}
    keys = _one_or_many(_ref("Key"), most) | {"description": "Task keys."}
    definitions = _one_or_many(_ref("TaskDefinition"), most) | {"description": "Task definitions."}
    text = (
        "Add `task_name`, `parameters`, `task_metas`, `attempt`, `worker`, `expires`, `traceparent`; "
        "`waiting_for` while it waits."
    )
    details = _FLAG | {"description": text}
    return {
        "Key": _KEY,
        "Status": _STATUS,
        "DetailedStatus": {"allOf": [_ref("Status"), _object(_DETAILS)]},
        "LogLine": _LOG_LINE,
        "Message": _object(
            {"status": {"const": "error"}, "message": {"type": "string"}},
            ["status", "message"],
            description="Any error but a 400: one sentence for the reader.",
        ),
        "ParameterErrors": _PARAMETER_ERRORS,
        "CreateBody": _object({"tasks": definitions, **waiting, **_REPEATABLE, **_CREDENTIALS}, ["tasks"]),
        "CreateStreamBody": _object({"tasks": definitions, **_REPEATABLE, **_CREDENTIALS}, ["tasks"]),
        "CreateFileBody": _object({"task": _ref("TaskDefinition"), **_CREDENTIALS}, ["task"]),
        "StatusBody": _object({"tasks": keys, **waiting, "details": details}, ["tasks"]),
        "StatusStreamBody": _object({"tasks": keys}, ["tasks"]),
        "CatalogueEntry": _CATALOGUE_ENTRY,
        **_OPERATOR_SCHEMAS,
    }


_STATUS = _object(
    {
        "status": {
            "enum": ["queued", "executing", "success", "error"],
            "description": "`success` and `error` are final.",
        },
        "key": _ref("Key"),
        "events": _object(
            {
                "queued": _DATE | {"description": "Always there."},
                "started": _DATE | {"description": "Once a worker has it."},
                "completed": _DATE | {"description": "At the end."},
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
    examples=[_FINAL],
)

_DETAILS = {
    "task_name": {"type": "string"},
    "parameters": {"type": "object"},
    "task_metas": {"type": ["object", "null"], "description": "The client's own object, as it was given."},
    "attempt": {"type": "integer", "description": "0 until a worker has it."},
    "worker": {"type": ["string", "null"]},
    "traceparent": {"type": ["string", "null"], "description": "The place in a trace that its creator had."},
    "expires": {"anyOf": [_DATE, {"type": "null"}], "description": "When the status and its files are forgotten."},
    "waiting_for": {
        "type": ["string", "null"],
        "description": "Of a task that waits: what has to be done before it can start, and null when nothing has.",
    },
}

_LOG_LINE = _object(
    {
        "number": {"type": "integer", "minimum": 1, "description": "Goes up by one over all attempts of the task."},
        "time": _DATE,
        "attempt": {"type": "integer"},
        "text": {"type": "string"},
    },
    ["number", "time", "attempt", "text"],
    description="One line that a task has said.",
)

_PARAMETER_ERRORS = _object(
    {
        "status": {"const": "error"},
        "errors": {
            "type": "array",
            "minItems": 1,
            "items": _object(
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

_CATALOGUE_ENTRY = _object(
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


# --- The operator's schemas -------------------------------------------------------------------------------------------

_NUMBER_OR_NULL: Schema = {"type": ["number", "null"]}
_COUNT: Schema = {"type": "integer", "minimum": 0}
_COUNT_OR_NULL: Schema = {"type": ["integer", "null"], "minimum": 0}


def _whole(properties: Mapping[str, Any], **more: Any) -> Schema:
    """An object that always has all of its members."""
    return _object(properties, properties, **more)


_WORKER = _whole(
    {
        "id": {"type": "string"},
        "hostname": {"type": "string"},
        "pid": {"type": ["integer", "null"]},
        "queues": {"type": "array", "items": {"type": "string"}},
        "executors": {
            "type": "array",
            "items": _whole(
                {
                    "pid": {"type": "integer"},
                    "kind": {"enum": ["def", "async", "rq"]},
                    "tasks": {
                        "type": "array",
                        "items": _whole(
                            {
                                "key": {"type": "string"},
                                "name": {"type": "string"},
                                "started": {"type": ["string", "null"]},
                            }
                        ),
                    },
                }
            ),
        },
        "lease": {"type": "number", "description": "Seconds that it has left to give the next sign of life."},
        "kind": {"enum": ["dragon", "rq"]},
    }
)
_TEXT_OR_NULL: Schema = {"type": ["string", "null"]}
_DATE_OR_NULL: Schema = {"anyOf": [_DATE, {"type": "null"}]}
_KEY_OR_NULL: Schema = {"anyOf": [_ref("Key"), {"type": "null"}]}
_ROW_MEMBERS: dict[str, Schema] = {
    "key": _ref("Key"),
    "status": {"enum": ["queued", "executing", "success", "error"]},
    "task_name": {"type": "string"},
    "account": {"type": "string"},
    "queue": {"type": "string", "description": "Empty when the definition was refused."},
    "queued": _DATE,
    "started": _DATE_OR_NULL,
    "completed": _DATE_OR_NULL,
    "worker": _TEXT_OR_NULL,
    "attempt": _COUNT,
    "message": _TEXT_OR_NULL | {"description": "What the error says, in short."},
    "retried_as": _KEY_OR_NULL,
}
_ATTEMPT = _whole(
    {
        "attempt": {"type": "integer"},
        "worker": {"type": "string"},
        "started": _TEXT_OR_NULL,
        "ended": {"type": "string"},
        "ending": {"type": "string", "description": "A sentence that says why."},
    }
)
_OPERATOR_SCHEMAS: dict[str, Schema] = {
    "Row": _object(
        _ROW_MEMBERS | {"progress": {"description": "Once the task reported one."}},
        _ROW_MEMBERS,
        description="A task as lists show it.",
    ),
    "TaskPage": _whole(
        {
            "tasks": {"type": "array", "items": _ref("Row")},
            "next": _TEXT_OR_NULL | {"description": "What to give as `after` for the next page; null for the last."},
            "scanned": _COUNT | {"description": "Tasks that were looked at for this page."},
        }
    ),
    "OneTask": _whole(
        {
            "status": _ref("Status"),
            "task_name": {"type": "string"},
            "account": {"type": "string"},
            "queue": {"type": "string"},
            "parameters": {"description": "With `…` in the place of secrets."},
            "task_metas": {"type": ["object", "null"]},
            "attempt": _COUNT,
            "max_attempts": _COUNT,
            "timeout": _NUMBER_OR_NULL,
            "worker": _TEXT_OR_NULL,
            "expires": _DATE_OR_NULL,
            "traceparent": _TEXT_OR_NULL,
            "retry_of": _KEY_OR_NULL,
            "retried_as": _KEY_OR_NULL,
            "bytes": _COUNT_OR_NULL | {"description": "Of its output files."},
            "attempts": {
                "type": "array",
                "items": _ATTEMPT,
                "description": "Attempts that ended without ending the task.",
            },
            "traceback": _TEXT_OR_NULL | {"description": "For operators only."},
            "position": _COUNT_OR_NULL,
            "eta": _NUMBER_OR_NULL,
            "waiting_for": _TEXT_OR_NULL | {"description": "What keeps it waiting that will not pass by itself."},
        }
    ),
    "TaskKeysBody": _object({"tasks": _one_or_many(_ref("Key"), 1000)}, ["tasks"]),
    "RetryBody": {
        "oneOf": [
            _object({"tasks": _one_or_many(_ref("Key"), 1000)}, ["tasks"]),
            _object(
                {
                    "group": {"type": "string", "pattern": "^[0-9a-f]{16}$"},
                    "limit": {"type": "integer", "minimum": 1, "maximum": 1000, "default": 1000},
                },
                ["group"],
            ),
        ]
    },
    "Retried": _whole(
        {"key": _ref("Key"), "retried_as": _KEY_OR_NULL, "message": _TEXT_OR_NULL | {"description": "Why not."}}
    ),
    "Failures": _whole(
        {
            "groups": {
                "type": "array",
                "items": _whole(
                    {
                        "group": {"type": "string"},
                        "task_name": {"type": "string"},
                        "message": {"type": "string"},
                        "count": _COUNT,
                        "retried": _COUNT,
                        "first": _DATE,
                        "last": _DATE,
                        "keys": {"type": "array", "items": _ref("Key"), "description": "The newest five."},
                    }
                ),
            },
            "scanned": _COUNT,
            "complete": {"type": "boolean", "description": "All that are kept were looked at."},
        }
    ),
    "QueueBody": _object({"action": {"enum": ["pause", "resume", "clear"]}}, ["action"]),
    "QueueState": _whole({"queue": {"type": "string"}, "paused": {"type": "boolean"}, "cleared": _COUNT}),
    "OwnAccount": _whole(
        {
            "id": {"type": "string"},
            "name": {"type": ["string", "null"]},
            "operator": {"type": "boolean"},
            "limits": {"type": "object", "additionalProperties": _COUNT_OR_NULL},
            "tasks_queued": _COUNT,
            "bytes_stored": _COUNT,
        }
    ),
    "Overview": _whole(
        {
            "time": _DATE,
            "queues": {
                "type": "array",
                "items": _whole(
                    {
                        "name": {"type": "string"},
                        "waiting": _COUNT,
                        "executing": _COUNT,
                        "paused": {"type": "boolean"},
                        "oldest": _NUMBER_OR_NULL | {"description": "Seconds that the first has waited."},
                        "workers": _COUNT,
                    }
                ),
            },
            "workers": {"type": "array", "items": _WORKER},
            "rates": _whole(
                dict.fromkeys(["per_second", "errors_per_second", "waiting_p50", "waiting_p95"], _NUMBER_OR_NULL),
                description="Of the last minute.",
            ),
            "counts": _whole(
                {"waiting": _COUNT, "executing": _COUNT, "success": _COUNT_OR_NULL, "error": _COUNT_OR_NULL},
                description="Tasks that are kept.",
            ),
            "suspended": {"type": "boolean", "description": "By `rq suspend`."},
            "streams": _COUNT | {"description": "Open streams and waiting calls of this server process."},
            "redis": _whole(
                {
                    "version": {"type": ["string", "null"]},
                    "memory_bytes": _COUNT_OR_NULL,
                    "persistence": {"type": ["string", "null"]},
                }
            ),
        },
        description="Everything in one moment. `null` is what is not known, or not the account's own.",
    ),
}


# --- The tasks' own schemas -------------------------------------------------------------------------------------------


def _task_schemas(places: Places, tasks: list[Task]) -> dict[str, Schema]:
    """Three components for each task: its parameters, its result, and the definition that a client posts."""
    components: dict[str, Schema] = {}
    for task in tasks:
        entry = task.describe()
        name = component_name(task.name)
        parameters = _hoisted(entry["parameters"], f"{name}.parameters", components)
        components[f"{name}.parameters"] = parameters
        components[f"{name}.result"] = _hoisted(entry["result"], f"{name}.result", components)
        components[name] = _with_examples(places, _definition(task, parameters))
    components["TaskDefinition"] = _any_definition(tasks)
    return components


def component_name(task_name: str) -> str:
    """The component of a task's definition: its name, in the characters that OpenAPI allows there."""
    return "task." + re.sub(r"[^A-Za-z0-9._-]", "_", task_name)


def _definition(task: Task, parameters: Schema) -> Schema:
    """Parameters and envelope in one object, as they stand in a body; extra members are errors of that task."""
    properties = {
        "task_name": {"const": task.name},
        **parameters.get("properties", {}),
        "task_metas": {
            "type": ["object", "null"],
            "description": "Any object of the client's own, given back with `details`.",
        },
    }
    reserved = {name: {"description": "Reserved for version 2."} for name in sorted(RESERVED - properties.keys())}
    return _object(
        properties | reserved,
        ["task_name", *parameters.get("required", [])],
        description=task.description,
        additionalProperties=False,
        **{"x-task": {"output_files": list(task.outputs), "timeout": task.timeout, "max_attempts": task.max_attempts}},
    )


def _with_examples(places: Places, definition: Schema) -> Schema:
    example = {"task_name": definition["properties"]["task_name"]["const"], **demo_definition(places, definition)}
    return definition | {"examples": [example], "x-codeSamples": task_samples(places, definition)}


def _any_definition(tasks: list[Task]) -> Schema:
    about = "An object with `task_name`; its other members are the task's parameters."
    if not tasks:
        name = {"type": "string", "minLength": 1, "maxLength": NAME_LIMIT}
        return _object({"task_name": name}, ["task_name"], description=about)
    refs = {task.name: _ref(component_name(task.name)) for task in tasks}
    mapping = {name: ref["$ref"] for name, ref in refs.items()}
    return {
        "description": about,
        "oneOf": list(refs.values()),
        "discriminator": {"propertyName": "task_name", "mapping": mapping},
    }


def _hoisted(schema: Any, prefix: str, components: dict[str, Schema]) -> Any:
    """The schema with its `$defs` moved into components: inside a larger document `#/$defs/X` would point nowhere."""
    if isinstance(schema, list):
        return [_hoisted(item, prefix, components) for item in schema]
    if not isinstance(schema, dict):
        return schema
    for name, definition in schema.get("$defs", {}).items():
        components[f"{prefix}.{name}"] = _hoisted(definition, prefix, components)
    moved = {name: _hoisted(value, prefix, components) for name, value in schema.items() if name != "$defs"}
    if str(moved.get("$ref", "")).startswith("#/$defs/"):
        moved["$ref"] = f"#/components/schemas/{prefix}.{moved['$ref'].removeprefix('#/$defs/')}"
    return moved


# --- Answers ----------------------------------------------------------------------------------------------------------


def _content(schema: Schema, media: str = "application/json", example: Any = None) -> dict[str, Any]:
    return {media: {"schema": schema} | ({} if example is None else {"example": example})}


def _answer(description: str, content: dict[str, Any] | None = None, headers: Iterable[str] = ()) -> dict[str, Any]:
    answer: dict[str, Any] = {"description": description}
    if content:
        answer["content"] = content
    if headers:
        answer["headers"] = {name: _ref(name, "headers") for name in headers}
    return answer


def _message(description: str, example: str, headers: Iterable[str] = ()) -> dict[str, Any]:
    return _answer(description, _content(_ref("Message"), example={"status": "error", "message": example}), headers)


_HEADERS: dict[str, Any] = {
    name: {"description": text, "schema": {"type": "string"}}
    for name, text in {
        "Allow": "The methods that this path has.",
        "Content-Range": "The size of the file, `bytes */1234`.",
        "Cache-Control": "How long a browser may keep it; `no-store` on every error.",
        "ETag": "Send it back in `If-None-Match`.",
        "Location": "Where the output file is.",
        "Retry-After": "Seconds, where waiting helps.",
    }.items()
}

_STREAM_EXAMPLE = (
    '[{"status":"queued","key":"6GRQ3H5EHU7GXUTIOSS2GUDPGQ","events":{"queued":"2013-04-03T15:47:27.703674+00:00"}}]\n'
    '{"status":"success","key":"6GRQ3H5EHU7GXUTIOSS2GUDPGQ","events":{"queued":"2013-04-03T15:47:27.703674+00:00",'
    '"started":"2013-04-03T15:47:27.707526+00:00","completed":"2013-04-03T15:47:27.726229+00:00"},'
    '"result":"Hello John"}\n'
)

_RESPONSES: dict[str, Any] = {
    "Statuses": _answer(
        "A list of statuses, in the order of `tasks`.",
        _content({"type": "array", "items": _ref("Status")}, example=[_QUEUED]),
    ),
    "Stream": _answer(
        "First a line with the list of the immediate statuses, in order; then a line for each update of any of them; "
        "the body ends when all are final. A line always holds the full status. In silence a space is sent now and "
        "then: leading white space of the next line. With `Accept: text/event-stream` the same lines come as `data:` "
        "of server-sent events.",
        _content({"type": "string"}, "application/x-ndjson", _STREAM_EXAMPLE)
        | _content({"type": "string"}, "text/event-stream"),
    ),
    "ToFile": _answer(
        "To the output file; or, when that takes long, to `/v1/file`, which waits on.",
        headers=["Location", "Cache-Control"],
    ),
    "BadRequest": _answer(
        "The request is wrong: all its errors at once.",
        _content(_ref("ParameterErrors"), example=_PARAMETER_ERRORS["examples"][0]),
    ),
    "BadRequestOrFailedTask": _answer(
        "The request is wrong, or the task ended in an error: then its status.",
        _content({"anyOf": [_ref("ParameterErrors"), _ref("Status")]}, example=_FAILED),
    ),
    "Unauthorized": _message(
        "Credentials are missing or wrong, or a limit of the account is reached; the message says which.",
        "the page http://example.com is not on the account's whitelist",
        ["Retry-After"],
    ),
    "FilenameError": _message(
        "The task has no output file of that name. Known before anything is queued.",
        "'medium' is not a valid filename, choose one of: 'small', 'large'",
    ),
    "UnknownKey": _message("Nobody knows the key, or its time is over.", "unknown task key"),
    "UnknownKeyOrFilename": _message("The key is not known, or the filename not valid.", "unknown task key"),
    "NoSuchFile": _message("There is no such file, or its time is over.", "there is no such file"),
    "Changed": _message(
        "`If-Match` or `If-Unmodified-Since` ask for another file.",
        "the file is another one than If-Match or If-Unmodified-Since ask for",
    ),
    "NoSuchPart": _message(
        "The file has no such part.",
        "the file has no such part, or the Range header asks for several: Content-Range tells its size",
        ["Content-Range"],
    ),
    "MethodNotAllowed": _message("This path has other methods.", "PUT is not allowed here, use GET", ["Allow"]),
    "TooLarge": _message(
        "The body is too large.", "the request body is larger than 1048576 bytes: send several smaller requests"
    ),
    "TooSlow": _message(
        "The request did not come to its end in time, or its body too slowly; the connection is closed.",
        "the head of the request was not whole within 20 seconds",
    ),
    "Full": _message(
        "This process has as many connections open as it may.",
        "this server has 20000 connections open, and takes no more: try again",
        ["Retry-After"],
    ),
    "InternalError": _message("A defect of dragon's.", "internal error, the log has it under reference 1f9a0c3e"),
    "Unavailable": _message(
        "Redis cannot be reached, or this process has as many connections, streams, followed tasks or files open as it "
        "may. Nothing was created.",
        "Redis cannot be reached",
        ["Retry-After"],
    ),
    "NotModified": _answer("You have it already.", headers=["ETag", "Cache-Control"]),
}

_SECURITY_SCHEMES: dict[str, Any] = {
    "secretHeader": {
        "type": "apiKey",
        "in": "header",
        "name": "Authorization",
        "description": "`Secret KEY`. For servers; never in a page. Or `secret` in the body.",
    },
    "apiKeyHeader": {
        "type": "apiKey",
        "in": "header",
        "name": "Authorization",
        "description": "`Api-Key KEY`, and the page in Origin or Referer. Or `api_key` in the body.",
    },
    "secretQuery": {"type": "apiKey", "in": "query", "name": "secret", "description": "A secret key."},
    "apiKeyQuery": {
        "type": "apiKey",
        "in": "query",
        "name": "api_key",
        "description": "An api key, and the page in Origin or Referer: for <img>.",
    },
}

# The empty one: credentials may stand in the body, which OpenAPI cannot say, or (GET) be a signature, or not be needed
# by an account that allows images without a key.
_BY_HEADER: list[dict[str, list[str]]] = [{"secretHeader": []}, {"apiKeyHeader": []}]
_BY_HEADER_OR_BODY = [*_BY_HEADER, {}]
_ANYWHERE = [*_BY_HEADER, {"secretQuery": []}, {"apiKeyQuery": []}, {}]


# --- Paths ------------------------------------------------------------------------------------------------------------


def _paths(config: Config) -> dict[str, Any]:
    paths: dict[str, Any] = {}
    calls = (
        *(_task_calls(config), _file_calls(config), _operator_calls()),
        *(_server_calls(), _client_calls(), _page_calls()),
    )
    for names, method, operation in chain.from_iterable(calls):
        for path in names:
            parameters = [*_path_parameters(path), *operation.get("parameters", [])]
            placed = operation | ({"parameters": parameters} if parameters else {})
            placed["operationId"] = _operation_id(method, path)
            name = f"{method.upper()} {names[0]}"
            samples = call_samples(Places.of(config), name, path, placed, placed.pop("curl"))
            placed |= {"x-codeSamples": samples} if samples else {}
            paths.setdefault(path, {})[method] = placed
    return paths


_Call = tuple[tuple[str, ...], str, dict[str, Any]]


def _operation(
    tag: str, summary: str, description: str, responses: Mapping[str, Any], curl: str = "", **more: Any
) -> dict[str, Any]:
    common = {
        "405": _ref("MethodNotAllowed", "responses"),
        "408": _ref("TooSlow", "responses"),
        "500": _ref("InternalError", "responses"),
    }
    answers = {
        code: _ref(answer, "responses") if isinstance(answer, str) else answer for code, answer in responses.items()
    }
    operation: dict[str, Any] = {"tags": [tag], "summary": summary, "description": description, **more}
    full = {"503": _ref("Full", "responses")}  # on any path; most can have it for other reasons too
    operation["responses"] = dict(sorted((full | answers | common).items()))
    return operation | {"curl": curl}


def _operation_id(method: str, path: str) -> str:
    words = re.findall(r"[a-z0-9]+", path.removeprefix("/v1").lower()) or ["index"]
    return "_".join([method, *words])


def _path_parameters(path: str) -> Iterator[dict[str, Any]]:
    about = {
        "filename": (
            "Which output file. A task with a single one takes any name.",
            {"type": "string", "maxLength": 255},
        ),
        "key": ("The task's key.", _ref("Key")),
        "name": ("The file's name.", {"type": "string"}),
        "queue": ("The queue's name.", {"type": "string"}),
    }
    for name in re.findall(r"\{(\w+)\}", path):
        text, schema = about[name]
        yield {"name": name, "in": "path", "required": True, "description": text, "schema": schema}


def _query(name: str, text: str, schema: Schema, *, required: bool = False, **more: Any) -> dict[str, Any]:
    return {"name": name, "in": "query", "required": required, "description": text, "schema": schema, **more}


def _body(schema: str, example: Any) -> dict[str, Any]:
    return {"required": True, "content": _content(_ref(schema), example=example)}


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
_TASK_KEYS = _query(
    "tasks",
    "Task keys; repeat it for several.",
    {"type": "array", "items": _ref("Key"), "minItems": 1},
    required=True,
    style="form",
    explode=True,
)
_TEXT_FLAG: Schema = {"enum": ["true", "false", "1", "0", ""], "default": "false"}
_HELLO = {"tasks": [{"task_name": "hello", "name": "John"}, {"task_name": "hello", "name": "Jane"}]}
_LIVE = {"tasks": [{"task_name": "hello", "name": "John"}, {"task_name": "countdown", "from": 10, "delay": 0.3}]}
_ONE_KEY = {"tasks": [EXAMPLE_KEY]}
_MAKE_KEY = """KEY=$(curl -s $ADDRESS/v1/create -H 'Authorization: Secret $SECRET' \\
  -d '{"tasks": {"task_name": "countdown"}}' | grep -o '[A-Z2-7]\\{26\\}')
"""
_MAKE_FILE_KEY = """KEY=$(curl -s $ADDRESS/v1/create -H 'Authorization: Secret $SECRET' \\
  -d '{"tasks": {"task_name": "image.thumb", "width": 480, "url": "$ADDRESS/static/sample.jpg"}}' \\
  | grep -o '[A-Z2-7]\\{26\\}')
"""
_CREATED = {"400": "BadRequest", "401": "Unauthorized", "413": "TooLarge", "503": "Unavailable"}
_READ = {"400": "BadRequest", "503": "Unavailable"}


def _task_calls(config: Config) -> Iterator[_Call]:
    create, status, status_stream = ("/v1/create",), ("/v1/status",), ("/v1/status_stream", "/v1/stream")
    yield (
        create,
        "post",
        _operation(
            "create and follow",
            "Create tasks",
            "Queues one or more tasks and answers with their statuses, in the order of `tasks`. With `block` it "
            "answers when all are final, or when `timeout` is over, with what they are then; while it waits, white "
            "space goes out in front of the JSON.",
            {"200": "Statuses", **_CREATED},
            """curl $ADDRESS$PATH -H 'Authorization: Secret $SECRET' \\
  -d '{"tasks": [{"task_name": "hello", "name": "John"}, {"task_name": "hello", "name": "Jane"}], "block": true}'""",
            security=_BY_HEADER_OR_BODY,
            parameters=[_IDEMPOTENCY_KEY],
            requestBody=_body("CreateBody", _HELLO),
        ),
    )
    yield (
        ("/v1/create_stream",),
        "post",
        _operation(
            "create and follow",
            "Create tasks and stream their statuses",
            "Queues one or more tasks and streams every update of their statuses, interleaved, until all are final.",
            {"200": "Stream", **_CREATED},
            """curl -N $ADDRESS$PATH -H 'Authorization: Secret $SECRET' \\
  -d '{"tasks": [{"task_name": "hello", "name": "John"}, {"task_name": "countdown"}]}'""",
            security=_BY_HEADER_OR_BODY,
            parameters=[_IDEMPOTENCY_KEY],
            requestBody=_body("CreateStreamBody", _LIVE),
        ),
    )
    block = _query("block", "Answer when all are final, or when `timeout` is over.", _TEXT_FLAG, example="true")
    timeout = _query("timeout", "In seconds.", {"type": "number", "minimum": 0, "default": config.server.block_timeout})
    more = _query(
        "details", "Add task_name, parameters, task_metas, attempt, worker, expires and traceparent.", _TEXT_FLAG
    )
    found = _answer(
        "A list of statuses in the order asked for, doubles included. A key that nobody knows is an error status with "
        'the result "unknown task key" in its place.',
        _content({"type": "array", "items": {"anyOf": [_ref("Status"), _ref("DetailedStatus")]}}, example=[_FINAL]),
    )
    yield (
        status,
        "get",
        _operation(
            "create and follow",
            "Statuses of tasks",
            "Tells the status of one or more tasks, at once or (with `block`) when all are final.",
            {"200": found, **_READ},
            _MAKE_KEY + 'curl "$ADDRESS$PATH?tasks=$KEY&block=true&details=true"',
            parameters=[_TASK_KEYS, block, timeout, more],
        ),
    )
    yield (
        status,
        "post",
        _operation(
            "create and follow",
            "Statuses of many tasks",
            "As GET, for more keys than a URL holds.",
            {"200": found, "413": "TooLarge", **_READ},
            _MAKE_KEY + """curl $ADDRESS$PATH -d "{\\"tasks\\": [\\"$KEY\\"], \\"block\\": true}\"""",
            requestBody=_body("StatusBody", _ONE_KEY | {"block": True}),
        ),
    )
    streamed = {
        "200": "Stream",
        "204": _answer("An EventSource that has seen the end came back: it stays away."),
        **_READ,
    }
    yield (
        status_stream,
        "get",
        _operation(
            "create and follow",
            "Stream the statuses of existing tasks",
            "As create_stream, for tasks that exist. EventSource works on it.",
            streamed,
            _MAKE_KEY + 'curl -N "$ADDRESS$PATH?tasks=$KEY"',
            parameters=[_TASK_KEYS, _LAST_EVENT_ID],
        ),
    )
    yield (
        status_stream,
        "post",
        _operation(
            "create and follow",
            "Stream the statuses of many existing tasks",
            "As GET, for more keys than a URL holds.",
            streamed | {"413": "TooLarge"},
            _MAKE_KEY + """curl -N $ADDRESS$PATH -d "{\\"tasks\\": \\"$KEY\\"}\"""",
            parameters=[_LAST_EVENT_ID],
            requestBody=_body("StatusStreamBody", _ONE_KEY),
        ),
    )
    yield _log_call()
    yield (
        ("/v1/tasks/{key}",),
        "delete",
        _operation(
            "create and follow",
            "Cancel a task",
            'Ends a task of the same account in an error "cancelled", whatever it does. A final one stays as it is.',
            {
                "200": _answer("The status.", _content(_ref("Status"))),
                "400": "BadRequest",
                "401": "Unauthorized",
                "404": "UnknownKey",
                "503": "Unavailable",
            },
            _MAKE_KEY + "curl -X DELETE $ADDRESS/v1/tasks/$KEY -H 'Authorization: Secret $SECRET'",
            security=_BY_HEADER,
        ),
    )


def _log_call() -> _Call:
    page = _object(
        {
            "key": _ref("Key"),
            "lines": {"type": "array", "items": _ref("LogLine")},
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
        _operation(
            "create and follow",
            "The log lines of a task",
            "What a task has said with `ctx.log`, and what it has printed: the newest lines. With `follow` they come "
            "as a stream, one a line, until the task ends; with `Accept: text/event-stream` as server-sent events.",
            {
                "200": _answer("The lines.", _content(page) | streamed),
                "204": _answer("An EventSource that has seen the end came back: it stays away."),
                "404": "UnknownKey",
                **_READ,
            },
            _MAKE_KEY + 'curl -N "$ADDRESS$PATH?task=$KEY&follow=true"',
            parameters=[
                _query("task", "The task's key.", _ref("Key"), required=True),
                _query("after", "The number of the last line that is known.", after),
                _query("follow", "Stream the lines as they are said.", _TEXT_FLAG),
                _LAST_EVENT_ID,
            ],
        ),
    )


def _file_calls(config: Config) -> Iterator[_Call]:
    create_file = ("/v1/create_file", "/v1/create_file/{filename}")
    sample = f"{config.public_url}/static/sample.jpg"
    answers = {"302": "ToFile", "400": "BadRequestOrFailedTask", "503": "Unavailable"}
    created = answers | {"401": "Unauthorized", "404": "FilenameError"}
    yield (
        create_file,
        "post",
        _operation(
            "output files",
            "Create a task and go to its output file",
            "Queues a task, waits for its end and redirects to its output file. Every call makes a new task.",
            created | {"413": "TooLarge"},
            """curl -L -o thumb.jpg $ADDRESS$PATH -H 'Authorization: Secret $SECRET' \\
  -d '{"task": {"task_name": "image.thumb", "width": 480, "url": "$ADDRESS/static/sample.jpg"}}'""",
            security=_BY_HEADER_OR_BODY,
            requestBody=_body("CreateFileBody", {"task": {"task_name": "image.thumb", "width": 480, "url": sample}}),
        ),
    )
    yield (
        create_file,
        "get",
        _operation(
            "output files",
            "The output file of a task, in an <img>",
            "As POST, for places that cannot POST. The same account, task and parameters join the running task or get "
            "its finished output, for as long as that lives; a failure is not kept. Values are converted to the types "
            "of the task's parameters; a name is repeated for a list. Instead of a key: `account`, `exp` and `sig`, as "
            "`dragon sign` writes them.",
            created,
            """curl -L -o thumb.jpg -H 'Authorization: Secret $SECRET' \\
  "$ADDRESS$PATH?task_name=image.thumb&width=480&url=$ADDRESS/static/sample.jpg\"""",
            security=_ANYWHERE,
            parameters=[
                _query("task_name", "The task's name.", {"type": "string"}, required=True, example="image.thumb"),
                _query(
                    "parameters",
                    "The task's parameters, each by its own name.",
                    {"type": "object"},
                    explode=True,
                    example={"width": 480, "url": sample},
                ),
                *_SIGNATURE,
            ],
        ),
    )
    yield (
        ("/v1/file", "/v1/file/{filename}"),
        "get",
        _operation(
            "output files",
            "The output file of an existing task",
            "Waits for the end of a task and redirects to its output file. HEAD is allowed here.",
            answers | {"401": "Unauthorized", "404": "UnknownKeyOrFilename"},
            _MAKE_FILE_KEY + 'curl -L -o thumb.jpg "$ADDRESS$PATH?task=$KEY"',
            parameters=[_query("task", "The task's key.", _ref("Key"), required=True), *_SIGNATURE],
        ),
    )
    yield (
        ("/files/{key}/{filename}",),
        "get",
        _operation(
            "output files",
            "An output file",
            "Where redirects and URLs in results lead, with the local storage. `Range` works. No file ever changes.",
            {
                "200": _answer("The file.", {"*/*": {}}, ["ETag", "Cache-Control"]),
                "206": _answer("The wanted part.", {"*/*": {}}),
                "304": "NotModified",
                "404": "NoSuchFile",
                "412": "Changed",
                "416": "NoSuchPart",
            },
        ),
    )


_SIGNATURE = [
    _query("account", "The account that signed this URL.", {"type": "string"}),
    _query("exp", "Until when the signature is valid: unix time.", {"type": "integer"}),
    _query("sig", "The signature.", {"type": "string"}),
]


_HISTORY = _object(
    {
        "period": {"enum": ["hour", "day"]},
        "names": {"type": "array", "items": {"type": "string"}, "description": "Those that were ever measured."},
        "samples": {
            "type": "array",
            "items": _object(
                {
                    "start": {"type": "number", "description": "Unix time."},
                    "seconds": {"enum": [60, 900]},
                    **{outcome: {"type": "integer", "minimum": 0} for outcome in ("success", "error", "cancelled")},
                    **{
                        f"{kind}_{quantile}": {"type": ["number", "null"], "minimum": 0, "description": "In seconds."}
                        for kind in ("waiting", "running")
                        for quantile in ("p50", "p95")
                    },
                },
                ["start", "seconds", "success", "error", "cancelled"],
            ),
        },
    },
    ["period", "names", "samples"],
)
_OPERATOR: list[dict[str, list[str]]] = [{"secretHeader": []}]
_OPERATED = {"401": "Unauthorized", "503": "Unavailable"}
_AUTHORIZED = "-H 'Authorization: Secret $SECRET'"


_SEARCH = [
    _query("state", "Empty for all.", {"enum": ["", "waiting", "executing", "success", "error", "ended"]}),
    _query("name", "The task's name.", {"type": "string", "maxLength": 200}),
    _query("account", "The account's id.", {"type": "string", "maxLength": 200}),
    _query("since", "Of the newest event: ISO 8601, or unix time.", {"type": "string"}),
    _query("until", "As `since`.", {"type": "string"}),
    _query("text", "In the key, the name, the error or the parameters, in any case.", {"type": "string"}),
    _query("limit", "Rows of a page.", {"type": "integer", "minimum": 1, "maximum": 500, "default": 50}),
]
_UNKNOWN_QUEUE = _message("There is no such queue.", "there is no queue of that name, there are: default, high, low")


def _acting_calls() -> Iterator[_Call]:
    for path, summary, text, answer, body, example in (
        (
            "/v1/operator/retry",
            "Create failed tasks again",
            "New tasks with the same name, parameters, metas and account, within the limits of that account. A task is "
            "retried once, however often it is asked for.",
            _answer("What became of each.", _content({"type": "array", "items": _ref("Retried")})),
            "RetryBody",
            _ONE_KEY,
        ),
        (
            "/v1/operator/cancel",
            "Cancel tasks",
            'Ends tasks in an error "cancelled", whatever they do. What has ended stays as it is.',
            "Statuses",
            "TaskKeysBody",
            _ONE_KEY,
        ),
    ):
        curl = f"""curl $ADDRESS$PATH {_AUTHORIZED} -d "{{\\"tasks\\": [\\"$KEY\\"]}}\""""
        yield (
            (path,),
            "post",
            _operation(
                "operator",
                summary,
                text,
                {"200": answer, "400": "BadRequest", "413": "TooLarge", **_OPERATED},
                _MAKE_KEY + curl,
                security=_OPERATOR,
                requestBody=_body(body, example),
            ),
        )
    yield (
        ("/v1/operator/queues/{queue}",),
        "post",
        _operation(
            "operator",
            "Pause, resume or clear a queue",
            "A paused queue is taken nothing from by dragon's workers; what they have goes on. Clearing cancels what "
            "waits. For operators only.",
            {
                "200": _answer("The queue now.", _content(_ref("QueueState"))),
                "400": "BadRequest",
                "404": _UNKNOWN_QUEUE,
                "413": "TooLarge",
                **_OPERATED,
            },
            f"""curl $ADDRESS/v1/operator/queues/default {_AUTHORIZED} -d '{{"action": "resume"}}'""",
            security=_OPERATOR,
            requestBody=_body("QueueBody", {"action": "resume"}),
        ),
    )


def _listing_calls() -> Iterator[_Call]:
    listed = {"400": "BadRequest", **_OPERATED}
    after = _query("after", "`next` of the page before.", {"type": "string"})
    yield (
        ("/v1/operator/tasks",),
        "get",
        _operation(
            "operator",
            "Find tasks",
            "Tasks that pass all filters, newest first, in pages. A page may be short, even empty, and have a `next`: "
            "then the time for it was over.",
            {"200": _answer("A page.", _content(_ref("TaskPage"))), **listed},
            f'curl "$ADDRESS$PATH?state=error&limit=10" {_AUTHORIZED}',
            security=_OPERATOR,
            parameters=[*_SEARCH, after],
        ),
    )
    yield (
        ("/v1/operator/tasks_stream",),
        "get",
        _operation(
            "operator",
            "Find tasks, live",
            "A line with the list of the first page's rows, then a line with a row for each task that is new there or "
            "has changed, once a second. The body does not end by itself.",
            {"200": _answer("Rows.", _content({"type": "string"}, "application/x-ndjson")), **listed},
            f'curl -N --max-time 2 "$ADDRESS$PATH?state=executing" {_AUTHORIZED} || true',
            security=_OPERATOR,
            parameters=_SEARCH,
        ),
    )
    yield (
        ("/v1/operator/tasks/{key}",),
        "get",
        _operation(
            "operator",
            "One task",
            "All that is kept of it, without its secrets.",
            {"200": _answer("The task.", _content(_ref("OneTask"))), **listed, "404": "UnknownKey"},
            _MAKE_KEY + f"curl $ADDRESS/v1/operator/tasks/$KEY {_AUTHORIZED}",
            security=_OPERATOR,
        ),
    )
    yield (
        ("/v1/operator/failures",),
        "get",
        _operation(
            "operator",
            "What fails",
            "Failed tasks in groups: of one name, with errors that say the same but for numbers, keys and addresses.",
            {"200": _answer("The groups.", _content(_ref("Failures"))), **listed},
            f"curl $ADDRESS$PATH {_AUTHORIZED}",
            security=_OPERATOR,
            parameters=_SEARCH[1:2] + _SEARCH[3:4],
        ),
    )


def _operator_calls() -> Iterator[_Call]:
    yield from _listing_calls()
    yield from _acting_calls()
    yield (
        ("/v1/operator/account",),
        "get",
        _operation(
            "operator",
            "Who am I",
            "The account of the key, its limits, and what it uses of them.",
            {"200": _answer("The account.", _content(_ref("OwnAccount"))), **_OPERATED},
            f"curl $ADDRESS$PATH {_AUTHORIZED}",
            security=_OPERATOR,
        ),
    )
    yield (
        ("/v1/operator/overview",),
        "get",
        _operation(
            "operator",
            "Everything at a glance",
            "Queues, workers and what their executors do, rates, and how Redis is.",
            {"200": _answer("The overview.", _content(_ref("Overview"))), **_OPERATED},
            f"curl $ADDRESS$PATH {_AUTHORIZED}",
            security=_OPERATOR,
        ),
    )
    yield (
        ("/v1/operator/overview_stream",),
        "get",
        _operation(
            "operator",
            "Everything at a glance, live",
            "A line with the overview at once, and then one a second while something other than the time changes. "
            "In silence a space is sent now and then. The body does not end by itself.",
            {"200": _answer("Overviews.", _content({"type": "string"}, "application/x-ndjson")), **_OPERATED},
            f"curl -N --max-time 2 $ADDRESS$PATH {_AUTHORIZED} || true",
            security=_OPERATOR,
        ),
    )
    yield (
        ("/v1/operator/history",),
        "get",
        _operation(
            "operator",
            "Measurements of the last hour or day",
            "Of the tasks that ended in each minute of the last hour, or each quarter of an hour of the last day: how "
            "many, and how long they waited and ran; those of all accounts.",
            {
                "200": _answer("The slots, the oldest first.", _content(_HISTORY)),
                "400": "BadRequest",
                **_OPERATED,
            },
            f'curl "$ADDRESS$PATH?period=hour" {_AUTHORIZED}',
            security=_OPERATOR,
            parameters=[
                _query("period", "The last hour, or the last day.", {"enum": ["hour", "day"], "default": "hour"}),
                _query("name", "A task name; without it all are added up.", {"type": "string", "maxLength": 200}),
            ],
        ),
    )


def _server_calls() -> Iterator[_Call]:
    ok = _object({"status": {"const": "ok"}}, ["status"])
    yield (
        ("/v1/tasks",),
        "get",
        _operation(
            "server",
            "The task catalogue",
            "Every task with its description, the JSON Schemas of its parameters and result, its output files, and how "
            "many workers serve it now.",
            {
                "200": _answer("The catalogue.", _content({"type": "array", "items": _ref("CatalogueEntry")})),
                "503": "Unavailable",
            },
            "curl $ADDRESS$PATH",
        ),
    )
    yield (
        ("/healthz",),
        "get",
        _operation(
            "server",
            "The process is up",
            "Says nothing of Redis or workers.",
            {"200": _answer("It is; `http` is the version by which it was asked.", _content(_object(_HEALTH)))},
            "curl $ADDRESS$PATH",
        ),
    )
    yield (
        ("/readyz",),
        "get",
        _operation(
            "server",
            "Tasks would run",
            "Redis answers, and at least one worker is registered.",
            {
                "200": _answer("They would.", _content(ok)),
                "503": _message("They would not; the message says why.", "no worker is registered", ["Retry-After"]),
            },
            "curl $ADDRESS$PATH",
        ),
    )
    yield (
        ("/metrics",),
        "get",
        _operation(
            "server",
            "Metrics",
            "In Prometheus's text format: what this process does and, as far as Redis answers, queues, tasks and "
            "executors of all.",
            {"200": _answer("The metrics.", _content({"type": "string"}, "text/plain"))},
            "curl $ADDRESS$PATH",
        ),
    )
    yield (
        ("/openapi.json",),
        "get",
        _operation(
            "server",
            "This description",
            "OpenAPI 3.1.",
            {
                "200": _answer("The description.", _content({"type": "object"}), ["ETag"]),
                "304": "NotModified",
            },
            "curl $ADDRESS$PATH",
        ),
    )


def _client_calls() -> Iterator[_Call]:
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
        file = _answer("The file.", _content({"type": "string"}, media), ["ETag", "Cache-Control"])
        answers = {"200": file, "304": "NotModified"}
        yield (path,), "get", _operation("server", summary, text, answers, "curl -O $ADDRESS$PATH")


def _page_calls() -> Iterator[_Call]:
    page = _answer("The page.", _content({"type": "string"}, "text/html"), ["ETag"])
    for path, summary, text in (
        ("/", "The sample page", "A stream of tasks and a picture, live."),
        ("/docs", "The reference", "This description, for people."),
        ("/dashboard", "The dashboard", "Queues, workers, tasks and failures, live. What it shows needs a secret key."),
    ):
        yield (path,), "get", _operation("pages", summary, text, {"200": page, "304": "NotModified"})
    yield (
        ("/static/{name}",),
        "get",
        _operation(
            "pages",
            "What the pages are made of",
            "Styles, scripts, and the sample picture.",
            {
                "200": _answer("The file.", {"*/*": {}}, ["ETag", "Cache-Control"]),
                "304": "NotModified",
                "404": "NoSuchFile",
            },
            "curl -o sample.jpg $ADDRESS/static/sample.jpg",
        ),
    )
    yield (
        ("/dashboard/{name}",),
        "get",
        _operation(
            "pages",
            "What the dashboard is made of",
            "Its styles and scripts.",
            {
                "200": _answer("The file.", {"*/*": {}}, ["ETag", "Cache-Control"]),
                "304": "NotModified",
                "404": "NoSuchFile",
            },
            "curl $ADDRESS/dashboard/app.js",
        ),
    )
