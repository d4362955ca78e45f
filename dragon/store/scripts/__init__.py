"""The Lua scripts, one a file, each with the names (store/names.py) and _shared.lua in front."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from dragon.connections import Script
from dragon.store.names import lua_prelude

_FOLDER = Path(__file__).parent


@cache
def script(name: str) -> Script:
    """The script of that name, ready to be run."""
    shared = (_FOLDER / "_shared.lua").read_text("utf-8")
    return Script(name, lua_prelude() + shared + (_FOLDER / f"{name}.lua").read_text("utf-8"))
