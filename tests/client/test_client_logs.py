"""The log of a task, read by both clients from a real server, and through cuts."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from dragon.client import LogLine, NotFound
from tests.client.both import QUICK, Both
from tests.proxies import EARLY, CuttingProxy, around
from tests.system import System

Make = Callable[..., Both]


async def test_the_lines_of_a_task(make: Make) -> None:
    async with make() as both:
        created = (await both.call("create", ("test.say", {"texts": ["one", "zwö"]})))[0]
        await both.call("status", created, block=True)
        first, second = await both.all("log", created)
        assert (first.number, first.attempt, first.text) == (1, 1, "one")
        assert second == LogLine(2, second.time, 1, "zwö")
        assert await both.all("log", created.key, after=1) == [second]
        assert await both.all("log", created, follow=True) == [first, second]
        with pytest.raises(NotFound, match="unknown task key"):
            await both.all("log", "A" * 26)


async def test_a_log_is_followed_until_the_task_ends(make: Make, tmp_path: Path) -> None:
    async with make() as both:
        gate = tmp_path / "gate"
        task = {"task_name": "test.say", "texts": ["one"], "gate": str(gate), "more": ["two", "three"]}
        created = (await both.call("create", task))[0]
        assert [line.text for line in await both.all("log", created, follow=True, most=1)] == ["one"]
        following = asyncio.create_task(both.all("log", created, follow=True))
        gate.touch()
        assert [line.text for line in await following] == ["one", "two", "three"]


async def test_no_line_is_lost_or_comes_twice_when_streams_are_cut(
    system: System, client_of: Make, chance: random.Random
) -> None:
    texts = [f"line {number}" for number in range(200)]
    proxy = CuttingProxy(system.url, chance, around(6000), most=30)
    async with client_of(system.url) as direct, proxy.serving(), client_of(proxy.url, timing=QUICK) as both:
        created = (await direct.call("create", ("test.say", {"texts": texts})))[0]
        lines = await both.all("log", created, follow=True)
    assert [(line.number, line.text) for line in lines] == list(enumerate(texts, 1))
    assert proxy.cuts >= len(EARLY)
