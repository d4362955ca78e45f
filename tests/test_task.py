"""Tasks as their author declares them: the signature is the schema."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Literal

import orjson
import pytest

from dragon.errors import ConfigError
from dragon.task import (
    AsyncContext,
    Context,
    Field,
    HttpUrl,
    OutputFile,
    ParametersError,
    PositiveInt,
    Task,
    _declare,
    load_tasks,
)


@dataclasses.dataclass
class Result:
    """A file and a number."""

    output: OutputFile
    width: int


@dataclasses.dataclass
class Size:
    """Two numbers."""

    width: int
    height: int


@dataclasses.dataclass
class Nested:
    """A file and a size."""

    output: OutputFile
    size: Size


def thumb(
    ctx: Context,
    url: HttpUrl,
    width: PositiveInt | None = None,
    crop: bool = False,
    ratio: float = 1.0,
    rotation: Literal[0, 90] = 0,
    words: Annotated[list[str], Field(max_length=2)] = [],  # noqa: B006
    from_: int = 1,
    name: str = "",
    key: str = "",
) -> Result:
    """Make something of a URL."""
    raise NotImplementedError


async def waiting(ctx: AsyncContext) -> None:
    """Wait."""


@pytest.fixture
def task() -> Task:
    return _declare("test.declared", thumb, timeout=5, max_attempts=2, queue="high")


def problems(task: Task, **parameters: object) -> dict[str, list[str]]:
    with pytest.raises(ParametersError) as caught:
        task.check(parameters)
    return caught.value.problems


URL = "http://files.com/image.jpg"


def test_right_parameters_come_back_as_json(task: Task) -> None:
    assert orjson.loads(task.check({"url": URL, "from": 3, "name": "n", "key": "k"})) == {
        "url": URL,
        "from": 3,
        "name": "n",
        "key": "k",
    }


def test_the_function_gets_them_by_the_names_in_its_signature(task: Task) -> None:
    arguments = task.arguments(task.check({"url": URL, "from": 3}))
    assert (arguments["url"], arguments["from_"], arguments["width"], arguments["ratio"]) == (URL, 3, None, 1.0)


def test_a_default_may_stand_in_a_field() -> None:
    def times(ctx: Context, count: int = Field(2, ge=1)) -> int:  # type: ignore[assignment]
        """Take a bounded number."""
        return count

    declared = _declare("times", times, timeout=1, max_attempts=1, queue="q")
    assert declared.arguments(b"{}") == {"count": 2}
    with pytest.raises(ParametersError):
        declared.check({"count": 0})


def test_the_schema_of_a_result_holds_the_definitions_that_it_points_to() -> None:
    def nested(ctx: Context) -> Nested:
        """Return what holds something."""
        raise NotImplementedError

    schema = _declare("nested", nested, timeout=1, max_attempts=1, queue="q").result_schema
    assert schema["properties"]["output"] == {"type": "string", "format": "uri"}
    assert schema["properties"]["size"] == {"$ref": "#/$defs/Size"}
    assert set(schema["$defs"]["Size"]["properties"]) == {"width", "height"}


def test_all_problems_are_told_at_once(task: Task) -> None:
    found = problems(task, widht=3, width=-1, crop="yes", words=["a", 5])
    assert found["url"] == ["this field is required"]
    assert found["widht"] == ["unknown parameter, did you mean 'width'?"]
    assert set(found) == {"url", "widht", "width", "crop", "words.1"}


def test_json_values_are_not_converted(task: Task) -> None:
    assert set(problems(task, url=URL, width="200")) == {"width"}
    assert set(problems(task, url=URL, crop=1)) == {"crop"}
    assert set(problems(task, url=URL, width=True)) == {"width"}
    assert set(problems(task, url=URL, width=2.5)) == {"width"}


def test_the_input_is_never_echoed(task: Task) -> None:
    assert "s3cret" not in str(problems(task, url="s3cret", width="s3cret", rotation="s3cret", words="s3cret"))


@pytest.mark.parametrize(
    "url",
    [
        "",
        "image.jpg",
        "ftp://files.com/a",
        "javascript:alert(1)",
        "file:///etc/passwd",
        "http://",
        "http:///x",
        "http://a b/",
        "http://[::1/",
        "http://a:99999/",
        "http://a:b/",
        "http://a/\n",
        "http://a/" + "x" * 9000,
        "http://somebody:password@a/",
        "http://@a/",
    ],
)
def test_what_is_no_http_url_is_refused(task: Task, url: str) -> None:
    assert set(problems(task, url=url)) == {"url"}


def test_querystring_values_are_converted_to_the_parameters_types(task: Task) -> None:
    given = {
        "url": [URL],
        "width": ["200"],
        "crop": ["true"],
        "ratio": ["1.5"],
        "words": ["a", "b"],
        "rotation": ["90"],
    }
    assert task.convert(given) == {
        "url": URL,
        "width": 200,
        "crop": True,
        "ratio": 1.5,
        "words": ["a", "b"],
        "rotation": 90,
    }


def test_a_single_value_of_a_list_is_a_list(task: Task) -> None:
    assert task.convert({"url": [URL], "words": ["a"]})["words"] == ["a"]


def test_a_repeated_value_of_what_is_no_list_is_a_problem(task: Task) -> None:
    with pytest.raises(ParametersError) as caught:
        task.convert({"url": [URL, URL], "width": ["x"]})
    assert caught.value.problems["url"] == ["this parameter may be given once only"]
    assert "width" in caught.value.problems


def test_the_catalogue_says_what_the_signature_says(task: Task) -> None:
    entry = task.describe()
    assert entry["output_files"] == ["output"]
    assert entry["description"] == "Make something of a URL."
    schema = entry["parameters"]
    assert schema["required"] == ["url"]
    assert list(schema["properties"]) == ["url", "width", "crop", "ratio", "rotation", "words", "from", "name", "key"]
    assert schema["properties"]["url"] == {"type": "string", "format": "uri", "maxLength": 8192}
    assert schema["additionalProperties"] is False
    assert entry["result"]["properties"]["width"] == {"type": "integer"}
    assert (entry["queue"], entry["timeout"], entry["max_attempts"]) == ("high", 5, 2)


def test_async_tasks_are_told_from_others(task: Task) -> None:
    assert not task.is_async
    assert _declare("w", waiting, timeout=1, max_attempts=1, queue="q").is_async


def test_a_reserved_parameter_name_is_refused() -> None:
    def bad(ctx: Context, task_metas: str) -> None:
        """Take what is not given."""

    with pytest.raises(ConfigError, match="reserved"):
        _declare("bad", bad, timeout=1, max_attempts=1, queue="q")


def test_a_parameter_without_a_type_is_refused() -> None:
    def bad(ctx, x):  # type: ignore[no-untyped-def]
        """Say nothing of x."""

    with pytest.raises(ConfigError, match="annotation"):
        _declare("bad", bad, timeout=1, max_attempts=1, queue="q")


@pytest.mark.parametrize("queue", ["", "a@b", "a b", "ä"])
def test_a_queue_with_other_characters_is_refused(queue: str) -> None:
    with pytest.raises(ConfigError, match="the queue"):
        _declare("w", waiting, timeout=1, max_attempts=1, queue=queue)


def test_loading_takes_the_tasks_of_the_named_modules_only() -> None:
    load_tasks(("tests.sample_tasks",))
    registry = load_tasks(("tasks",))
    assert {"hello", "countdown", "image.thumb"} <= set(registry.tasks)
    assert not [name for name in registry.tasks if name.startswith("test.")]


def test_a_module_that_cannot_be_imported_stops_the_start() -> None:
    with pytest.raises(ConfigError, match="no_such_module"):
        load_tasks(("no_such_module",))


def test_an_unknown_name_gets_a_suggestion() -> None:
    registry = load_tasks(("tasks",))
    assert registry.unknown("image.thumbs") == "unknown task name, did you mean 'image.thumb'?"
    assert registry.unknown("zzz") == "unknown task name, GET /v1/tasks lists them"
