"""Tasks that take every step of a task's life; what the tests of the fail-points run."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import time

from dragon.task import AsyncContext, Context, OutputFile, task

ATTEMPTS = 4  # a case takes two at most; a machine that is busy with other things may take one more


@dataclasses.dataclass
class Written:
    """Two output files, so that there is a moment between them, and the attempt."""

    first: OutputFile
    second: OutputFile
    attempt: int


@task("step.def", timeout=30, max_attempts=ATTEMPTS)
def def_(ctx: Context, seconds: float = 0.1, crashes: int = 0) -> int:
    """Report 1 and 2 with a pause between them, after ending the process on the first attempts."""
    if ctx.attempt <= crashes:
        os._exit(9)
    ctx.progress(1)
    time.sleep(seconds)
    ctx.progress(2)
    return ctx.attempt


@task("step.once", timeout=30, max_attempts=1)
def once(ctx: Context, seconds: float = 0.1, crashes: int = 0) -> int:
    """As step.def, but a second attempt is not allowed."""
    ctx.progress(1)
    time.sleep(seconds)
    return ctx.attempt


@task("step.async", timeout=30, max_attempts=ATTEMPTS)
async def async_(ctx: AsyncContext, seconds: float = 0.1, crashes: int = 0) -> int:
    """The same as an `async def` task."""
    if ctx.attempt <= crashes:
        os._exit(9)
    ctx.progress(1)
    await asyncio.sleep(seconds)
    ctx.progress(2)
    return ctx.attempt


@task("step.file", timeout=30, max_attempts=ATTEMPTS)
def file(ctx: Context, seconds: float = 0.1, crashes: int = 0, size: int = 1000) -> Written:
    """The same with two output files of `size` bytes."""
    if ctx.attempt <= crashes:
        os._exit(9)
    ctx.progress(1)
    first, second = ctx.output_file("first", ".txt"), ctx.output_file("second", ".txt")
    first.path.write_text("1" * size)
    time.sleep(seconds)
    second.path.write_text("2" * size)
    ctx.progress(2)
    return Written(first, second, ctx.attempt)
