"""create_file and file: from a request to an output file in one redirect, and one task for a thousand images."""

from __future__ import annotations

import asyncio
import random
import re
import time
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import aiohttp
import pytest
import redis

from tests.server.talking import KEY, UNKNOWN, Answer, ask, bad_request, ended, error, normalised, raw, refused
from tests.system import SECRET, Client, System

BAD_FILENAME = bad_request(
    ("filename", "path", "a filename has 255 characters at most, and no slashes or control characters")
)
PAGE = {"Referer": "http://localhost/"}


async def get(client: Client, path: str, headers: dict[str, str] = SECRET) -> Answer:
    return await ask(client.session, "GET", path, None, headers)


async def result_of(client: Client, path: str) -> Any:
    """The result of the task that a 302 leads to, whose parameters are those of the querystring."""
    answer = await get(client, path)
    assert answer.status == 302, answer.body
    found = KEY.search(answer.headers["Location"])
    assert found
    return (await client.status(found[0], details=True))[0]


# --- the answers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("filename", ["", "/output", "/output.txt", "/cat.jpg", "/.htaccess", "/%C3%A9%20%3F%23.jpg"])
async def test_a_task_with_one_output_file_takes_any_name_or_none(client: Client, filename: str) -> None:
    text = f"any name {filename}"
    for answer in (
        await get(client, f"/v1/create_file{filename}?" + urlencode({"task_name": "test.file", "text": text})),
        await ask(
            client.session,
            "POST",
            f"/v1/create_file{filename}",
            {"task": {"task_name": "test.file", "text": text}},
            SECRET,
        ),
    ):
        assert (answer.status, answer.body) == (302, b"")
        assert normalised(answer.headers["Location"]) == "/files/KEY 1/output.txt"
        assert re.fullmatch(r"private, max-age=3600", answer.headers["Cache-Control"])
        file = await ask(client.session, "GET", answer.headers["Location"])
        assert (file.status, file.body.decode()) == (200, text)


@pytest.mark.parametrize(("filename", "size"), [("small", 1), ("large", 1000), ("small.txt", 1), ("large.jpg", 1000)])
async def test_the_filename_selects_one_of_several_output_files(client: Client, filename: str, size: int) -> None:
    answer = await get(client, f"/v1/create_file/{filename}?task_name=test.two_files&text=abc")
    file = await ask(client.session, "GET", answer.headers["Location"])
    assert file.body == b"abc" * size


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/medium", "'medium' is not a valid filename, choose one of: 'small', 'large'"),
        ("/Small", "'Small' is not a valid filename, choose one of: 'small', 'large'"),
        ("/..", "'..' is not a valid filename, choose one of: 'small', 'large'"),
        ("/%3Cscript%3E", "'<script>' is not a valid filename, choose one of: 'small', 'large'"),
        ("", "the filename is missing, choose one of: 'small', 'large'"),
    ],
)
async def test_a_filename_that_is_none_of_them_is_a_404_before_anything_is_queued(
    system: System, client: Client, path: str, message: str
) -> None:
    head = b"Host: x\r\nAuthorization: Secret 123456\r\nConnection: close\r\n"
    request = f"GET /v1/create_file{path}?task_name=test.two_files&number=wrong HTTP/1.1\r\n".encode()
    (answer,) = await raw(system, request + head + b"\r\n")
    assert (answer.status, answer.json) == (404, error(message))
    body = b'{"task": {"task_name": "test.two_files", "number": "wrong"}}'
    request = f"POST /v1/create_file{path} HTTP/1.1\r\nContent-Length: {len(body)}\r\n".encode()
    (answer,) = await raw(system, request + head + b"\r\n" + body)
    assert (answer.status, answer.json, answer.headers["Cache-Control"]) == (404, error(message), "no-store")


async def test_a_task_without_output_files_is_a_404_that_says_so(client: Client) -> None:
    message = "this task has no output file: 'hello' returns its result as JSON, use create"
    for filename in ("", "/cat.jpg"):
        answer = await get(client, f"/v1/create_file{filename}?task_name=hello")
        assert (answer.status, answer.json) == (404, error(message))
        key = (await client.run("hello"))["key"]
        answer = await get(client, f"/v1/file{filename}?task={key}", {})
        assert (answer.status, answer.json) == (404, error(message))


async def test_a_failed_task_is_a_400_with_its_status(client: Client) -> None:
    failing = {"task_name": "test.forgets_file"}
    posted = await ask(client.session, "POST", "/v1/create_file", {"task": failing}, SECRET)
    got = await get(client, "/v1/create_file?task_name=test.forgets_file")
    for answer in (posted, got):
        assert (answer.status, answer.headers["Cache-Control"]) == (400, "no-store")
        status = answer.json
        assert normalised(status) == ended("error", status["result"])
        assert await client.status(status["key"]) == [status]
    answer = await get(client, f"/v1/file?task={got.json['key']}", {})
    assert (answer.status, answer.json) == (400, got.json)


async def test_parameter_errors_and_unknown_tasks_are_a_400_with_the_status(client: Client) -> None:
    for query, result in (
        ("task_name=no.such.task", "unknown task name, GET /v1/tasks lists them"),
        ("task_name=image.thumb", {"parameters": {"url": ["this field is required"]}}),
        (
            "task_name=test.file&txet=1&seconds=x",
            {
                "parameters": {
                    "seconds": ["input should be a valid number, unable to parse string as a number"],
                    "txet": ["unknown parameter, did you mean 'text'?"],
                }
            },
        ),
        ("task_name=test.file&text=a&text=b", {"parameters": {"text": ["this parameter may be given once only"]}}),
    ):
        answer = await get(client, f"/v1/create_file/cat.jpg?{query}")
        assert (answer.status, normalised(answer.json)) == (400, refused(result))


async def test_missing_repeated_and_malformed_parameters_are_a_400_all_at_once(client: Client) -> None:
    missing = ("task_name", "querystring", "task_name is missing")
    bad_name = ("filename", "path", "a filename has 255 characters at most, and no slashes or control characters")
    for path, errors in (
        ("/v1/create_file", [missing]),
        ("/v1/create_file/cat.jpg?task_name=", [missing]),
        ("/v1/create_file?task_name=a&task_name=b", [("task_name", "querystring", "task_name may be given once only")]),
        (f"/v1/create_file/{'x' * 300}", [bad_name, missing]),
        (
            f"/v1/create_file?task_name={'x' * 201}",
            [("task_name", "querystring", "task_name must be a string of 1 to 200 characters")],
        ),
        ("/v1/file", [("task", "querystring", "task is missing")]),
        (f"/v1/file?task={UNKNOWN}&task={UNKNOWN}", [("task", "querystring", "task may be given once only")]),
        (
            f"/v1/file/{'x' * 300}?task=x",
            [bad_name, ("task", "querystring", "this is not a task key (26 characters A-Z2-7)")],
        ),
    ):
        answer = await get(client, path)
        assert (answer.status, answer.json) == (400, bad_request(*errors))


async def test_the_envelope_of_a_post_is_checked(client: Client) -> None:
    one = ("task", "body", "task must be one task definition (an object)")
    for body, error_ in (
        ({}, ("task", "body", "task is missing")),
        ({"tasks": {"task_name": "test.file"}}, ("task", "body", "task is missing")),
        ({"task": None}, one),
        ({"task": 3}, one),
        ({"task": []}, one),
        ({"task": [{"task_name": "test.file"}]}, one),
        ({"task": {}}, ("task.task_name", "body", "task_name is missing")),
    ):
        answer = await ask(client.session, "POST", "/v1/create_file", body, SECRET)
        assert (answer.status, answer.json) == (400, bad_request(error_))


async def test_an_unknown_key_is_a_404(client: Client) -> None:
    answer = await get(client, f"/v1/file/cat.jpg?task={UNKNOWN}", {})
    assert (answer.status, answer.json) == (404, error("unknown task key"))


async def test_file_needs_no_credentials_and_takes_head(client: Client) -> None:
    key = (await client.create({"task_name": "test.file", "seconds": 0.2}))[0]["key"]
    for method in ("GET", "HEAD"):
        answer = await ask(client.session, method, f"/v1/file/cat.jpg?task={key}")
        assert (answer.status, answer.headers["Location"]) == (302, f"/files/{key}/output.txt")
    answer = await ask(client.session, "HEAD", f"/v1/file/cat.jpg?task={UNKNOWN}")
    assert (answer.status, answer.body) == (404, b"")


async def test_head_of_create_file_is_405_and_creates_nothing(client: Client, tmp_path: Path) -> None:
    path = "/v1/create_file/a.txt?task_name=test.file&text=never+by+head"
    answer = await ask(client.session, "HEAD", path, None, SECRET)
    assert (answer.status, answer.body) == (405, b"")
    assert {method.strip() for method in answer.headers["Allow"].split(",")} == {"GET", "POST"}
    before = time.time()
    created = (await result_of(client, path))["events"]["queued"]
    assert datetime.fromisoformat(created).timestamp() >= before - 0.001  # a new one: the HEAD made none to be reused


@pytest.mark.parametrize("filename", ["a%2fb", "%2e%2e%2fb", "a%00b", "a%0d%0aSet-Cookie:x", "x" * 256, "%2F"])
async def test_names_that_are_no_names_are_a_400(system: System, filename: str) -> None:
    for path in ("create_file", "file"):
        request = f"GET /v1/{path}/{filename}?task_name=test.file&task={UNKNOWN} HTTP/1.1\r\nHost: x\r\n"
        (answer,) = await raw(system, f"{request}Authorization: Secret 123456\r\nConnection: close\r\n\r\n".encode())
        assert (answer.status, answer.json) == (400, BAD_FILENAME)
        assert "Set-Cookie" not in answer.headers


@pytest.mark.parametrize("filename", ["..", ".", "%2e%2e", "..%5c..%5cx", "~", "%ff", "'%22%3E%3Cimg%3E"])
async def test_strange_names_select_the_one_file_and_change_nothing(system: System, filename: str) -> None:
    request = f"GET /v1/create_file/{filename}?task_name=test.file HTTP/1.1\r\nHost: x\r\n"
    (answer,) = await raw(system, f"{request}Authorization: Secret 123456\r\nConnection: close\r\n\r\n".encode())
    assert (answer.status, normalised(answer.headers["Location"])) == (302, "/files/KEY 1/output.txt")


# --- the querystring --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "parameters"),
    [
        ("seconds=0.25", {"seconds": 0.25}),
        ("seconds=0", {"seconds": 0.0}),
        ("seconds=1e-3&text=7", {"seconds": 0.001, "text": "7"}),
        ("text=", {"text": ""}),
        ("text=a%2Bb+c%26d%3De%C3%A9%F0%9F%90%89", {"text": "a+b c&d=eé🐉"}),
        ("text=1;b", {"text": "1;b"}),
        ("text=true&secret=123456&api_key=x&referrer=y&task_metas=z&url_callback=u", {"text": "true"}),
    ],
)
async def test_values_get_the_type_of_the_parameter(client: Client, query: str, parameters: Any) -> None:
    assert (await result_of(client, f"/v1/create_file?task_name=test.file&{query}"))["parameters"] == parameters


@pytest.mark.parametrize(
    ("text", "value"), [("true", True), ("1", True), ("false", False), ("0", False), ("True", True), ("no", False)]
)
async def test_booleans_and_integers_are_converted(client: Client, pictures: str, text: str, value: bool) -> None:
    query = urlencode({"url": f"{pictures}/cat.jpg", "crop": text, "width": "20", "height": "10", "rotation": "90"})
    status = await result_of(client, f"/v1/create_file/cat.jpg?task_name=image.thumb&{query}")
    assert status["parameters"] == {
        "url": f"{pictures}/cat.jpg", "crop": value, "width": 20, "height": 10, "rotation": 90
    }  # fmt: skip


async def test_what_cannot_be_converted_is_a_parameter_error(client: Client) -> None:
    query = "url=http://example.com/&crop=perhaps&width=2.5&height=1_0x&quality="
    answer = await get(client, f"/v1/create_file?task_name=image.thumb&{query}")
    assert answer.status == 400
    problems = answer.json["result"]["parameters"]
    assert problems.keys() == {"crop", "width", "height", "quality"}


async def test_a_repeated_name_is_a_list(client: Client, pictures: str) -> None:
    one, two = f"{pictures}/cat.jpg", f"{pictures}/image.jpg"
    query = urlencode([("urls", one), ("width", "8"), ("urls", two), ("height", "6"), ("urls", one)])
    status = await result_of(client, f"/v1/create_file/strip.jpg?task_name=image.strip&{query}")
    assert status["parameters"] == {"urls": [one, two, one], "width": 8, "height": 6}
    assert status["result"]["count"] == 3
    status = await result_of(client, f"/v1/create_file?task_name=image.strip&width=8&height=6&urls={one}")
    assert status["parameters"]["urls"] == [one]


# --- single flight ----------------------------------------------------------------------------------------------------


def variations(count: int, text: str) -> list[tuple[str, dict[str, str]]]:
    """Requests for the same task: parameters in any order, credentials in any place, any filename."""
    chosen = random.Random(1)
    found = []
    for number in range(count):
        members = [("task_name", "test.file"), ("text", text), ("seconds", "0.5"), ("extension", ".html")]
        headers: dict[str, str] = {}
        match number % 5:
            case 0:
                headers = dict(SECRET)
            case 1:
                members.append(("secret", "123456"))
            case 2:
                headers = PAGE | {"Authorization": "Api-Key 654321"}
            case 3:
                members.append(("api_key", "654321"))
                headers = {"Origin": "http://127.0.0.1:8000"}
            case 4:
                headers = dict(PAGE)
        chosen.shuffle(members)
        found.append((f"/v1/create_file/{chosen.choice('abc')}.html?{urlencode(members)}", headers))
    return found


async def test_two_hundred_images_on_two_server_processes_run_one_task(own_system: Any) -> None:
    system: System = own_system(server__processes=2)
    system.start_server("--processes", "2")
    system.start_worker("--executors", "2")
    async with aiohttp.ClientSession(
        system.url, connector=aiohttp.TCPConnector(limit=200, force_close=True)
    ) as session:
        answers = await asyncio.gather(
            *(ask(session, "GET", path, None, headers) for path, headers in variations(200, "one flight"))
        )
        assert {answer.status for answer in answers} == {302}
        places = {answer.headers["Location"] for answer in answers}
        assert len(places) == 1
        later = await asyncio.gather(
            *(ask(session, "GET", path, None, headers) for path, headers in variations(20, "one flight"))
        )
        assert {answer.headers["Location"] for answer in later} == places
    with redis.Redis.from_url(system.config.redis.url) as store:
        assert len(list(store.scan_iter("rq:job:*"))) == 1  # this Redis is the test's own


async def test_other_parameters_are_another_task_and_a_finished_one_is_answered_at_once(client: Client) -> None:
    paths = [f"/v1/create_file?task_name=test.file&text={text}&seconds=0.3" for text in ("one", "two", "one")]
    first, second, third = [(await get(client, path)).headers["Location"] for path in paths]
    assert first == third != second
    status = await result_of(client, paths[0])
    assert status["attempt"] == 1


async def test_a_post_always_makes_a_new_task(client: Client) -> None:
    body = {"task": {"task_name": "test.file", "text": "posted"}}
    places = {
        (await ask(client.session, "POST", "/v1/create_file", body, SECRET)).headers["Location"] for _ in range(3)
    }
    got = {(await get(client, "/v1/create_file?task_name=test.file&text=posted")).headers["Location"] for _ in range(3)}
    assert (len(places), len(got), places & got) == (3, 1, set())


async def test_a_failed_task_is_not_kept(client: Client) -> None:
    keys = [(await get(client, "/v1/create_file?task_name=test.forgets_file")).json["key"] for _ in range(2)]
    assert keys[0] != keys[1]


async def test_a_cancelled_task_is_not_kept_and_those_who_wait_learn_of_it(impatient: System) -> None:
    async with impatient.client() as client:
        path = "/v1/create_file?task_name=test.file&seconds=30&text=cancelled"

        async def wait_for_file() -> Answer:
            answer = await get(client, path)
            while answer.headers.get("Location", "").startswith("/v1/file?"):
                answer = await get(client, answer.headers["Location"])
            return answer

        waiting = [asyncio.ensure_future(wait_for_file()) for _ in range(3)]
        key = (await get(client, path)).headers["Location"].removeprefix("/v1/file?task=")
        cancelled = (await ask(client.session, "DELETE", f"/v1/tasks/{key}", None, SECRET)).json
        assert cancelled["result"] == "cancelled"
        for answer in await asyncio.gather(*waiting):
            assert (answer.status, answer.json) == (400, cancelled)
        other = (await get(client, path)).headers["Location"].removeprefix("/v1/file?task=")
        assert other != key
        await ask(client.session, "DELETE", f"/v1/tasks/{other}", None, SECRET)


# --- long waits -------------------------------------------------------------------------------------------------------


async def test_a_long_wait_is_answered_by_a_redirect_to_file_which_does_the_same(
    impatient: System, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    began = time.monotonic()
    async with impatient.client() as client:
        path = f"/v1/create_file/caf%C3%A9%20%3F.txt?task_name=test.gated_file&gate={gate}&secret=123456"
        answers = [await get(client, path, {})]
        while answers[-1].headers["Location"].startswith("/v1/"):
            if len(answers) == 3:
                gate.with_suffix(".1").touch()
            answers.append(await get(client, answers[-1].headers["Location"], {}))
        waits = (time.monotonic() - began) / impatient.config.server.file_wait
        assert 3 <= len(answers) - 1 <= waits + 1, "each but the last has waited"
        assert {answer.status for answer in answers} == {302}
        key = KEY.findall(answers[0].headers["Location"])[0]
        assert {answer.headers["Location"] for answer in answers[:-1]} == {f"/v1/file/caf%C3%A9%20%3F.txt?task={key}"}
        assert {answer.headers["Cache-Control"] for answer in answers[:-1]} == {"no-store"}
        assert answers[-1].headers["Location"] == f"/files/{key}/output.txt"
        assert answers[-1].headers["Cache-Control"] == "private, max-age=3600"


async def test_a_browser_follows_the_redirects_to_the_file(impatient: System, tmp_path: Path) -> None:
    gate = tmp_path / "gate"

    async def redirected(*_: object) -> None:
        gate.with_suffix(".1").touch()

    trace = aiohttp.TraceConfig()
    trace.on_request_redirect.append(redirected)
    async with aiohttp.ClientSession(impatient.url, trace_configs=[trace]) as session:
        path = f"/v1/create_file?task_name=test.gated_file&gate={gate}"
        async with session.get(path, headers=PAGE, max_redirects=100) as response:
            assert (response.status, await response.text()) == (200, "attempt 1")
            assert [one.status for one in response.history] == [302] * len(response.history)
            assert len(response.history) >= 2, "one at least to wait on, and one to the file"


async def test_no_redirect_is_kept_longer_than_its_file(own_system: Any) -> None:
    system: System = own_system(files__life=100)
    system.start_server()
    system.start_worker("--executors", "1")
    async with system.client() as client:
        for _ in range(2):
            answer = await get(client, "/v1/create_file?task_name=test.file")
            found = re.fullmatch(r"private, max-age=(\d+)", answer.headers["Cache-Control"])
            assert found
            assert 80 <= int(found[1]) <= 100
        file = await get(client, answer.headers["Location"])
        assert file.headers["Cache-Control"] == "public, max-age=100, immutable"


# --- /files -----------------------------------------------------------------------------------------------------------


async def make_file(client: Client, **parameters: Any) -> str:
    status = await client.run("test.file", **parameters)
    url: str = status["result"]["output"]
    assert status["result"].keys() == {"output"}
    assert url.startswith(str(client.session._base_url))
    return url.removeprefix(str(client.session._base_url).rstrip("/"))


async def test_a_file_cannot_act_as_the_site_and_is_kept_for_long(client: Client) -> None:
    place = await make_file(client, text="<script>alert(1)</script>", extension=".html")
    answer = await get(client, place, {})
    assert (answer.status, answer.body) == (200, b"<script>alert(1)</script>")
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Content-Security-Policy"].split(";")[0] == "sandbox"
    assert "script" not in answer.headers["Content-Security-Policy"]
    assert answer.headers["Cache-Control"] == "public, max-age=604800, immutable"
    assert answer.headers["Content-Length"] == "25"


@pytest.mark.parametrize(
    ("extension", "content_type"),
    [(".jpg", "image/jpeg"), (".svg", "image/svg+xml"), (".webp", "image/webp"), (".mp4", "video/mp4"),
     (".nonsense", "application/octet-stream")],
)  # fmt: skip
async def test_the_content_type_is_that_of_the_extension(client: Client, extension: str, content_type: str) -> None:
    answer = await get(client, await make_file(client, extension=extension), {})
    assert answer.headers["Content-Type"] == content_type


@pytest.mark.parametrize(
    ("asked", "status", "body", "content_range"),
    [
        ("bytes=0-3", 206, b"0123", "bytes 0-3/10"),
        ("bytes=7-", 206, b"789", "bytes 7-9/10"),
        ("bytes=-2", 206, b"89", "bytes 8-9/10"),
        ("bytes=5-100", 206, b"56789", "bytes 5-9/10"),
        ("bytes=10-", 416, b"", "bytes */10"),
    ],
)
async def test_ranges_are_served(client: Client, asked: str, status: int, body: bytes, content_range: str) -> None:
    place = await make_file(client, text="0123456789")
    async with client.session.get(place, headers={"Range": asked}) as response:
        assert (response.status, response.headers["Content-Range"]) == (status, content_range)
        assert response.headers["Access-Control-Allow-Origin"] == "*"
        if status == 206:
            assert await response.read() == body


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Range": "bytes=10-"}, 416),
        ({"Range": "lines=1-2"}, 416),
        ({"If-Match": '"another"'}, 412),
        ({"If-Unmodified-Since": "Thu, 01 Jan 1970 00:00:00 GMT"}, 412),
    ],
)
async def test_what_cannot_be_sent_of_a_file_is_an_error_in_shape_that_no_cache_keeps(
    client: Client, headers: dict[str, str], status: int
) -> None:
    place = await make_file(client, text="0123456789")
    answer = await get(client, place, headers)  # which looks at the shape
    assert answer.status == status
    assert answer.json["message"].startswith("the file ")
    assert (await ask(client.session, "HEAD", place, None, headers)).body == b""
    assert (await get(client, place)).body == b"0123456789"


async def test_a_file_that_the_browser_has_is_not_sent_again(client: Client) -> None:
    place = await make_file(client, text="0123456789")
    first = await get(client, place, {})
    tag = first.headers["ETag"]
    again = await get(client, place, {"If-None-Match": tag})
    assert (again.status, again.body, again.headers["ETag"]) == (304, b"", tag)
    other = await get(client, place, {"If-None-Match": '"another"'})
    assert (other.status, other.body) == (200, b"0123456789")
    resumed = await get(client, place, {"If-Range": tag, "Range": "bytes=8-"})
    assert (resumed.status, resumed.body) == (206, b"89")


async def test_head_of_a_file_has_the_headers_and_no_body(client: Client) -> None:
    place = await make_file(client, text="0123456789")
    got, headed = await get(client, place, {}), await ask(client.session, "HEAD", place)
    names = ("Content-Type", "Content-Length", "ETag", "Cache-Control", "Content-Security-Policy", "Accept-Ranges")
    assert [got.headers.get(name) for name in names] == [headed.headers.get(name) for name in names]
    assert (headed.status, headed.body) == (200, b"")


async def test_nothing_else_of_the_disk_can_be_had(system: System, client: Client) -> None:
    place = await make_file(client)
    key = place.split("/")[2]
    for path in (
        f"/files/{key}/..", f"/files/{key}/../{key}/output.txt", f"/files/{key}/%2e%2e%2f1%2foutput.txt",
        f"/files/{key}/..%2f..%2f..%2f..%2f..%2fetc%2fpasswd", f"/files/{key}/%2fetc%2fpasswd",
        f"/files/{key}/..%5c..%5cetc", f"/files/{key}/output.txt%00", f"/files/{key}/", f"/files/{key}", "/files/",
        "/files/../conf/accounts.toml", "/files/..%2f..%2fconf/accounts.toml", f"/files/{key.lower()}/output.txt",
        f"/files/{UNKNOWN}/output.txt", f"/files/{key}/{'x' * 300}", f"/files/{key}/1", f"/files//{key}/output.txt",
        f"/files/{key}/output.txt/", f"/files/{key}/1/output.txt", "/files/%2e%2e/%2e%2e", f"/files/{key[:2]}/{key}",
    ):  # fmt: skip
        request = f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        (answer,) = await raw(system, request.encode())
        assert answer.status == 404, path
        assert answer.json["status"] == "error"
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["Access-Control-Allow-Origin"] == "*"
