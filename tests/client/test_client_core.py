"""The clients' core without a network: lines split anywhere, streams cut anywhere, repeats, backoff, errors."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dragon.client import operations, verbs
from dragon.client.calls import END_WAIT
from dragon.client.errors import (
    BadRequest,
    DragonClientError,
    Lost,
    NotFound,
    Refused,
    Silence,
    TaskFailed,
    Unavailable,
    error_text,
)
from dragon.client.protocol import (
    Address,
    Core,
    Head,
    Lines,
    Request,
    Timing,
    error_of,
    query_pairs,
    read_answer,
    retry_after,
)
from dragon.client.status import Status, is_news
from dragon.errors import ParameterError
from tests.client.world import Answer, World, body_of, cut

KEYS = ["A" * 26, "B" * 26, "C" * 26]
QUEUED = "2026-01-01T00:00:00.000000+00:00"
STARTED = "2026-01-01T00:00:01.000000+00:00"


def raw(key: str, status: str = "queued", **more: Any) -> dict[str, Any]:
    events = {"queued": QUEUED} | ({} if status == "queued" else {"started": STARTED})
    return {"status": status, "key": key, "events": events} | more


def read(key: str, status: str = "queued", **more: Any) -> Status:
    return Status.read(raw(key, status, **more))


# Lines


@given(st.lists(st.binary().map(lambda line: line.replace(b"\n", b"")), max_size=8), st.data())
def test_lines_are_the_same_however_their_bytes_are_split(lines: list[bytes], data: st.DataObject) -> None:
    body = b"".join(line + b"\n" for line in lines)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(body)), max_size=20)))
    reader, found = Lines(), []
    for start, end in zip([0, *cuts], [*cuts, len(body)], strict=True):
        found += reader.feed(body[start:end])
    assert found == [line for line in lines if line.strip()]


def test_a_long_line_in_small_pieces_takes_no_longer_than_its_bytes() -> None:
    reader = Lines()
    for _ in range(200_000):
        assert reader.feed(b"x" * 50) == []
    assert [len(line) for line in reader.feed(b"\n")] == [10_000_000]


# What is newer


def test_what_is_news_after_what() -> None:
    order = [
        read("K"),
        read("K", position=3, eta=9.5),
        read("K", position=2),
        read("K", "executing"),
        read("K", "executing", progress=None),
        read("K", "executing", progress=1),
        read("K", "executing", progress=True),
        read("K", "executing", progress=1.0),
        Status.read(raw("K", "executing") | {"events": {"queued": QUEUED, "started": QUEUED}}),
        read("K", "error", result="x"),
    ]
    for place, status in enumerate(order):
        assert is_news(status, None)
        assert not is_news(status, status)
        for later in order[place + 1 :]:
            assert is_news(later, status) is (not status.final)
    assert not is_news(order[0], order[1]), "the stored line says nothing about a place that is known"
    assert not is_news(order[1], order[3]), "a place in the queue after the start"
    assert not is_news(read("K", "success"), order[-1]), "a final status never changes"
    assert not is_news(order[3], order[-1])


def test_a_status_has_what_the_server_said() -> None:
    status = Status.read(raw("K", "executing", progress=5, position=2, eta=3, strange=1))
    assert (status.key, status.status, status.progress, status.result) == ("K", "executing", 5, None)
    assert (status.final, status.known, status.position, status.eta) == (False, True, 2, 3.0)
    assert status.raw["strange"] == 1
    assert not Status.read({"status": "error", "key": "K", "result": "unknown task key"}).known
    wrong: Any
    for wrong in (
        None,
        [],
        "x",
        {},
        {"key": 1, "status": "queued"},
        {"key": "K"},
        {"key": "K", "status": "x", "events": 1},
    ):
        with pytest.raises(ValueError, match="no status"):
            Status.read(wrong)


# Streams that are cut


class Server:
    """Tasks with a history each, of which the server has come so far; connections end where `chance` wants."""

    def __init__(self, histories: list[list[dict[str, Any]]], chance: random.Random, cuts: int) -> None:
        self.chance = chance
        self.cuts = cuts
        self.creations: dict[str, object] = {}  # by Idempotency-Key
        self.histories = dict(zip(KEYS, histories, strict=False))
        self.place = dict.fromkeys(self.histories, 0)

    def answer(self, request: Request) -> Answer | DragonClientError:
        if self.cuts and self.chance.random() < 0.2:
            self.cuts -= 1
            return Lost("cannot connect", sent=False)
        path = request.target.partition("?")[0]
        keys = list(self.histories)
        if path in ("/v1/create", "/v1/create_stream"):
            assert self.creations.setdefault(request.idempotency_key, body_of(request)) == body_of(request)
        else:
            keys = body_of(request)["tasks"]
            assert all(self.place[key] < len(self.histories[key]) for key in keys)
        self._go_on(self.chance.randrange(3))
        if path in ("/v1/create", "/v1/status"):
            if path == "/v1/status":
                self._go_on(self.chance.randrange(5))
            return self._end([json.dumps([self._present(key) for key in keys]).encode()])
        return self._end([line + b"\n" for line in self._stream(keys)])

    def _present(self, key: str) -> dict[str, Any]:
        return self.histories[key][self.place[key]]

    def _stream(self, keys: list[str]) -> list[bytes]:
        lines = [json.dumps([self._present(key) for key in keys]).encode()]
        while line := self._step(keys):
            lines.append(b" " * self.chance.randrange(3) + line)
        return lines

    def _step(self, keys: list[str]) -> bytes:
        left = [key for key in keys if self.place[key] + 1 < len(self.histories[key])]
        if not left:
            return b""
        key = self.chance.choice(left)
        self.place[key] += 1
        return json.dumps(self._present(key)).encode()

    def _go_on(self, steps: int) -> None:
        for _ in range(steps):
            self._step(list(self.histories))

    def _end(self, lines: list[bytes]) -> Answer:
        """The body in pieces, split anywhere; cut anywhere, as long as there are cuts left. What the server has come to
        by then stays, so that a stream that is taken up again has to tell it."""
        body = b"".join(lines)
        end: DragonClientError | None = None
        if self.cuts:
            self.cuts -= 1
            body = body[: self.chance.randrange(len(body) + 1)]
            end = self.chance.choice([cut(), Silence("nothing came"), None])
        marks = sorted(self.chance.randrange(len(body) + 1) for _ in range(self.chance.randrange(10)))
        pieces = [body[start:stop] for start, stop in zip([0, *marks], [*marks, len(body)], strict=True)]
        return Answer([piece for piece in pieces if piece], end)


def history(key: str, steps: int, end: str) -> list[dict[str, Any]]:
    running = [raw(key, "executing", progress=step) for step in range(steps)]
    return [raw(key), raw(key, "executing"), *running, raw(key, end, progress=steps, result=[key])]


HISTORIES = st.lists(st.tuples(st.integers(0, 6), st.sampled_from(["success", "error"])), min_size=1, max_size=3)
CHANCE = st.integers(0, 1 << 32).map(random.Random)  # its own draws: hypothesis would let nothing ever happen


@settings(deadline=None, max_examples=400)
@given(HISTORIES, CHANCE, st.integers(0, 12), st.booleans())
def test_nothing_is_lost_and_nothing_comes_twice_wherever_a_stream_is_cut(
    shapes: list[tuple[int, str]], chance: random.Random, cuts: int, is_new: bool
) -> None:
    histories = [history(key, *shape) for key, shape in zip(KEYS, shapes, strict=False)]
    server = Server(histories, chance, cuts)
    world = World(server.answer)
    core = world.core(timing=Timing(retries=cuts, patience=3600), chance=chance)
    keys = list(server.histories)
    verb = verbs.stream(core, ["hello"] * len(keys)) if is_new else verbs.follow(core, keys)
    statuses, _ = world.drive(verb)
    assert len(server.creations) == is_new, "one creation, however often it was asked for"
    for key, lines in server.histories.items():
        places = [lines.index(status.raw) for status in statuses if status.key == key]
        assert places == sorted(set(places)), "each once, in order"
        assert places[-1] == len(lines) - 1, "the end is there"


@settings(deadline=None)
@given(HISTORIES, CHANCE)
def test_a_stream_that_is_not_cut_gives_every_line(shapes: list[tuple[int, str]], chance: random.Random) -> None:
    histories = [history(key, *shape) for key, shape in zip(KEYS, shapes, strict=False)]
    server = Server(histories, chance, 0)
    server._go_on = lambda steps: None  # type: ignore[method-assign]
    world = World(server.answer)
    statuses, _ = world.drive(verbs.stream(world.core(), ["hello"] * len(histories)))
    for key, lines in server.histories.items():
        assert [status.raw for status in statuses if status.key == key] == lines
    assert [request.target for request in world.requests] == ["/v1/create_stream"]


def script(*answers: Answer | DragonClientError) -> Callable[[Request], Answer | DragonClientError]:
    left = list(answers)
    return lambda request: left.pop(0)


def lines(*values: object) -> list[bytes]:
    return [json.dumps(value).encode() + b"\n" for value in values]


A = KEYS[0]
DONE = raw(A, "success", result=1)


def targets(world: World) -> list[str]:
    return [request.target for request in world.requests]


def test_a_creation_whose_answer_was_lost_is_repeated_as_it_was() -> None:
    world = World(script(Answer([], cut()), Answer(lines([raw(A)])[:1], cut()), Answer(lines([DONE]))))
    statuses, _ = world.drive(verbs.stream(world.core(), ("hello", {"name": "x"})))
    assert [status.raw for status in statuses] == [raw(A), DONE]
    assert targets(world) == ["/v1/create_stream", "/v1/create_stream", "/v1/status_stream"]
    first, again, resumed = world.requests
    assert (first.idempotency_key, first.body) == (again.idempotency_key, again.body)
    assert first.idempotency_key
    assert body_of(first) == {"tasks": [{"task_name": "hello", "name": "x"}]}
    assert (body_of(resumed), resumed.authorized) == ({"tasks": [A]}, False)


def test_only_what_has_not_ended_is_taken_up_again() -> None:
    other = raw(KEYS[1])
    world = World(
        script(Answer(lines([raw(A), other], DONE), cut()), Answer(lines([raw(KEYS[1], "error", result="")])))
    )
    statuses, _ = world.drive(verbs.follow(world.core(), [A, KEYS[1], A]))
    assert [status.raw for status in statuses] == [raw(A), other, DONE, raw(KEYS[1], "error", result="")]
    assert [body_of(request)["tasks"] for request in world.requests] == [KEYS[:2], [KEYS[1]]]


def test_a_damaged_line_is_a_cut() -> None:
    for damage in (b"<html>\n", b"{}\n", b"[1]\n", b"3\n", b'{"status": "success", "key"\n'):
        world = World(script(Answer([*lines([raw(A)]), damage]), Answer(lines([DONE]))))
        statuses, _ = world.drive(verbs.follow(world.core(), A))
        assert [status.raw for status in statuses] == [raw(A), DONE]


def test_a_place_in_the_queue_is_given_when_it_changes_and_not_taken_back_by_a_stream_taken_up_again() -> None:
    third, second = raw(A, position=3, eta=None), raw(A, position=2, eta=1.5)
    world = World(script(Answer(lines([raw(A)], third, third), cut()), Answer(lines([raw(A)], third, second, DONE))))
    statuses, _ = world.drive(verbs.follow(world.core(), A))
    assert [status.raw for status in statuses] == [raw(A), third, second, DONE]


# Something on the way holds streams back


def silence() -> Silence:
    return Silence("no sign of life")


def test_a_stream_without_a_first_line_becomes_long_polls_of_the_same_tasks() -> None:
    answers = [Answer([], silence()), Answer.of([raw(A)]), Answer.of([raw(A, "executing")]), Answer.of([DONE])]
    world = World(script(*answers, Answer.of([raw(A)]), Answer.of([DONE])))
    core = world.core()
    statuses, _ = world.drive(verbs.stream(core, "hello"))
    assert [status.raw for status in statuses] == [raw(A), raw(A, "executing"), DONE]
    assert targets(world) == ["/v1/create_stream", "/v1/create", "/v1/status", "/v1/status"]
    assert world.requests[0].idempotency_key == world.requests[1].idempotency_key
    assert body_of(world.requests[2]) == {"tasks": [A], "block": True, "timeout": core.timing.poll}
    world.drive(verbs.stream(core, "hello"))
    assert targets(world)[4:] == ["/v1/create", "/v1/status"], "the next call has learned from it"
    world.now += 61
    world.answer = script(Answer(lines([DONE])))
    world.drive(verbs.stream(core, "hello"))
    assert targets(world)[6:] == ["/v1/create_stream"], "and not for ever"


def test_a_server_that_is_away_is_not_taken_for_a_buffer() -> None:
    world = World(script(Answer([], silence()), cut(), Answer.of([DONE])))
    core = world.core()
    world.drive(verbs.follow(core, A))
    assert targets(world) == ["/v1/status_stream", "/v1/status", "/v1/status"]
    away = World(script(cut(), Answer(lines([DONE]))))
    core = away.core()
    away.drive(verbs.follow(core, A))
    assert targets(away) == ["/v1/status_stream"] * 2
    assert not core.is_buffered


def test_the_first_silence_of_a_stream_that_had_lines_is_a_cut_and_the_second_a_buffer() -> None:
    quiet = Answer(lines([raw(A)]), silence())
    world = World(script(quiet, quiet, Answer.of([DONE])))
    world.drive(verbs.follow(world.core(), A))
    assert targets(world) == ["/v1/status_stream", "/v1/status_stream", "/v1/status"]
    lively, livelier = (Answer(lines([raw(A)], raw(A, "executing", progress=n)), silence()) for n in (1, 2))
    world = World(script(quiet, lively, livelier, Answer(lines([DONE]))))
    world.drive(verbs.follow(world.core(), A))
    assert targets(world) == ["/v1/status_stream"] * 4


def test_the_limits_of_silence() -> None:
    timing = Timing(heartbeat=4, first_line=3)
    world = World(script(Answer(lines([raw(A)], DONE))))
    world.drive(verbs.follow(world.core(timing=timing), A))
    assert world.requests[0].silence == 3
    assert world.limits == [3, 10, END_WAIT]


# Trying again


class Most(random.Random):
    """Draws the largest number that there may be."""

    def uniform(self, a: float, b: float) -> float:
        return b


def test_pauses_double_and_end_with_the_error() -> None:
    world = World(lambda request: Lost("cannot reach it", sent=False))
    with pytest.raises(Unavailable, match="cannot reach it"):
        world.drive(verbs.create(world.core(chance=Most()), "hello"))
    assert world.pauses == [0.5, 1, 2, 4, 8]
    assert len({request.idempotency_key for request in world.requests}) == 1


def test_jitter_is_over_all_of_the_pause() -> None:
    world = World(lambda request: Lost("cannot reach it"))
    drawn: list[float] = []
    for seed in range(300):
        world.pauses.clear()
        with pytest.raises(Unavailable):
            world.drive(verbs.tasks(world.core(timing=Timing(retries=1), chance=random.Random(seed))))
        drawn += world.pauses
    assert (min(drawn) < 0.02, max(drawn) > 0.48, max(drawn) <= 0.5) == (True, True, True)
    assert 0.2 < sum(drawn) / len(drawn) < 0.3


def test_followed_tasks_are_waited_for_as_long_as_patience_lasts() -> None:
    gone = iter([Answer(lines([raw(A)]), cut())])
    world = World(lambda request: next(gone, Lost("cannot reach it", sent=False)))
    with pytest.raises(Unavailable):
        world.drive(verbs.follow(world.core(), A))
    assert 120 < world.now < 140
    assert max(world.pauses) <= 10


def test_a_stream_that_is_cut_after_each_first_line_is_asked_for_less_and_less_often_and_not_given_up() -> None:
    count = iter(range(200))
    world = World(lambda request: Answer(lines([raw(A)]), cut()) if next(count) < 100 else Answer(lines([DONE])))
    world.drive(verbs.follow(world.core(chance=Most()), A))
    assert world.pauses == [0.5, 1, 2, 4, 8, *[10] * 95]


def test_retry_after_is_waited_for_and_too_long_a_one_is_not() -> None:
    busy = Answer.of({"status": "error", "message": "full"}, 503, retry_after="7")
    limit = Answer.of({"status": "error", "message": "account limit reached"}, 401, retry_after="30")
    world = World(script(busy, limit, Answer.of([raw(A)])))
    world.drive(verbs.create(world.core(chance=Most()), "hello"))
    assert world.pauses == [7.5, 31]
    world = World(script(Answer.of({"message": "full"}, 503, retry_after="3600")))
    with pytest.raises(Unavailable, match="full") as caught:
        world.drive(verbs.create(world.core(), "hello"))
    assert (caught.value.retry_after, caught.value.http_status, world.pauses) == (3600, 503, [])


def test_what_waiting_does_not_help_is_told_at_once() -> None:
    for status in (400, 401, 403, 404, 405, 413, 500):
        world = World(script(Answer.of({"status": "error", "message": "no"}, status)))
        with pytest.raises(DragonClientError, match=r"^no$"):
            world.drive(verbs.stream(world.core(), "hello"))
        assert world.pauses == []


def test_a_call_that_may_not_be_repeated_is_repeated_only_when_it_was_not_sent() -> None:
    world = World(script(Lost("refused", sent=False), Answer.of({"message": "full"}, 503), cut()))
    with pytest.raises(Lost, match="was cut"):
        world.drive(verbs.call(world.core(), "post", "/v1/anything", {}))
    assert [request.method for request in world.requests] == ["POST"] * 3
    world = World(script(cut(), Answer.of(5)))
    assert world.drive(verbs.call(world.core(), "GET", "/v1/anything"))[1] == 5


def test_a_json_answer_that_was_cut_is_asked_for_again_and_a_page_of_html_is_not() -> None:
    world = World(script(Answer([b'[{"sta']), Answer([b""]), Answer.of([])))
    assert world.drive(verbs.tasks(world.core()))[1] == []
    world = World(script(Answer([b"<html>"], headers={"content-type": "text/html"})))
    with pytest.raises(DragonClientError, match=r"this is not a dragon: .*text/html"):
        world.drive(verbs.tasks(world.core()))
    world = World(script(Answer([], status=301, headers={"location": "https://x.test/v1/tasks?secret=1"})))
    with pytest.raises(DragonClientError, match=r"redirects to https://x.test/v1/tasks: check the address"):
        world.drive(verbs.tasks(world.core()))


# Answers


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, BadRequest),
        (401, Refused),
        (403, Refused),
        (404, NotFound),
        (408, Unavailable),
        (429, Unavailable),
        (500, DragonClientError),
        (502, Unavailable),
        (503, Unavailable),
        (504, Unavailable),
        (524, Unavailable),
    ],
)
def test_what_each_http_status_means(status: int, kind: type[DragonClientError]) -> None:
    for body in (b'{"status": "error", "message": "the message"}', b"<html>", b"", b"[]", b"{}", b'{"message": 5}'):
        error = error_of(Head(status, {}), body)
        assert (type(error), error.http_status) == (kind, status)
        said = "the message" if b"the message" in body else f"the server answered with HTTP status {status}"
        assert error.message == said


def test_all_errors_of_a_bad_request_are_in_it() -> None:
    body = {"errors": [{"name": "a", "location": "body", "description": "a is missing"}, {"name": "b"}, 3]}
    error = error_of(Head(400, {}), json.dumps(body).encode())
    assert isinstance(error, BadRequest)
    assert error.errors == (ParameterError("a", "body", "a is missing"), ParameterError("b", "", ""))
    assert error.message == "a: a is missing; b: "


@given(st.binary(), st.integers(100, 599), st.dictionaries(st.sampled_from(["retry-after", "content-type"]), st.text()))
def test_any_answer_is_an_error_of_the_client_or_json(body: bytes, status: int, headers: dict[str, str]) -> None:
    try:
        read_answer(Head(status, headers), body)
    except DragonClientError as error:
        assert error.message


def test_retry_after_is_seconds_or_a_date() -> None:
    assert (retry_after("5"), retry_after(None), retry_after("soon"), retry_after("-1")) == (5, None, None, None)
    assert retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0
    assert (retry_after("Wed, 21 Oct 2115 07:28:00 GMT") or 0) > 1e9


def test_a_failed_task_says_what_is_wrong() -> None:
    problems = {"parameters": {"url": ["this field is required"], "widht": ["unknown", "did you mean 'width'?"]}}
    assert error_text(problems) == "url: this field is required; widht: unknown, did you mean 'width'?"
    assert (error_text("cancelled"), error_text({"x": "ä"}), error_text(None)) == ("cancelled", '{"x": "ä"}', "null")
    failed = read("K", "error", result="no")
    with pytest.raises(TaskFailed, match=r"^no$") as caught:
        verbs.result_of(failed)
    assert caught.value.status is failed


# What is asked


@pytest.mark.parametrize(
    ("url", "origin", "path"),
    [
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000", ""),
        ("https://host/", "https://host", ""),
        ("HTTPS://Host/dragon/", "https://host", "/dragon"),
        ("http://[::1]:80/a/b", "http://[::1]", "/a/b"),
        ("https://[2001:db8::1]:8443", "https://[2001:db8::1]:8443", ""),
    ],
)
def test_addresses(url: str, origin: str, path: str) -> None:
    core = Core(url)
    assert (core.address.origin, core.address.path) == (origin, path)
    assert core.request("GET", "/v1/tasks").target == f"{path}/v1/tasks"


@pytest.mark.parametrize(
    "url",
    [
        "host:8000",
        "ftp://host",
        "http://",
        "http://u:sesame@host",
        "http://host:99999",
        "http://h/?sesame",
        "/x",
        "http://h/ö",
    ],
)
def test_wrong_addresses_are_told_without_repeating_them(url: str) -> None:
    with pytest.raises(ValueError, match=r"^url ") as caught:
        Address.read(url)
    assert "sesame" not in str(caught.value)


def test_the_environment_has_the_address_and_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DRAGON_URL", raising=False)
    monkeypatch.delenv("DRAGON_SECRET", raising=False)
    assert (repr(Core()), Core().secret) == ("http://127.0.0.1:8000", None)
    monkeypatch.setenv("DRAGON_URL", "https://d.test/x")
    monkeypatch.setenv("DRAGON_SECRET", "sesame")
    assert (repr(Core()), Core().secret) == ("https://d.test/x", "sesame")
    assert (repr(Core("http://e.test")), Core(secret="s").secret) == ("http://e.test", "s")
    with_key = Core(api_key="k", origin="https://page.test")
    request = with_key.request("POST", "/v1/create", {}, authorized=True)
    assert with_key.secret is None
    assert with_key.headers(request) == {
        "Accept": "*/*",
        "Accept-Encoding": "identity",
        "Content-Type": "application/json",
        "Authorization": "Api-Key k",
        "Origin": "https://page.test",
    }
    with pytest.raises(ValueError, match="not both"):
        Core(secret="s", api_key="k")


@pytest.mark.parametrize("key", ["", "sesame\r\nX: y", "sesame key", "sésame"])
def test_a_key_that_cannot_be_one_is_told_without_repeating_it(key: str) -> None:
    with pytest.raises(ValueError, match=r"^secret is empty or has") as caught:
        Core(secret=key)
    assert "same" not in str(caught.value)


def test_keys_are_in_no_repr() -> None:
    core = Core("http://h", secret="sesame")
    assert "sesame" not in repr([core, core.request("POST", "/v1/create", {}, authorized=True), core.trouble()])


def test_credentials_go_where_they_are_needed_only() -> None:
    world = World(
        script(
            Answer.of([DONE]), Answer([], status=302, headers={"location": "https://else.test/f?a=b c"}), Answer([b"x"])
        )
    )
    core = world.core()
    assert world.drive(verbs.read_file(core, A, "ö/x"))[1] == b"x"
    assert [request.authorized for request in world.requests] == [False] * 3
    assert targets(world) == ["/v1/status", f"/v1/file/%C3%B6%2Fx?task={A}", "/f?a=b%20c"]
    assert world.requests[2].address.origin == "https://else.test"


def test_redirects_to_files_stay_below_the_servers_address() -> None:
    core = Core("https://host/dragon")
    request = core.request("GET", "/v1/file")
    for location, origin, target in [
        ("/files/K/a.txt", "https://host", "/dragon/files/K/a.txt"),
        ("/dragon/files/K/a.txt?x=1", "https://host", "/dragon/files/K/a.txt?x=1"),
        ("http://h:1/files/ö", "http://h:1", "/files/%C3%B6"),
        ("//cdn.test", "https://cdn.test", "/"),
    ]:
        there = verbs.redirected(core, request, location)
        assert (there.address.origin, there.target, there.authorized) == (origin, target, False)
    for location in ("", "javascript:x", "file:///etc/passwd", "http://u:p@h/", "http://[x", "a.txt"):
        with pytest.raises(DragonClientError, match="redirects to something"):
            verbs.redirected(core, request, location)


def test_a_file_that_was_cut_is_fetched_again_from_its_beginning() -> None:
    length = {"content-length": "4"}
    world = World(
        script(
            Answer.of([DONE]),
            Answer([b"ab"], cut(), headers=length),
            Answer([b"ab"], headers=length),
            Answer.of({}, 503),
            Answer([b"ab", b"cd"], headers=length),
        )
    )
    assert world.drive(verbs.read_file(world.core(), A, None))[1] == b"abcd"


def test_redirects_that_lead_nowhere_end() -> None:
    answers = [Answer.of([DONE]), *[Answer([], status=302, headers={"location": "/files/x"})] * 10]
    world = World(script(*answers))
    with pytest.raises(DragonClientError, match="redirects to"):
        world.drive(verbs.read_file(world.core(), A, None))


def test_what_can_be_given_as_tasks() -> None:
    hello, named = {"task_name": "hello"}, {"task_name": "hello", "name": "x"}
    assert verbs.read_definitions("hello") == [hello]
    assert verbs.read_definitions(("hello", {"name": "x"})) == [named]
    assert verbs.read_definitions(named) == [named]
    assert verbs.read_definitions(["hello", ("hello", {"name": "x"}), named]) == [hello, named, named]
    assert verbs.read_definitions(("hello", "hello")) == [hello, hello]
    assert verbs.read_definitions(iter([hello])) == [hello]
    wrong: Any
    for wrong in (5, [5], [("hello",)], [("hello", 5)], [["hello", {}]]):
        with pytest.raises(TypeError):
            verbs.read_definitions(wrong)
    with pytest.raises(ValueError, match="task_name is given twice"):
        verbs.read_definitions(("hello", {"task_name": "x"}))


def test_nothing_is_asked_for_nothing() -> None:
    world = World(script())
    core = world.core()
    assert world.drive(verbs.create(core, [])) == ([], [])
    assert world.drive(verbs.stream(core, [])) == ([], None)
    assert world.drive(verbs.follow(core, [])) == ([], None)
    assert world.drive(verbs.status(core, [])) == ([], [])


def test_a_blocking_status_asks_again_until_all_have_ended_or_the_time_is_over() -> None:
    world = World(script(Answer.of([raw(A)]), Answer.of([raw(A)]), Answer.of([DONE])))
    found = world.drive(verbs.status(world.core(), read(A), block=True, details=True))[1]
    assert [status.raw for status in found] == [DONE]
    assert [body_of(request) for request in world.requests] == [
        {"tasks": [A], "details": True, "block": True, "timeout": 25.0}
    ] * 3

    def later(request: Request) -> Answer:
        world.now += body_of(request)["timeout"]
        return Answer.of([raw(A)])

    world = World(later)
    found = world.drive(verbs.status(world.core(), A, block=True, timeout=60))[1]
    assert [status.raw for status in found] == [raw(A)]
    assert [body_of(request)["timeout"] for request in world.requests] == [25, 25, 10]


def test_parameters_in_a_url() -> None:
    given: dict[str, Any] = {"a": "ö", "b": True, "c": [1, 2.5], "d": None, "e": False}
    assert query_pairs(given) == [("a", "ö"), ("b", "true"), ("c", "1"), ("c", "2.5"), ("e", "false")]
    with pytest.raises(ValueError, match="a cannot stand in a URL"):
        query_pairs({"a": {}})


def test_the_url_of_an_image_has_no_key_in_it() -> None:
    core = Core("https://h/d", secret="sesame", account="demo")
    url = verbs.img_url(core, "image.thumb", {"url": "http://x/?a=b&c", "crop": True}, filename="a b.jpg")
    query = "task_name=image.thumb&url=http%3A%2F%2Fx%2F%3Fa%3Db%26c&crop=true"
    assert url == f"https://h/d/v1/create_file/a%20b.jpg?{query}"
    signed = verbs.img_url(core, "image.thumb", {}, sign=True, expires=2e9)
    assert signed.startswith("https://h/d/v1/create_file?task_name=image.thumb&account=demo&exp=2000000000&sig=")
    assert "sesame" not in signed
    for bare in (Core("http://h", secret="sesame"), Core("http://h", api_key="k", account="demo")):
        with pytest.raises(ValueError, match="signing needs"):
            verbs.img_url(bare, "image.thumb", {}, sign=True)


# Logs


def line(number: int) -> dict[str, Any]:
    return {"number": number, "time": QUEUED, "attempt": 1, "text": f"line {number}"}


def page(*numbers: int, ended: bool = False) -> Answer:
    return Answer.of({"key": A, "lines": [line(n) for n in numbers], "next": (numbers or (0,))[-1], "ended": ended})


def test_a_log_is_read_page_after_page() -> None:
    world = World(script(page(1, 2), page(3), page(ended=True)))
    given, _ = world.drive(verbs.log(world.core(), A))
    assert [one.number for one in given] == [1, 2, 3]
    assert targets(world) == [f"/v1/log?task={A}&after={after}" for after in (0, 2, 3)]


def test_a_log_that_is_followed_is_taken_up_again_where_it_was_cut() -> None:
    cuts = [Answer([*lines(line(2)), b" ", *lines(line(3)), b'{"numb'], cut()), Answer(lines(line(3), line(4)))]
    full = Answer.of({"message": "full"}, 503)
    ends = [page(), full, page(), Answer([*lines(line(5)), b"3\n"]), page(ended=True)]
    world = World(script(page(1), page(), cuts[0], page(), cuts[1], *ends))
    given, _ = world.drive(verbs.log(world.core(), A, follow=True))
    assert [one.number for one in given] == [1, 2, 3, 4, 5]
    followed = [target for target in targets(world) if "follow" in target]
    assert followed == [f"/v1/log?task={A}&after={after}&follow=true" for after in (1, 3, 4, 4)]


def test_a_log_that_something_holds_back_is_read_in_pages() -> None:
    world = World(script(page(), silence(), page(1), page(), page(2), page(ended=True)))
    given, _ = world.drive(verbs.log(world.core(chance=Least()), A, follow=True))
    assert [one.number for one in given] == [1, 2]
    assert world.pauses == [0, 2.0]


# What an operator sees


class Least(random.Random):
    """Draws the smallest number that there may be."""

    def uniform(self, a: float, b: float) -> float:
        return a


def row(key: str, status: str) -> dict[str, Any]:
    return {"key": key, "status": status}


def test_changes_are_given_once_also_when_their_stream_is_cut() -> None:
    one, two, done = row("A", "queued"), row("B", "queued"), row("A", "success")
    world = World(
        script(
            Answer(lines([two, one], done), cut()),
            Answer(lines([done, two])),
            Answer([], silence()),
            Answer.of({"tasks": [two, done], "next": None}),
            Answer.of({"tasks": [one, two, done], "next": None}),
        )
    )
    given, _ = world.drive(operations.changes(world.core(), state="", name=None, limit=5), most=4)
    assert given == [two, one, done, one]
    assert set(targets(world)[:3]) == {"/v1/operator/tasks_stream?state=&limit=5"}
    assert targets(world)[3:] == ["/v1/operator/tasks?state=&limit=5"] * 2
    assert all(request.authorized for request in world.requests)


def test_overviews_go_on_over_cuts() -> None:
    world = World(script(Answer(lines({"n": 1}, {"n": 2}), cut()), Answer(lines({"n": 2}, {"n": 3}))))
    assert world.drive(operations.overviews(world.core()), most=3)[0] == [{"n": 1}, {"n": 2}, {"n": 3}]


def test_what_was_given_is_not_remembered_for_ever() -> None:
    many = [row(str(number), "queued") for number in range(3 * operations.REMEMBERED)]
    given = operations._Given()
    assert len(list(given.give([many]))) == len(many)
    assert len(given._items) == operations.REMEMBERED
    assert list(given.give([many[-10:]])) == []


def test_the_operators_calls() -> None:
    group = "0123456789abcdef"
    calls: list[tuple[Any, str, str, Any]] = [
        (operations.overview, "GET", "overview", None),
        (operations.account, "GET", "account", None),
        (
            partial(operations.tasks, state="error", since=datetime(2026, 1, 2, tzinfo=UTC), after=None),
            "GET",
            "tasks?state=error&since=2026-01-02T00%3A00%3A00%2B00%3A00",
            None,
        ),
        (partial(operations.task, key=A), "GET", f"tasks/{A}", None),
        (partial(operations.failures, name="a b"), "GET", "failures?name=a%20b", None),
        (partial(operations.history, period="day"), "GET", "history?period=day", None),
        (partial(operations.retry, keys=[A, read("K")]), "POST", "retry", {"tasks": [A, "K"]}),
        (partial(operations.retry, group=group, limit=5), "POST", "retry", {"group": group, "limit": 5}),
        (partial(operations.pause, queue="a/b"), "POST", "queues/a%2Fb", {"action": "pause"}),
        (partial(operations.resume, queue="low"), "POST", "queues/low", {"action": "resume"}),
        (partial(operations.clear, queue="low"), "POST", "queues/low", {"action": "clear"}),
    ]
    for verb, method, path, body in calls:
        world = World(script(Answer.of({"the": "answer"})))
        assert world.drive(verb(world.core()))[1] == {"the": "answer"}
        (request,) = world.requests
        assert (request.method, request.target) == (method, f"/v1/operator/{path}")
        assert (body_of(request), request.authorized) == (body, True)
        assert request.repeatable is (body != {"action": "clear"})
    world = World(script(Answer.of([DONE])))
    assert world.drive(operations.cancel(world.core(), A))[1] == [read(A, "success", result=1)]
    wrong: Any
    for wrong in ({}, {"keys": A, "group": group}):
        with pytest.raises(ValueError, match="give keys or group, one of them"):
            operations.retry(world.core(), **wrong)


def test_rows_are_all_pages() -> None:
    pages = [
        {"tasks": [row("A", "queued")], "next": "c1"},
        {"tasks": [], "next": "c2"},
        {"tasks": [row("B", "error")], "next": None},
    ]
    world = World(script(*map(Answer.of, pages)))
    assert world.drive(operations.rows(world.core(), name="x"))[0] == [row("A", "queued"), row("B", "error")]
    assert targets(world) == ["/v1/operator/tasks?name=x" + after for after in ("", "&after=c1", "&after=c2")]
