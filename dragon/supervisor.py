"""A small supervisor: starts children, starts dead ones again, ends all of them in order; and `up`, all of dragon.

It is one thread that waits for signals, so that forking is safe and PDEATHSIG, which watches threads, means what it
says. Every child has a session of its own: a terminal's Ctrl-C reaches the supervisor alone, which then ends the stages
one after another, the last one first.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import http.client
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import FrameType
from typing import Any
from urllib.parse import quote, urlsplit

from dragon.config import Config
from dragon.embedded import STOP_SECONDS, child_environment, keeper_command, ping, redis_url, socket_path
from dragon.errors import EXIT_CONFIG, ConfigError
from dragon.processes import adopt_orphans, before_exec, how_it_ended, kill_descendants, kill_session, next_pause
from dragon.redis_check import check_external

#: A child that lived for less than this many seconds died at once, and so many such deaths in a row are explained.
QUICK_DEATH, QUICK_DEATHS = 1.0, 5
#: After this many seconds without being ready, a child is said to be slow.
PATIENCE = 20.0
_READY_INTERVAL = 0.05


@dataclass(frozen=True, slots=True)
class Child:
    """A process to keep alive."""

    name: str
    argv: Sequence[str]
    environ: Mapping[str, str]
    stage: int = 0  # started when all of the lower stages are ready, ended before them
    grace: float = 10.0  # seconds from SIGTERM to SIGKILL
    ready: Callable[[], str] = lambda: ""  # what is still missing, asked until it is nothing


@dataclass(slots=True)
class _Life:
    """What the supervisor knows about a child."""

    child: Child
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    due: float = 0.0  # when to start it
    pause: float = 0.0
    quick_deaths: int = 0
    ready: bool = False  # has been, once
    missing: str = ""
    told_slow: bool = False


class _Stop(Exception):
    """Ends the supervision with an exit code."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


@dataclass(slots=True)
class Supervisor:
    """`Supervisor(children).run()` returns the exit code: 0 after SIGTERM or Ctrl-C, 78 when a child cannot work."""

    children: Sequence[Child]
    when_ready: Callable[[], None] = lambda: None
    _lives: list[_Life] = field(init=False)
    _signals: list[int] = field(init=False, default_factory=list)
    _wakeup: int = field(init=False, default=-1)
    _all_ready: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        self._lives = [_Life(child) for child in self.children]

    def run(self) -> int:
        """Runs until a signal says otherwise; call it in the main thread of a process that has no other children."""
        adopt_orphans()
        with self._listening():
            try:
                while True:
                    self._turn()
            except _Stop as stop:
                self._stop_stages()
                return stop.code
            finally:
                for life in self._lives:  # after a mistake of ours only
                    _signal(life, signal.SIGKILL)
                kill_descendants()

    def _turn(self) -> None:
        self._reap()
        if self._signals:
            raise _Stop(0)
        self._start_due()
        self._ask_ready()
        self._wait(self._seconds_until_due())

    # -- signals

    @contextlib.contextmanager
    def _listening(self) -> Iterator[None]:
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        self._wakeup = reading
        former_wakeup = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        former = {number: signal.signal(number, self._on_signal) for number in _handled_signals()}
        try:
            yield
        finally:
            for number, handler in former.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(former_wakeup)
            os.close(reading)
            os.close(writing)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if number != signal.SIGCHLD:
            self._signals.append(number)

    def _wait(self, seconds: float | None) -> None:
        if select.select([self._wakeup], [], [], seconds)[0]:
            os.read(self._wakeup, 4096)

    # -- lives

    def _start_due(self) -> None:
        now = time.monotonic()
        for life in self._lives:
            if life.process is None and life.due <= now and self._may_start(life):
                self._start(life)

    def _may_start(self, life: _Life) -> bool:
        return all(other.ready for other in self._lives if other.child.stage < life.child.stage)

    def _start(self, life: _Life) -> None:
        life.started = time.monotonic()
        try:
            life.process = subprocess.Popen(
                life.child.argv,
                env=life.child.environ,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                preexec_fn=functools.partial(before_exec, os.getpid()),
            )
        except OSError as error:
            self._has_died(life, f"cannot be started: {error.strerror}")

    def _reap(self) -> None:
        """Collects whoever has ended: children, and orphans that were adopted."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            for life in self._lives:
                if life.process is not None and life.process.pid == pid:
                    self._has_ended(life, os.waitstatus_to_exitcode(status))

    def _has_ended(self, life: _Life, code: int) -> None:
        assert life.process is not None
        life.process.returncode = code  # waited for here, not by Popen
        kill_session(life.process.pid)  # the next life begins with a clean slate
        life.process = None
        if self._signals:
            return
        if code == EXIT_CONFIG:
            raise _Stop(EXIT_CONFIG)
        self._has_died(life, f"has ended ({how_it_ended(code)})")

    def _has_died(self, life: _Life, how: str) -> None:
        now = time.monotonic()
        lived = now - life.started
        life.pause = next_pause(life.pause, lived)
        life.due = now + life.pause
        life.quick_deaths = life.quick_deaths + 1 if lived < QUICK_DEATH else 0
        say(f"{life.child.name} {how}, starting it again in {life.pause:g} s")
        if life.quick_deaths == QUICK_DEATHS:
            say(
                f"{life.child.name} has now died {QUICK_DEATHS} times right after its start, so this will not heal by "
                "itself: what it printed above says why. It is tried again, ever more rarely, until you stop dragon"
            )

    def _seconds_until_due(self) -> float | None:
        """How long nothing needs doing; None: until a signal."""
        waiting = [life.due for life in self._lives if life.process is None and self._may_start(life)]
        seconds = [max(0.0, due - time.monotonic()) for due in waiting]
        if any(life.process is not None and not life.ready for life in self._lives):
            seconds.append(_READY_INTERVAL)
        return min(seconds, default=None)

    def _ask_ready(self) -> None:
        for life in self._lives:
            if life.process is None or life.ready:
                continue
            life.missing = life.child.ready()
            life.ready = not life.missing
            if not life.ready and not life.told_slow and time.monotonic() - life.started > PATIENCE:
                life.told_slow = True
                say(f"{life.child.name} is not ready after {PATIENCE:g} s, still waiting: {life.missing}")
        if not self._all_ready and all(life.ready for life in self._lives):
            self._all_ready = True
            self.when_ready()

    # -- the end

    def _stop_stages(self) -> None:
        self._signals = self._signals or [signal.SIGTERM]  # from here on, a death is no news
        say("ending; what runs may finish first. Ctrl-C once more kills it")
        for stage in sorted({life.child.stage for life in self._lives}, reverse=True):
            self._stop_stage([life for life in self._lives if life.child.stage == stage])

    def _stop_stage(self, lives: list[_Life]) -> None:
        begin = time.monotonic()
        for life in lives:
            _signal(life, signal.SIGTERM)
        while alive := [life for life in lives if life.process is not None]:
            left = begin + max(life.child.grace for life in alive) - time.monotonic()
            if left <= 0 or self._in_a_hurry():
                for life in alive:
                    _signal(life, signal.SIGKILL)
            self._wait(max(left, 0.0) or 1.0)
            self._reap()

    def _in_a_hurry(self) -> bool:
        """Somebody pressed Ctrl-C a second time, or once while something else had begun the end."""
        return len(self._signals) > 1 and self._signals[-1] == signal.SIGINT


def _handled_signals() -> list[int]:
    """SIGHUP too (the terminal is gone), unless nohup has said otherwise."""
    numbers: list[int] = [signal.SIGTERM, signal.SIGINT, signal.SIGCHLD]
    return numbers if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else [*numbers, signal.SIGHUP]


def _signal(life: _Life, number: int) -> None:
    if life.process is not None:  # not yet waited for, so the number cannot be somebody else's by now
        os.kill(life.process.pid, number)


def say(sentence: str) -> None:
    """Tells the terminal; that nobody listens is no reason to end."""
    with contextlib.suppress(OSError):
        print(f"dragon: {sentence}", file=sys.stderr, flush=True)


# ---- dragon's own children ------------------------------------------------------------------------------------------


def up(config: Config) -> int:
    """Runs all of dragon on this machine until SIGTERM or Ctrl-C; returns the exit code. Raises ConfigError."""
    config = settle_port(config)
    if config.redis.url:
        warn_about_external(config)
    ready = functools.partial(_what_readyz_misses, _local_address(config))
    children = [*redis_children(config), worker_child(config), *server_children(config, ready)]
    return Supervisor(children, lambda: print(_welcome(config), flush=True)).run()


def serve_many(config: Config) -> int:
    """Runs `server.processes` servers that share the port, and the embedded Redis if nobody else does."""
    config = settle_port(config)
    if config.redis.url:
        warn_about_external(config)
    return Supervisor([*redis_children(config), *server_children(config)]).run()


def warn_about_external(config: Config) -> None:
    """Checks a Redis that is not ours. Raises ConfigError when it cannot be used."""
    for warning in check_external(config.redis.url):
        say(f"warning: {warning}")


def redis_children(config: Config) -> list[Child]:
    """The keeper of the embedded Redis, in a list; an empty one where there is an external Redis."""
    if config.redis.url:
        return []
    path = socket_path(config)

    def ready() -> str:
        state = ping(path)
        return "" if state == "ready" else f"the server at {path} is {state}"

    return [Child("redis", keeper_command(config), child_environment(), 0, STOP_SECONDS + 2, ready)]


def worker_child(config: Config) -> Child:
    """Ended after the servers: until they are gone, somebody may be waiting for what runs."""
    argv = [sys.executable, "-m", "dragon", "worker", "--supervised"]
    return Child("worker", argv, _settings_for_children(config), 1, config.worker.stop_grace + 5)


def server_children(config: Config, ready: Callable[[], str] = lambda: "") -> list[Child]:
    argv = [sys.executable, "-m", "dragon", "server", "--supervised"]
    environ = _settings_for_children(config)
    names = ["server"] if config.server.processes == 1 else [f"server {i + 1}" for i in range(config.server.processes)]
    return [Child(name, argv, environ, 2, config.server.stop_grace + 2, ready) for name in names]


def _settings_for_children(config: Config) -> dict[str, str]:
    """The environment in which a child finds the Redis and the address that were settled here."""
    settled = {
        "DRAGON_REDIS__URL": redis_url(config),
        "DRAGON_SERVER__HOST": config.server.host,
        "DRAGON_SERVER__PORT": str(config.server.port),
        "DRAGON_SERVER__PROCESSES": str(config.server.processes),
    }
    environ = child_environment() | settled
    for name in settled:
        environ.pop(f"{name}_FILE", None)  # would win over the setting itself
    return environ


def settle_port(config: Config) -> Config:
    """Chooses a port where the setting is 0, so that all processes agree on it; raises ConfigError if it is taken."""
    server = config.server
    place = f"{server.host} port {server.port}"
    try:
        family, kind, _, _, address = socket.getaddrinfo(
            server.host or None, server.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            port: int = probe.getsockname()[1]
    except socket.gaierror as error:
        raise ConfigError(f"server.host {server.host!r} is not an address of this machine: {error.strerror}") from None
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ConfigError(f"{place} is taken by another program: end that one, or set PORT to another") from None
        raise ConfigError(f"dragon cannot listen on {place}: {error.strerror}") from None
    return config.model_copy(update={"server": server.model_copy(update={"port": port})})


def _local_address(config: Config) -> str:
    """The address that this machine reaches the server under, whatever clients use."""
    return config.model_copy(update={"server": config.server.model_copy(update={"public_url": ""})}).public_url


def _what_readyz_misses(address: str) -> str:
    """Empty when the server is ready to take tasks."""
    parts = urlsplit(address)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=1)
    try:
        connection.request("GET", "/readyz")
        response = connection.getresponse()
        text = response.read(500).decode("utf-8", "replace")
    except (OSError, http.client.HTTPException) as error:
        return f"no answer from {address}/readyz ({error})"
    finally:
        connection.close()
    return "" if response.status == 200 else f"{address}/readyz says {response.status} {_message(text)}"


def _message(text: str) -> str:
    try:
        answer: Any = json.loads(text)
    except ValueError:
        return text
    return str(answer.get("message", text)) if isinstance(answer, dict) else text


def _welcome(config: Config) -> str:
    address = config.public_url
    demo = config.listens_on_loopback
    secret = "123456" if demo else "YOUR-SECRET-KEY"
    tasks = json.dumps({"tasks": [{"task_name": "hello", "name": "you"}, {"task_name": "countdown"}]})
    # With the secret key, because an address bar sends no referrer; a page's <img> on localhost needs no key at all.
    image = f"{address}/v1/create_file/cat.jpg?task_name=image.thumb&width=300&secret={secret}"
    keys = "secret key 123456, api key 654321, on this machine only" if demo else "off: see `dragon account --help`"
    return f"""
dragon is ready at {address}   (Ctrl-C ends it)

  demo account   {keys}
  the page       {address}/
  a stream       curl -N {address}/v1/create_stream -H 'Authorization: Secret {secret}' -d '{tasks}'
  an image       {image}&url={quote(address, safe=":/")}/static/sample.jpg
"""
