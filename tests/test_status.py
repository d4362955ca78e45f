"""Status lines: what they look like, and that they read back as they were."""

from __future__ import annotations

import base64
import os
import re
from collections import Counter

import orjson
from hypothesis import given, settings
from hypothesis import strategies as st

from dragon.keys import is_key, new_key, new_keys
from dragon.status import (
    ERROR,
    EXECUTING,
    FINAL,
    FOLLOWS,
    QUEUED,
    SUCCESS,
    Status,
    parse_line,
    timestamp,
    unknown_line,
)

KEY = "5OYA5JQVFIAHYOMLQG5QV3U33M"
QUEUED_AT = "2013-04-03T15:47:27.703674+00:00"
STARTED_AT = "2013-04-03T15:47:27.707526+00:00"

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


def test_a_line_is_the_references_example() -> None:
    status = Status(EXECUTING, KEY, QUEUED_AT, STARTED_AT, progress=b"90")
    assert orjson.loads(status.line()) == {
        "status": "executing",
        "key": KEY,
        "progress": 90,
        "events": {"started": STARTED_AT, "queued": QUEUED_AT},
    }


def test_absent_and_null_are_different() -> None:
    without = orjson.loads(Status(QUEUED, KEY, QUEUED_AT).line())
    assert set(without) == {"status", "key", "events"}
    with_null = orjson.loads(Status(SUCCESS, KEY, QUEUED_AT, progress=b"null", result=b"null").line())
    assert (with_null["progress"], with_null["result"]) == (None, None)


@settings(deadline=None)
@given(json_values, json_values, st.sampled_from([QUEUED, EXECUTING, SUCCESS, ERROR]))
def test_a_line_reads_back_as_the_status_that_it_was_made_of(progress: object, result: object, state: str) -> None:
    status = Status(state, KEY, QUEUED_AT, STARTED_AT, None, orjson.dumps(progress), orjson.dumps(result))
    assert b"\n" not in status.line()
    assert parse_line(status.line()) == status


def test_a_new_attempt_forgets_what_an_earlier_one_reported() -> None:
    earlier = Status(EXECUTING, KEY, QUEUED_AT, STARTED_AT, progress=b"50", result=b"1")
    assert earlier.executing("2014-01-01T00:00:00.000000+00:00") == Status(
        EXECUTING, KEY, QUEUED_AT, "2014-01-01T00:00:00.000000+00:00"
    )


def test_events_are_in_order_even_when_clocks_are_not() -> None:
    status = Status(QUEUED, KEY, QUEUED_AT).executing("2001-01-01T00:00:00.000000+00:00")
    assert status.started == QUEUED_AT
    assert status.ended(SUCCESS, b"1", "2001-01-01T00:00:00.000000+00:00").completed == QUEUED_AT


def test_nothing_follows_a_final_state() -> None:
    assert {state for state, following in FOLLOWS.items() if not following} == FINAL


def test_an_unknown_key_has_the_contracts_line() -> None:
    assert orjson.loads(unknown_line(KEY)) == {"status": "error", "key": KEY, "result": "unknown task key"}


def test_dates_are_iso_8601_with_microseconds_and_offset() -> None:
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}\+00:00", timestamp())


def test_keys_are_26_characters_of_base32_and_differ() -> None:
    keys = {new_key() for _ in range(1000)}
    assert len(keys) == 1000
    assert all(re.fullmatch("[A-Z2-7]{26}", key) and is_key(key) for key in keys)


def test_a_key_is_128_bits_in_canonical_base32_evenly_spread() -> None:
    keys = new_keys(20_000)
    assert all(base64.b32encode(base64.b32decode(key + "======")).decode()[:26] == key for key in keys[:200])
    for place in range(26):
        found = Counter(key[place] for key in keys)
        letters = 32 if place < 25 else 8
        assert len(found) == letters
        assert max(found.values()) < 1.3 * len(keys) / letters


def test_a_forked_child_does_not_make_its_parents_keys() -> None:
    new_key()  # from here on random bytes are in store
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(write, new_key().encode())
        os._exit(0)
    os.waitpid(pid, 0)
    assert os.read(read, 26).decode() != new_key()
    os.close(read)
    os.close(write)


def test_what_is_not_a_key_is_told() -> None:
    for text in ("", KEY.lower(), KEY[:-1], KEY + "A", KEY[:-1] + "1", KEY + "\n", None, 5, [KEY]):
        assert not is_key(text)
