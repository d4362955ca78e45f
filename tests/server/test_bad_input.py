"""Input that no honest client sends: each gets a clear answer in the contract's shapes, and the server serves on."""

from __future__ import annotations

import asyncio
import gzip
import http.client
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.server.talking import (
    KEY,
    UNKNOWN,
    Answer,
    ask,
    bad_request,
    check_common,
    ended,
    error,
    normalised,
    parse_answers,
    queued,
    raw,
)
from tests.system import SECRET, Client, System

LIMIT = 1 << 20
BODIES = [
    "/v1/create",
    "/v1/create_stream",
    "/v1/create_file",
    "/v1/create_file/cat.jpg",
    "/v1/status",
    "/v1/status_stream",
]
HEAD = b"Host: x\r\nAuthorization: Secret 123456\r\nConnection: close\r\n"
TOO_LARGE = error("the request body is larger than 1048576 bytes: send several smaller requests")
NOT_HTTP = bad_request(("request", "header", "this is not a valid HTTP/1.1 request"))
TOO_LONG = bad_request(("request", "header", "the URL or a header of the request is too long"))
BAD_URL = bad_request(("url", "path", "the URL is not valid: write what is not ASCII as %XX, in UTF-8"))


def encoded(body: Any) -> bytes:
    """JSON with what orjson does not write: large integers, NaN, lone surrogates."""
    return json.dumps(body).encode()


def body_error(description: str) -> dict[str, Any]:
    return bad_request(("body", "body", description))


@pytest.fixture(autouse=True)
async def the_server_serves_on_and_logged_nothing_internal(system: System, client: Client) -> AsyncIterator[None]:
    yield
    assert (await ask(client.session, "GET", "/healthz")).status == 200
    assert "Traceback" not in system.processes[0].output


# --- bodies -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize(
    ("body", "description"),
    [
        (b"", "the body is empty, send a JSON object"),
        (b" \r\n\t ", "the body is empty, send a JSON object"),
        (b"[]", "the body must be a JSON object"),
        (b"null", "the body must be a JSON object"),
        (b'"tasks"', "the body must be a JSON object"),
        (b"3", "the body must be a JSON object"),
        (b"[" * 100 + b"]" * 100, "the body must be a JSON object"),
        (b'{"tasks":' + b"[" * 100 + b"]" * 100 + b"}", "the body is nested more than 100 levels deep"),
        (b'{"a":' * 500 + b"1" + b"}" * 500, "the body is nested more than 100 levels deep"),
    ],
    ids=["empty", "blank", "list", "null", "string", "number", "deep list", "list too deep", "object too deep"],
)
async def test_a_body_that_is_no_usable_object_is_a_400(
    client: Client, path: str, body: bytes, description: str
) -> None:
    answer = await ask(client.session, "POST", path, body, SECRET)
    assert (answer.status, answer.json) == (400, body_error(description))


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"tasks=hello&secret=123456",
        b'{"tasks": "\xff"}',
        b'{"tasks": "\xed\xa0\x80"}',
        b'{"tasks": "\\ud800"}',
        b'{"tasks": NaN}',
        b'{"tasks": -Infinity}',
        b'{"tasks": ' + b"9" * 5000 + b"}",
        b'{"tasks": 1e999}',
        b'{"tasks": {"task_name": "hello"},}',
        b'{"tasks": {"task_name": "hello"}} {}',
        b"{'tasks': 1}",
        b'\xef\xbb\xbf{"tasks": {"task_name": "hello"}}',
        b'{"tasks": {"task_name": "hello"}}\x00',
        b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        b'{"a":' + b"[" * 100_000,
        "{\"tasks\": {\"task_name\": \"hello\"}}".encode("utf-16"),
    ],
    ids=[
        "unfinished", "form", "not UTF-8", "surrogate bytes", "lone surrogate", "NaN", "infinity", "5,000 digits",
        "1e999", "trailing comma", "two values", "single quotes", "BOM", "NUL after it", "objects 100,000 deep",
        "lists 100,000 deep", "UTF-16",
    ],
)  # fmt: skip
async def test_a_body_that_is_not_json_in_utf_8_is_a_400_that_says_where(
    client: Client, path: str, body: bytes
) -> None:
    answer = await ask(client.session, "POST", path, body, SECRET)
    assert answer.status == 400
    (found,) = answer.json["errors"]
    assert (found["name"], found["location"]) == ("body", "body")
    assert found["description"].startswith("the body is not valid JSON in UTF-8: ")
    assert found["description"].endswith("(line 1)")
    assert len(answer.body) < 300


async def test_numbers_that_json_can_say_and_integers_cannot_are_no_crash(client: Client) -> None:
    for number in (
        b"18446744073709551615",
        b"18446744073709551616",
        b"-9223372036854775809",
        b"1e308",
        b"-0",
        b"9" * 300,
    ):
        body = b'{"block": true, "tasks": {"task_name": "test.echo", "number": ' + number + b"}}"
        answer = await ask(client.session, "POST", "/v1/create", body, SECRET)
        assert answer.status == 200
        assert answer.json[0]["status"] in ("success", "error")
        if answer.json[0]["status"] == "error":
            assert answer.json[0]["result"].keys() == {"parameters"}


async def test_a_member_that_stands_twice_counts_as_it_stood_last(client: Client) -> None:
    body = b'{"tasks": 3, "block": false, "tasks": {"task_name": "no", "task_name": "hello"}, "block": true}'
    answer = await ask(client.session, "POST", "/v1/create", body, SECRET)
    assert (answer.status, normalised(answer.json)) == (200, [ended("success", "Hello World")])


async def test_members_of_the_body_that_nobody_knows_do_no_harm(client: Client) -> None:
    body = {"tasks": {"task_name": "hello"}, "__proto__": {}, "": None, "blok": True}
    answer = await ask(client.session, "POST", "/v1/create", body, SECRET)
    assert (answer.status, normalised(answer.json)) == (200, [queued()])


def filled(size: int) -> bytes:
    body = b'{"block": true, "tasks": {"task_name": "hello"}, "fill": "'
    return body + b"x" * (size - len(body) - 2) + b'"}'


async def test_a_body_of_the_limit_is_taken_and_one_byte_more_is_a_413(client: Client) -> None:
    answer = await ask(client.session, "POST", "/v1/create", filled(LIMIT), SECRET)
    assert (answer.status, normalised(answer.json)) == (200, [ended("success", "Hello World")])
    for path in BODIES:
        answer = await ask(client.session, "POST", path, filled(LIMIT + 1), SECRET)
        assert (answer.status, answer.json) == (413, TOO_LARGE)


async def test_a_413_does_not_need_a_content_length(client: Client) -> None:
    async def parts(size: int) -> AsyncIterator[bytes]:
        body = filled(size)
        for start in range(0, size, 65536):
            yield body[start : start + 65536]

    for size, status in ((LIMIT, 200), (LIMIT + 1, 413), (3 * LIMIT, 413)):
        async with client.session.post("/v1/create", data=parts(size), headers=SECRET) as response:
            assert response.request_info.headers["Transfer-Encoding"] == "chunked"
            answer = Answer(response.status, response.headers, await response.read())
        check_common(answer)
        assert answer.status == status
        if status == 413:
            assert answer.json == TOO_LARGE


async def test_a_body_that_is_announced_as_huge_is_refused_before_it_is_sent(system: System) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", system.config.server.port)
    writer.write(b"POST /v1/create HTTP/1.1\r\n" + HEAD + b"Content-Length: 99999999999\r\n\r\n" + b" " * (LIMIT + 1))
    async with asyncio.timeout(10):
        head = await reader.readuntil(b"\r\n\r\n")
        body = await reader.readexactly(len(orjson.dumps(TOO_LARGE)))
    assert head.startswith(b"HTTP/1.1 413 ")
    assert orjson.loads(body) == TOO_LARGE
    writer.close()


async def test_a_zipped_body_is_unpacked_and_a_bomb_is_a_413(client: Client) -> None:
    headers = SECRET | {"Content-Encoding": "gzip"}
    small = gzip.compress(b'{"tasks": {"task_name": "hello"}, "block": true}')
    answer = await ask(client.session, "POST", "/v1/create", small, headers)
    assert (answer.status, normalised(answer.json)) == (200, [ended("success", "Hello World")])
    bomb = gzip.compress(b" " * (64 << 20))
    assert len(bomb) < 100_000
    answer = await ask(client.session, "POST", "/v1/create", bomb, headers)
    assert (answer.status, answer.json) == (413, TOO_LARGE)


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
async def test_a_body_that_is_not_packed_as_it_says_is_a_400(client: Client, encoding: str) -> None:
    headers = SECRET | {"Content-Encoding": encoding}
    answer = await ask(client.session, "POST", "/v1/create", b'{"tasks": {"task_name": "hello"}}', headers)
    assert (answer.status, answer.json) == (
        400,
        body_error("the body cannot be read: check its Content-Encoding and Content-Length"),
    )


# --- flags and numbers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["yes", 2, -1, 1.0, 0.0, [], {}, [True], "truee", " true"])
async def test_a_block_that_is_no_boolean_is_a_400(client: Client, value: object) -> None:
    expected = (400, bad_request(("block", "body", "block must be true or false")))
    for path, tasks in (("/v1/create", {"task_name": "hello"}), ("/v1/status", UNKNOWN)):
        answer = await ask(client.session, "POST", path, {"tasks": tasks, "block": value}, SECRET)
        assert (answer.status, answer.json) == expected


@pytest.mark.parametrize("value", [-1, -0.001, "soon", "", "nan", "-inf", True, False, [], {}, [1], "1s"])
async def test_a_timeout_that_is_no_number_of_seconds_is_a_400(client: Client, value: object) -> None:
    expected = (400, bad_request(("timeout", "body", "timeout must be a number of seconds, 0 to 300")))
    for path, tasks in (("/v1/create", {"task_name": "hello"}), ("/v1/status", UNKNOWN)):
        answer = await ask(client.session, "POST", path, {"tasks": tasks, "timeout": value}, SECRET)
        assert (answer.status, answer.json) == expected


@pytest.mark.parametrize("value", [0, "0", 0.5, "1e0", 10**30, "inf", None, "9" * 5000])
async def test_a_timeout_in_every_spelling_of_a_number(client: Client, value: object) -> None:
    body = {"tasks": UNKNOWN, "timeout": value, "block": True}
    answer = await ask(client.session, "POST", "/v1/status", encoded(body), SECRET)
    assert (answer.status, answer.json[0]["result"]) == (200, "unknown task key")


# --- raw connections --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_bytes", "body"),
    [
        (b"\r\n\r\nhello\r\n\r\n", NOT_HTTP),
        (b"GET\r\n\r\n", NOT_HTTP),
        (b"GET /healthz HTTP/9.9\r\nHost: x\r\n\r\n", NOT_HTTP),
        (b"G\xe9T /healthz HTTP/1.1\r\nHost: x\r\n\r\n", NOT_HTTP),
        (b"GET /healthz HTTP/1.1\r\nHost x\r\n\r\n", NOT_HTTP),
        (b"GET /healthz HTTP/1.1\r\n: x\r\n\r\n", NOT_HTTP),
        (b"GET /healthz HTTP/1.1\r\nHost: x\r\nX: a\x00b\r\n\r\n", NOT_HTTP),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", NOT_HTTP),
        (b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n", BAD_URL),
        (b"GET http://[x/healthz HTTP/1.1\r\nHost: x\r\n\r\n", BAD_URL),
        (b"GET /healthz?" + b"a" * 70_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", TOO_LONG),
        (b"GET /healthz HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 20_000 + b"\r\n\r\n", TOO_LONG),
        (b"POST /v1/create HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", NOT_HTTP),
        (b"POST /v1/create HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}", NOT_HTTP),
        (b"POST /v1/create HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}", NOT_HTTP),
        (b"POST /v1/create HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", NOT_HTTP),
    ],
)
async def test_what_is_no_http_is_a_400_in_the_json_shape(system: System, request_bytes: bytes, body: Any) -> None:
    answer = (await raw(system, request_bytes))[-1]
    check_common(answer)
    assert (answer.status, answer.json) == (400, body)
    assert answer.headers["Server"] == "dragon"


@pytest.mark.parametrize("version", [b"0.9", b"2.0"])
async def test_another_version_of_http_is_a_400_of_http_1_1(system: System, version: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", system.config.server.port)
    writer.write(b"GET /healthz HTTP/" + version + b"\r\nHost: x\r\n\r\n")
    async with asyncio.timeout(10):
        answered = await reader.read()
    writer.close()
    assert answered.startswith(b"HTTP/1.")
    (answer,) = parse_answers(answered)
    assert (answer.status, answer.json) == (400, NOT_HTTP)


async def test_an_expectation_that_nobody_knows_is_a_417_in_the_json_shape(system: System) -> None:
    request = b"POST /v1/create HTTP/1.1\r\nExpect: the-unexpected\r\n" + HEAD + b"Content-Length: 2\r\n\r\n{}"
    (answer,) = await raw(system, request)
    check_common(answer)
    assert (answer.status, answer.json) == (417, error("Expectation Failed"))


async def test_a_client_that_leaves_while_it_is_told_to_go_on_is_no_internal_error(system: System) -> None:
    request = b"POST /v1/create HTTP/1.1\r\nExpect: 100-continue\r\n" + HEAD + b"Content-Length: 2\r\n\r\n"
    for _ in range(20):  # whether it leaves before or after the server's word is chance
        _, writer = await asyncio.open_connection("127.0.0.1", system.config.server.port)
        writer.write(request)
        writer.write_eof()
        await asyncio.sleep(0.005)
        writer.transport.abort()


async def test_many_headers_are_refused_or_ignored(system: System) -> None:
    headers = b"".join(b"X-%d: y\r\n" % number for number in range(20_000))
    for answer in await raw(system, b"GET /healthz HTTP/1.1\r\n" + HEAD + headers + b"\r\n"):
        check_common(answer)
        assert answer.status in (200, 400)


async def test_a_body_shorter_than_its_length_creates_nothing(system: System, client: Client, tmp_path: Any) -> None:
    path = tmp_path / "starts"
    body = orjson.dumps({"tasks": {"task_name": "test.count_starts", "path": str(path)}})
    request = b"POST /v1/create HTTP/1.1\r\n" + HEAD + b"Content-Length: %d\r\n\r\n%s" % (len(body) + 1, body)
    for answer in await raw(system, request, half_close=True):
        check_common(answer)
        assert answer.status == 400
    await client.run("test.count_starts", path=str(path))
    assert len(path.read_text().splitlines()) == 1


async def test_connections_that_are_closed_at_any_byte_do_no_harm(system: System, client: Client) -> None:
    body = b'{"tasks": {"task_name": "hello"}, "block": true}'
    request = b"POST /v1/create_stream HTTP/1.1\r\n" + HEAD + b"Content-Length: %d\r\n\r\n%s" % (len(body), body)

    async def cut(length: int) -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", system.config.server.port)
        writer.write(request[:length])
        await writer.drain()
        writer.transport.abort()

    await asyncio.gather(*(cut(length) for length in range(0, len(request) + 1, 3)))
    assert (await client.run("hello"))["result"] == "Hello World"


async def test_http_1_0_is_answered_and_closed(system: System) -> None:
    (answer,) = await raw(system, b"GET /healthz HTTP/1.0\r\n\r\n")
    assert answer.status == 200
    body = b'{"tasks": {"task_name": "hello"}, "block": true}'
    head = b"POST /v1/create HTTP/1.0\r\nAuthorization: Secret 123456\r\nContent-Length: %d\r\n\r\n" % len(body)
    (answer,) = await raw(system, head + body)
    assert (answer.status, normalised(answer.json)) == (200, [ended("success", "Hello World")])


async def test_pipelined_requests_are_answered_in_their_order(system: System) -> None:
    def create(name: str) -> bytes:
        body = orjson.dumps({"tasks": {"task_name": "hello", "name": name}, "block": True})
        head = b"POST /v1/create HTTP/1.1\r\nHost: x\r\nAuthorization: Secret 123456\r\n"
        return head + b"Content-Length: %d\r\n\r\n%s" % (len(body), body)

    requests = [create("one"), b"PUT /v1/create HTTP/1.1\r\nHost: x\r\n\r\n", create("two"), create("three")]
    answers = await raw(system, b"".join(requests) + b"GET /nowhere HTTP/1.1\r\n" + HEAD + b"\r\n")
    assert [answer.status for answer in answers] == [200, 405, 200, 200, 404]
    assert [answers[i].json[0]["result"] for i in (0, 2, 3)] == ["Hello one", "Hello two", "Hello three"]


async def test_a_good_request_before_garbage_is_answered_first(system: System) -> None:
    answers = await raw(system, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\nGARBAGE\r\n\r\n")
    assert [answer.status for answer in answers] in ([200, 400], [400])
    assert answers[-1].json == NOT_HTTP


async def test_expect_continue_is_honoured(system: System) -> None:
    body = b'{"tasks": {"task_name": "hello"}, "block": true}'
    reader, writer = await asyncio.open_connection("127.0.0.1", system.config.server.port)
    writer.write(
        b"POST /v1/create HTTP/1.1\r\nExpect: 100-continue\r\n" + HEAD + b"Content-Length: %d\r\n\r\n" % len(body)
    )
    async with asyncio.timeout(10):
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(body)
        (answer,) = parse_answers(await reader.read())
    assert normalised(answer.json) == [ended("success", "Hello World")]
    writer.close()


# --- anything at all --------------------------------------------------------------------------------------------------

texts = st.text(max_size=20) | st.sampled_from(["hello", "test.echo", "test.value", "image.info", UNKNOWN, "true", "1"])
scalars = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | texts
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4), max_leaves=12
)
names = st.sampled_from(
    ["task_name", "task_metas", "task_store", "url_callback", "name", "number", "words", "url", "kind"]
)
definitions = st.dictionaries(names | texts, values, max_size=5) | st.fixed_dictionaries(
    {"task_name": texts}, optional={"task_metas": values, "name": values, "number": values, "words": values}
)
members: dict[str, st.SearchStrategy[Any]] = {
    "tasks": definitions | st.lists(definitions | values, max_size=4) | values,
    "task": definitions | values,
    "block": values,
    "timeout": st.sampled_from([0, 0.01, "0"]) | values,
    "details": values,
    "secret": values,
    "api_key": values,
}
bodies = st.fixed_dictionaries({"tasks": members["tasks"], "task": members["task"]}) | st.fixed_dictionaries(
    {}, optional=members
)


@pytest.fixture(scope="module")
def connection(system: System) -> Iterator[http.client.HTTPConnection]:
    found = http.client.HTTPConnection("127.0.0.1", system.config.server.port, timeout=30)
    yield found
    found.close()


def check_statuses(statuses: Any) -> None:
    assert isinstance(statuses, list)
    for status in statuses:
        assert status["status"] in ("queued", "executing", "success", "error")
        assert KEY.fullmatch(status["key"])
        assert "events" in status or status["result"] == "unknown task key"
        assert ("result" in status) or status["status"] in ("queued", "executing")


@pytest.mark.parametrize("path", ["/v1/create", "/v1/status", "/v1/create_file"])
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(body=bodies | values)
@example(body={"tasks": {"task_name": "hello"}, "timeout": 10**400})
@example(body={"tasks": [{"task_name": "test.echo", "task_metas": {"a": "\ud800"}}]})
def test_whatever_is_posted_the_answer_is_in_the_contracts_shapes(
    connection: http.client.HTTPConnection, path: str, body: Any
) -> None:
    if isinstance(body, dict) and body.get("block"):
        body["timeout"] = 0.01
    connection.request("POST", path, encoded(body), SECRET)
    response = connection.getresponse()
    answer = Answer(response.status, response.headers, response.read())  # type: ignore[arg-type]
    assert answer.status < 500
    check_common(answer)
    if answer.status == 200:
        check_statuses(answer.json)
    else:
        assert answer.status in (302, 400, 404, 413)
