"""The examples of calls that the clients have no verb for: plain fetch, and the Python client's `call`.

Made of the call itself: its method and path, its body's example, whether it wants a key, what it answers. A call that
needs a task's key gets a new task's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dragon.server.notation import JAVASCRIPT, PYTHON

EXAMPLE_KEY = "6GRQ3H5EHU7GXUTIOSS2GUDPGQ"

#: What stands in a path of an example; a task's key is made by the example itself.
PATH_VALUES = {"filename": "thumb.jpg", "name": "sample.jpg", "queue": "default"}
#: Where it is another value than elsewhere.
_OTHER_VALUES = {"/dashboard/{name}": "app.js"}

_STREAM = "application/x-ndjson"

#: How JavaScript reads an answer, by what the answer is.
_READ = {
    "application/json": "await response.json()",
    "text/plain": "await response.text()",
    "text/html": "await response.text()",
    "*/*": '(await response.blob()).size, "bytes"',
}


def path_value(path: str, name: str) -> str | None:
    """What stands in an example's path for the parameter; None for a key."""
    return _OTHER_VALUES.get(path) or PATH_VALUES.get(name)


def plain_javascript(method: str, path: str, operation: Mapping[str, Any]) -> str:
    """A fetch, and what comes."""
    body, media = _body_of(operation), _media_type(operation)
    text = JAVASCRIPT.write(body, "  ").replace(f'"{EXAMPLE_KEY}"', "task.key")
    options = [
        *([] if method == "GET" else [f'method: "{method}"']),
        *(['headers: { Authorization: "Secret $SECRET" }'] if operation.get("security") else []),
        *([] if body is None else [f"body: JSON.stringify({text})"]),
    ]
    given = ", {{\n  {},\n}}".format(",\n  ".join(options)) if options else ""
    address = '"$ADDRESS$PATH"'
    if "{key}" in path:
        address = "`$ADDRESS" + path.replace("{key}", "${task.key}") + "`"
    made = 'const [task] = await dragon.create({ task_name: "countdown" });\n' if _needs_key(path, body) else ""
    call = f"{made}const response = await fetch({address}{given});\n"
    if media == _STREAM:
        return (
            f"{call}for await (const lines of response.body.pipeThrough(new TextDecoderStream())) {{\n"
            "  console.log(lines);\n  break; // or read on\n}"
        )
    return f"{call}console.log({_READ.get(media, _READ['*/*'])});"


def plain_python(method: str, path: str, operation: Mapping[str, Any]) -> str:
    """The client's `call` for JSON, the standard library for the rest."""
    body, media = _body_of(operation), _media_type(operation)
    if media == "application/json":
        made = '[task] = client.create([("countdown", {})])\n' if _needs_key(path, body) else ""
        text = PYTHON.write(body).replace(f'"{EXAMPLE_KEY}"', "task.key")
        place = f'f"{path.replace("{key}", "{task.key}")}"' if "{key}" in path else '"$PATH"'
        return f'{made}print(client.call("{method}", {place}{"" if body is None else f", {text}"}))'
    read = "response.readline().decode()" if media == _STREAM else 'len(response.read()), "bytes"'
    if operation.get("security"):
        return (
            "from urllib.request import Request, urlopen\n\n"
            'request = Request("$ADDRESS$PATH", headers={"Authorization": "Secret $SECRET"})\n'
            f"with urlopen(request) as response:\n    print({read})"
        )
    return f'from urllib.request import urlopen\n\nwith urlopen("$ADDRESS$PATH") as response:\n    print({read})'


def _needs_key(path: str, body: Any) -> bool:
    return "{key}" in path or EXAMPLE_KEY in PYTHON.write(body)


def _body_of(operation: Mapping[str, Any]) -> Any:
    content = operation.get("requestBody", {}).get("content", {})
    return next((media.get("example") for media in content.values()), None)


def _media_type(operation: Mapping[str, Any]) -> str:
    """What a good answer is; the ones that several calls share, by reference, are JSON."""
    return next(iter(operation["responses"].get("200", {}).get("content", ())), "application/json")
