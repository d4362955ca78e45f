"""/openapi.json: the contract for machines (OpenAPI 3.1), written by hand around the schemas of the tasks' signatures.

The page at /docs is made of it too. tests/server/test_pages.py holds it against the routes and against real answers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import chain
from typing import Any

from dragon import __version__
from dragon.config import Config
from dragon.server.examples import Places, call_samples
from dragon.server.openapi import (
    answers,
    file_calls,
    operator_calls,
    page_calls,
    schemas,
    server_calls,
    task_calls,
    task_schemas,
)
from dragon.server.openapi.parts import ref
from dragon.server.openapi.task_schemas import component_name as component_name
from dragon.server.plain_examples import EXAMPLE_KEY as EXAMPLE_KEY
from dragon.task import Registry

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
            "schemas": schemas.shapes(config) | task_schemas.shapes(Places.of(config), tasks),
            "responses": answers.RESPONSES,
            "headers": answers.HEADERS,
            "securitySchemes": answers.SECURITY_SCHEMES,
        },
    }


def _paths(config: Config) -> dict[str, Any]:
    paths: dict[str, Any] = {}
    of_tasks = (task_calls.calls(config), file_calls.calls(config), operator_calls.calls())
    for names, method, described in chain(*of_tasks, server_calls.calls(), page_calls.calls()):
        for path in names:
            parameters = [*_path_parameters(path), *described.get("parameters", [])]
            placed = described | ({"parameters": parameters} if parameters else {})
            placed["operationId"] = _operation_id(method, path)
            name = f"{method.upper()} {names[0]}"
            samples = call_samples(Places.of(config), name, path, placed, placed.pop("curl"))
            placed |= {"x-codeSamples": samples} if samples else {}
            paths.setdefault(path, {})[method] = placed
    return paths


def _operation_id(method: str, path: str) -> str:
    words = re.findall(r"[a-z0-9]+", path.removeprefix("/v1").lower()) or ["index"]
    return "_".join([method, *words])


def _path_parameters(path: str) -> Iterator[dict[str, Any]]:
    about = {
        "filename": (
            "Which output file. A task with a single one takes any name.",
            {"type": "string", "maxLength": 255},
        ),
        "key": ("The task's key.", ref("Key")),
        "name": ("The file's name.", {"type": "string"}),
        "queue": ("The queue's name.", {"type": "string"}),
    }
    for name in re.findall(r"\{(\w+)\}", path):
        text, schema = about[name]
        yield {"name": name, "in": "path", "required": True, "description": text, "schema": schema}
