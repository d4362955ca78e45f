"""`dragon doctor`: what it says of this machine when all is well, and of each thing that is not."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis
from click.testing import CliRunner

from dragon.auth import parse_accounts
from dragon.cli import dragon
from dragon.cli.doctor import machine
from dragon.cli.doctor.finding import Finding
from dragon.config import ROOT, Config, load_config
from dragon.task import load_tasks
from tests.system import System, environment, free_port, test_config


def look(config: Config) -> list[Finding]:
    return list(machine.examine(config))


def of(findings: list[Finding], about: str, *levels: str) -> list[str]:
    """The sentences about something, those that are not ok unless levels are given."""
    wanted = levels or ("problem", "warning", "skipped")
    return [found.sentence for found in findings if found.about == about and found.level in wanted]


def run(environ: dict[str, str], *arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(dragon, ["doctor", *arguments], env=environ)
    return result.exit_code, result.stdout, result.stderr


def test_a_system_that_runs_is_well(system: System) -> None:
    code, output, errors = run(environment(system.config))
    lines = output.splitlines()
    assert (code, errors) == (0, "")
    assert [line for line in lines if line.startswith(("problem", "skipped"))] == []
    assert f"ok       server: answers at {system.url}; `dragon doctor URL` looks at the way to it" in lines
    assert "ok       workers: 1 alive, for the queues default, high, low" in lines


def test_json_has_every_finding(system: System) -> None:
    code, output, _ = run(environment(system.config), "--json")
    report = json.loads(output)
    assert (code, report["well"], report["lines"]) == (0, True, [])
    assert {found["about"] for found in report["findings"]} == {
        "settings",
        "tasks",
        "redis",
        "latency",
        "clock",
        "workers",
        "queues",
        "server",
        "files",
        "scratch",
        "accounts",
        "open files",
    }


def test_a_misspelt_setting_is_the_one_problem() -> None:
    code, output, errors = run({"DRAGON_SERVER__PROT": "1"})
    assert (code, errors) == (1, "")
    assert output == (
        "problem  settings: the environment has DRAGON_SERVER__PROT, but there is no setting 'server.prot': did you "
        "mean 'server.port'?\n1 problem\n"
    )


def test_a_redis_that_is_away_is_a_problem_and_its_password_is_not_shown(tmp_path: Path) -> None:
    port = free_port()
    findings = look(test_config(tmp_path, f"redis://:a-secret@127.0.0.1:{port}"))
    assert of(findings, "redis") == [
        f"redis://***@127.0.0.1:{port} cannot be reached: start it, or correct DRAGON_REDIS_URL; a firewall may be in "
        "the way"
    ]
    assert "a-secret" not in str(findings)
    assert of(findings, "files", "ok"), "the other looks go on"


def test_the_embedded_redis_that_does_not_run_is_to_be_started(tmp_path: Path) -> None:
    (sentence,) = of(look(test_config(tmp_path, "")), "redis")
    assert sentence.startswith("the embedded one does not run (nothing answers at ")
    assert sentence.endswith("): start dragon with `dragon up`")


@contextmanager
def redis_settings(url: str, **settings: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(url, decode_responses=True) as client:
        former = {name: client.config_get(name)[name] for name in settings}
        for name, value in settings.items():
            client.config_set(name, value)
        try:
            yield client
        finally:
            for name, value in former.items():
                client.config_set(name, value)


def test_a_redis_that_throws_keys_away_is_a_problem(redis_url: str, tmp_path: Path) -> None:
    with redis_settings(redis_url, **{"maxmemory-policy": "allkeys-lru", "maxmemory": "100mb"}):
        (sentence,) = of(look(test_config(tmp_path, redis_url)), "redis", "problem")
    assert "throws keys away when its memory is full (maxmemory-policy allkeys-lru)" in sentence
    assert sentence.endswith("set its maxmemory-policy to noeviction")


def test_a_redis_that_keeps_nothing_is_a_warning(redis_url: str, tmp_path: Path) -> None:
    with redis_settings(redis_url, appendonly="no", save=""):
        (sentence,) = of(look(test_config(tmp_path, redis_url)), "redis")
    assert sentence.endswith("keeps nothing on disk: a restart of it loses all tasks; set appendonly yes")


def test_a_redis_that_is_nearly_full_is_a_warning(redis_url: str, tmp_path: Path) -> None:
    with redis_settings(redis_url, maxmemory="1") as client:
        client.config_set("maxmemory", str(int(client.info("memory")["used_memory"] * 1.05)))
        sentences = of(look(test_config(tmp_path, redis_url)), "redis")
    assert any("of its memory are in use: raise maxmemory" in sentence for sentence in sentences), sentences


def test_no_worker_waiting_tasks_and_a_suspended_rq_are_problems(redis_url: str, tmp_path: Path) -> None:
    with redis.Redis.from_url(redis_url) as client:
        client.sadd("rq:queues", "rq:queue:slow", "rq:queue:slow@shop", "rq:queue:default")
        client.rpush("rq:queue:slow", "A", "B")
        client.rpush("rq:queue:slow@shop", "C")
        client.rpush("rq:queue:default", "D")
        client.sadd("dragon:paused", "default")
        client.set("rq:suspended", 1)
        findings = look(test_config(tmp_path, redis_url))
    assert of(findings, "workers") == [
        "none is registered, so no task runs: `dragon worker`, or `dragon up`",
        "RQ is suspended, so none takes tasks: `rq resume`",
    ]
    assert of(findings, "queues") == [
        "1 task waits in 'default', which no worker serves: `dragon worker --queues default`",
        "3 tasks wait in 'slow', which no worker serves: `dragon worker --queues slow`",
        "'default' is paused: `dragon queue resume default`",
    ]


def test_a_task_that_no_worker_runs_is_a_warning() -> None:
    registry = load_tasks(("tasks",))
    living = {"one": ({"default"}, set(registry.tasks) - {"hello"}), "two": ({"low"}, {"hello"})}
    (found,) = machine.judge_tasks(living, registry)
    assert (found.level, found.about) == ("warning", "workers")
    assert found.sentence.startswith("no worker runs 'hello' (queue 'default'): restart the workers if it is new")


def test_a_server_that_is_not_ready_says_why(own_system: Callable[..., System]) -> None:
    system = own_system()
    system.start_server()
    assert of(look(system.config), "server") == [
        f"the one at {system.url} is not ready: no worker is registered: start one with run_worker.py"
    ]


def test_a_server_that_does_not_run_is_a_warning(redis_url: str, tmp_path: Path) -> None:
    config = test_config(tmp_path, redis_url)
    assert of(look(config), "server", "warning") == [
        f"nothing answers at http://127.0.0.1:{config.server.port}: `dragon server`, or `dragon up`"
    ]


def test_tasks_that_cannot_be_imported_are_a_problem(redis_url: str, tmp_path: Path) -> None:
    (sentence,) = of(look(test_config(tmp_path, redis_url, tasks__modules=("no_such_module",))), "tasks")
    assert "no_such_module" in sentence
    assert "tasks.modules" in sentence


def test_a_folder_that_cannot_be_written_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "files").write_text("a file where the folder should be")
    (found,) = machine.judge_folder("files", tmp_path / "files", "files.url")
    assert (found.level, found.about) == ("problem", "files")
    assert f"{tmp_path / 'files'} is not a folder" in found.sentence
    assert found.sentence.endswith("or change `files.url`")


def test_a_folder_that_is_made_at_the_start_is_judged_by_the_one_above(tmp_path: Path) -> None:
    (found,) = machine.judge_folder("files", tmp_path / "a" / "b", "files.url")
    assert found.level == "ok"
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(("free", "level"), [(100 << 20, "problem"), (1 << 30, "warning"), (3 << 30, "ok")])
def test_little_room_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, level: str) -> None:
    usage = machine.shutil.disk_usage(tmp_path)._replace(free=free)
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda _: usage)
    (found,) = machine.judge_folder("files", tmp_path, "files.url")
    assert found.level == level


DEMO = (ROOT / "conf" / "accounts.toml").read_text("utf-8")
SHOP = f'[shop]\nsecrets = ["sha256:{"0" * 64}"]\n'


@pytest.mark.parametrize(
    ("text", "mode", "level"),
    [
        (DEMO, 0o644, None),
        (SHOP, 0o600, None),
        (SHOP, 0o640, None),
        (SHOP, 0o644, "problem"),
        (DEMO, 0o666, "problem"),
    ],
)
def test_the_mode_of_the_accounts_file(tmp_path: Path, text: str, mode: int, level: str | None) -> None:
    path = tmp_path / "accounts.toml"
    path.write_text(text)
    path.chmod(mode)
    found = list(machine.judge_mode(path, list(parse_accounts(text, "").values())))
    assert [one.level for one in found] == ([level] if level else [])
    assert all(f"chmod 600 {path}" in one.sentence for one in found)


@pytest.mark.parametrize(
    ("environ", "level"),
    [
        ({}, "ok"),
        ({"HOST": "0.0.0.0"}, "problem"),
        ({"DRAGON_SERVER__PUBLIC_URL": "https://tasks.example.com"}, "problem"),
        ({"DRAGON_SERVER__PUBLIC_URL": "http://localhost:8080"}, "ok"),
    ],
)
def test_the_demo_account_is_not_for_everybody(environ: dict[str, str], level: str) -> None:
    accounts = list(parse_accounts(DEMO, "").values())
    (found,) = machine.judge_demo(load_config(environ=environ), accounts)
    assert found.level == level
    assert ("`dragon account revoke demo`" in found.sentence) is (level == "problem")


def test_no_accounts_file_says_how_to_make_one(tmp_path: Path, redis_url: str) -> None:
    findings = look(test_config(tmp_path, redis_url, accounts=tmp_path / "none.toml"))
    (sentence,) = of(findings, "accounts")
    assert sentence.endswith("No such file or directory: correct it, or make one with `dragon account new NAME`")


@pytest.mark.parametrize(("off", "level"), [(0.2, "ok"), (-1.5, "warning"), (31.0, "problem"), (-31.0, "problem")])
def test_clocks_that_differ_are_told(off: float, level: str) -> None:
    found = machine.judge_clock(off)
    assert found.level == level
    assert ("behind Redis's" in found.sentence) is (off < -1)


def test_few_open_files_are_a_warning(tmp_path: Path) -> None:
    config = load_config(environ={})
    assert machine.judge_open_files(config, 1 << 20).level == "ok"
    found = machine.judge_open_files(config, 1024)
    assert found.level == "warning"
    assert found.sentence.startswith("a process may open 1,024, which is 800 connections and not 20,000")
