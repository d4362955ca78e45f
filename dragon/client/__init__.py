"""The clients for Python: `Dragon` waits (http.client), `AsyncDragon` does not (aiohttp). Nothing else is needed."""

from typing import TYPE_CHECKING, Any

from dragon.client.blocking import Dragon
from dragon.client.errors import BadRequest, DragonClientError, NotFound, Refused, TaskFailed, Unavailable
from dragon.client.protocol import Timing
from dragon.client.status import LogLine, Status

if TYPE_CHECKING:
    from dragon.client.asynchronous import AsyncDragon

__all__ = [
    "AsyncDragon",
    "BadRequest",
    "Dragon",
    "DragonClientError",
    "LogLine",
    "NotFound",
    "Refused",
    "Status",
    "TaskFailed",
    "Timing",
    "Unavailable",
]


def __getattr__(name: str) -> Any:
    if name == "AsyncDragon":  # asyncio alone takes as long to import as all of the rest
        from dragon.client.asynchronous import AsyncDragon

        return AsyncDragon
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
