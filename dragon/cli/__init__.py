"""The command `dragon`: a table of subcommands, each loaded when it is called, so that `--help` is fast."""

from __future__ import annotations

import importlib
import sys
from typing import NoReturn

import click

from dragon import __version__
from dragon.errors import ConfigError, DragonError

#: A subcommand's name, where it is, and its line in `dragon --help`.
COMMANDS: dict[str, tuple[str, str]] = {
    "up": ("dragon.cli.processes:up", "Run all of dragon on this machine: Redis, server, worker."),
    "server": ("dragon.cli.processes:server", "Run the HTTP server."),
    "worker": ("dragon.cli.processes:worker", "Run a worker."),
    "run": ("dragon.cli.run:run", "Run tasks and show them to their end."),
    "status": ("dragon.cli.following:status", "Print the statuses of tasks."),
    "follow": ("dragon.cli.following:follow", "Show tasks to their end, with their log lines."),
    "log": ("dragon.cli.following:log", "Print the log lines of a task."),
    "cancel": ("dragon.cli.following:cancel", "Cancel tasks."),
    "tasks": ("dragon.cli.catalogue:tasks", "List the tasks that can be run, or describe one."),
    "queue": ("dragon.cli.queues:queue", "Print what waits in each queue; pause, resume, clear one."),
    "failed": ("dragon.cli.failures:failed", "List what failed; show it, run it again."),
    "account": ("dragon.cli.account:account", "Make, list and revoke accounts."),
    "sign": ("dragon.cli.account:sign", "Sign a URL, so that it works without a key."),
    "audit": ("dragon.cli.audit:audit", "Check that nothing is lost, stuck, left over or miscounted."),
    "config": ("dragon.cli.config:config", "Show the settings."),
    "doctor": ("dragon.cli.doctor:doctor", "Look what is wrong here, or on the way to a server."),
    "completion": ("dragon.cli.completion:completion", "Print the completion for a shell."),
}


class _LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """As click's, but from the table: nothing is imported."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="dragon")
def dragon() -> None:
    """A streaming task-queue server."""


def run(command: click.Command, name: str) -> NoReturn:
    """Runs a command as a program: an error that is meant for the reader is one sentence, exit code 78 or 1."""
    try:
        command.main(prog_name=name)
    except DragonError as error:
        click.echo(f"dragon: {error.message}", err=True)
        sys.exit(78 if isinstance(error, ConfigError) else 1)
    sys.exit(0)


def main() -> NoReturn:
    run(dragon, "dragon")
