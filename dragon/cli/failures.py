"""`dragon failed`: what ended in errors, alike ones together; looking at one, and running them again."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from dragon.cli.access import EXIT_FAILED, on_a_server
from dragon.cli.display import aligned, as_text, counted, echo_json, printable, printable_lines, shortened
from dragon.cli.queues import Listing, ask
from dragon.keys import is_key

if TYPE_CHECKING:  # imported where it is used: `--help` needs none of it
    from dragon.client import Dragon

MOST_AT_ONCE = 1000  # tasks that one call runs again
CANCELLED = "cancelled"  # the message of what somebody ended on purpose
_json = click.option("--json", "as_json", is_flag=True, help="Print lines of JSON.")


@click.group(cls=Listing)
def failed() -> None:
    """List what failed, alike ones together; show them, run them again."""


@failed.command(name="list")
@click.option("--name", metavar="TASK", help="Of this task only.")
@click.option("--since", metavar="DATE", help="Since then: 2026-11-27, or 2026-11-27T12:00Z.")
@_json
@on_a_server(needs_secret=True)
def groups(name: str | None, since: str | None, as_json: bool, client: Dragon) -> None:
    """List what failed, alike ones together (the same as `dragon failed`)."""
    answer = client.operator.failures(name=name, since=since)
    found = answer["groups"]
    if as_json:
        for one in found:
            echo_json(one)
        return
    head = ("group", "count", "retried", "last", "task", "message")
    click.echo("\n".join(aligned([head, *map(_row, found)])) if found else "nothing failed")
    if not answer["complete"]:
        click.echo(f"only the newest {answer['scanned']:,} tasks were looked at", err=True)


def _row(one: Mapping[str, Any]) -> tuple[str, ...]:
    last = str(one["last"])[:19].replace("T", " ")
    message = shortened(printable(str(one["message"])), 120)
    return str(one["group"]), f"{one['count']:,}", f"{one['retried']:,}", last, printable(one["task_name"]), message


# --- One --------------------------------------------------------------------------------------------------------------


@failed.command()
@click.argument("which", metavar="GROUP|KEY")
@_json
@on_a_server(needs_secret=True)
def show(which: str, as_json: bool, client: Dragon) -> None:
    """Show a task, or a group and its newest task."""
    if is_key(which):
        _show_task(client, which, as_json)
        return
    group = _find(client, which)
    if as_json:
        echo_json(group)
        return
    click.echo("\n".join(_group(group)))
    if group["keys"]:
        click.echo()
        _show_task(client, group["keys"][0], as_json=False)


def _find(client: Dragon, which: str) -> dict[str, Any]:
    found = client.operator.failures()["groups"]
    for one in found:
        if one["group"] == which:
            return dict(one)
    raise click.UsageError(f"{which!r} is no task's key, and no group of failures: `dragon failed` lists them")


def _group(group: Mapping[str, Any]) -> Iterator[str]:
    yield f"{group['group']}: {group['count']:,} of {printable(group['task_name'])}, {group['retried']:,} retried"
    yield from aligned(
        [
            ("  message", as_text(group["message"])),
            ("  first", str(group["first"])),
            ("  last", str(group["last"])),
            ("  newest", " ".join(group["keys"])),
        ]
    )
    yield f"  run them again: dragon failed retry {group['group']}"


def _show_task(client: Dragon, key: str, as_json: bool) -> None:
    task = client.operator.task(key)
    if as_json:
        echo_json(task)
    else:
        click.echo("\n".join(_task(key, task)))


def _task(key: str, task: Mapping[str, Any]) -> Iterator[str]:
    status = task["status"]
    yield f"{key} {status['status']}"
    told: dict[str, Any] = {"task": task["task_name"], "account": task["account"], "queue": task["queue"]}
    told |= {f"  {name}": as_text(value) for name, value in (task["parameters"] or {}).items()}
    told |= status.get("events", {})
    told["result"] = status.get("result")
    told |= {name: task.get(name) for name in ("task_metas", "worker", "retry_of", "retried_as")}
    yield from aligned(
        [(f"  {name}", shortened(as_text(value), 2000)) for name, value in told.items() if value not in (None, {})]
    )
    for attempt in task.get("attempts") or ():
        yield f"  attempt {attempt['attempt']} on {printable(str(attempt['worker']))}: {as_text(attempt['ending'])}"
    if trace := task.get("traceback"):
        yield printable_lines(trace)


# --- Running again ----------------------------------------------------------------------------------------------------


@failed.command()
@click.argument("which", metavar="[KEY|GROUP]...", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All that was neither retried nor cancelled. Asks before.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@_json
@on_a_server(needs_secret=True)
def retry(which: tuple[str, ...], everything: bool, yes: bool, as_json: bool, client: Dragon) -> None:
    """Run tasks again, each once, as new tasks with the same parameters. Exit code 1 when one could not be."""
    if bool(which) == everything:
        raise click.UsageError("name keys or groups (`dragon failed` lists them), or give --all")
    found = _left(client)
    if everything:
        which = _all_groups(found, yes)
    for one in which:
        if not is_key(one):
            _check_group(found, one)
    keys = [one for one in which if is_key(one)]
    answers = client.operator.retry(keys) if keys else []
    for group in (one for one in which if not is_key(one)):
        answers += _retry_group(client, group, found[group].tasks)
    for answer in answers:
        echo_json(answer) if as_json else click.echo(_retried(answer))
    if not as_json:
        count = sum(answer["retried_as"] is not None for answer in answers)
        click.echo(f"{count:,} of {len(answers):,} run again", err=True)
    sys.exit(EXIT_FAILED if any(answer["retried_as"] is None for answer in answers) else 0)


class _Left(NamedTuple):
    """A group of failures of which some were not run again yet."""

    tasks: int
    message: str


def _left(client: Dragon) -> dict[str, _Left]:
    """Those groups, by their names."""
    left = {
        one["group"]: _Left(one["count"] - one["retried"], one["message"])
        for one in client.operator.failures()["groups"]
    }
    return {group: one for group, one in left.items() if one.tasks > 0}


def _check_group(found: Mapping[str, _Left], which: str) -> None:
    if which not in found:
        raise click.UsageError(f"{which!r} is no task's key, and no group with tasks to run again: `dragon failed`")


def _all_groups(found: Mapping[str, _Left], yes: bool) -> tuple[str, ...]:
    wanted = {group: one.tasks for group, one in found.items() if one.message != CANCELLED}
    if not wanted:
        click.echo("there is nothing to run again", err=True)
        sys.exit(0)
    kinds = counted(len(wanted), "kind")
    ask(f"Run {counted(sum(wanted.values()), 'task')} again ({kinds} of failures)?", yes=yes)
    return tuple(wanted)


def _retry_group(client: Dragon, group: str, count: int) -> list[dict[str, Any]]:
    """In pieces, and not more than there were at first: what fails again at once comes into the same group."""
    answers: dict[str, dict[str, Any]] = {}
    while len(answers) < count:
        some = client.operator.retry(group=group, limit=min(MOST_AT_ONCE, count - len(answers)))
        news = {answer["key"]: answer for answer in some if answer["key"] not in answers}
        if not news:
            break
        answers |= news
    return list(answers.values())


def _retried(answer: Mapping[str, Any]) -> str:
    if answer["retried_as"] is None:
        return f"{answer['key']} not run again: {as_text(answer['message'])}"
    return f"{answer['key']} runs again as {answer['retried_as']}"
