"""A task that looks for secrets wherever code in an executor can look."""

from __future__ import annotations

import contextlib
import gc
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dragon.task import Context, task

#: All canaries look like this, and the expression does not look like one: it may lie in the memory that is searched.
CANARY = re.compile(rb"canary7[a-z]+7[0-9a-f]{24}")
_CHUNK = 1 << 22


@task("pry.around", timeout=60)
def around(ctx: Context, pids: list[int], files: list[str], control: str) -> dict[str, Any]:
    """Tell what can be found and opened; `control` is in this very memory, so it must be found there."""
    seen = {
        "environment": repr(os.environ).encode(),
        "descriptors": "\n".join(_descriptors()).encode(),
        "arguments": b"\n".join(_read(f"/proc/{pid}/cmdline") or b"" for pid in _ancestors()),
        "parent": _read(f"/proc/{os.getppid()}/environ") or b"",
        "objects": "\n".join(_objects()).encode("utf-8", "replace"),
    }
    return {
        "found": {place: _canaries(data) for place, data in seen.items()} | {"memory": memory_canaries(os.getpid())},
        "opened": {str(pid): [name for name in ("environ", "mem", "maps") if _reads(pid, name)] for pid in pids},
        "files": [path for path in files if _read(path)],
        "capabilities": _capabilities(),
        "redis_modules": sorted(name for name in sys.modules if name.partition(".")[0] in ("redis", "rq", "hiredis")),
        "sockets": [name for name in _descriptors() if name.startswith("socket:")],
    }


def _canaries(data: bytes) -> list[str]:
    return sorted({found.decode() for found in CANARY.findall(data)})


def memory_canaries(pid: int) -> list[str]:
    """The canaries in what a process may read of its memory, and may have written."""
    found: set[bytes] = set()
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        for start, end in _regions(pid):
            tail = b""
            for at in range(start, end, _CHUNK):
                with contextlib.suppress(OSError, ValueError, OverflowError):
                    memory.seek(at)
                    data = tail + memory.read(min(_CHUNK, end - at))
                    found.update(CANARY.findall(data))
                    tail = data[-64:]
    return sorted(canary.decode() for canary in found)


def _regions(pid: int) -> Iterator[tuple[int, int]]:
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        addresses, access, _, _, inode, *_ = line.split()
        if access.startswith("rw") or (access.startswith("r") and inode == "0"):
            start, _, end = addresses.partition("-")
            yield int(start, 16), int(end, 16)


def _objects() -> Iterator[str]:
    for found in gc.get_objects():
        if isinstance(found, dict | list | tuple):
            with contextlib.suppress(Exception):
                yield repr(found)[:2000]


def _descriptors() -> list[str]:
    names = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            names.append(os.readlink(f"/proc/self/fd/{name}"))
    return names


def _ancestors() -> Iterator[int]:
    pid = os.getpid()
    while pid > 1:
        yield pid
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def _reads(pid: int, name: str) -> bool:
    """Whether some of it can be read; of the memory, what an executable always has."""
    try:
        with open(f"/proc/{pid}/{name}", "rb", buffering=0) as file:
            if name == "mem":
                file.seek(next(_regions(pid))[0])
            return bool(file.read(16))
    except OSError:
        return False


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError:
        return b""


def _capabilities() -> int:
    found = re.search(r"^CapEff:\s*([0-9a-f]+)", Path("/proc/self/status").read_text(), re.MULTILINE)
    return int(found[1], 16) if found else 0
