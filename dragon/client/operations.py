"""The operator's verbs, without IO: what runs, waits and failed, and acting on it. The keys are an operator's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal
from urllib.parse import quote

from dragon.client.calls import LineReader, Manner, answer_of, read_object
from dragon.client.errors import DragonClientError, Lost, Refused, Silence, Unavailable
from dragon.client.protocol import Core, Flow, Give, Giving, Sleep
from dragon.client.status import Key, Keys, Status, key_of, read_keys, read_statuses

Period = Literal["hour", "day"]
Row = dict[str, Any]

REMEMBERED = 2000  # tasks, four of the longest pages

_ROOT = "/v1/operator/"


def _get(core: Core, path: str, query: Mapping[str, Any] | None = None) -> Flow[dict[str, Any]]:
    answer = yield from answer_of(core, core.request("GET", _ROOT + path, query=query, authorized=True))
    return read_object(answer)


def _post(core: Core, path: str, body: object, *, repeatable: bool = True) -> Flow[Any]:
    request = core.request("POST", _ROOT + path, body, authorized=True, repeatable=repeatable)
    return (yield from answer_of(core, request))


def overview(core: Core) -> Flow[dict[str, Any]]:
    """A snapshot: queues, workers, rates, counts."""
    return _get(core, "overview")


def overviews(core: Core) -> Giving[dict[str, Any]]:
    """A snapshot at once, and then whenever something changed, for ever."""
    return _changes(core, "overview", "overview_stream", {})


def tasks(core: Core, /, **filters: Any) -> Flow[dict[str, Any]]:
    """A page of tasks, newest first: `tasks`, `next` (to be given as `after`), `scanned`."""
    return _get(core, "tasks", filters)


def rows(core: Core, /, **filters: Any) -> Giving[Row]:
    """All tasks that match, newest first, page after page."""
    after = None
    while True:
        page = yield from _get(core, "tasks", filters | {"after": after})
        for row in page["tasks"]:
            yield Give(row)
        after = page["next"]
        if after is None:
            return


def changes(core: Core, /, **filters: Any) -> Giving[Row]:
    """The newest tasks that match, and then each that is new or changes, for ever."""
    return _changes(core, "tasks", "tasks_stream", filters)


def task(core: Core, key: Key) -> Flow[dict[str, Any]]:
    """All about one task."""
    return _get(core, f"tasks/{quote(key_of(key), safe='')}")


def retry(
    core: Core, keys: Keys | None = None, *, group: str | None = None, limit: int | None = None
) -> Flow[list[dict[str, Any]]]:
    """Runs tasks again, or those of a group of failures, each once: `key`, `retried_as` and `message` of each."""
    if (keys is None) == (group is None):
        raise ValueError("give keys or group, one of them")
    body: dict[str, Any] = {"group": group} if keys is None else {"tasks": read_keys(keys)}
    return _post(core, "retry", body if limit is None else body | {"limit": limit})


def cancel(core: Core, keys: Keys) -> Flow[list[Status]]:
    """Cancels tasks: their statuses after that."""
    return read_statuses((yield from _post(core, "cancel", {"tasks": read_keys(keys)})))


def failures(core: Core, /, **filters: Any) -> Flow[dict[str, Any]]:
    """What failed, in `groups` by task name and message."""
    return _get(core, "failures", filters)


def pause(core: Core, queue: str) -> Flow[dict[str, Any]]:
    """Lets workers take nothing more from a queue."""
    return _act(core, queue, "pause")


def resume(core: Core, queue: str) -> Flow[dict[str, Any]]:
    """Lets workers take from a queue again."""
    return _act(core, queue, "resume")


def clear(core: Core, queue: str) -> Flow[dict[str, Any]]:
    """Cancels all that waits in a queue; not repeated when the answer is lost, it would hit what came since."""
    return _act(core, queue, "clear", repeatable=False)


def _act(core: Core, queue: str, action: str, *, repeatable: bool = True) -> Flow[dict[str, Any]]:
    return _post(core, f"queues/{quote(queue, safe='')}", {"action": action}, repeatable=repeatable)


def history(core: Core, period: Period = "hour", name: str | None = None) -> Flow[dict[str, Any]]:
    """Measurements of the last hour or day, of one task name or all."""
    return _get(core, "history", {"period": period, "name": name})


def account(core: Core) -> Flow[dict[str, Any]]:
    """The account of the key."""
    return _get(core, "account")


def _changes(core: Core, path: str, stream: str, query: Mapping[str, Any]) -> Giving[dict[str, Any]]:
    """What a stream that never ends has to say, and nothing again when it was cut."""
    trouble, manner, given = core.trouble(), Manner(core), _Given()
    request = core.request("GET", _ROOT + stream, query=query, authorized=True, silence=core.timing.first_line)
    while True:
        count = 0
        error: DragonClientError = Lost("the stream ended")
        try:
            if manner.is_polling:
                page = yield from _get(core, path, query)
                manner.poll_was_answered()
                yield from given.give([page.get("tasks", page)])
                yield Sleep(core.timing.poll)
                continue
            reader = LineReader(core, request, is_immediate=True)
            yield from reader.open()
            while values := (yield from reader.read()):
                trouble.over()
                yield from given.give(values)
                count += len(values)
                if count > 1:
                    manner.stream_had_news()
        except Silence as caught:
            manner.stream_fell_silent(had_lines=count > 0)
            error = caught
        except (Unavailable, Refused) as caught:
            error = caught
        yield Sleep(trouble.pause(error))


class _Given:
    """What was given last of each task, so that it is not given again; the newest REMEMBERED of them."""

    def __init__(self) -> None:
        self._items: dict[object, dict[str, Any]] = {}

    def give(self, values: Sequence[Any]) -> Giving[dict[str, Any]]:
        """The objects in lines, which are one each or a list, that are not as they were given last."""
        for value in values:
            for item in value if isinstance(value, list) else [value]:
                read_object(item)
                key = item.get("key")
                if self._items.pop(key, None) != item:
                    yield Give(item)
                self._items[key] = item
                if len(self._items) > REMEMBERED:
                    del self._items[next(iter(self._items))]
