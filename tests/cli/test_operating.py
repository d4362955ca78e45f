"""`dragon queue` and `dragon failed`: against a real server and worker on a Redis of their own."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from dragon.auth import hash_key
from tests.cli.commands import dragon, terminal
from tests.system import System


@pytest.fixture
def running(own_system: Callable[..., System]) -> System:
    system = own_system(worker__concurrency=5)
    system.start_server()
    system.start_worker("--executors", "1")
    return system


def create(system: System, *words: str) -> str:
    """Creates a task and runs it to its end; its key."""
    output = dragon(system.url, "run", *words, "--json").output
    return str(json.loads(output.splitlines()[-1])["key"])


def queues(system: System) -> dict[str, tuple[str, ...]]:
    code, output, _ = dragon(system.url, "queue")
    assert code == 0
    _, *rows = (tuple(re.split(r" {2,}", line)) for line in output.splitlines())
    return {row[0]: row[1:] for row in rows}


async def test_queues_are_listed_paused_and_let_go_on(own_system: Callable[..., System]) -> None:
    running = own_system()
    running.start_server()
    assert queues(running)["low"] == ("0", "0", "0", "no worker serves it")
    assert dragon(running.url, "queue", "pause", "low") == (
        0,
        "low is paused; it goes on with: dragon queue resume low\n",
        "",
    )
    async with running.client() as client:
        (waiting,) = await client.create({"task_name": "test.low"})
        row = queues(running)["low"]
        assert (row[0], row[-1]) == ("1", "paused: dragon queue resume low")
        code, output, _ = dragon(running.url, "queue", "--json")
        found = {one["name"]: one for one in map(json.loads, output.splitlines())}
        assert (code, found["low"]["waiting"], found["low"]["paused"]) == (0, 1, True)
        running.start_worker("--executors", "1")
        assert dragon(running.url, "queue", "resume", "low") == (0, "low goes on\n", "")
        await client.wait_for_status(waiting["key"], "success")


async def test_a_queue_is_cleared_after_a_yes(own_system: Callable[..., System]) -> None:
    running = own_system()
    running.start_server()
    async with running.client() as client:
        created = await client.create({"task_name": "test.low"}, {"task_name": "test.low"})
        with terminal(running.url, "queue", "clear", "low") as shown:
            shown.wait_for("Cancel 2 tasks waiting in low? [y/N]:")
            shown.type("n\n")
            assert shown.finish() == 1
        code, _, errors = dragon(running.url, "queue", "clear", "low")
        assert code == 2
        assert errors.splitlines()[-1].endswith("Nobody can be asked here: give --yes")
        assert {status["status"] for status in await client.status(*(one["key"] for one in created))} == {"queued"}
        assert dragon(running.url, "queue", "clear", "low", "--yes") == (0, "cancelled 2 tasks of low\n", "")
        assert {status["result"] for status in await client.status(*(one["key"] for one in created))} == {"cancelled"}


def test_failures_are_grouped_shown_and_run_again(running: System) -> None:
    keys = [create(running, "test.task_error", f"message=no room for {number} files") for number in (3, 4)]
    other = create(running, "test.raise")
    code, output, errors = dragon(running.url, "failed")
    assert (code, errors) == (0, "")
    head, *rows = (re.split(r" {2,}", line) for line in output.splitlines())
    assert head == ["group", "count", "retried", "last", "task", "message"]
    assert sorted(tuple(row[1:3] + row[4:5]) for row in rows) == [
        ("1", "0", "test.raise"),
        ("2", "0", "test.task_error"),
    ]
    group = next(row[0] for row in rows if row[4] == "test.task_error")

    code, output, _ = dragon(running.url, "failed", "show", group)
    assert code == 0
    assert output.startswith(f"{group}: 2 of test.task_error, 0 retried\n")
    assert f"dragon failed retry {group}" in output
    assert keys[1] in output

    code, output, _ = dragon(running.url, "failed", "show", other)
    assert code == 0
    assert output.startswith(f"{other} error\n")
    assert "Traceback (most recent call last):" in output

    code, output, errors = dragon(running.url, "failed", "retry", group, other)
    assert (code, errors) == (0, "3 of 3 run again\n")
    again = dict(re.findall(r"([A-Z2-7]{26}) runs again as ([A-Z2-7]{26})", output))
    assert set(again) == {*keys, other}
    assert dragon(running.url, "follow", *again.values()).code == 1, "they fail again, as new tasks"


def test_all_that_failed_runs_again_after_a_yes_but_not_what_was_cancelled(running: System) -> None:
    assert dragon(running.url, "failed") == (0, "nothing failed\n", "")
    failed = create(running, "test.task_error")
    with terminal(running.url, "run", "countdown", "from=900", "--cancel-on-interrupt") as shown:
        shown.wait_for("%")
        shown.interrupt()
        assert shown.finish() == 130
    code, _, errors = dragon(running.url, "failed", "retry", "--all")
    assert code == 2
    assert "Run 1 task again (1 kind of failures)? Nobody can be asked here: give --yes" in errors
    code, output, errors = dragon(running.url, "failed", "retry", "--all", "--yes", "--json")
    assert (code, errors) == (0, "")
    (answer,) = map(json.loads, output.splitlines())
    assert answer["key"] == failed
    code, output, errors = dragon(running.url, "failed", "retry", failed)
    assert (code, output) == (0, f"{failed} runs again as {answer['retried_as']}\n"), "once only"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["failed", "retry"], "name keys or groups (`dragon failed` lists them), or give --all"),
        (["failed", "retry", "--all", "A" * 26], "name keys or groups (`dragon failed` lists them), or give --all"),
        (["failed", "retry", "x"], "'x' is no task's key, and no group with tasks to run again: `dragon failed`"),
        (["failed", "show", "x"], "'x' is no task's key, and no group of failures: `dragon failed` lists them"),
    ],
)
def test_wrong_calls_say_what_to_write(system: System, arguments: list[str], sentence: str) -> None:
    code, output, errors = dragon(system.url, *arguments)
    assert (code, output, errors.splitlines()[-1]) == (2, "", f"Error: {sentence}")


def test_what_cannot_be_run_again_is_exit_code_1_and_says_why(running: System) -> None:
    good = create(running, "hello")
    code, output, _ = dragon(running.url, "failed", "retry", good)
    assert code == 1
    assert output.startswith(f"{good} not run again: ")


def test_an_account_that_is_no_operator_is_told_so(own_system: Callable[..., System], tmp_path: Path) -> None:
    accounts = tmp_path / "accounts.toml"
    accounts.write_text(f'[shop]\nsecrets = ["{hash_key("key-of-shop")}"]\n')
    system = own_system(accounts=accounts)
    system.start_server()
    code, output, errors = dragon(system.url, "queue", "pause", "low", environ={"DRAGON_SECRET": "key-of-shop"})
    assert (code, output) == (77, "")
    assert errors.startswith("Error: ")
    assert "operator" in errors
