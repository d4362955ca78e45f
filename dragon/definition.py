"""Task definitions: the envelope that a client posts, and the facts that are kept of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dragon.errors import BadRequest, ParameterError

#: Members of a definition that are never parameters of the task (API.md 1.4).
RESERVED = frozenset({"task_name", "task_store", "task_metas", "url_callback", "url_errback"})

#: On GET, where a definition and its credentials share one querystring, these are not parameters either.
RESERVED_ON_GET = RESERVED | {"secret", "api_key", "referrer", "referer", "origin", "account", "exp", "sig"}

NAME_LIMIT = 200  # characters of a task name


@dataclass(frozen=True, slots=True)
class Definition:
    """What a client asked for: the task's name, its parameters by name, and the client's own `task_metas`."""

    task_name: str
    parameters: dict[str, Any]
    metas: dict[str, Any] | None = None
    problems: dict[str, list[str]] | None = None  # found when a querystring was converted, by parameter


def read_definitions(value: object, limit: int, name: str = "tasks") -> list[Definition]:
    """Reads the `tasks` member of a body: a list of definitions, or one. Raises BadRequest with all errors at once."""
    members = value if isinstance(value, list) else [value]
    if isinstance(value, list):
        if not value:
            raise BadRequest(ParameterError(name, "body", f"{name} is empty, give at least one task definition"))
        if len(value) > limit:
            raise BadRequest(
                ParameterError(
                    name, "body", f"{len(value)} tasks in one call, the limit is {limit}: send several calls"
                )
            )
    elif not isinstance(value, dict):
        raise BadRequest(
            ParameterError(name, "body", f"{name} must be a task definition (an object) or a list of them")
        )
    errors: list[ParameterError] = []
    definitions = []
    for index, member in enumerate(members):
        prefix = f"{name}.{index}" if isinstance(value, list) else name
        found = _envelope_errors(member, prefix)
        if found:
            errors += found
        else:
            definitions.append(_definition(member))
    if errors:
        raise BadRequest(*errors)
    return definitions


def _envelope_errors(member: object, prefix: str) -> list[ParameterError]:
    if not isinstance(member, dict):
        return [ParameterError(prefix, "body", "a task definition must be an object with a task_name")]
    errors = []
    name = member.get("task_name")
    if "task_name" not in member:
        errors.append(ParameterError(f"{prefix}.task_name", "body", "task_name is missing"))
    elif not isinstance(name, str) or not name or len(name) > NAME_LIMIT:
        errors.append(
            ParameterError(f"{prefix}.task_name", "body", f"task_name must be a string of 1 to {NAME_LIMIT} characters")
        )
    if not isinstance(member.get("task_metas", {}), dict | None):
        errors.append(ParameterError(f"{prefix}.task_metas", "body", "task_metas must be an object"))
    return errors


def _definition(member: dict[str, Any]) -> Definition:
    parameters = {name: value for name, value in member.items() if name not in RESERVED}
    return Definition(member["task_name"], parameters, member.get("task_metas"))
