"""The envelope of task definitions."""

from __future__ import annotations

from typing import Any

import pytest

from dragon.definition import Definition, read_definitions
from dragon.errors import BadRequest


def errors(value: object, limit: int = 10) -> list[tuple[str, str]]:
    with pytest.raises(BadRequest) as caught:
        read_definitions(value, limit)
    return [(error.name, error.location) for error in caught.value.errors]


def test_one_definition_and_a_list_of_one_are_the_same() -> None:
    definition = {"task_name": "image.info", "url": "http://files.com/image.jpg"}
    expected = [Definition("image.info", {"url": "http://files.com/image.jpg"})]
    assert read_definitions(definition, 10) == read_definitions([definition], 10) == expected


def test_reserved_members_are_no_parameters() -> None:
    reserved = {"task_store": 1, "task_metas": {"a": 1}, "url_callback": "x", "url_errback": "y"}
    (definition,) = read_definitions({"task_name": "n", "name": "p", **reserved}, 10)
    assert definition == Definition("n", {"name": "p"}, {"a": 1})


@pytest.mark.parametrize("value", [None, 5, "text", True, 1.5])
def test_what_is_neither_object_nor_list_is_refused(value: Any) -> None:
    assert errors(value) == [("tasks", "body")]


def test_an_empty_list_and_too_long_a_list_are_refused() -> None:
    assert errors([]) == [("tasks", "body")]
    assert errors([{"task_name": "n"}] * 11) == [("tasks", "body")]
    assert len(read_definitions([{"task_name": "n"}] * 10, 10)) == 10


def test_every_wrong_member_is_named() -> None:
    value = [{"task_name": "fine"}, 5, {}, {"task_name": 3}, {"task_name": ""}, {"task_name": "n", "task_metas": 5}]
    assert errors(value) == [
        ("tasks.1", "body"),
        ("tasks.2.task_name", "body"),
        ("tasks.3.task_name", "body"),
        ("tasks.4.task_name", "body"),
        ("tasks.5.task_metas", "body"),
    ]
