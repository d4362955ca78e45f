"""Output files: shown, shared, and gone together with their status when their life is over."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from dragon.store import names
from dragon.store.tasks import State
from tests.auditing import assert_sound
from tests.system import SECRET, Client, System, eventually

OwnSystem = Callable[..., System]


async def test_file_and_status_go_together_when_their_life_is_over(own_system: OwnSystem) -> None:
    # Long enough for the looks before its end, whatever else the machine has to do.
    system = own_system(files__life=8, files__sweep_interval=0.2)
    system.start_server()
    system.start_worker()
    async with system.client() as client:
        status = await client.run("test.file", text="x" * 500)
        url = status["result"]["output"]
        async with client.session.get(url) as response:
            assert (response.status, len(await response.text())) == (200, 500)
        with redis.Redis.from_url(system.config.redis.url) as connection:
            assert connection.hget(names.ACCOUNT + "demo", "bytes") == b"500"
            await eventually(lambda: _status_is_unknown(client, status["key"]), 30)
            assert connection.hget(names.ACCOUNT + "demo", "bytes") == b"0"
            left = [key for key in connection.scan_iter() if status["key"].encode() in key]
        assert left == []
        assert not [path for path in (system.config.data_dir / "files").rglob("*") if path.is_file()]
        async with client.session.get(url) as response:
            assert response.status == 404
            assert (await response.json())["status"] == "error"


async def _status_is_unknown(client: Client, key: str) -> bool:
    return bool((await client.status(key))[0]["result"] == "unknown task key")


async def test_a_status_without_files_goes_when_its_life_is_over(own_system: OwnSystem) -> None:
    system = own_system(files__life=1)
    system.start_server()
    system.start_worker()
    async with system.client() as client:
        key = (await client.run("hello"))["key"]
        await eventually(lambda: _status_is_unknown(client, key), 20)


async def test_a_refused_worker_removes_the_files_that_it_had_stored(own_system: OwnSystem, tmp_path: Path) -> None:
    system = own_system()
    system.start_server()
    system.start_worker()
    async with system.client() as client:
        gate = tmp_path / "gate"
        key = (await client.create({"task_name": "test.gated_file", "gate": str(gate)}))[0]["key"]
        await client.wait_for_status(key, "executing")
        with redis.Redis.from_url(system.config.redis.url) as connection:
            state = State.read(connection.hget(names.TASK + key, "state"))
            # As if another worker had it by now.
            connection.hset(names.TASK + key, "state", state._replace(attempt=state.attempt + 1).field())
        gate.with_suffix(".1").touch()
        log = system.processes[1]
        await eventually(lambda: f"{key} refused" in log.output)
        await eventually(lambda: not list((system.config.data_dir / "files").rglob("output.txt")))


async def test_the_declared_output_that_a_task_forgot_is_an_error(client: Client) -> None:
    status = await client.run("test.forgets_file")
    assert status["status"] == "error"
    assert "did not write its output file 'output'" in status["result"]


@pytest.mark.timeout(180)
async def test_a_thousand_mixed_tasks_stream_to_their_ends(client: Client, system: System) -> None:
    picture = f"{system.url}/static/sample.jpg"
    definitions = [{"task_name": "hello", "name": str(index)} for index in range(900)]
    for width in range(100):
        thumb = {"task_name": "image.thumb", "url": picture, "width": 40 + width}
        definitions.insert(9 * width, thumb if width % 5 else {"task_name": "image.info", "url": picture})
    lines = await asyncio.wait_for(client.stream(*definitions), 150)
    finals = [line for line in lines[1:] if line["status"] in ("success", "error")]
    assert len(finals) == 1000
    by_key = {line["key"]: line for line in finals}
    for definition, first in zip(definitions, lines[0], strict=True):
        result = by_key[first["key"]]["result"]
        match definition["task_name"]:
            case "hello":
                assert result == f"Hello {definition['name']}"
            case "image.info":
                assert result["content_type"] == "image/jpeg"
            case "image.thumb":
                assert result["width"] == definition["width"]
                async with client.session.get(result["output"]) as response:
                    assert response.status == 200
                    assert (await response.read())[:2] == b"\xff\xd8"
    async with client.session.delete(f"/v1/tasks/{lines[0][0]['key']}", headers=SECRET) as response:
        assert (await response.json()) == by_key[lines[0][0]["key"]], "cancelling what is final changes nothing"


async def test_files_that_killed_workers_have_left_go_when_the_task_ends(own_system: OwnSystem, tmp_path: Path) -> None:
    system = own_system(worker__lease=1, worker__heartbeat=0.2)
    system.start_server()
    worker = system.start_worker("--executors", "2")
    files = system.config.data_dir / "files"
    gate = str(tmp_path / "gate")
    async with system.client() as client:
        names = ["test.gated_file", "test.gated_file_once"]
        made = await client.create(*[{"task_name": name, "gate": gate} for name in names])
        again, lost = [status["key"] for status in made]
        for key in (again, lost):
            await client.wait_for_status(key, "executing")
            # What a worker leaves that is killed while it stores the files, and just before it says so.
            for left in ("1", "1.partial"):
                folder = files / key[:2] / key / left
                folder.mkdir(parents=True)
                (folder / "output.txt").write_text("of a dead worker")
        worker.kill()
        Path(f"{gate}.2").touch()
        system.start_worker("--executors", "2")
        status = await client.wait_for_status(again, "success")
        assert (await client.wait_for_status(lost, "error"))["result"].startswith("the worker was lost")
        await eventually(lambda: [path.parts[-3:-1] for path in files.rglob("*.txt")] == [(again, "2")])
        assert not (files / lost[:2] / lost).exists()
        async with client.session.get(status["result"]["output"]) as response:
            assert (response.status, await response.text()) == (200, "attempt 2")
    await assert_sound(system.config)
