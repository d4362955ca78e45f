"""`dragon queue`: what waits in each queue; holding one, letting it go on, emptying it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from dragon.cli.access import EXIT_FAILED, on_a_server
from dragon.cli.display import aligned, counted, echo_json, printable

if TYPE_CHECKING:  # imported where it is used: `--help` needs none of it
    from dragon.client import Dragon

_json = click.option("--json", "as_json", is_flag=True, help="Print each queue as a line of JSON.")


class Listing(click.Group):
    """A group that lists when no other command is named."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        is_bare = not args or (args[0].startswith("-") and args[0] not in ctx.help_option_names)
        return super().parse_args(ctx, ["list", *args] if is_bare else args)


@click.group(cls=Listing)
def queue() -> None:
    """Print what waits in each queue; hold a queue, let it go on, or empty it."""


@queue.command(name="list")
@_json
@on_a_server(needs_secret=True)
def depths(as_json: bool, client: Dragon) -> None:
    """Print what waits in each queue (the same as `dragon queue`)."""
    snapshot = client.operator.overview()
    found = snapshot["queues"]
    if as_json:
        for one in found:
            echo_json(one)
        return
    if snapshot.get("suspended"):
        click.echo("RQ is suspended, so no worker takes tasks: rq resume")
    head = ("queue", "waiting", "executing", "oldest", "workers", "")
    click.echo("\n".join(aligned([head, *map(_row, found)])) if found else "there is no queue yet")


def _row(one: dict[str, Any]) -> tuple[str, ...]:
    oldest = "" if one["oldest"] is None else span(one["oldest"])
    return (
        printable(one["name"]),
        f"{one['waiting']:,}",
        f"{one['executing']:,}",
        oldest,
        str(one["workers"]),
        _remark(one),
    )


def _remark(one: dict[str, Any]) -> str:
    if one["paused"]:
        return f"paused: dragon queue resume {one['name']}"
    if not one["workers"]:
        return f"no worker serves it: dragon worker --queues {one['name']}" if one["waiting"] else "no worker serves it"
    return ""


def span(seconds: float) -> str:
    """A length of time in its largest unit but one."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    for unit, size, most in (("min", 60, 100), ("h", 3600, 48)):
        if seconds / size < most:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds / 86400:.0f} d"


def ask(question: str, *, yes: bool) -> None:
    """Ends the command unless somebody at a terminal agrees, or --yes was given."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise click.UsageError(f"{question} Nobody can be asked here: give --yes")
    if not click.confirm(question, err=True):
        click.echo("nothing was done", err=True)
        sys.exit(EXIT_FAILED)


@queue.command()
@click.argument("name")
@on_a_server(needs_secret=True)
def pause(name: str, client: Dragon) -> None:
    """Hold the queue NAME: workers take nothing more from it, what runs goes on."""
    client.operator.pause(name)
    click.echo(f"{name} is paused; it goes on with: dragon queue resume {name}")


@queue.command()
@click.argument("name")
@on_a_server(needs_secret=True)
def resume(name: str, client: Dragon) -> None:
    """Let the queue NAME go on."""
    client.operator.resume(name)
    click.echo(f"{name} goes on")


@queue.command()
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
@on_a_server(needs_secret=True)
def clear(name: str, yes: bool, client: Dragon) -> None:
    """Cancel all that waits in the queue NAME. Asks before."""
    if not yes:
        waiting = sum(one["waiting"] for one in client.operator.overview()["queues"] if one["name"] == name)
        ask(f"Cancel {counted(waiting, 'task')} waiting in {name}?", yes=yes)
    cleared = client.operator.clear(name)["cleared"]
    click.echo(f"cancelled {counted(cleared, 'task')} of {name}")
