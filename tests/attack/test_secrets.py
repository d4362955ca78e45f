"""Canary secrets are sent into every place of a whole dragon, and then looked for everywhere else."""

from __future__ import annotations

import contextlib
import ctypes
import gzip
import hashlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import redis

from dragon.config import ROOT, Config
from dragon.embedded import EmbeddedRedis, find_server
from dragon.processes import children_of
from dragon.signing import sign_url
from tests.attack.prying_tasks import CANARY, memory_canaries
from tests.attack.wire import Heard, Wire
from tests.figures import note
from tests.system import MODULES, Process, System, environment, free_port, test_config
from tests.waiting import wait_until

HELLO = {"task_name": "hello"}
UNKNOWN = "A" * 26
PAGE = "https://pages.example.com"
LIMIT = 1 << 20
TRACING = (19, 21, 38)  # CAP_SYS_PTRACE, CAP_SYS_ADMIN, CAP_PERFMON


def canary(name: str) -> str:
    return f"canary7{name}7{secrets.token_hex(12)}"


@dataclass
class Canaries:
    """What must never be seen anywhere; `visible` must, or the search would not be one."""

    secret: str = field(default_factory=lambda: canary("secret"))
    other_secret: str = field(default_factory=lambda: canary("othersecret"))
    api_key: str = field(default_factory=lambda: canary("apikey"))
    wrong: str = field(default_factory=lambda: canary("wrong"))
    redis: str = field(default_factory=lambda: canary("redis"))
    idempotency: str = field(default_factory=lambda: canary("idempotency"))
    url: str = field(default_factory=lambda: canary("url"))
    visible: str = field(default_factory=lambda: canary("visible"))

    def spellings(self) -> dict[bytes, str]:
        """Every text that gives one of them away, with its name."""
        found: dict[bytes, str] = {}
        for name, value in vars(self).items():
            if name != "visible":
                digest = hashlib.sha256(value.encode()).hexdigest()
                found |= {value.encode(): name, digest.encode(): f"the hash of {name}"}
                found[value.encode().hex().encode()] = f"{name} in hexadecimal"
        return found


class UpSystem(System):
    """`dragon up`, which is told of its Redis by a file, and may not trace other processes although it is root."""

    url_file: Path

    def start_up(self) -> Process:
        log = self.config.data_dir / "up.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        given = environment(self.config) | {"DRAGON_REDIS__URL_FILE": str(self.url_file)}
        with log.open("wb") as file:
            popen = subprocess.Popen(
                [sys.executable, "-m", "dragon", "up"],
                cwd=ROOT,
                env=given,
                stdout=file,
                stderr=file,
                preexec_fn=may_not_trace,
            )
        process = Process(popen, log)
        self.processes.append(process)
        process.wait_for("is ready at", 90)
        return process


def may_not_trace() -> None:
    """As in a container: root without what opens other processes (any other user has nothing to give up)."""
    if os.getuid() == 0:
        for capability in TRACING:
            ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP


class Monitor:
    """Everything that is sent to Redis, as MONITOR tells it."""

    def __init__(self, port: int, password: str) -> None:
        self.data = b""
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.sendall(f"AUTH {password}\r\nMONITOR\r\n".encode())
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        with contextlib.suppress(OSError):
            while chunk := self._socket.recv(1 << 16):
                self.data += chunk

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join(5)
        self._socket.close()


@dataclass
class Vault:
    """A whole dragon with canaries for secrets, and all that it ever said."""

    canaries: Canaries
    system: UpSystem
    up: Process
    embedded: EmbeddedRedis
    store: Any
    monitor: Monitor
    folder: Path
    answers: list[Heard] = field(default_factory=list)

    @property
    def wire(self) -> Wire:
        return Wire(self.system.config.server.port)

    def ask(self, method: str, target: str, headers: dict[str, str] | None = None, body: Any = None) -> Heard:
        """One request on a connection of its own; its answer is kept."""
        with self.wire as wire:
            heard = wire.ask(method, target, headers, body)
        self.answers.append(heard)
        return heard

    def processes(self) -> dict[int, str]:
        """Every process of this dragon with its command line."""
        found: dict[int, str] = {}
        waiting = [self.up.pid]
        while waiting:
            pid = waiting.pop()
            with contextlib.suppress(OSError):
                found[pid] = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
                waiting += children_of(pid)
        return found

    def told(self) -> dict[str, bytes]:
        """Every place to search, by name."""
        processes = self.processes()
        places = {f"answer {i}": heard.text.encode() for i, heard in enumerate(self.answers)}
        places |= {f"argv of {pid}": line.encode() for pid, line in processes.items()}
        for pid, line in processes.items():
            if "dragon.worker.forkserver" in line:  # and the executors, which are forks of it
                places[f"environment of {pid}"] = Path(f"/proc/{pid}/environ").read_bytes()
        places |= {
            str(path): path.read_bytes() for path in self.folder.rglob("*") if path.is_file() and self._is_told(path)
        }
        return places | {"Redis: MONITOR": self.monitor.data, "Redis: keys and values": everything_in(self.store)}

    def _is_told(self, path: Path) -> bool:
        return path not in (self.system.url_file, self.system.config.accounts_file)


def everything_in(store: Any) -> bytes:
    """All keys with all of their values, as they are read back."""
    readers = {
        b"string": store.get,
        b"hash": store.hgetall,
        b"set": store.smembers,
        b"zset": lambda name: store.zrange(name, 0, -1, withscores=True),
        b"list": lambda name: store.lrange(name, 0, -1),
        b"stream": store.xrange,
    }
    return b"\n".join(repr((name, readers[store.type(name)](name))).encode() for name in store.scan_iter("*"))


@pytest.fixture(scope="module")
def vault() -> Iterator[Vault]:
    folder = Path(tempfile.mkdtemp(prefix="dragon-test-"))
    found = Canaries()
    server = EmbeddedRedis(find_server(Config()), folder / "redis", folder / "sock")
    server.acquire()
    server.start()
    port = free_port()
    accounts = folder / "accounts.toml"
    accounts.write_text(
        f"[vault]\nsecrets = {[hashed(found.secret), hashed(found.other_secret)]}\n"
        f"api_keys = {[hashed(found.api_key)]}\nreferrers = ['pages.example.com']\n"
    )
    url_file = folder / "redis-url"
    url_file.write_text(f"redis://:{found.redis}@127.0.0.1:{port}/0\n")
    config = test_config(
        folder / "data",
        "",
        accounts=accounts,
        log__level="debug",
        redis__timeout=0.5,
        worker__executors=1,
        server__file_wait=1.0,
        tasks__modules=(*MODULES, "tests.attack.prying_tasks"),
    )
    system = UpSystem(config)
    system.url_file = url_file
    try:
        with redis.Redis.from_url(server.url) as store:
            store.config_set("port", port)
            store.config_set("requirepass", found.redis)
            store.execute_command("AUTH", found.redis)
            monitor = Monitor(port, found.redis)
            yield Vault(found, system, system.start_up(), server, store, monitor, folder)
            monitor.close()
    finally:
        system.close()
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


def hashed(key: str) -> str:
    return f"sha256:{hashlib.sha256(key.encode()).hexdigest()}"


# --- what is sent -----------------------------------------------------------------------------------------------------


def credentials(found: Canaries) -> Iterator[tuple[dict[str, str], dict[str, Any], str]]:
    """Headers, members of the body and a querystring: right and wrong keys in every place, in many spellings."""
    for key in (found.secret, found.other_secret, found.wrong):
        for header in (f"Secret {key}", f"secret\t{key}", f"Secret:{key}", key, f"Bearer {key}", f"Secret {key} x"):
            yield {"Authorization": header}, {}, ""
        yield {}, {"secret": key}, f"secret={key}"
        yield {}, {"secret": [key]}, f"secret={key}&secret={key}"
        yield {}, {"secret": {"key": key}, "api_key": key}, f"api_key={key}"
        yield {"Cookie": f"secret={key}", "X-Api-Key": key}, {"Secret": key}, ""
    for key in (found.api_key, found.wrong):
        for page in (
            PAGE,
            "https://evil.net",
            f"https://{found.wrong}@evil.net/{found.wrong}?key={found.wrong}",
            "null",
        ):
            yield {"Authorization": f"Api-Key {key}", "Origin": page}, {}, ""
            yield {"Referer": page}, {"api_key": key}, f"api_key={key}"
    yield {"Authorization": f"Secret {found.secret}", "Idempotency-Key": found.idempotency}, {}, ""
    yield {"Authorization": f"Secret {found.secret}", "Idempotency-Key": found.idempotency * 20}, {}, ""


def whole_requests(found: Canaries) -> Iterator[tuple[str, str, dict[str, str], Any]]:
    """Requests that are HTTP: good ones and bad ones, on every route."""
    key = f"http://user:{found.url}@127.0.0.1:9/cat.jpg"
    for number, (headers, members, query) in enumerate(credentials(found)):
        for tasks in (HELLO, [], 3, [HELLO, {"task_name": 3}]):
            yield "POST", f"/v1/create?{query}", headers, {"tasks": tasks, **members}
        yield "POST", "/v1/create_stream", headers, {"tasks": [HELLO], **members}
        yield "POST", f"/v1/create_file/a.txt?{query}", headers, {"task": {"task_name": "test.file"}, **members}
        for name in ("test.file", "test.task_error", "hello", "nobody", "test.two_files"):
            yield "GET", f"/v1/create_file/a.txt?task_name={name}&text={number}&{query}", headers, None
        for path in (
            "/v1/status",
            "/v1/stream",
            "/v1/file",
            "/v1/log",
            "/v1/tasks",
            "/metrics",
            "/healthz",
            "/",
            "/nowhere",
        ):
            yield "GET", f"{path}?tasks={UNKNOWN}&task={UNKNOWN}&{query}", headers, None
        for path in (
            "account",
            "overview",
            "tasks",
            "failures",
            f"tasks/{UNKNOWN}",
            f"tasks?text={found.wrong}&after=x",
        ):
            yield "GET", f"/v1/operator/{path}{'&' if '?' in path else '?'}{query}", headers, None
        for path in ("retry", "cancel", "queues/default", f"queues/{found.wrong}"):
            yield "POST", f"/v1/operator/{path}?{query}", headers, {"tasks": UNKNOWN, "action": "pause", **members}
        yield "POST", f"/v1/status?{query}", headers, {"tasks": UNKNOWN, **members}
        yield "PUT", f"/v1/create?{query}", headers, {"tasks": HELLO, **members}
        yield "DELETE", f"/v1/tasks/{UNKNOWN}?{query}", headers, None
    right = {"Authorization": f"Secret {found.secret}"}
    for name in ("hello", "image.info", "nobody", "test.fetch"):  # a key, or a password, in a task's parameters
        yield (
            "POST",
            "/v1/create",
            right,
            {"tasks": {"task_name": name, "secret": found.secret, "api_key": found.api_key}},
        )
        yield "POST", "/v1/create", right, {"tasks": {"task_name": name, "url": key, "urls": [key]}, "block": True}
        yield "POST", "/v1/create", right, {"tasks": {"task_name": name, "url": key}, "block": True}
    for name in ("image.info", "image.thumb", "nobody"):
        yield "GET", f"/v1/create_file?task_name={name}&url={key}", right, None
    for secret in (found.secret, found.other_secret):
        for url in ("/v1/create_file/a.txt?task_name=test.file", f"/v1/file?task={UNKNOWN}"):
            for seconds in (60, -60):
                signed = sign_url(url, "vault", secret, int(time.time() + seconds))
                yield "GET", signed, {}, None
                yield "GET", signed + "x", right, None
    yield "POST", "/v1/create", right, {"tasks": {**HELLO, "name": found.visible}, "block": True}


def broken_requests(found: Canaries) -> Iterator[bytes]:
    """Requests that are no HTTP, or no JSON, or too much."""
    for key in (found.secret, found.wrong):
        head = f"Host: x\r\nConnection: close\r\nAuthorization: Secret {key}\r\n".encode()
        text = f'"secret": "{key}"'.encode()
        bodies = [
            b"{" + text,
            b"{" + text + b", oops}",
            b"[" * 200 + b"{" + text + b"}" + b"]" * 200,
            b"{" + text + b'}{"a": 1}',
            b"{" + text + b', "tasks": NaN}',
            b"{" + text + b', "fill": "' + b"x" * LIMIT + b'"}',
            ("{" + text.decode() + "}").encode("utf-16"),
            f"secret={key}&tasks=x".encode(),
            f"--x\r\nContent-Disposition: form-data; name=secret\r\n\r\n{key}\r\n--x--".encode(),
        ]
        for path in (b"/v1/create", b"/v1/create_stream", b"/v1/create_file", b"/v1/status"):
            for body in bodies:
                yield b"POST " + path + b" HTTP/1.1\r\n" + head + b"Content-Length: %d\r\n\r\n" % len(body) + body
        for encoding in (b"gzip", b"deflate", b"br", b"zstd", key.encode()):
            for body in (text, gzip.compress(text)):
                yield (
                    b"POST /v1/create HTTP/1.1\r\nContent-Encoding: " + encoding + b"\r\n" + head
                    + b"Content-Length: %d\r\n\r\n" % len(body) + body
                )  # fmt: skip
        for line in (
            f"GET /v1/create_file?secret={key}&x=\xff HTTP/1.1",
            f"GET /v1/create_file?secret={key} HTTP/9.9",
            f"G@T /v1/create_file?secret={key} HTTP/1.1",
            f"BREW /v1/create_file?secret={key} HTTP/1.1",
            f"GET http://[{key}/v1/create_file?secret={key} HTTP/1.1",
            f"GET http://{key}@localhost/v1/create_file?secret={key} HTTP/1.1",
            f"CONNECT {key}:443 HTTP/1.1",
            f"GET /healthz?secret={key}{'a' * 70_000} HTTP/1.1",
            f"GET /v1/create_file?secret={key}&%zz=%00 HTTP/1.1",
            f"GET /v1/create_file?secret={key}\x00 HTTP/1.1",
        ):
            yield line.encode("latin-1") + b"\r\n" + head + b"\r\n"
        for line in (
            f"X-Long: {key}{'a' * 20_000}",
            f"Authorization Secret {key}",
            f"Content-Length: {key}",
            f"Transfer-Encoding: {key}",
            f"Transfer-Encoding: chunked\r\n\r\n{key}",
            f"Transfer-Encoding: chunked\r\n\r\n5;{key}\r\nhello\r\n0\r\n{key}",
            f"Expect: {key}",
            f"Upgrade: {key}\r\nConnection: upgrade",
            f"Range: bytes={key}",
            f"If-Modified-Since: {key}",
            f"Cookie: {key}={key}; =;",
            f"X: a\r\n {key}",
            f"X: \x00{key}",
        ):
            yield b"POST /v1/create HTTP/1.1\r\n" + line.encode("latin-1") + b"\r\n" + head + b"\r\n{}"
        yield f"*1\r\n$4\r\nAUTH {key}\r\n".encode()
        yield f"GET /v1/create_file?secret={key}\r\n".encode()


def send_everything(vault: Vault) -> int:
    with vault.wire as wire:
        for method, target, headers, body in whole_requests(vault.canaries):
            vault.answers.append(wire.ask(method, target, headers, body))
        for request in broken_requests(vault.canaries):
            vault.answers += wire.converse(request)
        return wire.sent


def send_while_redis_is_away(vault: Vault) -> None:
    """Hung, and then with another password than the one that dragon has."""
    found = vault.canaries
    process = vault.embedded.process
    assert process is not None
    path = f"/v1/create_file/{found.visible}.txt?task_name=test.file&secret={found.secret}&text=away"
    process.send_signal(signal.SIGSTOP)
    try:
        ask_until_503(vault, path)
    finally:
        process.send_signal(signal.SIGCONT)
    wait_until(lambda: vault.store.ping(), 45, "Redis")
    vault.store.config_set("requirepass", "another")
    cut_connections(vault)
    ask_until_503(vault, path)
    wait_until(lambda: "cannot wait for queue" in vault.up.output, 60, "the worker to notice")
    vault.store.config_set("requirepass", found.redis)

    def works() -> bool:
        headers = {"Authorization": f"Secret {found.secret}"}
        heard = vault.ask("POST", "/v1/create", headers, {"tasks": HELLO, "block": True})
        return heard.status == 200 and bool(heard.json[0]["status"] == "success")

    wait_until(works, 60, "dragon to have recovered")


def ask_until_503(vault: Vault, path: str) -> None:
    found = vault.canaries

    headers = {"Authorization": f"Secret {found.secret}"}

    def is_refused() -> bool:
        given = [
            vault.ask("GET", path),
            vault.ask("POST", "/v1/create", headers, {"tasks": HELLO}),
            vault.ask("GET", "/readyz", headers),
        ]
        return [heard.status for heard in given] == [503] * 3

    wait_until(is_refused, 60, "503 from a server without Redis")


def cut_connections(vault: Vault) -> None:
    for client in vault.store.client_list():
        if client["cmd"] not in ("monitor", "client|list"):
            vault.store.execute_command("CLIENT", "KILL", "ID", client["id"])


def answered(ask: Callable[[], Heard]) -> Heard:
    """An answer that is not of a Redis which needed more than its half a second, as it may on a busy machine."""
    heard: Heard = wait_until(lambda: found if (found := ask()).status != 503 else None, 60, "an answer")
    return heard


def send_into_an_internal_error(vault: Vault) -> None:
    """A task that is to be forgotten at the end of time makes the server stumble while it has a key in its hands."""
    found = vault.canaries
    with vault.wire as wire:
        headers = {"Authorization": f"Secret {found.secret}", "Idempotency-Key": found.idempotency + "x"}
        created = answered(lambda: wire.ask("POST", "/v1/create", headers, {"tasks": HELLO, "block": True}))
        key = created.json[0]["key"]
        vault.store.persist(f"rq:job:{key}")
        vault.store.zadd("dragon:expiries", {key: "inf"})
        body = {"tasks": key, "details": True, "secret": found.secret}
        query = f"tasks={key}&details=1&secret={found.secret}&api_key={found.api_key}"
        for heard in (
            answered(lambda: wire.ask("POST", "/v1/status", headers, body)),
            answered(lambda: wire.ask("GET", f"/v1/status?{query}", headers)),
        ):
            vault.answers.append(heard)
            assert heard.status == 500, heard
        vault.store.delete(f"rq:job:{key}")
        vault.store.zrem("dragon:expiries", key)


@pytest.mark.timeout(500)
def test_no_canary_is_seen_anywhere_but_where_it_was_sent(vault: Vault) -> None:
    found = vault.canaries
    count = send_everything(vault)
    send_into_an_internal_error(vault)
    send_while_redis_is_away(vault)
    for path in ("/metrics", "/v1/tasks", "/openapi.json", "/docs", "/"):
        vault.ask("GET", path)
    statuses = {heard.status for heard in vault.answers}
    assert {200, 302, 400, 401, 404, 405, 413, 500, 503} <= statuses
    places = vault.told()
    check_the_search(vault, places)
    spellings = found.spellings()
    for secret in (found.secret, found.other_secret):
        signed = sign_url("/v1/create_file/a.txt?task_name=test.file", "vault", secret, 2_000_000_000)
        spellings[signed.rpartition("sig=")[2].encode()] = "a signature"
    leaks = [(place, name) for place, data in places.items() for text, name in spellings.items() if text in data]
    assert not leaks, leaks
    executors = [pid for pid, line in vault.processes().items() if "dragon.worker.forkserver" in line]
    assert len(executors) >= 3, "the fork server, an executor for `def` tasks, one for `async def` tasks"
    for pid in executors:
        assert not [text for text in memory_canaries(pid) if text.encode() in spellings], pid
    note(
        "secrets",
        f"{len(spellings)} texts that give {len(vars(found)) - 1} canaries away, {count:,} requests, internal errors, "
        "Redis hung and with another password, log level debug; searched: "
        f"{len(vault.answers):,} answers, logs, files, argv, environment and memory of the {len(executors)} processes "
        "of the fork server, Redis (MONITOR, AOF, all values)",
        "0 found",
    )


def check_the_search(vault: Vault, places: dict[str, bytes]) -> None:
    """What may be seen is seen: were it not, the search would find nothing else either."""
    visible = vault.canaries.visible.encode()
    seen = {place for place, data in places.items() if visible in data}
    assert {"Redis: MONITOR", "Redis: keys and values", str(vault.up.log)} <= seen
    assert any("appendonly" in place for place in seen)
    assert any(place.startswith("answer") for place in seen)
    log = places[str(vault.up.log)]
    assert b"Traceback" in log, "the internal errors are logged"
    assert b" DEBUG " in log


@pytest.mark.timeout(200)
def test_a_task_finds_no_way_to_redis_in_its_process_nor_in_those_that_have_it(vault: Vault) -> None:
    """Where it ends is said too: a file that the same user may read is read by tasks as well."""
    processes = vault.processes()
    holders = [pid for pid, line in processes.items() if line.startswith(sys.executable) and "-m dragon " in line]
    assert len(holders) == 3, "the supervisor, the server, the worker"
    body = {
        "secret": vault.canaries.secret,
        "block": True,
        "tasks": {
            "task_name": "pry.around",
            "pids": holders,
            "files": [str(vault.system.url_file), str(vault.system.config.accounts_file)],
            "control": vault.canaries.visible,
        },
    }
    (status,) = answered(lambda: vault.ask("POST", "/v1/create", {}, body)).json
    assert status["status"] == "success", status
    result = status["result"]
    assert vault.canaries.visible in result["found"]["memory"], "the search of the memory finds what is there"
    hidden = {text.decode() for text in vault.canaries.spellings()}
    assert not hidden & {text for texts in result["found"].values() for text in texts}
    assert not any(result["capabilities"] >> capability & 1 for capability in TRACING)
    assert result["opened"] == {str(pid): [] for pid in holders}
    assert result["redis_modules"] == []
    assert result["files"] == [str(vault.system.url_file), str(vault.system.config.accounts_file)]


def test_every_canary_looks_like_one() -> None:
    assert all(CANARY.fullmatch(value.encode()) for value in vars(Canaries()).values())
