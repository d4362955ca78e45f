"""A task module that ends every executor before it is ready, for as long as the file that DYING names is there."""

from __future__ import annotations

import os
from pathlib import Path

from dragon.task import Context, task

_FLAG = Path(os.environ.get("DYING", "/nowhere/dying"))


def _die() -> None:
    if _FLAG.exists():
        os._exit(9)


os.register_at_fork(after_in_child=_die)


@task("test.once", max_attempts=1)
def once(ctx: Context) -> int:
    """Tell which attempt this is."""
    return ctx.attempt
