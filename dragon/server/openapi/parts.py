"""What the description is built of: schemas, contents, answers, parameters and calls, in a line each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

Schema = dict[str, Any]
#: The paths of a call (the first is the one that examples use), its method, and what OpenAPI says of it.
Call = tuple[tuple[str, ...], str, dict[str, Any]]

DATE: Schema = {"type": "string", "format": "date-time", "examples": ["2013-04-03T15:47:27.707526+00:00"]}


def ref(name: str, kind: str = "schemas") -> Schema:
    return {"$ref": f"#/components/{kind}/{name}"}


def shape(properties: Mapping[str, Any], required: Iterable[str] = (), **more: Any) -> Schema:
    schema: Schema = {"type": "object", "properties": dict(properties), **more}
    return schema | {"required": list(required)} if required else schema


def one_or_many(schema: Schema, most: int | None = None) -> Schema:
    return {"anyOf": [schema, {"type": "array", "items": schema, "minItems": 1} | ({"maxItems": most} if most else {})]}


def whole(properties: Mapping[str, Any], **more: Any) -> Schema:
    """An object that always has all of its members."""
    return shape(properties, properties, **more)


TEXT_FLAG: Schema = {"enum": ["true", "false", "1", "0", ""], "default": "false"}
TEXT_OR_NULL: Schema = {"type": ["string", "null"]}
DATE_OR_NULL: Schema = {"anyOf": [DATE, {"type": "null"}]}
KEY_OR_NULL: Schema = {"anyOf": [ref("Key"), {"type": "null"}]}
NUMBER_OR_NULL: Schema = {"type": ["number", "null"]}
COUNT: Schema = {"type": "integer", "minimum": 0}
COUNT_OR_NULL: Schema = {"type": ["integer", "null"], "minimum": 0}


def content(schema: Schema, media: str = "application/json", example: Any = None) -> dict[str, Any]:
    return {media: {"schema": schema} | ({} if example is None else {"example": example})}


def answer(description: str, media: dict[str, Any] | None = None, headers: Iterable[str] = ()) -> dict[str, Any]:
    made: dict[str, Any] = {"description": description}
    if media:
        made["content"] = media
    if headers:
        made["headers"] = {name: ref(name, "headers") for name in headers}
    return made


def message(description: str, example: str, headers: Iterable[str] = ()) -> dict[str, Any]:
    return answer(description, content(ref("Message"), example={"status": "error", "message": example}), headers)


def operation(
    tag: str, summary: str, description: str, responses: Mapping[str, Any], curl: str = "", **more: Any
) -> dict[str, Any]:
    common = {
        "405": ref("MethodNotAllowed", "responses"),
        "408": ref("TooSlow", "responses"),
        "500": ref("InternalError", "responses"),
    }
    answers = {code: ref(said, "responses") if isinstance(said, str) else said for code, said in responses.items()}
    made: dict[str, Any] = {"tags": [tag], "summary": summary, "description": description, **more}
    full = {"503": ref("Full", "responses")}  # on any path; most can have it for other reasons too
    made["responses"] = dict(sorted((full | answers | common).items()))
    return made | {"curl": curl}


def query(name: str, text: str, schema: Schema, *, required: bool = False, **more: Any) -> dict[str, Any]:
    return {"name": name, "in": "query", "required": required, "description": text, "schema": schema, **more}


def body(schema: str, example: Any) -> dict[str, Any]:
    return {"required": True, "content": content(ref(schema), example=example)}
