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


def test_what_a_dead_worker_left_without_a_lock_goes_and_a_living_one_locks_again(tmp_path: Path) -> None:
    living = ScratchLock(tmp_path / "living")
    (tmp_path / "living" / ".lock").unlink()
    (tmp_path / "dead" / "KEY.1").mkdir(parents=True)
    living.hold()
    remove_abandoned(tmp_path)
    assert [folder.name for folder in tmp_path.iterdir()] == ["living"]
    living.release()


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
