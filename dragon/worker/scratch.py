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

    def hold(self) -> None:
        """Makes the folder again when somebody has removed it: what stands there without a lock is abandoned."""
        old = self._descriptor
        if not os.fstat(old).st_nlink:
            while not self._take():
                pass
            os.close(old)

    def _take(self) -> bool:
        """Makes and locks the folder; False when one that sweeps took it for abandoned in between, and removed it."""
        self._folder.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(self._folder / _LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            return False
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if not os.fstat(descriptor).st_nlink:
            os.close(descriptor)
            return False
        self._descriptor = descriptor
        return True

    def release(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
        os.close(self._descriptor)


def remove_abandoned(parent: Path) -> None:
    """Removes the scratch folders of workers that died. Blocks."""
    for folder in parent.glob("*"):
        try:
            # Made where it is missing: an executor that outlived its worker for a moment makes the folder again.
            descriptor = os.open(folder / _LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except OSError:
            continue  # no folder, or somebody else was faster, or it is another user's
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        except BlockingIOError:
            pass  # its worker lives
        finally:
            os.close(descriptor)
