"""`assert_sound`: what `dragon audit` checks, as the last line of a test that has broken something."""

from __future__ import annotations

from dragon.config import Config


async def assert_sound(config: Config, *, timeout: float = 15) -> None:
    """Waits until everything is at rest and all invariants hold; fails with the findings when they do not in time."""
