"""Reading requests: bodies, flags, keys. Everything that is wrong is collected as ParameterErrors and told at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import orjson
from aiohttp import web

from dragon.errors import BadRequest, BodyTooLarge, DragonError, ParameterError
from dragon.keys import is_key

DEPTH_LIMIT = 100  # nested arrays and objects in a body
FILENAME_LIMIT = 255  # characters


async def read_object(request: web.Request) -> dict[str, Any]:
    """The body as a JSON object, whatever its Content-Type. Raises BadRequest or BodyTooLarge."""
    try:
        body = await request.read()
    except web.HTTPRequestEntityTooLarge:
        raise BodyTooLarge(
            f"the request body is larger than {request.app._client_max_size} bytes: send several smaller requests"
        ) from None
    except (web.HTTPException, ConnectionError, DragonError):
        raise
    except Exception:  # a Content-Encoding that the body does not have
        raise _bad_body("the body cannot be read: check its Content-Encoding and Content-Length") from None
    if not body.strip():
        raise _bad_body("the body is empty, send a JSON object")
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise _bad_body(f"the body is not valid JSON in UTF-8: {error.msg} (line {error.lineno})") from None
    if body.count(b"[") + body.count(b"{") > DEPTH_LIMIT and _is_deeper(value, DEPTH_LIMIT):
        raise _bad_body(f"the body is nested more than {DEPTH_LIMIT} levels deep")
    if not isinstance(value, dict):
        raise _bad_body("the body must be a JSON object")
    return value


def _bad_body(description: str) -> BadRequest:
    return BadRequest(ParameterError("body", "body", description))


def _is_deeper(value: Any, limit: int) -> bool:
    level: list[Any] = [value]
    for _ in range(limit):
        below: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                below += item.values()
            elif isinstance(item, list):
                below += item
        if not below:
            return False
        level = below
    return any(isinstance(item, dict | list) for item in level)


def read_flag(name: str, value: object, location: str, errors: list[ParameterError]) -> bool:
    """A boolean as clients write it: true, "true", 1, "1" and their opposites; absent or null is false."""
    text = value.lower() if isinstance(value, str) else value
    if text is True or text == "true" or text == "1" or (type(text) is int and text == 1):
        return True
    if text is None or text is False or text in ("false", "0", "") or (type(text) is int and text == 0):
        return False
    errors.append(ParameterError(name, location, f"{name} must be true or false"))
    return False


def read_timeout(value: object, most: float, location: str, errors: list[ParameterError]) -> float:
    """Seconds to wait: `most` by default and at most."""
    if value is None:
        return most
    try:
        seconds = float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else math.nan
    except ValueError:
        seconds = math.nan
    if not seconds >= 0:
        errors.append(ParameterError("timeout", location, f"timeout must be a number of seconds, 0 to {most:g}"))
        return most
    return min(seconds, most)


def read_keys(value: object, location: str, most: int, errors: list[ParameterError]) -> list[str]:
    """The `tasks` of a status call: one key or a list of them."""
    values: Sequence[object] = value if isinstance(value, list) else [value]
    if value is None:
        errors.append(ParameterError("tasks", location, "tasks is missing"))
        return []
    if not values:
        errors.append(ParameterError("tasks", location, "tasks is empty, give at least one task key"))
        return []
    if len(values) > most:
        errors.append(ParameterError("tasks", location, f"{len(values)} task keys in one call, the limit is {most}"))
        return []
    keys = []
    for index, key in enumerate(values):
        if is_key(key):
            keys.append(str(key))
        else:
            name = f"tasks.{index}" if isinstance(value, list) else "tasks"
            errors.append(ParameterError(name, location, "this is not a task key (26 characters A-Z2-7)"))
    return keys


def read_filename(request: web.Request, errors: list[ParameterError]) -> str | None:
    """The filename in the path, None when there is none."""
    filename = request.match_info.get("filename")
    if not filename:
        return None
    if len(filename) > FILENAME_LIMIT or "/" in filename or any(ord(character) < 32 for character in filename):
        text = f"a filename has {FILENAME_LIMIT} characters at most, and no slashes or control characters"
        errors.append(ParameterError("filename", "path", text))
        return None
    return filename


def one_of(request: web.Request, name: str, errors: list[ParameterError], *, required: bool = False) -> str | None:
    """A querystring parameter that may be given once; None when it is missing or wrong."""
    values = request.query.getall(name, [])
    if len(values) > 1:
        errors.append(ParameterError(name, "querystring", f"{name} may be given once only"))
        return None
    if required and not any(values):
        errors.append(ParameterError(name, "querystring", f"{name} is missing"))
        return None
    return values[0] if values else None


def read_number(request: web.Request, name: str, most: int, errors: list[ParameterError]) -> int:
    """A whole number of the querystring, 0 when it is missing."""
    text = one_of(request, name, errors) or "0"
    if not (text.isascii() and text.isdigit() and len(text) < 20 and int(text) <= most):
        errors.append(ParameterError(name, "querystring", f"{name} must be a whole number, 0 to {most}"))
        return 0
    return int(text)


def read_key(request: web.Request, name: str, errors: list[ParameterError]) -> str:
    """A task key in the querystring."""
    key = one_of(request, name, errors, required=True)
    if key is not None and not is_key(key):
        errors.append(ParameterError(name, "querystring", "this is not a task key (26 characters A-Z2-7)"))
    return key or ""


def is_utf8(text: str) -> bool:
    """Tells whether what stood in the head of a request was UTF-8: other bytes arrive as lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
