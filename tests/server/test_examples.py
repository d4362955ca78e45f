"""The examples of the reference: there for every call and task in three languages, and each runs as it stands."""

from __future__ import annotations

import ast
import html
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import orjson
import pytest

from dragon.config import load_config
from dragon.server.examples import EXAMPLES, Places, demo_definition
from dragon.server.highlight import highlight
from dragon.server.notation import JAVASCRIPT, JSON, PYTHON
from dragon.server.openapi import build_document
from dragon.server.tryit import kind_of, plain, task_form
from dragon.task import load_tasks
from tests.language_examples import run_example
from tests.system import System

LANGUAGES = {"Shell", "JavaScript", "Python"}
#: For people, and a file of which there is none to name.
WITHOUT = {"GET /", "GET /docs", "GET /dashboard", "GET /files/{key}/{filename}"}


def document_of(config: Any = None) -> dict[str, Any]:
    built: dict[str, Any] = orjson.loads(
        orjson.dumps(build_document(config or load_config(environ={}), load_tasks(("tasks",))))
    )
    return built


def operations(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield f"{method.upper()} {path}", operation


def definitions(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for schema in document["components"]["schemas"].values():
        if "x-task" in schema:
            yield schema["properties"]["task_name"]["const"], schema


def samples(document: dict[str, Any]) -> dict[tuple[str, str], str]:
    """The source of each example by what it is an example of, and its language."""
    return {
        (name, sample["lang"]): sample["source"]
        for name, described in (*operations(document), *definitions(document))
        for sample in described.get("x-codeSamples", ())
    }


def test_every_call_and_every_task_has_an_example_in_three_languages() -> None:
    document = document_of()
    named = {name for name, _ in operations(document)} - WITHOUT | {name for name, _ in definitions(document)}
    assert samples(document).keys() == {(name, language) for name in named for language in LANGUAGES}


def test_the_table_has_no_row_for_a_call_that_is_gone() -> None:
    rows = set(EXAMPLES)
    assert rows <= {name for name, _ in operations(document_of())}


@pytest.mark.timeout(120)
@pytest.mark.parametrize(("name", "language"), samples(document_of()), ids=lambda part: part)
def test_the_examples_of_the_reference_work_as_they_stand(
    system: System, name: str, language: str, tmp_path: Path
) -> None:
    source = samples(document_of(system.config))[name, language]
    assert not re.search(r"\$(ADDRESS|SECRET|API_KEY|PATH)", source), "a place that was not filled"
    run_example(language, source, tmp_path)


def test_an_example_that_fails_is_noticed(system: System, tmp_path: Path) -> None:
    for language, source in (
        ("Shell", f"curl {system.url}/v1/nothing"),
        ("JavaScript", f"const response = await fetch('{system.url}/healthz'); console.log(nothing);"),
        ("JavaScript", f"console.log((await fetch('{system.url}/v1/nothing')).status);"),
        ("Python", "print(1)\nraise SystemExit(1)"),
        ("Python", "pass"),
    ):
        with pytest.raises(AssertionError):
            run_example(language, source, tmp_path)


def test_elsewhere_than_on_loopback_no_example_has_a_key_that_counts() -> None:
    public = document_of(load_config(environ={}, server__host="0.0.0.0"))
    sources = list(samples(public).values())
    assert [source for source in sources if re.search("123456|654321", source)] == []
    assert sum("YOUR-SECRET-KEY" in source for source in sources) > 10


def test_the_demo_values_fit_the_tasks_schemas() -> None:
    document = document_of()
    for name, definition in definitions(document):
        [example] = definition["examples"]
        schema = definition | {"components": document["components"]}
        jsonschema_rs.Draft202012Validator(schema).validate(example)
        assert example["task_name"] == name


def test_a_task_without_demo_values_is_shown_with_something_of_each_required_type() -> None:
    definition = {
        "properties": {
            "task_name": {"const": "mine"},
            "count": {"type": "integer"},
            "urls": {"type": "array", "items": {"type": "string", "format": "uri"}},
            "mode": {"enum": ["fast", "slow"]},
            "text": {"type": "string", "examples": ["to be"]},
            "optional": {"type": "string"},
        },
        "required": ["count", "urls", "mode"],
    }
    assert demo_definition(Places("http://x", "s", "a"), definition) == {
        "count": 1,
        "urls": ["https://example.com/..."],
        "mode": "fast",
        "text": "to be",
    }


VALUE = {
    "task_name": "x",
    "from": [1, None, True, "it's <b>"],
    "a-b": {"long": "y" * 70, "deep": [{"n": 1.5}]},
    "e": {},
}


def test_values_are_written_as_each_language_reads_them() -> None:
    assert orjson.loads(JSON.write(VALUE)) == VALUE
    assert ast.literal_eval(PYTHON.write(VALUE)) == VALUE
    assert JSON.write({"a": [1, "b"]}) == '{"a": [1, "b"]}'
    assert JAVASCRIPT.write({"a": [1, "b"], "a-b": {}}) == '{ a: [1, "b"], "a-b": {} }'
    assert JAVASCRIPT.write({"text": "y" * 60}, "  ") == f'{{\n    text: "{"y" * 60}",\n  }}'


@pytest.mark.parametrize("language", ["shell", "javascript", "python", "json", "unknown"])
def test_marking_changes_no_character_and_escapes_everything(language: str) -> None:
    sources = [*samples(document_of()).values(), '<script>\'a\' "b\\"" # c // d `e` <i>', "'open", ""]
    for source in sources:
        marked = highlight(source, language)
        assert html.unescape(re.sub(r"</?i(?: class='\w')?>", "", marked)) == source
        assert "<script>" not in marked


# --- The forms --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schema", "kind"),
    [
        ({"type": "string", "format": "uri"}, "text"),
        ({"anyOf": [{"type": "integer", "minimum": 1}, {"type": "null"}]}, "integer"),
        ({"type": "number"}, "number"),
        ({"type": "boolean"}, "boolean"),
        ({"enum": ["true", "false", "1", "0", ""]}, "boolean"),
        ({"enum": [0, 90]}, "choice"),
        ({"$ref": "#/components/schemas/Key"}, "key"),
        ({"type": "array", "items": {"$ref": "#/components/schemas/Key"}}, "keys"),
        ({"type": "array", "items": {"type": "string"}}, "lines"),
        ({"type": "array", "items": {"type": "object"}}, "json"),
        ({"anyOf": [{"type": "string"}, {"type": "integer"}]}, "json"),
        ({"type": "object"}, "json"),
        ({}, "json"),
    ],
)
def test_a_field_is_of_the_kind_that_its_schema_takes(schema: dict[str, Any], kind: str) -> None:
    assert kind_of(plain(schema)) == kind


def test_a_tasks_form_escapes_what_its_author_wrote() -> None:
    evil = "'><script>alert(1)</script>"
    definition = {
        "properties": {
            "task_name": {"const": evil},
            evil: {"type": "string", "default": evil, "description": evil},
            "choice": {"enum": [evil]},
        },
        "examples": [{"task_name": evil, evil: evil}],
    }
    form = task_form("anchor", definition)
    assert "<script" not in form
    assert form.count(html.escape(evil)) >= 4
