"""The calls that lead to output files."""

from __future__ import annotations

from collections.abc import Iterator

from dragon.config import Config
from dragon.server.openapi.answers import ANYWHERE, BY_HEADER_OR_BODY
from dragon.server.openapi.parts import Call, answer, body, operation, query, ref
from dragon.server.openapi.samples import MAKE_FILE_KEY

_SIGNATURE = [
    query("account", "The account that signed this URL.", {"type": "string"}),
    query("exp", "Until when the signature is valid: unix time.", {"type": "integer"}),
    query("sig", "The signature.", {"type": "string"}),
]


def calls(config: Config) -> Iterator[Call]:
    create_file = ("/v1/create_file", "/v1/create_file/{filename}")
    sample = f"{config.public_url}/static/sample.jpg"
    answers = {"302": "ToFile", "400": "BadRequestOrFailedTask", "503": "Unavailable"}
    created = answers | {"401": "Unauthorized", "404": "FilenameError"}
    yield (
        create_file,
        "post",
        operation(
            "output files",
            "Create a task and go to its output file",
            "Queues a task, waits for its end and redirects to its output file. Every call makes a new task.",
            created | {"413": "TooLarge"},
            """curl -L -o thumb.jpg $ADDRESS$PATH -H 'Authorization: Secret $SECRET' \\
  -d '{"task": {"task_name": "image.thumb", "width": 480, "url": "$ADDRESS/static/sample.jpg"}}'""",
            security=BY_HEADER_OR_BODY,
            requestBody=body("CreateFileBody", {"task": {"task_name": "image.thumb", "width": 480, "url": sample}}),
        ),
    )
    yield (
        create_file,
        "get",
        operation(
            "output files",
            "The output file of a task, in an <img>",
            "As POST, for places that cannot POST. The same account, task and parameters join the running task or get "
            "its finished output, for as long as that lives; a failure is not kept. Values are converted to the types "
            "of the task's parameters; a name is repeated for a list. Instead of a key: `account`, `exp` and `sig`, as "
            "`dragon sign` writes them.",
            created,
            """curl -L -o thumb.jpg -H 'Authorization: Secret $SECRET' \\
  "$ADDRESS$PATH?task_name=image.thumb&width=480&url=$ADDRESS/static/sample.jpg\"""",
            security=ANYWHERE,
            parameters=[
                query("task_name", "The task's name.", {"type": "string"}, required=True, example="image.thumb"),
                query(
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
        operation(
            "output files",
            "The output file of an existing task",
            "Waits for the end of a task and redirects to its output file. HEAD is allowed here.",
            answers | {"401": "Unauthorized", "404": "UnknownKeyOrFilename"},
            MAKE_FILE_KEY + 'curl -L -o thumb.jpg "$ADDRESS$PATH?task=$KEY"',
            parameters=[query("task", "The task's key.", ref("Key"), required=True), *_SIGNATURE],
        ),
    )
    yield (
        ("/files/{key}/{filename}",),
        "get",
        operation(
            "output files",
            "An output file",
            "Where redirects and URLs in results lead, with the local storage. `Range` works. No file ever changes.",
            {
                "200": answer("The file.", {"*/*": {}}, ["ETag", "Cache-Control"]),
                "206": answer("The wanted part.", {"*/*": {}}),
                "304": "NotModified",
                "404": "NoSuchFile",
                "412": "Changed",
                "416": "NoSuchPart",
            },
        ),
    )
