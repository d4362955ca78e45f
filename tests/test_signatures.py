"""Signed URLs: what is accepted is exactly what was signed, until its time is over."""

from __future__ import annotations

import base64
import hashlib
import hmac
import string
import time
from pathlib import Path
from typing import Literal

import pytest
from aiohttp import web
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from pytest_aiohttp.plugin import AiohttpClient
from yarl import URL

from dragon.auth import Account, Accounts, hash_key
from dragon.errors import BadRequest, Unauthorized
from dragon.signing import is_signed, sign, sign_url

NOW = 1_800_000_000
EXPIRES = NOW + 60
CAT = "/v1/create_file/cat.jpg?task_name=image.thumb&url=https%3A%2F%2Fa.example%2Fc.jpg&width=200&tag=b&tag=a"
MESSAGE = "the signature of this URL is not valid, or its time is over"

# The machine may be busy: how long an example takes says nothing.
UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

Purpose = Literal["create_file", "file"]
Request = tuple[Purpose, str | None, list[tuple[str, str]]]


@pytest.fixture(scope="module")
def accounts(tmp_path_factory: pytest.TempPathFactory) -> Accounts:
    path: Path = tmp_path_factory.mktemp("accounts") / "accounts.toml"
    path.write_text(
        f"[shop]\nsecrets = {[hash_key('shop-old'), hash_key('shop-new')]}\napi_keys = {[hash_key('shop-api')]}\n"
        f"[blog]\nsecrets = {[hash_key('blog-secret')]}\n[closed]\n",
        "utf-8",
    )
    return Accounts(path)


def read(url: str) -> Request | None:
    """A URL as the server reads it (a test below says so); None when it leads to neither path."""
    parsed = URL(url)
    match parsed.path_safe.split("/"):
        case ["", "v1", "create_file" | "file" as purpose, *rest] if len(rest) < 2:
            filename = rest[0].replace("%2F", "/").replace("%25", "%") if rest else None
            return purpose, filename, list(parsed.query.items())
    return None


def verify(accounts: Accounts, url: str, now: float = NOW) -> Account:
    request = read(url)
    assert request is not None
    return accounts.verify_signature(*request, now=now)


def is_refused(accounts: Accounts, request: Request, now: float = NOW) -> bool:
    try:
        accounts.verify_signature(*request, now=now)
    except Unauthorized as error:
        assert error.message == MESSAGE
        return True
    return False


def meaning(request: Request) -> tuple[Purpose, str | None, dict[str, list[str]]]:
    """What a request means: the order of different names says nothing, that of one name's values does."""
    purpose, filename, pairs = request
    values: dict[str, list[str]] = {}
    for name, value in pairs:
        values.setdefault(name, []).append(value)
    return purpose, filename, values


SIGNED = sign_url(CAT, "shop", "shop-new", EXPIRES)

SIGNABLE = [
    CAT,
    "/v1/create_file?task_name=hello",
    "/v1/create_file/cat.jpg",
    "/v1/create_file/?task_name=hello",
    "/v1/file/cat.jpg?task=5OYA5JQVFIAHYOMLQG5QV3U33M",
    "/v1/file?task=5OYA5JQVFIAHYOMLQG5QV3U33M",
    "https://dragon.example:8000/v1/create_file/cat.jpg?task_name=a+b&empty=&bare",
    "https://[::1]:8000/v1/create_file/cat.jpg?x=%2B%26%3D%25&y=a;b",
    "/v1/create_file/große katze%20%28%26%29%2Fa+b%3F.jpg?name=ü&name=%C3%BC&x=%f0%9f%90%89#top",
    "/v1/create_file/100%.jpg?x=100%",
]


class TestSigning:
    def test_a_signed_url_is_the_url_with_account_exp_and_sig_behind(self) -> None:
        assert SIGNED.startswith(CAT.replace("+", "%20") + f"&account=shop&exp={EXPIRES}&sig=")
        assert len(SIGNED.rpartition("sig=")[2]) == 43

    def test_the_signature_is_what_the_definition_says_computed_by_hand(self) -> None:
        key = hmac.new(hashlib.sha256(b"s3cret").digest(), b"dragon url signing v1", hashlib.sha256).digest()
        message = '["create_file",null,[["account","shop"],["exp","99"],["q","ü\\""],["z","2"],["z","1"]]]'
        digest = hmac.new(key, message.encode("utf-8"), hashlib.sha256).digest()
        expected = base64.urlsafe_b64encode(digest).decode().rstrip("=")
        signed = sign("create_file", None, [("z", "2"), ("q", 'ü"'), ("z", "1")], "shop", "s3cret", 99)
        assert signed == [("z", "2"), ("q", 'ü"'), ("z", "1"), ("account", "shop"), ("exp", "99"), ("sig", expected)]

    @pytest.mark.parametrize("url", SIGNABLE)
    def test_what_is_signed_is_accepted_as_the_server_reads_it(self, accounts: Accounts, url: str) -> None:
        signed = sign_url(url, "shop", "shop-new", EXPIRES)
        assert verify(accounts, signed).id == "shop"
        before, after = read(url), read(signed)
        assert before is not None
        assert after is not None
        assert after[:2] == before[:2]
        assert after[2][:-3] == before[2]
        assert URL(signed).origin() == URL(url).origin() if "://" in url else signed.startswith("/v1/")

    @pytest.mark.parametrize("url", [url for url in SIGNABLE if url.startswith("/") and "file/?" not in url])
    async def test_these_tests_read_a_url_as_aiohttp_does(self, aiohttp_client: AiohttpClient, url: str) -> None:
        seen: list[Request] = []

        async def handler(request: web.Request) -> web.Response:
            purpose: Purpose = "file" if "/file" in request.path else "create_file"
            seen.append((purpose, request.match_info.get("filename"), list(request.query.items())))
            return web.Response()

        app = web.Application()
        for path in ("/v1/create_file", "/v1/create_file/{filename}", "/v1/file", "/v1/file/{filename}"):
            app.router.add_get(path, handler)
        signed = sign_url(url, "shop", "shop-new", EXPIRES)
        response = await (await aiohttp_client(app)).get(URL(signed, encoded=True))
        assert response.status == 200
        assert seen == [read(signed)]

    def test_a_server_behind_a_path_prefix_verifies_without_knowing_it(self, accounts: Accounts) -> None:
        signed = sign_url("https://a.example/dragon" + CAT, "shop", "shop-new", EXPIRES)
        assert verify(accounts, signed.replace("/dragon/", "/")).id == "shop"

    @pytest.mark.parametrize(
        ("url", "reason"),
        [
            ("/v1/create_file?secret=123456", "there is a key in it ('secret')"),
            ("/v1/create_file?api_key=654321", "there is a key in it ('api_key')"),
            ("/v1/create_file?a=1&secret", "there is a key in it ('secret')"),
            (SIGNED, "signed already"),
            ("/v1/create_file?exp=1", "signed already"),
            ("/v1/create_file?account=shop", "signed already"),
            ("/v1/create", "only /v1/create_file and /v1/file"),
            ("/v1/create_files", "only /v1/create_file and /v1/file"),
            ("/v1/create_file/a/b", "only /v1/create_file and /v1/file"),
            ("create_file", "only /v1/create_file and /v1/file"),
            ("", "only /v1/create_file and /v1/file"),
            ("https://[bad/v1/file", "Invalid IPv6 URL"),
            ("/v1/file?x=%ff", "not UTF-8"),
            ("/v1/file/%ff.jpg", "not UTF-8"),
            ("/v1/file/\udcff.jpg", "not UTF-8"),
            ("/v1/file?x=\udcff", "not UTF-8"),
        ],
    )
    def test_what_cannot_be_signed_is_refused_with_the_reason(self, url: str, reason: str) -> None:
        with pytest.raises(BadRequest) as raised:
            sign_url(url, "shop", "shop-new", EXPIRES)
        assert reason in raised.value.message
        assert "123456" not in raised.value.message

    @pytest.mark.parametrize(
        ("account", "secret", "expires"),
        [
            ("My Shop", "s", 1),
            ("", "s", 1),
            ("shop", "", 1),
            ("shop", "s", 0),
            ("shop", "s", -1),
            ("shop", "s", 10**16),
        ],
    )
    def test_a_bad_account_secret_or_time_is_refused(self, account: str, secret: str, expires: int) -> None:
        with pytest.raises(BadRequest):
            sign("file", None, [], account, secret, expires)

    def test_a_querystring_claims_a_signature_by_its_sig(self) -> None:
        assert is_signed([("a", "1"), ("sig", "")])
        assert not is_signed([("a", "sig"), ("account", "shop"), ("exp", "1")])


class TestVerifying:
    def test_a_url_works_until_its_time_is_over_and_not_at_that_second(self, accounts: Accounts) -> None:
        assert verify(accounts, SIGNED, EXPIRES - 0.001).id == "shop"
        for now in (EXPIRES, EXPIRES + 1, EXPIRES + 10**9):
            with pytest.raises(Unauthorized, match=MESSAGE):
                verify(accounts, SIGNED, now)

    def test_without_a_given_time_the_clock_decides(self, accounts: Accounts) -> None:
        soon, past = int(time.time()) + 1000, int(time.time()) - 1
        good = sign("file", "a", [], "shop", "shop-new", soon)
        late = sign("file", "a", [], "shop", "shop-new", past)
        assert accounts.verify_signature("file", "a", good).id == "shop"
        with pytest.raises(Unauthorized):
            accounts.verify_signature("file", "a", late)

    def test_each_of_two_secret_keys_signs(self, accounts: Accounts) -> None:
        for secret in ("shop-old", "shop-new"):
            assert verify(accounts, sign_url(CAT, "shop", secret, EXPIRES)).id == "shop"

    @pytest.mark.parametrize(
        ("account", "secret"),
        [
            ("shop", "wrong"),
            ("shop", "blog-secret"),
            ("shop", "shop-api"),
            ("shop", hash_key("shop-new")),
            ("blog", "shop-new"),
            ("closed", "shop-new"),
            ("nobody", "shop-new"),
        ],
    )
    def test_a_key_that_is_not_a_secret_key_of_this_account_signs_nothing(
        self, accounts: Accounts, account: str, secret: str
    ) -> None:
        request = read(sign_url(CAT, account, secret, EXPIRES))
        assert request is not None
        assert is_refused(accounts, request)

    def test_parameters_may_come_in_another_order_but_the_values_of_one_name_may_not(self, accounts: Accounts) -> None:
        pairs = sign("create_file", None, [("a", "1"), ("t", "x"), ("t", "y")], "shop", "shop-new", EXPIRES)
        moved = [pairs[5], pairs[1], pairs[4], pairs[2], pairs[0], pairs[3]]
        swapped = [pairs[0], pairs[2], pairs[1], *pairs[3:]]
        assert sorted(moved) == sorted(swapped) == sorted(pairs)
        assert accounts.verify_signature("create_file", None, moved, now=NOW).id == "shop"
        assert is_refused(accounts, ("create_file", None, swapped))

    def test_another_purpose_or_filename_is_refused_and_no_filename_is_not_an_empty_one(
        self, accounts: Accounts
    ) -> None:
        files: list[tuple[Purpose, str | None]] = [
            (purpose, filename)
            for purpose in ("create_file", "file")
            for filename in (None, "", "null", "cat.jpg", "cat.jpg ", "Cat.jpg", "cat.jpg/")
        ]
        for signed_for in files:
            pairs = sign(*signed_for, [("a", "1")], "shop", "shop-new", EXPIRES)
            accepted = [file for file in files if not is_refused(accounts, (*file, pairs))]
            assert accepted == [signed_for]

    def test_the_borders_between_names_values_and_filename_cannot_be_moved(self, accounts: Accounts) -> None:
        pairs = sign("create_file", 'a","b', [("x", 'y"],["z","1')], "shop", "shop-new", EXPIRES)
        tail = pairs[1:]
        assert not is_refused(accounts, ("create_file", 'a","b', pairs))
        for filename, head in [
            ("a", [("b", ""), ("x", 'y"],["z","1')]),
            ('a","b', [("x", "y"), ("z", "1")]),
            ('a","b', [('x","y"],["z', "1")]),
            ('a","b', [("xy", '"],["z","1')]),
        ]:
            assert is_refused(accounts, ("create_file", filename, [*head, *tail]))

    @pytest.mark.parametrize("index", range(8))
    def test_a_parameter_that_is_repeated_removed_renamed_or_changed_is_refused(
        self, accounts: Accounts, index: int
    ) -> None:
        request = read(SIGNED)
        assert request is not None
        purpose, filename, pairs = request
        assert not is_refused(accounts, request)
        assert len(pairs) == 8
        name, value = pairs[index]
        before, after = pairs[:index], pairs[index + 1 :]
        for changed in (
            [*pairs, (name, value)],
            [(name, value), *pairs],
            [*pairs, (name, "")],
            [*before, *after],
            [*before, (name.upper(), value), *after],
            [*before, (name, ""), *after],
            [*before, (name, value + " "), *after],
            [*before, (name, value + "\udcff"), *after],
            [*pairs, ("extra", "")],
        ):
            assert is_refused(accounts, (purpose, filename, changed))

    @pytest.mark.parametrize(
        "exp", ["", " 1", "+1", "-1", "1.5", "1e9", "0x1", "١", "1_0", "9" * 17, "9" * 5000, "now"]
    )
    def test_an_exp_that_is_no_plain_number_is_refused_even_when_it_is_signed(
        self, accounts: Accounts, exp: str
    ) -> None:
        assert not is_refused(accounts, ("file", None, self._signed_by_hand("9" * 16)))
        assert is_refused(accounts, ("file", None, self._signed_by_hand(exp)), now=-10)

    @staticmethod
    def _signed_by_hand(exp: str) -> list[tuple[str, str]]:
        key = hmac.digest(hashlib.sha256(b"shop-new").digest(), b"dragon url signing v1", "sha256")
        message = f'["file",null,[["account","shop"],["exp","{exp}"]]]'.encode()
        sig = base64.urlsafe_b64encode(hmac.digest(key, message, "sha256")).decode().rstrip("=")
        return [("account", "shop"), ("exp", exp), ("sig", sig)]

    def test_of_all_last_characters_one_is_accepted_though_others_decode_to_the_same_bytes(
        self, accounts: Accounts
    ) -> None:
        sig = SIGNED.rpartition("=")[2]
        same_bytes, accepted = [], []
        for character in string.ascii_letters + string.digits + "-_":
            other = sig[:-1] + character
            if base64.urlsafe_b64decode(other + "=") == base64.urlsafe_b64decode(sig + "="):
                same_bytes.append(other)
            request = read(SIGNED.removesuffix(sig) + other)
            assert request is not None
            if not is_refused(accounts, request):
                accepted.append(other)
        assert len(same_bytes) == 4
        assert accepted == [sig]

    @pytest.mark.parametrize(
        "spoil",
        [
            lambda sig: sig + "=",
            lambda sig: sig + "\n",
            lambda sig: " " + sig,
            lambda sig: sig[:-1],
            lambda sig: "",
            lambda sig: sig.swapcase(),
            lambda sig: sig + sig,
            lambda sig: sig + "\x00",
            lambda sig: sig + "ü\ud800",
            lambda sig: base64.urlsafe_b64decode(sig + "=").hex(),
            lambda sig: "A" * 43,
        ],
    )
    def test_a_signature_in_any_other_spelling_is_refused(self, accounts: Accounts, spoil: object) -> None:
        assert callable(spoil)
        pairs = sign("file", "a", [], "shop", "shop-new", EXPIRES)
        assert not is_refused(accounts, ("file", "a", pairs))
        assert is_refused(accounts, ("file", "a", [*pairs[:-1], ("sig", spoil(pairs[-1][1]))]))

    def test_each_key_is_compared_wherever_the_right_one_stands(
        self, accounts: Accounts, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        calls: list[bytes] = []
        compare = hmac.compare_digest

        def counted(left: bytes, right: bytes) -> bool:
            calls.append(right)
            return compare(left, right)

        monkeypatch.setattr(hmac, "compare_digest", counted)
        for secret in ("shop-old", "shop-new"):
            calls.clear()
            accounts.verify_signature("file", None, sign("file", None, [], "shop", secret, EXPIRES), now=NOW)
            assert len(set(calls)) == 2


class TestMutations:
    """No change of a signed URL is accepted, unless it is only another spelling of the very same request."""

    @settings(UNHURRIED, max_examples=500)
    @given(
        st.integers(0, len(SIGNED)),
        st.integers(0, 3),
        st.text(
            st.sampled_from(string.printable.replace("\t", "").replace("\n", "").replace("\r", "") + "ü\x00"),
            max_size=3,
        ),
    )
    def test_characters_that_are_replaced_inserted_or_deleted(
        self, accounts: Accounts, position: int, deleted: int, inserted: str
    ) -> None:
        mutated = SIGNED[:position] + inserted + SIGNED[position + deleted :]
        self._check(accounts, mutated)

    @settings(UNHURRIED, max_examples=200)
    @given(st.data())
    def test_parameters_that_are_moved_doubled_dropped_or_swapped(
        self, accounts: Accounts, data: st.DataObject
    ) -> None:
        parts = SIGNED.partition("?")[2].split("&")
        chosen = data.draw(st.lists(st.sampled_from(parts), min_size=5, max_size=10))
        self._check(accounts, f"{SIGNED.partition('?')[0]}?{'&'.join(chosen)}")

    @UNHURRIED
    @given(st.permutations(SIGNED.partition("?")[2].split("&")))
    def test_any_order_is_accepted_that_keeps_the_values_of_each_name_in_order(
        self, accounts: Accounts, parts: list[str]
    ) -> None:
        assume(parts.index("tag=b") < parts.index("tag=a"))
        assert verify(accounts, f"{SIGNED.partition('?')[0]}?{'&'.join(parts)}").id == "shop"

    text = st.text(st.characters(codec="utf-8"), max_size=8)
    pairs = st.lists(st.tuples(text, text), max_size=4)

    @UNHURRIED
    @given(st.one_of(st.none(), text), pairs, st.one_of(st.none(), text), pairs)
    def test_a_signature_for_one_request_never_serves_another(
        self,
        accounts: Accounts,
        filename: str | None,
        parameters: list[tuple[str, str]],
        other_filename: str | None,
        other_parameters: list[tuple[str, str]],
    ) -> None:
        reserved = {"account", "exp", "sig", "secret", "api_key"}
        assume(not reserved & {name for name, _ in parameters + other_parameters})
        signed = sign("create_file", filename, parameters, "shop", "shop-new", EXPIRES)
        original: Request = ("create_file", filename, signed)
        other: Request = ("create_file", other_filename, other_parameters + signed[-3:])
        assert not is_refused(accounts, original)
        assert is_refused(accounts, other) is (meaning(other) != meaning(original))

    @staticmethod
    def _check(accounts: Accounts, mutated: str) -> None:
        try:
            request = read(mutated)
        except ValueError:
            return  # yarl refuses it, so aiohttp does
        original = read(SIGNED)
        assert original is not None
        if request is not None:
            assert is_refused(accounts, request) is (meaning(request) != meaning(original))
