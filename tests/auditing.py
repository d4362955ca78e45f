"""`assert_sound`: what `dragon audit` checks, as the last line of a test that has broken something."""

from __future__ import annotations

import time

from dragon.config import Config
from dragon.connections import Redis
from dragon.embedded import redis_url
from dragon.store.audit import Report, audit

PAUSE = 1.2  # seconds between two looks: more than a worker's heartbeat


async def assert_sound(config: Config, *, timeout: float = 30, at_rest: bool = True) -> None:
    """Waits until everything is at rest and all invariants hold; fails with the findings when they do not in time.

    `at_rest`: nothing may wait or be worked on either.
    """
    redis = Redis(redis_url(config), config.redis.timeout)
    ends = time.monotonic() + timeout
    try:
        while not _is_sound(report := await audit(config, redis, pause=PAUSE), at_rest):
            assert time.monotonic() < ends, f"not sound within {timeout:g} s: {describe(report)}"
    finally:
        await redis.close()


def _is_sound(report: Report, at_rest: bool) -> bool:
    is_idle = not (report.waiting or report.reserved or report.unsettled)
    return report.is_sound and (is_idle or not at_rest)


def describe(report: Report) -> str:
    """The findings, a line each, below what there is."""
    lines = [f"{report.waiting} waiting, {report.reserved} reserved, {report.ended} ended, moving {report.unsettled}"]
    lines += [f"{finding.kind} {finding.name}: {finding.sentence}" for finding in report.findings]
    return "\n".join(lines)
