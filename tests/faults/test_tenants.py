"""Fault 14: a tenant that sends far more than its limit neither gets more nor makes others wait."""

from __future__ import annotations

import asyncio
import statistics
from collections import Counter
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest

from dragon.auth import hash_key
from tests.auditing import assert_sound
from tests.figures import FULL, note, scale
from tests.system import System

OwnSystem = Callable[..., System]
QUEUED = 100  # the greedy account's limit of tasks that wait
SECONDS = 0.02  # that one of its tasks runs
ACCOUNTS = {"greedy": f"limits.tasks_queued = {QUEUED}", "counted": "limits.tasks_per_minute = 120", "modest": ""}


@pytest.fixture
def tenants(own_system: OwnSystem, tmp_path: Path) -> System:
    accounts = tmp_path / "accounts.toml"
    accounts.write_text(
        "".join(f"[{name}]\nsecrets = [{hash_key(name)!r}]\n{more}\n" for name, more in ACCOUNTS.items())
    )
    system = own_system(accounts=accounts)
    system.start_server()
    return system


async def create(session: aiohttp.ClientSession, account: str, **more: Any) -> tuple[int, list[dict[str, Any]]]:
    body = orjson.dumps({"tasks": {"task_name": "test.sleep", "seconds": SECONDS}, "secret": account} | more)
    async with session.post("/v1/create", data=body) as response:
        answer = orjson.loads(await response.read())
        return response.status, answer if response.status == 200 else []


async def send(session: aiohttp.ClientSession, account: str, until: float, pause: float) -> Counter[int]:
    """One sender: the answers by status."""
    loop, answers = asyncio.get_running_loop(), Counter[int]()
    while loop.time() < until:
        answers[(await create(session, account))[0]] += 1
        await asyncio.sleep(pause)
    return answers


async def start_delays(session: aiohttp.ClientSession, until: float) -> list[float]:
    """The seconds from creation to start of the modest account's tasks, one every 0.1 s."""
    loop, delays = asyncio.get_running_loop(), []
    while loop.time() < until:
        _, (status,) = await create(session, "modest", block=True)
        queued, started = (datetime.fromisoformat(status["events"][event]) for event in ("queued", "started"))
        delays.append((started - queued).total_seconds())
        await asyncio.sleep(0.1)
    return delays


async def test_a_tenant_that_sends_ten_times_its_limit_makes_nobody_wait(tenants: System) -> None:
    tenants.start_worker("--executors", "2")
    async with tenants.client() as client:
        loop = asyncio.get_running_loop()
        found = []
        # 2 executors do 100 of its tasks a second: ten senders try to queue as many, a hundred try ten times that.
        for senders, seconds in ((10, scale(15, 3)), (100, scale(30, 3))):
            until = loop.time() + seconds
            sending = [send(client.session, "greedy", until, 0.1) for _ in range(senders)]
            delays, *answers = await asyncio.gather(start_delays(client.session, until), *sending)
            found.append((delays, sum(answers, Counter[int]())))
        (calm, at_limit), (pressed, beyond) = found
        before, after = statistics.median(calm), statistics.median(pressed)
        assert beyond[401] > beyond[200], "it did not send more than it may"
        waiting = QUEUED * SECONDS / 2
        assert after < waiting / 2, "the other's tasks waited as if behind those of the greedy one"
        worst = [1000 * statistics.quantiles(delays, n=20)[18] for delays in (calm, pressed)]
        note(
            "14",
            f"{at_limit.total()} requests, then {beyond.total()} in {scale(30, 3)} s, {beyond[401]} of them refused",
            f"the other's start delay p50 {1000 * before:.0f} -> {1000 * after:.0f} ms, "
            f"p95 {worst[0]:.0f} -> {worst[1]:.0f} ms; "
            f"first come first served would be {1000 * waiting:.0f} ms",
        )
        if FULL:
            assert after <= 2 * before
    await assert_sound(tenants.config)


async def test_the_tasks_of_a_full_queue_do_not_stand_before_another_accounts(tenants: System) -> None:
    async with tenants.client() as client:
        many = [{"task_name": "test.sleep", "seconds": SECONDS}] * QUEUED
        assert (await create(client.session, "greedy", tasks=many))[0] == 200
        _, mine = await create(client.session, "modest", tasks=many[:3])
        tenants.start_worker("--executors", "1")
        final = await client.status(*[status["key"] for status in mine], block=True)
        assert [status["status"] for status in final] == ["success"] * 3
        _, answer = await create(client.session, "greedy", tasks=many[:90])
        assert not answer, "more than ten of the greedy account's tasks were run before the three of another"


async def test_limits_are_exact_under_pressure(tenants: System) -> None:
    async with tenants.client() as client:
        waiting, created = Counter[int](), 0

        async def sender(account: str) -> None:
            nonlocal created
            for _ in range(scale(100, 20)):
                status, statuses = await create(client.session, account)
                waiting[status] += account == "greedy"
                created += len(statuses) if account == "counted" else 0

        await asyncio.gather(*(sender(account) for account in ("greedy", "counted") for _ in range(10)))
        assert waiting[200] == QUEUED
        assert waiting[401] == scale(1000, 200) - QUEUED
        assert created in (120, 240), "120 a clock minute, of which the test meets one or two"
        note(
            "14", f"{scale(1000, 200)} requests each", f"{waiting[200]} of {QUEUED} waiting, {created} of 120 a minute"
        )
    tenants.start_worker("--executors", "2")
    await assert_sound(tenants.config)
