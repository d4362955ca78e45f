"""Credentials over HTTP: where they may stand, which place wins, what a 401 says, and that no key is ever logged."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

import pytest

from tests.server.talking import UNKNOWN, Answer, ask, check_error_shape, error, raw
from tests.system import SECRET, Client, System, eventually

HELLO = {"task_name": "hello"}
LOCAL = "http://localhost:3000"
CREATING = ["/v1/create", "/v1/create_stream", "/v1/create_file"]
NONE = error(
    "no credentials: send a secret key ('Authorization: Secret KEY', or the parameter 'secret'), "
    "or an api key ('Authorization: Api-Key KEY', or the parameter 'api_key') from a page on the account's whitelist"
)
UNKNOWN_SECRET, UNKNOWN_API_KEY = error("unknown secret key"), error("unknown api key")
NO_PAGE = error(
    "an api key counts only together with the page that sends the request, and there is no Origin or Referer header"
)


async def post(client: Client, path: str, headers: dict[str, str], **members: Any) -> Answer:
    return await ask(
        client.session, "POST", path, {"tasks": HELLO, "task": {"task_name": "test.file"}, **members}, headers
    )


async def image(client: Client, headers: dict[str, str], **query: str) -> Answer:
    parameters = urlencode({"task_name": "test.file", "text": "credentials", **query})
    return await ask(client.session, "GET", f"/v1/create_file/a.txt?{parameters}", None, headers)


@pytest.mark.parametrize("path", CREATING)
@pytest.mark.parametrize(
    "header",
    ["Secret 123456", "secret 123456", "SECRET   123456", "Secret\t123456", "Secret \t 123456  "],
)
async def test_a_secret_key_in_the_header(client: Client, path: str, header: str) -> None:
    assert (await post(client, path, {"Authorization": header})).status in (200, 302)


@pytest.mark.parametrize("path", CREATING)
async def test_credentials_in_the_body(client: Client, path: str) -> None:
    assert (await post(client, path, {}, secret="123456")).status in (200, 302)
    assert (await post(client, path, {"Origin": LOCAL}, api_key="654321")).status in (200, 302)


@pytest.mark.parametrize("name", ["Origin", "Referer", "Referrer"])
@pytest.mark.parametrize("header", ["Api-Key 654321", "api-key \t654321"])
async def test_an_api_key_with_its_page(client: Client, name: str, header: str) -> None:
    for page in ("http://localhost", "https://localhost:8443/deep/page.html?x#y", "http://127.0.0.1:8000"):
        answer = await post(client, "/v1/create", {"Authorization": header, name: page})
        assert answer.status == 200


async def test_credentials_in_the_querystring_of_an_image(client: Client) -> None:
    assert (await image(client, {}, secret="123456")).status == 302
    assert (await image(client, {"Referer": LOCAL}, api_key="654321")).status == 302


@pytest.mark.parametrize("path", CREATING)
async def test_a_querystring_is_no_place_for_the_credentials_of_a_post(client: Client, path: str) -> None:
    answer = await post(client, path + "?secret=123456", {})
    assert (answer.status, answer.json) == (401, NONE)
    answer = await post(client, path + "?api_key=654321", {"Origin": LOCAL})
    assert (answer.status, answer.json) == (401, NONE)


async def test_the_header_wins_over_the_body_and_over_the_querystring(client: Client) -> None:
    wrong, right = {"Authorization": "Secret wrong"}, SECRET
    for answer in (
        await post(client, "/v1/create", wrong, secret="123456"),
        await image(client, wrong, secret="123456"),
    ):
        assert (answer.status, answer.json) == (401, UNKNOWN_SECRET)
    assert (await post(client, "/v1/create", right, secret="wrong", api_key="wrong")).status == 200
    assert (await image(client, right, secret="wrong", api_key="wrong")).status == 302
    answer = await post(client, "/v1/create", {"Authorization": "Api-Key wrong", "Origin": LOCAL}, secret="123456")
    assert (answer.status, answer.json) == (401, UNKNOWN_API_KEY)


async def test_the_body_wins_over_the_querystring(client: Client) -> None:
    assert (await post(client, "/v1/create?secret=wrong", {}, secret="123456")).status == 200
    answer = await post(client, "/v1/create?secret=123456", {}, secret="wrong")
    assert (answer.status, answer.json) == (401, UNKNOWN_SECRET)


@pytest.mark.parametrize("path", CREATING)
async def test_a_401_says_what_failed(client: Client, path: str) -> None:
    api = {"Authorization": "Api-Key 654321"}
    not_listed = "the page {} is not on the account's whitelist"
    for headers, body in (
        ({}, NONE),
        ({"Authorization": "Secret nobody"}, UNKNOWN_SECRET),
        ({"Authorization": "Secret 654321"}, UNKNOWN_SECRET),
        ({"Authorization": "Api-Key 123456", "Origin": LOCAL}, UNKNOWN_API_KEY),
        (api, NO_PAGE),
        (api | {"Origin": "https://evil.net"}, error(not_listed.format("https://evil.net"))),
        (api | {"Origin": "null"}, error(not_listed.format("null"))),
        (api | {"Referer": "https://localhost.evil.net/"}, error(not_listed.format("https://localhost.evil.net"))),
        (api | {"Referer": "https://evil.net/?localhost"}, error(not_listed.format("https://evil.net"))),
        (api | {"Referer": "https://localhost@evil.net/"}, error(not_listed.format("https://evil.net"))),
        (api | {"Origin": "https://evil.net", "Referer": LOCAL}, error(not_listed.format("https://evil.net"))),
        (
            {"Authorization": "Basic MTIzNDU2"},
            error(
                "the Authorization header is not understood: write 'Authorization: Secret KEY' or "
                "'Authorization: Api-Key KEY'"
            ),
        ),
    ):
        answer = await post(client, path, headers)
        assert (answer.status, answer.json) == (401, body)
        check_error_shape(answer.status, answer.json)


async def test_a_null_origin_leaves_the_word_to_the_referer(client: Client) -> None:
    headers = {"Authorization": "Api-Key 654321", "Origin": "null", "Referer": LOCAL}
    assert (await post(client, "/v1/create", headers)).status == 200


@pytest.mark.parametrize("key", [123456, True, [], {}])
async def test_a_key_that_is_no_string_is_a_401(client: Client, key: object) -> None:
    answer = await post(client, "/v1/create", {}, secret=key)
    assert (answer.status, answer.json) == (401, error("'secret' in the body must be a string, in quotes"))


async def test_an_image_without_any_key_belongs_to_the_account_that_allows_the_page(client: Client) -> None:
    for headers in ({"Referer": "http://localhost/album"}, {"Referrer": "http://127.0.0.1/"}, {"Origin": LOCAL}):
        assert (await image(client, headers)).status == 302
    answer = await image(client, {})
    assert (answer.status, answer.json) == (401, NONE)
    answer = await image(client, {"Referer": "https://evil.net/localhost?key=1"})
    assert (answer.status, answer.json) == (
        401,
        error("no credentials, and no account allows images without a key on the page https://evil.net"),
    )


@pytest.mark.parametrize("path", CREATING)
async def test_only_the_get_of_create_file_goes_without_a_key(client: Client, path: str) -> None:
    answer = await post(client, path, {"Referer": "http://localhost/album"})
    assert (answer.status, answer.json) == (401, NONE)


async def test_reading_needs_no_credentials_and_wrong_ones_do_no_harm(client: Client) -> None:
    headers = {"Authorization": "Secret wrong"}
    for path in ("/v1/status", "/v1/status_stream", "/v1/stream"):
        assert (await ask(client.session, "GET", f"{path}?tasks={UNKNOWN}", None, headers)).status == 200
        assert (await ask(client.session, "POST", path, {"tasks": UNKNOWN, "secret": "wrong"})).status == 200
    assert (await ask(client.session, "GET", f"/v1/file?task={UNKNOWN}", None, headers)).status == 404


async def test_no_task_is_created_without_credentials(client: Client) -> None:
    answer = await ask(client.session, "POST", "/v1/create", {"tasks": 3})
    assert answer.status == 401  # who may not create is not told what is wrong with the tasks


async def test_no_key_is_ever_logged_sent_back_or_part_of_a_task(system: System, client: Client) -> None:
    canary = "CANARY7KEY7NEVER7SEEN"
    answers = []
    wrong = ({"Authorization": f"Secret {canary}"}, {"Authorization": f"Api-Key {canary}"}, {"Authorization": canary})
    for headers in wrong:
        answers += [await post(client, path, headers) for path in CREATING]
        answers.append(await image(client, headers))
        answers.append(await ask(client.session, "DELETE", f"/v1/tasks/{UNKNOWN}", None, headers))
    for members in ({"secret": canary}, {"api_key": canary}, {"secret": [canary]}):
        answers += [await post(client, path, {"Origin": LOCAL}, **members) for path in CREATING]
    for name in ("secret", "api_key"):
        answers.append(await image(client, {"Referer": LOCAL}, **{name: canary}))
        answers.append(await image(client, SECRET, **{name: canary}, text=name))
        answers.append(await image(client, SECRET, **{name: canary}, task_name="test.echo"))
    answers.append(await image(client, {"Referer": f"http://evil.net/?key={canary}"}, api_key="654321"))
    answers.append(await ask(client.session, "POST", "/v1/create", f'{{"secret": "{canary}", oops'.encode()))
    head = f"Host: x\r\nConnection: close\r\nAuthorization: Secret {canary}\r\n".encode()
    for request in (
        f"GET /v1/create_file?task_name=test.file&secret={canary}&text=".encode() + b"\xff HTTP/1.1\r\n" + head,
        f"GET /v1/create_file?secret={canary} HTTP/9.9.9\r\n".encode() + head,
        f"G@T /v1/create_file?secret={canary} HTTP/1.1\r\n".encode() + head,
        f"GET http://[{canary}/v1/create_file?secret={canary} HTTP/1.1\r\n".encode() + head,
        f"GET /healthz?secret={canary}{'a' * 70_000} HTTP/1.1\r\n".encode() + head,
        f"GET /healthz HTTP/1.1\r\nX-Long: {canary}{'a' * 20_000}\r\n".encode() + head,
        f"GET /healthz HTTP/1.1\r\nAuthorization Secret {canary}\r\n".encode() + head,
        f"POST /v1/create HTTP/1.1\r\nContent-Length: {canary}\r\n".encode() + head,
        b"POST /v1/create HTTP/1.1\r\nTransfer-Encoding: chunked\r\n" + head + f"\r\n{canary}".encode(),
        b"POST /v1/create HTTP/1.1\r\nContent-Encoding: gzip\r\nContent-Length: 21\r\n"
        + head
        + f"\r\n{canary}".encode(),
        f"PUT /v1/create?secret={canary} HTTP/1.1\r\n".encode() + head,
        f"GET /nowhere?secret={canary} HTTP/1.1\r\n".encode() + head,
    ):
        answers += await raw(system, request + b"\r\n")
    assert len(answers) >= 40
    for answer in answers:
        assert canary not in "".join(f"{name}{value}" for name, value in answer.headers.items())
        assert canary.encode() not in answer.body
    for answer in answers:
        if answer.headers.get("Location", "").startswith("/files/"):
            details = await client.status(answer.headers["Location"].split("/")[2], details=True)
            assert canary not in str(details)
    await eventually(lambda: "a malformed request" in system.processes[0].output)  # so the log is written by now
    assert canary not in system.processes[0].output
    assert canary not in system.processes[1].output
