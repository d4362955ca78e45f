"""The operator's verbs of both clients against a real server."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from typing import Any

import pytest

from dragon.client import NotFound, Refused
from tests.client.both import Both
from tests.system import eventually

Make = Callable[..., Both]


async def failed(both: Both, message: str, count: int) -> list[str]:
    created = await both.call("create", [("test.task_error", {"message": message})] * count)
    await both.call("status", created, block=True)
    return [status.key for status in created]


async def test_who_am_i_and_what_is_there(make: Make) -> None:
    async with make() as both:
        account = await both.call("operator.account")
        assert (account["id"], account["operator"]) == ("demo", True)
        overview = await both.call("operator.overview")
        assert {"queues", "workers", "rates", "counts"} <= overview.keys()
    async with make(secret=None) as both:
        with pytest.raises(Refused):
            await both.call("operator.overview")


async def test_overviews_come_while_something_changes(make: Make) -> None:
    async with make() as both:
        watching = asyncio.create_task(both.all("operator.overviews", most=3))
        for _ in range(100):
            await both.call("run", "hello")
            await asyncio.sleep(0.05)
            if watching.done():
                break
        assert len({overview["time"] for overview in await watching}) == 3


async def test_tasks_are_found_page_after_page_and_one_is_shown_whole(make: Make) -> None:
    async with make() as both:
        text = secrets.token_hex(8)
        keys = await failed(both, text, 5)
        await eventually(lambda: _finds(both, text, 5))
        page = await both.call("operator.tasks", text=text, state="error", limit=2)
        assert (len(page["tasks"]), page["next"] is None) == (2, False)
        rows = await both.all("operator.rows", text=text, limit=2)
        assert sorted(row["key"] for row in rows) == sorted(keys)
        assert {row["message"] for row in rows} == {text}
        task = await both.call("operator.task", keys[0])
        assert (task["task_name"], task["status"]["status"]) == ("test.task_error", "error")
        with pytest.raises(NotFound):
            await both.call("operator.task", "A" * 26)


async def _finds(both: Both, text: str, count: int) -> bool:
    return len((await both.call("operator.tasks", text=text))["tasks"]) == count


async def test_changes_of_tasks_are_told(make: Make) -> None:
    async with make() as both:
        text = secrets.token_hex(8)
        watching = asyncio.create_task(both.all("operator.changes", text=text, state="error", most=2))
        keys = await failed(both, text, 2)
        rows = await watching
        assert sorted(row["key"] for row in rows) == sorted(keys)


async def test_failed_tasks_are_retried_once(make: Make) -> None:
    async with make() as both:
        keys = await failed(both, secrets.token_hex(8), 2)
        first = await both.call("operator.retry", keys[0])
        assert [(item["key"], item["message"]) for item in first] == [(keys[0], None)]
        assert await both.call("operator.retry", [keys[0]]) == first
        # Of both clients another: letters that are not taken for a number, of which a group has none.
        message = "group " + "".join(secrets.choice("ghijklmnopqrstuvwxyz") for _ in range(12))
        keys = await failed(both, message, 3)
        group = await eventually(lambda: _group(both, message, 3))
        again = await both.call("operator.retry", group=group["group"], limit=2)
        assert len(again) == 2
        assert {item["key"] for item in again} < set(keys)


async def _group(both: Both, message: str, count: int) -> Any:
    groups = (await both.call("operator.failures", name="test.task_error"))["groups"]
    return next((group for group in groups if group["message"] == message and group["count"] >= count), None)


async def test_waiting_tasks_are_cancelled_and_a_queue_is_paused_resumed_and_cleared(make: Make) -> None:
    async with make() as both:
        paused = await both.call("operator.pause", "low")
        try:
            assert (paused["queue"], paused["paused"]) == ("low", True)
            one, *others = await both.call("create", ["test.low"] * 3)
            (cancelled,) = await both.call("operator.cancel", one)
            assert (cancelled.key, cancelled.result) == (one.key, "cancelled")
            cleared = await both.call("operator.clear", "low")
            assert (cleared["paused"], cleared["cleared"]) == (True, 2)
            ends = await both.call("status", others)
            assert [status.result for status in ends] == ["cancelled"] * 2
        finally:
            resumed = await both.call("operator.resume", "low")
        assert resumed["paused"] is False
        assert await both.call("run", "test.low") == "low"
