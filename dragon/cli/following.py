"""`dragon status`, `follow`, `log` and `cancel`: tasks that exist, by their keys."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import click

from dragon.cli.access import EXIT_FAILED, EXIT_INTERRUPTED, on_a_server
from dragon.cli.display import (
    Display,
    aligned,
    as_line,
    as_text,
    choose,
    detail_of,
    echo_json,
    label_of,
    printable,
    shortened,
    waiting_of,
)
from dragon.keys import is_key

if TYPE_CHECKING:  # imported where it is used: `--help` needs none of it
    from dragon.client import Dragon, Status

T = TypeVar("T")

MOST_LOGS = 20  # tasks whose log lines are followed: each is a connection
LOG_GRACE = 2.0  # seconds that the last log lines of a task that has ended may take to come


def _read_keys(
    _context: click.Context, _parameter: click.Parameter, given: tuple[str, ...] | str
) -> tuple[str, ...] | str:
    for key in (given,) if isinstance(given, str) else given:
        if not is_key(key):
            raise click.UsageError(f"{key!r} is not a task's key (26 characters A-Z2-7)")
    return given


_keys = click.argument("keys", metavar="KEY...", nargs=-1, required=True, callback=_read_keys)
_json = click.option("--json", "as_json", is_flag=True, help="Print each status as a line of JSON.")


def _exit_code(statuses: list[Status]) -> int:
    return EXIT_FAILED if any(status.status == "error" for status in statuses) else 0


# --- Now --------------------------------------------------------------------------------------------------------------


@click.command()
@_keys
@click.option("--details", is_flag=True, help="Say more: task, parameters, queue, times, worker.")
@_json
@on_a_server(needs_secret=False)
def status(keys: tuple[str, ...], details: bool, as_json: bool, client: Dragon) -> None:
    """Print the statuses of tasks as they are now. Exit code 1 when one is an error or unknown."""
    found = client.status(keys, details=True) if details else client.status(keys)
    for one in found:
        if as_json:
            echo_json(one.raw)
        elif details:
            click.echo("\n".join(_details(one)))
        else:
            click.echo(as_line(one))
    sys.exit(_exit_code(found))


def _details(one: Status) -> Iterator[str]:
    yield as_line(one)
    told = {"task": one.raw.get("task_name"), "parameters": one.raw.get("parameters"), **one.events}
    told |= {name: one.raw.get(name) for name in ("task_metas", "attempt", "worker", "traceparent", "expires")}
    if waiting := waiting_of(one):
        told["waiting"] = waiting
    rows = [(f"  {name}", shortened(as_text(value), 2000)) for name, value in told.items() if value not in (None, {})]
    yield from aligned(rows)


@click.command()
@_keys
@_json
@on_a_server(needs_secret=True)
def cancel(keys: tuple[str, ...], as_json: bool, client: Dragon) -> None:
    """Cancel tasks: those that wait at once, those that run by ending them. What has ended stays as it is."""
    for key in keys:
        cancelled = client.cancel(key)
        if as_json:
            echo_json(cancelled.raw)
        else:
            click.echo(as_line(cancelled))


@click.command()
@click.argument("key", callback=_read_keys)
@click.option("-f", "--follow", is_flag=True, help="Go on until the task has ended.")
@click.option("--after", type=click.IntRange(0), default=0, help="Leave out the lines up to this number.")
@click.option("--json", "as_json", is_flag=True, help="Print each line as a line of JSON.")
@on_a_server(needs_secret=False)
def log(key: str, follow: bool, after: int, as_json: bool, client: Dragon) -> None:
    """Print the log lines of the task KEY: what it logs, and what it prints."""
    display = choose(as_json=True) if as_json else None
    for line in client.log(key, after=after, follow=follow):
        if display:
            display.log(key, line)
        else:
            click.echo(printable(line.text))


# --- Following --------------------------------------------------------------------------------------------------------


@click.command()
@_keys
@click.option("--no-log", is_flag=True, help="Leave out what the tasks log and print.")
@_json
@on_a_server(needs_secret=False)
def follow(keys: tuple[str, ...], no_log: bool, as_json: bool, client: Dragon) -> None:
    """Show tasks to their end, with their log lines. Exit code 1 when one failed. Ctrl-C leaves them alone."""
    present = {one.key: one for one in client.status(keys, details=True)}
    labels = {key: _label(one) for key, one in present.items()}
    logged = [] if no_log else [key for key, one in present.items() if one.known][:MOST_LOGS]
    display = choose(as_json=as_json)
    display.begin(labels)
    follower = _Follower(display, set(logged))
    interrupted = False
    try:
        follower.run(client, list(present))
    except KeyboardInterrupt:
        interrupted = True
    finally:
        display.end()
    if sys.stdout.isatty() and not as_json:
        for one in follower.last.values():
            if one.final:
                click.echo(f"{labels[one.key]}: {shortened(detail_of(one), 2000)}")
    sys.exit(EXIT_INTERRUPTED if interrupted else _exit_code(list(follower.last.values())))


def _label(one: Status) -> str:
    return label_of(one.raw.get("task_name", one.key), one.raw.get("parameters") or {})


class _Held(NamedTuple):
    """A final status that waits for the task's last log lines."""

    status: Status
    until: float  # by the monotonic clock


class _Follower:
    """Shows statuses and log lines as they come: the end of a task behind its last line, if that comes soon.

    Each source is read by a thread of its own, and all of them say what to do in one queue.
    """

    def __init__(self, display: Display, logged: set[str]) -> None:
        self.last: dict[str, Status] = {}
        self._display = display
        self._logged = logged  # tasks whose log may have more to say
        self._held: dict[str, _Held] = {}
        self._events: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._is_over = False
        self._error: Exception | None = None

    def run(self, client: Dragon, keys: list[str]) -> None:
        """Returns when all tasks have ended and are shown. Raises what kept them from being followed."""
        self._listen(client.follow(keys), self._on_status, self._on_over)
        for key in list(self._logged):
            lines = client.log(key, follow=True)
            self._listen(lines, partial(self._display.log, key), partial(self._on_log_over, key))
        while not self._is_over or self._held:
            with contextlib.suppress(Empty):
                self._events.get(timeout=self._patience())()
            self._show_late()
        if self._error is not None:
            raise self._error

    def _listen(
        self, source: Iterable[T], on_item: Callable[[T], None], on_over: Callable[[Exception | None], None]
    ) -> None:
        def listen() -> None:
            error: Exception | None = None
            try:
                for item in source:
                    self._events.put(partial(on_item, item))
            except Exception as caught:
                error = caught
            self._events.put(partial(on_over, error))

        threading.Thread(target=listen, daemon=True).start()

    def _on_status(self, status: Status) -> None:
        self.last[status.key] = status
        if status.final and status.key in self._logged:
            self._held[status.key] = _Held(status, time.monotonic() + LOG_GRACE)
        else:
            self._display.show(status)

    def _on_over(self, error: Exception | None) -> None:
        self._is_over, self._error = True, error

    def _on_log_over(self, key: str, _error: Exception | None) -> None:
        """Also of a server that keeps no log: then there is nothing to wait for."""
        self._logged.discard(key)
        if key in self._held:
            self._display.show(self._held.pop(key).status)

    def _patience(self) -> float | None:
        """Seconds until a held status is shown whatever comes."""
        return max(0.01, min(held.until for held in self._held.values()) - time.monotonic()) if self._held else None

    def _show_late(self) -> None:
        now = time.monotonic()
        for key in [key for key, held in self._held.items() if held.until <= now]:
            self._display.show(self._held.pop(key).status)
