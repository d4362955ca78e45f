"""The only place that enqueues: from definitions to stored tasks in RQ's queues."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import orjson

from dragon.connections import Redis
from dragon.definition import Definition
from dragon.errors import BadRequest, ParameterError, Unauthorized
from dragon.keys import new_keys
from dragon.status import ERROR, QUEUED, Status, error_result, timestamp, unknown_line
from dragon.store import tasks
from dragon.store.names import digest
from dragon.store.tasks import Line, NewTask, Usage
from dragon.task import ParametersError, Registry

log = logging.getLogger("dragon.server")

_LIMIT_TEXTS = {
    "tasks_queued": "account limit reached: {} tasks queued at once",
    "tasks_per_minute": "account limit reached: {} tasks created per minute",
    "bytes_stored": "account limit reached: {} bytes of output files stored",
}


_KEYS = frozenset({"secret", "api_key"})
_PASSWORD = re.compile(rb'://[^"\\]*@')  # wherever a slash in it seems to end the authority


class Request(NamedTuple):
    """One call to create tasks: whose, under which limits, and what makes a repetition the same call."""

    account: str
    usage: Usage
    life: int  # seconds that an ended task is kept
    feed: str = ""  # follows the tasks from their creation on
    idempotency_key: str = ""
    traceparent: str = ""  # the caller's place in a trace


def prepare(definition: Definition, registry: Registry, key: str, queued: str, *, reuse_for: str = "") -> NewTask:
    """Checks one definition; a wrong one becomes a task that has already ended in an error.

    `queued` is the date. `reuse_for`: the account within which the same name and parameters are the same task, "" for
    none.
    """
    status = Status(QUEUED, key, queued)
    task = registry.get(definition.task_name)
    metas = orjson.dumps(definition.metas) if definition.metas is not None else b""
    if task is None:
        problem: str | dict[str, dict[str, list[str]]] = registry.unknown(definition.task_name)
    elif definition.problems:
        problem = {"parameters": definition.problems}
    else:
        try:
            parameters = task.check(definition.parameters)
        except ParametersError as error:
            problem = {"parameters": error.problems}
        else:
            return NewTask(
                key,
                status.line(),
                False,
                task.name,
                parameters,
                metas,
                task.queue,
                task.max_attempts,
                task.timeout,
                same_task(reuse_for, definition) if reuse_for else "",
                bool(task.outputs),
            )
    line = status.ended(ERROR, error_result(problem), timestamp()).line()
    return NewTask(key, line, True, definition.task_name, _masked(definition.parameters), metas, "", 0, 0, "")


def _masked(parameters: dict[str, Any]) -> bytes:
    """A refused task's parameters as they are kept: without a key in the wrong place, or a password in a URL."""
    shown = {name: "…" if name in _KEYS else value for name, value in parameters.items()}
    return _PASSWORD.sub("://…@".encode(), orjson.dumps(shown))


def same_task(account: str, definition: Definition) -> str:
    """A digest of what makes two requests the same task."""
    parameters = orjson.dumps(definition.parameters, option=orjson.OPT_SORT_KEYS)
    return digest(account, definition.task_name, parameters)


def prepare_all(definitions: Sequence[Definition], registry: Registry, *, reuse_for: str = "") -> list[NewTask]:
    """As `prepare`, for each, with new keys; tasks of one call are queued in the same moment."""
    queued = timestamp()
    return [
        prepare(definition, registry, key, queued, reuse_for=reuse_for)
        for definition, key in zip(definitions, new_keys(len(definitions)), strict=True)
    ]


async def create(redis: Redis, new: Sequence[NewTask], request: Request) -> list[Line]:
    """Stores and queues all the tasks or, when a limit stands in the way, none (Unauthorized)."""
    idempotency = digest(request.account, request.idempotency_key) if request.idempotency_key else ""
    created = await tasks.create(
        redis,
        request.account,
        new,
        request.usage,
        life=request.life,
        feed=request.feed,
        traceparent=request.traceparent,
        idempotency=idempotency,
        request=_digest_of(new) if idempotency else "",
    )
    if created is None:
        raise BadRequest(
            ParameterError(
                "Idempotency-Key",
                "header",
                "this key was used with other tasks before, use a new key for a new request",
            )
        )
    if isinstance(created, tasks.LimitReached):
        text = _LIMIT_TEXTS[created.limit].format(created.value)
        raise Unauthorized(text, retry_after=created.retry_after or None)
    if log.isEnabledFor(logging.DEBUG):
        for task, line in zip(new, created, strict=True):
            log.debug("%s queued %s account=%s", line.key, task.name, request.account)
    # An Idempotency-Key may outlive the tasks that it stands for, where ended tasks are kept for less than a day.
    return [line if line.line else Line(line.key, -1, True, unknown_line(line.key)) for line in created]


def _digest_of(new: Sequence[NewTask]) -> str:
    return digest(*(part for task in new for part in (task.name, task.parameters, task.metas)))
