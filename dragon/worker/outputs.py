"""From what an executor returned to what the client reads: output files stored, their URLs in the result."""

from __future__ import annotations

from pathlib import Path

import orjson

from dragon.files import Files
from dragon.task import OutputFile


def has_outputs(payload: bytes) -> bool:
    """Whether the payload of a RESULT frame names output files."""
    return not payload.startswith(b"[]\n")


def keep_outputs(files: Files, key: str, attempt: int, payload: bytes) -> tuple[bytes, int]:
    """Stores the output files of a RESULT frame: the result as JSON with their URLs, and their size (-1: none).

    Blocks. Raises OSError when they cannot be stored.
    """
    listed, _, result = payload.partition(b"\n")
    if not has_outputs(payload):
        return result, -1
    outputs = [OutputFile(name, Path(path)) for name, path in orjson.loads(listed)]
    size = files.keep(key, attempt, outputs)
    urls = orjson.dumps({output.name: files.url(key, output.filename) for output in outputs})
    # Spliced, not decoded: the result is an object that may be large.
    return urls[:-1] + (b"," + result[1:] if result != b"{}" else b"}"), size
