"""A Redis of one's own: the users of docs/deploy-redis.md may what dragon does and nothing else, and TLS is checked."""

from __future__ import annotations

import asyncio
import contextlib
import re
import shutil
import ssl
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import orjson
import pytest
import redis

from dragon.auth import hash_key
from dragon.config import ROOT, Config
from dragon.embedded import EmbeddedRedis, find_server
from dragon.errors import EXIT_CONFIG, ConfigError
from dragon.redis_check import check_external
from dragon.store import names
from tests.auditing import assert_sound
from tests.figures import note
from tests.system import SECRET, System, environment, eventually, test_config

OwnSystem = Callable[..., System]
ADMIN = "an admin's password"
PASSWORDS = {
    "dragon-server": "a server's pass/word@1",
    "dragon-worker": "a worker's?#pass:word",
    "dragon-audit": "an auditor's",
}
#: A second account, whose tasks wait in lanes beside those of the first.
OTHER = {"Authorization": "Secret of-the-other"}


def documented_users() -> dict[str, list[str]]:
    """The rules of the users in docs/deploy-redis.md."""
    text = (ROOT / "docs" / "deploy-redis.md").read_text("utf-8")
    found = re.search(r"^```acl\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert found
    lines = [line.split() for line in found[1].splitlines()]
    assert {line[0] for line in lines} == {"user"}
    return {line[1]: line[2:] for line in lines}


@contextlib.contextmanager
def guarded_redis() -> Iterator[tuple[EmbeddedRedis, redis.Redis]]:
    """A server with the documented users, and an admin's connection to it."""
    folder = Path(tempfile.mkdtemp(prefix="dragon-test-"))
    try:
        with EmbeddedRedis(find_server(Config()), folder / "redis", folder / "sock", durable=False) as server:
            with redis.Redis.from_url(server.url) as first:
                first.execute_command("ACL", "SETUSER", "admin", "on", f">{ADMIN}", "~*", "&*", "+@all")
            with redis.Redis.from_url(server.url, username="admin", password=ADMIN) as admin:
                for name, rules in documented_users().items():
                    rules = [f">{PASSWORDS[name]}" if rule.startswith(">") else rule for rule in rules]
                    admin.execute_command("ACL", "SETUSER", name, *rules)
                yield server, admin
    finally:
        shutil.rmtree(folder)


def url_of(server: EmbeddedRedis, user: str) -> str:
    return f"unix://{user}:{quote(PASSWORDS[user], safe='')}@{server.socket}"


def test_the_embedded_server_lets_nobody_but_its_user_near(tmp_path: Path) -> None:
    folder = Path(tempfile.mkdtemp(prefix="dragon-test-"))
    try:
        with EmbeddedRedis(find_server(Config()), folder / "data", folder / "run" / "sock", durable=False) as server:
            assert server.socket.stat().st_mode & 0o777 == 0o700
            assert server.socket.parent.stat().st_mode & 0o777 == 0o700
            assert (folder / "data").stat().st_mode & 0o777 == 0o700
            with redis.Redis.from_url(server.url) as connection:
                assert connection.config_get("port") == {"port": "0"}
    finally:
        shutil.rmtree(folder)


@pytest.mark.timeout(400)
async def test_a_whole_system_lives_on_the_documented_users(tmp_path: Path) -> None:
    with guarded_redis() as (server, admin):
        more: dict[str, Any] = {"files__sweep_interval": 0.2, "worker__lease": 1.5}
        more |= {"worker__heartbeat": 0.3, "worker__stop_grace": 1, "accounts": _two_accounts(tmp_path)}
        serving = System(test_config(tmp_path, url_of(server, "dragon-server"), **more))
        port = serving.config.server.port
        working = System(test_config(tmp_path / "w", url_of(server, "dragon-worker"), server__port=port, **more))
        working.config = working.config.model_copy(update={"data": tmp_path})
        working.count = 10  # its logs beside the server's
        try:
            await asyncio.to_thread(serving.start_server)
            await asyncio.to_thread(working.start_worker, "--executors", "2")
            await _do_everything(serving, working, admin, tmp_path)
            await assert_sound(test_config(tmp_path, url_of(server, "dragon-audit"), **more))
            denied = admin.acl_log()
            # redis-py introduces itself (CLIENT SETINFO), the check at the start tries CONFIG GET; neither minds.
            assert {entry["object"] for entry in denied} <= {"config|get", "client|setinfo"}, denied
            for process in (*serving.processes, *working.processes):
                assert "NOPERM" not in process.output
                for password in PASSWORDS.values():
                    assert password not in process.output
                    assert quote(password, safe="") not in process.output
        finally:
            working.close()
            serving.close()


def _two_accounts(folder: Path) -> Path:
    path = folder / "accounts.toml"
    demo = (ROOT / "conf" / "accounts.toml").read_text("utf-8")
    path.write_text(f'{demo}\n[other]\nname = "The other"\nsecrets = ["{hash_key("of-the-other")}"]\n', "utf-8")
    path.chmod(0o600)
    return path


async def _wait_in_lanes(client: Any, gate: Path) -> None:
    """Tasks of two accounts that wait at the same time, and one of each that is cancelled while it waits."""
    definition = {"task_name": "test.say", "texts": [], "gate": str(gate)}  # two executors: the others wait for these
    busy = [s["key"] for s in await client.create(*[definition] * 4)]
    definitions = [{"task_name": "test.sleep", "seconds": 0.1}] * 5
    keys = {}
    for name, headers in (("demo", SECRET), ("other", OTHER)):
        body = orjson.dumps({"tasks": definitions})
        async with client.session.post("/v1/create", data=body, headers=headers) as answer:
            keys[name] = [status["key"] for status in await answer.json()]
        async with client.session.delete(f"/v1/tasks/{keys[name][2]}", headers=headers) as answer:
            assert (await answer.json())["result"] == "cancelled"
    waiting = await client.status(*keys["demo"], *keys["other"], details=True)
    assert any("position" in status for status in waiting), "a user that may not read the queues knows no places"
    gate.touch()
    final = await client.status(*busy, *keys["demo"], *keys["other"], block=True)
    assert [status["status"] for status in final].count("success") == 12


async def _do_everything(serving: System, working: System, admin: redis.Redis, folder: Path) -> None:
    """Each script, each channel, and what a worker does when another is lost or when it ends."""
    async with serving.client() as client:
        lines = await client.stream(*[{"task_name": "test.progress"}] * 5, {"task_name": "test.die_once"})
        assert {line["status"] for line in lines[-1:]} == {"success"}
        assert (await client.run("test.raise"))["status"] == "error"
        assert (await client.run("test.die"))["status"] == "error"
        made = await client.run("test.file")
        async with client.session.get(made["result"]["output"]) as answer:
            assert answer.status == 200
        query = {"task_name": "test.file", "text": "again", "secret": "123456"}
        for _ in range(2):
            async with client.session.get("/v1/create_file/x.txt", params=query) as answer:
                assert answer.status == 200
        for _ in range(2):
            headers = SECRET | {"Idempotency-Key": "once"}
            body = b'{"tasks": {"task_name": "hello"}, "block": true}'
            async with client.session.post("/v1/create", data=body, headers=headers) as answer:
                assert answer.status == 200
        for seconds, wanted in ((20, "executing"), (20, "queued")):
            # Two executors: the third waits.
            keys = [s["key"] for s in await client.create(*[{"task_name": "test.sleep", "seconds": seconds}] * 3)]
            await client.wait_for_status(keys[0], "executing", 45)
            for key in keys if wanted == "executing" else reversed(keys):
                async with client.session.delete(f"/v1/tasks/{key}", headers=SECRET) as answer:
                    assert (await answer.json())["result"] == "cancelled"
        await _wait_in_lanes(client, folder / "gate-of-lanes")
        fresh = await client.run("test.file", text="fresh")
        assert (await client.status(fresh["key"], details=True))[0]["task_name"] == "test.file"
        said = await client.run("test.say", texts=["one", "two"])
        for follows in ("false", "true"):
            async with client.session.get("/v1/log", params={"task": said["key"], "follow": follows}) as answer:
                assert "two" in await answer.text()
        await _operate(client)
        for path in ("/v1/tasks", "/readyz", "/metrics", "/v1/operator/account", "/v1/operator/overview"):
            async with client.session.get(path, headers=SECRET) as answer:
                assert answer.status == 200
        for path in ("/metrics", "/v1/operator/history"):
            async with client.session.get(path, headers=SECRET) as answer:
                assert answer.status == 200
                assert "dragon_redis_up 0" not in await answer.text()
        await _lose_a_worker(working, client, folder / "gate-of-the-lost")
        # As if their life were over: one that is short enough to wait for would be over too early on a busy machine.
        ended: Any = admin.zrange(names.EXPIRIES, 0, -1)
        assert ended
        admin.zadd(names.EXPIRIES, dict.fromkeys(ended, 1))
        await eventually(lambda: not any(admin.exists(names.TASK + key.decode()) for key in ended), 45)
        assert admin.zcard(names.EXPIRIES) == 0


async def _operate(client: Any) -> None:
    """Each call of the operator API, with something to be done for it."""

    async def call(method: str, path: str, body: Any = None) -> Any:
        data = None if body is None else orjson.dumps(body)
        async with client.session.request(method, f"/v1/operator/{path}", data=data, headers=SECRET) as answer:
            assert answer.status == 200, await answer.text()
            return orjson.loads(await (answer.content.readline() if path.endswith("stream") else answer.read()))

    failed = (await client.run("test.task_error"))["key"]
    assert (await call("POST", "queues/default", {"action": "pause"}))["paused"]
    waiting = [s["key"] for s in await client.create(*[{"task_name": "test.sleep", "seconds": 20}] * 3)]
    for path in (
        "account",
        "overview",
        "overview_stream",
        "tasks?state=waiting",
        f"tasks/{waiting[0]}",
        "tasks_stream",
    ):
        assert await call("GET", path)
    page = await call("GET", "tasks?limit=1")
    while page["next"] is not None:
        page = await call("GET", f"tasks?limit=1&after={page['next']}")
    (group,) = [group for group in (await call("GET", "failures"))["groups"] if failed in group["keys"]]
    retried = (await call("POST", "retry", {"group": group["group"], "limit": 1}))[0]["retried_as"]
    assert (await call("POST", "cancel", {"tasks": [waiting[0]]}))[0]["result"] == "cancelled"
    assert (await call("POST", "queues/default", {"action": "clear"}))["cleared"] == 3
    assert (await client.status(*waiting, retried, block=True))[-1]["result"] == "cancelled"
    assert not (await call("POST", "queues/default", {"action": "resume"}))["paused"]


async def _lose_a_worker(working: System, client: Any, gate: Path) -> None:
    definition = {"task_name": "test.say", "texts": [], "gate": str(gate)}
    key = (await client.create(definition))[0]["key"]
    await client.wait_for_status(key, "executing", 45)
    working.processes[0].kill()
    gate.touch()
    second = await asyncio.to_thread(working.start_worker, "--executors", "1")
    status = await client.wait_for_status(key, "success", 45)
    assert status["result"] == 2
    sleeping = (await client.create({"task_name": "test.sleep", "seconds": 30}))[0]["key"]
    await client.wait_for_status(sleeping, "executing", 45)
    assert await asyncio.to_thread(second.terminate, 60) == 0  # gives it back
    await asyncio.to_thread(working.start_worker, "--executors", "1")
    async with client.session.delete(f"/v1/tasks/{sleeping}", headers=SECRET) as answer:
        assert answer.status == 200
    assert (await client.run("hello"))["status"] == "success"


REFUSED: list[tuple[Any, ...]] = [
    ("CONFIG", "GET", "requirepass"),
    ("CONFIG", "SET", "dir", "/tmp"),
    ("KEYS", "*"),
    ("SCAN", "0"),
    ("FLUSHALL",),
    ("FLUSHDB",),
    ("DEBUG", "SLEEP", "0"),
    ("MODULE", "LIST"),
    ("MODULE", "LOAD", "/tmp/x.so"),
    ("ACL", "LIST"),
    ("ACL", "SETUSER", "me"),
    ("MONITOR",),
    ("SHUTDOWN", "NOSAVE"),
    ("SAVE",),
    ("BGREWRITEAOF",),
    ("REPLICAOF", "127.0.0.1", "1"),
    ("CLIENT", "LIST"),
    ("CLIENT", "KILL", "TYPE", "normal"),
    ("SCRIPT", "FLUSH"),
    ("FUNCTION", "LIST"),
    ("MIGRATE", "127.0.0.1", "1", "x", "0", "1"),
    ("RESTORE", "rq:job:x", "0", "x"),
    ("DUMP", "rq:job:x"),
    ("RENAME", "rq:queue:x", "other:secret"),
    ("SELECT", "1"),
    ("SWAPDB", "0", "1"),
    ("OBJECT", "ENCODING", "rq:job:x"),
    ("GET", "other:secret"),
    ("SET", "other:secret", "x"),
    ("DEL", "other:secret"),
    ("HGETALL", "rq:job:x"),
    ("PUBLISH", "other", "x"),
    ("SUBSCRIBE", "other"),
    ("PSUBSCRIBE", "*"),
    ("EVAL", "return redis.call('GET', 'other:secret')", "0"),
    ("EVAL", "return redis.call('FLUSHALL')", "0"),
    ("EVAL", "return redis.call('KEYS', '*')", "0"),
    ("EVAL", "return redis.call('CONFIG', 'GET', '*')", "0"),
]
REFUSED_OF: dict[str, list[tuple[Any, ...]]] = {
    "dragon-server": [
        ("ZADD", "dragon:workers", "1", "x"),
        ("HSET", "rq:worker:x", "a", "b"),
        ("SUBSCRIBE", "rq:pubsub:x"),
    ],
    "dragon-worker": [("GET", "dragon:idempotency:x"), ("SET", "rq:suspended", "1"), ("SET", "rq:suspended", "0")],
}


@pytest.mark.parametrize("user", ["dragon-server", "dragon-worker"])
def test_a_documented_user_may_nothing_else(user: str) -> None:
    refused = REFUSED + REFUSED_OF[user]
    with guarded_redis() as (server, admin):
        admin.set("other:secret", "kept")
        for command in refused:
            with redis.Redis.from_url(url_of(server, user)) as connection:
                with pytest.raises(redis.ResponseError) as error:
                    connection.execute_command(*command)
                said = str(error.value)
                assert re.search("permissions|ACL failure|NOPERM|command (is )?not allowed", said), (command, said)
        with redis.Redis.from_url(server.url) as nobody, pytest.raises(redis.AuthenticationError):
            nobody.ping()
        assert admin.get("other:secret") == b"kept"
        assert admin.ping()
    note("boundary", f"{len(refused)} commands as the documented user {user}", "all refused")


def test_the_check_at_the_start_says_what_a_user_may_not_look_at() -> None:
    with guarded_redis() as (server, admin):
        (warning,) = check_external(url_of(server, "dragon-server"))
        assert "forbids CONFIG" in warning
        admin.execute_command("ACL", "SETUSER", "dragon-server", "-info")
        (warning,) = check_external(url_of(server, "dragon-server"))
        assert "forbids INFO" in warning
        with pytest.raises(ConfigError, match="refuses us: its URL must hold the right password"):
            check_external(f"unix://dragon-server:wrong@{server.socket}")


# TLS


class TlsInFront:
    """A TLS server in front of a Redis's socket, in a thread of its own; its port is on 127.0.0.1."""

    def __init__(self, target: Path, certificate: Path, key: Path) -> None:
        self._target = target
        self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._context.load_cert_chain(certificate, key)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._tasks: set[asyncio.Task[Any]] = set()
        self.port = 0

    async def _serve(self) -> None:
        self._loop.set_exception_handler(lambda _loop, _context: None)  # refused handshakes are the test
        self._server = await asyncio.start_server(self._handle, "127.0.0.1", 0, ssl=self._context)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        inner_reader, inner_writer = await asyncio.open_unix_connection(str(self._target))
        try:
            await asyncio.gather(self._copy(reader, inner_writer), self._copy(inner_reader, writer))
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            writer.close()
            inner_writer.close()
            self._tasks.discard(task)

    @staticmethod
    async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.close()

    async def _stop(self) -> None:
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def __enter__(self) -> TlsInFront:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._serve(), self._loop).result(10)
        return self

    def __exit__(self, *exc_info: object) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()


class Authority:
    """A CA that was made here, and certificates signed by it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.file = folder / "ca.pem"
        self._openssl("req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=ours")

    def _openssl(self, command: str) -> None:
        files = ["-keyout", str(self._folder / "ca.key"), "-out", str(self.file)]
        subprocess.run(["openssl", *command.split(), *files], check=True, capture_output=True)

    def certificate(self, host: str) -> tuple[Path, Path]:
        key, file = self._folder / f"{host}.key", self._folder / f"{host}.pem"
        command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
        kind = "IP" if host[0].isdigit() else "DNS"
        more = ["-subj", f"/CN={host}", "-addext", f"subjectAltName={kind}:{host}"]
        signer = ["-CA", str(self.file), "-CAkey", str(self._folder / "ca.key")]
        subprocess.run(
            [*command.split(), *more, *signer, "-keyout", str(key), "-out", str(file)], check=True, capture_output=True
        )
        return file, key


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


def rediss(port: int, **query: object) -> str:
    return f"rediss://127.0.0.1:{port}/0?" + "&".join(f"{name}={value}" for name, value in query.items())


@pytest.mark.timeout(180)
async def test_a_system_works_over_tls(redis_url: str, tmp_path: Path, authority: Authority) -> None:
    socket = Path(redis_url.removeprefix("unix://"))
    with TlsInFront(socket, *authority.certificate("127.0.0.1")) as front:
        url = rediss(front.port, ssl_ca_certs=authority.file)
        system = System(test_config(tmp_path, url))
        try:
            await asyncio.to_thread(system.start_server)
            await asyncio.to_thread(system.start_worker, "--executors", "1")
            async with system.client() as client:
                lines = await client.stream(*[{"task_name": "test.progress"}] * 20)
                assert sum(line["status"] == "success" for line in lines[1:]) == 20
                large = await client.run("test.large", size=2_000_000)
                assert len(large["result"]) == 2_000_000
                await client.run("test.file")
            for process in system.processes:
                assert "Traceback" not in process.output
                assert "cannot be reached" not in process.output
        finally:
            system.close()


def test_a_certificate_that_cannot_be_trusted_is_refused_at_the_start(
    redis_url: str, tmp_path: Path, authority: Authority
) -> None:
    socket = Path(redis_url.removeprefix("unix://"))
    with TlsInFront(socket, *authority.certificate("127.0.0.1")) as front:
        assert check_external(rediss(front.port, ssl_ca_certs=authority.file))  # warnings, and no error
        with pytest.raises(ConfigError, match=r"shows a certificate that cannot be trusted .*ssl_ca_certs"):
            check_external(rediss(front.port))
        env = environment(test_config(tmp_path, rediss(front.port)))
        command = [sys.executable, "run_server.py"]
        ended = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=55)
        assert ended.returncode == EXIT_CONFIG
        assert "shows a certificate that cannot be trusted" in ended.stderr
    with (
        TlsInFront(socket, *authority.certificate("redis.example")) as front,
        pytest.raises(ConfigError, match="shows a certificate that cannot be trusted"),
    ):
        check_external(rediss(front.port, ssl_ca_certs=authority.file))


async def test_a_redis_without_tls_is_said_to_have_none() -> None:
    async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"-ERR unknown command\r\n")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    with pytest.raises(ConfigError, match="does not speak TLS: use redis://"):
        await asyncio.to_thread(check_external, rediss(port))
    server.close()
