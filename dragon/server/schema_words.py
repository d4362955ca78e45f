"""A JSON Schema in words for people: what it takes, its bounds, its default."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


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


def is_flag(choices: list[Any]) -> bool:
    """Whether an enumeration is a boolean in every spelling that clients use."""
    return "true" in choices and "false" in choices


def _enum(choices: list[Any]) -> str:
    if is_flag(choices):
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


def description_of(member: Mapping[str, Any]) -> str:
    """The sentence of a member, also where it stands at one of its alternatives."""
    inner = (part.get("description", "") for part in member.get("anyOf", ()))
    return str(member.get("description") or next((text for text in inner if text), ""))


def default_of(schema: Mapping[str, Any]) -> str:
    """The default as JSON; empty when there is none, or it is null."""
    default = schema.get("default")
    return "" if default is None else json.dumps(default, ensure_ascii=False)


def parameters_of(definition: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The members of a task definition or a body that a client chooses, by name."""
    return {
        name: member
        for name, member in definition.get("properties", {}).items()
        if name not in ("task_name", "task_metas") and not _is_reserved(member)
    }


def _is_reserved(member: Mapping[str, Any]) -> bool:
    return str(member.get("description", "")).startswith("Reserved")
