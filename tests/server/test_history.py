"""GET /v1/operator/history, and who counts what: every task that ends is measured once, wherever that happens."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis

from dragon.connections import Redis
from dragon.store import measures
from tests.integration.test_rq_contract import start_rq_worker
from tests.server.talking import ask, bad_request
from tests.system import SECRET, Client, System, eventually

OwnSystem = Callable[..., System]
HISTORY = "/v1/operator/history"


async def totals(system: System) -> dict[str, dict[str, int]]:
    """What was counted so far, without zeros."""
    connection = Redis(system.config.redis.url, 5)
    try:
        found = await measures.totals(connection)
    finally:
        await connection.close()
    return {name: {outcome: n for outcome, n in counts.items() if n} for name, counts in found.items()}


async def counted(system: System, expected: dict[str, dict[str, int]]) -> None:
    """Waits until exactly this was counted."""
    for _ in range(1000):
        if (found := await totals(system)) == expected:
            return
        await asyncio.sleep(0.01)
    raise AssertionError(found)


async def test_every_end_is_counted_once_wherever_it_happens(own_system: OwnSystem) -> None:
    system = own_system()
    system.start_server()
    async with system.client() as client:
        first = (await client.create({"task_name": "hello"}))[0]["key"]
        assert (await ask(client.session, "DELETE", f"/v1/tasks/{first}", None, SECRET)).json["result"] == "cancelled"
        assert (await ask(client.session, "DELETE", f"/v1/tasks/{first}", None, SECRET)).status == 200
        await client.create({"task_name": "hello", "nmae": 1}, {"task_name": "made up"})
        await client.stream({"task_name": "hello", "name": 5})
        await counted(system, {"hello": {"error": 2, "cancelled": 1}, "unknown": {"error": 1}})

        worker = system.start_worker("--executors", "1")
        await client.create(*[{"task_name": "hello"}] * 3, {"task_name": "test.raise"}, block=True)
        await client.run("test.die")
        running = (await client.create({"task_name": "test.sleep", "seconds": 50}))[0]["key"]
        await client.wait_for_status(running, "executing")
        await ask(client.session, "DELETE", f"/v1/tasks/{running}", None, SECRET)
        await client.run("test.async_sleep", seconds=0.01)
        assert await asyncio.to_thread(worker.terminate) == 0
    expected = {
        "hello": {"success": 3, "error": 2, "cancelled": 1},
        "unknown": {"error": 1},
        "test.raise": {"error": 1},
        "test.die": {"error": 1},
        "test.async_sleep": {"success": 1},
        "test.sleep": {"cancelled": 1},
    }
    await counted(system, expected)
    assert await asyncio.to_thread(system.processes[0].terminate) == 0
    assert await totals(system) == expected, "the server's last flush brought something new"


async def test_what_an_operator_ends_and_creates_again_is_counted_once(own_system: OwnSystem) -> None:
    system = own_system()
    system.start_server()

    async def act(client: Client, path: str, body: Any) -> Any:
        answer = await ask(client.session, "POST", f"/v1/operator/{path}", body, SECRET)
        assert answer.status == 200, answer.body
        return answer.json

    async with system.client() as client:
        await client.create({"task_name": "hello", "nmae": 1})
        hello, *_ = [status["key"] for status in await client.create(*[{"task_name": "hello"}] * 4)]
        for _ in range(2):
            assert [status["result"] for status in await act(client, "cancel", {"tasks": [hello]})] == ["cancelled"]
        assert (await act(client, "queues/default", {"action": "clear"}))["cleared"] == 3
        assert (await act(client, "queues/default", {"action": "clear"}))["cleared"] == 0
        for _ in range(2):
            (retried,) = await act(client, "retry", {"tasks": [hello]})
        await counted(system, {"hello": {"error": 1, "cancelled": 4}})
        system.start_worker("--executors", "1")
        await client.wait_for_status(retried["retried_as"], "success")
        await act(client, "retry", {"tasks": [hello]})
        await counted(system, {"hello": {"success": 1, "error": 1, "cancelled": 4}})


async def test_the_overview_tells_how_long_tasks_waited_that_ended_just_now(own_system: OwnSystem) -> None:
    system = own_system()
    system.start_server()

    async def rates(client: Client) -> dict[str, float | None]:
        found = (await ask(client.session, "GET", "/v1/operator/overview", None, SECRET)).json["rates"]
        return {name: found[name] for name in ("waiting_p50", "waiting_p95")}

    async with system.client() as client:
        assert await rates(client) == {"waiting_p50": None, "waiting_p95": None}
        (made,) = await client.create({"task_name": "hello"})
        await asyncio.sleep(0.3)  # it waits for so long at least
        system.start_worker("--executors", "1")
        await client.wait_for_status(made["key"], "success")

        async def known() -> dict[str, float | None] | None:
            found = await rates(client)
            return None if None in found.values() else found

        found = await eventually(known)
    assert 0.3 / 2**0.5 <= found["waiting_p50"] <= found["waiting_p95"] < 60


async def test_what_a_killed_worker_has_left_is_counted_by_the_one_that_ends_it(
    own_system: OwnSystem, tmp_path: Path
) -> None:
    system = own_system(worker__lease=0.6, worker__heartbeat=0.2)
    system.start_server()
    worker = system.start_worker("--executors", "1")
    async with system.client() as client:
        once = {"task_name": "test.gated_file_once", "gate": str(tmp_path / "gate")}
        key = (await client.create(once))[0]["key"]
        await client.wait_for_status(key, "executing")
        worker.kill()
        system.start_worker("--executors", "1")
        await client.wait_for_status(key, "error")
    await counted(system, {"test.gated_file_once": {"error": 1}})


@pytest.mark.timeout(180)  # RQ forks and imports for each job
async def test_rqs_own_worker_measures_too(own_system: OwnSystem) -> None:
    system = own_system()
    system.start_server()
    async with system.client() as client:
        start_rq_worker(system, "default")
        await client.create({"task_name": "hello"}, {"task_name": "test.task_error"}, block=True, timeout=120)
    await counted(system, {"hello": {"success": 1}, "test.task_error": {"error": 1}})
    with redis.Redis.from_url(system.config.redis.url) as connection:
        lives = [connection.ttl(name) for name in connection.scan_iter("dragon:measures:flushed:*")]
    assert len(lives) == 2
    assert max(lives) <= 60, "a work horse a task: what it leaves must go soon"


async def test_history_tells_the_slots_of_an_hour_and_of_a_day(client: Client) -> None:
    await client.run("test.echo")

    async def seen() -> Any:
        answer = await ask(client.session, "GET", f"{HISTORY}?name=test.echo", None, SECRET)
        return answer.json if answer.json["samples"][-1]["success"] or answer.json["samples"][-2]["success"] else None

    hour = await eventually(seen)
    assert (hour.keys(), hour["period"], len(hour["samples"])) == ({"period", "names", "samples"}, "hour", 60)
    assert "test.echo" in hour["names"]
    found = next(sample for sample in reversed(hour["samples"]) if sample["success"])
    assert found.keys() == {
        *("start", "seconds", "success", "error", "cancelled"),
        *("waiting_p50", "waiting_p95", "running_p50", "running_p95"),
    }
    assert 0 < found["running_p50"] <= found["running_p95"] < 10
    day = (await ask(client.session, "GET", f"{HISTORY}?period=day", None, SECRET)).json
    assert (len(day["samples"]), day["samples"][-1]["seconds"]) == (96, 900)
    nobody = (await ask(client.session, "GET", f"{HISTORY}?name=nobody", None, SECRET)).json
    assert all(sample["success"] == 0 for sample in nobody["samples"])


@pytest.mark.parametrize(
    ("query", "errors"),
    [
        ("period=week", [("period", "querystring", "period must be hour or day")]),
        ("period=hour&period=day", [("period", "querystring", "period may be given once only")]),
        (f"name={'x' * 201}", [("name", "querystring", "name must be a task name, 200 characters at most")]),
    ],
)
async def test_what_history_does_not_understand_is_named(
    client: Client, query: str, errors: list[tuple[str, str, str]]
) -> None:
    answer = await ask(client.session, "GET", f"{HISTORY}?{query}", None, SECRET)
    assert (answer.status, answer.json) == (400, bad_request(*errors))


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Api-Key 654321", "Origin": "http://localhost"}])
async def test_history_is_for_secret_keys(client: Client, headers: dict[str, str]) -> None:
    answer = await ask(client.session, "GET", HISTORY, None, headers)
    assert answer.status == 401
    assert "secret key" in answer.json["message"]
