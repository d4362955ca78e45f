"""Output files on the local disk: FOLDER/KE/KEY/ATTEMPT/NAME.EXT, served at /files/KEY/NAME.EXT.

A worker that lost its task may still be writing. It writes into the folder of its own attempt; the URL shows the
highest one, and that is the winner's: a higher attempt exists only once the lower one can no longer win.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from dragon.config import Config
from dragon.keys import is_key
from dragon.task import OutputFile


class LocalFiles:
    """The store for one machine, or for several that share a file system."""

    def __init__(self, folder: Path, public_url: str) -> None:
        self._folder = folder
        self._public_url = public_url

    @classmethod
    def from_config(cls, config: Config) -> LocalFiles:
        return cls(config.data_dir / config.files.url.removeprefix("file://"), config.public_url)

    def keep(self, key: str, attempt: int, outputs: Sequence[OutputFile]) -> int:
        folder = self._of(key)
        partial = folder / f"{attempt}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        size = 0
        for output in outputs:
            size += output.path.stat().st_size
            _move(output.path, partial / output.filename)
        complete = folder / str(attempt)
        shutil.rmtree(complete, ignore_errors=True)
        partial.rename(complete)
        return size

    def url(self, key: str, filename: str) -> str:
        return f"{self._public_url}/files/{key}/{quote(filename)}"

    def find(self, key: str, filename: str) -> Path | None:
        if not is_key(key) or not filename or "/" in filename or "\0" in filename or filename in (".", ".."):
            return None
        try:
            attempts = [int(entry.name) for entry in os.scandir(self._of(key)) if entry.name.isdigit()]
        except OSError:
            return None
        if not attempts:
            return None
        path = self._of(key) / str(max(attempts)) / filename
        try:
            return path if path.is_file() else None
        except OSError:
            return None

    def drop(self, key: str, attempt: int | None = None) -> None:
        folder = self._of(key)
        for doomed in (folder,) if attempt is None else (folder / str(attempt), folder / f"{attempt}.partial"):
            shutil.rmtree(doomed, ignore_errors=True)
        self._drop_empty(folder)

    def drop_others(self, key: str, attempt: int) -> None:
        folder = self._of(key)
        try:
            found = [entry.path for entry in os.scandir(folder) if entry.name != str(attempt)]
        except OSError:
            return  # there is nothing
        for doomed in found:
            shutil.rmtree(doomed, ignore_errors=True)
        self._drop_empty(folder)

    def _drop_empty(self, folder: Path) -> None:
        for empty in (folder, folder.parent):
            try:
                empty.rmdir()
            except OSError:
                break

    def _of(self, key: str) -> Path:
        if not is_key(key):  # it may come from Redis, and what is named here is moved and removed
            raise ValueError(f"{key[:100]!r} is not a task key")
        return self._folder / key[:2] / key


def _move(source: Path, target: Path) -> None:
    try:
        source.rename(target)
    except OSError:  # another file system
        shutil.copyfile(source, target)
        source.unlink()
