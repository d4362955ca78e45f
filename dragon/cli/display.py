"""Statuses as they are shown: bars on a terminal, lines elsewhere, JSON lines for programs."""

from __future__ import annotations

import json
import os
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import click

if TYPE_CHECKING:  # imported where it is used: `--help` needs none of it
    from dragon.client import LogLine, Status

LABEL = 48  # characters of a task's name and parameters
SHORT = 160  # characters of a result where several are listed


class Display(Protocol):
    """Shows tasks that are followed. `labels`, by key, say what each is."""

    def begin(self, labels: Mapping[str, str]) -> None: ...

    def show(self, status: Status) -> None: ...

    def log(self, key: str, line: LogLine) -> None: ...

    def end(self) -> None: ...


def choose(*, as_json: bool = False, beside: bool = False) -> Display:
    """What suits the place that the output leads to; `beside`: standard output is for something else."""
    if as_json:
        return JsonLines()
    stream = sys.stderr if beside else sys.stdout
    if stream.isatty() and os.environ.get("TERM") != "dumb":
        from dragon.cli.bars import Bars

        return Bars(stream)
    return Silence() if beside else Lines()


# --- Texts ------------------------------------------------------------------------------------------------------------


def printable(text: str) -> str:
    """A text of a stranger's for a terminal: what would move the cursor or change colours is spelled out."""
    return "".join(
        character if unicodedata.category(character) not in ("Cc", "Cf", "Cs") else f"\\x{ord(character):02x}"
        for character in text
    )


def printable_lines(text: str) -> str:
    """As `printable`, but lines stay lines."""
    return "\n".join(printable(line.expandtabs()) for line in text.splitlines())


def as_text(value: Any) -> str:
    """A value on one line: text as it is, anything else as JSON."""
    return printable(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def shortened(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def counted(count: int, word: str) -> str:
    """A number of things, in words."""
    return f"{count:,} {word}{'' if count == 1 else 's'}"


def label_of(name: str, parameters: Mapping[str, Any]) -> str:
    """A task's name and parameters, shortened."""
    words = [name, *(f"{parameter}={as_text(value)}" for parameter, value in parameters.items())]
    return shortened(printable(" ".join(words)), LABEL)


def percent_of(progress: Any) -> float | None:
    """Progress as most tasks report it, 0 to 100; None for anything else that a task may tell."""
    is_number = isinstance(progress, int | float) and not isinstance(progress, bool)
    return float(progress) if is_number and 0 <= progress <= 100 else None


def detail_of(status: Status) -> str:
    """What there is to say about a status beside its word."""
    if status.status == "error":
        from dragon.client.errors import error_text

        return printable(error_text(status.result))
    if status.status == "success":
        return as_text(status.result)
    if status.status == "queued":
        return waiting_of(status)
    percent = percent_of(status.progress)
    if percent is not None:
        return f"{percent:g} %"
    return "" if status.progress is None else as_text(status.progress)


def waiting_of(status: Status) -> str:
    """The place of a queued task, where the server tells it."""
    if reason := status.raw.get("waiting_for"):
        return as_text(reason)
    if status.position is None:
        return ""
    seconds = "" if status.eta is None else f", about {status.eta:.0f} s"
    return f"number {status.position} in the queue{seconds}"


def aligned(rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    """Rows as lines whose columns stand below each other; the last one is as long as it is."""
    table = list(rows)
    widths = [max(len(cell) for cell in column) for column in zip(*table, strict=True)]
    for row in table:
        *cells, last = row
        padded = [f"{cell:<{width}}" for cell, width in zip(cells, widths, strict=False)]
        yield "  ".join([*padded, last]).rstrip()


def as_line(status: Status) -> str:
    """A status as one line for people and grep."""
    return f"{status.key} {status.status:<9} {shortened(detail_of(status), 2000)}".rstrip()


# --- Displays ---------------------------------------------------------------------------------------------------------


class Silence:
    """Nothing: what comes of the tasks is told by others."""

    def begin(self, labels: Mapping[str, str]) -> None:
        pass

    def show(self, status: Status) -> None:
        pass

    def log(self, key: str, line: LogLine) -> None:
        pass

    def end(self) -> None:
        pass


class Lines:
    """One line a change."""

    def __init__(self) -> None:
        self._labels: Mapping[str, str] = {}
        self._shown: dict[str, str] = {}

    def begin(self, labels: Mapping[str, str]) -> None:
        self._labels = labels

    def show(self, status: Status) -> None:
        line, former = as_line(status), self._shown.get(status.key)
        if line == former:
            return
        self._shown[status.key] = line
        if former is None and not status.final:  # the first line says what the task is
            line = f"{status.key} {status.status:<9} {self._labels.get(status.key, '')}".rstrip()
        click.echo(line)

    def log(self, key: str, line: LogLine) -> None:
        click.echo(f"{key} log       {printable(line.text)}")

    def end(self) -> None:
        pass


class JsonLines:
    """Statuses as the server sent them, one a line; a log line is an object with `text` and without `status`."""

    def __init__(self) -> None:
        self._shown: dict[str, Any] = {}

    def begin(self, labels: Mapping[str, str]) -> None:
        pass

    def show(self, status: Status) -> None:
        if self._shown.get(status.key) != status.raw:
            self._shown[status.key] = status.raw
            echo_json(status.raw)

    def log(self, key: str, line: LogLine) -> None:
        echo_json({"key": key, "number": line.number, "time": line.time, "attempt": line.attempt, "text": line.text})

    def end(self) -> None:
        pass


def echo_json(value: Any) -> None:
    """Writes one line of JSON."""
    click.echo(json.dumps(value, ensure_ascii=False))
