"""Who sent a request: reading credentials, the whitelist of pages, the accounts file, reloading, the demo account."""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import re
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from multidict import CIMultiDict

from dragon.auth import (
    Account,
    Accounts,
    Credentials,
    Limits,
    check_loopback,
    hash_key,
    read_credentials,
)
from dragon.config import ROOT, Config, ServerConfig
from dragon.errors import ConfigError, Unauthorized
from dragon.referrers import parse_page, parse_referrer, shown_page

EXAMPLE_PAGE = "https://example.com/gallery?x=1"

# The machine may be busy: how long an example takes says nothing.
UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

# Entry of the whitelist, page as received, whether it is on it.
WHITELIST: list[tuple[str, str, bool]] = [
    # the host alone: any port, http and https, any path
    ("example.com", "https://example.com", True),
    ("example.com", "http://example.com", True),
    ("example.com", "https://example.com/", True),
    ("example.com", "https://example.com/a/b?c=d#e", True),
    ("example.com", "https://example.com?c=d", True),
    ("example.com", "https://example.com#e", True),
    ("example.com", "https://example.com:8443/", True),
    ("example.com", "https://example.com:/", True),
    ("example.com", "HTTPS://EXAMPLE.COM/", True),
    ("EXAMPLE.com", "https://example.com/", True),
    ("example.com", "https://example.com./", True),
    ("example.com.", "https://example.com/", True),
    ("example.com", "https://user:password@example.com/", True),
    ("example.com", "https://evil.net@example.com/", True),
    ("localhost", "http://localhost:3000/page", True),
    ("my_host", "http://my_host/", True),
    # strangers that look alike
    ("example.com", "https://example.com.evil.net/", False),
    ("example.com", "https://example.com.evil.net", False),
    ("example.com", "https://evil.net/?example.com", False),
    ("example.com", "https://evil.net?example.com", False),
    ("example.com", "https://evil.net/example.com", False),
    ("example.com", "https://evil.net/https://example.com/", False),
    ("example.com", "https://evil.net#example.com", False),
    ("example.com", "https://evil.net/#@example.com/", False),
    ("example.com", "https://evil.net?@example.com/", False),
    ("example.com", "https://example.com@evil.net/", False),
    ("example.com", "https://example.com:443@evil.net/", False),
    ("example.com", "https://example.com:pass@evil.net:443/", False),
    ("example.com", "https://a@example.com@evil.net/", False),
    ("example.com", "https://evil.net@@example.com/", False),
    ("example.com", "https://evil.net\\@example.com/", False),
    ("example.com", "https://evil.net\\.example.com/", False),
    ("example.com", "https:\\\\example.com/", False),
    ("example.com", "https://evilexample.com/", False),
    ("example.com", "https://evil-example.com/", False),
    ("example.com", "https://www.example.com/", False),
    ("example.com", "https://example.co/", False),
    ("example.com", "https://example.com.au/", False),
    ("example.com", "https://com/", False),
    ("example.com", "https://examplexcom/", False),
    ("example.com", "https://example.com%2eevil.net/", False),
    ("example.com", "https://ex%61mple.com/", False),
    ("example.com", "https://example.com%00.evil.net/", False),
    ("example.com", "https://example.com\x00.evil.net/", False),
    ("example.com", "https://example.com\t/", False),
    ("example.com", "https://exa\nmple.com/", False),
    ("example.com", "https://evil.net /example.com", False),
    ("example.com", "https://example.com../", False),
    ("example.com", "https://.example.com/", False),
    ("example.com", "https://example..com/", False),
    ("example.com", "https://[example.com]/", False),
    # malformed
    ("example.com", "null", False),
    ("example.com", "", False),
    ("example.com", "example.com", False),
    ("example.com", "//example.com/", False),
    ("example.com", "https:example.com", False),
    ("example.com", "https:/example.com", False),
    ("example.com", "https:///example.com/", False),
    ("example.com", "://example.com/", False),
    ("example.com", " https://example.com/", False),
    ("example.com", "https://example.com:0/", False),
    ("example.com", "https://example.com:65536/", False),
    ("example.com", "https://example.com:" + "4" * 5000 + "/", False),
    ("example.com", "https://example.com:80a/", False),
    ("example.com", "https://example.com:80:80/", False),
    ("example.com", "https://example.com:-80/", False),
    ("example.com", "https://example.com:٨٠/", False),
    ("example.com", "https://example.com https://example.com", False),
    ("example.com", "https://example.com,https://evil.net", False),
    ("*.example.com", "https://" + "a" * 63 + ".example.com/", True),
    ("*.example.com", "https://" + "a" * 64 + ".example.com/", False),
    ("*.example.com", "https://" + "a." * 120 + "example.com/", True),  # 251 characters
    ("*.example.com", "https://" + "a." * 121 + "b.example.com/", False),  # 255
    ("*.example.com", "https://" + "a." * 121 + "example.com./", True),  # 253 and the trailing dot
    ("*.example.com", "https://" + "a." * 121 + "bexample.com", False),
    ("*.example.com", "https://" + "aa." * 81 + "example.com", False),  # 254
    ("example.com", "https://example.com/a b", False),
    ("example.com", "https://example.com/a\r\nb", False),
    ("example.com", "https://us er@example.com/", False),
    ("example.com", "https://example.com/" + "a" * 9000, False),
    ("localhost", "file:///localhost", False),
    ("example.com", "data:text/html,https://example.com/", False),
    ("example.com", "about:blank", False),
    # an entry without a scheme means the web
    ("example.com", "android-app://example.com/", False),
    ("localhost", "capacitor://localhost", False),
    ("capacitor://localhost", "capacitor://localhost", True),
    ("chrome-extension://abcdefgh", "chrome-extension://abcdefgh", True),
    ("chrome-extension://abcdefgh", "chrome-extension://abcdefgi", False),
    # the scheme, when the entry has one
    ("https://example.com", "https://example.com/", True),
    ("https://example.com", "https://example.com:8443/", True),
    ("HTTPS://example.com", "https://example.com/", True),
    ("https://example.com", "http://example.com/", False),
    ("http://example.com", "https://example.com/", False),
    ("https://example.com", "https://example.com.evil.net/", False),
    # the port, when the entry has one
    ("example.com:8000", "http://example.com:8000/", True),
    ("example.com:8000", "https://example.com:8000/", True),
    ("example.com:8000", "https://example.com:08000/", True),
    ("example.com:8000", "http://example.com/", False),
    ("example.com:8000", "http://example.com:80001/", False),
    ("example.com:8000", "http://example.com:800/", False),
    ("example.com:8000", "http://example.com:00000080000/", False),
    ("example.com:443", "https://example.com/", True),
    ("example.com:443", "http://example.com/", False),
    ("example.com:443", "http://example.com:443/", True),
    ("example.com:80", "http://example.com/", True),
    ("example.com:80", "https://example.com/", False),
    ("https://example.com:443", "https://example.com/", True),
    ("https://example.com:443", "https://example.com:443/", True),
    ("https://example.com:443", "https://example.com:444/", False),
    ("https://example.com:8443", "http://example.com:8443/", False),
    ("https://example.com:8443", "https://example.com:8443/", True),
    ("localhost:3000", "http://localhost:3001/", False),
    # subdomains
    ("*.example.com", "https://www.example.com/", True),
    ("*.example.com", "https://a.b.c.example.com/", True),
    ("*.EXAMPLE.com", "https://WWW.example.COM/", True),
    ("*.example.com", "https://www.example.com./", True),
    ("*.example.com", "https://example.com/", False),
    ("*.example.com", "https://.example.com/", False),
    ("*.example.com", "https://evilexample.com/", False),
    ("*.example.com", "https://www.example.com.evil.net/", False),
    ("*.example.com", "https://www.example.com@evil.net/", False),
    ("*.example.com", "https://evil.net/www.example.com", False),
    ("*.example.com", "https://*.example.com/", False),
    ("https://*.example.com", "http://www.example.com/", False),
    ("https://*.example.com", "https://www.example.com/", True),
    ("*.example.com:8000", "https://www.example.com:8000/", True),
    ("*.example.com:8000", "https://www.example.com/", False),
    # international names, in either spelling on either side
    ("münchen.example", "https://xn--mnchen-3ya.example/", True),
    ("xn--mnchen-3ya.example", "https://münchen.example/", True),
    ("MÜNCHEN.example", "https://münchen.example/", True),
    ("mu\u0308nchen.example", "https://münchen.example/", True),
    ("münchen.example", "https://munchen.example/", False),
    ("*.münchen.example", "https://www.xn--mnchen-3ya.example/", True),
    ("straße.example", "https://xn--strae-oqa.example/", True),
    ("straße.example", "https://strasse.example/", False),
    ("example.com", "https://еxample.com/", False),  # a Cyrillic е
    ("example.com", "https://example。com/", True),  # browsers go to example.com
    ("example.com", "https://ｅxample.com/", True),
    ("example.com", "https://example.com℀.evil.net/", False),
    ("example.com", "https://example.com／.evil.net/", False),
    ("example.com", "https://example.com\udcff/", False),
    # addresses
    ("127.0.0.1", "http://127.0.0.1:5500/", True),
    ("127.0.0.1", "http://127.0.0.1.evil.net/", False),
    ("127.0.0.1", "http://127.0.0.10/", False),
    ("127.0.0.1", "http://127.1/", False),
    ("127.0.0.1", "http://2130706433/", False),
    ("127.0.0.1", "http://0x7f000001/", False),
    ("127.0.0.1", "http://127.0.0.01/", False),
    ("127.0.0.1", "http://localhost/", False),
    ("[::1]", "http://[::1]/", True),
    ("[::1]", "http://[::1]:8000/", True),
    ("[::1]:8000", "http://[::1]:8000/", True),
    ("[::1]:8000", "http://[::1]:8001/", False),
    ("[::1]", "http://[0:0:0:0:0:0:0:1]/", True),
    ("[2001:DB8::1]", "http://[2001:db8:0::1]/", True),
    ("http://[::1]", "http://[::1]/", True),
    ("http://[::1]", "https://[::1]/", False),
    ("[::1]", "http://[::2]/", False),
    ("[::1]", "http://::1/", False),
    ("[::1]", "http://[::1%25eth0]/", False),
    ("[::1]", "http://[::1].evil.net/", False),
    ("[::1]", "http://[::1]evil.net/", False),
    ("[::1]", "http://[::1]@evil.net/", False),
    ("[::1]", "http://[::1/", False),
    ("127.0.0.1", "http://[::ffff:127.0.0.1]/", False),
]

MALFORMED_ENTRIES = [
    "",
    " ",
    "*",
    "*.",
    "**.example.com",
    "*example.com",
    "www.*.com",
    "*.*.com",
    "*.127.0.0.1",
    "*.[::1]",
    "example.com/",
    "https://example.com/path",
    "example.com?x",
    "user@example.com",
    "https://",
    "://example.com",
    "example.com:",
    "example.com:0",
    "example.com:65536",
    "example.com:http",
    "example.com:8000:8000",
    "::1",
    "[::1",
    "[::1%25eth0]",
    "[zz]",
    "127.1",
    "1.2.3.4.5",
    "example..com",
    ".example.com",
    "example .com",
    "example.com\n",
    "ex%61mple.com",
    "a" * 64 + ".com",
    "null://",
]


def is_whitelisted(entry: str, page: str) -> bool:
    return Account("a", referrers=(parse_referrer(entry),)).whitelists(page)


def write(path: Path, text: str) -> Path:
    path.write_text(text, "utf-8")
    return path


def table(name: str, secret: str = "", api_key: str = "", *lines: str) -> str:
    secrets = [hash_key(secret)] if secret else []
    api_keys = [hash_key(api_key)] if api_key else []
    return "\n".join([f"[{name}]", f"secrets = {secrets}", f"api_keys = {api_keys}", *lines]) + "\n\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    text = table("shop", "shop-secret", "shop-api", 'referrers = ["example.com"]')
    text += table("blog", "blog-secret", "blog-api", 'referrers = ["*.blog.example"]', "limits.tasks_queued = 7")
    return write(tmp_path / "accounts.toml", text)


@pytest.fixture
def accounts(path: Path) -> Accounts:
    return Accounts(path)


def refusal(accounts: Accounts, credentials: Credentials) -> str:
    with pytest.raises(Unauthorized) as raised:
        accounts.authenticate(credentials)
    assert raised.value.http_status == 401
    return raised.value.message


class TestWhitelist:
    @pytest.mark.parametrize(("entry", "page", "expected"), WHITELIST)
    def test_a_page_is_on_the_whitelist_only_by_its_parsed_host_port_and_scheme(
        self, entry: str, page: str, expected: bool
    ) -> None:
        assert is_whitelisted(entry, page) is expected

    def test_no_page_is_on_no_whitelist(self) -> None:
        assert Account("a", referrers=(parse_referrer("example.com"),)).whitelists(None) is False

    def test_an_account_without_referrers_whitelists_no_page(self) -> None:
        assert Account("a").whitelists(EXAMPLE_PAGE) is False

    @pytest.mark.parametrize("entry", MALFORMED_ENTRIES)
    def test_a_malformed_entry_stops_the_start_and_names_account_and_entry(self, tmp_path: Path, entry: str) -> None:
        escaped = entry.replace("\n", "\\n")
        path = write(tmp_path / "accounts.toml", f'[shop]\nreferrers = ["good.example", "{escaped}"]\n')
        with pytest.raises(ConfigError) as raised:
            Accounts(path)
        assert "'shop'" in raised.value.message
        assert f"{entry!r} names no pages" in raised.value.message
        assert str(path) in raised.value.message

    @UNHURRIED
    @given(st.text(st.characters(codec="utf-8"), max_size=40))
    def test_a_stranger_s_text_around_the_host_never_makes_it_a_match(self, noise: str) -> None:
        for page in (
            f"https://evil.net/{noise}example.com",
            f"https://evil.net?{noise}@example.com",
            f"https://evil.net#{noise}@example.com/",
            f"https://evil.net\\{noise}@example.com/",
            # Here / ? # would end the host, and rightly so.
            f"https://example.com{re.sub('[/?#]', '', noise)}@evil.net/",
            f"https://example.com{re.sub('[/?#]', '', noise)}.evil.net/",
        ):
            assert not is_whitelisted("example.com", page)
            assert not is_whitelisted("*.example.com", page)

    @UNHURRIED
    @given(
        st.from_regex(r"[a-z0-9._-]{1,30}", fullmatch=True), st.sampled_from([".net", ".com.net", "x", "-", "_", "0"])
    )
    @example("", ".evil.net")
    def test_a_host_that_only_begins_or_ends_alike_is_a_stranger(self, prefix: str, suffix: str) -> None:
        assert not is_whitelisted("example.com", f"https://example.com{suffix}/")
        assert not is_whitelisted("*.example.com", f"https://{prefix}example.com{suffix}/")
        assert not is_whitelisted("example.com", f"https://{prefix or 'x'}example.com/")

    # Pieces of URLs in any order: what our parser takes, another one must read as the same host.
    @UNHURRIED
    @given(
        st.lists(
            st.sampled_from(
                [
                    "https://",
                    "http://",
                    "example.com",
                    "evil.net",
                    "www.",
                    "%2e",
                    "%40",
                    "::1",
                    "8000",
                    "//",
                    *"@:/\\?#.[]\t",
                ]
            ),
            max_size=8,
        ).map("".join)
    )
    @example("https://example.com/")
    @example("https://www.example.com:8000/evil.net")
    def test_whatever_matches_is_a_url_whose_host_another_parser_reads_alike(self, page: str) -> None:
        for entry, end in (("example.com", "example.com"), ("*.example.com", ".example.com")):
            if is_whitelisted(entry, page):
                host = (urlsplit(page).hostname or "").removesuffix(".")
                assert host == end or (end.startswith(".") and host.endswith(end))
                assert "\\" not in urlsplit(page).netloc

    @UNHURRIED
    @given(st.text(st.characters()))
    def test_no_text_at_all_makes_the_parsers_stumble(self, text: str) -> None:
        page = parse_page(text)
        assert page is None or parse_page(str(page)) == page
        assert len(shown_page(text)) <= 103
        assert shown_page(text).isprintable()


class TestReadingCredentials:
    @pytest.mark.parametrize(
        ("header", "secret", "api_key"),
        [
            ("Secret 123456", "123456", None),
            ("secret 123456", "123456", None),
            ("SECRET\t \t123456", "123456", None),
            ("  Secret   123456  ", "123456", None),
            ("Api-Key 654321", None, "654321"),
            ("api-key\t654321", None, "654321"),
            ("API-KEY      654321", None, "654321"),
        ],
    )
    def test_the_authorization_header_takes_any_case_and_any_white_space(
        self, header: str, secret: str | None, api_key: str | None
    ) -> None:
        assert read_credentials(CIMultiDict({"authorization": header})) == Credentials(secret, api_key)

    @pytest.mark.parametrize(
        "header",
        [
            "Basic dXNlcjpwYXNz",
            "Bearer 123456",
            "123456",
            "Secret",
            "Secret ",
            "Secret123456",
            "Secret:123456",
            "Api_Key 1",
        ],
    )
    def test_a_header_of_another_kind_counts_as_none_and_the_message_says_what_is_understood(
        self, accounts: Accounts, header: str
    ) -> None:
        headers = CIMultiDict(Authorization=header)
        assert read_credentials(headers, {"secret": "blog-secret"}).secret == "blog-secret"
        credentials = read_credentials(headers)
        assert credentials.missing
        message = refusal(accounts, credentials)
        assert message.startswith("the Authorization header is not understood")
        assert "'Authorization: Secret KEY'" in message
        assert "'Authorization: Api-Key KEY'" in message
        assert "123456" not in message

    def test_the_header_wins_over_the_body_and_the_body_over_the_querystring(self) -> None:
        header = CIMultiDict(Authorization="Api-Key header")
        body, query = {"secret": "body"}, {"secret": "query", "api_key": "query"}
        assert read_credentials(header, body, query) == Credentials(None, "header")
        assert read_credentials({}, body, query) == Credentials("body")
        assert read_credentials({}, {}, query) == Credentials("query", "query")
        assert read_credentials({}, None, None) == Credentials()

    def test_a_wrong_key_in_the_header_is_not_saved_by_a_right_one_in_the_body(self, accounts: Accounts) -> None:
        credentials = read_credentials(CIMultiDict(Authorization="Secret wrong"), {"secret": "shop-secret"})
        assert refusal(accounts, credentials) == "unknown secret key"

    def test_an_empty_or_null_key_is_no_credential(self) -> None:
        assert read_credentials({}, {"secret": "", "api_key": None}, {"api_key": ""}).missing
        assert read_credentials({}, {"secret": "", "api_key": "k"}) == Credentials(None, "k")

    @pytest.mark.parametrize("value", [123456, 0, False, ["123456"], {"key": "123456"}, 1.5])
    @pytest.mark.parametrize("name", ["secret", "api_key"])
    def test_a_key_in_the_body_that_is_no_string_is_401_and_named_but_not_shown(self, name: str, value: object) -> None:
        with pytest.raises(Unauthorized) as raised:
            read_credentials({}, {name: value})
        assert raised.value.message == f"'{name}' in the body must be a string, in quotes"

    @pytest.mark.parametrize(
        ("headers", "page"),
        [
            ({"Origin": "https://a.example", "Referer": "https://b.example/x"}, "https://a.example"),
            ({"Origin": "null", "Referer": "https://b.example/x"}, "https://b.example/x"),
            ({"Origin": "NULL", "Referer": "https://b.example/x"}, "https://b.example/x"),
            ({"Origin": "", "Referer": "https://b.example/x"}, "https://b.example/x"),
            ({"Referrer": "https://c.example/"}, "https://c.example/"),
            ({"Referrer": "https://c.example/", "Referer": "https://b.example/"}, "https://b.example/"),
            ({"oRiGiN": " https://a.example "}, "https://a.example"),
            ({"Origin": "null"}, "null"),
            ({}, None),
        ],
    )
    def test_the_page_is_the_origin_unless_null_else_the_referer_in_either_spelling(
        self, headers: dict[str, str], page: str | None
    ) -> None:
        assert read_credentials(CIMultiDict(headers)).page == page
        with_key = read_credentials(CIMultiDict({**headers, "Authorization": "Api-Key k"}))
        assert with_key == Credentials(None, "k", page)

    def test_credentials_and_accounts_print_no_keys_and_no_hashes(self, accounts: Accounts) -> None:
        assert repr(Credentials("123456", "654321", "https://a.example")).count("123456") == 0
        assert "654321" not in repr(Credentials("123456", "654321"))
        account = accounts.get("shop")
        assert account is not None
        assert hashlib.sha256(b"shop-secret").digest() in account.secret_hashes
        assert "hash" not in repr(account)


class TestAuthenticate:
    def test_a_secret_key_is_enough(self, accounts: Accounts) -> None:
        assert accounts.authenticate(Credentials("shop-secret")).id == "shop"
        blog = accounts.authenticate(Credentials("blog-secret", page="https://evil.net"))
        assert (blog.id, blog.limits) == ("blog", Limits(tasks_queued=7))

    def test_an_api_key_counts_on_a_page_of_its_own_account_only(self, accounts: Accounts) -> None:
        assert accounts.authenticate(Credentials(api_key="shop-api", page=EXAMPLE_PAGE)).id == "shop"
        message = refusal(accounts, Credentials(api_key="blog-api", page=EXAMPLE_PAGE))
        assert message == "the page https://example.com is not on the account's whitelist"

    def test_without_credentials_the_message_says_where_they_may_stand(self, accounts: Accounts) -> None:
        message = refusal(accounts, Credentials(page=EXAMPLE_PAGE))
        assert message.startswith("no credentials: ")
        for place in ("'Authorization: Secret KEY'", "'secret'", "'Authorization: Api-Key KEY'", "'api_key'"):
            assert place in message

    def test_an_api_key_without_a_page_is_refused(self, accounts: Accounts) -> None:
        assert "no Origin or Referer" in refusal(accounts, Credentials(api_key="shop-api"))

    @pytest.mark.parametrize(
        "credentials",
        [
            Credentials("shop-api"),
            Credentials("shop-secret "),
            Credentials("SHOP-SECRET"),
            Credentials(hash_key("shop-secret")),
            Credentials("\udcff\ud800"),
            Credentials("x" * 100_000),
            Credentials("wrong", "shop-api", EXAMPLE_PAGE),
            Credentials(api_key="shop-secret", page=EXAMPLE_PAGE),
            Credentials(api_key="", page=EXAMPLE_PAGE),
        ],
    )
    def test_any_other_key_is_unknown_and_never_echoed(self, accounts: Accounts, credentials: Credentials) -> None:
        kind = "secret" if credentials.secret is not None else "api"
        assert refusal(accounts, credentials) == f"unknown {kind} key"

    @pytest.mark.parametrize(
        ("page", "shown"),
        [
            ("https://evil.net/path?secret=123456#x", "https://evil.net"),
            ("https://user:123456@evil.net:8443/", "https://evil.net:8443"),
            ("HTTPS://EVIL.net:443/", "https://evil.net"),
            ("null", "null"),
            ("evil.net/?secret=123456", "evil.net"),
            ("https://user:123456@[evil/", "https://[evil"),
            ("https://evil\r\nSet-Cookie: x\x00.net/123456", "https://evilSet-Cookie: x.net"),
            ("https://\u202eevil.net\\123456", "https://evil.net"),
            ("https://" + "e" * 500, "https://" + "e" * 92 + "..."),
        ],
    )
    def test_the_message_shows_the_page_s_origin_only_and_nothing_unprintable(
        self, accounts: Accounts, page: str, shown: str
    ) -> None:
        message = refusal(accounts, Credentials(api_key="shop-api", page=page))
        assert message == f"the page {shown} is not on the account's whitelist"

    def test_every_key_of_every_account_is_compared_wherever_the_right_one_stands(
        self, accounts: Accounts, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        compared: list[bytes] = []
        compare = hmac.compare_digest

        def counted(left: bytes, right: bytes) -> bool:
            compared.append(right)
            return compare(left, right)

        monkeypatch.setattr(hmac, "compare_digest", counted)
        for secret in ("shop-secret", "blog-secret", "nobody's"):
            compared.clear()
            if secret.startswith("nobody"):
                refusal(accounts, Credentials(secret))
            else:
                accounts.authenticate(Credentials(secret))
            assert compared == [hashlib.sha256(s).digest() for s in (b"shop-secret", b"blog-secret")]

    def test_two_secret_keys_are_active_while_clients_change_over(self, tmp_path: Path) -> None:
        hashes = [hash_key("old"), hash_key("new")]
        accounts = Accounts(write(tmp_path / "accounts.toml", f"[shop]\nsecrets = {hashes}\n"))
        assert accounts.authenticate(Credentials("old")) is accounts.authenticate(Credentials("new"))


class TestKeylessImages:
    KEYLESS = 'keyless_images = true\nreferrers = ["{}"]'

    def test_the_one_account_that_allows_it_and_whitelists_the_page_is_found(self, tmp_path: Path) -> None:
        text = table("a", "a", "a2", self.KEYLESS.format("a.example"))
        text += table("b", "b", "b2", self.KEYLESS.format("*.example"))
        text += table("c", "c", "c2", 'referrers = ["a.example", "c.org"]')
        accounts = Accounts(write(tmp_path / "accounts.toml", text))
        assert accounts.keyless("https://b.example/").id == "b"
        self._refused(accounts, "https://a.example/x", "several accounts claim the page https://a.example")
        self._refused(accounts, "https://c.org/x", "no account allows images without a key on the page https://c.org")
        self._refused(accounts, "null", "no account allows images without a key on the page null")
        self._refused(accounts, None, "send a secret key")

    def test_it_is_off_unless_an_account_turns_it_on(self, accounts: Accounts) -> None:
        self._refused(accounts, EXAMPLE_PAGE, "send a secret key")

    @staticmethod
    def _refused(accounts: Accounts, page: str | None, sentence: str) -> None:
        with pytest.raises(Unauthorized, match="no credentials") as raised:
            accounts.keyless(page)
        assert sentence in raised.value.message


HASH = "sha256:" + "0" * 64


class TestAccountsFile:
    def test_everything_that_an_account_can_have_is_read(self, tmp_path: Path) -> None:
        text = (
            f'[shop]\nname = "The shop"\nsecrets = ["{HASH}"]\napi_keys = ["{HASH.replace("0", "A")}"]\n'
            'referrers = ["example.com"]\nkeyless_images = true\nloopback_only = true\noperator = true\n'
            "limits.tasks_queued = 1\nlimits.tasks_per_minute = 2\nlimits.tasks_per_call = 3\nlimits.bytes_stored = 0\n"
            "limits.streams = 4\n"
        )
        accounts = Accounts(write(tmp_path / "accounts.toml", text))
        assert list(accounts) == [
            Account(
                "shop",
                "The shop",
                (bytes(32),),
                (b"\xaa" * 32,),
                (parse_referrer("example.com"),),
                True,
                True,
                Limits(1, 2, 3, 0, 4),
                True,
            )
        ]
        assert accounts.get("nobody") is None

    def test_what_is_not_set_is_off_or_unlimited(self, tmp_path: Path) -> None:
        assert list(Accounts(write(tmp_path / "accounts.toml", "[a]"))) == [Account("a")]
        assert Account("a").limits == Limits(None, None, None, None)

    @pytest.mark.parametrize(
        ("text", "sentence"),
        [
            ("[shop", "not valid TOML"),
            ("x = " + "9" * 5000, "not valid TOML"),
            ("x = " + "[" * 5000, "not valid TOML"),
            ("[shop]\n[shop]", "not valid TOML"),
            ("shop = 3", "account 'shop': must be a table"),
            ("[[shop]]", "account 'shop': must be a table"),
            ('["My Shop"]', "'My Shop' cannot be an account"),
            (f"[{'a' * 42}]", "cannot be an account"),
            ("[-shop]", "cannot be an account"),
            ("[shop]\nreferers = []", "account 'shop': there is no 'referers': did you mean 'referrers'?"),
            ("[shop]\nlimits.task_queued = 1", "there is no 'limits.task_queued': did you mean 'limits.tasks_queued'?"),
            ("[shop]\nzzz = 1", "there is no 'zzz': there are name, secrets,"),
            ("[shop]\nlimits.tasks_queued = -1", "limits.tasks_queued: Input should be greater than or equal to 0"),
            ("[shop]\nlimits.tasks_queued = true", "limits.tasks_queued"),
            ('[shop]\nlimits.tasks_queued = "1"', "limits.tasks_queued"),
            ("[shop]\nkeyless_images = 1", "keyless_images"),
            ('[shop]\nreferrers = "example.com"', "referrers"),
            ("[shop]\nreferrers = [1]", "referrers.0"),
            (
                f'[shop]\nsecrets = ["{HASH[:-1]}1", "{HASH[:-1]}2", "{HASH[:-1]}3"]',
                "secrets: List should have at most 2",
            ),
            (f'[shop]\nsecrets = ["{HASH}", "{HASH}"]', "one of its keys stands in 'shop' already"),
            (f'[shop]\nsecrets = ["{HASH}"]\napi_keys = ["{HASH}"]', "one of its keys stands in 'shop' already"),
            (f'[shop]\nsecrets = ["{HASH}"]\n[blog]\napi_keys = ["{HASH}"]', "account 'blog': one of its keys"),
        ],
    )
    def test_a_file_that_is_wrong_stops_the_start_and_the_message_names_what(
        self, tmp_path: Path, text: str, sentence: str
    ) -> None:
        path = write(tmp_path / "accounts.toml", text)
        with pytest.raises(ConfigError) as raised:
            Accounts(path)
        assert sentence in raised.value.message
        assert str(path) in raised.value.message

    @pytest.mark.parametrize("member", ["secrets", "api_keys"])
    @pytest.mark.parametrize(
        "value", ["s3cret-key", "sha256:s3cret", HASH[:-1], HASH + "0", "sha1:" + "0" * 64, HASH + "\\n"]
    )
    def test_a_key_in_the_clear_is_refused_without_being_shown(self, tmp_path: Path, member: str, value: str) -> None:
        path = write(tmp_path / "accounts.toml", f'[shop]\n{member} = ["{value}"]\n')
        with pytest.raises(ConfigError) as raised:
            Accounts(path)
        assert f"account 'shop': {member}: write 'sha256:' and 64 hex digits" in raised.value.message
        assert "s3cret" not in raised.value.message

    def test_a_file_that_is_missing_or_not_utf_8_stops_the_start(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"cannot read the accounts file .*No such file"):
            Accounts(tmp_path / "none.toml")
        (tmp_path / "latin.toml").write_bytes('[a]\nname = "é"'.encode("latin-1"))
        with pytest.raises(ConfigError, match="not UTF-8"):
            Accounts(tmp_path / "latin.toml")


class TestReloading:
    NEW = table("new", "new-secret", "new-api")

    def test_a_new_account_works_and_a_revoked_one_does_not_without_a_restart(
        self, accounts: Accounts, path: Path
    ) -> None:
        write(path, self.NEW)
        refusal(accounts, Credentials("new-secret"))
        accounts.refresh()
        assert accounts.authenticate(Credentials("new-secret")).id == "new"
        assert refusal(accounts, Credentials("shop-secret")) == "unknown secret key"

    def test_a_replacement_of_the_same_size_and_time_is_seen(self, accounts: Accounts, path: Path) -> None:
        before = path.stat()
        fresh = write(path.with_suffix(".new"), path.read_text("utf-8").replace("[shop]", "[shup]"))
        os.utime(fresh, ns=(before.st_atime_ns, before.st_mtime_ns))
        fresh.replace(path)
        accounts.refresh()
        assert accounts.authenticate(Credentials("shop-secret")).id == "shup"

    def test_an_unchanged_file_is_not_read_again(self, accounts: Accounts, monkeypatch: pytest.MonkeyPatch) -> None:
        def read_again(path: Path) -> bytes:
            raise AssertionError(f"{path} was read")

        monkeypatch.setattr(Path, "read_bytes", read_again)
        accounts.refresh()
        assert accounts.get("shop") is not None

    @pytest.mark.parametrize("text", ["[broken", "[shop]\nzzz = 1", None])
    def test_a_broken_or_missing_file_keeps_the_old_accounts_and_is_logged_once(
        self, accounts: Accounts, path: Path, caplog: pytest.LogCaptureFixture, text: str | None
    ) -> None:
        path.unlink() if text is None else write(path, text)
        with caplog.at_level(logging.INFO, "dragon.auth"):
            accounts.refresh()
            accounts.refresh()
        assert [(record.name, record.levelname) for record in caplog.records] == [("dragon.auth", "ERROR")]
        assert "the old ones stay" in caplog.text
        assert accounts.authenticate(Credentials("shop-secret")).id == "shop"
        write(path, self.NEW)
        accounts.refresh()
        assert accounts.authenticate(Credentials("new-secret")).id == "new"


class TestDemoAccount:
    @pytest.fixture
    def demo(self) -> Accounts:
        return Accounts(ROOT / "conf" / "accounts.toml")

    def test_its_keys_are_those_of_the_reference_and_it_is_the_only_account(self, demo: Accounts) -> None:
        assert [account.id for account in demo] == ["demo"]
        assert demo.authenticate(Credentials("123456")).id == "demo"
        for page in ("http://localhost:8000/", "http://127.0.0.1:8000/", "https://localhost", "http://127.0.0.1"):
            assert demo.authenticate(Credentials(api_key="654321", page=page)).id == "demo"
            assert demo.keyless(page).id == "demo"
        refusal(demo, Credentials(api_key="654321", page="https://localhost.evil.net/"))

    @pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.8.9.10"])
    def test_a_server_on_loopback_starts_with_it(
        self, demo: Accounts, host: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        check_loopback(demo, Config(server=ServerConfig(host=host)))
        assert caplog.records == []

    @pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.com", ""])
    def test_a_server_on_another_address_refuses_and_says_what_to_do(self, demo: Accounts, host: str) -> None:
        with pytest.raises(ConfigError) as raised:
            check_loopback(demo, Config(server=ServerConfig(host=host)))
        for words in ("'demo'", "`dragon account revoke demo`", "`dragon account new NAME`", "127.0.0.1"):
            assert words in raised.value.message

    def test_a_public_server_starts_without_it_and_takes_it_from_no_later_file(
        self, accounts: Accounts, path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        check_loopback(accounts, Config(server=ServerConfig(host="0.0.0.0")))
        write(path, table("shop", "other") + table("demo", "123456", "", "loopback_only = true"))
        accounts.refresh()
        assert "dragon account revoke demo" in caplog.text
        assert refusal(accounts, Credentials("123456")) == "unknown secret key"
        assert accounts.authenticate(Credentials("shop-secret")).id == "shop"

    def test_a_public_address_in_front_of_a_server_on_loopback_is_a_warning(
        self, demo: Accounts, accounts: Accounts, caplog: pytest.LogCaptureFixture
    ) -> None:
        behind_proxy = Config(server=ServerConfig(public_url="https://dragon.example"))
        check_loopback(accounts, behind_proxy)
        assert caplog.records == []
        check_loopback(demo, behind_proxy)
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        assert "https://dragon.example" in caplog.text
