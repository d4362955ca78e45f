"""name=value as JSON by a task's schema: the same that the server would take, and errors that name the fix."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import pytest

from dragon.cli.values import check_required, find_task, read_lines, read_parameters
from dragon.task import Registry, load_tasks


@pytest.fixture(scope="module")
def registry() -> Registry:
    return load_tasks(("tasks", "tests.sample_tasks"))


def entry(**members: Any) -> dict[str, Any]:
    return {"name": "sample", "parameters": {"properties": members}}


NULLABLE = {"anyOf": [{"type": "integer"}, {"type": "null"}]}
LIST = {"type": "array", "items": {"type": "integer"}}
OPTIONAL_LIST = {"anyOf": [{"type": "array", "items": {"type": "string"}}, {"type": "null"}]}


@pytest.mark.parametrize(
    ("schema", "words", "value"),
    [
        ({"type": "integer"}, ["3"], 3),
        ({"type": "integer"}, ["-3"], -3),
        ({"type": "number"}, ["3"], 3),
        ({"type": "number"}, ["0.5"], 0.5),
        ({"type": "number"}, ["1e3"], 1000.0),
        ({"type": "boolean"}, ["true"], True),
        ({"type": "boolean"}, ["No"], False),
        ({"type": "string"}, ["3"], "3"),
        ({"type": "string"}, [""], ""),
        ({"type": "string"}, ["a=b=c"], "a=b=c"),
        ({"type": "string"}, ["[not json"], "[not json"),
        ({"type": "string"}, ["@@dragon"], "@dragon"),
        ({"type": "string", "enum": ["jpeg", "png"]}, ["png"], "png"),
        ({"type": "integer", "enum": [0, 90]}, ["90"], 90),
        ({"enum": ["auto", 90, None]}, ["90"], 90),
        ({"enum": ["auto", 90, None]}, ["auto"], "auto"),
        (NULLABLE, ["null"], None),
        (NULLABLE, [""], None),
        (NULLABLE, ["7"], 7),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, ["null"], "null"),
        ({"anyOf": [{"type": "integer"}, {"type": "string"}]}, ["7"], 7),
        ({"anyOf": [{"type": "integer"}, {"type": "string"}]}, ["seven"], "seven"),
        (LIST, ["1"], [1]),
        (LIST, ["1", "2"], [1, 2]),
        (LIST, ["[1, 2]"], [1, 2]),
        (LIST, ["[1, 2]", "3"], [1, 2, 3]),
        (OPTIONAL_LIST, ["a", "b"], ["a", "b"]),
        (OPTIONAL_LIST, ["null"], None),
        ({"type": "object"}, ['{"a": [1]}'], {"a": [1]}),
        ({}, ["3"], 3),
        ({}, ["text"], "text"),
        ({}, ['{"a": 1}'], {"a": 1}),
    ],
)
def test_values_are_read_by_the_schema(schema: dict[str, Any], words: list[str], value: object) -> None:
    (read,) = read_parameters(entry(p=schema), [f"p={word}" for word in words]).values()
    assert (read, type(read)) == (value, type(value))


def test_references_in_a_schema_are_followed() -> None:
    described = entry(size={"$ref": "#/$defs/Size"})
    described["parameters"]["$defs"] = {"Size": {"type": "object", "properties": {"w": {"type": "integer"}}}}
    assert read_parameters(described, ['size={"w": 3}']) == {"size": {"w": 3}}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["p"], "'p' is no parameter: write name=value; sample takes p, width (`dragon tasks sample`)"),
        (["widht=3"], "sample has no parameter 'widht': did you mean 'width'?"),
        (["zzz=3"], "sample has no parameter 'zzz': sample takes p, width (`dragon tasks sample`)"),
        (["width=abc"], "width must be a whole number or null, and 'abc' is not"),
        (["width=1.5"], "width must be a whole number or null, and '1.5' is not"),
        (["width=1", "width=2"], "width is given 2 times, and is no list"),
        (["p=[1, 2"], "p is not valid JSON: Expecting ',' delimiter: line 1 column 6 (char 5)"),
        (["p=1", "p=x"], "p must be a list (one item is a whole number), and 'x' is not"),
        (
            ["p=@/no/such/file"],
            "p=@/no/such/file cannot be read: No such file or directory (a value that begins with @ is a file's; write "
            "p=@@/no/such/file for the text itself)",
        ),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence_with_the_fix(words: list[str], sentence: str) -> None:
    with pytest.raises(click.UsageError) as caught:
        read_parameters(entry(p=LIST, width=NULLABLE), words)
    assert caught.value.message == sentence


@pytest.mark.parametrize("text", ["nan", "inf", "-inf"])
def test_numbers_that_json_does_not_have_are_none(text: str) -> None:
    with pytest.raises(click.UsageError, match="p must be a number"):
        read_parameters(entry(p={"type": "number"}), [f"p={text}"])


def test_a_value_can_come_from_a_file(tmp_path: Path) -> None:
    text, numbers = tmp_path / "text.txt", tmp_path / "numbers.json"
    text.write_text("two\nlines\n")
    numbers.write_text("[1, 2, 3]")
    described = entry(text={"type": "string"}, numbers=LIST)
    words = [f"text=@{text}", f"numbers=@{numbers}"]
    assert read_parameters(described, words) == {"text": "two\nlines", "numbers": [1, 2, 3]}
    numbers.write_text("[1, 2")
    with pytest.raises(click.UsageError, match=r"numbers=@.*numbers\.json is not valid JSON: "):
        read_parameters(described, words)


def test_each_takes_the_lines_of_a_file_that_have_something_in_them(tmp_path: Path) -> None:
    (tmp_path / "urls").write_text("a\n\n  \nb\n")
    assert read_lines(f"url=@{tmp_path}/urls") == ("url", ["a", "b"])
    for wrong in ("url", "url=urls", "=@urls", "url=@"):
        with pytest.raises(click.UsageError, match="write --each name=@FILE"):
            read_lines(wrong)
    (tmp_path / "urls").write_text("\n")
    with pytest.raises(click.UsageError, match="there are no lines in it"):
        read_lines(f"url=@{tmp_path}/urls")


def test_an_unknown_task_is_said_with_one_that_is_near(registry: Registry) -> None:
    catalogue = [task.describe() for task in registry.tasks.values()]
    assert find_task(catalogue, "image.thumb")["name"] == "image.thumb"
    with pytest.raises(click.UsageError, match=r"this server has no task 'image\.tumb': did you mean 'image\.thumb'\?"):
        find_task(catalogue, "image.tumb")
    with pytest.raises(click.UsageError, match=r"has no task 'xyzzy': `dragon tasks` lists them"):
        find_task(catalogue, "xyzzy")


def test_what_is_needed_and_missing_is_named(registry: Registry) -> None:
    described = registry.tasks["image.strip"].describe()
    with pytest.raises(click.UsageError, match=r"image\.strip needs width=\.\.\., height=\.\.\.$"):
        check_required(described, {"urls": []})


@pytest.mark.parametrize(
    ("task", "words"),
    [
        ("countdown", ["from=3", "delay=0.5"]),
        ("image.thumb", ["url=http://example.com/a.jpg?b=c", "width=20", "crop=on", "rotation=90", "format=png"]),
        ("image.gif", ["images=http://a.example/1", "images=http://a.example/2", "loop=-1"]),
        ("image.strip", ['urls=["http://a.example/1"]', "width=1", "height=2", "wrap=null"]),
        ("test.echo", ["text=3", "number=3", "ratio=3", "flag=0", "words=a", "words=b", "key=[x"]),
    ],
)
def test_what_is_read_is_what_the_task_takes(registry: Registry, task: str, words: list[str]) -> None:
    found = registry.tasks[task]
    parameters = read_parameters(found.describe(), words)
    assert json.loads(found.check(parameters)) == parameters
