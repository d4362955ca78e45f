"""The verbs of the clients, without IO: each is a generator of steps that both clients drive."""

from __future__ import annotations

import io
import secrets
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote, urlencode, urlsplit

from dragon.client.calls import LineReader, Manner, answer_of, read_body, read_object
from dragon.client.errors import DragonClientError, Lost, NotFound, Refused, Silence, TaskFailed, Unavailable
from dragon.client.following import Followed, statuses_of
from dragon.client.protocol import Address, Core, Flow, Give, Giving, Open, Read, Request, Sleep, error_of, query_pairs
from dragon.client.status import Key, Keys, LogLine, Status, key_of, read_keys, read_statuses
from dragon.signing import sign_url

#: A task to create: its name, its name and parameters, or a whole task definition.
Definition = str | tuple[str, Mapping[str, Any]] | Mapping[str, Any]
Definitions = Definition | Iterable[Definition]

REDIRECTS = 10  # the most on the way to an output file
_SAFE = "/%?&=:@!$'()*+,;-._~[]"  # the rest of a redirect's target is written as %XX

URL_LIFE = 24 * 3600.0  # seconds that a signed URL is valid


def read_definitions(given: Definitions) -> list[dict[str, Any]]:
    """Task definitions as the server takes them. Raises TypeError or ValueError for what is none."""
    if isinstance(given, str | Mapping) or _is_pair(given):
        return [_definition(given)]
    return [_definition(item) for item in given]


def _is_pair(given: object) -> bool:
    return isinstance(given, tuple) and len(given) == 2 and isinstance(given[0], str) and isinstance(given[1], Mapping)


def _definition(given: Any) -> dict[str, Any]:
    if isinstance(given, str):
        return {"task_name": given}
    if isinstance(given, Mapping):
        return dict(given)
    if not _is_pair(given):
        raise TypeError("a task to create is its name, (name, parameters), or an object with a task_name")
    name, parameters = given
    if "task_name" in parameters:
        raise ValueError("the task_name is given twice: a parameter cannot be called so")
    return {"task_name": name, **parameters}


def create(core: Core, tasks: Definitions) -> Flow[list[Status]]:
    """Creates tasks, once, however often the request has to be repeated."""
    definitions = read_definitions(tasks)
    if not definitions:
        return []
    request = core.request(
        "POST",
        "/v1/create",
        {"tasks": definitions},
        idempotency_key=core.new_idempotency_key(),
        authorized=True,
    )
    return _statuses((yield from answer_of(core, request)))


def _statuses(value: object) -> list[Status]:
    try:
        return read_statuses(value)
    except ValueError as error:
        raise DragonClientError(f"the answer cannot be understood: {error}") from None


def stream(core: Core, tasks: Definitions) -> Giving[Status]:
    """Creates tasks and follows them."""
    definitions = read_definitions(tasks)
    if definitions:
        yield from statuses_of(core, Followed(core, definitions=definitions))


def follow(core: Core, keys: Keys) -> Giving[Status]:
    """Follows existing tasks."""
    if wanted := read_keys(keys):
        yield from statuses_of(core, Followed(core, keys=wanted))


def result_of(status: Status | None) -> Any:
    """The result of a final status. Raises TaskFailed."""
    assert status is not None
    if status.status != "success":
        raise TaskFailed(status)
    return status.result


def status(
    core: Core, keys: Keys, *, block: bool = False, timeout: float | None = None, details: bool = False
) -> Flow[list[Status]]:
    """The statuses of tasks, in order; with `block` when all have ended, or `timeout` seconds are over."""
    wanted = read_keys(keys)
    ends = None if timeout is None else core.clock() + timeout
    while wanted:
        body: dict[str, Any] = {"tasks": wanted, "details": details}
        left = core.timing.block if ends is None else min(core.timing.block, max(0.0, ends - core.clock()))
        if block:
            body |= {"block": True, "timeout": left}
        found = _statuses((yield from answer_of(core, core.request("POST", "/v1/status", body))))
        if not block or all(one.final for one in found) or (ends is not None and core.clock() >= ends):
            return found
    return []


def cancel(core: Core, key: Key) -> Flow[Status]:
    """Cancels a task: its status after that."""
    request = core.request("DELETE", f"/v1/tasks/{quote(key_of(key), safe='')}", authorized=True)
    return _statuses([(yield from answer_of(core, request))])[0]


def read_file(core: Core, key: Key, name: str | None) -> Flow[bytes]:
    """The content of a task's output file, as soon as the task has ended."""
    content = io.BytesIO()
    yield from _fetch(core, key_of(key), name, content)
    return content.getvalue()


def save_file(core: Core, key: Key, name: str | None, path: Path) -> Flow[Path]:
    """Writes a task's output file to `path`, which is never there in part."""
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with part.open("xb") as content:
            yield from _fetch(core, key_of(key), name, content)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return path


def _fetch(core: Core, key: str, name: str | None, content: BinaryIO) -> Flow[None]:
    ended = (yield from status(core, key, block=True))[0]
    if not ended.known:
        raise NotFound(str(ended.result), http_status=404)
    result_of(ended)
    trouble = core.trouble()
    while True:
        try:
            yield from _download(core, key, name, content)
            return
        except (Unavailable, Refused) as error:
            content.seek(0)
            content.truncate()
            yield Sleep(trouble.pause(error))


def _download(core: Core, key: str, name: str | None, content: BinaryIO) -> Flow[None]:
    """Follows redirects, without credentials: they may lead to another host."""
    request = core.request("GET", "/v1/file" + (f"/{quote(name, safe='')}" if name else ""), query={"task": key})
    for _ in range(REDIRECTS):
        head = yield Open(request)
        if head.status not in (301, 302, 303, 307, 308):
            break
        request = redirected(core, request, head.headers.get("location", ""))
    if head.status != 200:
        raise error_of(head, (yield from read_body(request.silence)))
    size = 0
    while data := (yield Read(request.silence)):
        size += len(data)
        content.write(data)
    if head.headers.get("content-length", str(size)) != str(size):
        raise Lost("the file was cut")


def redirected(core: Core, request: Request, location: str) -> Request:
    """The request for where an answer redirects to. A path lies below the server's, which it does not know of."""
    try:
        parts = urlsplit(location)
        is_path = not parts.scheme and not parts.netloc and parts.path.startswith("/")
        address = (
            request.address if is_path else Address.read(f"{parts.scheme or request.address.scheme}://{parts.netloc}")
        )
    except ValueError:
        raise DragonClientError("the server redirects to something that is no address of a file") from None
    prefix = core.address.path if is_path and not parts.path.startswith(f"{core.address.path}/") else ""
    target = prefix + (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Request("GET", address, quote(target, safe=_SAFE), request.silence)


def log(core: Core, key: Key, *, after: int = 0, follow: bool = False) -> Giving[LogLine]:
    """The lines of a task's log after a number; with `follow` until the task has ended and all were given."""
    reading = _LogReading(core, key_of(key), after)
    trouble, manner = core.trouble(), Manner(core)
    while True:
        yield from reading.give_pages()
        if reading.is_over or not follow:
            return
        if manner.is_polling:
            manner.poll_was_answered()
            yield Sleep(core.timing.poll)
            continue
        count = reading.after
        try:
            yield from reading.give_stream(manner)
            error: DragonClientError = Lost("the stream ended before the log did")
        except (Unavailable, Refused) as caught:
            error = caught
        if reading.after > count:
            trouble.over()
        yield Sleep(trouble.pause(error))


class _LogReading:
    """Reads the log of one task: `after` is the number of the last line that was given."""

    def __init__(self, core: Core, task: str, after: int) -> None:
        self.after = after
        self.is_over = False
        self._core = core
        self._task = task

    def _request(self, *, follow: bool, silence: float = 0.0) -> Request:
        query = {"task": self._task, "after": self.after} | ({"follow": True} if follow else {})
        return self._core.request("GET", "/v1/log", query=query, silence=silence)

    def give_pages(self) -> Giving[LogLine]:
        """All that there is now: a long log comes in several answers."""
        while True:
            page = read_object((yield from answer_of(self._core, self._request(follow=False))))
            before = self.after
            yield from self._give(page.get("lines"))
            if self.after == before:
                self.is_over = bool(page.get("ended"))
                return

    def give_stream(self, manner: Manner) -> Giving[LogLine]:
        """What comes while the task goes on."""
        reader = LineReader(
            self._core, self._request(follow=True, silence=self._core.timing.first_line), is_immediate=False
        )
        is_open = False
        try:
            yield from reader.open()
            is_open = True
            while values := (yield from reader.read()):
                manner.stream_had_news()
                yield from self._give(values)
        except Silence:
            manner.stream_fell_silent(had_lines=is_open)
            raise

    def _give(self, values: object) -> Giving[LogLine]:
        try:
            lines = [LogLine.read(value) for value in values] if isinstance(values, list) else []
        except ValueError as error:
            raise Lost(f"the log is damaged: {error}") from None
        for line in lines:
            if line.number > self.after:
                self.after = line.number
                yield Give(line)


def tasks(core: Core) -> Flow[Any]:
    """The task catalogue."""
    return (yield from answer_of(core, core.request("GET", "/v1/tasks")))


def call(core: Core, method: str, path: str, body: object = None) -> Flow[Any]:
    """Any call of the API, with credentials. A POST is repeated only when the server did not get it."""
    request = core.request(method.upper(), path, body, authorized=True, repeatable=method.upper() != "POST")
    return (yield from answer_of(core, request))


def img_url(
    core: Core,
    name: str,
    parameters: Mapping[str, Any],
    *,
    filename: str | None = None,
    sign: bool = False,
    expires: float | None = None,
) -> str:
    """The URL of a task's output file for an `<img>`, without a key in it; signed, it needs none."""
    query = urlencode([("task_name", name), *query_pairs(parameters)], quote_via=quote)
    path = "/v1/create_file" + (f"/{quote(filename, safe='')}" if filename else "")
    url = f"{core.address.origin}{core.address.path}{path}?{query}"
    if not sign:
        return url
    if core.secret is None or not core.account:
        raise ValueError("signing needs the account's secret key and its id: Dragon(url, secret=..., account=...)")
    return sign_url(url, core.account, core.secret, int(time.time() + URL_LIFE if expires is None else expires))
