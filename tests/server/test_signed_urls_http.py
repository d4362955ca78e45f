"""Signed URLs over HTTP: they work without any credentials, and only as they were signed."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import parse_qsl, urlencode, urlsplit

import pytest

from dragon.auth import hash_key
from dragon.signing import sign_url
from tests.server.talking import KEY, Answer, ask, error, normalised
from tests.system import Client, System

REFUSED = error("the signature of this URL is not valid, or its time is over")
CAT = "/v1/create_file/cat.txt?task_name=test.file&text=signed+%C3%A9&seconds=0"


def signed(url: str, *, account: str = "demo", secret: str = "123456", seconds: float = 60) -> str:
    return sign_url(url, account, secret, int(time.time() + seconds))


async def get(client: Client, url: str, headers: dict[str, str] | None = None) -> Answer:
    return await ask(client.session, "GET", url, None, headers)


async def test_a_signed_url_needs_no_credentials_and_no_referrer(client: Client) -> None:
    answer = await get(client, signed(CAT))
    assert (answer.status, normalised(answer.headers["Location"])) == (302, "/files/KEY 1/output.txt")
    assert (await get(client, answer.headers["Location"])).body.decode() == "signed é"


async def test_the_signature_is_no_part_of_the_task(client: Client) -> None:
    answer = await get(client, signed(CAT))
    with_key = await get(client, CAT + "&secret=123456")
    again = await get(client, signed(CAT, seconds=999))
    assert answer.headers["Location"] == with_key.headers["Location"] == again.headers["Location"]
    found = KEY.search(answer.headers["Location"])
    assert found
    status = (await client.status(found[0], details=True))[0]
    assert status["parameters"] == {"text": "signed é", "seconds": 0.0}


async def test_the_parameters_of_a_signed_url_may_come_in_any_order(client: Client) -> None:
    url = signed(CAT)
    parts = urlsplit(url)
    turned = f"{parts.path}?{urlencode(list(reversed(parse_qsl(parts.query))))}"
    assert turned != url
    assert (await get(client, turned)).status == 302


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("text=signed", "text=changed"),
        ("seconds=0", "seconds=1"),
        ("&seconds=0", ""),
        ("task_name=test.file", "task_name=test.echo"),
        ("cat.txt", "dog.txt"),
        ("/cat.txt", ""),
        ("/v1/create_file", "/v1/file"),
        ("account=demo", "account=other"),
        ("&account=demo", ""),
        ("exp=", "exp=9"),
        ("exp=", "exp=0"),
        ("seconds=0", "seconds=0&extension=.html"),
        ("seconds=0", "seconds=0&seconds=0"),
        ("text=", "text=x&text="),
        ("seconds=0", "seconds=0&secret=123456"),
        ("sig=", "sig=A"),
        ("sig=", "sig=x&sig="),
        ("sig=", "sig=%00"),
    ],
)
async def test_any_change_is_a_401(client: Client, old: str, new: str) -> None:
    url = signed(CAT)
    assert old in url
    changed = url.replace(old, new)
    if changed.startswith("/v1/file"):
        changed += "&task=" + "A" * 26
    answer = await get(client, changed)
    assert (answer.status, answer.json, answer.headers["Cache-Control"]) == (401, REFUSED, "no-store")


async def test_a_passed_exp_is_a_401_and_other_credentials_do_not_help(client: Client) -> None:
    url = signed(CAT, seconds=-1)
    for headers in ({}, {"Authorization": "Secret 123456"}, {"Referer": "http://localhost/"}):
        answer = await get(client, url, headers)
        assert (answer.status, answer.json) == (401, REFUSED)


@pytest.mark.parametrize(("account", "secret"), [("demo", "654321"), ("demo", "other"), ("nobody", "123456")])
async def test_another_key_or_account_is_a_401(client: Client, account: str, secret: str) -> None:
    answer = await get(client, signed(CAT, account=account, secret=secret))
    assert (answer.status, answer.json) == (401, REFUSED)


async def test_file_takes_a_signature_too_and_refuses_a_wrong_one(client: Client) -> None:
    key = (await client.run("test.file"))["key"]
    url = signed(f"/v1/file/cat.txt?task={key}")
    assert (await get(client, url)).headers["Location"] == f"/files/{key}/output.txt"
    for wrong in (url.replace("cat.txt", "dog.txt"), url.replace("&sig=", "&sig=x"), url.replace("exp=", "exp=1")):
        answer = await get(client, wrong)
        assert (answer.status, answer.json) == (401, REFUSED)
    assert (await get(client, f"/v1/file/cat.txt?task={key}")).status == 302  # it needs none


async def test_a_wrong_filename_of_a_signed_url_is_still_a_404(client: Client) -> None:
    answer = await get(client, signed("/v1/create_file/medium?task_name=test.two_files"))
    assert (answer.status, answer.json) == (
        404,
        error("'medium' is not a valid filename, choose one of: 'small', 'large'"),
    )


async def test_both_active_keys_sign_and_a_removed_one_does_no_more(
    own_system: Callable[..., System], tmp_path: Path
) -> None:
    accounts = tmp_path / "accounts.toml"
    accounts.write_text(f"[shop]\nsecrets = [{hash_key('old')!r}, {hash_key('new')!r}]\n")
    system = own_system(accounts=accounts)
    system.start_server()
    async with system.client() as client:
        # hello has no output file: its 404 is the answer to those who may create
        url = "/v1/create_file?task_name=hello"
        found = [(await get(client, signed(url, account="shop", secret=key))).status for key in ("old", "new", "gone")]
        assert found == [404, 404, 401]
