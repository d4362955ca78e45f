"""The examples of the reference: each call, and each task, with curl, in JavaScript and in Python.

They go into the OpenAPI document as `x-codeSamples`, from there onto /docs; the tests run every one as it stands. curl
comes with each call (openapi/), JavaScript and Python from the table here; what it does not have is made of the call.
"""

from __future__ import annotations

import json
import keyword
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from dragon.config import Config
from dragon.server.notation import JAVASCRIPT, JSON, PYTHON, WIDTH
from dragon.server.plain_examples import PATH_VALUES, path_value, plain_javascript, plain_python
from dragon.server.schema_words import parameters_of

Sample = dict[str, str]


class Example(NamedTuple):
    """What stands behind the line that makes the client; what is empty is made of the call (plain_examples.py)."""

    javascript: str = ""
    python: str = ""


class Places(NamedTuple):
    """What `$ADDRESS`, `$SECRET` and `$API_KEY` of the examples are on this server."""

    address: str
    secret: str
    api_key: str

    @classmethod
    def of(cls, config: Config) -> Places:
        """With the demo account's keys, which everybody knows, where there may be a demo account."""
        keys = ("123456", "654321") if config.listens_on_loopback else ("YOUR-SECRET-KEY", "YOUR-API-KEY")
        return cls(config.public_url, *keys)

    def fill(self, text: str, path: str = "") -> str:
        for name, value in (("ADDRESS", self.address), ("SECRET", self.secret), ("API_KEY", self.api_key)):
            text = text.replace(f"${name}", value)
        for name in PATH_VALUES:
            path = path.replace(f"{{{name}}}", path_value(path, name) or "")
        return text.replace("$PATH", path)


_JS_CLIENT = """\
import { Dragon } from "$ADDRESS/v1/dragon.js";

const dragon = new Dragon({ apiKey: "$API_KEY" });
"""
_PY_CLIENT = """\
from dragon.client import Dragon

client = Dragon("$ADDRESS", secret="$SECRET")
"""

#: By the call, as its first path spells it.
EXAMPLES: dict[str, Example] = {
    "POST /v1/create": Example(
        """\
const [john, jane] = await dragon.create([
  { task_name: "hello", name: "John" },
  { task_name: "hello", name: "Jane" },
]);
console.log(john.status, john.key);

// Or one task, to its end:
console.log(await dragon.run("hello", { name: "John" }));""",
        """\
john, jane = client.create([("hello", {"name": "John"}), ("hello", {"name": "Jane"})])
print(john.status, john.key)

# Or one task, to its end:
print(client.run("hello", name="John"))""",
    ),
    "POST /v1/create_stream": Example(
        """\
const tasks = [{ task_name: "hello", name: "John" }, { task_name: "countdown" }];
for await (const status of dragon.stream(tasks)) {
  console.log(status.key, status.status, status.progress, status.result);
}""",
        """\
for status in client.stream([("hello", {"name": "John"}), ("countdown", {})]):
    print(status.key, status.status, status.progress, status.result)""",
    ),
    "GET /v1/status": Example(
        """\
const [task] = await dragon.create([{ task_name: "countdown" }]);
const [status] = await dragon.status([task.key], { block: true });
console.log(status.result);""",
        """\
[task] = client.create([("countdown", {})])
[status] = client.status([task.key], block=True, details=True)
print(status.result, status.raw["parameters"])""",
    ),
    "POST /v1/status": Example(
        """\
// The client takes POST by itself when the keys are many.
const tasks = await dragon.create([{ task_name: "hello" }, { task_name: "countdown" }]);
for (const status of await dragon.status(tasks.map((task) => task.key), { block: true })) {
  console.log(status.result);
}""",
        """\
tasks = client.create([("hello", {}), ("countdown", {})])
for status in client.status([task.key for task in tasks], block=True):
    print(status.result)""",
    ),
    "GET /v1/status_stream": Example(
        """\
const [task] = await dragon.create([{ task_name: "countdown" }]);
for await (const status of dragon.follow([task.key])) {
  console.log(status.status, status.progress);
}""",
        """\
[task] = client.create([("countdown", {})])
for status in client.follow([task.key]):
    print(status.status, status.progress)""",
    ),
    "POST /v1/status_stream": Example(
        """\
const tasks = await dragon.create([{ task_name: "hello" }, { task_name: "countdown" }]);
for await (const status of dragon.follow(tasks.map((task) => task.key))) {
  console.log(status.key, status.status, status.progress);
}""",
        """\
tasks = client.create([("hello", {}), ("countdown", {})])
for status in client.follow([task.key for task in tasks]):
    print(status.key, status.status, status.progress)""",
    ),
    "GET /v1/log": Example(
        """\
const [task] = await dragon.create({ task_name: "countdown" });
for await (const line of dragon.log(task.key, { follow: true })) {
  console.log(line.number, line.text);
}
console.log("ended");""",
        """\
[task] = client.create([("countdown", {})])
for line in client.log(task.key, follow=True):
    print(line.number, line.text)
print("ended")""",
    ),
    "DELETE /v1/tasks/{key}": Example(
        """\
const [task] = await dragon.create([{ task_name: "countdown", from: 1000 }]);
console.log(await dragon.cancel(task.key));""",
        """\
[task] = client.create([("countdown", {"from": 1000})])
print(client.cancel(task.key).result)""",
    ),
    "POST /v1/create_file": Example(
        """\
const picture = await dragon.run("image.thumb", {
  url: "$ADDRESS/static/sample.jpg",
  width: 480,
});
console.log(picture.output, picture.width, picture.height);""",
        """\
picture = client.run("image.thumb", url="$ADDRESS/static/sample.jpg", width=480)
print(picture["output"], picture["width"], picture["height"])""",
    ),
    "GET /v1/create_file": Example(
        """\
// The picture is made when a browser asks for it, and once only.
const src = dragon.imgUrl("image.thumb", {
  url: "$ADDRESS/static/sample.jpg",
  width: 480,
});
console.log(`<img src="${src}">`);""",
        """\
# The picture is made when a browser asks for it, and once only.
src = client.img_url("image.thumb", {"url": "$ADDRESS/static/sample.jpg", "width": 480})
print(f'<img src="{src}">')""",
    ),
    "GET /v1/file": Example(
        """\
const [task] = await dragon.create({
  task_name: "image.thumb",
  url: "$ADDRESS/static/sample.jpg",
  width: 480,
});
const response = await dragon.file(task.key);
console.log(response.headers.get("Content-Type"));""",
        """\
[task] = client.create([("image.thumb", {"url": "$ADDRESS/static/sample.jpg", "width": 480})])
print(client.file(task.key, path="thumb.jpg"))""",
    ),
    "GET /v1/tasks": Example(
        """\
const response = await dragon.fetch("$PATH");
for (const task of await response.json()) {
  console.log(task.name, "-", task.description);
}""",
        """\
for task in client.tasks():
    print(task["name"], "-", task["description"])""",
    ),
    "GET /v1/operator/overview": Example(python='print(client.operator.overview()["counts"])'),
    "GET /v1/operator/overview_stream": Example(
        python="""\
for overview in client.operator.overviews():
    print(overview["counts"])
    break  # or read on"""
    ),
    "GET /v1/operator/tasks": Example(
        python="""\
for task in client.operator.tasks(state="error", limit=10)["tasks"]:
    print(task["key"], task["task_name"], task["message"])
print("that is all")"""
    ),
    "GET /v1/operator/tasks/{key}": Example(
        python="""\
[task] = client.create([("countdown", {})])
print(client.operator.task(task.key)["attempts"])"""
    ),
    "GET /v1/operator/failures": Example(
        python="""\
for group in client.operator.failures()["groups"]:
    print(group["count"], group["task_name"], group["message"])
print("that is all")"""
    ),
    "POST /v1/operator/retry": Example(
        python="""\
[task] = client.create([("countdown", {})])
print(client.operator.retry([task.key]))  # this one has not failed: the message says so"""
    ),
    "POST /v1/operator/cancel": Example(
        python="""\
[task] = client.create([("countdown", {"from": 1000})])
print(client.operator.cancel([task.key]))"""
    ),
    "POST /v1/operator/queues/{queue}": Example(
        """\
const response = await fetch("$ADDRESS$PATH", {
  method: "POST",
  headers: { Authorization: "Secret $SECRET" },
  body: JSON.stringify({ action: "resume" }),
});
console.log(await response.json());""",
        'print(client.operator.resume("default"))',
    ),
    "GET /v1/operator/account": Example(python='print(client.operator.account()["name"])'),
    "GET /v1/operator/history": Example(python='print(client.operator.history("hour")["names"])'),
}


#: What the tasks that come with dragon are tried with, by task name. Other tasks: `Field(examples=[...])`.
DEMO_VALUES: dict[str, dict[str, Any]] = {
    "hello": {"name": "you"},
    "countdown": {"from": 10, "delay": 0.3},
    "image.info": {"url": "$ADDRESS/static/sample.jpg"},
    "image.thumb": {"url": "$ADDRESS/static/sample.jpg", "width": 480},
    "image.gif": {"images": ["$ADDRESS/static/sample.jpg"] * 2, "width": 240},
    "image.strip": {"urls": ["$ADDRESS/static/sample.jpg"] * 3, "width": 160, "height": 120, "crop": True},
}


def call_samples(places: Places, name: str, path: str, operation: Mapping[str, Any], curl: str) -> list[Sample]:
    """The examples of a call in all three languages; none when it has no curl. `name` is `METHOD /first/path`."""
    if not curl:
        return []
    method, _, call = name.partition(" ")
    row = EXAMPLES.get(name, Example())
    javascript = row.javascript or plain_javascript(method, call, operation)
    python = row.python or plain_python(method, call, operation)
    if re.search(r"\bdragon\.\w+\(", javascript):
        javascript = f"{_JS_CLIENT}\n{javascript}"
    if re.search(r"\bclient\.[\w.]+\(", python):
        python = f"{_PY_CLIENT}\n{python}"
    return [
        {"lang": lang, "label": label, "source": places.fill(source, path)}
        for lang, label, source in (
            ("Shell", "curl", curl),
            ("JavaScript", "JavaScript", javascript),
            ("Python", "Python", python),
        )
    ]


# --- Tasks ------------------------------------------------------------------------------------------------------------


def demo_definition(places: Places, definition: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters that a task is tried with: the demo values, or the schema's examples, or something of the type."""
    name = definition["properties"]["task_name"]["const"]
    if name in DEMO_VALUES:
        return {parameter: _filled(places, value) for parameter, value in DEMO_VALUES[name].items()}
    required = definition.get("required", ())
    return {
        parameter: schema["examples"][0] if schema.get("examples") else _something(schema)
        for parameter, schema in parameters_of(definition).items()
        if parameter in required or schema.get("examples")
    }


def _filled(places: Places, value: Any) -> Any:
    if isinstance(value, list):
        return [_filled(places, part) for part in value]
    return places.fill(value) if isinstance(value, str) else value


def _something(schema: Mapping[str, Any]) -> Any:
    """A value that shows the type, where nobody gave an example."""
    if schema.get("enum"):
        return schema["enum"][0]
    if schema.get("format") == "uri":
        return "https://example.com/..."
    if schema.get("type") == "array":
        return [_something(schema.get("items", {}))]
    return {"integer": 1, "number": 1.0, "boolean": True, "object": {}}.get(str(schema.get("type")), "...")


def task_samples(places: Places, definition: Mapping[str, Any]) -> list[Sample]:
    """The examples of a task."""
    name = definition["properties"]["task_name"]["const"]
    parameters = demo_definition(places, definition)
    body = JSON.write({"tasks": {"task_name": name, **parameters}}, "  ").replace("'", r"'\''")
    sources = {
        ("Shell", "curl"): "curl -N $ADDRESS/v1/create_stream -H 'Authorization: Secret $SECRET' \\\n"
        + f"  -d '{body}'",
        ("JavaScript", "JavaScript"): f"{_JS_CLIENT}\n{_run_in_javascript(name, parameters)}",
        ("Python", "Python"): f"{_PY_CLIENT}\n{_run_in_python(name, parameters)}",
    }
    return [{"lang": lang, "label": label, "source": places.fill(source)} for (lang, label), source in sources.items()]


def _run_in_javascript(name: str, parameters: Mapping[str, Any]) -> str:
    return (
        f"const result = await dragon.run({json.dumps(name)}, {JAVASCRIPT.write(parameters)}, {{\n"
        "  onProgress: (progress) => console.log(progress),\n"
        "});\n"
        "console.log(result);"
    )


def _run_in_python(name: str, parameters: Mapping[str, Any]) -> str:
    if any(not parameter.isidentifier() or keyword.iskeyword(parameter) for parameter in parameters):
        arguments = [PYTHON.write(parameters, "    ")]  # Python takes them in a dictionary only
    else:
        arguments = [f"{parameter}={PYTHON.write(value, '    ')}" for parameter, value in parameters.items()]
    given = [json.dumps(name), *arguments]
    call = f"client.run({', '.join(given)})"
    if len(call) > WIDTH:
        call = "client.run(\n" + "".join(f"    {argument},\n" for argument in given) + ")"
    return f"result = {call}\nprint(result)"
