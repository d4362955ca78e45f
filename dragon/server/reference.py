"""The API reference as HTML, for /docs, from the same document that machines get at /openapi.json.

Whatever comes from the document is escaped: task descriptions are their authors' text.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

_E = html.escape

_STATUS_TEXTS = {"200": "OK", "204": "No content", "206": "Part", "302": "Redirect", "304": "Not modified"}


def render_reference(document: Mapping[str, Any]) -> str:
    """The contents of the page: a list of contents, the calls by tag, the tasks."""
    return _Reference(document).html()


class _Reference:
    def __init__(self, document: Mapping[str, Any]) -> None:
        self._document = document
        self._schemas: Mapping[str, Any] = document["components"]["schemas"]
        self._calls = {tag["name"]: list(_calls(document["paths"], tag["name"])) for tag in document["tags"]}
        self._tasks = [schema for schema in self._schemas.values() if "x-task" in schema]

    def html(self) -> str:
        return (
            f'{self._contents()}\n<div class="reference">\n{self._intro()}{self._all_calls()}{self._all_tasks()}</div>'
        )

    def _contents(self) -> str:
        calls = "".join(
            f"<li><a href='#{call.anchor}'><span class='method'>{call.method}</span> {_E(call.paths[0])}</a></li>"
            for calls in self._calls.values()
            for call in calls
        )
        tasks = "".join(f"<li><a href='#{_anchor(name)}'>{_E(name)}</a></li>" for name in map(_task_name, self._tasks))
        return (
            "<nav class='contents' aria-label='Contents'><h2>Calls</h2>"
            f"<ul>{calls}</ul><h2><a href='#tasks'>Tasks</a></h2><ul>{tasks}</ul></nav>"
        )

    def _intro(self) -> str:
        return f"<section class='intro'>{_paragraphs(self._document['info']['description'])}</section>\n"

    def _all_calls(self) -> str:
        return "".join(
            f"<h2>{_E(tag['name'].capitalize())}</h2>{_paragraphs(tag['description'])}"
            + "".join(self._call(call) for call in self._calls[tag["name"]])
            for tag in self._document["tags"]
        )

    def _call(self, call: _Call) -> str:
        paths = "<br>".join(f"<span class='method'>{call.method}</span> {_E(path)}" for path in call.paths)
        operation = call.operation
        parts = [
            f"<article id='{call.anchor}'><h3><code>{paths}</code></h3><h4>{_E(operation['summary'])}</h4>",
            _paragraphs(operation["description"]),
            self._parameters(operation),
            *(_shell(sample["source"]) for sample in call.samples),
            self._answers(operation["responses"]),
            "</article>\n",
        ]
        return "".join(parts)

    def _parameters(self, operation: Mapping[str, Any]) -> str:
        rows = [
            _row(item["name"], item["in"], item["schema"], item.get("description", ""), item.get("required", False))
            for item in operation.get("parameters", ())
        ]
        for content in operation.get("requestBody", {}).get("content", {}).values():
            schema = self._resolve(content["schema"])
            rows += _member_rows(schema, "body")
        if not rows:
            return ""
        return _table(("Parameter", "Where", "Type", "Default", "What"), rows)

    def _answers(self, responses: Mapping[str, Any]) -> str:
        items = []
        for code, given in responses.items():
            response = self._resolve(given)
            text = _STATUS_TEXTS.get(code, "")
            shapes = "".join(_example(content) for content in response.get("content", {}).values())
            title = f"<b class='code'>{_E(code)}</b> <span class='meaning'>{_E(text)}</span>"
            items.append(f"<li>{title} {_inline(response['description'])}{shapes}</li>")
        return f"<h5>Answers</h5><ul class='answers'>{''.join(items)}</ul>"

    def _resolve(self, thing: Mapping[str, Any]) -> Mapping[str, Any]:
        while "$ref" in thing:
            found: Any = self._document
            for part in thing["$ref"].removeprefix("#/").split("/"):
                found = found[part]
            thing = found
        return thing

    def _all_tasks(self) -> str:
        intro = (
            "A task definition is an object with <code>task_name</code>; its other members are the parameters. "
            "<code>task_metas</code>, any object of your own, is kept and given back with <code>details</code>."
        )
        return f"<h2 id='tasks'>Tasks</h2><p>{intro}</p>" + "".join(self._task(schema) for schema in self._tasks)

    def _task(self, schema: Mapping[str, Any]) -> str:
        name = _task_name(schema)
        facts = schema["x-task"]
        files = ", ".join(f"<code>{_E(file)}</code>" for file in facts["output_files"]) or "none"
        result = self._schemas[_component_of(self._schemas, schema) + ".result"]
        return (
            f"<article id='{_anchor(name)}'><h3><code>{_E(name)}</code></h3>{_paragraphs(schema['description'])}"
            + _table(("Parameter", "Type", "Default", "What"), _member_rows(schema, ""))
            + f"<dl><dt>Result</dt><dd>{_result(result)}</dd><dt>Output files</dt><dd>{files}</dd>"
            f"<dt>Timeout</dt><dd>{facts['timeout']:g} s an attempt, {facts['max_attempts']} attempts when workers "
            "die</dd></dl></article>\n"
        )


class _Call:
    """One operation, and the paths that it is found under."""

    def __init__(self, method: str, variants: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
        self.method = method.upper()
        self.paths = [path for path, _ in variants]
        # The last variant has the parameters of all: a filename in the path.
        self.operation = variants[-1][1]
        self.samples = self.operation.get("x-codeSamples", ())
        self.anchor = _E(variants[0][1]["operationId"])


def _calls(paths: Mapping[str, Any], tag: str) -> Iterator[_Call]:
    """The calls of a tag; those that differ in their path only are one."""
    variants: dict[tuple[str, str], list[tuple[str, Mapping[str, Any]]]] = {}
    for path, methods in paths.items():
        for method, operation in methods.items():
            if tag in operation["tags"]:
                variants.setdefault((method, operation["summary"]), []).append((path, operation))
    for (method, _), found in variants.items():
        yield _Call(method, found)


def _task_name(schema: Mapping[str, Any]) -> str:
    return str(schema["properties"]["task_name"]["const"])


def _component_of(schemas: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    return next(name for name, found in schemas.items() if found is schema)


def _anchor(task_name: str) -> str:
    return "task-" + re.sub(r"[^A-Za-z0-9.-]", "-", task_name)


# --- Tables -----------------------------------------------------------------------------------------------------------


def _member_rows(schema: Mapping[str, Any], place: str) -> list[str]:
    required = schema.get("required", ())
    return [
        _row(name, place, member, _description(member), name in required)
        for name, member in schema.get("properties", {}).items()
        if name not in ("task_name", "task_metas") and not _is_reserved(member)
    ]


def _is_reserved(member: Mapping[str, Any]) -> bool:
    return str(member.get("description", "")).startswith("Reserved")


def _row(name: str, place: str, schema: Mapping[str, Any], text: str, required: bool) -> str:
    default = "<b>required</b>" if required else _default(schema)
    where = f"<td>{_E(place)}</td>" if place else ""
    about = _joined(_inline(text), _E(bounds(schema)))
    kind = _E(type_of(schema))
    return (
        f"<tr><th scope='row'><code>{_E(name)}</code></th>{where}<td>{kind}</td><td>{default}</td><td>{about}</td></tr>"
    )


def _joined(sentence: str, addition: str) -> str:
    if sentence.endswith(".") and addition:
        return f"{sentence} {addition[0].upper()}{addition[1:]}."
    return ", ".join(part for part in (sentence, addition) if part)


def _table(columns: Iterable[str], rows: list[str]) -> str:
    if not rows:
        return "<p>No parameters.</p>"
    head = "".join(f"<th scope='col'>{_E(column)}</th>" for column in columns)
    # The wrapper scrolls on a narrow screen, and is reached by keyboard for that.
    return (
        "<div class='scroll' tabindex='0' role='region' aria-label='Parameters'><table>"
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _default(schema: Mapping[str, Any]) -> str:
    default = schema.get("default")
    return "" if default is None else f"<code>{_E(json.dumps(default, ensure_ascii=False))}</code>"


def _result(schema: Mapping[str, Any]) -> str:
    members = schema.get("properties")
    if not members:
        return _E(type_of(schema))
    return ", ".join(f"<code>{_E(name)}</code> {_E(type_of(member))}" for name, member in members.items())


# --- Schemas in words -------------------------------------------------------------------------------------------------


def type_of(schema: Mapping[str, Any]) -> str:
    """What a schema takes, in words."""
    if "$ref" in schema:
        return {"Key": "key", "TaskDefinition": "task definition"}.get(schema["$ref"].rpartition("/")[2], "object")
    if "const" in schema:
        return json.dumps(schema["const"], ensure_ascii=False)
    if "enum" in schema:
        return _enum(schema["enum"])
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(type_of(part) for part in schema["anyOf"] if part.get("type") != "null"))
    kind = schema.get("type", "any JSON value")
    if isinstance(kind, list):
        return " or ".join(part for part in kind if part != "null")
    if kind == "array":
        return f"list of {_plural(type_of(schema.get('items', {})))}"
    return "URL" if schema.get("format") == "uri" else str(kind)


def _enum(choices: list[Any]) -> str:
    if "true" in choices and "false" in choices:  # a flag, in every spelling that clients use
        return "boolean"
    return ", ".join(choice if isinstance(choice, str) else json.dumps(choice) for choice in choices)


def _plural(text: str) -> str:
    return text if text.startswith("any ") or " or " in text else f"{text}s"


def bounds(schema: Mapping[str, Any]) -> str:
    """The limits of a schema, in words."""
    for part in schema.get("anyOf", ()):
        if part.get("type") != "null" and bounds(part):
            return bounds(part)
    if "enum" in schema:
        return ""
    low, above, high = schema.get("minimum"), schema.get("exclusiveMinimum"), schema.get("maximum")
    if above is not None and schema.get("type") == "integer":
        low, above = above + 1, None
    texts = [_range(low, high, "")] if low is not None or high is not None else []
    if above is not None:
        texts.append(f"more than {above}")
    for least, most, unit in (("minItems", "maxItems", "items"), ("minLength", "maxLength", "characters")):
        if schema.get(most) is not None or schema.get(least, 0) > 1:
            texts.append(_range(schema.get(least), schema.get(most), unit))
    return ", ".join(texts)


def _range(low: float | None, high: float | None, unit: str) -> str:
    text = f"{low} to {high}"
    if low is None:
        text = f"at most {high}"
    elif high is None:
        text = f"at least {low}"
    return f"{text} {unit}".strip()


def _description(member: Mapping[str, Any]) -> str:
    inner = (part.get("description", "") for part in member.get("anyOf", ()))
    return str(member.get("description") or next((text for text in inner if text), ""))


# --- Text -------------------------------------------------------------------------------------------------------------


def _paragraphs(text: str) -> str:
    return "".join(f"<p>{_inline(part)}</p>" for part in re.split(r"\n\s*\n", text.strip()) if part)


def _inline(text: str) -> str:
    """Escapes, and shows `this` as code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", _E(text))


def _shell(source: str) -> str:
    return f"<h5>Try it</h5><pre data-copy tabindex='0'><code>{_E(source)}</code></pre>"


def _example(content: Mapping[str, Any]) -> str:
    if "example" not in content:
        return ""
    example = content["example"]
    text = example if isinstance(example, str) else json.dumps(example, ensure_ascii=False)
    return f"<pre class='example' tabindex='0'><code>{_E(text)}</code></pre>"
