"""`dragon tasks`: what can be run, and how a task is called."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import click

from dragon.cli.access import SERVER, on_a_server
from dragon.cli.completion import complete_task
from dragon.cli.display import aligned, echo_json, printable
from dragon.cli.values import find_task, forms_of

if TYPE_CHECKING:  # imported where it is used: `--help` needs none of it
    from dragon.client import Dragon

_LIMITS = {
    "minimum": "at least {}",
    "exclusiveMinimum": "more than {}",
    "maximum": "at most {}",
    "exclusiveMaximum": "less than {}",
    "minItems": "{} or more",
    "maxItems": "{} at most",
    "maxLength": "{} characters at most",
}
_KINDS = {"string": "text", "integer": "whole number", "boolean": "true or false", "array": "list", "null": "null"}
_EXAMPLES: dict[str, Any] = {"integer": 1, "number": 1.5, "boolean": "true", "array": "[]", "object": "{}"}


@click.command()
@click.argument("name", required=False, shell_complete=complete_task)
@click.option("--json", "as_json", is_flag=True, help="Print the catalogue's entries, one a line of JSON.")
@on_a_server(needs_secret=False)
def tasks(name: str | None, as_json: bool, client: Dragon) -> None:
    """List the tasks that the server can run; with NAME describe one, with an example."""
    catalogue = client.tasks()
    found = catalogue if name is None else [find_task(catalogue, name)]
    if as_json:
        for entry in found:
            echo_json(entry)
    elif name is None:
        click.echo("\n".join(aligned([_row(entry) for entry in found])) if found else "this server has no tasks")
    else:
        click.echo("\n".join(_described(found[0], click.get_current_context().meta[SERVER])))


def _row(entry: Mapping[str, Any]) -> tuple[str, ...]:
    count = entry.get("workers", 0)
    workers = "no worker" if not count else "1 worker" if count == 1 else f"{count} workers"
    return str(entry["name"]), workers, printable(str(entry["description"]).partition("\n")[0])


def _described(entry: Mapping[str, Any], url: str) -> Iterator[str]:
    yield str(entry["name"])
    yield from (f"  {printable(line)}".rstrip() for line in str(entry["description"]).strip().splitlines())
    schema = entry["parameters"]
    if members := schema.get("properties", {}):
        yield "parameters (* is needed)"
        required = set(schema.get("required", ()))
        yield from aligned([_member(name, member, schema, name in required) for name, member in members.items()])
    if outputs := entry.get("output_files"):
        yield f"output files: {', '.join(outputs)}"
    _, workers, _ = _row(entry)
    yield f"queue {entry['queue']}, {workers}; {entry['timeout']:g} s at most, {entry['max_attempts']} attempts"
    yield "for example"
    yield f"  {example(entry, url)}"


def _member(name: str, member: Mapping[str, Any], root: Mapping[str, Any], is_required: bool) -> tuple[str, ...]:
    default = "" if is_required or member.get("default") is None else f"({json.dumps(member['default'])})"
    forms = list(forms_of(member, root))
    kinds = " or ".join(dict.fromkeys(_kind(form) for form in forms if form.get("type") != "null"))
    facts = [fact for form in (member, *forms) for fact in _facts(form)]
    return f"  {name}{'*' if is_required else ''}", kinds, default, ", ".join(dict.fromkeys(facts))


def _kind(form: Mapping[str, Any]) -> str:
    if choices := form.get("enum"):
        return "|".join(choice if isinstance(choice, str) else json.dumps(choice) for choice in choices)
    if form.get("format") == "uri":
        return "URL"
    kind = str(form.get("type", "anything"))
    if kind == "array":
        return f"list of {_kind(form.get('items', {}))}"
    return _KINDS.get(kind, kind)


def _facts(form: Mapping[str, Any]) -> Iterator[str]:
    if description := form.get("description"):
        yield printable(str(description))
    for name, text in _LIMITS.items():
        if name in form and not (name == "maxLength" and form.get("format") == "uri"):
            yield text.format(form[name])


def example(entry: Mapping[str, Any], url: str) -> str:
    """A call that can be pasted: what is needed, or else the first parameter."""
    schema = entry["parameters"]
    members = schema.get("properties", {})
    names = list(schema.get("required", ())) or list(members)[:1]
    words = [word for name in names for word in _words(name, members[name], schema, url)]
    saving = ["--file ."] if len(entry.get("output_files", ())) == 1 else []
    return " ".join(["dragon run", str(entry["name"]), *map(shlex.quote, words), *saving])


def _words(name: str, member: Mapping[str, Any], root: Mapping[str, Any], url: str) -> list[str]:
    form = next(iter(forms_of(member, root)))
    if form.get("type") == "array":
        count = max(1, form.get("minItems", 1))
        return [word for _ in range(count) for word in _words(name, form.get("items", {}), root, url)]
    value = member.get("default")
    if value is None:
        value = _example(form, url)
    return [f"{name}={value if isinstance(value, str) else json.dumps(value)}"]


def _example(form: Mapping[str, Any], url: str) -> Any:
    if choices := form.get("enum") or form.get("examples"):
        return choices[0]
    if form.get("format") == "uri":
        return f"{url}/static/sample.jpg"
    least = form.get("minimum", form.get("exclusiveMinimum", 0) + 1 if "exclusiveMinimum" in form else None)
    return least if least is not None else _EXAMPLES.get(str(form.get("type")), "text")
