"""Runs the command `dragon` as people do: in a pipe, or on a pseudo-terminal."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from dragon.config import ROOT
from tests.waiting import PATIENCE

SECRET = "123456"


class Result(NamedTuple):
    code: int
    output: str
    errors: str


def environment(url: str, more: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of somebody who has a server there, and its key."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("DRAGON_")}
    return kept | {"DRAGON_URL": url, "DRAGON_SECRET": SECRET, "NO_COLOR": "1", **(more or {})}


def dragon(url: str, *arguments: str, given: str = "", environ: Mapping[str, str] | None = None) -> Result:
    """Runs a command whose output goes into a pipe."""
    done = subprocess.run(
        [sys.executable, "-m", "dragon", *arguments],
        cwd=ROOT,
        env=environment(url, environ),
        input=given,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    return Result(done.returncode, done.stdout, done.stderr)


@dataclass
class Terminal:
    """A command on a pseudo-terminal, and what it has shown so far."""

    process: subprocess.Popen[bytes]
    master: int
    _bytes: bytearray = field(default_factory=bytearray)

    def wait_for(self, text: str, seconds: float = PATIENCE) -> None:
        """Reads until a text is there."""
        assert self.shows(text, seconds), f"{text!r} did not come: {self.plain[-2000:]}"

    def shows(self, text: str, seconds: float) -> bool:
        """Whether a text comes within so many seconds."""
        deadline = time.monotonic() + seconds
        while text not in self.plain:
            if time.monotonic() >= deadline or not self._read(deadline):
                return False
        return True

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def interrupt(self) -> None:
        """Ctrl-C."""
        self.type("\x03")

    def finish(self, seconds: float = PATIENCE) -> int:
        """Reads to the end; the exit code."""
        deadline = time.monotonic() + seconds
        while self._read(deadline):
            assert time.monotonic() < deadline, f"it does not end: {self.plain[-2000:]}"
        return self.process.wait(PATIENCE)

    @property
    def plain(self) -> str:
        """What was shown without what moves the cursor and colours it."""
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self._bytes.decode(errors="replace")).replace("\r\n", "\n")

    @property
    def raw(self) -> bytes:
        return bytes(self._bytes)

    def _read(self, deadline: float) -> bool:
        """False at the end."""
        ready, _, _ = select.select([self.master], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            return True
        try:
            data = os.read(self.master, 1 << 16)
        except OSError:  # Linux says so when the other side is closed
            return False
        self._bytes += data
        return bool(data)


@contextlib.contextmanager
def terminal(url: str, *arguments: str, rows: int = 24, columns: int = 120) -> Iterator[Terminal]:
    """Runs a command on a terminal of its own."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def take_terminal() -> None:
        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    environ = environment(url, {"TERM": "xterm-256color"})
    process = subprocess.Popen(
        [sys.executable, "-m", "dragon", *arguments],
        cwd=ROOT,
        env=environ,
        stdin=slave,
        stdout=slave,
        stderr=slave,
        preexec_fn=take_terminal,
    )
    os.close(slave)
    try:
        yield Terminal(process, master)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            process.wait()
        os.close(master)
