"""Requests of every kind that nobody should send: no 5xx, no hang, every error in its shape, and dragon goes on.

Accepted tasks are harmless and run by a real worker: greetings, short countdowns, images at addresses of this machine
that no download may reach.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import random
import re
import shutil
import tempfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import orjson
import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable

from dragon.config import Config
from dragon.embedded import EmbeddedRedis, find_server
from tests.attack.wire import DEADLINE, Heard, Wire, request_of
from tests.figures import FULL, note, scale, seeded
from tests.server.talking import check_error_shape, gauge
from tests.system import System, running_system, test_config
from tests.waiting import wait_until

UNKNOWN = "A" * 26
RIGHT = {"Authorization": "Secret 123456"}
MOST_BODY = 1 << 16
MOST_KEPT = 8000  # requests that are changed and sent once more

#: Status codes that an answer may have; what is not here is a defect.
EXPECTED = {200, 204, 206, 302, 304, 400, 401, 404, 405, 412, 413, 416, 417}


@dataclass
class Arena:
    """A server and a worker that are to survive all of this file, and what was counted on the way."""

    system: System
    wire: Wire
    catalogue: dict[str, Any]
    picture: str  # the path of an output file
    key: str  # of the task that made it
    chance: random.Random
    corpus: list[tuple[str, bytes, dict[str, str], bytes | None]] = field(default_factory=list)  # what was sent
    counts: Counter[str] = field(default_factory=Counter)
    statuses: Counter[int] = field(default_factory=Counter)

    def check(self, kind: str, heard: Heard, method: str = "GET") -> None:
        """Counts an answer and holds it against the contract."""
        self.counts[kind] += 1
        self.statuses[heard.status] += 1
        check(heard, method)


def check(heard: Heard, method: str) -> None:
    assert heard.status in EXPECTED, heard
    assert heard.headers["access-control-allow-origin"] == "*", heard
    assert heard.headers["server"] == "dragon", heard
    assert b"Traceback" not in heard.body
    if heard.status < 400:
        return
    assert heard.headers["content-type"].startswith("application/json"), heard
    assert heard.headers["cache-control"] == "no-store", heard
    if method != "HEAD":
        check_error_shape(heard.status, heard.json)
    else:
        assert heard.body == b""


@pytest.fixture(scope="module")
def arena() -> Iterator[Arena]:
    folder = Path(tempfile.mkdtemp(prefix="dragon-test-"))
    try:
        with EmbeddedRedis(find_server(Config()), folder / "redis", folder / "sock", durable=False) as server:
            config = test_config(
                folder,
                server.url,
                tasks__modules=("tasks",),
                server__max_body_bytes=MOST_BODY,
                server__block_timeout=2,
                server__file_wait=2,
                files__life=3600,
                redis__timeout=20,  # a Redis that other tests keep from running is no finding
            )
            with running_system(config, "--executors", "2") as system, Wire(config.server.port) as wire:
                yield prepared(system, wire)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def prepared(system: System, wire: Wire) -> Arena:
    catalogue = {task["name"]: task for task in wire.ask("GET", "/v1/tasks").json}
    sample = f"{system.url}/static/sample.jpg"
    body = {"task": {"task_name": "image.thumb", "url": sample, "width": 50}}

    def location() -> str:
        heard = wire.ask("POST", "/v1/create_file", RIGHT, body)
        place = heard.headers.get("location", "")
        return place if place.startswith("/files/") else ""

    picture = wait_until(location, 60, "a picture")
    return Arena(system, wire, catalogue, picture, picture.split("/")[2], seeded())


@pytest.fixture(autouse=True)
def dragon_goes_on(arena: Arena) -> Iterator[None]:
    yield
    check_health(arena)


def check_health(arena: Arena) -> None:
    """Afterwards everything that was accepted ends, nobody follows anything, and no log knows of an internal error."""
    wire = arena.wire
    wire.close()
    body = {"tasks": {"task_name": "hello", "name": "still there"}, "block": True}

    def greets() -> bool:
        return bool(wire.ask("POST", "/v1/create", RIGHT, body).json[0].get("result") == "Hello still there")

    wait_until(greets, 60, "a task to be run after all that")
    assert wire.ask("GET", "/healthz").json["status"] == "ok"
    assert wire.ask("GET", "/readyz").status == 200

    def nobody_follows() -> bool:
        metrics = wire.ask("GET", "/metrics").body.decode()
        return gauge(metrics, "dragon_followed_tasks") == 0 and gauge(metrics, "dragon_redis_round_trips") > 0

    wait_until(nobody_follows, 30, "followers to be gone")
    for process in arena.system.processes:
        assert process.popen.poll() is None, process.output
        for bad in ("Traceback", "internal error", " ERROR ", " CRITICAL ", "Task exception was never retrieved"):
            where = process.output.find(bad)
            assert where < 0, process.output[max(0, where - 500) : where + 5000]


def fuzzing(full: int, short: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Hypothesis with the figures of the two forms; a seed of its own that FAULTS_SEED repeats."""
    count = scale(full, short)

    def decorate(test: Callable[..., None]) -> Callable[..., None]:
        configured = settings(
            max_examples=count,
            deadline=None,
            database=None,
            phases=[Phase.explicit, Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
        )
        return configured(test)

    return decorate


def run_seeded(arena: Arena, test: Callable[[], None]) -> None:
    """Runs a hypothesis test with a seed that comes from the printed one."""
    seed(arena.chance.getrandbits(64))(test)()


# --- what requests are made of ----------------------------------------------------------------------------------------

URLS = [
    "http://127.0.0.1:9/cat.jpg", "http://[::1]:9/", "http://10.0.0.1/", "http://169.254.169.254/", "http://localhost:1/",
    "https://127.0.0.1/", "http://0/", "http://2130706433/", "http://127.1/", "ftp://127.0.0.1/", "http://", "http:///x",
    "http://127.0.0.1:99999/", "http://user:pw@127.0.0.1/", "javascript:alert(1)", "file:///etc/passwd", "", "x", "//",
    "http://127.0.0.1:9/" + "x" * 9000, "http://127.0.0.1:9/\u0000", "http://127.0.0.1:9/\ud800", "HTTP://127.0.0.1:9",
]  # fmt: skip
EXTREMES = [
    0, -0.0, 1, -1, 2**31, 2**53 + 1, 2**63 - 1, 2**63, 2**64, -(2**63) - 1, 10**30, 10**300, 1e308, 5e-324, 1e16,
    float("nan"), float("inf"), float("-inf"), True, False, None, "", "0", "null", "\u0000", "\ud800", "\uffff",
    "é" * 99,
    "\U0001f409", "\r\n", "%00", "../../etc/passwd", "<script>", "{{7*7}}", "' OR 1=1 --", "$ne", "__proto__", "1e999",
]  # fmt: skip
texts = st.text(max_size=30) | st.sampled_from([text for text in EXTREMES if isinstance(text, str)])
scalars = st.sampled_from(EXTREMES) | st.integers(-(2**70), 2**70) | st.floats() | texts
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4), max_leaves=10
)


def harmless(definition: Any) -> Any:
    """A countdown that is right and long would wait for hours: its numbers become small. No host has a name."""
    if not isinstance(definition, dict):
        return definition
    changed = dict(definition)
    if changed.get("task_name") == "countdown":
        for name, most in (("from", 3), ("delay", 0.001)):
            if isinstance(changed.get(name), int | float) and not isinstance(changed[name], bool):
                changed[name] = min(changed[name], most)
        changed.setdefault("delay", 0)
    return {name: nameless(value) for name, value in changed.items()}


def nameless(value: Any) -> Any:
    """Without URLs of other machines, whatever a strategy has made up."""
    if isinstance(value, list):
        return [nameless(item) for item in value]
    if isinstance(value, str) and re.match(r"(?i)https?://", value) and value not in URLS:
        return "http://127.0.0.1:9/" + value[8:]
    return value


def of_schema(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Values that a JSON schema of the catalogue describes, at its borders and a little beyond."""
    if "enum" in schema or "const" in schema:
        return st.sampled_from(schema.get("enum", [schema.get("const")]))
    if "anyOf" in schema:
        return st.one_of([of_schema(part) for part in schema["anyOf"]])
    match schema.get("type"):
        case "integer" | "number" as kind:
            low = schema.get("minimum", schema.get("exclusiveMinimum", -5))
            high = schema.get("maximum", schema.get("exclusiveMaximum", 500))
            inside = st.integers(int(low), int(high)) if kind == "integer" else st.floats(low, high)
            return inside | st.sampled_from([low, high, low - 1, high + 1])
        case "string":
            return st.sampled_from(URLS) if schema.get("format") == "uri" else texts
        case "boolean":
            return st.booleans()
        case "array":
            return st.lists(of_schema(schema.get("items", {})), max_size=5)
        case "null":
            return st.none()
    return values


def definitions_of(catalogue: dict[str, Any]) -> st.SearchStrategy[Any]:
    """For every task: right parameters, some of them wrong, missing, unknown; and definitions that are none."""

    def of_task(name: str) -> st.SearchStrategy[dict[str, Any]]:
        properties = catalogue[name]["parameters"].get("properties", {})
        required = catalogue[name]["parameters"].get("required", [])
        fields = {member: of_schema(schema) for member, schema in properties.items()}
        right = st.fixed_dictionaries(
            {"task_name": st.just(name)} | {member: fields[member] for member in required},
            optional={member: strategy for member, strategy in fields.items() if member not in required},
        )
        wrong = st.fixed_dictionaries(
            {"task_name": st.just(name)}, optional={member: strategy | values for member, strategy in fields.items()}
        )
        reserved = st.fixed_dictionaries(
            {},
            optional={
                "task_metas": st.dictionaries(texts, values, max_size=3) | values,
                "task_store": values,
                "url_callback": values,
                "secret": values,
            },
        )
        return st.builds(lambda one, more: one | more, right | wrong, st.just({}) | reserved)

    any_task = st.one_of([of_task(name) for name in sorted(catalogue)])
    none = st.dictionaries(st.just("task_name") | texts, values, max_size=4)
    return (any_task | any_task | none).map(harmless)


def encoded(body: Any) -> bytes:
    """JSON with all that orjson does not write: NaN, lone surrogates, huge integers."""
    return json.dumps(body).encode()


raw_bodies = st.one_of(
    st.binary(max_size=200),
    st.sampled_from(
        [
            b"", b" ", b"{", b"}", b"null", b"[]", b"{}", b"\xef\xbb\xbf{}", b"\xff\xfe{\x00}\x00", b'{"tasks": NaN}',
            b'{"tasks": 1e999999}', b'{"tasks": "\xff"}', b'{"tasks": "\xed\xa0\x80"}', b'{"a": 1, "a": {"a": 2}}',
            b'{"tasks": {"task_name": "hello"}, "tasks": {"task_name": "nobody"}}', b'{"tasks":' + b"[" * 50_000,
            b'{"a":' * 10_000 + b"1" + b"}" * 10_000, b'{"tasks": ' + b"9" * 20_000 + b"}", b'{"a": -}', b"{'a': 1}",
            b'{"tasks": "' + b"x" * MOST_BODY + b'"}', b'{"tasks": [' + b"{}," * 20_000 + b"{}]}", b'{"a": "\\ud800"}',
            b'{"tasks": [' + b'{"task_name":"hello"},' * 1001 + b'{"task_name":"hello"}]}', b'{"a": 1}\x00', b"tasks=1",
        ]
    ),
)  # fmt: skip


def deflated(data: bytes) -> bytes:
    return zlib.compress(data)


CODINGS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "deflate": deflated,
    "identity": bytes,
    "br": bytes,
    "zstd": bytes,
    "GZIP": gzip.compress,
    "gzip, gzip": lambda data: gzip.compress(gzip.compress(data)),
    "x": bytes,
    "": bytes,
}
PAGES = [
    "https://localhost", "http://127.0.0.1:8000/x", "null", "", "https://evil.net/?localhost", "https://[::1", "http://\xff/",
    "https://localhost:99999", "a" * 9000, "https://xn--", "https://" + "a." * 200 + "x", "https://é\u0301.example/", "://",
]  # fmt: skip
header_values = st.text(st.characters(codec="utf-8", exclude_characters="\r\n\x00"), max_size=40) | st.sampled_from(
    PAGES
)
headers = st.fixed_dictionaries(
    {},
    optional={
        "Authorization": st.sampled_from(
            ["Secret 123456", "Secret x", "Api-Key 654321", "Secret", "Basic eDp5", "\xff"]
        )
        | header_values,
        "Origin": st.sampled_from(PAGES) | header_values,
        "Referer": st.sampled_from(PAGES) | header_values,
        "Accept": st.sampled_from(["text/event-stream", "*/*", "image/webp,*/*;q=0.8", ";;;", ""]) | header_values,
        "Content-Type": st.sampled_from(["text/plain; charset=utf-7", "multipart/form-data; boundary=", ";", "x"]),
        "Idempotency-Key": st.sampled_from(["a", "a" * 255, "a" * 256, "", "é"]) | header_values,
        "Last-Event-ID": st.sampled_from(["end", "0", ""]) | header_values,
        "Cookie": header_values,
        "If-None-Match": st.sampled_from(["*", '""', 'W/"x"', '"', "x,,", '"a" "b"']) | header_values,
        "If-Match": st.sampled_from(["*", '"x"', '"', ""]) | header_values,
        "If-Modified-Since": st.sampled_from(["Thu, 01 Jan 1970 00:00:00 GMT", "0", "Thu, 99 Jan 9999 99:99:99 GMT"]),
        "If-Unmodified-Since": st.sampled_from(["Thu, 01 Jan 1970 00:00:00 GMT", "x"]),
        "If-Range": st.sampled_from(["Thu, 01 Jan 2070 00:00:00 GMT", '"x"', "x"]),
        "Range": st.deferred(lambda: ranges),
        "X-Forwarded-For": header_values,
        "X-HTTP-Method-Override": st.sampled_from(["DELETE", "POST"]),
        "Accept-Encoding": st.sampled_from(["gzip", "br;q=x", "*", "identity;q=0"]) | header_values,
    },
)
numbers = st.sampled_from(["", "0", "1", "10", "-1", "99999999", "9" * 30, "x", "1.5", "0x1", " 1", "+1", "١"])
ranges = st.one_of(
    st.builds("bytes={}-{}".format, numbers, numbers),
    st.builds("{}={}-{}".format, st.sampled_from(["Bytes", "items", "bytes ", ""]), numbers, numbers),
    st.lists(st.builds("{}-{}".format, numbers, numbers), max_size=50).map(lambda parts: "bytes=" + ",".join(parts)),
    st.sampled_from(["bytes", "bytes=", "bytes=-", "bytes=--1", "bytes=0-0,-1", "bytes=" + "0-," * 2000, "=", "\xff"]),
    st.text(st.characters(codec="utf-8", exclude_characters="\r\n\x00"), max_size=30),
)


def send(arena: Arena, kind: str, method: str, target: str | bytes, given: dict[str, str], body: Any = None) -> Heard:
    heard = arena.wire.ask(method, target, given, body)
    arena.check(kind, heard, method)
    if len(arena.corpus) < MOST_KEPT:
        where = target if isinstance(target, bytes) else target.encode()
        arena.corpus.append((method, where, given, body))
    return heard


# --- bodies -----------------------------------------------------------------------------------------------------------

OPERATED = ["/v1/operator/retry", "/v1/operator/cancel", "/v1/operator/queues/default", "/v1/operator/queues/\u00e9"]
POSTS = ["/v1/create", "/v1/create_stream", "/v1/create_file", "/v1/create_file/cat.jpg", "/v1/status", "/v1/stream"]


@pytest.mark.timeout(1800)
def test_whatever_is_posted_is_answered_in_the_contracts_shapes(arena: Arena) -> None:
    definitions = definitions_of(arena.catalogue)
    flags = st.sampled_from([True, False, "true", "1", 0, None]) | values
    keys = st.lists(st.sampled_from([UNKNOWN, arena.key]) | values, max_size=4) | st.sampled_from([UNKNOWN, arena.key])
    members: dict[str, st.SearchStrategy[Any]] = {
        "block": flags,
        "timeout": st.sampled_from([0, 0.01, "0", -1, "inf"]) | values,
        "details": flags,
        "secret": st.just("123456") | values,
        "api_key": values,
    }
    bodies = st.fixed_dictionaries(
        {"tasks": definitions | st.lists(definitions, max_size=3) | keys | values, "task": definitions | values},
        optional=members,
    ).map(without_long_waits)

    @fuzzing(9_000, 200)
    @given(st.sampled_from(POSTS), bodies | values, headers, st.booleans())
    def whole(path: str, body: Any, given_headers: dict[str, str], right: bool) -> None:
        send(arena, "bodies", "POST", path, given_headers | (RIGHT if right else {}), encoded(body))

    @fuzzing(3_000, 80)
    @given(st.sampled_from(POSTS), raw_bodies | bodies.map(encoded), st.sampled_from(sorted(CODINGS)), st.booleans())
    def broken(path: str, body: bytes, coding: str, packed: bool) -> None:
        given_headers = RIGHT | {"Content-Encoding": coding}
        send(arena, "bodies", "POST", path, given_headers, CODINGS[coding](body) if packed else body)

    @fuzzing(2_000, 50)
    @given(st.sampled_from(POSTS), bodies.map(encoded), st.data())
    def mutated(path: str, body: bytes, data: st.DataObject) -> None:
        at = data.draw(st.integers(0, len(body)))
        changed = body[:at] + data.draw(st.binary(max_size=4)) + body[at + data.draw(st.integers(0, 3)) :]
        if b"countdown" not in changed:
            send(arena, "bodies", "POST", path, RIGHT, changed)

    operated = st.fixed_dictionaries(
        {},
        optional={
            "tasks": keys,
            "group": st.sampled_from(["0" * 16, "x"]) | values,
            "limit": st.sampled_from([1, 0, "5", 1001]) | values,
            "action": st.sampled_from(["resume", "clear", "Resume", ""]) | values,
        },
    ).map(unpaused)

    @fuzzing(2_000, 50)
    @given(st.sampled_from(OPERATED), operated | values, headers, st.booleans())
    def operators(path: str, body: Any, given_headers: dict[str, str], right: bool) -> None:
        send(arena, "bodies", "POST", path, given_headers | (RIGHT if right else {}), encoded(body))

    for test in (whole, broken, mutated, operators):
        run_seeded(arena, test)


def unpaused(body: dict[str, Any]) -> dict[str, Any]:
    """Nothing would be run in a queue that is paused."""
    return body | {"action": "resume"} if body.get("action") == "pause" else body


def without_long_waits(body: Any) -> Any:
    """There is no time to wait for tasks: every `block` is over at once."""
    return body | {"timeout": 0.01} if body.get("block") else body


# --- querystrings, paths, headers -------------------------------------------------------------------------------------

METHODS = ["GET", "GET", "GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"]
PATHS = [
    "/", "/docs", "/openapi.json", "/healthz", "/readyz", "/metrics", "/v1/tasks", "/v1/status", "/v1/stream",
    "/v1/file", "/v1/status_stream", "/v1/file/cat.jpg", "/v1/create_file", "/v1/create_file/cat.jpg",
    f"/v1/tasks/{UNKNOWN}", "/v1/log",
    f"/files/{UNKNOWN}/x.jpg", "/static/page.css", "/static/sample.jpg", "/v1/create", "/v1", "/v2/create", "/nowhere",
    "/dashboard", "/dashboard/app.js", "/v1/dragon.js", "/v1/tasks.d.ts",
]  # fmt: skip
SEGMENTS = [
    "v1", "create_file", "file", "files", "static", "tasks", UNKNOWN, "..", ".", "", "%2e%2e", "%2F", "%00", "%ff", "%",
    "%zz", "cat.jpg", "page.css", "sample.jpg", "x" * 300, "é", "%C3%A9", ";", "a;b=c", "*", "\\", "..%5c",
    "%25%32%65", "~root",
]  # fmt: skip
junk_paths = st.lists(st.sampled_from(SEGMENTS), min_size=1, max_size=6).map(lambda parts: "/" + "/".join(parts))
LISTED = [
    "/v1/operator/tasks", "/v1/operator/failures", "/v1/operator/history", "/v1/operator/tasks/KEY", "/v1/log",
    "/v1/operator/account", "/v1/operator/overview", "/v1/operator/tasks/x",
]  # fmt: skip
SOUGHT = ["state", "name", "account", "since", "until", "text", "after", "limit", "period", "task", "follow"]
SOUGHT_VALUES = [
    "error", "waiting", "ended", "demo", "2026-01-31T12:00:00Z", "2026-01-31 12:00 +01:00", "0001-01-01", "1e9", "-1",
    "99999999999", "W10", "W251bGwse31d", "500", "501", "hour", "day",
]  # fmt: skip
QUERY_NAMES = [
    "tasks", "task", "task_name", "block", "timeout", "details", "secret", "api_key", "account", "exp", "sig", "url",
    "width", "height", "crop", "format", "name", "from", "referrer", "", "[]", "tasks[]", "a.b", "\u0000",
]  # fmt: skip


@pytest.mark.timeout(1800)
def test_querystrings_paths_and_headers_of_any_kind_are_answered(arena: Arena) -> None:
    definitions = definitions_of(arena.catalogue)
    query_values = st.one_of(
        st.sampled_from(
            ["", "true", "1", "hello", "image.thumb", "image.info", UNKNOWN, arena.key, "123456", "9" * 400]
        ),
        st.sampled_from(URLS),
        texts,
        scalars.map(str),
    ).map(nameless)
    pairs = st.lists(st.tuples(st.sampled_from(QUERY_NAMES) | texts, query_values), max_size=8)
    raw_queries = st.text(st.sampled_from("&=;%?#+/[]{}<>\"'`|\\^~ab01é\u0000\ud800"), max_size=60)

    def spelled(pair: tuple[str, str]) -> str:
        return "=".join(quote(text.encode("utf-8", "surrogatepass")) for text in pair)

    queries = (
        pairs.map(lambda found: "&".join(map(spelled, found)))
        | raw_queries
        | st.just("&" * 5000)
        | st.just("a=" * 9000)
    )

    @fuzzing(8_000, 180)
    @given(st.sampled_from(METHODS), st.sampled_from(PATHS) | junk_paths, queries, headers)
    def anywhere(method: str, path: str, query: str, given_headers: dict[str, str]) -> None:
        target = f"{path}?{query}".encode("utf-8", "surrogatepass")
        target = re.sub(rb"[\x00-\x20\x7f]", b"%20", target)
        send(arena, "querystrings", method, target, given_headers)

    @fuzzing(4_000, 80)
    @given(definitions, st.sampled_from(["/v1/create_file", "/v1/create_file/cat.jpg"]), headers, st.booleans())
    def images(definition: dict[str, Any], path: str, given_headers: dict[str, str], right: bool) -> None:
        found = [
            (str(name), item if isinstance(item, str) else json.dumps(item))
            for name, value in definition.items()
            for item in (value if isinstance(value, list) else [value])
        ]
        target = f"{path}?{'&'.join(map(spelled, found))}"
        send(arena, "querystrings", "GET", target, given_headers | (RIGHT if right else {}))

    @fuzzing(1_500, 40)
    @given(pairs, st.text(st.characters(codec="utf-8"), max_size=50), st.sampled_from(["create_file", "file"]))
    def signatures(found: list[tuple[str, str]], sig: str, call: str) -> None:
        signed = [*found, ("account", "demo"), ("exp", "2000000000"), ("sig", sig)]
        heard = send(arena, "querystrings", "GET", f"/v1/{call}?{'&'.join(map(spelled, signed))}", RIGHT)
        assert heard.status in (400, 401)

    sought = st.lists(st.tuples(st.sampled_from(SOUGHT), query_values | st.sampled_from(SOUGHT_VALUES)), max_size=5)

    @fuzzing(3_000, 80)
    @given(st.sampled_from(LISTED), sought, headers)
    def lists(path: str, found: list[tuple[str, str]], given_headers: dict[str, str]) -> None:
        target = f"{path.replace('KEY', arena.key)}?{'&'.join(map(spelled, found))}"
        send(arena, "querystrings", "GET", target, given_headers | RIGHT)

    for test in (anywhere, images, signatures, lists):
        run_seeded(arena, test)


@pytest.mark.timeout(1800)
def test_ranges_and_conditions_of_any_kind_give_the_file_a_part_of_it_or_an_error_in_shape(arena: Arena) -> None:
    whole = arena.wire.ask("GET", arena.picture).body

    @fuzzing(2_500, 80)
    @given(ranges, headers, st.sampled_from(["GET", "HEAD"]))
    def parts(wanted: str, given_headers: dict[str, str], method: str) -> None:
        heard = send(arena, "ranges", method, arena.picture, given_headers | {"Range": wanted})
        assert heard.status in (200, 206, 304, 400, 412, 416)
        if method == "GET" and heard.status == 200:
            assert heard.body == whole
        if method == "GET" and heard.status == 206:
            begin, end, size = map(int, re.findall(r"\d+", heard.headers["content-range"]))
            assert (heard.body, size) == (whole[begin : end + 1], len(whole))

    run_seeded(arena, parts)


# --- raw sockets ------------------------------------------------------------------------------------------------------

HEAD = b"Host: x\r\nAuthorization: Secret 123456\r\n"
SMUGGLED = b"GET /v1/tasks HTTP/1.1\r\nHost: x\r\n\r\n"
CREATE = orjson.dumps({"tasks": {"task_name": "hello"}})


def post(framing: bytes, body: bytes) -> bytes:
    return b"POST /v1/create HTTP/1.1\r\n" + HEAD + framing + b"\r\n\r\n" + body


#: Framings that two readers may understand differently: none may let a second request through.
AMBIGUOUS = {
    "CL.TE": post(b"Content-Length: 5\r\nTransfer-Encoding: chunked", b"0\r\n\r\n" + SMUGGLED),
    "TE.CL": post(b"Transfer-Encoding: chunked\r\nContent-Length: 3", b"0\r\n\r\n" + SMUGGLED),
    "two lengths": post(b"Content-Length: 0\r\nContent-Length: 44", SMUGGLED),
    "a list of lengths": post(b"Content-Length: 0, 44", SMUGGLED),
    "a length with a sign": post(b"Content-Length: +0", SMUGGLED),
    "a negative length": post(b"Content-Length: -1", SMUGGLED),
    "a length in hexadecimal": post(b"Content-Length: 0x0", SMUGGLED),
    "a length with an underscore": post(b"Content-Length: 0_0", SMUGGLED),
    "a length in other digits": post("Content-Length: ٠".encode(), SMUGGLED),
    "an empty length": post(b"Content-Length: ", SMUGGLED),
    "a length of 30 digits": post(b"Content-Length: " + b"0" * 10 + b"9" * 20, SMUGGLED),
    "a space before the colon": post(b"Content-Length : 0", SMUGGLED),
    "a tab before the colon": post(b"Transfer-Encoding\t: chunked", b"0\r\n\r\n" + SMUGGLED),
    "an unknown transfer encoding": post(b"Transfer-Encoding: xchunked", b"0\r\n\r\n" + SMUGGLED),
    "chunked, then identity": post(b"Transfer-Encoding: chunked, identity", b"0\r\n\r\n" + SMUGGLED),
    "chunked twice": post(b"Transfer-Encoding: chunked, chunked", b"0\r\n\r\n" + SMUGGLED),
    "chunked in quotes": post(b'Transfer-Encoding: "chunked"', b"0\r\n\r\n" + SMUGGLED),
    "a vertical tab": post(b"Transfer-Encoding:\x0bchunked", b"0\r\n\r\n" + SMUGGLED),
    "a folded header": post(b"X: y\r\n Transfer-Encoding: chunked\r\nContent-Length: 0", SMUGGLED),
    "a folded length": post(b"Content-Length:\r\n 0", SMUGGLED),
    "a bare line feed": post(b"Content-Length: 0\nTransfer-Encoding: chunked", b"0\r\n\r\n" + SMUGGLED),
    "a bare carriage return": post(b"Content-Length: 0\rX: y", SMUGGLED),
    "a NUL in a name": post(b"Content-Length\x00: 0", SMUGGLED),
    "a NUL in a value": post(b"Content-Length: 0\x00", SMUGGLED),
    "a header without a colon": post(b"Content-Length 0", SMUGGLED),
    "a header without a name": post(b": 0", SMUGGLED),
    "a chunk size with a sign": post(b"Transfer-Encoding: chunked", b"+0\r\n\r\n" + SMUGGLED),
    "a negative chunk": post(b"Transfer-Encoding: chunked", b"-1\r\n\r\n" + SMUGGLED),
    "a chunk size in 0x": post(b"Transfer-Encoding: chunked", b"0x0\r\n\r\n" + SMUGGLED),
    "a chunk size of 40 digits": post(b"Transfer-Encoding: chunked", b"f" * 40 + b"\r\n\r\n" + SMUGGLED),
    "a chunk size with a space": post(b"Transfer-Encoding: chunked", b"0 \x0b\r\n\r\n" + SMUGGLED),
    "a chunk that is longer than it says": post(b"Transfer-Encoding: chunked", b"1\r\nxx\r\n0\r\n\r\n" + SMUGGLED),
    "chunks in bare line feeds": post(b"Transfer-Encoding: chunked", b"1\n{\n0\n\n" + SMUGGLED),
    "HTTP/1.0 with chunks and a length": post(b"Transfer-Encoding: chunked\r\nContent-Length: 0", b"").replace(
        b"HTTP/1.1", b"HTTP/1.0", 1
    )
    + SMUGGLED,
}

#: Other shapes: each must be answered, or its connection closed, and never with more than is written behind it.
SHAPES: dict[str, tuple[bytes, set[int]]] = {
    "nothing": (b"", set()),
    "an empty line": (b"\r\n", set()),
    "a word": (b"hello\r\n\r\n", {400}),
    "HTTP/0.9": (b"GET /\r\n\r\n", {400}),
    "HTTP/0.9 without an empty line": (b"GET /\r\n", {400}),
    "HTTP/1.0": (b"GET /healthz HTTP/1.0\r\n\r\n", {200}),
    "HTTP/1.1 without a host": (b"GET /healthz HTTP/1.1\r\n\r\n", {200, 400}),
    "HTTP/1.2": (b"GET /healthz HTTP/1.2\r\nHost: x\r\n\r\n", {200, 400}),
    "HTTP/2.0": (b"GET /healthz HTTP/2.0\r\nHost: x\r\n\r\n", {400}),
    "HTTP/3": (b"GET /healthz HTTP/3\r\nHost: x\r\n\r\n", {400}),
    "HTTP/-1.1": (b"GET /healthz HTTP/-1.1\r\nHost: x\r\n\r\n", {400}),
    "a preface of HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00", {400}),
    "an upgrade to h2c": (
        b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
        b"HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n",
        {200},
    ),
    "an upgrade to a websocket": (
        b"GET /v1/stream HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Key: eHh4eHh4eHh4eHh4eHh4eA==\r\nSec-WebSocket-Version: 13\r\n\r\n\x81\x85abcdefghi",
        {400},
    ),
    "a TLS hello": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)) * 2, {400}),
    "SSH": (b"SSH-2.0-OpenSSH_9.6\r\n", {400}),
    "Redis": (b"*1\r\n$4\r\nPING\r\n", {400}),
    "SMTP": (b"EHLO x\r\nMAIL FROM:<x>\r\n", {400}),
    "a proxy's greeting": (b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\nGET /healthz HTTP/1.1\r\nHost: x\r\n\r\n", {400}),
    "zeros": (bytes(70_000), {400}),
    "a line without an end": (b"G" * 200_000, {400}),
    "a target without an end": (b"GET /" + b"x" * 200_000, {400}),
    "a header without an end": (b"GET / HTTP/1.1\r\nX: " + b"x" * 200_000, {400}),
    "a head of 40,000 headers": (b"GET /healthz HTTP/1.1\r\nHost: x\r\n" + b"X: y\r\n" * 40_000 + b"\r\n", {200, 400}),
    "a head that ends too soon": (b"GET /healthz HTTP/1.1\r\nHost: x\r\n", {400}),
    "an absolute target": (b"GET http://other.example/healthz HTTP/1.1\r\nHost: x\r\n\r\n", {200}),
    "an absolute target of another scheme": (b"GET ftp://other.example/ HTTP/1.1\r\nHost: x\r\n\r\n", {200, 400}),
    "an absolute target with a password": (b"GET http://a:b@other.example/ HTTP/1.1\r\nHost: x\r\n\r\n", {200, 400}),
    "a target of an authority": (b"CONNECT other.example:443 HTTP/1.1\r\nHost: x\r\n\r\n", {400, 404, 405}),
    "a target that is a star": (b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", {204, 400}),
    "a star that is got": (b"GET * HTTP/1.1\r\nHost: x\r\n\r\n", {400, 404}),
    "no target": (b"GET  HTTP/1.1\r\nHost: x\r\n\r\n", {400}),
    "a target with a space": (b"GET /health z HTTP/1.1\r\nHost: x\r\n\r\n", {400}),
    "a target with a NUL": (b"GET /\x00 HTTP/1.1\r\nHost: x\r\n\r\n", {400}),
    "a target with a tab": (b"GET /healthz?\t HTTP/1.1\r\nHost: x\r\n\r\n", {400}),
    "a target of bytes": (b"GET /\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n", {400}),
    "a target that is relative": (b"GET healthz HTTP/1.1\r\nHost: x\r\n\r\n", {400, 404}),
    "a target with a fragment": (b"GET /healthz#x HTTP/1.1\r\nHost: x\r\n\r\n", {200, 400}),
    "a target with dots": (b"GET /v1/../../../etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n", {404}),
    "two hosts": (b"GET /healthz HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", {200, 400}),
    "a host that is none": (b"GET /healthz HTTP/1.1\r\nHost: [::1\r\n\r\n", {200, 400}),
    "a host with a NUL": (b"GET /healthz HTTP/1.1\r\nHost: x\x00\r\n\r\n", {400}),
    "a method in lower case": (b"get /healthz HTTP/1.1\r\nHost: x\r\n\r\n", {400, 405}),
    "a method that nobody knows": (b"BREW /healthz HTTP/1.1\r\nHost: x\r\n\r\n", {400, 405}),
    "a method of 10,000 letters": (b"G" * 10_000 + b" /healthz HTTP/1.1\r\nHost: x\r\n\r\n", {400, 405}),
    "an expectation that nobody knows": (post(b"Expect: the-unexpected\r\nContent-Length: 2", b"{}"), {400, 417}),
    "an expectation in HTTP/1.0": (
        post(b"Expect: 100-continue\r\nContent-Length: 0", b"").replace(b"1.1", b"1.0"),
        {400},
    ),
    "an expected body that does not come": (post(b"Expect: 100-continue\r\nContent-Length: 2", b""), {400}),
    "a body that ends too soon": (post(b"Content-Length: 99", CREATE), {400}),
    "no body": (post(b"Content-Length: 0", b""), {400}),
    "no length": (post(b"X: y", b""), {400}),
    "chunks that end too soon": (post(b"Transfer-Encoding: chunked", b"5\r\nhel"), {400}),
    "chunks without an end": (post(b"Transfer-Encoding: chunked", b"2\r\n{}\r\n"), {400}),
    "a chunk of very much": (post(b"Transfer-Encoding: chunked", b"fffffffffffffff\r\n{}"), {400, 413}),
    "a chunk with an extension": (post(b"Transfer-Encoding: chunked", b"2;x=\"y\"\r\n{}\r\n0\r\n\r\n"), {400}),
    "a chunk with a long extension": (post(b"Transfer-Encoding: chunked", b"2;" + b"x" * 70_000 + b"\r\n{}"), {400}),
    "chunks with trailers": (post(b"Transfer-Encoding: chunked", b"2\r\n{}\r\n0\r\nX: y\r\n\r\n"), {400}),
    "10,000 chunks": (post(b"Transfer-Encoding: chunked", b"1\r\n \r\n" * 10_000 + b"0\r\n\r\n"), {400}),
    "chunks of a GET": (b"GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", {200, 400}),
    "a length of another method": (b"GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc", {200}),
    "a zip that is none": (post(b"Content-Encoding: gzip\r\nContent-Length: 2", b"{}"), {400}),
    "a zip within a zip": (post(b"Content-Encoding: gzip, gzip\r\nContent-Length: 2", b"{}"), {400}),
    "keep-alive in HTTP/1.0": (b"GET /healthz HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", {200}),
    "a connection that is everything": (b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close, keep-alive\r\n\r\n", {200}),
    "pipelined": (b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n" * 200, {200}),
    "pipelined, then junk": (b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n" * 3 + b"JUNK\r\n\r\n", {200, 400}),
    "pipelined behind a body that is refused": (post(b"Content-Length: 3", b"[1]") + SMUGGLED, {200, 400}),
    "pipelined behind a body that is too large": (
        post(b"Content-Length: %d" % (MOST_BODY + 9), b" " * (MOST_BODY + 9)) + SMUGGLED,
        {200, 413},
    ),
    "pipelined behind a body that nobody reads": (
        b"PUT /v1/create HTTP/1.1\r\nHost: x\r\nContent-Length: 44\r\n\r\n" + b"x" * 44 + SMUGGLED,
        {200, 405},
    ),
}  # fmt: skip


#: Shapes that wait for more, and are closed without an answer when no more comes.
SILENT = {
    "HTTP/0.9 without an empty line",
    "a head that ends too soon",
    "an expected body that does not come",
    "a body that ends too soon",
    "chunks that end too soon",
    "chunks without an end",
    "a chunk of very much",
    "a chunk with a long extension",
}


@pytest.mark.timeout(600)
def test_a_framing_that_can_be_read_in_two_ways_lets_no_second_request_through(arena: Arena) -> None:
    for name, request in AMBIGUOUS.items():
        heard = arena.wire.converse(request)
        arena.counts["raw"] += 1
        for answer in heard:
            check(answer, "GET")
        assert [answer.status for answer in heard] in ([], [400]), (name, heard)


@pytest.mark.timeout(600)
def test_shapes_that_are_no_request_of_ours_are_answered_or_closed(arena: Arena) -> None:
    def ask(name: str) -> list[Heard]:
        with Wire(arena.system.config.server.port) as wire:
            request, statuses = SHAPES[name]
            return wire.converse(request, first=0.5 if name in SILENT or not statuses else 20)

    with ThreadPoolExecutor(8) as pool:
        for (name, (_, statuses)), heard in zip(SHAPES.items(), pool.map(ask, SHAPES), strict=True):
            arena.counts["raw"] += 1
            for answer in heard:
                check(answer, "GET")
            assert {answer.status for answer in heard} <= statuses, (name, heard)
            assert heard or not statuses or name in SILENT, name


@pytest.mark.timeout(600)
def test_a_mutated_head_of_bytes_is_answered_or_closed(arena: Arena) -> None:
    wholes = [*AMBIGUOUS.values(), *(request for request, _ in SHAPES.values() if 10 < len(request) < 2000)]
    wholes += [
        request_of("GET", f"/v1/status?tasks={UNKNOWN}", {"Connection": "close"}),
        request_of("POST", "/v1/create", RIGHT | {"Connection": "close"}, CREATE),
        request_of("GET", "/static/page.css", {"Range": "bytes=0-9", "Connection": "close"}),
        request_of("DELETE", f"/v1/tasks/{UNKNOWN}", RIGHT),
    ]
    bits = [
        b"\r\n",
        b"\n",
        b"\r",
        b"\x00",
        b" ",
        b"\t",
        b":",
        b"\xff",
        b"%",
        b"0",
        b"HTTP/1.1",
        b"\r\n\r\n",
        b"chunked",
        b",",
    ]

    @fuzzing(3_000, 80)
    @given(
        st.sampled_from(wholes),
        st.lists(st.tuples(st.floats(0, 1), st.sampled_from(bits), st.integers(0, 3)), max_size=5),
    )
    def mutated(request: bytes, changes: list[tuple[float, bytes, int]]) -> None:
        for where, bit, dropped in changes:
            at = int(where * len(request))
            request = request[:at] + bit + request[at + dropped :]
        arena.counts["raw"] += 1
        methods = re.findall(rb"(?:^|\n)(HEAD) ", request)
        for answer in arena.wire.converse(request, patience=0.05) if not methods else []:
            check(answer, "GET")

    run_seeded(arena, mutated)


# --- what was sent, changed -------------------------------------------------------------------------------------------


@pytest.mark.timeout(1800)
def test_what_was_sent_is_sent_once_more_with_changes(arena: Arena) -> None:
    """Bytes flipped, dropped, doubled and mixed, in targets, headers and bodies, by seeded chance: many and fast."""
    if not arena.corpus:
        arena.corpus += [
            ("POST", b"/v1/create", RIGHT, CREATE),
            ("GET", b"/v1/create_file?task_name=image.info", RIGHT, None),
        ]
    for _ in range(scale(67_000, 600)):
        method, target, given_headers, body = changed(arena.corpus, arena.chance)
        heard = arena.wire.ask(method, target, given_headers, body)
        arena.check("changed", heard, method)


def changed(
    corpus: list[tuple[str, bytes, dict[str, str], bytes | None]], chance: random.Random
) -> tuple[str, bytes, dict[str, str], bytes | None]:
    """One of what was sent, with one to three changes: still a request, and no countdown that could be long."""
    method, target, given_headers, body = chance.choice(corpus)
    for _ in range(chance.randint(1, 3)):
        other = chance.choice(corpus)
        match chance.randrange(5):
            case 0:
                target = mangled(target, other[1], chance)
            case 1:
                body = mangled(body or b"{}", other[3] or b"", chance)
            case 2:
                given_headers = given_headers | dict(chance.sample(sorted(other[2].items()), min(1, len(other[2]))))
            case 3:
                given_headers = RIGHT | {name: value for name, value in given_headers.items() if chance.random() < 0.7}
            case _:
                method, target = other[0], other[1]
    target = re.sub(rb"[^\x21-\x7e\x80-\xff]", b"", target) or b"/"
    if b"countdown" in target + (body or b"") or (body and b'"block"' in body):
        body = None
        target = target.replace(b"countdown", b"count")
    return method, target[:60_000], given_headers, body


def mangled(data: bytes, other: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(data) + 1)
    to = min(len(data), at + chance.choice((0, 1, 1, 2, 8)))
    start = chance.randrange(len(other) + 1)
    pieces = [
        b"",
        bytes([chance.randrange(256)]),
        chance.randbytes(4),
        data[at:to] * 3,
        other[start : start + 20],
        b"%00",
    ]
    return data[:at] + chance.choice(pieces) + data[to:]


# --- /openapi.json ----------------------------------------------------------------------------------------------------

#: Streams that go on until their client leaves, which schemathesis does not: tests/server/test_operator.py reads them.
ENDLESS = {"/v1/operator/overview_stream", "/v1/operator/tasks_stream"}


@pytest.mark.timeout(1800)
def test_schemathesis_finds_nothing_that_openapi_json_does_not_say(arena: Arena) -> None:
    """Each answer has a status, a content type, headers and a shape that the description has for its call."""
    import schemathesis
    from schemathesis import checks

    checks.load_all_checks()
    conformance = [
        checks.not_a_server_error,
        *checks.CHECKS.get_by_names(
            [
                "status_code_conformance",
                "content_type_conformance",
                "response_headers_conformance",
                "response_schema_conformance",
            ]
        ),
    ]
    document = arena.wire.ask("GET", "/openapi.json").json
    schemathesis.openapi.format("uri", st.sampled_from([url for url in URLS if "\ud800" not in url]))
    found = (result.ok() for result in schemathesis.openapi.from_dict(document).get_all_operations())
    operations = [operation for operation in found if operation.path not in ENDLESS]
    modes = (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE)
    pairs = [(operation, mode) for operation in operations for mode in modes]
    tried: Counter[str] = Counter()
    for operation, mode in pairs if FULL else arena.chance.sample(pairs, 12):

        def conforms(case: Any) -> None:
            tried[case.operation.label] += 1
            if isinstance(case.body, dict):
                body = {name: _harmless_all(value) for name, value in case.body.items()}
                case.body = unpaused(without_long_waits(body))
            case.call_and_validate(arena.system.url, headers=RIGHT, checks=conformance, timeout=DEADLINE)

        with contextlib.suppress(Unsatisfiable):  # nothing about this call can be wrong
            run_seeded(arena, fuzzing(80, 4)(given(operation.as_strategy(generation_mode=mode))(conforms)))
    arena.counts["schemathesis"] += tried.total()
    assert len(tried) > (20 if FULL else 4)


def _harmless_all(value: Any) -> Any:
    return [harmless(item) for item in value] if isinstance(value, list) else harmless(value)


# --- the end ----------------------------------------------------------------------------------------------------------


def test_the_figures_of_all_that(arena: Arena) -> None:
    total = sum(arena.counts.values())
    if FULL and len(arena.counts) == 6:  # else some of it was left out with -k
        assert total >= 100_000
    kinds = ", ".join(f"{kind} {count:,}" for kind, count in sorted(arena.counts.items()))
    statuses = ", ".join(f"{status} {count:,}" for status, count in sorted(arena.statuses.items()))
    note(
        "fuzz",
        f"{total:,} requests ({kinds})",
        f"0 answers of 5xx, 0 hangs, errors in shape (answers: {statuses})",
        arena.chance,
    )
