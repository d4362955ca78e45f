"""`dragon doctor`: what is wrong with this machine's dragon, or with the way to one, and what to do about it."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import click

from dragon.cli.access import DEMO_API_KEY, find_access, is_here
from dragon.errors import ConfigError

if TYPE_CHECKING:  # imported where it is used: `--help` needs none of it
    from dragon.cli.doctor.finding import Finding

_COLOURS = {"ok": "green", "warning": "yellow", "problem": "red", "skipped": "cyan"}


@click.command()
@click.argument("url", required=False)
@click.option("--idle", type=click.FloatRange(0, 9000), default=0.0, help="With URL: keep a quiet stream for SECONDS.")
@click.option("--secret-file", metavar="FILE", help="With URL: a file that holds the secret key.  [DRAGON_SECRET]")
@click.option("--json", "as_json", is_flag=True, help="Print one object: every finding, and the lines for proxies.")
def doctor(url: str | None, idle: float, secret_file: str | None, as_json: bool) -> None:
    """Look what is wrong, and say what to do. Exit code 1 when there is a problem.

    Without URL: this machine's settings, Redis, clocks, workers, queues, folders, accounts and limits.

    With URL: what the proxies on the way to that server do to streams, headers, methods and bodies, and the lines
    against it for nginx and Caddy. Streams and files need a secret key; they run a countdown and make a thumbnail.
    """
    findings: list[Finding] = []
    for finding in _this_machine() if url is None else _the_way(url, secret_file, idle):
        findings.append(finding)
        if not as_json:
            _print(finding)
    lines = _lines(findings)
    if as_json:
        click.echo(_as_object(findings, lines))
    else:
        _close(findings, lines)
    sys.exit(int(any(finding.level == "problem" for finding in findings)))


def _this_machine() -> Iterator[Finding]:
    from dragon.cli.doctor.finding import Finding
    from dragon.config import load_config

    try:
        config = load_config()
    except ConfigError as error:
        yield Finding("problem", "settings", error.message)
        return
    from dragon.cli.doctor import machine

    yield Finding("ok", "settings", "understood; `dragon config show` prints them")
    yield from machine.examine(config)


def _the_way(url: str, secret_file: str | None, idle: float) -> Iterator[Finding]:
    from dragon.cli.doctor import way
    from dragon.cli.doctor.exchange import Exchange

    try:
        exchange = Exchange(url)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    access = find_access(exchange.url, secret_file)
    api_key = os.environ.get("DRAGON_API_KEY") or (DEMO_API_KEY if is_here(exchange.url) else None)
    return way.examine(exchange, access.secret, api_key, idle)


def _lines(findings: Iterable[Finding]) -> list[str]:
    from dragon.cli.doctor.advice import lines_against

    return list(lines_against(finding.fault for finding in findings if finding.level in ("problem", "warning")))


def _print(finding: Finding) -> None:
    level = click.style(f"{finding.level:<8}", fg=_COLOURS[finding.level])
    click.echo(f"{level} {finding.about}: {finding.sentence}")


def _close(findings: list[Finding], lines: list[str]) -> None:
    if lines:
        click.echo("\n" + "\n".join(lines) + "\n")
    counts = {level: sum(finding.level == level for finding in findings) for level in ("problem", "warning")}
    told = ", ".join(f"{count} {level}{'s' * (count != 1)}" for level, count in counts.items() if count)
    click.echo(told or "all is well")


def _as_object(findings: list[Finding], lines: list[str]) -> str:
    told = [{"level": one.level, "about": one.about, "sentence": one.sentence} for one in findings]
    return json.dumps({"well": all(one.level != "problem" for one in findings), "findings": told, "lines": lines})
