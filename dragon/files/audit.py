"""The audit of what lies on this machine's disk: output folders and scratch folders, held against Redis."""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

import orjson

from dragon.config import Config
from dragon.connections import Redis
from dragon.files import open_files
from dragon.files.local import LocalFiles
from dragon.keys import is_key
from dragon.store import names
from dragon.store.judgement import Finding, read_state

#: Folders that are looked at in one go, and lines that are read in one.
FOLDERS_AT_ONCE, LINES_AT_ONCE = 500, 20

Suspect = Callable[[Finding, object], None]


class Folder(NamedTuple):
    """The folder of one key's output files, and what is in it."""

    path: Path
    key: str
    attempts: tuple[str, ...]


async def audit_files(config: Config, redis: Redis, ended: Mapping[str, int], suspect: Suspect) -> int:
    """Compares the output folders with Redis; `ended` are tasks that have output files, with their attempts.

    Returns how many folders there are, -1 when the files are not on this machine.
    """
    files = open_files(config)
    if not isinstance(files, LocalFiles):
        return -1
    folder = config.data_dir / config.files.url.removeprefix("file://")
    count = 0
    walk = _walk(folder)
    while folders := await asyncio.to_thread(_next, walk):
        count += len(folders)
        await _judge_folders(redis, folders, suspect)
    keys = list(ended)
    for first in range(0, len(keys), LINES_AT_ONCE):
        await _judge_results(redis, files, keys[first : first + LINES_AT_ONCE], suspect)
    return count


def _walk(folder: Path) -> Iterator[Folder]:
    for shard in _entries(folder):
        for of_key in _entries(Path(shard.path)):
            attempts = tuple(sorted(entry.name for entry in _entries(Path(of_key.path))))
            yield Folder(Path(of_key.path), of_key.name, attempts)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as found:
            return list(found)
    except (FileNotFoundError, NotADirectoryError):
        return []  # it has gone meanwhile, or is no folder


def _next(walk: Iterator[Folder]) -> list[Folder]:
    return [folder for _, folder in zip(range(FOLDERS_AT_ONCE), walk, strict=False)]


async def _judge_folders(redis: Redis, folders: Sequence[Folder], suspect: Suspect) -> None:
    replies = await asyncio.gather(
        *(redis.command("HMGET", names.TASK + folder.key, "state", "bytes") for folder in folders)
    )
    for folder, (field, size) in zip(folders, replies, strict=True):
        if not is_key(folder.key) or field is None:
            text = f"{folder.path} is of no task that Redis knows, so no sweep will remove it"
            suspect(Finding("file", str(folder.path), f"{text}: rm -r {folder.path}"), folder.attempts)
            continue
        state = read_state(field)
        if state is None or state.phase != "e":
            continue  # an attempt may be writing; what is damaged is named as a task
        winner = str(state.attempt) if size is not None else ""
        for attempt in folder.attempts:
            if attempt != winner:
                path = folder.path / attempt
                won = f"attempt {winner} has won" if winner else "it ended without output files"
                text = f"{path} is of a task that has ended, and {won}"
                suspect(Finding("file", str(path), f"{text}: rm -r {path}"), field)


async def _judge_results(redis: Redis, files: LocalFiles, keys: Sequence[str], suspect: Suspect) -> None:
    """Whether the files are there that success statuses name."""
    lines = await asyncio.gather(*(redis.command("HGET", names.TASK + key, "line") for key in keys))
    for key, line in zip(keys, lines, strict=True):
        for name in filenames(key, line):
            if await asyncio.to_thread(files.find, key, name) is None:
                text = f"its result names the output file {name!r}, which is not there, so its clients get a 404"
                mend = f"restore it from a backup, or forget the task (ZADD {names.EXPIRIES} 0 {key})"
                suspect(Finding("file", key, f"{text}: {mend}"), None)


def filenames(key: str, line: bytes | None) -> list[str]:
    """The names of the output files that a status line names by their URLs."""
    try:
        status = orjson.loads(line or b"{}")
    except orjson.JSONDecodeError:
        return []
    result = status.get("result")
    if status.get("status") != "success" or not isinstance(result, dict):
        return []
    found = []
    for value in result.values():
        if isinstance(value, str):
            _, mark, name = urlsplit(value).path.rpartition(f"/files/{key}/")
            if mark and name:
                found.append(unquote(name))
    return found


async def audit_scratch(config: Config, leases: Mapping[str, float], suspect: Suspect) -> None:
    """Scratch folders of workers that neither have a lease nor hold their lock."""
    for folder in await asyncio.to_thread(_abandoned, config.scratch_dir, frozenset(leases)):
        text = f"{folder} is the scratch folder of a worker that does not live"
        suspect(Finding("scratch", str(folder), f"{text}: start a worker, it removes it, or rm -r {folder}"), None)


def _abandoned(parent: Path, living: frozenset[str]) -> list[Path]:
    return [
        Path(entry.path) for entry in _entries(parent) if entry.name not in living and not _is_locked(Path(entry.path))
    ]


def _is_locked(folder: Path) -> bool:
    """Whether a worker that has not registered yet, or whose lease is over, lives here; see worker/scratch.py."""
    try:
        descriptor = os.open(folder / ".lock", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False
