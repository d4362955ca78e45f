"""What is said of a status: places in the queue, progress of any shape, strangers' texts."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dragon.cli.display import JsonLines, Lines, aligned, as_line, detail_of, label_of, percent_of, printable
from dragon.client import Status

KEY = "A" * 26


def status(word: str, **members: Any) -> Status:
    return Status.read({"key": KEY, "status": word, "events": {"queued": "then"}, **members})


@pytest.mark.parametrize(
    ("found", "detail"),
    [
        (status("queued"), ""),
        (status("queued", position=3, eta=12.4), "number 3 in the queue, about 12 s"),
        (status("queued", position=3, eta=None), "number 3 in the queue"),
        (status("queued", position=None, eta=None), ""),
        (status("queued", waiting_for="no worker serves the queue 'low'"), "no worker serves the queue 'low'"),
        (status("executing"), ""),
        (status("executing", progress=0), "0 %"),
        (status("executing", progress=33.5), "33.5 %"),
        (status("executing", progress=1200), "1200"),
        (status("executing", progress=True), "true"),
        (status("executing", progress={"step": "two"}), '{"step": "two"}'),
        (status("success", result=None), "null"),
        (status("success", result="text"), "text"),
        (status("success", result=[1, "ü"]), '[1, "ü"]'),
        (status("error", result="no room"), "no room"),
        (status("error", result={"parameters": {"url": ["is missing", "is bad"]}}), "url: is missing, is bad"),
    ],
)
def test_the_detail_of_a_status(found: Status, detail: str) -> None:
    assert detail_of(found) == detail
    assert as_line(found) == f"{KEY} {found.status:<9} {detail}".rstrip()


@pytest.mark.parametrize("progress", [-1, 101, None, "50", [50], float("nan")])
def test_what_is_no_percentage_is_none(progress: object) -> None:
    assert percent_of(progress) is None


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain ü 漢", "plain ü 漢"),
        ("\x1b[31mred", r"\x1b[31mred"),
        ("\x9b31m", r"\x9b31m"),
        ("a\nb\r\tc\x00", r"a\x0ab\x0d\x09c\x00"),
        ("\u202eevil", r"\x202eevil"),
        ("\ud800", r"\xd800"),
    ],
)
def test_what_would_move_the_cursor_is_spelled_out(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_a_label_is_short_and_on_one_line() -> None:
    assert label_of("hello", {"name": "x\ny", "list": [1]}) == r"hello name=x\x0ay list=[1]"
    label = label_of("hello", {"name": "x" * 1000})
    assert len(label) == 48
    assert label.endswith("…")


def test_columns_stand_below_each_other() -> None:
    assert list(aligned([("a", "bb", "c"), ("aaa", "b", "")])) == ["a    bb  c", "aaa  b"]


def test_lines_say_each_change_once_and_what_the_task_is_first(capsys: pytest.CaptureFixture[str]) -> None:
    lines = Lines()
    lines.begin({KEY: "hello name=x"})
    for found in (
        status("queued"),
        status("queued"),
        status("queued", position=2, eta=1.0),
        status("queued", position=1, eta=1.0),
        status("executing"),
        status("executing"),
        status("success", result=1),
    ):
        lines.show(found)
    assert capsys.readouterr().out.splitlines() == [
        f"{KEY} queued    hello name=x",
        f"{KEY} queued    number 2 in the queue, about 1 s",
        f"{KEY} queued    number 1 in the queue, about 1 s",
        f"{KEY} executing",
        f"{KEY} success   1",
    ]


def test_json_lines_are_what_the_server_said_without_repeats(capsys: pytest.CaptureFixture[str]) -> None:
    lines = JsonLines()
    for found in (status("queued"), status("queued"), status("success", result="ü\x1b")):
        lines.show(found)
    output = capsys.readouterr().out
    assert [json.loads(line) for line in output.splitlines()] == [
        status("queued").raw,
        status("success", result="ü\x1b").raw,
    ]
    assert "\x1b" not in output
