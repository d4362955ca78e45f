"""Task keys: 128 random bits, spelled as 26 characters A-Z2-7."""

from __future__ import annotations

import base64
import os
import re

_SHAPE = re.compile(r"[A-Z2-7]{26}")


def new_key() -> str:
    """Makes a key: unpadded base32 of 16 random bytes. Knowing it is the permission to read the task."""
    return base64.b32encode(os.urandom(16))[:26].decode()


def is_key(text: object) -> bool:
    """Tells whether `text` has the shape of a key; says nothing about whether the task exists."""
    return isinstance(text, str) and _SHAPE.fullmatch(text) is not None
