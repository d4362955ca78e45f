"""The supervisor, as a process with real children: who starts when, who is started again, what is left at the end."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from dragon.config import Config, RedisConfig, ServerConfig
from dragon.embedded import ping, socket_path
from dragon.errors import ConfigError
from dragon.processes import next_pause
from dragon.supervisor import server_children, settle_port, worker_child
from tests.waiting import PATIENCE, is_alive, wait_until

# What every script below begins with: a child that says what happens to it, and one that ignores SIGTERM.
PROLOGUE = """
import os, sys
from pathlib import Path
from dragon import processes, supervisor
from dragon.supervisor import Child, Supervisor

POLITE = '''
import os, signal, sys
name = sys.argv[1]
def end(*_):
    print(name, "ends", flush=True)
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
print(name, "is", os.getpid(), flush=True)
while True:
    signal.pause()
'''
STUBBORN = '''
import os, signal, sys
signal.signal(signal.SIGTERM, lambda *_: print("stubborn goes on", flush=True))
print(sys.argv[1], "is", os.getpid(), flush=True)
while True:
    signal.pause()
'''

def child(name, stage=0, code=POLITE, **more):
    return Child(name, [sys.executable, "-c", code, name], os.environ, stage, **more)

def all_ready():
    print("all ready", flush=True)

def run(*children):
    sys.exit(Supervisor(children, all_ready).run())
"""


class Running:
    """A supervisor process and what it and its children have printed."""

    def __init__(self, script: str, output: Path, *arguments: str) -> None:
        self._output = output
        with output.open("wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-c", PROLOGUE + textwrap.dedent(script), *arguments],
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def text(self) -> str:
        return self._output.read_text()

    @property
    def lines(self) -> list[str]:
        return self.text.splitlines()

    def wait_for(self, line: str, times: int = 1) -> None:
        wait_until(lambda: self.lines.count(line) >= times, what=f"{line!r} {times} times in\n{self.text}")

    def pids(self, name: str) -> list[int]:
        """Of all lives of a child, so far."""
        return [int(pid) for pid in re.findall(rf"^{name} is (\d+)$", self.text, re.MULTILINE)]

    def wait_for_pid(self, name: str, life: int = 1) -> int:
        return wait_until(lambda: self.pids(name)[life - 1 :], what=f"life {life} of {name} in\n{self.text}")[0]

    def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(PATIENCE)


Start = Callable[..., Running]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    with contextlib.ExitStack() as stack:

        def start(script: str, *arguments: str) -> Running:
            running = Running(script, tmp_path / "output", *arguments)
            stack.callback(running.process.wait)
            stack.callback(running.process.kill)
            return running

        yield start


THREE = 'run(child("redis", 0), child("worker", 1), child("server", 2))'


def test_stages_end_in_reverse_order(start: Start) -> None:
    running = start(THREE)
    for name in ("redis", "worker", "server"):
        running.wait_for_pid(name)
    assert running.end(signal.SIGINT) == 0
    assert [line for line in running.lines if line.endswith("ends")] == ["server ends", "worker ends", "redis ends"]


def test_a_stage_waits_until_the_one_before_is_ready(start: Start, tmp_path: Path) -> None:
    script = """
        flag = Path(sys.argv[1])
        run(child("redis", 0, ready=lambda: "" if flag.exists() else "no flag"), child("server", 1))
    """
    running = start(script, str(tmp_path / "flag"))
    running.wait_for_pid("redis")
    assert not running.pids("server")
    (tmp_path / "flag").touch()
    running.wait_for_pid("server")
    running.wait_for("all ready")
    assert running.end() == 0


def test_who_is_slow_to_be_ready_is_named_with_what_is_missing(start: Start) -> None:
    running = start('supervisor.PATIENCE = 0.1; run(child("server", ready=lambda: "no worker"))')
    running.wait_for("dragon: server is not ready after 0.1 s, still waiting: no worker")
    assert running.end() == 0
    assert "all ready" not in running.lines


def test_a_dead_child_is_started_again_and_the_others_live_on(start: Start) -> None:
    running = start(THREE)
    running.wait_for_pid("server")
    os.kill(running.wait_for_pid("worker"), signal.SIGKILL)
    running.wait_for("dragon: worker has ended (killed by SIGKILL), starting it again in 0.5 s")
    running.wait_for_pid("worker", life=2)
    assert running.end() == 0
    assert [len(running.pids(name)) for name in ("redis", "worker", "server")] == [1, 2, 1]
    assert running.lines.count("all ready") == 1


def test_the_pause_doubles_up_to_half_a_minute_and_is_forgotten_after_a_long_life() -> None:
    pauses = [0.0]
    for _ in range(8):
        pauses.append(next_pause(pauses[-1], 1.0))
    assert pauses[1:] == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
    assert next_pause(30.0, 30.0) == 0.5


def test_a_child_that_keeps_dying_at_once_is_explained(start: Start) -> None:
    running = start(
        "processes.FIRST_PAUSE, supervisor.QUICK_DEATH = 0.01, 20.0; run(child('server', code='raise SystemExit(3)'))"
    )
    sentence = r"server has now died 5 times right after its start, so this will not heal by itself"
    wait_until(lambda: re.search(sentence, running.text), what="the explanation")
    assert "dragon: server has ended (exit code 3), starting it again in 0.01 s" in running.lines
    assert running.end() == 0


def test_a_program_that_is_not_there_is_tried_again(start: Start) -> None:
    running = start("run(Child('server', ['/nowhere/server'], os.environ))")
    running.wait_for("dragon: server cannot be started: No such file or directory, starting it again in 0.5 s")
    assert running.end() == 0


def test_a_child_that_says_its_settings_are_wrong_ends_all(start: Start, tmp_path: Path) -> None:
    script = """
        output = Path(sys.argv[1])
        redis = child("redis", ready=lambda: "" if "redis is" in output.read_text() else "a word")
        run(redis, child("server", 1, "print('no setting x', flush=True); raise SystemExit(78)"))
    """
    running = start(script, str(tmp_path / "output"))
    assert running.process.wait(PATIENCE) == 78
    assert running.lines.count("no setting x") == 1
    assert running.lines[-1] == "redis ends"
    assert not is_alive(running.wait_for_pid("redis"))


def test_a_child_that_ignores_the_end_is_killed_after_its_grace(start: Start) -> None:
    running = start('run(child("redis"), child("stubborn", 1, STUBBORN, grace=2))')
    pid = running.wait_for_pid("stubborn")
    assert running.end() == 0
    assert "stubborn goes on" in running.lines
    assert "redis ends" in running.lines
    assert not is_alive(pid)


def test_a_second_ctrl_c_kills_at_once(start: Start) -> None:
    running = start('run(child("redis"), child("stubborn", 1, STUBBORN, grace=60))')
    pid = running.wait_for_pid("stubborn")
    running.process.send_signal(signal.SIGINT)
    running.wait_for("stubborn goes on")
    assert running.end(signal.SIGINT) == 0
    assert not is_alive(pid)


def test_the_terminal_going_away_is_an_orderly_end(start: Start) -> None:
    running = start(THREE)
    running.wait_for_pid("server")
    assert running.end(signal.SIGHUP) == 0
    assert "redis ends" in running.lines


def test_nothing_is_left_when_the_supervisor_is_killed(start: Start) -> None:
    running = start(THREE)
    pids = [running.wait_for_pid(name) for name in ("redis", "worker", "server")]
    running.end(signal.SIGKILL)
    for pid in pids:
        wait_until(lambda pid=pid: not is_alive(pid))  # type: ignore[misc]


# A child with a child of its own, which runs in another session: nobody's group, nobody's terminal.
FORKING = '''
FORKING = POLITE.replace("while True", """
import subprocess
for name, own in (("same", False), ("other", True)):
    grandchild = subprocess.Popen(["sleep", "1000"], start_new_session=own)
    print(name, "is", grandchild.pid, flush=True)
while True""")
run(child("worker", code=FORKING))
'''


@pytest.mark.skipif(sys.platform != "linux", reason="adopting orphans is a thing of Linux")
def test_what_a_killed_child_leaves_behind_ends_too(start: Start) -> None:
    running = start(FORKING)
    same, other = running.wait_for_pid("same"), running.wait_for_pid("other")
    os.kill(running.wait_for_pid("worker"), signal.SIGKILL)
    wait_until(lambda: not is_alive(same))  # at once: it was of the worker's session
    running.wait_for_pid("worker", life=2)
    assert running.end() == 0
    assert not any(is_alive(pid) for pid in (other, *running.pids("same"), *running.pids("other")))


# ---- dragon's own children


def test_all_children_find_the_redis_and_the_address_that_were_settled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRAGON_SERVER__PORT_FILE", "/nowhere")
    config = settle_port(Config(server=ServerConfig(port=0, processes=2)))
    assert config.server.port > 0
    children = [worker_child(config), *server_children(config)]
    assert [child.name for child in children] == ["worker", "server 1", "server 2"]
    for child in children:
        assert child.environ["DRAGON_SERVER__PORT"] == str(config.server.port)
        assert child.environ["DRAGON_REDIS__URL"] == f"unix://{socket_path(config)}"
        assert "DRAGON_SERVER__PORT_FILE" not in child.environ


def test_a_port_that_is_taken_is_said_before_anything_starts() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ConfigError, match=f"127.0.0.1 port {port} is taken by another program"):
            settle_port(Config(server=ServerConfig(port=port)))


@pytest.mark.parametrize("host", ["no such host", "203.0.113.1"])
def test_a_host_that_is_not_ours_is_said(host: str) -> None:
    with pytest.raises(ConfigError, match=host):
        settle_port(Config(server=ServerConfig(host=host)))


# `up` with stand-ins for the server and the worker, and the real embedded Redis.
UP = """
from dragon.config import load_config

SERVER = '''
import http.server, os, signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
print("server is", os.getpid(), flush=True)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/readyz" else 404)
        self.end_headers()
    def log_message(self, *_): pass
http.server.HTTPServer(("127.0.0.1", int(os.environ["DRAGON_SERVER__PORT"])), Handler).serve_forever()
'''

def stand_in(code, real):
    return Child(real.name, [sys.executable, "-c", code, real.name], real.environ, real.stage, real.grace, real.ready)

servers, worker = supervisor.server_children, supervisor.worker_child
supervisor.server_children = lambda *arguments: [stand_in(SERVER, real) for real in servers(*arguments)]
supervisor.worker_child = lambda *arguments: stand_in(POLITE, worker(*arguments))
sys.exit(supervisor.up(load_config()))
"""


@pytest.fixture
def whole(start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Running, Config]]:
    """`dragon up`, once it is ready."""
    config = Config(data=tmp_path / "var")
    monkeypatch.setenv("DRAGON_DATA", str(config.data))
    monkeypatch.setenv("PORT", "0")
    running = start(UP)
    wait_until(lambda: "dragon is ready" in running.text or running.process.poll() is not None)
    assert running.process.poll() is None, running.text
    yield running, config
    if not socket_path(config).is_relative_to(tmp_path):
        socket_path(config).parent.rmdir()


def redis_pid(config: Config) -> int:
    with redis.Redis(unix_socket_path=str(socket_path(config))) as client:
        return int(client.info("server")["process_id"])


def test_up_says_how_to_try_it_and_ends_all_of_it(whole: tuple[Running, Config]) -> None:
    running, config = whole
    (address,) = re.findall(r"dragon is ready at (http://127\.0\.0\.1:\d+) ", running.text)
    assert "secret key 123456, api key 654321" in running.text
    assert f"curl -N {address}/v1/create_stream -H 'Authorization: Secret 123456'" in running.text
    assert f"{address}/v1/create_file/cat.jpg?task_name=image.thumb&width=300" in running.text
    assert f"&url={address}/static/sample.jpg" in running.text
    pid = redis_pid(config)
    assert running.end(signal.SIGINT) == 0
    assert not is_alive(pid)


def test_up_starts_a_killed_redis_again(whole: tuple[Running, Config]) -> None:
    running, config = whole
    first = redis_pid(config)
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: not is_alive(first) and ping(socket_path(config)) == "ready")
    assert redis_pid(config) != first
    assert running.end() == 0
    assert len(running.pids("server")) == 1


def test_up_starts_a_killed_keeper_again(whole: tuple[Running, Config]) -> None:
    running, config = whole
    first = redis_pid(config)
    os.kill(int((config.data_dir / "redis" / "lock").read_text()), signal.SIGKILL)
    wait_until(lambda: not is_alive(first) and ping(socket_path(config)) == "ready")
    assert running.end() == 0


def test_up_leaves_nothing_when_it_is_killed(whole: tuple[Running, Config]) -> None:
    running, config = whole
    pids = [redis_pid(config), *running.pids("server"), *running.pids("worker")]
    assert len(pids) == 3
    running.end(signal.SIGKILL)
    for pid in pids:
        wait_until(lambda pid=pid: not is_alive(pid))  # type: ignore[misc]
    assert ping(socket_path(config)) == "away"


def test_up_refuses_an_external_redis_that_evicts(
    start: Start, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DRAGON_REDIS_URL", redis_url)
    with redis.Redis.from_url(redis_url) as client:
        client.config_set("maxmemory", "100mb")
        client.config_set("maxmemory-policy", "allkeys-lru")
        try:
            command = [sys.executable, "-m", "dragon", "up", "--port", "0"]
            done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
        finally:
            client.config_set("maxmemory", "0")
            client.config_set("maxmemory-policy", "noeviction")
    assert done.returncode == 78
    assert done.stderr.startswith("dragon: the Redis at unix://")
    assert done.stderr.count("\n") == 1


def test_an_external_redis_needs_no_keeper() -> None:
    from dragon.supervisor import redis_children

    assert redis_children(Config(redis=RedisConfig(url="redis://127.0.0.1:1"))) == []
