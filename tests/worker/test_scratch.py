"""Scratch folders: whose they are, and that taking one and sweeping meet."""

from __future__ import annotations

import fcntl
from pathlib import Path

import pytest

from dragon.worker.scratch import ScratchLock, remove_abandoned


def test_a_living_workers_folder_stays_and_a_dead_ones_goes(tmp_path: Path) -> None:
    living, dead = ScratchLock(tmp_path / "living"), tmp_path / "dead"
    dead.mkdir()
    (dead / ".lock").touch()
    (dead / "file").touch()
    remove_abandoned(tmp_path)
    assert [folder.name for folder in tmp_path.iterdir()] == ["living"]
    living.release()
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_swept_before_it_is_locked_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, sweeps = fcntl.flock, []

    def sweep_first(descriptor: int, how: int) -> None:
        monkeypatch.setattr(fcntl, "flock", real)
        remove_abandoned(tmp_path)
        sweeps.append(not (tmp_path / "mine").exists())
        real(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", sweep_first)
    lock = ScratchLock(tmp_path / "mine")
    assert sweeps == [True]
    remove_abandoned(tmp_path)
    assert (tmp_path / "mine" / ".lock").exists()
    lock.release()
