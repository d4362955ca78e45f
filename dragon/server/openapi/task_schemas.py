"""The schemas of the tasks' signatures, as components: what a client posts, and what comes of it."""

from __future__ import annotations

import re
from typing import Any

from dragon.definition import NAME_LIMIT, RESERVED
from dragon.server.examples import Places, demo_definition, task_samples
from dragon.server.openapi.parts import Schema, ref, shape
from dragon.task import Task


def shapes(places: Places, tasks: list[Task]) -> dict[str, Schema]:
    """Three components for each task: its parameters, its result, and the definition that a client posts."""
    components: dict[str, Schema] = {}
    for task in tasks:
        entry = task.describe()
        name = component_name(task.name)
        parameters = hoisted(entry["parameters"], f"{name}.parameters", components)
        components[f"{name}.parameters"] = parameters
        components[f"{name}.result"] = hoisted(entry["result"], f"{name}.result", components)
        components[name] = _with_examples(places, _definition(task, parameters))
    components["TaskDefinition"] = _any_definition(tasks)
    return components


def component_name(task_name: str) -> str:
    """The component of a task's definition: its name, in the characters that OpenAPI allows there."""
    return "task." + re.sub(r"[^A-Za-z0-9._-]", "_", task_name)


def _definition(task: Task, parameters: Schema) -> Schema:
    """Parameters and envelope in one object, as they stand in a body; extra members are errors of that task."""
    properties = {
        "task_name": {"const": task.name},
        **parameters.get("properties", {}),
        "task_metas": {
            "type": ["object", "null"],
            "description": "Any object of the client's own, given back with `details`.",
        },
    }
    reserved = {name: {"description": "Reserved for version 2."} for name in sorted(RESERVED - properties.keys())}
    return shape(
        properties | reserved,
        ["task_name", *parameters.get("required", [])],
        description=task.description,
        additionalProperties=False,
        **{"x-task": {"output_files": list(task.outputs), "timeout": task.timeout, "max_attempts": task.max_attempts}},
    )


def _with_examples(places: Places, definition: Schema) -> Schema:
    example = {"task_name": definition["properties"]["task_name"]["const"], **demo_definition(places, definition)}
    return definition | {"examples": [example], "x-codeSamples": task_samples(places, definition)}


def _any_definition(tasks: list[Task]) -> Schema:
    about = "An object with `task_name`; its other members are the task's parameters."
    if not tasks:
        name = {"type": "string", "minLength": 1, "maxLength": NAME_LIMIT}
        return shape({"task_name": name}, ["task_name"], description=about)
    refs = {task.name: ref(component_name(task.name)) for task in tasks}
    mapping = {name: found["$ref"] for name, found in refs.items()}
    return {
        "description": about,
        "oneOf": list(refs.values()),
        "discriminator": {"propertyName": "task_name", "mapping": mapping},
    }


def hoisted(schema: Any, prefix: str, components: dict[str, Schema]) -> Any:
    """The schema with its `$defs` moved into components: inside a larger document `#/$defs/X` would point nowhere."""
    if isinstance(schema, list):
        return [hoisted(item, prefix, components) for item in schema]
    if not isinstance(schema, dict):
        return schema
    for name, definition in schema.get("$defs", {}).items():
        components[f"{prefix}.{name}"] = hoisted(definition, prefix, components)
    moved = {name: hoisted(value, prefix, components) for name, value in schema.items() if name != "$defs"}
    if str(moved.get("$ref", "")).startswith("#/$defs/"):
        moved["$ref"] = f"#/components/schemas/{prefix}.{moved['$ref'].removeprefix('#/$defs/')}"
    return moved
