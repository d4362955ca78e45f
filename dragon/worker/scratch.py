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
        while not self._take():
            pass

    def _take(self) -> bool:
        """Makes and locks the folder; False when one that sweeps took it for abandoned in between, and removed it."""
        self._folder.mkdir(parents=True, exist_ok=True)
        try:
            self._descriptor = os.open(self._folder / _LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            return False
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        if os.fstat(self._descriptor).st_nlink:
            return True
        os.close(self._descriptor)
        return False

    def release(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
        os.close(self._descriptor)


def remove_abandoned(parent: Path) -> None:
    """Removes the scratch folders of workers that died. Blocks."""
    for lock in parent.glob(f"*/{_LOCK}"):
        try:
            descriptor = os.open(lock, os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            continue  # somebody else was faster, or it is another user's
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(lock.parent, ignore_errors=True)
        except BlockingIOError:
            pass  # its worker lives
        finally:
            os.close(descriptor)
