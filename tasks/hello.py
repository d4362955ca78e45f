"""The two smallest tasks: a greeting, and a countdown that shows progress and partial results."""

from __future__ import annotations

import asyncio
from typing import Annotated

from dragon.task import AsyncContext, Context, Field, task


@task("hello", timeout=10)
def hello(ctx: Context, name: str = "World") -> str:
    """Greet somebody."""
    return f"Hello {name}"


@task("countdown", timeout=3 * 3600)
async def countdown(
    ctx: AsyncContext,
    from_: Annotated[int, Field(ge=1, le=1000)] = 5,
    delay: Annotated[float, Field(ge=0, le=10)] = 0.2,
) -> list[int]:
    """Count down to 1, one number every `delay` seconds; each number is a partial result, and a line of the log."""
    numbers = []
    for number in range(from_, 0, -1):
        numbers.append(number)
        ctx.progress(round(100 * len(numbers) / from_))
        ctx.partial(number)
        ctx.log(f"{number} …")
        await asyncio.sleep(delay)
    return numbers
