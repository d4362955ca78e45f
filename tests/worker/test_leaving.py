"""A worker that cannot go on says so and leaves."""

from __future__ import annotations

from pathlib import Path

import pytest
import redis

from dragon.errors import WorkerFailed
from dragon.store import names
from dragon.worker.main import Worker
from dragon.worker.writer import Writer
from tests.system import test_config


async def test_a_worker_whose_writing_has_failed_leaves_instead_of_keeping_its_tasks(
    redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(self: Writer) -> None:
        raise ValueError("of ours")

    monkeypatch.setattr(Writer, "run", fail)
    with pytest.raises(WorkerFailed, match="internal error in writer"):
        await Worker(test_config(tmp_path, redis_url), redis_url).run()
    with redis.Redis.from_url(redis_url) as connection:
        assert connection.zcard(names.WORKERS) == 0
