"""Task keys: 128 random bits, spelled as 26 characters A-Z2-7."""

from __future__ import annotations

import os
import re

_SHAPE = re.compile(r"[A-Z2-7]{26}")


_ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
_LETTERS = bytes(_ALPHABET[byte & 31] for byte in range(256))  # five random bits of each byte
_LAST_LETTERS = {ord(letter): chr(_ALPHABET[i & 28]) for i, letter in enumerate(_ALPHABET.decode())}  # three bits


_DRAWN = 4096  # random bytes drawn from the system at a time: a call a key would be half of its cost
_random = b""


def new_keys(count: int) -> list[str]:
    """Makes keys: unpadded base32 of 128 random bits each. Knowing one is the permission to read the task."""
    global _random
    if len(_random) < 26 * count:
        _random = os.urandom(max(_DRAWN, 26 * count))
    drawn, _random = _random[: 26 * count], _random[26 * count :]
    letters = drawn.translate(_LETTERS).decode()
    return [letters[i : i + 25] + _LAST_LETTERS[ord(letters[i + 25])] for i in range(0, 26 * count, 26)]


def _forget_random() -> None:
    """A forked child must not make its parent's keys."""
    global _random
    _random = b""


os.register_at_fork(after_in_child=_forget_random)


def new_key() -> str:
    """Makes one key."""
    return new_keys(1)[0]


def is_key(text: object) -> bool:
    """Tells whether `text` has the shape of a key; says nothing about whether the task exists."""
    return isinstance(text, str) and _SHAPE.fullmatch(text) is not None
