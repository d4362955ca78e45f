"""The fork server's orders: those to count processes do not gather in front of those to fork."""

from __future__ import annotations

import itertools
import socket
from typing import Any

import pytest

from dragon.task import Limits, Registry
from dragon.worker import forkserver
from dragon.worker.bounds import Bounds
from dragon.worker.executor import Setup


def test_a_look_at_very_many_processes_is_not_had_for_each_order(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[float] = []
    now = 0.0  # the test's own clock: on a busy machine a look, and so the rest after it, would last longer

    def slow_look() -> Any:
        nonlocal now
        looks.append(now)
        now += 0.02
        return {}

    monkeypatch.setattr(forkserver.time, "monotonic", lambda: now)
    monkeypatch.setattr(forkserver, "families", slow_look)
    monkeypatch.setattr(forkserver, "newest_process", itertools.count(1).__next__)
    bounds = Bounds(0, 0, 0, processes=40)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        server = forkserver._ForkServer(theirs, Setup(Registry(), Limits(1, 1, 1), bounds, 1000))
        for _ in range(100):
            server._count_processes()
        assert len(looks) == 1
        now += 0.02 * (forkserver.REST + 2)
        server._count_processes()
        assert len(looks) == 2
