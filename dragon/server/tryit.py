"""The forms on /docs that send a call or a task: a field for each parameter, made from its schema.

static/docs.js sends them and shows what comes back; without JavaScript they stay hidden.
"""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from dragon.server.notation import JSON
from dragon.server.plain_examples import path_value
from dragon.server.schema_words import bounds, default_of, is_flag, parameters_of, type_of

_E = html.escape

Schema = Mapping[str, Any]


class Field(NamedTuple):
    """One parameter in a form."""

    name: str
    place: str  # path, query, header, or task: a member of the task definition
    schema: Schema
    value: Any = None  # what it is tried with
    required: bool = False


def call_form(anchor: str, method: str, paths: Iterable[str], operation: Schema, body: Any) -> str:
    """The form of a call; `body` is the example of its JSON body, None for a call without one."""
    # The longest path has the parameters of all; docs.js leaves out what is left empty.
    path = max(paths, key=lambda path: path.count("{"))
    fields = [
        Field(item["name"], item["in"], item["schema"], _tried_with(path, item), item.get("required", False))
        for item in operation.get("parameters", ())
    ]
    shown = "".join(_row(anchor, field) for field in fields if field.place != "header")
    headers = "".join(_row(anchor, field) for field in fields if field.place == "header")
    if headers:
        headers = f"<details class='more'><summary>Headers</summary><div class='fields'>{headers}</div></details>"
    rows = f"<div class='fields'>{shown}</div>" if shown else ""
    return _form(
        f"Try {method} {path}",
        {"method": method, "path": path, "makes": _demo_task(path), "auth": "yes" if operation.get("security") else ""},
        rows + (_body(anchor, body) if body is not None else "") + headers,
    )


def _tried_with(path: str, parameter: Schema) -> Any:
    return parameter.get("example", path_value(path, parameter["name"]) if parameter["in"] == "path" else None)


def task_form(anchor: str, definition: Schema) -> str:
    """The form of a task, whose fields are its parameters."""
    name = definition["properties"]["task_name"]["const"]
    example: Schema = next(iter(definition.get("examples", ())), {})
    required = definition.get("required", ())
    rows = "".join(
        _row(anchor, Field(parameter, "task", schema, example.get(parameter), parameter in required))
        for parameter, schema in parameters_of(definition).items()
    )
    return _form(
        f"Try the task {name}",
        {"method": "POST", "path": "/v1/create_stream", "auth": "yes", "task": name},
        f"<div class='fields'>{rows}</div>" if rows else "<p class='hint'>It has no parameters.</p>",
    )


def _form(label: str, data: Mapping[str, str], inside: str) -> str:
    facts = "".join(f" data-{name}='{_E(value)}'" for name, value in data.items() if value)
    return (
        f"<form class='trial' aria-label='{_E(label)}' novalidate hidden{facts}><h4>Try it</h4>{inside}"
        "<div class='actions'><button class='send'>Send</button>"
        "<button class='stop' type='button' hidden>Stop</button>"
        "<p class='facts' role='status'></p></div><div class='answer' hidden></div></form>"
    )


def _demo_task(path: str) -> str:
    """The task that is made for a call that needs the key of one, when the reader gives none."""
    return "image.thumb" if "file" in path else "countdown"


def _body(anchor: str, example: Any) -> str:
    text = JSON.write(example)
    identity = f"{anchor}-body"
    return (
        f"<div class='body'><label for='{identity}'>Body <small>JSON</small></label>"
        f"<textarea id='{identity}' name='body' rows='{min(text.count(chr(10)) + 2, 14)}' spellcheck='false' "
        f"autocomplete='off'>{_E(text)}</textarea></div>"
    )


#: Kinds whose fields need the whole width.
_WIDE = frozenset({"text", "key", "keys", "lines", "pairs", "json"})


def _row(anchor: str, field: Field) -> str:
    identity = _E(f"{anchor}-{field.name}")
    kind = _field_kind(field)
    mark = " <b class='required' title='required'>*</b>" if field.required and field.place != "path" else ""
    hint = f" <small class='hint'>{_E(_hint(field.schema))}</small>" if kind not in ("choice", "boolean") else ""
    return (
        f"<div class='field{' long' if kind in _WIDE else ''}'>"
        f"<label for='{identity}'>{_E(field.name)}{mark}{hint}</label>{_control(identity, field)}</div>"
    )


def _hint(schema: Schema) -> str:
    limits = bounds(schema)
    if limits and type_of(schema) in ("integer", "number"):
        return limits
    return type_of(schema) + (f", {limits}" if limits else "")


def _field_kind(field: Field) -> str:
    schema = plain(field.schema)
    return "pairs" if field.place == "query" and schema.get("type") == "object" else kind_of(schema)


def plain(schema: Schema) -> Schema:
    """A schema without its null: what a field is made of; one with several alternatives is anything."""
    parts = [part for part in schema.get("anyOf", ()) if part.get("type") != "null"]
    if len(parts) == 1:
        return {**schema, **parts[0]}
    return {} if parts else schema


def kind_of(schema: Schema) -> str:
    """How docs.js reads a field: text, integer, number, boolean, choice, key, lines, keys, pairs or json."""
    if "$ref" in schema:
        return "key" if schema["$ref"].endswith("/Key") else "json"
    if "enum" in schema:
        return "boolean" if is_flag(schema["enum"]) else "choice"
    kind = schema.get("type")
    if kind == "array":
        inner = kind_of(plain(schema.get("items", {})))
        return {"key": "keys", "text": "lines", "integer": "lines", "number": "lines"}.get(inner, "json")
    return {"string": "text", "integer": "integer", "number": "number", "boolean": "boolean"}.get(str(kind), "json")


def _control(identity: str, field: Field) -> str:
    schema, kind = plain(field.schema), _field_kind(field)
    facts = f"id='{identity}' name='{_E(field.name)}' data-place='{field.place}' data-kind='{kind}'"
    if kind in ("choice", "boolean"):
        return _select(facts, schema.get("enum", [True, False]) if kind == "choice" else [True, False], field)
    if kind in ("lines", "json", "pairs"):
        return _many(facts, kind, schema, field)
    return _input(facts, kind, schema, field)


def _select(facts: str, choices: list[Any], field: Field) -> str:
    default = default_of(field.schema).strip('"')
    texts = [choice if isinstance(choice, str) else json.dumps(choice) for choice in choices]
    chosen = (
        "" if field.value is None else str(field.value if isinstance(field.value, str) else json.dumps(field.value))
    )
    options = "".join(
        f"<option value='{_E(json.dumps(choice))}'{' selected' if text == chosen else ''}>{_E(text)}</option>"
        for choice, text in zip(choices, texts, strict=True)
    )
    empty = f"{default} (default)" if default else "not given"
    return f"<select {facts}><option value=''>{_E(empty)}</option>{options}</select>"


def _many(facts: str, kind: str, schema: Schema, field: Field) -> str:
    value = "" if field.value is None else _as_text(kind, field.value)
    item = plain(schema.get("items", {})).get("type", "string") if kind == "lines" else ""
    placeholder = {"lines": "one a line", "pairs": "name=value, one a line", "json": "JSON"}[kind]
    rows = max(2, value.count("\n") + 1)
    return (
        f"<textarea {facts} data-item='{item}' rows='{rows}' spellcheck='false' autocomplete='off' "
        f"placeholder='{placeholder}'{_required(field)}>{_E(value)}</textarea>"
    )


def _as_text(kind: str, value: Any) -> str:
    if kind == "lines":
        return "\n".join(map(str, value))
    if kind == "pairs":
        return "\n".join(f"{name}={part}" for name, part in value.items())
    return json.dumps(value, ensure_ascii=False)


def _input(facts: str, kind: str, schema: Schema, field: Field) -> str:
    bounds_of_numbers = ""
    if kind in ("integer", "number"):
        bounds_of_numbers = f" inputmode='{'numeric' if kind == 'integer' else 'decimal'}'"
    value = "" if field.value is None else f" value='{_E(str(field.value))}'"
    placeholder = default_of(field.schema).strip('"')
    if kind in ("key", "keys"):
        placeholder = "left empty: a new task's"
    return (
        f"<input {facts}{bounds_of_numbers}{value} placeholder='{_E(placeholder)}' spellcheck='false' "
        f"autocomplete='off'{_required(field)}>"
    )


def _required(field: Field) -> str:
    return " aria-required='true'" if field.required and field.place != "path" else ""
