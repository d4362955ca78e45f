"""Properties of what reads requests, for any input: nothing crashes, and what was read means what was written."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal
from urllib.parse import parse_qsl, urlencode

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dragon.auth import read_credentials
from dragon.definition import RESERVED, read_definitions
from dragon.errors import BadRequest, ParameterError, Unauthorized
from dragon.keys import is_key, new_key
from dragon.queue import _masked, prepare
from dragon.referrers import parse_page, parse_referrer, shown_page
from dragon.server.requests import read_flag, read_keys, read_timeout
from dragon.task import Context, HttpUrl, OutputFile, ParametersError, Registry, Task, _declare

UNHURRIED = settings(deadline=None, max_examples=150, suppress_health_check=list(HealthCheck))

texts = st.text(max_size=20)
scalars = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | texts
anything = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4), max_leaves=15
)
#: What a body can hold: it came through orjson.
from_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8"), max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=10), inner, max_size=4)
    ),
    max_leaves=15,
)


@dataclasses.dataclass
class Made:
    output: OutputFile


def function(
    ctx: Context,
    url: HttpUrl,
    width: int | None = None,
    ratio: float = 1.0,
    crop: bool = False,
    words: list[str] | None = None,
    numbers: list[int] | None = None,
    kind: Literal["a", "b", 90] = "a",
    from_: str = "",
) -> Made:
    """Have parameters of every kind."""
    raise NotImplementedError


TASK: Task = _declare("test.properties", function, queue="default", timeout=1, max_attempts=1)
REGISTRY = Registry()
REGISTRY.add(TASK)
URL = "http://files.example/a"
NAMES = ["url", "width", "ratio", "crop", "words", "numbers", "kind", "from", "widht", "", "a.b", "from_"]

# --- definitions ------------------------------------------------------------------------------------------------------


@UNHURRIED
@given(anything, st.integers(1, 5), st.sampled_from(["tasks", "task"]))
def test_any_value_is_a_list_of_definitions_or_a_400_that_names_places_in_it(value: Any, limit: int, name: str) -> None:
    try:
        definitions = read_definitions(value, limit, name)
    except BadRequest as error:
        assert error.errors
        for item in error.errors:
            assert item.location == "body"
            assert item.name.split(".")[0] == name
            parts = item.name.split(".")[1:]
            assert not parts or parts[0] == "task_name" or (isinstance(value, list) and int(parts[0]) < len(value))
    else:
        members = value if isinstance(value, list) else [value]
        assert 1 <= len(definitions) == len(members) <= limit or not isinstance(value, list)
        for definition, member in zip(definitions, members, strict=True):
            assert definition.task_name == member["task_name"]
            assert not RESERVED & definition.parameters.keys()
            assert definition.parameters.items() <= member.items() or any(v != v for v in member.values())


@UNHURRIED
@given(st.dictionaries(st.sampled_from(["task_name", "task_metas", *NAMES]), from_json, max_size=5), st.booleans())
def test_any_definition_becomes_a_task_that_waits_or_one_that_has_ended_and_says_why(
    member: dict[str, Any], known: bool
) -> None:
    member = member | {"task_name": TASK.name if known else "nobody"}
    member["task_metas"] = None
    (definition,) = read_definitions(member, 1)
    new = prepare(definition, REGISTRY, new_key(), "2013-04-03T15:47:27.707526+00:00")
    line = orjson.loads(new.line)
    assert line["status"] == ("error" if new.final else "queued")
    assert is_key(new.key)
    if new.final:
        assert isinstance(line["result"], str) if not known else line["result"]["parameters"]
    else:
        assert orjson.loads(new.parameters) == definition.parameters, "what is kept is what was sent"
        assert TASK.arguments(new.parameters)["url"] == member["url"], "and the worker reads it without a complaint"


@UNHURRIED
@given(st.dictionaries(st.sampled_from(["secret", "api_key", "url", "x"]), from_json | st.just("http://a:b@c/d@e")))
def test_what_is_kept_of_a_refused_task_is_json_without_a_key(parameters: dict[str, Any]) -> None:
    kept = orjson.loads(_masked(parameters))
    assert kept.keys() == parameters.keys()
    assert all(kept[name] == "…" for name in ("secret", "api_key") if name in kept)
    assert kept.get("url") != "http://a:b@c/d@e"


# --- querystrings -----------------------------------------------------------------------------------------------------

values = texts | st.sampled_from(
    ["1", "-1", "1.5", "true", "TRUE", "on", "nan", "inf", "1e400", "9" * 400, URL, "a", "90", " 1"]
)


@UNHURRIED
@given(st.lists(st.tuples(st.sampled_from(NAMES) | texts, values), max_size=8))
def test_any_querystring_is_converted_or_refused_by_parameter_and_what_is_converted_is_valid(
    pairs: list[tuple[str, str]],
) -> None:
    given_texts: dict[str, list[str]] = {}
    for name, text in pairs:
        given_texts.setdefault(name, []).append(text)
    try:
        converted = TASK.convert(given_texts)
    except ParametersError as error:
        assert error.problems
        assert all(isinstance(text, str) and text for found in error.problems.values() for text in found)
    except orjson.JSONEncodeError:  # a lone surrogate, that no querystring of aiohttp's has
        assert any("\ud800" <= character <= "\udfff" for pair in pairs for text in pair for character in text)
    else:
        assert converted.keys() == given_texts.keys()
        assert TASK.check(converted), "a converted querystring is what a body might have held"


@UNHURRIED
@given(
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.booleans(),
    st.lists(st.text(st.characters(codec="utf-8"), max_size=10), min_size=1, max_size=4),
    st.lists(st.integers(-(2**31), 2**31), min_size=1, max_size=4),
    st.randoms(use_true_random=False),
)
def test_a_definition_that_is_written_as_a_querystring_comes_back_the_same_in_any_order(
    width: int, ratio: float, crop: bool, words: list[str], numbers: list[int], chance: Any
) -> None:
    definition = {"url": URL, "width": width, "ratio": ratio, "crop": crop, "words": words, "numbers": numbers}
    pairs = [
        (name, str(item).lower() if isinstance(item, bool) else repr(item) if isinstance(item, float) else str(item))
        for name, value in definition.items()
        for item in (value if isinstance(value, list) else [value])
    ]
    first_of_each: dict[str, list[tuple[str, str]]] = {}
    for name, text in parse_qsl(urlencode(pairs), keep_blank_values=True):
        first_of_each.setdefault(name, []).append((name, text))
    names = list(first_of_each)
    chance.shuffle(names)
    converted = TASK.convert({name: [text for _, text in first_of_each[name]] for name in names})
    assert converted == definition


@UNHURRIED
@given(anything, st.sampled_from([1, 300.0]))
def test_flags_timeouts_and_keys_are_read_or_refused_whatever_they_are(value: Any, most: float) -> None:
    errors: list[ParameterError] = []
    assert read_flag("block", value, "body", errors) in (True, False)
    seconds = read_timeout(value, most, "body", errors)
    assert 0 <= seconds <= most
    assert not math.isnan(seconds)
    keys = read_keys(value, "body", 3, errors)
    assert all(is_key(key) for key in keys)
    assert len(keys) <= 3
    assert all(error.location == "body" and error.description for error in errors)


# --- credentials and referrers ----------------------------------------------------------------------------------------


@UNHURRIED
@given(
    st.dictionaries(st.sampled_from(["Authorization", "Origin", "Referer", "Referrer"]), texts),
    st.dictionaries(st.sampled_from(["secret", "api_key"]), anything),
    st.dictionaries(st.sampled_from(["secret", "api_key"]), texts),
)
def test_credentials_of_any_kind_are_read_or_refused_and_never_printed(
    headers: dict[str, str], body: dict[str, Any], query: dict[str, str]
) -> None:
    try:
        found = read_credentials(headers, body, query)
    except Unauthorized as error:
        assert any(not isinstance(value, str) for value in body.values())
        assert "must be a string" in error.message
    else:
        for key in (found.secret, found.api_key):
            assert key is None or isinstance(key, str)
            assert not key or len(key) < 4 or key not in repr(dataclasses.replace(found, page=None))


labels = st.from_regex(r"[a-z][a-z0-9-]{0,8}[a-z0-9]", fullmatch=True)
hosts = st.lists(labels, min_size=2, max_size=4).map(".".join)


@UNHURRIED
@given(
    hosts, hosts, st.sampled_from(["", "*."]), st.sampled_from(["http", "https"]), st.sampled_from(["", ":81", ":8443"])
)
def test_an_entry_covers_its_host_and_no_other_that_contains_begins_or_ends_with_it(
    host: str, other: str, wildcard: str, scheme: str, port: str
) -> None:
    entry = parse_referrer(wildcard + host)

    def covers(page_host: str) -> bool:
        page = parse_page(f"{scheme}://{page_host}{port}/{other}?{host}#{host}")
        assert page is not None
        assert page.host == page_host
        return entry.covers(page)

    assert covers(host) is not wildcard.startswith("*")
    assert covers(f"x.{host}") is wildcard.startswith("*")
    for stranger in (f"x{host}", f"{host}.{other}.net", f"{host}x", f"{other}-{host}", host.partition(".")[2] + ".x.y"):
        assert not covers(stranger) or stranger == host
    assert not entry.covers(parse_page(f"{scheme}://{other}.y.z{port}/{host}") or pytest.fail("a page is a page"))


@UNHURRIED
@given(st.text(max_size=300))
def test_a_page_of_any_kind_can_be_shown_and_shows_no_path(page: str) -> None:
    shown = shown_page(page)
    assert len(shown) <= 103
    assert shown.isprintable() or not shown
    if len(page) < 100 and parse_page(f"https://evil.example/{page}") is not None:
        assert shown_page(f"https://evil.example/{page}") == "https://evil.example"
