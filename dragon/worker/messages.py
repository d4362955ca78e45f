"""The frames between a worker and its executors: kind, task number, length, payload; over a socket pair."""

from __future__ import annotations

import struct
from enum import IntEnum

_HEADER = struct.Struct("!BII")
HEADER_SIZE = _HEADER.size


class Kind(IntEnum):
    """What a frame says; the payload in words."""

    RUN = 1  # worker -> executor: JSON {name, key, attempt, scratch}, newline, parameters as JSON
    CANCEL = 2  # worker -> executor: an `async def` task has to end
    FETCHED = 3  # worker -> executor: the fetch's number, newline, "+" and a path or "-" and a message
    PROGRESS = 10  # executor -> worker: JSON
    PARTIAL = 11  # executor -> worker: JSON
    RESULT = 12  # executor -> worker: JSON list of [output name, path], newline, result as JSON
    FAILED = 13  # executor -> worker: result as JSON, newline, traceback ("" when the author meant the error)
    FETCH = 14  # executor -> worker: a number for the fetch, newline, a URL
    SCRATCH = 15  # executor -> worker: the task's scratch folder is about to be made
    LOG = 17  # executor -> worker: lines that the task says, each its time in microseconds of unix time, a space, text
    READY = 16  # executor -> worker, once, first of all: it lives, so what ends it from here on is what it runs


Frame = tuple[int, int, bytes]  # kind, task number, payload


def pack(kind: int, number: int, payload: bytes = b"") -> bytes:
    """A frame as bytes."""
    return _HEADER.pack(kind, number, len(payload)) + payload


class FrameBuffer:
    """Cuts received bytes into frames."""

    def __init__(self) -> None:
        self._chunks: list[bytes] = []  # of a frame that is not whole yet
        self._missing = 0  # bytes of it, or of its header

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that `data` completes."""
        if self._chunks:
            self._chunks.append(data)
            self._missing -= len(data)
            if self._missing > 0:
                return []
            data = b"".join(self._chunks)
        frames = []
        start, end, needed = 0, len(data), HEADER_SIZE
        while end - start >= HEADER_SIZE:
            kind, number, length = _HEADER.unpack_from(data, start)
            needed = HEADER_SIZE + length
            if end - start < needed:
                break
            frames.append((kind, number, data[start + HEADER_SIZE : start + needed]))
            start += needed
            needed = HEADER_SIZE
        self._chunks = [data[start:]] if start < end else []
        self._missing = needed - (end - start)
        return frames
