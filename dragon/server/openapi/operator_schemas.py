"""The shapes of the operator API."""

from __future__ import annotations

from dragon.server.openapi.parts import (
    COUNT,
    COUNT_OR_NULL,
    DATE,
    DATE_OR_NULL,
    KEY_OR_NULL,
    NUMBER_OR_NULL,
    TEXT_OR_NULL,
    Schema,
    one_or_many,
    ref,
    shape,
    whole,
)

_WORKER = whole(
    {
        "id": {"type": "string"},
        "hostname": {"type": "string"},
        "pid": {"type": ["integer", "null"]},
        "queues": {"type": "array", "items": {"type": "string"}},
        "executors": {
            "type": "array",
            "items": whole(
                {
                    "pid": {"type": "integer"},
                    "kind": {"enum": ["def", "async", "rq"]},
                    "tasks": {
                        "type": "array",
                        "items": whole(
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

_ROW_MEMBERS: dict[str, Schema] = {
    "key": ref("Key"),
    "status": {"enum": ["queued", "executing", "success", "error"]},
    "task_name": {"type": "string"},
    "account": {"type": "string"},
    "queue": {"type": "string", "description": "Empty when the definition was refused."},
    "queued": DATE,
    "started": DATE_OR_NULL,
    "completed": DATE_OR_NULL,
    "worker": TEXT_OR_NULL,
    "attempt": COUNT,
    "message": TEXT_OR_NULL | {"description": "What the error says, in short."},
    "retried_as": KEY_OR_NULL,
}
_ATTEMPT = whole(
    {
        "attempt": {"type": "integer"},
        "worker": {"type": "string"},
        "started": TEXT_OR_NULL,
        "ended": {"type": "string"},
        "ending": {"type": "string", "description": "A sentence that says why."},
    }
)
SHAPES: dict[str, Schema] = {
    "Row": shape(
        _ROW_MEMBERS | {"progress": {"description": "Once the task reported one."}},
        _ROW_MEMBERS,
        description="A task as lists show it.",
    ),
    "TaskPage": whole(
        {
            "tasks": {"type": "array", "items": ref("Row")},
            "next": TEXT_OR_NULL | {"description": "What to give as `after` for the next page; null for the last."},
            "scanned": COUNT | {"description": "Tasks that were looked at for this page."},
        }
    ),
    "OneTask": whole(
        {
            "status": ref("Status"),
            "task_name": {"type": "string"},
            "account": {"type": "string"},
            "queue": {"type": "string"},
            "parameters": {"description": "With `…` in the place of secrets."},
            "task_metas": {"type": ["object", "null"]},
            "attempt": COUNT,
            "max_attempts": COUNT,
            "timeout": NUMBER_OR_NULL,
            "worker": TEXT_OR_NULL,
            "expires": DATE_OR_NULL,
            "traceparent": TEXT_OR_NULL,
            "retry_of": KEY_OR_NULL,
            "retried_as": KEY_OR_NULL,
            "bytes": COUNT_OR_NULL | {"description": "Of its output files."},
            "attempts": {
                "type": "array",
                "items": _ATTEMPT,
                "description": "Attempts that ended without ending the task.",
            },
            "traceback": TEXT_OR_NULL | {"description": "For operators only."},
            "position": COUNT_OR_NULL,
            "eta": NUMBER_OR_NULL,
            "waiting_for": TEXT_OR_NULL | {"description": "What keeps it waiting that will not pass by itself."},
        }
    ),
    "TaskKeysBody": shape({"tasks": one_or_many(ref("Key"), 1000)}, ["tasks"]),
    "RetryBody": {
        "oneOf": [
            shape({"tasks": one_or_many(ref("Key"), 1000)}, ["tasks"]),
            shape(
                {
                    "group": {"type": "string", "pattern": "^[0-9a-f]{16}$"},
                    "limit": {"type": "integer", "minimum": 1, "maximum": 1000, "default": 1000},
                },
                ["group"],
            ),
        ]
    },
    "Retried": whole(
        {"key": ref("Key"), "retried_as": KEY_OR_NULL, "message": TEXT_OR_NULL | {"description": "Why not."}}
    ),
    "Failures": whole(
        {
            "groups": {
                "type": "array",
                "items": whole(
                    {
                        "group": {"type": "string"},
                        "task_name": {"type": "string"},
                        "message": {"type": "string"},
                        "count": COUNT,
                        "retried": COUNT,
                        "first": DATE,
                        "last": DATE,
                        "keys": {"type": "array", "items": ref("Key"), "description": "The newest five."},
                    }
                ),
            },
            "scanned": COUNT,
            "complete": {"type": "boolean", "description": "All that are kept were looked at."},
        }
    ),
    "QueueBody": shape({"action": {"enum": ["pause", "resume", "clear"]}}, ["action"]),
    "QueueState": whole({"queue": {"type": "string"}, "paused": {"type": "boolean"}, "cleared": COUNT}),
    "OwnAccount": whole(
        {
            "id": {"type": "string"},
            "name": {"type": ["string", "null"]},
            "operator": {"type": "boolean"},
            "limits": {"type": "object", "additionalProperties": COUNT_OR_NULL},
            "tasks_queued": COUNT,
            "bytes_stored": COUNT,
        }
    ),
    "Overview": whole(
        {
            "time": DATE,
            "queues": {
                "type": "array",
                "items": whole(
                    {
                        "name": {"type": "string"},
                        "waiting": COUNT,
                        "executing": COUNT,
                        "paused": {"type": "boolean"},
                        "oldest": NUMBER_OR_NULL | {"description": "Seconds that the first has waited."},
                        "workers": COUNT,
                    }
                ),
            },
            "workers": {"type": "array", "items": _WORKER},
            "rates": whole(
                dict.fromkeys(["per_second", "errors_per_second", "waiting_p50", "waiting_p95"], NUMBER_OR_NULL),
                description="Of the last minute.",
            ),
            "counts": whole(
                {"waiting": COUNT, "executing": COUNT, "success": COUNT_OR_NULL, "error": COUNT_OR_NULL},
                description="Tasks that are kept.",
            ),
            "suspended": {"type": "boolean", "description": "By `rq suspend`."},
            "streams": COUNT | {"description": "Open streams and waiting calls of this server process."},
            "redis": whole(
                {
                    "version": {"type": ["string", "null"]},
                    "memory_bytes": COUNT_OR_NULL,
                    "persistence": {"type": ["string", "null"]},
                }
            ),
        },
        description="Everything in one moment. `null` is what is not known, or not the account's own.",
    ),
}
