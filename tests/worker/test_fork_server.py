"""The fork server's orders: those to count processes do not gather in front of those to fork."""

from __future__ import annotations

import itertools
import socket
import time
from typing import Any

import pytest

from dragon.task import Limits, Registry
from dragon.worker import forkserver
from dragon.worker.bounds import Bounds
from dragon.worker.executor import Setup


def test_a_look_at_very_many_processes_is_not_had_for_each_order(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[float] = []

    def slow_look() -> Any:
        looks.append(time.monotonic())
        time.sleep(0.02)
        return {}

    monkeypatch.setattr(forkserver, "families", slow_look)
    monkeypatch.setattr(forkserver, "newest_process", itertools.count(1).__next__)
    bounds = Bounds(0, 0, 0, processes=40)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        server = forkserver._ForkServer(theirs, Setup(Registry(), Limits(1, 1, 1), bounds, 1000))
        for _ in range(100):
            server._count_processes()
        assert len(looks) < 5
        time.sleep(0.02 * (forkserver.REST + 2))
        before = len(looks)
        server._count_processes()
        assert len(looks) == before + 1
