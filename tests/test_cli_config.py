"""The command `dragon`: its help, its errors, and `dragon config show`."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from dragon.cli import COMMANDS, dragon
from dragon.cli.config import describe
from dragon.config import ROOT, settings
from tests.waiting import PATIENCE


def run(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=os.environ | environ, capture_output=True, text=True, timeout=PATIENCE, check=False
    )


def config_file(tmp_path: Path, text: str) -> str:
    path = tmp_path / "dragon.toml"
    path.write_text(text, "utf-8")
    return str(path)


#: What takes a command longer to import than all of its help: in hundredths of a second.
HEAVY = {"aiohttp", "asyncio", "hiredis", "orjson", "PIL", "pydantic", "redis", "rich", "rq", "uvloop"}


def imported(errors: str) -> set[str]:
    """The top-level modules that `-X importtime` told of."""
    return {line.rpartition("|")[2].strip().partition(".")[0] for line in errors.splitlines() if "|" in line}


def test_help_lists_every_command_and_imports_none() -> None:
    result = run("-X", "importtime", "-m", "dragon", "--help")
    assert result.returncode == 0
    for name, (_, line) in COMMANDS.items():
        assert f"  {name}" in result.stdout
        assert line in result.stdout
    assert imported(result.stderr) & HEAVY == set()
    assert "dragon.cli.processes" not in result.stderr


def every_command() -> list[str]:
    """All of them with their own subcommands, as they are typed."""
    found = []
    for name in COMMANDS:
        command = dragon.get_command(click.Context(dragon), name)
        found.append(name)
        if isinstance(command, click.Group):
            found += [f"{name} {more}" for more in command.list_commands(click.Context(command))]
    return found


@pytest.mark.parametrize("command", every_command())
def test_the_help_of_each_command_imports_nothing_heavy(command: str) -> None:
    result = run("-X", "importtime", "-m", "dragon", *command.split(), "--help")
    assert result.returncode == 0
    assert result.stdout.startswith(f"Usage: dragon {command} ")
    assert "click" in imported(result.stderr)
    assert imported(result.stderr) & HEAVY == set()


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_where_the_table_says(name: str) -> None:
    module = COMMANDS[name][0].partition(":")[0]
    if importlib.util.find_spec(module) is None:
        pytest.fail(f"{module} does not exist")
    result = CliRunner().invoke(dragon, [name, "--help"])
    assert result.exit_code == 0, result.output


def test_an_unknown_command_is_refused() -> None:
    result = run("-m", "dragon", "serve")
    assert result.returncode == 2
    assert "No such command 'serve'" in result.stderr


@pytest.mark.parametrize("script", ["run_server.py", "run_worker.py"])
def test_the_scripts_run_from_anywhere_and_explain_themselves(script: str, tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / script), "--help"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert result.returncode == 0
    assert f"Usage: {script} [OPTIONS]" in result.stdout
    assert "supervised" not in result.stdout


@pytest.mark.parametrize(
    "arguments",
    [("-m", "dragon", "up"), ("run_server.py",), ("run_worker.py",), ("-m", "dragon", "config", "show")],
    ids=" ".join,
)
def test_a_misspelt_setting_stops_every_command_with_one_sentence(arguments: tuple[str, ...]) -> None:
    result = run(*arguments, DRAGON_SERVER__PROT="1")
    assert result.returncode == 78
    assert result.stdout == ""
    assert result.stderr == (
        "dragon: the environment has DRAGON_SERVER__PROT, but there is no setting 'server.prot': "
        "did you mean 'server.port'?\n"
    )


def test_config_show_names_every_setting_once() -> None:
    lines = run("-m", "dragon", "config", "show").stdout.splitlines()
    assert lines[0] == f"# settings file: {ROOT}/conf/dragon.toml"
    assert [line.partition(" = ")[0] for line in lines[1:]] == list(settings())


def test_config_show_says_where_each_value_comes_from(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("redis://:pw@host/3\n")
    path = config_file(tmp_path, "[server]\nport = 81\nhost = '127.0.0.1'\n[worker]\nqueues = ['one']\n")
    lines = describe(
        {
            "DRAGON_CONFIG": path,
            "DRAGON_REDIS__URL_FILE": str(secret),
            "REDIS_URL": "redis://unused",
            "DRAGON_SERVER__PROCESSES": "1",
            "DRAGON_DATA": "elsewhere",
            "PORT": "",
        }
    )
    assert lines[0] == f"# settings file: {path}"
    assert 'data = "elsewhere"  # environment: DRAGON_DATA' in lines
    assert 'server.host = "127.0.0.1"  # default' in lines
    assert "server.port = 81  # file" in lines
    assert "server.processes = 1  # environment: DRAGON_SERVER__PROCESSES" in lines
    assert 'worker.queues = ["one"]  # file' in lines
    assert 'redis.url = "redis://***@host/3"  # environment: DRAGON_REDIS__URL_FILE' in lines
    assert 'log.level = "info"  # default' in lines


def test_config_show_never_prints_a_password() -> None:
    result = run("-m", "dragon", "config", "show", DRAGON_REDIS_URL="rediss://user:hidden@host?password=hidden")
    assert 'redis.url = "rediss://***@host?password=***"  # environment: DRAGON_REDIS_URL' in result.stdout
    assert "hidden" not in result.stdout
