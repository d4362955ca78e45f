"""`dragon audit`: checks dragon's invariants on a live system, and says what to do where one does not hold."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, NoReturn

import click

from dragon.errors import Unavailable

if TYPE_CHECKING:  # imported where it is used: `--help` needs none of it
    from dragon.config import Config
    from dragon.store.audit import Report

#: Exit codes: what was found, and that nothing could be looked at, which is neither sound nor unsound.
EXIT_FINDINGS, EXIT_UNAVAILABLE = 1, 2
#: Findings of one kind that are printed; what breaks thousands of tasks is the same with each of them.
MOST_PRINTED = 50
#: Seconds that Redis may take to answer: somebody who audits would rather wait than be told to try again.
PATIENCE = 30.0


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one object: every finding, and the counts.")
@click.option("--wait", type=click.FloatRange(0), default=0.0, help="Seconds to look again until all is sound.")
def audit(as_json: bool, wait: float) -> None:
    """Check that nothing is lost, stuck, left over or miscounted. Only reads; exit code 1 when something is wrong.

    The system may be at work meanwhile: what is found was so in two looks, with nothing happening to it in between.
    """
    import asyncio

    from redis.exceptions import ResponseError

    from dragon.config import load_config
    from dragon.redis_check import mask_url

    config = load_config()
    try:
        report = asyncio.run(_audit(config, wait))
    except Unavailable as error:
        place = mask_url(config.redis.url) if config.redis.url else "the embedded Redis: does dragon run?"
        _give_up(f"{error.message} ({place})")
    except ResponseError as error:
        _give_up(f"Redis refuses to be read: {error}")
    for line in [as_object(report)] if as_json else as_lines(report):
        click.echo(line)
    if not report.is_sound:
        sys.exit(EXIT_FINDINGS)


def _give_up(reason: str) -> NoReturn:
    click.echo(f"dragon: {reason}", err=True)
    sys.exit(EXIT_UNAVAILABLE)


async def _audit(config: Config, wait: float) -> Report:
    import asyncio

    from dragon.connections import Redis
    from dragon.embedded import redis_url
    from dragon.store import audit as store

    redis = Redis(redis_url(config), max(config.redis.timeout, PATIENCE))
    ends = time.monotonic() + wait
    try:
        while True:
            report = await store.audit(config, redis, pause=store.PAUSE)
            if report.is_sound or time.monotonic() >= ends:
                return report
            await asyncio.sleep(store.PAUSE)
    finally:
        await redis.close()


def as_lines(report: Report) -> Iterator[str]:
    """The findings, a line each, and a summary."""
    counts = Counter(finding.kind for finding in report.findings)
    printed: Counter[str] = Counter()
    for finding in report.findings:
        printed[finding.kind] += 1
        if printed[finding.kind] <= MOST_PRINTED:
            yield f"{finding.kind:<11} {finding.name}: {finding.sentence}"
        elif printed[finding.kind] == counts[finding.kind]:
            yield f"{finding.kind:<11} and {counts[finding.kind] - MOST_PRINTED:,} more; --json prints all"
    found = ", ".join(f"{kind} {count:,}" for kind, count in sorted(counts.items()))
    yield f"{len(report.findings):,} findings ({found})" if counts else "sound: no findings"
    total = report.waiting + report.reserved + report.ended
    yield (
        f"looked at {total:,} tasks ({report.waiting:,} waiting, {report.reserved:,} with workers, {report.ended:,} "
        f"ended), {report.workers:,} workers, {report.accounts:,} accounts, {_files(report)} in {report.seconds:.1f} s"
    )
    if report.unsettled:
        names = ", ".join(report.unsettled)
        yield f"not compared, for their tasks are moving: the counters of the accounts {names}; look again at rest"


def _files(report: Report) -> str:
    return "no output files (they are not on this machine)" if report.files < 0 else f"{report.files:,} output folders"


def as_object(report: Report) -> str:
    """The same as JSON."""
    import orjson

    return orjson.dumps(
        {
            "sound": report.is_sound,
            "findings": report.findings,
            "tasks": {"waiting": report.waiting, "reserved": report.reserved, "ended": report.ended},
            "workers": report.workers,
            "accounts": report.accounts,
            "unsettled": report.unsettled,
            "files": None if report.files < 0 else report.files,
            "seconds": round(report.seconds, 3),
        }
    ).decode()
