"""Waiting made visible over HTTP: places in streams while tasks wait, and what details say of those that do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import redis

from dragon.auth import hash_key
from dragon.config import ROOT
from dragon.store import names
from tests.server.talking import ask, normalised
from tests.system import SECRET, Client, System, eventually

OwnSystem = Callable[..., System]
OTHER = {"Authorization": "Secret other"}


def two_accounts(system: System) -> None:
    """A second account, whose tasks wait in a lane."""
    path = system.config.data_dir / "accounts.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    demo = (ROOT / "conf" / "accounts.toml").read_text("utf-8")
    path.write_text(f'{demo}\n[other]\nsecrets = ["{hash_key("other")}"]\n', "utf-8")
    system.config = system.config.model_copy(update={"accounts": path})


async def is_measured(client: Client, name: str) -> bool:
    answer = await ask(client.session, "GET", f"/v1/operator/history?name={name}", None, SECRET)
    return any(sample["success"] for sample in answer.json["samples"])


async def test_a_stream_tells_the_place_of_a_task_while_it_waits(own_system: OwnSystem, tmp_path: Path) -> None:
    system = own_system(server__position_interval=0.1)
    system.start_server()
    system.start_worker("--executors", "1")
    gates = [tmp_path / f"gate{number}" for number in range(3)]
    async with system.client() as client:
        await client.run("test.sleep", seconds=0.5)
        await eventually(lambda: is_measured(client, "test.sleep"))
        await client.create(*[{"task_name": "test.gated_file", "gate": str(gate)} for gate in gates])
        body = orjson.dumps({"tasks": {"task_name": "test.sleep", "seconds": 0.01}})
        lines: list[dict[str, Any]] = []
        async with client.session.post("/v1/create_stream", data=body, headers=SECRET) as response:
            (first,) = orjson.loads(await response.content.readline())
            async for text in response.content:
                lines.append(orjson.loads(text))
                if lines[-1]["status"] == "queued" and lines[-1]["position"] == len(gates):
                    gates.pop(0).with_suffix(".1").touch()  # one task less before it
    queued = [line for line in lines if line["status"] == "queued"]
    places = [line["position"] for line in queued]
    assert [place for place in places if place <= 3] == [3, 2, 1]
    assert places[:-3] in ([], [4]), "the first of them may not have begun yet"
    assert [line | {"position": 0, "eta": 0} for line in queued] == [first | {"position": 0, "eta": 0}] * len(queued)
    expected = [line["eta"] for line in queued[-3:]]
    assert expected[0] > expected[-1] >= 0.5, expected
    assert lines[: len(queued)] == queued, "a place follows nothing that is newer"
    assert lines[-1]["status"] == "success"


async def test_server_sent_events_and_streams_of_existing_tasks_tell_it_too(
    own_system: OwnSystem, tmp_path: Path
) -> None:
    system = own_system(server__position_interval=0.1)
    system.start_server()
    system.start_worker("--executors", "1")
    async with system.client() as client:
        gated = (await client.create({"task_name": "test.gated_file", "gate": str(tmp_path / "gate")}))[0]["key"]
        await client.wait_for_status(gated, "executing")
        key = (await client.create({"task_name": "test.echo"}))[0]["key"]
        lines = []
        headers = {"Accept": "text/event-stream"}
        async with client.session.get(f"/v1/status_stream?tasks={key}", headers=headers) as response:
            async for text in response.content:
                if text.startswith(b"data: {"):
                    lines.append(orjson.loads(text[6:]))
                    (tmp_path / "gate.1").touch()
    assert [line["position"] for line in lines if line["status"] == "queued"] == [1]
    assert lines[-1]["status"] == "success"


async def test_an_interval_of_zero_turns_it_off_in_streams(own_system: OwnSystem, tmp_path: Path) -> None:
    system = own_system(server__position_interval=0)
    system.start_server()
    system.start_worker("--executors", "1")
    async with system.client() as client:
        gate = tmp_path / "gate"
        await client.create({"task_name": "test.gated_file", "gate": str(gate)})
        body = orjson.dumps({"tasks": {"task_name": "hello"}})
        async with client.session.post("/v1/create_stream", data=body, headers=SECRET) as response:
            await response.content.readline()
            _, second = await client.create({"task_name": "hello"}, {"task_name": "hello"})
            found = await client.status(second["key"], details=True)
            assert found[0]["position"] >= 2, "details tell it all the same"
            await asyncio.sleep(2.5)  # more than two of the usual intervals
            gate.with_suffix(".1").touch()
            lines = [orjson.loads(text) async for text in response.content]
        assert lines[-1]["status"] == "success"
        assert not any("position" in line for line in lines)


async def test_waiting_calls_that_are_no_streams_answer_with_the_stored_status(own_system: OwnSystem) -> None:
    system = own_system(server__position_interval=0.05)
    system.start_server()
    async with system.client() as client:
        created = await client.create({"task_name": "hello"}, block=True, timeout=0.5)
        assert await client.status(created[0]["key"], block=True, timeout=0.3) == created
        assert created[0].keys() == {"status", "key", "events"}


async def test_details_say_what_a_task_waits_for(own_system: OwnSystem) -> None:
    system = own_system()
    system.start_server()
    with redis.Redis.from_url(system.config.redis.url) as store:
        async with system.client() as client:

            async def waits(key: str) -> dict[str, Any]:
                (status,) = await client.status(key, details=True)
                shown = (await ask(client.session, "GET", f"/v1/operator/tasks/{key}", None, SECRET)).json
                (again,) = await client.status(key, details=True)
                waits = {name: status.get(name, "absent") for name in ("position", "eta", "waiting_for")}
                if again == status and shown["status"]["status"] == "queued":  # nothing has moved meanwhile
                    assert {name: shown[name] for name in waits} == waits, "operators see the same"
                return waits

            async def becomes(key: str, expected: dict[str, Any]) -> bool:
                return await waits(key) == expected

            low = (await client.create({"task_name": "test.low"}))[0]["key"]
            nobody = {"position": 1, "eta": None, "waiting_for": "no worker serves the queue 'low'"}
            assert await waits(low) == nobody
            await asyncio.to_thread(system.start_worker, "--queues", "default")
            assert await waits(low) == nobody
            store.set(names.RQ_SUSPENDED, "1")
            store.sadd(names.PAUSED, "high")
            hello = (await client.create({"task_name": "hello"}))[0]["key"]
            suspended = {"position": 1, "eta": None, "waiting_for": "RQ is suspended: rq resume"}
            await eventually(lambda: becomes(hello, suspended))
            await asyncio.to_thread(system.start_worker, "--queues", "high")
            high = (await client.create({"task_name": "test.high"}))[0]["key"]
            paused = {"position": 1, "eta": None, "waiting_for": "the queue 'high' is paused"}
            await eventually(lambda: becomes(high, paused))
            store.delete(names.RQ_SUSPENDED, names.PAUSED)
            for key in (hello, high):
                await client.wait_for_status(key, "success")
                assert await waits(key) == {"position": "absent", "eta": "absent", "waiting_for": "absent"}
            both = await client.status(low, hello, low, details=True)
            assert [status.get("position") for status in both] == [1, None, 1]


async def test_places_take_the_turns_of_accounts_into_account(own_system: OwnSystem) -> None:
    system = own_system(server__position_interval=0.2)
    two_accounts(system)
    system.start_server()
    async with system.client() as client:
        mine = [status["key"] for status in await client.create(*[{"task_name": "hello"}] * 20)]
        answer = await ask(client.session, "POST", "/v1/create", {"tasks": [{"task_name": "hello"}] * 3}, OTHER)
        theirs = [status["key"] for status in answer.json]
        found = await client.status(*mine, *theirs, details=True)
        # In turns: mine, theirs, mine, theirs, mine, theirs, mine, mine, ...
        assert [status["position"] for status in found] == [1, 3, 5, *range(7, 24), 2, 4, 6]
        async with client.session.get(f"/v1/stream?tasks={theirs[2]}") as response:
            await response.content.readline()
            line = orjson.loads(await response.content.readline())
        assert normalised(line) == {
            "status": "queued",
            "key": "KEY 1",
            "events": {"queued": "DATE"},
            "position": 6,
            "eta": None,
        }


async def test_a_cancelled_task_leaves_its_place_to_the_next(own_system: OwnSystem) -> None:
    system = own_system(server__position_interval=0.1)
    system.start_server()
    async with system.client() as client:
        first, second = (s["key"] for s in await client.create(*[{"task_name": "hello"}] * 2))
        async with client.session.get(f"/v1/stream?tasks={first}&tasks={second}") as response:
            await response.content.readline()
            places = [orjson.loads(await response.content.readline()) for _ in range(2)]
            assert {line["key"]: line["position"] for line in places} == {first: 1, second: 2}
            await ask(client.session, "DELETE", f"/v1/tasks/{first}", None, SECRET)
            assert orjson.loads(await response.content.readline())["result"] == "cancelled"
            line = orjson.loads(await response.content.readline())
            assert (line["key"], line["position"]) == (second, 1)
