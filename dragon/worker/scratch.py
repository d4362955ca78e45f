"""Scratch folders: one a worker, locked while it lives, removed by the next one when it died."""

from __future__ import annotations

import fcntl
import os
import shutil
from pathlib import Path

_LOCK = ".lock"


class ScratchLock:
    """Holds a worker's scratch folder for as long as the process lives."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(folder / _LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def release(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
        os.close(self._descriptor)


def remove_abandoned(parent: Path) -> None:
    """Removes the scratch folders of workers that died."""
    for folder in parent.iterdir():
        lock = folder / _LOCK
        if not lock.exists():
            continue
        descriptor = os.open(lock, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        except OSError:
            pass  # its worker lives
        finally:
            os.close(descriptor)
