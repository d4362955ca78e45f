"""Where output files are stored: a small protocol, and a table of the schemes that implement it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from dragon.config import Config
from dragon.errors import ConfigError
from dragon.files.local import LocalFiles
from dragon.task import OutputFile


class Files(Protocol):
    """A store of output files. What it holds under a key goes together, and never changes once it is seen."""

    def keep(self, key: str, attempt: int, outputs: Sequence[OutputFile]) -> int:
        """Takes the files over, all or none; returns their size in bytes. Blocks."""

    def url(self, key: str, filename: str) -> str:
        """Where a client finds the file."""

    def find(self, key: str, filename: str) -> Path | None:
        """The file on this machine's disk, None when it is not there."""

    def drop(self, key: str, attempt: int | None = None) -> None:
        """Removes a task's files, or those of one attempt. Blocks."""

    def drop_others(self, key: str, attempt: int) -> None:
        """Removes what other attempts left, those that a killed worker was about to store included. Blocks."""


_SCHEMES: dict[str, Callable[[Config], Files]] = {"": LocalFiles.from_config, "file": LocalFiles.from_config}


def open_files(config: Config) -> Files:
    """The store that [files] url names."""
    scheme = config.files.url.partition("://")[0] if "://" in config.files.url else ""
    if scheme not in _SCHEMES:
        raise ConfigError(f"setting 'files.url': no storage for {scheme}://, give a folder")
    return _SCHEMES[scheme](config)
