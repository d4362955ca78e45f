"""Every error that dragon raises for a caller: one root, an HTTP status, a sentence written for the reader."""

from __future__ import annotations

from dataclasses import dataclass

#: Exit code of a process that stopped because of a ConfigError (EX_CONFIG): starting it again does not help.
EXIT_CONFIG = 78
#: Exit codes of commands: the server cannot be asked (EX_UNAVAILABLE), it does not know us (EX_NOPERM).
EXIT_UNAVAILABLE, EXIT_NO_PERMISSION = 69, 77
#: Seconds after which it may be worth to ask a process again that had too much open.
FULL_RETRY = 2.0


class DragonError(Exception):
    """The root: `message` may be shown to a client as it stands."""

    http_status = 500

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        """`retry_after` is in seconds, when waiting helps."""
        super().__init__(message)
        self.message = message
        self.retry_after = retry_after


@dataclass(frozen=True, slots=True)
class ParameterError:
    """One thing that is wrong with a request: which parameter, where it stood, what to do."""

    name: str
    location: str  # body, querystring, path or header
    description: str

    def as_dict(self) -> dict[str, str]:
        return {"name": self.name, "location": self.location, "description": self.description}


class BadRequest(DragonError):
    """Raised when parameters of the request are missing or malformed: carries all of them at once."""

    http_status = 400

    def __init__(self, *errors: ParameterError) -> None:
        super().__init__("; ".join(f"{error.name}: {error.description}" for error in errors))
        self.errors = errors


class BodyTooLarge(DragonError):
    """Raised when a request body is over the configured limit."""

    http_status = 413


class Unauthorized(DragonError):
    """Raised when credentials are missing or wrong, or an account limit is reached."""

    http_status = 401


class NotFound(DragonError):
    """Raised when a path, a key or an output file does not exist."""

    http_status = 404


class FilenameError(NotFound):
    """Raised when a task has no output file of the wanted name."""


class TooSlow(DragonError):
    """Raised when a client does not get on with sending the request that it has begun."""

    http_status = 408


class Unavailable(DragonError):
    """Raised when Redis cannot be reached or does not answer in time."""

    http_status = 503


class Full(DragonError):
    """Raised when this process has as much open as it may: connections, streams, followed tasks, files."""

    http_status = 503

    def __init__(self, message: str) -> None:
        super().__init__(message, retry_after=FULL_RETRY)


class ConfigError(DragonError):
    """Raised at start when a setting is unknown, malformed or dangerous: the process must not go on."""


class WorkerFailed(DragonError):
    """Raised when a worker cannot work any more: it has left, and whoever supervises it starts another."""


class TaskError(DragonError):
    """Raised by a task's author: ends the task in an error whose result is this message."""
