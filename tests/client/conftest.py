"""Both clients, as one: tests that take `both` run with each of them."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from tests.client.both import KINDS, Both
from tests.system import System


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Which of the two clients."""
    name: str = request.param
    return name


@pytest.fixture
def client_of(kind: str) -> Callable[..., Both]:
    """Makes a client: `async with client_of(url) as both`."""
    return lambda url, **settings: Both(kind, url, **settings)


@pytest.fixture
def make(client_of: Callable[..., Both], system: System) -> Callable[..., Both]:
    """Makes a client of the shared system."""
    return lambda **settings: client_of(system.url, **settings)


@pytest.fixture
def chance() -> random.Random:
    """Its seed is in the output of a test that fails."""
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    return random.Random(seed)
