"""The display on a terminal: a bar a task, log lines above them. The only module that imports rich."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from dragon.cli.display import detail_of, percent_of, printable, shortened, waiting_of

if TYPE_CHECKING:
    from dragon.client import LogLine, Status

KEPT = 3  # rows of a terminal that are not bars'
NOTE = 60  # characters beside a bar


class Bars:
    """A bar a task; where there are more than the terminal has rows, one for all and those that are at work."""

    def __init__(self, stream: TextIO) -> None:
        self._console = Console(file=stream, highlight=False)
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[note]}", markup=False, style="default"),
            TimeElapsedColumn(),
            console=self._console,
        )
        self._rows: dict[str, TaskID] = {}
        self._labels: Mapping[str, str] = {}
        self._all: TaskID | None = None
        self._ended: set[str] = set()
        self._failed = 0

    def begin(self, labels: Mapping[str, str]) -> None:
        self._labels = labels
        is_crowded = len(labels) > max(1, self._console.size.height - KEPT)
        if is_crowded:
            self._all = self._progress.add_task("all", total=len(labels), note="")
        for key, label in labels.items():
            row = self._progress.add_task(label, total=None, start=False, note="queued", visible=not is_crowded)
            self._rows[key] = row
        self._progress.start()

    def show(self, status: Status) -> None:
        row = self._rows.get(status.key)
        if row is None or status.key in self._ended:
            return
        note = shortened(_note(status), NOTE)
        if status.status != "queued":
            self._progress.start_task(row)
        percent = 100.0 if status.status == "success" else percent_of(status.progress)
        if percent is not None:
            self._progress.update(row, total=100, completed=percent)
        self._progress.update(row, note=note)
        if self._all is not None:
            self._progress.update(row, visible=not status.final and status.status != "queued" and self._has_room(row))
        if status.final:
            self._end(status, row)

    def _has_room(self, row: TaskID) -> bool:
        visible = {task.id for task in self._progress.tasks if task.visible}
        return row in visible or len(visible) < self._console.size.height - KEPT

    def _end(self, status: Status, row: TaskID) -> None:
        self._ended.add(status.key)
        self._progress.stop_task(row)
        self._progress.update(row, total=100)  # a bar without a percentage moves to and fro until it has one
        self._failed += status.status == "error"
        if self._all is None:
            return
        failed = f", {self._failed} failed" if self._failed else ""
        self._progress.update(self._all, completed=len(self._ended), note=f"{len(self._ended)} done{failed}")
        if status.status == "error":
            self._print(f"{self._labels[status.key]}: {detail_of(status)}", "red")

    def log(self, key: str, line: LogLine) -> None:
        name = f"{self._labels.get(key, key)}: " if len(self._labels) > 1 else ""
        self._print(f"{name}{printable(line.text)}", "dim")

    def _print(self, text: str, style: str) -> None:
        self._console.print(Text(text, style=style), soft_wrap=True)

    def end(self) -> None:
        self._progress.stop()


def _note(status: Status) -> str:
    """The word of a status and what matters beside it; results stand below the bars, in full."""
    if status.status == "success":
        return "100 %"
    if status.status == "error":
        return f"failed: {detail_of(status)}"
    if status.status == "queued":
        return waiting_of(status) or "queued"
    return detail_of(status) or status.status
