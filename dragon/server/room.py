"""How much one process may have open at once: the settings, and what its file descriptors allow."""

from __future__ import annotations

import logging
import resource
from dataclasses import dataclass

from dragon.config import Config

log = logging.getLogger("dragon.server")

KEPT = 64  # file descriptors of none of these: Redis, the log, modules that are imported late


@dataclass(frozen=True, slots=True)
class Room:
    """What one process may have open at once, so that it never runs out of file descriptors."""

    connections: int
    streams: int
    files: int  # output files that are sent, beside their connections
    refusals: int  # connections too many, until they have read that they are

    @classmethod
    def of(cls, config: Config, descriptors: int) -> Room:
        """The settings, or what fits into so many file descriptors; then streams leave room for other requests too."""
        files = max(16, descriptors // 8)
        refusals = min(256, max(16, descriptors // 32))
        fitting = max(1, descriptors - files - refusals - KEPT)
        most = config.server.connections
        if fitting >= most:
            return cls(most, config.server.streams, files, refusals)
        log.info("%d connections at once, as this process may open only %d files", fitting, descriptors)
        return cls(fitting, max(1, config.server.streams * fitting // most), files, refusals)


def open_files_limit() -> int:
    """How many files this process may have open at once."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 1 << 30 if soft == resource.RLIM_INFINITY else soft
