"""The command `dragon audit`: what it prints, its exit codes, `--json` and `--wait`."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import redis
from click.testing import CliRunner

from dragon.cli import dragon
from dragon.cli.audit import MOST_PRINTED, as_lines
from dragon.config import ROOT
from dragon.keys import new_keys
from dragon.store.audit import Report
from dragon.store.judgement import Finding
from tests.system import environment, test_config
from tests.waiting import wait_until

NOBODY = "A" * 26


def start(url: str, tmp_path: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "dragon", "audit", *arguments]
    config = environment(test_config(tmp_path, url))
    return subprocess.Popen(command, cwd=ROOT, env=config, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture(autouse=True)
def short_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing moves in these tests."""
    monkeypatch.setattr("dragon.store.audit.PAUSE", 0.05)


def run(url: str, tmp_path: Path, *arguments: str) -> tuple[int, str, str]:
    """Exit code, output, errors."""
    result = CliRunner().invoke(dragon, ["audit", *arguments], env=environment(test_config(tmp_path, url)))
    return result.exit_code, result.stdout, result.stderr


def break_it(url: str) -> None:
    with redis.Redis.from_url(url) as client:
        client.hset("dragon:account:demo", "queued", 7)
        client.rpush("rq:queue:default", NOBODY)


def test_a_sound_system_is_said_to_be_so(redis_url: str, tmp_path: Path) -> None:
    code, output, errors = run(redis_url, tmp_path)
    assert (code, errors) == (0, "")
    assert re.fullmatch(
        r"sound: no findings\nlooked at 0 tasks \(0 waiting, 0 with workers, 0 ended\), 0 workers, 0 accounts, "
        r"0 output folders in \d+\.\d s\n",
        output,
    )


def test_findings_are_a_line_each_with_what_to_do_and_the_exit_code_is_1(redis_url: str, tmp_path: Path) -> None:
    break_it(redis_url)
    code, output, errors = run(redis_url, tmp_path)
    assert (code, errors) == (1, "")
    *findings, _ = output.splitlines()
    assert findings == [
        "counter     dragon:account:demo: it counts 7 tasks queued, but 0 wait (RQ's `rq empty` and the like remove "
        "tasks without telling dragon): HINCRBY dragon:account:demo queued -7",
        f"leftover    {NOBODY}: rq:queue:default lists {NOBODY}, which does not exist: a worker that meets it drops "
        f"it, or take it out (LREM rq:queue:default 0 {NOBODY})",
        "2 findings (counter 1, leftover 1)",
    ]


def test_what_it_says_to_do_mends_it(redis_url: str, tmp_path: Path) -> None:
    break_it(redis_url)
    _, output, _ = run(redis_url, tmp_path)
    with redis.Redis.from_url(redis_url) as client:
        for command in re.findall(r"(?:HINCRBY|LREM) [^)\n]+", output):
            client.execute_command(*command.split(" "))
    assert run(redis_url, tmp_path)[0] == 0


def test_json_has_everything(redis_url: str, tmp_path: Path) -> None:
    break_it(redis_url)
    code, output, _ = run(redis_url, tmp_path, "--json")
    assert code == 1
    report = json.loads(output)
    assert report.pop("seconds") > 0
    findings = report.pop("findings")
    assert [(one["kind"], one["name"]) for one in findings] == [
        ("counter", "dragon:account:demo"),
        ("leftover", NOBODY),
    ]
    assert set(findings[0]) == {"kind", "name", "sentence"}
    assert report == {
        "sound": False,
        "tasks": {"waiting": 0, "reserved": 0, "ended": 0},
        "workers": 0,
        "accounts": 1,
        "unsettled": [],
        "files": 0,
    }


@pytest.mark.timeout(120)
def test_wait_looks_again_until_all_is_sound(redis_url: str, tmp_path: Path) -> None:
    break_it(redis_url)
    code, _, _ = run(redis_url, tmp_path, "--wait", "0.1")
    assert code == 1
    with redis.Redis.from_url(redis_url) as client:
        client.config_resetstat()
        process = start(redis_url, tmp_path, "--wait", "50")
        wait_until(lambda: client.info("commandstats").get("cmdstat_scan", {"calls": 0})["calls"] >= 3)
        assert process.poll() is None, "two looks have found something, and this is the third"
        client.flushall()
    output, _ = process.communicate(timeout=50)
    assert process.returncode == 0
    assert output.startswith("sound: no findings\n")


def test_no_redis_is_neither_sound_nor_unsound(tmp_path: Path) -> None:
    process = start("redis://:a-secret@127.0.0.1:1", tmp_path)
    output, errors = process.communicate(timeout=50)
    assert (process.returncode, output) == (2, "")
    last = errors.splitlines()[-1]
    assert last == "dragon: the task store cannot be reached, try again (redis://***@127.0.0.1:1)"
    assert "a-secret" not in errors


def test_a_redis_that_refuses_says_so(redis_url: str, tmp_path: Path) -> None:
    with redis.Redis.from_url(redis_url) as client:
        client.execute_command("ACL", "SETUSER", "narrow", "on", ">word", "~*", "+@all", "-scan")
        try:
            code, output, errors = run(redis_url.replace("unix://", "unix://narrow:word@"), tmp_path)
        finally:
            client.execute_command("ACL", "DELUSER", "narrow")
    assert (code, output) == (2, "")
    assert errors.startswith("dragon: Redis refuses to be read: NOPERM")


def report(*findings: Finding, unsettled: tuple[str, ...] = (), files: int = 3) -> Report:
    return Report(findings, 1200, 3, 4_000_000, 2, 5, unsettled, files, 12.34)


def test_thousands_of_one_kind_do_not_bury_another() -> None:
    lost = [Finding("lost", key, "it is") for key in new_keys(MOST_PRINTED + 1100)]
    lines = list(as_lines(report(Finding("counter", "x", "y"), *lost)))
    assert len(lines) == 1 + MOST_PRINTED + 1 + 2
    assert lines[-3:] == [
        "lost        and 1,100 more; --json prints all",
        "1,151 findings (counter 1, lost 1,150)",
        "looked at 4,001,203 tasks (1,200 waiting, 3 with workers, 4,000,000 ended), 2 workers, 5 accounts, 3 output "
        "folders in 12.3 s",
    ]


def test_what_could_not_be_compared_is_said() -> None:
    lines = list(as_lines(report(unsettled=("a", "b"), files=-1)))
    assert lines[0] == "sound: no findings"
    assert "5 accounts, no output files (they are not on this machine) in" in lines[1]
    assert lines[2] == (
        "not compared, for their tasks are moving: the counters of the accounts a, b; look again at rest"
    )


@pytest.mark.parametrize("argument", ["--wait=-1", "--nonsense"])
def test_a_wrong_option_is_refused(redis_url: str, tmp_path: Path, argument: str) -> None:
    code, output, errors = run(redis_url, tmp_path, argument)
    assert (code, output) == (2, "")
    assert "Error: " in errors
