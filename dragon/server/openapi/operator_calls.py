"""The calls of the operator API."""

from __future__ import annotations

from collections.abc import Iterator

from dragon.server.openapi.parts import Call, answer, body, content, message, operation, query, ref, shape
from dragon.server.openapi.samples import MAKE_KEY, ONE_KEY

_HISTORY = shape(
    {
        "period": {"enum": ["hour", "day"]},
        "names": {"type": "array", "items": {"type": "string"}, "description": "Those that were ever measured."},
        "samples": {
            "type": "array",
            "items": shape(
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
    query("state", "Empty for all.", {"enum": ["", "waiting", "executing", "success", "error", "ended"]}),
    query("name", "The task's name.", {"type": "string", "maxLength": 200}),
    query("account", "The account's id.", {"type": "string", "maxLength": 200}),
    query("since", "Of the newest event: ISO 8601, or unix time.", {"type": "string"}),
    query("until", "As `since`.", {"type": "string"}),
    query("text", "In the key, the name, the error or the parameters, in any case.", {"type": "string"}),
    query("limit", "Rows of a page.", {"type": "integer", "minimum": 1, "maximum": 500, "default": 50}),
]
_UNKNOWN_QUEUE = message("There is no such queue.", "there is no queue of that name, there are: default, high, low")


def _acting_calls() -> Iterator[Call]:
    for path, summary, text, said, asked, example in (
        (
            "/v1/operator/retry",
            "Create failed tasks again",
            "New tasks with the same name, parameters, metas and account, within the limits of that account. A task is "
            "retried once, however often it is asked for.",
            answer("What became of each.", content({"type": "array", "items": ref("Retried")})),
            "RetryBody",
            ONE_KEY,
        ),
        (
            "/v1/operator/cancel",
            "Cancel tasks",
            'Ends tasks in an error "cancelled", whatever they do. What has ended stays as it is.',
            "Statuses",
            "TaskKeysBody",
            ONE_KEY,
        ),
    ):
        curl = f"""curl $ADDRESS$PATH {_AUTHORIZED} -d "{{\\"tasks\\": [\\"$KEY\\"]}}\""""
        yield (
            (path,),
            "post",
            operation(
                "operator",
                summary,
                text,
                {"200": said, "400": "BadRequest", "413": "TooLarge", **_OPERATED},
                MAKE_KEY + curl,
                security=_OPERATOR,
                requestBody=body(asked, example),
            ),
        )
    yield (
        ("/v1/operator/queues/{queue}",),
        "post",
        operation(
            "operator",
            "Pause, resume or clear a queue",
            "A paused queue is taken nothing from by dragon's workers; what they have goes on. Clearing cancels what "
            "waits. For operators only.",
            {
                "200": answer("The queue now.", content(ref("QueueState"))),
                "400": "BadRequest",
                "404": _UNKNOWN_QUEUE,
                "413": "TooLarge",
                **_OPERATED,
            },
            f"""curl $ADDRESS/v1/operator/queues/default {_AUTHORIZED} -d '{{"action": "resume"}}'""",
            security=_OPERATOR,
            requestBody=body("QueueBody", {"action": "resume"}),
        ),
    )


def _listing_calls() -> Iterator[Call]:
    listed = {"400": "BadRequest", **_OPERATED}
    after = query("after", "`next` of the page before.", {"type": "string"})
    yield (
        ("/v1/operator/tasks",),
        "get",
        operation(
            "operator",
            "Find tasks",
            "Tasks that pass all filters, newest first, in pages. A page may be short, even empty, and have a `next`: "
            "then the time for it was over.",
            {"200": answer("A page.", content(ref("TaskPage"))), **listed},
            f'curl "$ADDRESS$PATH?state=error&limit=10" {_AUTHORIZED}',
            security=_OPERATOR,
            parameters=[*_SEARCH, after],
        ),
    )
    yield (
        ("/v1/operator/tasks_stream",),
        "get",
        operation(
            "operator",
            "Find tasks, live",
            "A line with the list of the first page's rows, then a line with a row for each task that is new there or "
            "has changed, once a second; the list again when nothing of the page before is on it, since there may be "
            "tasks in between. The body does not end by itself.",
            {"200": answer("Rows.", content({"type": "string"}, "application/x-ndjson")), **listed},
            f'curl -N --max-time 2 "$ADDRESS$PATH?state=executing" {_AUTHORIZED} || true',
            security=_OPERATOR,
            parameters=_SEARCH,
        ),
    )
    yield (
        ("/v1/operator/tasks/{key}",),
        "get",
        operation(
            "operator",
            "One task",
            "All that is kept of it, without its secrets.",
            {"200": answer("The task.", content(ref("OneTask"))), **listed, "404": "UnknownKey"},
            MAKE_KEY + f"curl $ADDRESS/v1/operator/tasks/$KEY {_AUTHORIZED}",
            security=_OPERATOR,
        ),
    )
    yield (
        ("/v1/operator/failures",),
        "get",
        operation(
            "operator",
            "What fails",
            "Failed tasks in groups: of one name, with errors that say the same but for numbers, keys and addresses.",
            {"200": answer("The groups.", content(ref("Failures"))), **listed},
            f"curl $ADDRESS$PATH {_AUTHORIZED}",
            security=_OPERATOR,
            parameters=_SEARCH[1:2] + _SEARCH[3:4],
        ),
    )


def calls() -> Iterator[Call]:
    yield from _listing_calls()
    yield from _acting_calls()
    yield (
        ("/v1/operator/account",),
        "get",
        operation(
            "operator",
            "Who am I",
            "The account of the key, its limits, and what it uses of them.",
            {"200": answer("The account.", content(ref("OwnAccount"))), **_OPERATED},
            f"curl $ADDRESS$PATH {_AUTHORIZED}",
            security=_OPERATOR,
        ),
    )
    yield (
        ("/v1/operator/overview",),
        "get",
        operation(
            "operator",
            "Everything at a glance",
            "Queues, workers and what their executors do, rates, and how Redis is.",
            {"200": answer("The overview.", content(ref("Overview"))), **_OPERATED},
            f"curl $ADDRESS$PATH {_AUTHORIZED}",
            security=_OPERATOR,
        ),
    )
    yield (
        ("/v1/operator/overview_stream",),
        "get",
        operation(
            "operator",
            "Everything at a glance, live",
            "A line with the overview at once, and then one a second while something other than the time changes. "
            "In silence a space is sent now and then. The body does not end by itself.",
            {"200": answer("Overviews.", content({"type": "string"}, "application/x-ndjson")), **_OPERATED},
            f"curl -N --max-time 2 $ADDRESS$PATH {_AUTHORIZED} || true",
            security=_OPERATOR,
        ),
    )
    yield (
        ("/v1/operator/history",),
        "get",
        operation(
            "operator",
            "Measurements of the last hour or day",
            "Of the tasks that ended in each minute of the last hour, or each quarter of an hour of the last day: how "
            "many, and how long they waited and ran; those of all accounts.",
            {
                "200": answer("The slots, the oldest first.", content(_HISTORY)),
                "400": "BadRequest",
                **_OPERATED,
            },
            f'curl "$ADDRESS$PATH?period=hour" {_AUTHORIZED}',
            security=_OPERATOR,
            parameters=[
                query("period", "The last hour, or the last day.", {"enum": ["hour", "day"], "default": "hour"}),
                query("name", "A task name; without it all are added up.", {"type": "string", "maxLength": 200}),
            ],
        ),
    )
