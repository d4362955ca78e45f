"""`dragon log` and the log lines in `dragon follow`: against a real server and worker."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from dragon.config import ROOT
from tests.cli.commands import dragon, environment, terminal
from tests.system import Client, System

# The log lines of tasks are built beside this, on another branch; the tests run as soon as both are in one tree.
pytestmark = pytest.mark.skipif(
    "/v1/log" not in (ROOT / "docs" / "api.md").read_text("utf-8"), reason="this server keeps no log lines yet"
)


async def say(client: Client, gate: Path | None = None) -> str:
    """Creates a task that says one and two, and after the gate three and last; its key."""
    more: dict[str, str] = {} if gate is None else {"gate": str(gate)}
    definition = {"task_name": "test.say", "texts": ["one", "two"], "more": ["three", "last"], **more}
    (status,) = await client.create(definition)
    return str(status["key"])


async def test_log_prints_the_lines_of_a_task(system: System, client: Client) -> None:
    key = await say(client)
    await client.wait_for_status(key, "success")
    assert dragon(system.url, "log", key) == (0, "one\ntwo\nthree\nlast\n", "")
    code, output, _ = dragon(system.url, "log", "--json", "--after", "2", key)
    lines = [json.loads(line) for line in output.splitlines()]
    assert (code, [(line["key"], line["number"], line["attempt"]) for line in lines]) == (0, [(key, 3, 1), (key, 4, 1)])


async def test_log_goes_on_until_the_task_has_ended(system: System, client: Client, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    process = subprocess.Popen(
        [sys.executable, "-m", "dragon", "log", "-f", await say(client, gate)],
        cwd=ROOT,
        env=environment(system.url),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert [process.stdout.readline() for _ in range(2)] == ["one\n", "two\n"]
    gate.touch()
    assert process.communicate(timeout=40)[0] == "three\nlast\n"
    assert process.returncode == 0


async def test_follow_shows_a_tasks_end_behind_its_last_line(system: System, client: Client, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    key = await say(client, gate)
    process = subprocess.Popen(
        [sys.executable, "-m", "dragon", "follow", key],
        cwd=ROOT,
        env=environment(system.url),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    before = []
    while "log       two" not in "".join(before):
        before.append(process.stdout.readline())
    gate.touch()
    after = process.communicate(timeout=40)[0].splitlines()
    assert [line for line in after if " executing" not in line] == [
        f"{key} log       three",
        f"{key} log       last",
        f"{key} success   1",
    ]
    code, output, _ = dragon(system.url, "follow", "--no-log", key)
    assert (code, output) == (0, f"{key} success   1\n")


async def test_on_a_terminal_lines_stand_above_the_bar(system: System, client: Client, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    with terminal(system.url, "follow", await say(client, gate)) as shown:
        shown.wait_for("two")
        gate.touch()
        assert shown.finish() == 0
    positions = [shown.plain.rindex(text) for text in ("one\n", "two\n", "three\n", "last\n", "100 %")]
    assert positions == sorted(positions)
