"""Tasks that take every step of a task's life; what the tests of the fail-points run."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import time
from pathlib import Path

from dragon.task import AsyncContext, Context, OutputFile, task

ATTEMPTS = 10  # a case takes two at most; each time that a busy machine stalls a worker may take one more


@dataclasses.dataclass
class Written:
    """Two output files, so that there is a moment between them, and the attempt."""

    first: OutputFile
    second: OutputFile
    attempt: int


# `gate`: until that file is there the task goes on to report: 1, and then a little more each time, since a line that is
# the same is not written again. So what a test waits for happens while the task runs, on a machine of any speed.
LITTLE = 1e-6


def _hold(ctx: Context, gate: str) -> None:
    ctx.progress(progress := 1.0 if gate else 1)
    while gate and not Path(gate).exists():
        time.sleep(0.05)
        ctx.progress(progress := progress + LITTLE)


@task("step.def", timeout=120, max_attempts=ATTEMPTS)
def def_(ctx: Context, seconds: float = 0.1, crashes: int = 0, gate: str = "") -> int:
    """Report 1 and 2 with a pause between them, after ending the process on the first attempts."""
    if ctx.attempt <= crashes:
        os._exit(9)
    _hold(ctx, gate)
    time.sleep(seconds)
    ctx.progress(2)
    return ctx.attempt


@task("step.once", timeout=120, max_attempts=1)
def once(ctx: Context, seconds: float = 0.1, crashes: int = 0, gate: str = "") -> int:
    """As step.def, but a second attempt is not allowed."""
    _hold(ctx, gate)
    time.sleep(seconds)
    return ctx.attempt


@task("step.async", timeout=120, max_attempts=ATTEMPTS)
async def async_(ctx: AsyncContext, seconds: float = 0.1, crashes: int = 0, gate: str = "") -> int:
    """The same as an `async def` task."""
    if ctx.attempt <= crashes:
        os._exit(9)
    ctx.progress(progress := 1.0 if gate else 1)
    while gate and not Path(gate).exists():
        await asyncio.sleep(0.05)
        ctx.progress(progress := progress + LITTLE)
    await asyncio.sleep(seconds)
    ctx.progress(2)
    return ctx.attempt


@task("step.file", timeout=120, max_attempts=ATTEMPTS)
def file(ctx: Context, seconds: float = 0.1, crashes: int = 0, size: int = 1000, gate: str = "") -> Written:
    """The same with two output files of `size` bytes."""
    if ctx.attempt <= crashes:
        os._exit(9)
    _hold(ctx, gate)
    first, second = ctx.output_file("first", ".txt"), ctx.output_file("second", ".txt")
    first.path.write_text("1" * size)
    time.sleep(seconds)
    second.path.write_text("2" * size)
    ctx.progress(2)
    return Written(first, second, ctx.attempt)
