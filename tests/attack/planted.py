"""What planted jobs would like to have imported: it leaves a mark where PLANTED_MARK says, and so does each call."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any


def leave_mark(*_arguments: Any, **_options: Any) -> str:
    with Path(os.environ["PLANTED_MARK"]).open("a") as file:
        file.write("planted code ran\n")
    return "planted"


class Bomb:
    """Runs when it is unpickled."""

    def __reduce__(self) -> Any:
        return leave_mark, ()


if "PLANTED_MARK" in os.environ:
    leave_mark()
