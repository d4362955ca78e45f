"""The frames between a worker and its executors: kind, task number, length, payload; over a socket pair."""

from __future__ import annotations

import struct
from collections.abc import Iterator
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


Frame = tuple[int, int, bytes]  # kind, task number, payload


def pack(kind: int, number: int, payload: bytes = b"") -> bytes:
    """A frame as bytes."""
    return _HEADER.pack(kind, number, len(payload)) + payload


class FrameBuffer:
    """Cuts received bytes into frames."""

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Yields the frames that `data` completes."""
        self._data += data
        start, end = 0, len(self._data)
        try:
            while end - start >= HEADER_SIZE:
                kind, number, length = _HEADER.unpack_from(self._data, start)
                if end - start - HEADER_SIZE < length:
                    break
                begin = start + HEADER_SIZE
                start = begin + length
                yield kind, number, bytes(self._data[begin:start])
        finally:
            del self._data[:start]
