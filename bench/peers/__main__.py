"""A peer's client, in a process of its own: `... MODULE enqueue TASK COUNT` or `... MODULE latency COUNT PAUSE`."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import inspect
import json
import sys
import time
from types import ModuleType
from typing import Any

import uvloop

WARM_UP = 20  # the worker starts, connections are opened, scripts loaded


async def settled(answer: Any) -> Any:
    return await answer if inspect.isawaitable(answer) else answer


async def latency(module: ModuleType, count: int, pause: float) -> list[float]:
    """Seconds from enqueueing to having the result, each after a pause in which the system is idle."""
    seconds = []
    for number in range(WARM_UP + count):
        await asyncio.sleep(pause)
        begun = time.perf_counter()
        await settled(module.ask())
        if number >= WARM_UP:
            seconds.append(time.perf_counter() - begun)
    return seconds


async def main(name: str, action: str, *arguments: str) -> None:
    module = importlib.import_module(f"bench.peers.{name}")
    async with getattr(module, "session", contextlib.nullcontext)():
        if action == "enqueue":
            await settled(module.enqueue(arguments[0], int(arguments[1])))
        else:
            print(json.dumps(await latency(module, int(arguments[0]), float(arguments[1]))))


if __name__ == "__main__":
    uvloop.run(main(*sys.argv[1:]))
