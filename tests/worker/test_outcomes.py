"""How tasks end: values, errors, crashes, timeouts; each in one final status that says what happened."""

from __future__ import annotations

import re

import pytest

from tests.system import Client


@pytest.mark.parametrize(
    ("kind", "value"), [("null", None), ("zero", 0), ("empty", ""), ("false", False), ("list", []), ("object", {})]
)
async def test_values_that_look_like_nothing_are_results(client: Client, kind: str, value: object) -> None:
    status = await client.run("test.value", kind=kind)
    assert status["status"] == "success"
    assert "result" in status
    assert status["result"] == value


async def test_an_exception_becomes_a_fixed_sentence_with_a_reference_that_the_log_has_too(
    client: Client, system: object
) -> None:
    status = await client.run("test.raise")
    assert status["status"] == "error"
    found = re.fullmatch(r"the task failed with an internal error, reference ([0-9a-f]{8})", status["result"])
    assert found
    log = system.processes[1].output  # type: ignore[attr-defined]
    assert f"[reference {found[1]}]" in log
    assert "a secret detail" in log


async def test_a_task_error_is_the_result(client: Client) -> None:
    status = await client.run("test.task_error", message="no such thing")
    assert (status["status"], status["result"]) == ("error", "no such thing")


async def test_a_value_that_json_cannot_say_ends_in_an_error(client: Client) -> None:
    status = await client.run("test.unserializable")
    assert status["status"] == "error"
    assert "JSON cannot express" in status["result"]


async def test_a_result_over_the_limit_ends_in_an_error_that_names_it(client: Client) -> None:
    status = await client.run("test.large", size=9_000_000)
    assert status["status"] == "error"
    assert "8388608" in status["result"]


async def test_what_a_task_prints_does_not_disturb(client: Client) -> None:
    for _ in range(3):
        assert (await client.run("test.print"))["result"] == "printed"


async def test_sys_exit_is_an_error_and_the_executor_serves_on(client: Client) -> None:
    assert (await client.run("test.exit"))["status"] == "error"
    assert (await client.run("hello"))["result"] == "Hello World"


@pytest.mark.parametrize(
    ("how", "text"),
    [
        ("exit", "the task's process has ended (exit code 7) on attempt 2"),
        ("kill", "the task's process has ended (killed by SIGKILL) on attempt 2"),
    ],
)
async def test_a_crash_is_tried_again_and_then_named(client: Client, how: str, text: str) -> None:
    status = await client.run("test.die", how=how)
    assert (status["status"], status["result"]) == ("error", text)


async def test_a_task_that_crashes_once_succeeds_on_the_second_attempt(client: Client) -> None:
    status = await client.run("test.die_once")
    assert (status["status"], status["result"]) == ("success", 2)


@pytest.mark.parametrize("name", ["test.never_ends", "test.async_never_ends", "test.async_blocks"])
async def test_a_task_that_never_ends_is_stopped_at_its_timeout(client: Client, name: str) -> None:
    status = await client.run(name)
    assert (status["status"], status["result"]) == ("error", "the task took longer than its 1 s")
    assert (await client.run("hello"))["status"] == "success"
    assert (await client.run("test.async_sleep", seconds=0))["status"] == "success"
