"""Tasks that end at a random instant around the opening of their stream: nobody hangs, each end is told once."""

from __future__ import annotations

import asyncio
import random
from collections import Counter

import pytest

from tests.auditing import assert_sound
from tests.figures import note, scale, seeded
from tests.following import FINAL, Stream, follow
from tests.system import Client, System

PATIENCE = 8.0  # seconds after which an opening hangs: less than until the feed looks at what it may have missed
OPENINGS = ("create_stream", "status_stream", "create", "status")


class Openings:
    """Opens a task's stream or wait around its end, and counts on which side of it that was."""

    def __init__(self, client: Client, chance: random.Random) -> None:
        self._client = client
        self._chance = chance
        self._places = asyncio.Semaphore(40)
        self.sides: Counter[tuple[str, str]] = Counter()

    async def open_one(self) -> None:
        async with self._places, asyncio.timeout(PATIENCE):
            how = self._chance.choice(OPENINGS)
            seconds = self._chance.choice([0, 0.001, 0.005, 0.02])
            name = "hello" if seconds == 0 else self._chance.choice(["test.sleep", "test.async_sleep"])
            definition = {"task_name": name} | ({"seconds": seconds} if seconds else {})
            if how == "create":
                self._count(how, [], await self._client.create(definition, block=True))
            elif how == "create_stream":
                self._count_stream(how, await follow(self._client, "/v1/create_stream", [definition]))
            else:
                key = (await self._client.create(definition))[0]["key"]
                await asyncio.sleep(self._chance.uniform(0, 2 * seconds + 0.04))
                if how == "status":
                    before = await self._client.status(key)
                    self._count(how, before, await self._client.status(key, block=True))
                else:
                    self._count_stream(how, await follow(self._client, "/v1/status_stream", [key]))

    def _count_stream(self, how: str, stream: Stream) -> None:
        self._count(how, stream.first, list(stream.assert_ended().values()))

    def _count(self, how: str, first: list[dict[str, object]], final: list[dict[str, object]]) -> None:
        assert [status["status"] for status in final] == ["success"], final
        has_ended = bool(first) and first[0]["status"] in FINAL
        self.sides[how, "ended" if has_ended else "open"] += 1


@pytest.mark.timeout(600)
async def test_a_task_that_ends_while_its_stream_is_opened_is_told_to_have_ended_once(
    system: System, client: Client
) -> None:
    chance = seeded()
    count = scale(10_000, 1_000)
    openings = Openings(client, chance)
    await asyncio.gather(*(openings.open_one() for _ in range(count)))
    ended, opened = openings.sides["status_stream", "ended"], openings.sides["status_stream", "open"]
    assert min(ended, opened) > count / 50, f"all on one side of the end: {openings.sides}"
    await assert_sound(system.config)
    note("10", f"{count} tasks ({ended} streams opened after the end, {opened} before)", "0 hangs", chance)
