"""`dragon status`, `follow`, `cancel` and `tasks`: against a real server and worker."""

from __future__ import annotations

import json
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dragon.config import ROOT
from tests.cli.commands import dragon, environment, terminal
from tests.system import Client, System

NOBODY = "A" * 26


async def test_status_prints_a_line_a_task_and_is_1_when_one_is_an_error(system: System, client: Client) -> None:
    good, bad = await client.create({"task_name": "hello"}, {"task_name": "test.task_error"}, block=True)
    assert dragon(system.url, "status", good["key"]) == (0, f"{good['key']} success   Hello World\n", "")
    code, output, _ = dragon(system.url, "status", good["key"], bad["key"], NOBODY)
    assert code == 1
    assert output.splitlines() == [
        f"{good['key']} success   Hello World",
        f"{bad['key']} error     meant for the client",
        f"{NOBODY} error     unknown task key",
    ]
    code, output, _ = dragon(system.url, "status", "--json", good["key"])
    assert (code, json.loads(output)) == (0, good)


async def test_details_say_what_the_task_is(system: System, client: Client) -> None:
    (status,) = await client.create({"task_name": "hello", "name": "x", "task_metas": {"my": 1}}, block=True)
    code, output, _ = dragon(system.url, "status", "--details", status["key"])
    lines = {tuple(line.split(None, 1)) for line in output.splitlines()}
    assert code == 0
    assert {("task", "hello"), ("parameters", '{"name": "x"}'), ("task_metas", '{"my": 1}'), ("attempt", "1")} <= lines


@pytest.mark.parametrize("command", ["status", "follow", "cancel", "log"])
def test_what_is_no_key_is_a_usage_error(system: System, command: str) -> None:
    code, output, errors = dragon(system.url, command, "nonsense")
    assert (code, output) == (2, "")
    assert errors.splitlines()[-1] == "Error: 'nonsense' is not a task's key (26 characters A-Z2-7)"


async def test_cancel_ends_tasks_and_leaves_ended_ones_alone(system: System, client: Client) -> None:
    endless, ended = await client.create({"task_name": "test.async_sleep", "seconds": 50}, {"task_name": "hello"})
    await client.status(ended["key"], block=True)
    code, output, _ = dragon(system.url, "cancel", endless["key"], ended["key"])
    assert code == 0
    assert output.splitlines() == [
        f"{endless['key']} error     cancelled",
        f"{ended['key']} success   Hello World",
    ]
    code, _, errors = dragon(system.url, "cancel", NOBODY)
    assert (code, errors) == (1, "Error: unknown task key\n")


async def test_follow_shows_tasks_to_their_end(system: System, client: Client) -> None:
    one, other = await client.create({"task_name": "countdown", "from": 3}, {"task_name": "test.task_error"})
    code, output, _ = dragon(system.url, "follow", one["key"], other["key"])
    assert code == 1
    lines = output.splitlines()
    assert f"{one['key']} success   [3, 2, 1]" in lines
    assert f"{other['key']} error     meant for the client" in lines
    code, output, _ = dragon(system.url, "follow", "--json", one["key"])
    assert (code, json.loads(output.splitlines()[-1])["result"]) == (0, [3, 2, 1])


async def test_follow_on_a_terminal_has_bars_named_after_the_tasks(system: System, client: Client) -> None:
    (status,) = await client.create({"task_name": "countdown", "from": 4})
    with terminal(system.url, "follow", status["key"]) as shown:
        assert shown.finish() == 0
    assert re.search(r"countdown from=4 +━{24} 100 %", shown.plain), shown.plain
    assert shown.plain.rstrip().endswith("countdown from=4: [4, 3, 2, 1]")


async def test_ctrl_c_leaves_what_is_followed_alone(system: System, client: Client) -> None:
    (status,) = await client.create({"task_name": "countdown", "from": 500})
    with terminal(system.url, "follow", status["key"]) as shown:
        shown.wait_for("countdown from=500")
        shown.wait_for(" %")
        shown.interrupt()
        assert shown.finish() == 130
    assert (await client.status(status["key"]))[0]["status"] == "executing"
    assert "Cancel" not in shown.plain
    assert dragon(system.url, "cancel", status["key"]).code == 0


async def test_in_a_pipe_a_signal_ends_it_with_130_and_says_how_to_go_on(system: System, client: Client) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "dragon", "run", "countdown", "from=500"],
        cwd=ROOT,
        env=environment(system.url),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    key = process.stdout.readline()[:26]
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=40)
    assert process.returncode == 130
    assert errors == f"dragon: 1 task has not ended, and goes on: dragon follow {key}\n"
    assert dragon(system.url, "cancel", key).code == 0


def test_a_reader_that_has_enough_ends_it_quietly(system: System) -> None:
    command = f"{sys.executable} -m dragon run countdown from=100 delay=0.01 | head -1"
    done = subprocess.run(
        ["bash", "-c", command], cwd=ROOT, env=environment(system.url), capture_output=True, text=True, timeout=50
    )
    assert len(done.stdout.splitlines()) == 1
    assert done.stderr == ""


class TestTasks:
    def test_they_are_listed_with_their_workers(self, system: System) -> None:
        code, output, errors = dragon(system.url, "tasks", environ={"DRAGON_SECRET": ""})
        assert (code, errors) == (0, ""), "the catalogue needs no key"
        lines = [re.split(r" {2,}", line) for line in output.splitlines()]
        assert ["hello", "1 worker", "Greet somebody."] in lines
        assert [line[0] for line in lines] == sorted(line[0] for line in lines)

    def test_one_is_described_with_its_parameters(self, system: System) -> None:
        description = json.loads(dragon(system.url, "tasks", "countdown", "--json").output)["description"]
        code, output, _ = dragon(system.url, "tasks", "countdown")
        assert code == 0
        assert output == (
            f"countdown\n  {description}\n"
            "parameters (* is needed)\n"
            "  from   whole number  (5)    at least 1, at most 1000\n"
            "  delay  number        (0.2)  at least 0, at most 10\n"
            "queue default, 1 worker; 10800 s at most, 3 attempts\n"
            "for example\n"
            "  dragon run countdown from=5\n"
        )

    def test_an_unknown_one_is_said_with_one_that_is_near(self, system: System) -> None:
        code, _, errors = dragon(system.url, "tasks", "image.thump")
        assert code == 2
        assert errors.splitlines()[-1] == "Error: this server has no task 'image.thump': did you mean 'image.thumb'?"

    def test_json_gives_the_catalogues_entries(self, system: System) -> None:
        code, output, _ = dragon(system.url, "tasks", "hello", "--json")
        assert (code, json.loads(output)["description"]) == (0, "Greet somebody.")

    @pytest.mark.parametrize("name", ["hello", "countdown", "image.thumb", "image.gif", "image.strip", "image.info"])
    def test_the_example_works_as_it_stands(self, system: System, name: str, tmp_path: Path) -> None:
        output = dragon(system.url, "tasks", name).output
        words = shlex.split(output.partition("for example\n")[2])
        assert words[:3] == ["dragon", "run", name]
        words = [str(tmp_path) if word == "." else word for word in words]
        done = dragon(system.url, *words[1:])
        assert done.code == 0, done


@pytest.mark.parametrize(
    ("arguments", "found"),
    [("dragon run hel", "hello"), ("dragon tasks image.th", "image.thumb"), ("dragon acc", "account")],
)
def test_completion_knows_the_commands_and_the_servers_tasks(system: System, arguments: str, found: str) -> None:
    words = arguments.split()
    more = {"_DRAGON_COMPLETE": "bash_complete", "COMP_WORDS": arguments, "COMP_CWORD": str(len(words) - 1)}
    for _ in range(10):  # a server that is busy for 0.3 s is not waited for
        _, output, errors = dragon(system.url, environ=more)
        if output.strip():
            break
    assert (output.split(), errors) == ([f"plain,{found}"], "")


def test_completion_is_silent_when_no_server_answers() -> None:
    more = {"_DRAGON_COMPLETE": "bash_complete", "COMP_WORDS": "dragon run hel", "COMP_CWORD": "2"}
    _, output, errors = dragon("http://127.0.0.1:1", environ=more)
    assert (output.strip(), errors) == ("", "")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_what_the_shell_needs(shell: str) -> None:
    code, output, _ = dragon("", "completion", shell)
    assert code == 0
    assert f"_DRAGON_COMPLETE={shell}_complete" in output
