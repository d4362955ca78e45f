"""The task catalogue as TypeScript, so that an editor knows every task's parameters and result.

Whatever comes from a schema is checked or quoted: names, descriptions and defaults are their authors' text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

Schema = Mapping[str, Any]

_HEAD = """\
// The tasks of this server, for dragon.d.ts: put both files into one folder of a project, and `dragon.run` knows them.
"""
_TAIL = """
declare global {
  // eslint-disable-next-line
  interface DragonTasks extends Tasks {}
}
"""

_SIMPLE = {"string": "string", "integer": "number", "number": "number", "boolean": "boolean", "null": "null"}
_PLAIN_NAME = re.compile(r"[A-Za-z_$][A-Za-z0-9_$]*", re.ASCII)
_PLAIN_TYPE = re.compile(r"[A-Za-z0-9_$]+(\[\])*", re.ASCII)
_BOUNDS = {
    "minimum": "at least {}",
    "exclusiveMinimum": "more than {}",
    "maximum": "at most {}",
    "exclusiveMaximum": "less than {}",
    "multipleOf": "a multiple of {}",
    "minLength": "at least {} characters",
    "maxLength": "at most {} characters",
    "pattern": "like /{}/",
    "minItems": "at least {} items",
    "maxItems": "at most {} items",
}
_INDENT = "  "


def declare_tasks(described: Iterable[Mapping[str, Any]]) -> str:
    """The module `tasks.d.ts`, from what `Task.describe` says of each task."""
    named: list[str] = []
    members = [_task(entry, named) for entry in described]
    tasks = "export interface Tasks {\n" + "\n".join(members) + "\n}\n"
    return "\n".join([_HEAD, *named, tasks]) + _TAIL


def _task(entry: Mapping[str, Any], named: list[str]) -> str:
    name = str(entry["name"])
    parameters, result = (_Types(f"{name}.{part}", entry[part], named) for part in ("parameters", "result"))
    about = [entry["description"], *(f"Output file: `{output}`." for output in entry["output_files"])]
    return (
        _comment(about, _INDENT)
        + f"{_INDENT}{_text(name)}: {{\n"
        + f"{_INDENT * 2}params: {parameters.root(2)};\n"
        + f"{_INDENT * 2}result: {result.root(2)};\n"
        + f"{_INDENT}}};"
    )


class _Types:
    """The types of one JSON Schema; its `$defs` become interfaces of their own, which may name themselves."""

    def __init__(self, prefix: str, schema: Schema, named: list[str]) -> None:
        self._schema = schema
        # Numbered: names that differ in what no identifier may have must stay different.
        self._names = {
            name: f"{_identifier(f'{prefix}.{name}')}_{len(named) + number}"
            for number, name in enumerate(schema.get("$defs", {}), 1)
        }
        for name, definition in schema.get("$defs", {}).items():
            comment = _comment([definition.get("description", "")], "")
            named.append(f"{comment}export type {self._names[name]} = {self.of(definition, 0)};\n")

    def root(self, depth: int) -> str:
        return self.of(self._schema, depth)

    def of(self, schema: Any, depth: int) -> str:
        """The type of a schema, in one line or, for an object, with its members at `depth` + 1."""
        if not isinstance(schema, Mapping):
            return "never" if schema is False else "unknown"
        for keyword, spell in _SPELLINGS:
            if keyword in schema:
                return spell(self, schema, depth)
        return "unknown"

    def _reference(self, schema: Schema, _depth: int) -> str:
        return self._names.get(str(schema["$ref"]).rpartition("/")[2], "unknown")

    def _constant(self, schema: Schema, _depth: int) -> str:
        return _literal(schema["const"])

    def _choice(self, schema: Schema, _depth: int) -> str:
        return _union(_literal(value) for value in schema["enum"])

    def _any_of(self, schema: Schema, depth: int) -> str:
        return _union(self.of(member, depth) for member in schema.get("anyOf", schema.get("oneOf")) or ())

    def _all_of(self, schema: Schema, depth: int) -> str:
        types = [self.of(member, depth) for member in schema["allOf"]]
        return " & ".join(text if _PLAIN_TYPE.fullmatch(text) else f"({text})" for text in types)

    def _typed(self, schema: Schema, depth: int) -> str:
        kind = schema["type"]
        if isinstance(kind, Sequence) and not isinstance(kind, str):
            return _union(self.of({**schema, "type": one}, depth) for one in kind)
        if kind == "array":
            return self._list(schema, depth)
        return self._object(schema, depth) if kind == "object" else _SIMPLE.get(kind, "unknown")

    def _list(self, schema: Schema, depth: int) -> str:
        if "prefixItems" in schema:
            return f"[{', '.join(self.of(item, depth) for item in schema['prefixItems'])}]"
        item = self.of(schema.get("items"), depth)
        return f"{item}[]" if _PLAIN_TYPE.fullmatch(item) else f"Array<{item}>"

    def _object(self, schema: Schema, depth: int) -> str:
        members = list(self._members(schema, depth + 1))
        further = schema.get("additionalProperties")
        if not members:
            return "Record<string, never>" if further is False else f"Record<string, {self.of(further, depth)}>"
        return "{\n" + "".join(members) + _INDENT * depth + "}"

    def _members(self, schema: Schema, depth: int) -> Iterator[str]:
        required = schema.get("required", ())
        for name, member in schema.get("properties", {}).items():
            mark = "" if name in required else "?"
            indent = _INDENT * depth
            yield f"{_comment(_about(member), indent)}{indent}{_member_name(name)}{mark}: {self.of(member, depth)};\n"


#: The first keyword that a schema has decides how it is spelled.
_SPELLINGS = (
    ("$ref", _Types._reference),
    ("const", _Types._constant),
    ("enum", _Types._choice),
    ("anyOf", _Types._any_of),
    ("oneOf", _Types._any_of),
    ("allOf", _Types._all_of),
    ("type", _Types._typed),
)


def _about(schema: Any) -> list[str]:
    """What is said of a member: its description, its bounds, its default."""
    if not isinstance(schema, Mapping):
        return []
    parts = [schema, *(part for part in schema.get("anyOf", ()) if isinstance(part, Mapping))]
    texts = [str(part["description"]) for part in parts if part.get("description")]
    for part in parts:
        bounds = [text.format(part[name]) for name, text in _BOUNDS.items() if name in part]
        texts += [", ".join([*(["a URL"] if part.get("format") == "uri" else []), *bounds])]
    if schema.get("default") is not None:
        texts.append(f"@default {json.dumps(schema['default'], ensure_ascii=False)}")
    return [text for text in texts if text]


def _comment(texts: Iterable[str], indent: str) -> str:
    lines = [line.rstrip() for text in texts for line in text.replace("*/", "*\\/").splitlines()]
    if not any(lines):
        return ""
    if len(lines) == 1:
        return f"{indent}/** {lines[0]} */\n"
    return f"{indent}/**\n" + "".join(f"{indent} * {line}".rstrip() + "\n" for line in lines) + f"{indent} */\n"


def _literal(value: Any) -> str:
    if value is None or isinstance(value, bool | str):
        return _text(value)
    return json.dumps(value) if isinstance(value, int | float) else "unknown"


def _text(value: Any) -> str:
    # ASCII: U+2028 and its like end a line of TypeScript, and lone surrogates are not UTF-8.
    return json.dumps(value)


def _member_name(name: str) -> str:
    return name if _PLAIN_NAME.fullmatch(name) else _text(name)


def _identifier(name: str) -> str:
    """A type's name: `image.thumb.parameters.Corner` is ImageThumbParametersCorner."""
    pieces = re.split(r"[^A-Za-z0-9]+", name)
    found = "".join(piece[:1].upper() + piece[1:] for piece in pieces)
    return found if _PLAIN_NAME.fullmatch(found) else f"T{found}"


def _union(types: Iterable[str]) -> str:
    return " | ".join(dict.fromkeys(types)) or "never"
