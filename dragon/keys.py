"""Task keys: 128 random bits, spelled as 26 characters A-Z2-7."""

from __future__ import annotations

import os
import re

_SHAPE = re.compile(r"[A-Z2-7]{26}")


_ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
_LETTERS = bytes(_ALPHABET[byte & 31] for byte in range(256))  # five random bits of each byte
_LAST_LETTERS = {ord(letter): chr(_ALPHABET[i & 28]) for i, letter in enumerate(_ALPHABET.decode())}  # three bits


def new_keys(count: int) -> list[str]:
    """Makes keys: unpadded base32 of 128 random bits each. Knowing one is the permission to read the task."""
    letters = os.urandom(26 * count).translate(_LETTERS).decode()
    return [letters[i : i + 25] + _LAST_LETTERS[ord(letters[i + 25])] for i in range(0, 26 * count, 26)]


def new_key() -> str:
    """Makes one key."""
    return new_keys(1)[0]


def is_key(text: object) -> bool:
    """Tells whether `text` has the shape of a key; says nothing about whether the task exists."""
    return isinstance(text, str) and _SHAPE.fullmatch(text) is not None
