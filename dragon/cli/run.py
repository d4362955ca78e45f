"""`dragon run`: creates tasks, shows them to their end, and fetches their output files."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import unquote, urlsplit

import click

from dragon.cli.access import EXIT_FAILED, EXIT_INTERRUPTED, on_a_server, say
from dragon.cli.completion import complete_task
from dragon.cli.display import Display, as_text, choose, counted, detail_of, label_of, printable_lines, shortened
from dragon.cli.values import check_required, find_task, read_lines, read_parameters

if TYPE_CHECKING:  # imported where it is used: `--help` needs none of it
    from dragon.client import Dragon, Status

AT_ONCE, MOST_AT_ONCE = 500, 1000  # tasks that are created and followed together; servers take 1,000 in a call
_SEPARATOR = "\0"  # what stands between tasks once click has taken the options out: no argument can be that


class Wanted(NamedTuple):
    """One task to run."""

    entry: Mapping[str, Any]  # the catalogue's
    parameters: dict[str, Any]

    @property
    def name(self) -> str:
        return str(self.entry["name"])

    @property
    def outputs(self) -> list[str]:
        return list(self.entry.get("output_files", []))


class Ended(NamedTuple):
    """One task that has ended."""

    number: int  # 1 for the first
    wanted: Wanted
    status: Status


class _Run(click.Command):
    """Keeps the -- of `TASK a=1 -- TASK b=2`, which click would take for the end of the options."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, [_SEPARATOR if word == "--" else word for word in args])


@click.command(cls=_Run)
@click.argument("task", shell_complete=complete_task)
@click.argument("words", metavar="[NAME=VALUE]... [-- TASK [NAME=VALUE]...]...", nargs=-1)
@click.option("--each", metavar="NAME=@FILE", help="Run the task once for each line of FILE (- is standard input).")
@click.option(
    "--file",
    "files",
    metavar="[NAME=]PATH",
    multiple=True,
    help="Save an output file; - is standard output. For several tasks PATH is a folder.",
)
@click.option(
    "--at-once",
    type=click.IntRange(1, MOST_AT_ONCE),
    default=AT_ONCE,
    show_default=True,
    help="The most tasks that are created and shown together.",
)
@click.option("--url", "only_urls", is_flag=True, help="Print the URLs of the output files and nothing else.")
@click.option("--json", "as_json", is_flag=True, help="Print each status as a line of JSON, as it comes.")
@click.option("--cancel-on-interrupt", is_flag=True, help="Ctrl-C cancels the tasks, without a question.")
@on_a_server(needs_secret=True)
def run(
    task: str,
    words: tuple[str, ...],
    each: str | None,
    files: tuple[str, ...],
    at_once: int,
    only_urls: bool,
    as_json: bool,
    cancel_on_interrupt: bool,
    client: Dragon,
) -> None:
    """Run TASK and show it to its end. Exit code 1 when a task failed.

    Values are read by the task's own schema (`dragon tasks TASK`): numbers, true and false, text; a list by giving its
    name several times; JSON where it begins with [ or {. NAME=@FILE takes the value from a file (as JSON when it is
    called .json), NAME=@@TEXT is a text that begins with @. Several tasks stand side by side with -- between them.

    After Ctrl-C the tasks go on, unless they are cancelled.
    """
    wanted = list(_read_wanted(client.tasks(), _groups([task, *words]), each))
    saving = _read_files(files, wanted)
    if only_urls:
        _check_outputs(wanted, "--url")
    bare = only_urls or any(path == "-" for paths in saving for path in paths.values())
    failed = 0
    for start in range(0, len(wanted), at_once):
        batch = wanted[start : start + at_once]
        display = choose(as_json=as_json and not bare, beside=bare)
        statuses = _run_to_end(client, batch, display, cancel_on_interrupt)
        ended = [Ended(start + number, *pair) for number, pair in enumerate(zip(batch, statuses, strict=True), 1)]
        failed += sum(one.status.status != "success" for one in ended)
        if bare:
            _say_errors(ended)
        elif sys.stdout.isatty() and not as_json:
            _show_results(ended)
        _deliver(client, ended, saving, only_urls=only_urls)
    sys.exit(EXIT_FAILED if failed else 0)


# --- Arguments --------------------------------------------------------------------------------------------------------


def _read_wanted(catalogue: Sequence[dict[str, Any]], groups: list[list[str]], each: str | None) -> Iterator[Wanted]:
    if each is not None and len(groups) > 1:
        raise click.UsageError("--each is for one task: leave out what follows --")
    for group in groups:
        if not group:
            raise click.UsageError("-- stands between two tasks: write a task's name on each side of it")
        entry = find_task(catalogue, group[0])
        if each is None:
            yield _wanted(entry, group[1:])
            continue
        name, lines = read_lines(each)
        for line in lines:
            yield _wanted(entry, [*group[1:], f"{name}={'@' if line.startswith('@') else ''}{line}"])


def _groups(words: list[str]) -> list[list[str]]:
    """The words of each task."""
    groups: list[list[str]] = [[]]
    for word in words:
        groups.append([]) if word == _SEPARATOR else groups[-1].append(word)
    return groups


def _wanted(entry: dict[str, Any], words: list[str]) -> Wanted:
    parameters = read_parameters(entry, words)
    check_required(entry, parameters)
    return Wanted(entry, parameters)


def _check_outputs(wanted: Sequence[Wanted], option: str) -> None:
    for one in wanted:
        if not one.outputs:
            raise click.UsageError(f"{option}: {one.name} has no output file")


def _read_files(options: Sequence[str], wanted: Sequence[Wanted]) -> list[dict[str, str]]:
    """For each task the paths of the output files that are to be saved, by their names."""
    if not options:
        return [{} for _ in wanted]
    _check_outputs(wanted, "--file")
    if len(wanted) > 1:
        _check_folder(options)
    return [dict(_read_file(option, one) for option in options) for one in wanted]


def _check_folder(options: Sequence[str]) -> None:
    for option in options:
        path = option.partition("=")[2] or option
        if not path.endswith("/") and not Path(path).is_dir():
            raise click.UsageError(f"--file {option}: for several tasks give a folder, as --file {path}/")


def _read_file(option: str, wanted: Wanted) -> tuple[str, str]:
    name, mark, path = option.partition("=")
    if mark and name in wanted.outputs:
        return name, path
    if len(wanted.outputs) == 1:
        return wanted.outputs[0], option
    listed = ", ".join(wanted.outputs)
    raise click.UsageError(f"--file {option}: {wanted.name} has several output files, write NAME=PATH ({listed})")


# --- The run ----------------------------------------------------------------------------------------------------------


def _run_to_end(client: Dragon, wanted: Sequence[Wanted], display: Display, cancels: bool) -> list[Status]:
    """Creates the tasks and shows them until all have ended: their final statuses, in order."""
    present = {status.key: status for status in client.create([(one.name, one.parameters) for one in wanted])}
    labels = [label_of(one.name, one.parameters) for one in wanted]
    display.begin(dict(zip(present, labels, strict=True)))
    interrupted = False
    try:
        for status in present.values():
            display.show(status)
        for status in client.follow([key for key, status in present.items() if not status.final]):
            present[status.key] = status
            display.show(status)
    except KeyboardInterrupt:
        interrupted = True
    finally:
        display.end()
    if interrupted:
        _interrupted(client, [key for key, status in present.items() if not status.final], cancels)
        sys.exit(EXIT_INTERRUPTED)
    return list(present.values())


def _interrupted(client: Dragon, keys: list[str], cancels: bool) -> None:
    """The tasks go on unless they are to be cancelled, which somebody at a terminal is asked."""
    if not keys:
        return
    are = f"{counted(len(keys), 'task')} {'has' if len(keys) == 1 else 'have'}"
    try:
        if cancels or (sys.stdin.isatty() and click.confirm(f"\n{are} not ended. Cancel?", err=True)):
            for key in keys:
                client.cancel(key)
            say(f"cancelled: {shortened(' '.join(keys), 600)}")
            return
    except (KeyboardInterrupt, click.Abort):
        click.echo(err=True)
    say(f"{are} not ended, and {'goes' if len(keys) == 1 else 'go'} on: dragon follow {shortened(' '.join(keys), 600)}")


# --- What has ended ---------------------------------------------------------------------------------------------------


def _deliver(client: Dragon, ended: Sequence[Ended], saving: list[dict[str, str]], *, only_urls: bool) -> None:
    """Output files, or their URLs, of the tasks that succeeded."""
    for one in ended:
        if one.status.status != "success":
            continue
        if only_urls:
            for name in one.wanted.outputs:
                click.echo(one.status.result[name])
        for name, path in saving[one.number - 1].items():
            _save(client, one, name, path, len(saving))


def _say_errors(ended: Sequence[Ended]) -> None:
    for one in ended:
        if one.status.status == "error":
            say(f"{label_of(one.wanted.name, one.wanted.parameters)}: {detail_of(one.status)}")


def _show_results(ended: Sequence[Ended]) -> None:
    """One result in full, several a line each."""
    if len(ended) == 1:
        status = ended[0].status
        click.echo(detail_of(status) if status.status == "error" else _whole(status.result))
        return
    for one in ended:
        label = label_of(one.wanted.name, one.wanted.parameters)
        click.echo(f"{label}: {shortened(detail_of(one.status), 1000)}")


def _whole(result: Any) -> str:
    if isinstance(result, str):
        return printable_lines(result)
    import json

    return "\n".join(as_text(line) for line in json.dumps(result, ensure_ascii=False, indent=2).splitlines())


def _save(client: Dragon, ended: Ended, name: str, path: str, count: int) -> None:
    if path == "-":
        sys.stdout.buffer.write(client.file(ended.status, name))
        sys.stdout.buffer.flush()
        return
    target = Path(path)
    if count > 1 or path.endswith("/") or target.is_dir():
        filename = unquote(urlsplit(str(ended.status.result[name])).path).rpartition("/")[2]
        target = target / (f"{ended.number:0{len(str(count))}}-{filename}" if count > 1 else filename)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        client.file(ended.status, name, path=target)
    except OSError as error:
        raise click.ClickException(f"{target} cannot be written: {error.strerror}") from None
    say(f"saved {target} ({target.stat().st_size:,} bytes)")
