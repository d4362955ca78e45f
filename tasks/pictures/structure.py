"""How a file is built, looked at before a decoder sees it: one of millions of parts or scans is made to exhaust."""

from __future__ import annotations

import re
from pathlib import Path
from typing import BinaryIO

#: The most parts: cameras and programs write far fewer (a PNG of 200 MB has 25,000 chunks, a GIF 800,000 blocks).
CHUNKS = 100_000  # of a PNG
SEGMENTS = 10_000  # of a JPEG, in front of its pixels
EXTENSIONS = 100_000  # blocks of a GIF's comments and other extensions
BLOCKS = 2_000_000  # of a GIF, in all

_BLOCK = 1 << 16  # bytes read at a time
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # JPEG's markers of a frame header
_PROGRESSIVE = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
_SCAN, _END = 0xDA, 0xD9
_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")  # amid pixels, where the others stand for themselves


class TooManyParts(Exception):
    """Raised for a file that is made of more parts than any that is meant to be seen."""


def count_scans(path: Path) -> int:
    """How often a JPEG decoder has to go over the whole picture; 1 for other formats. Raises TooManyParts.

    What is malformed is left to the decoder.
    """
    with path.open("rb") as file:
        match file.read(4):
            case b"\x89PNG":
                file.seek(8)
                _walk_chunks(file)
            case b"GIF8":
                _walk_blocks(file)
            case start if start.startswith(b"\xff\xd8"):
                file.seek(2)
                return _scans(file)
    return 1


def _scans(file: BinaryIO) -> int:
    """Of a JPEG whose pixels come in several scans; the further ones of any other JPEG are never looked at."""
    components, is_progressive = 0, False
    for _ in range(SEGMENTS):
        marker = _next_marker(file)
        length = int.from_bytes(file.read(2), "big")
        if marker is None or length < 2:
            return 1
        body = file.read(length - 2)
        if marker in _FRAMES and len(body) > 5:
            components, is_progressive = body[5], marker in _PROGRESSIVE
        elif marker == _SCAN:
            is_whole = bool(body) and body[0] == components and not is_progressive
            return 1 if is_whole else 1 + _further_scans(file)
    raise TooManyParts


def _next_marker(file: BinaryIO) -> int | None:
    byte = file.read(1)
    while byte and byte != b"\xff":
        byte = file.read(1)
    while byte == b"\xff":
        byte = file.read(1)
    return byte[0] if byte else None


def _further_scans(file: BinaryIO) -> int:
    for scans in range(SEGMENTS):
        while (marker := _marker_amid_pixels(file)) not in (_SCAN, _END, None):
            file.seek(max(0, int.from_bytes(file.read(2), "big") - 2), 1)
        if marker != _SCAN:
            return scans
    raise TooManyParts


def _marker_amid_pixels(file: BinaryIO) -> int | None:
    while block := file.read(_BLOCK):
        found = _MARKER.search(block)
        if found:
            file.seek(found.end() - len(block), 1)
            return block[found.end() - 1]
        if len(block) > 1:
            file.seek(-1, 1)  # the last byte may be half a marker
    return None


def _walk_chunks(file: BinaryIO) -> None:
    for _ in range(CHUNKS):
        head = file.read(8)
        if len(head) < 8 or head[4:] == b"IEND":
            return
        file.seek(int.from_bytes(head[:4], "big") + 4, 1)
    raise TooManyParts


def _walk_blocks(file: BinaryIO) -> None:
    file.seek(10)
    _skip_palette(file)
    left, extensions = BLOCKS, EXTENSIONS
    file.seek(2, 1)
    while left > 0 and extensions > 0:
        match file.read(1):
            case b"!":
                file.seek(1, 1)
                count = _skip_blocks(file, extensions)
                extensions -= count
            case b",":
                file.seek(8, 1)
                _skip_palette(file)
                file.seek(1, 1)
                count = _skip_blocks(file, left)
            case b"" | b";":
                return
            case _:
                count = 1
        left -= count + 1
    raise TooManyParts


def _skip_palette(file: BinaryIO) -> None:
    flags = (file.read(1) or b"\0")[0]
    if flags & 0x80:
        file.seek(3 << ((flags & 7) + 1), 1)


def _skip_blocks(file: BinaryIO, most: int) -> int:
    for number in range(most):
        size = file.read(1)
        if size in (b"", b"\0"):
            return number
        file.seek(size[0], 1)
    return most
