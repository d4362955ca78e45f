"""Tasks that end at a random instant around the opening of their stream: nobody hangs, each end is told once."""

from __future__ import annotations

import asyncio
import random
import secrets
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import orjson
import pytest

from tests.auditing import assert_sound
from tests.figures import note, scale, seeded
from tests.following import FINAL, Stream, follow
from tests.system import SECRET, Client, System

T = TypeVar("T")

PATIENCE = 1.0  # seconds after which an opening may hang: less than until the feed looks at what it may have missed
LOOKS = 20  # at a task whose opening may hang; when it has ended at each of them, and nothing is told yet, it does
OPENINGS = ("create_stream", "status_stream", "create", "status")


class Openings:
    """Opens a task's stream or wait around its end, and counts on which side of it that was."""

    def __init__(self, client: Client, chance: random.Random) -> None:
        self._client = client
        self._chance = chance
        self._places = asyncio.Semaphore(40)
        self._pauses: dict[float, float] = {}  # by a task's own seconds: between its creation and its opening
        self.sides: Counter[tuple[str, str]] = Counter()

    async def open_one(self) -> None:
        async with self._places, asyncio.timeout(120):
            how = self._chance.choice(OPENINGS)
            seconds = self._chance.choice([0, 0.001, 0.005, 0.02])
            name = "hello" if seconds == 0 else self._chance.choice(["test.sleep", "test.async_sleep"])
            definition = {"task_name": name} | ({"seconds": seconds} if seconds else {})
            if how == "create":
                self._count(how, [], await self._create_and_wait(definition))
            elif how == "create_stream":
                stream = Stream()
                await told(follow(self._client, "/v1/create_stream", [definition], stream), self._look(stream))
                self._count_stream(how, stream)
            else:
                key = (await self._client.create(definition))[0]["key"]
                # Around the end, however fast this machine is now: longer after an opening that was before it, shorter
                # after one that was behind it, so that about half of them are on each side.
                pause = self._pauses.setdefault(seconds, seconds + 0.02)
                await asyncio.sleep(self._chance.uniform(0, 2 * pause))
                stream = Stream(first=await self._client.status(key) if how == "status" else [])
                if how == "status":
                    final = await told(self._client.status(key, block=True), self._look(stream))
                    self._count(how, stream.first, final)
                else:
                    await told(follow(self._client, "/v1/status_stream", [key], stream), self._look(stream))
                    self._count_stream(how, stream)
                was_behind = stream.first[0]["status"] in FINAL
                self._pauses[seconds] = min(1.0, max(0.001, self._pauses[seconds] * (1 / 1.1 if was_behind else 1.1)))

    async def _create_and_wait(self, definition: dict[str, object]) -> list[dict[str, object]]:
        """A create that waits for the end. Its key is known with its answer, and before only by its Idempotency-Key."""
        headers = SECRET | {"Idempotency-Key": secrets.token_hex(8)}

        async def create(**members: object) -> list[dict[str, object]]:
            data = orjson.dumps({"tasks": [definition], **members})
            async with self._client.session.post("/v1/create", data=data, headers=headers) as response:
                assert response.status == 200, await response.text()
                statuses: list[dict[str, object]] = await response.json()
                return statuses

        return await told(create(block=True), lambda: create(block=True, timeout=0))

    def _look(self, stream: Stream) -> Callable[[], Awaitable[list[dict[str, object]]]]:
        async def look() -> list[dict[str, object]]:
            return await self._client.status(*stream.keys) if stream.keys else []

        return look

    def _count_stream(self, how: str, stream: Stream) -> None:
        self._count(how, stream.first, list(stream.assert_ended().values()))

    def _count(self, how: str, first: list[dict[str, object]], final: list[dict[str, object]]) -> None:
        assert [status["status"] for status in final] == ["success"], final
        has_ended = bool(first) and first[0]["status"] in FINAL
        self.sides[how, "ended" if has_ended else "open"] += 1


async def told(waiting: Coroutine[Any, Any, T], look: Callable[[], Awaitable[list[dict[str, Any]]]]) -> T:
    """What is waited for. Fails when it does not come although each of many looks finds that its task has ended.

    A process may stall for as long as an opening that hangs; but then it answers no looks either.
    """
    task = asyncio.ensure_future(waiting)
    try:
        while not (await asyncio.wait([task], timeout=PATIENCE))[0]:
            looks = [await look() for _ in range(LOOKS)]
            has_ended = all(statuses and statuses[0]["status"] in FINAL for statuses in looks)
            assert task.done() or not has_ended, f"it hangs: its task has ended long since, {looks[-1]}"
        return await task
    finally:
        task.cancel()


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
