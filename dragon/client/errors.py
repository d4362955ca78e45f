"""What the clients raise: one root, a readable sentence each, and never a key in it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dragon.errors import DragonError, ParameterError

if TYPE_CHECKING:
    from dragon.client.status import Status


class DragonClientError(DragonError):
    """The root. `http_status` is the answer's, 0 when there was none."""

    http_status = 0

    def __init__(self, message: str, *, http_status: int = 0, retry_after: float | None = None) -> None:
        """`retry_after` is in seconds, when the server says that waiting helps."""
        super().__init__(message, retry_after=retry_after)
        self.http_status = http_status


class Refused(DragonClientError):
    """Raised when credentials are missing or wrong, or an account's limit is reached (401, 403)."""


class BadRequest(DragonClientError):
    """Raised when parameters of the call are missing or malformed (400): `errors` has all of them."""

    def __init__(self, errors: Sequence[ParameterError], message: str = "") -> None:
        text = "; ".join(f"{error.name}: {error.description}" for error in errors)
        super().__init__(text or message, http_status=400)
        self.errors = tuple(errors)


class NotFound(DragonClientError):
    """Raised when the server has no such task, file or path (404)."""


class Unavailable(DragonClientError):
    """Raised when the server cannot be reached or cannot serve now (503), after it was tried several times."""


class Lost(Unavailable):
    """Raised when a connection failed or was cut. `sent`: the server may have got the request."""

    def __init__(self, message: str, *, sent: bool = True) -> None:
        super().__init__(message)
        self.sent = sent


class Silence(Lost):
    """Raised when nothing came for longer than the server is ever silent."""


class TaskFailed(DragonClientError):
    """Raised when a task ended in an error: `status` is its final status."""

    def __init__(self, status: Status) -> None:
        super().__init__(error_text(status.result))
        self.status = status


def error_text(result: Any) -> str:
    """The result of a task that ended in an error, as a sentence: problems of its parameters are joined."""
    if isinstance(result, str):
        return result
    problems = result.get("parameters") if isinstance(result, dict) else None
    if not isinstance(problems, dict):
        return json.dumps(result, ensure_ascii=False)
    return "; ".join(
        f"{name}: {', '.join(map(str, texts)) if isinstance(texts, list) else texts}"
        for name, texts in problems.items()
    )
