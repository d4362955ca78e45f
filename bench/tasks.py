"""Dragon's own tasks of the bench, beside those of tasks/."""

from __future__ import annotations

import asyncio

from dragon.task import AsyncContext, Context, task


@task("bench.noop")
def noop(ctx: Context) -> None:
    """Do nothing."""


@task("bench.sleep")
async def sleep(ctx: AsyncContext) -> None:
    """Sleep 10 ms."""
    await asyncio.sleep(0.01)


@task("bench.hello", queue="bench")
def hello(ctx: Context, name: str) -> str:
    """Greet, where only the bench itself takes tasks."""
    return f"Hello {name}"
