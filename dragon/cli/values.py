"""Parameters as people type them, name=value, turned into JSON by a task's schema."""

from __future__ import annotations

import difflib
import json
import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

Schema = Mapping[str, Any]

_FLAGS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
_NAMED = {
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "null": "null",
    "array": "a list",
    "object": "an object",
    "string": "text",
}
_ABSENT = object()


def find_task(catalogue: Sequence[dict[str, Any]], name: str) -> dict[str, Any]:
    """The catalogue's entry of a task. Raises UsageError with a name that is near."""
    known = {str(entry["name"]): entry for entry in catalogue}
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else "`dragon tasks` lists them"
    raise click.UsageError(f"this server has no task {name!r}: {hint}")


def read_parameters(entry: Mapping[str, Any], words: Iterable[str]) -> dict[str, Any]:
    """The parameters of a task from words as `name=value`. Raises UsageError that names what is wrong."""
    schema = entry["parameters"]
    members: Mapping[str, Schema] = schema.get("properties", {})
    texts: dict[str, list[str]] = {}
    for word in words:
        name, mark, text = word.partition("=")
        if not mark:
            raise click.UsageError(f"{word!r} is no parameter: write name=value; {_takes(entry)}")
        _check_name(entry, members, name)
        texts.setdefault(name, []).append(text)
    return {name: _read_member(name, given, members[name], schema) for name, given in texts.items()}


def check_required(entry: Mapping[str, Any], parameters: Mapping[str, Any]) -> None:
    """Raises UsageError when a parameter is missing without which the task cannot run."""
    missing = [name for name in entry["parameters"].get("required", []) if name not in parameters]
    if missing:
        raise click.UsageError(f"{entry['name']} needs {', '.join(f'{name}=...' for name in missing)}")


def _check_name(entry: Mapping[str, Any], members: Mapping[str, Schema], name: str) -> None:
    if name in members:
        return
    near = difflib.get_close_matches(name, members, n=1)
    hint = f"did you mean {near[0]!r}?" if near else _takes(entry)
    raise click.UsageError(f"{entry['name']} has no parameter {name!r}: {hint}")


def _takes(entry: Mapping[str, Any]) -> str:
    members = entry["parameters"].get("properties", {})
    return f"{entry['name']} takes {', '.join(members) or 'none'} (`dragon tasks {entry['name']}`)"


def _read_member(name: str, texts: list[str], schema: Schema, root: Schema) -> Any:
    forms = list(forms_of(schema, root))
    lists = [form for form in forms if form.get("type") == "array"]
    if len(texts) > 1 and not lists:
        raise click.UsageError(f"{name} is given {len(texts)} times, and is no list")
    values = [_read_value(name, text, forms, lists, root) for text in texts]
    if len(texts) == 1:
        return values[0]
    return [item for value in values for item in (value if isinstance(value, list) else [value])]


def _read_value(name: str, text: str, forms: list[Schema], lists: list[Schema], root: Schema) -> Any:
    if text.startswith("@") and not text.startswith("@@"):
        content = _read_file(name, text[1:])
        if text.endswith(".json"):
            return _read_json(f"{name}={text}", content)
        text = content
    elif text.startswith("@@"):
        text = text[1:]
    value = _convert(name, text, forms)
    if value is _ABSENT and lists:  # one item of it
        items = [form for one in lists for form in forms_of(one.get("items", {}), root)]
        value = _convert(name, text, items)
        value = value if value is _ABSENT else [value]
    if value is _ABSENT:
        raise click.UsageError(f"{name} must be {_named(forms)}, and {text!r} is not")
    return value


def _read_file(name: str, path: str) -> str:
    try:
        text = sys.stdin.read() if path == "-" else Path(path).read_text("utf-8")
    except OSError as error:
        hint = f"a value that begins with @ is a file's; write {name}=@@{path} for the text itself"
        raise click.UsageError(f"{name}=@{path} cannot be read: {error.strerror} ({hint})") from None
    except UnicodeDecodeError:
        raise click.UsageError(f"{name}=@{path} is not UTF-8") from None
    return text.removesuffix("\n")


def _read_json(where: str, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise click.UsageError(f"{where} is not valid JSON: {error}") from None


def forms_of(schema: Schema, root: Schema) -> Iterator[Schema]:
    """The schemas that a value may fit one of: references followed, alternatives one by one."""
    reference = schema.get("$ref")
    if isinstance(reference, str):
        found: Any = root
        for part in reference.removeprefix("#/").split("/"):
            found = found[part]
        yield from forms_of(found, root)
    elif alternatives := schema.get("anyOf") or schema.get("oneOf") or schema.get("allOf"):
        for alternative in alternatives:
            yield from forms_of(alternative, root)
    else:
        yield schema


def _convert(name: str, text: str, forms: list[Schema]) -> Any:
    """The value that a text stands for, _ABSENT when it is none of these."""
    kinds = {form.get("type") for form in forms}
    if text[:1] in ("[", "{") and kinds & {"array", "object", None}:
        return _read_json(name, text)
    for kind in ("boolean", "integer", "number"):
        if kind in kinds and (value := _read_as(kind, text)) is not _ABSENT:
            return value
    if "string" in kinds:
        return text
    if "null" in kinds and text in ("", "null"):
        return None
    return _read_any(text, forms) if None in kinds else _ABSENT


def _read_as(kind: str, text: str) -> Any:
    if kind == "boolean":
        return _FLAGS.get(text.lower(), _ABSENT)
    try:
        return int(text)
    except ValueError:
        if kind == "integer":
            return _ABSENT
    try:
        number = float(text)
    except ValueError:
        return _ABSENT
    return number if math.isfinite(number) else _ABSENT


def _read_any(text: str, forms: list[Schema]) -> Any:
    """A value whose type is not declared: one of an enumeration as it is spelled, else JSON if it is any, else text."""
    for value in (value for form in forms for value in form.get("enum", ())):
        if text == (value if isinstance(value, str) else json.dumps(value)):
            return value
    try:
        return json.loads(text)
    except ValueError:
        return text


def _named(forms: list[Schema]) -> str:
    return " or ".join(dict.fromkeys(map(_name_of, forms)))


def _name_of(form: Schema) -> str:
    items = form.get("items", {}).get("type") if form.get("type") == "array" else None
    name = _NAMED.get(str(form.get("type")), "something else")
    return f"{name} (one item is {_NAMED[items]})" if items in _NAMED else name


def read_lines(option: str) -> tuple[str, list[str]]:
    """The name and the lines of `--each name=@FILE`. Raises UsageError."""
    name, mark, path = option.partition("=@")
    if not mark or not name or not path:
        raise click.UsageError(f"--each {option}: write --each name=@FILE, a value a line (@- is what is piped in)")
    lines = [line for line in _read_file(name, path).splitlines() if line.strip()]
    if not lines:
        raise click.UsageError(f"--each {option}: there are no lines in it")
    return name, lines
