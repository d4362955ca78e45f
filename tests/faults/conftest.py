"""The nursery of the test process: forks servers and workers, see failpoints.py."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults.failpoints import Nursery


@pytest.fixture(scope="session")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    opened = Nursery.open(tmp_path_factory.mktemp("nursery"))
    yield opened
    opened.close()
