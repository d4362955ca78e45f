"""Who may what: every route with every kind of credentials, of every tenant, from every page; and signed URLs, changed.

What is expected comes from the tables in this file and from `judge`, which is the contract (API.md 1.2) written once
more: nothing of dragon's own code is asked.
"""

from __future__ import annotations

import hashlib
import itertools
import random
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import pytest
import redis

from dragon.config import Config
from dragon.embedded import EmbeddedRedis, find_server
from dragon.server.app import create_app
from dragon.signing import sign_url
from tests.attack.wire import Heard, Wire
from tests.figures import FULL, note, scale, seeded
from tests.system import System, test_config
from tests.waiting import wait_until

UNKNOWN = "A" * 26
HELLO = {"task_name": "hello"}
FILE = {"task_name": "test.file"}

# --- the tenants ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tenant:
    """An account of the test's own accounts file."""

    secrets: tuple[str, ...] = ()
    api_keys: tuple[str, ...] = ()
    referrers: tuple[str, ...] = ()
    keyless: bool = False
    limits: Mapping[str, int] | None = None
    operator: bool = False


TENANTS = {
    "alpha": Tenant(
        ("alpha-secret-1", "alpha-secret-2"),
        ("alpha-api-1", "alpha-api-2"),
        (
            "shop.example.com",
            "*.cdn.example.com",
            "https://secure.example.com",
            "intranet.example:8080",
            "http://plain.example:81",
            "[::1]",
            "192.0.2.7",
            "straße.example",
            "both.example.com",
        ),
        keyless=True,
    ),
    "beta": Tenant(
        ("beta-secret",),
        ("beta-api",),
        ("beta.example.com", "*.cdn.example.com", "both.example.com"),
        keyless=True,
    ),
    "gamma": Tenant(("gamma-secret",), ("gamma-api",), ("gamma.example.com", "shop.example.com")),
    "delta": Tenant((), ("delta-api",), ("delta.example.com",)),
    "epsilon": Tenant(("epsilon-secret",), (), ("epsilon.example.com",), keyless=True),
    "omega": Tenant(("omega-secret",), ("omega-api",), ("omega.example.com",), operator=True),
    "nothing": Tenant(),
    "revoked": Tenant(("revoked-secret",), ("revoked-api",), ("revoked.example.com", "shop.example.com"), keyless=True),
    "one-a-call": Tenant(("one-a-call-secret",), limits={"tasks_per_call": 1}),
    "none-queued": Tenant(("none-queued-secret",), limits={"tasks_queued": 0}),
    "none-a-minute": Tenant(("none-a-minute-secret",), limits={"tasks_per_minute": 0}),
    "no-bytes": Tenant(("no-bytes-secret",), limits={"bytes_stored": 0}),
}
KEPT = {name: tenant for name, tenant in TENANTS.items() if name != "revoked"}

# Which accounts whitelist a page, by hand: nothing here is parsed.
ALPHA, BETA, GAMMA, NOBODY = "alpha", "beta", "gamma", ""
PAGES: dict[str, str] = {
    "https://shop.example.com": f"{ALPHA} {GAMMA}",
    "http://shop.example.com/": f"{ALPHA} {GAMMA}",
    "https://SHOP.Example.COM/a/b.html?c=d#e": f"{ALPHA} {GAMMA}",
    "https://shop.example.com:8443/x": f"{ALPHA} {GAMMA}",
    "https://shop.example.com./": f"{ALPHA} {GAMMA}",
    "https://somebody:password@shop.example.com/": f"{ALPHA} {GAMMA}",
    "https://a.cdn.example.com": f"{ALPHA} {BETA}",
    "https://a.b.c.cdn.example.com/": f"{ALPHA} {BETA}",
    "https://secure.example.com": ALPHA,
    "https://secure.example.com:443/x": ALPHA,
    "https://secure.example.com:444": ALPHA,
    "http://intranet.example:8080/": ALPHA,
    "https://intranet.example:8080/": ALPHA,
    "http://plain.example:81": ALPHA,
    "http://[::1]": ALPHA,
    "http://[0:0:0:0:0:0:0:1]:5000/": ALPHA,
    "http://192.0.2.7/": ALPHA,
    "https://straße.example/": ALPHA,
    "https://xn--strae-oqa.example/": ALPHA,
    "https://both.example.com/": f"{ALPHA} {BETA}",
    "https://beta.example.com": BETA,
    "https://gamma.example.com": GAMMA,
    "https://delta.example.com": "delta",
    "https://epsilon.example.com": "epsilon",
    # strangers
    "https://revoked.example.com": NOBODY,
    "https://example.com": NOBODY,
    "https://evil.net": NOBODY,
    "https://shop.example.com.evil.net/": NOBODY,
    "https://shop.example.com.": f"{ALPHA} {GAMMA}",
    "https://shop.example.com..": NOBODY,
    "https://shop.example.comevil.net/": NOBODY,
    "https://shop-example.com": NOBODY,
    "https://shop.example.co": NOBODY,
    "https://hop.example.com": NOBODY,
    "https://xshop.example.com": NOBODY,
    "https://x.shop.example.com": NOBODY,
    "https://evil.net/?shop.example.com": NOBODY,
    "https://evil.net/https://shop.example.com": NOBODY,
    "https://evil.net/#https://shop.example.com": NOBODY,
    "https://shop.example.com@evil.net/": NOBODY,
    "https://shop.example.com:443@evil.net/": NOBODY,
    "https://evil.net\\@shop.example.com/": NOBODY,
    "https://evil.net\\.shop.example.com/": NOBODY,
    "https://shop.example.com\\.evil.net/": NOBODY,
    "https://shop.example.com%2eevil.net/": NOBODY,
    "https://shop.example.com%00.evil.net/": NOBODY,
    "https://shop.example.com%40evil.net/": NOBODY,
    "https://shop%2eexample.com/": NOBODY,
    "https://evil.net, https://shop.example.com": NOBODY,
    "https://shop.example.com, https://evil.net": NOBODY,
    "https://shop.example.com https://evil.net": NOBODY,
    "https://shop.example.com\thttps://evil.net": NOBODY,
    "https://ѕhop.example.com/": NOBODY,  # a Cyrillic letter
    "https://shop.example.com\N{ZERO WIDTH SPACE}.evil.net/": NOBODY,
    "https://[shop.example.com]/": NOBODY,
    "https://shop.example.com:0/": NOBODY,
    "https://shop.example.com:99999/": NOBODY,
    "https://shop.example.com:http/": NOBODY,
    "shop.example.com": NOBODY,
    "//shop.example.com/": NOBODY,
    "https:shop.example.com": NOBODY,
    "https:/shop.example.com": NOBODY,
    "https:///shop.example.com": NOBODY,
    "https://": NOBODY,
    "null": NOBODY,
    "NULL": NOBODY,
    "undefined": NOBODY,
    "*": NOBODY,
    "about:blank": NOBODY,
    "about:srcdoc": NOBODY,
    "data:text/html,https://shop.example.com": NOBODY,
    "blob:https://shop.example.com/0": NOBODY,
    "file:///shop.example.com/": NOBODY,
    "file://shop.example.com/": NOBODY,
    "javascript://shop.example.com/": NOBODY,
    "android-app://shop.example.com/": NOBODY,
    "chrome-extension://shop.example.com": NOBODY,
    "ftp://shop.example.com/": NOBODY,
    "https://cdn.example.com": NOBODY,
    "https://evilcdn.example.com": NOBODY,
    "https://.cdn.example.com": NOBODY,
    "https://*.cdn.example.com": NOBODY,
    "https://a.cdn.example.com.evil.net": NOBODY,
    "http://secure.example.com": NOBODY,
    "http://secure.example.com:443": NOBODY,
    "https://x.secure.example.com": NOBODY,
    "http://intranet.example": NOBODY,
    "http://intranet.example:80": NOBODY,
    "http://intranet.example:80801": NOBODY,
    "http://intranet.example:8081/?:8080": NOBODY,
    "http://plain.example": NOBODY,
    "https://plain.example:81": NOBODY,
    "http://[::1].evil.net/": NOBODY,
    "http://[::2]/": NOBODY,
    "http://[::ffff:192.0.2.7]/": NOBODY,
    "http://[::1%25eth0]/": NOBODY,
    "http://192.0.2.7.evil.net/": NOBODY,
    "http://192.0.2.07/": NOBODY,
    "http://192.0.519/": NOBODY,
    "http://3221225991/": NOBODY,
    "http://0xc0000207/": NOBODY,
    "https://strasse.example/": NOBODY,
}
SHOP = "https://shop.example.com"

# --- the contract, once more ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sent:
    """The credentials of a request: an Authorization header, members of the body, of the querystring; the page."""

    header: str | None = None
    body: tuple[tuple[str, Any], ...] = ()
    query: tuple[tuple[str, str], ...] = ()
    origin: str | None = None
    referer: str | None = None
    referrer: str | None = None

    @property
    def page(self) -> str | None:
        """Origin when there is one and it is not null, else Referer, else Referrer."""
        given = [text for text in (self.origin, self.referer, self.referrer) if text]
        named = [text for text in given if text.lower() != "null"]
        return (named or given or [None])[0]

    @property
    def headers(self) -> dict[str, str]:
        found = {
            "Authorization": self.header,
            "Origin": self.origin,
            "Referer": self.referer,
            "Referrer": self.referrer,
        }
        return {name: value for name, value in found.items() if value is not None}


@dataclass(frozen=True)
class Verdict:
    """The account that a request belongs to; without one, a piece of what the 401 must say."""

    account: str = ""
    says: str = ""


def judge(sent: Sent, *, takes_body: bool, takes_query: bool, keyless: bool) -> Verdict:
    """API.md 1.2: the header wins over the body, the body over the querystring of a GET; then the key decides."""
    scheme, _, key = (sent.header or "").strip().replace("\t", " ").partition(" ")
    key = key.strip()
    if scheme.lower() == "secret" and key:
        return by_secret(key)
    if scheme.lower() == "api-key" and key:
        return by_api_key(key, sent.page)
    for place, members in ((takes_body, dict(sent.body)), (takes_query, dict(reversed(sent.query)))):
        given = {name: members[name] for name in ("secret", "api_key") if members.get(name) not in (None, "")}
        if not place or not given:
            continue
        if any(not isinstance(value, str) for value in given.values()):
            return Verdict(says="must be a string, in quotes")
        return by_secret(given["secret"]) if "secret" in given else by_api_key(given["api_key"], sent.page)
    if keyless:
        return without_key(sent.page)
    return Verdict(
        says="the Authorization header is not understood" if (sent.header or "").strip() else "no credentials"
    )


def by_secret(key: str) -> Verdict:
    owner = next((name for name, tenant in KEPT.items() if key in tenant.secrets), "")
    return Verdict(owner, "unknown secret key")


def by_api_key(key: str, page: str | None) -> Verdict:
    owner = next((name for name, tenant in KEPT.items() if key in tenant.api_keys), "")
    if not owner:
        return Verdict(says="unknown api key")
    if page is None:
        return Verdict(says="there is no Origin or Referer header")
    return Verdict(owner) if owner in whitelisting(page) else Verdict(says="is not on the account's whitelist")


def without_key(page: str | None) -> Verdict:
    owners = [name for name in whitelisting(page) if KEPT[name].keyless]
    return Verdict(owners[0] if len(owners) == 1 else "", "no credentials")


def whitelisting(page: str | None) -> list[str]:
    return [name for name in PAGES[page].split() if name in KEPT] if page else []


# --- the routes -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """A route: what it takes credentials from, and how to ask it."""

    kind: str  # posts, streams, file (POST), image (GET), cancels, operates, or open
    path: str  # with KEY for a task's key
    body: Mapping[str, Any] | None = None
    query: str = ""
    for_operators: bool = False  # alone

    def judge(self, sent: Sent) -> Verdict:
        is_get = self.kind == "image"
        return judge(sent, takes_body=self.kind in ("posts", "streams", "file"), takes_query=is_get, keyless=is_get)


CLIENT_FILES = ("/v1/dragon.js", "/v1/dragon-elements.js", "/v1/dragon.d.ts", "/v1/tasks.d.ts")

# Every route of the application; `open` needs no credentials, and says so whatever is sent.
ROWS: dict[tuple[str, str], Row] = {
    ("POST", "/v1/create"): Row("posts", "/v1/create", {"tasks": HELLO}),
    ("POST", "/v1/create_stream"): Row("streams", "/v1/create_stream", {"tasks": HELLO}),
    ("POST", "/v1/create_file"): Row("file", "/v1/create_file", {"task": FILE}),
    ("POST", "/v1/create_file/{filename}"): Row("file", "/v1/create_file/a.txt", {"task": FILE}),
    ("GET", "/v1/create_file"): Row("image", "/v1/create_file", query="task_name=test.file"),
    ("GET", "/v1/create_file/{filename}"): Row("image", "/v1/create_file/a.txt", query="task_name=test.file"),
    ("DELETE", "/v1/tasks/{key}"): Row("cancels", "/v1/tasks/KEY"),
    ("GET", "/v1/operator/history"): Row("operates", "/v1/operator/history", for_operators=True),
    ("GET", "/v1/status"): Row("open", "/v1/status", query=f"tasks={UNKNOWN}"),
    ("POST", "/v1/status"): Row("open", "/v1/status", {"tasks": UNKNOWN}),
    ("GET", "/v1/status_stream"): Row("open", "/v1/status_stream", query=f"tasks={UNKNOWN}"),
    ("POST", "/v1/status_stream"): Row("open", "/v1/status_stream", {"tasks": UNKNOWN}),
    ("GET", "/v1/stream"): Row("open", "/v1/stream", query=f"tasks={UNKNOWN}"),
    ("POST", "/v1/stream"): Row("open", "/v1/stream", {"tasks": UNKNOWN}),
    ("GET", "/v1/log"): Row("open", "/v1/log", query=f"task={UNKNOWN}"),
    ("GET", "/v1/file"): Row("open", "/v1/file", query=f"task={UNKNOWN}"),
    ("HEAD", "/v1/file"): Row("open", "/v1/file", query=f"task={UNKNOWN}"),
    ("GET", "/v1/file/{filename}"): Row("open", "/v1/file/a.txt", query=f"task={UNKNOWN}"),
    ("HEAD", "/v1/file/{filename}"): Row("open", "/v1/file/a.txt", query=f"task={UNKNOWN}"),
    ("GET", "/files/{key}/{filename}"): Row("open", f"/files/{UNKNOWN}/output.txt"),
    ("HEAD", "/files/{key}/{filename}"): Row("open", f"/files/{UNKNOWN}/output.txt"),
    ("GET", "/static/{name}"): Row("open", "/static/page.css"),
    ("HEAD", "/static/{name}"): Row("open", "/static/page.css"),
    ("GET", "/dashboard/{name}"): Row("open", "/dashboard/app.js"),
    ("HEAD", "/dashboard/{name}"): Row("open", "/dashboard/app.js"),
    **{
        (method, f"/v1/operator/{name}"): Row("operates", f"/v1/operator/{name}")
        for name in ("account", "overview", "tasks", "failures")
        for method in ("GET", "HEAD")
    },
    **{(method, "/v1/operator/tasks/{key}"): Row("operates", "/v1/operator/tasks/KEY") for method in ("GET", "HEAD")},
    ("GET", "/v1/operator/overview_stream"): Row("operates", "/v1/operator/overview_stream"),
    ("GET", "/v1/operator/tasks_stream"): Row("operates", "/v1/operator/tasks_stream"),
    ("POST", "/v1/operator/retry"): Row("operates", "/v1/operator/retry", {"tasks": UNKNOWN}),
    ("POST", "/v1/operator/cancel"): Row("operates", "/v1/operator/cancel", {"tasks": UNKNOWN}),
    ("POST", "/v1/operator/queues/{queue}"): Row(
        "operates", "/v1/operator/queues/default", {"action": "resume"}, for_operators=True
    ),
    **{
        (method, path): Row("open", path)
        for path in (
            *("/v1/tasks", "/healthz", "/readyz", "/metrics", "/", "/docs", "/openapi.json", "/dashboard"),
            *CLIENT_FILES,
        )
        for method in ("GET", "HEAD")
    },
}
GUARDED = {route: row for route, row in ROWS.items() if row.kind not in ("open", "operates")}
OPERATING = {route: row for route, row in ROWS.items() if row.kind == "operates"}
OPEN_STATUS = {
    f"/files/{UNKNOWN}/output.txt": 404,
    "/v1/file": 404,
    "/v1/file/a.txt": 404,
    "/v1/log": 404,
    "/readyz": 503,
}


def test_every_route_has_a_row_and_every_row_a_route() -> None:
    app = create_app(test_config(Path(tempfile.gettempdir()), "redis://127.0.0.1:1"), "redis://127.0.0.1:1")
    routes = {(route.method, route.resource.canonical) for route in app.router.routes() if route.resource is not None}
    assert routes == set(ROWS), "a new route needs a row in this table: who may call it?"


# --- the house: a real server, an embedded Redis, no worker -----------------------------------------------------------


def write_accounts(path: Path, tenants: Mapping[str, Tenant]) -> None:
    def hashes(keys: Iterable[str]) -> str:
        return str([f"sha256:{hashlib.sha256(key.encode()).hexdigest()}" for key in keys])

    lines = []
    for name, tenant in tenants.items():
        lines.append(f"[{name}]\nsecrets = {hashes(tenant.secrets)}\napi_keys = {hashes(tenant.api_keys)}")
        lines.append(f"referrers = {list(tenant.referrers)}\nkeyless_images = {str(tenant.keyless).lower()}")
        lines += ["operator = true"] * tenant.operator
        lines += [f"limits.{limit} = {value}" for limit, value in (tenant.limits or {}).items()]
    path.write_text("\n".join(lines), "utf-8")


@dataclass
class House:
    """The server, its Redis, and what they have in store."""

    system: System
    redis: Any

    @property
    def port(self) -> int:
        return self.system.config.server.port

    def size(self) -> int:
        """How many keys there are; measurements of what ended before may come a second later."""
        return sum(1 for name in self.redis.scan_iter("*") if not name.startswith(b"dragon:measures:"))

    def owner(self, key: str) -> str:
        """The account that a stored task belongs to."""
        return str(self.redis.hget(f"rq:job:{key}", "facts").decode().split(" ")[1])

    def counts(self) -> dict[str, int]:
        """Tasks that wait, by account: as the accounts' counters say, held against the tasks themselves."""
        keys = [name.decode().rpartition(":")[2] for name in self.redis.scan_iter("rq:job:*")]
        stored = Counter(self.owner(key) for key in keys if self.redis.hget(f"rq:job:{key}", "status") == b"queued")
        counters = {
            name.decode().split(":")[2]: int(self.redis.hget(name, "queued") or 0)
            for name in self.redis.scan_iter("dragon:account:*")
            if b":minute" not in name
        }
        waiting = {name: count for name, count in counters.items() if count}
        assert sum(waiting.values()) == sum(self.redis.llen(name) for name in self.redis.scan_iter("rq:queue:*"))
        assert waiting == dict(stored)
        return waiting


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    folder = Path(tempfile.mkdtemp(prefix="dragon-test-"))
    try:
        with EmbeddedRedis(find_server(Config()), folder / "redis", folder / "sock", durable=False) as embedded:
            accounts = folder / "accounts.toml"
            write_accounts(accounts, TENANTS)
            config = test_config(folder, embedded.url, accounts=accounts, server__file_wait=0.005, redis__timeout=20.0)
            system = System(config)
            try:
                server = system.start_server()
                write_accounts(accounts, KEPT)  # as `dragon account revoke` does, under a running server
                wait_until(lambda: f"read again, {len(KEPT)} of them" in server.output, 45, "the accounts to be read")
                with redis.Redis.from_url(embedded.url) as client:
                    yield House(system, client)
            finally:
                system.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def empty_house(house: House) -> House:
    house.redis.flushdb()
    return house


# --- cells ------------------------------------------------------------------------------------------------------------

HEADERS = {
    None: "nothing",
    "": "empty",
    "Secret alpha-secret-1": "right",
    "secret   alpha-secret-2": "right, other spelling",
    "SECRET\t alpha-secret-1": "right, other spelling",
    "Secret beta-secret": "another's",
    "Secret wrong": "wrong",
    "Secret revoked-secret": "revoked",
    "Secret alpha-api-1": "of the other kind",
    "Secret": "no key",
    "Secret ": "no key",
    "Secretalpha-secret-1": "no space",
    "Secret:alpha-secret-1": "a colon",
    "Secret alpha-secret-1 more": "two words",
    'Secret "alpha-secret-1"': "in quotes",
    "Secret ALPHA-SECRET-1": "other case",
    "Secret alpha-secret-": "cut short",
    "Secret alpha-secret-1\N{LATIN SMALL LETTER E WITH ACUTE}": "not ASCII",
    f"Secret sha256:{hashlib.sha256(b'alpha-secret-1').hexdigest()}": "the hash of it",
    f"Secret {hashlib.sha256(b'alpha-secret-1').hexdigest()}": "the hash of it",
    "Api-Key alpha-api-1": "right",
    "api-key  alpha-api-2": "right, other spelling",
    "Api-Key beta-api": "another's",
    "Api-Key delta-api": "another's",
    "Api-Key wrong": "wrong",
    "Api-Key revoked-api": "revoked",
    "Api-Key alpha-secret-1": "of the other kind",
    "ApiKey alpha-api-1": "unknown scheme",
    "Api_Key alpha-api-1": "unknown scheme",
    "Bearer alpha-secret-1": "unknown scheme",
    "Basic YWxwaGE6YWxwaGEtc2VjcmV0LTE=": "unknown scheme",
    "alpha-secret-1": "no scheme",
}
MEMBERS: list[tuple[tuple[str, Any], ...]] = [
    (),
    (("secret", "alpha-secret-1"),),
    (("secret", "gamma-secret"),),
    (("secret", "wrong"),),
    (("secret", ""),),
    (("secret", "revoked-secret"),),
    (("secret", "Secret alpha-secret-1"),),
    (("secret", " alpha-secret-1"),),
    (("api_key", "alpha-api-1"),),
    (("api_key", "beta-api"),),
    (("api_key", "wrong"),),
    (("api_key", ""),),
    (("secret", ""), ("api_key", "alpha-api-1")),
    (("secret", "wrong"), ("api_key", "alpha-api-1")),
    (("secret", "alpha-secret-1"), ("api_key", "wrong")),
]
ONLY_IN_BODIES: list[tuple[tuple[str, Any], ...]] = [
    (("secret", None),),
    (("secret", None), ("api_key", "alpha-api-1")),
    (("secret", 123456),),
    (("secret", True),),
    (("secret", ["alpha-secret-1"]),),
    (("secret", {"alpha-secret-1": 1}),),
    (("api_key", 0.5),),
    (("Secret", "alpha-secret-1"),),
]
EVERY_KEY = [key for tenant in TENANTS.values() for key in tenant.secrets + tenant.api_keys]
API_KEYS = [(name, key) for name, tenant in TENANTS.items() for key in tenant.api_keys]


def in_one_place() -> Iterator[Sent]:
    """Each kind of credentials in each place, on a page that two accounts whitelist, on a strange one, on none."""
    for page in (SHOP, "https://evil.net", None):
        for header in HEADERS:
            yield Sent(header, origin=page)
        for members in MEMBERS:
            yield Sent(query=members, origin=page)
        for members in MEMBERS + ONLY_IN_BODIES:
            yield Sent(body=members, origin=page)


def of_each_tenant() -> Iterator[Sent]:
    for tenant in TENANTS.values():
        for page in () if tenant.limits else (SHOP, None):
            for key in tenant.secrets:
                yield Sent(f"Secret {key}", origin=page)
                yield Sent(body=(("secret", key),), origin=page)
                yield Sent(query=(("secret", key),), origin=page)


def in_several_places() -> Iterator[Sent]:
    """All combinations: which place wins."""
    headers = [None, "Secret alpha-secret-1", "Secret wrong", "Api-Key gamma-api", "Bearer x", "Secret"]
    members = [MEMBERS[index] for index in (0, 1, 2, 3, 4, 8, 10)]
    for header, body, query in itertools.product(headers, members, members):
        yield Sent(header, body, query, origin=SHOP)


def from_every_page() -> Iterator[Sent]:
    """Every api key, and no key, from every page."""
    for page in PAGES:
        yield Sent(origin=page)
        yield Sent(referer=page)
        for _, key in API_KEYS:
            yield Sent(f"Api-Key {key}", origin=page)
            yield Sent(body=(("api_key", key),), query=(("api_key", key),), referer=page)


def from_several_pages() -> Iterator[Sent]:
    """Origin, Referer and Referrer that disagree, with a key and without any."""
    pages = [None, "", "null", SHOP, "https://evil.net", "https://beta.example.com"]
    for origin, referer, referrer in itertools.product(pages, pages, pages):
        for header in (None, "Api-Key alpha-api-1", "Api-Key beta-api"):
            yield Sent(header, origin=origin, referer=referer, referrer=referrer)


@dataclass(frozen=True)
class Cell:
    """One request: the route, what it says of its sender, and what must come of it."""

    method: str
    row: Row
    sent: Sent
    verdict: Verdict


def all_cells() -> list[Cell]:
    cells = {}
    for (method, _), row in GUARDED.items():
        for sent in itertools.chain(
            in_one_place(), of_each_tenant(), in_several_places(), from_every_page(), from_several_pages()
        ):
            if row.kind in ("image", "cancels"):
                sent = replace(sent, body=())
            cells[method, row.path, repr(sent)] = Cell(method, row, sent, row.judge(sent))
    return list(cells.values())


def chosen_cells(chance: random.Random) -> list[Cell]:
    """All in the full form; in the short one as many as there is time for, of each route as many as of any other."""
    cells = all_cells()
    chance.shuffle(cells)
    if FULL:
        return cells
    by_route: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        by_route.setdefault((cell.method, cell.row.path), []).append(cell)
    images = [cell for cell in by_route["GET", "/v1/create_file"] if cell.sent == Sent(origin=cell.sent.origin)]
    chosen = images + [cell for found in by_route.values() for cell in half_and_half(found, 120)]
    # Who cancels what is looked at for two accounts at least: chance may leave one of them out.
    cancelling = [cell for cell in cells if cell.row.kind == "cancels"]
    for account in (ALPHA, GAMMA):
        chosen += [cell for cell in cancelling if cell.verdict.account == account][:2]
    return list({id(cell): cell for cell in chosen}.values())


def half_and_half(cells: list[Cell], count: int) -> list[Cell]:
    """As many that are to be accepted as are to be refused, as far as there are."""
    accepted = [cell for cell in cells if cell.verdict.account]
    refused = [cell for cell in cells if not cell.verdict.account]
    return accepted[: count // 2] + refused[: count - min(len(accepted), count // 2)]


def ask(wire: Wire, cell: Cell, key: str = UNKNOWN, number: int = 0) -> Heard:
    """Asks; `number` makes the parameters of a cell its own, so that no image is answered by another's task."""
    row, sent = cell.row, cell.sent
    query = "&".join(filter(None, [row.query, urlencode(sent.query)]))
    body: dict[str, Any] | None = None
    if row.kind == "image":
        query += f"&text={number}"
    elif row.body is not None:
        body = dict(row.body) | dict(sent.body)
    target = row.path.replace("KEY", key) + (f"?{query}" if query else "")
    if row.kind == "streams":
        return wire.first_line(cell.method, target, sent.headers, body)
    return wire.ask(cell.method, target, sent.headers, body)


def check_refused(cell: Cell, heard: Heard) -> None:
    assert heard.status == 401, (cell, heard)
    assert heard.json.keys() == {"status", "message"}, (cell, heard)
    assert cell.verdict.says in heard.json["message"], (cell, heard)
    assert heard.headers["access-control-allow-origin"] == "*"
    assert heard.headers["cache-control"] == "no-store"
    assert not any(key in heard.text for key in EVERY_KEY), heard


def created_key(cell: Cell, heard: Heard) -> str:
    """The key of the task that an accepted cell has created."""
    if cell.row.kind in ("posts", "streams"):
        assert heard.status == 200, (cell, heard)
        (status,) = heard.json
        assert status["status"] == "queued"
        return str(status["key"])
    assert heard.status == 302, (cell, heard)
    place, _, key = heard.headers["location"].partition("?task=")
    assert place == cell.row.path.replace("create_file", "file")
    return key


@pytest.mark.timeout(900)
def test_who_may_create_and_cancel_is_exactly_as_the_contract_says(empty_house: House) -> None:
    house = empty_house
    chance = seeded()
    cells = chosen_cells(chance)
    refused = [cell for cell in cells if not cell.verdict.account]
    creating = [cell for cell in cells if cell.verdict.account and cell.row.kind != "cancels"]
    cancelling = [cell for cell in cells if cell.verdict.account and cell.row.kind == "cancels"]
    assert len(cells) >= 500
    assert min(len(refused), len(creating), len(cancelling)) > 50
    with Wire(house.port) as wire:
        for number, cell in enumerate(refused):
            check_refused(cell, ask(wire, cell, number=number))
        assert house.size() == house.redis.exists("dragon:workers"), "a refused request left something"
        expected: Counter[str] = Counter()
        for number, cell in enumerate(creating):
            key = created_key(cell, ask(wire, cell, number=number))
            assert house.owner(key) == cell.verdict.account, cell
            expected[cell.verdict.account] += 1
        assert house.counts() == dict(expected)
        check_cancelling(house, wire, cancelling)
    pages = len({cell.sent.page for cell in cells})
    note(
        "cells",
        f"{len(cells):,} cells: {len(GUARDED)} routes that ask for credentials, {len(TENANTS)} accounts, {pages} pages",
        f"{len(creating) + len(cancelling):,} accepted for the right account, {len(refused):,} refused with the right "
        "words, nothing else created",
        chance,
    )


def check_cancelling(house: House, wire: Wire, cells: list[Cell]) -> None:
    """Each against a task of every tenant: the account's own is cancelled, another's is as one that nobody knows."""
    keys = {}
    for name, tenant in KEPT.items():
        if tenant.secrets and not tenant.limits:
            heard = wire.ask("POST", "/v1/create", {"Authorization": f"Secret {tenant.secrets[0]}"}, {"tasks": HELLO})
            keys[name] = heard.json[0]["key"]
    before = house.counts()
    for cell in cells:
        unknown = ask(wire, cell, UNKNOWN)
        assert (unknown.status, unknown.json) == (404, {"status": "error", "message": "unknown task key"})
        for name, key in keys.items():
            if name != cell.verdict.account:
                assert alike(ask(wire, cell, key), unknown), (cell, name)
    assert house.counts() == before, "a task of somebody else's was cancelled"
    for cell in cells:
        if key := keys.get(cell.verdict.account):
            heard = ask(wire, cell, key)
            assert (heard.status, heard.json["key"], heard.json["result"]) == (200, key, "cancelled"), cell
    cancelled = {cell.verdict.account for cell in cells} & keys.keys()
    assert {"alpha", "gamma"} <= cancelled
    left = {name: count - (name in cancelled) for name, count in before.items()}
    assert house.counts() == {name: count for name, count in left.items() if count}


def alike(one: Heard, other: Heard) -> bool:
    own = {"date": "", "x-request-id": ""}  # each answer has its own

    def told(heard: Heard) -> Any:
        return heard.status, {name: own.get(name, value) for name, value in heard.headers.items()}, heard.body

    return bool(told(one) == told(other))


def test_the_operator_api_takes_a_secret_key_in_the_header_and_nothing_else(empty_house: House) -> None:
    cells = 0
    with Wire(empty_house.port) as wire:
        for (method, route), row in OPERATING.items():
            if method != "GET" or "KEY" in row.path or row.path.endswith("_stream"):
                continue  # these answer otherwise than by 200 with a body: the table below has all
            for sent in itertools.chain(in_one_place(), of_each_tenant()):
                verdict = judge(replace(sent, origin=None), takes_body=False, takes_query=False, keyless=False)
                heard = ask(wire, Cell(method, row, replace(sent, body=()), verdict))
                is_secret = (sent.header or "").lower().startswith("secret")
                may = verdict.account and is_secret
                if row.for_operators and may:
                    may = TENANTS[verdict.account].operator
                assert heard.status == (200 if may else 401), (route, sent)
                if heard.status == 401:
                    assert heard.json.keys() == {"status", "message"}
                    assert not any(key in heard.text for key in EVERY_KEY), heard
                cells += 1
    assert empty_house.size() == 0
    note("cells", f"{cells:,} cells of the operator API", "all answered to those with a secret key alone")


def test_unknown_and_malformed_keys_and_those_of_others_say_nothing(empty_house: House) -> None:
    """A malformed key is a 400 to those who may ask, and a 401 to those who may not: who asks is asked first."""
    alpha = {"Authorization": "Secret alpha-secret-1"}
    with Wire(empty_house.port) as wire:
        for key in ("short", UNKNOWN.lower(), UNKNOWN + "A", "%2e%2e", "A" * 25 + "1"):
            assert wire.ask("DELETE", f"/v1/tasks/{key}", alpha).status == 400
            assert wire.ask("DELETE", f"/v1/tasks/{key}").status == 401
        key = wire.ask("POST", "/v1/create", alpha, {"tasks": HELLO}).json[0]["key"]
        for credentials in ({}, {"Authorization": "Secret wrong"}):
            one, other = (wire.ask("DELETE", f"/v1/tasks/{which}", credentials) for which in (key, UNKNOWN))
            assert one.status == 401
            assert alike(one, other)
        assert empty_house.counts() == {"alpha": 1}


def test_what_needs_no_credentials_answers_alike_whatever_is_sent(empty_house: House) -> None:
    cells = 0
    credentials = [Sent(header) for header in HEADERS] + [Sent(query=members) for members in MEMBERS]
    credentials += [Sent(origin=page) for page in (SHOP, "https://evil.net", "null")]
    with Wire(empty_house.port) as wire:
        for (method, route), row in ROWS.items():
            if row.kind != "open":
                continue
            plain = ask(wire, Cell(method, row, Sent(), Verdict()))
            assert plain.status == OPEN_STATUS.get(row.path, 200), route
            for sent in credentials:
                heard = ask(wire, Cell(method, row, sent, Verdict()))
                assert heard.status == plain.status, (route, sent)
                if route != "/metrics":
                    assert alike(heard, plain), (route, sent)
                cells += 1
    assert empty_house.size() == 0
    note("cells", f"{cells:,} cells of the routes that need no credentials", "all answered alike")


def judge_operator(header: str | None) -> Verdict:
    """The operator API: a secret key in the header; nothing else counts, wherever it stands."""
    scheme, _, key = (header or "").strip().replace("\t", " ").partition(" ")
    key = key.strip()
    if scheme.lower() == "secret" and key:
        return by_secret(key)
    if scheme.lower() == "api-key" and key:
        return Verdict(says="an api key is not enough for the operator API")
    return Verdict(says="the Authorization header is not understood" if (header or "").strip() else "no credentials")


def test_who_may_operate_is_exactly_as_the_table_says(empty_house: House) -> None:
    accepted = refused = 0
    headers = [*HEADERS, *(f"Secret {key}" for tenant in TENANTS.values() for key in tenant.secrets)]
    headers += [f"Api-Key {key}" for tenant in TENANTS.values() for key in tenant.api_keys]
    with Wire(empty_house.port) as wire:
        for (method, route), row in OPERATING.items():
            for number, header in enumerate(headers):
                members = MEMBERS[number % len(MEMBERS)]
                sent = Sent(header, members, members, origin=SHOP)
                verdict = judge_operator(header)
                if row.for_operators and verdict.account and not TENANTS[verdict.account].operator:
                    verdict = Verdict(says="may not do that: it takes `operator = true` in the accounts file")
                heard = ask_operator(wire, Cell(method, row, sent, verdict))
                if verdict.account:
                    assert heard.status == (404 if "KEY" in row.path else 200), (route, header, heard)
                    accepted += 1
                elif method == "HEAD":
                    assert (heard.status, heard.body) == (401, b"")
                else:
                    check_refused(Cell(method, row, sent, verdict), heard)
                refused += not verdict.account
    assert empty_house.counts() == {}
    assert min(accepted, refused) > 20
    note("cells", f"{accepted + refused:,} cells of the operator API", f"{accepted:,} accepted, {refused:,} refused")


def ask_operator(wire: Wire, cell: Cell) -> Heard:
    query = "&".join(filter(None, [cell.row.query, urlencode(cell.sent.query)]))
    body = None if cell.row.body is None else dict(cell.row.body) | dict(cell.sent.body)
    target = cell.row.path.replace("KEY", UNKNOWN) + (f"?{query}" if query else "")
    if cell.row.path.endswith("_stream") and cell.verdict.account:
        return wire.first_line(cell.method, target, cell.sent.headers, body)
    return wire.ask(cell.method, target, cell.sent.headers, body)


def test_the_status_and_the_file_of_a_task_need_no_credentials_and_no_page(empty_house: House) -> None:
    with Wire(empty_house.port) as wire:
        headers = {"Authorization": "Secret beta-secret"}
        key = wire.ask("POST", "/v1/create_file", headers, {"task": FILE}).headers["location"].partition("?task=")[2]
        for sent in ({}, {"Authorization": "Secret alpha-secret-1"}, {"Origin": "https://evil.net"}):
            assert wire.ask("GET", f"/v1/status?tasks={key}", sent).json[0]["status"] == "queued"
            assert wire.ask("POST", "/v1/status", sent, {"tasks": key}).json[0]["status"] == "queued"
            assert wire.first_line("GET", f"/v1/stream?tasks={key}", sent, None).json[0]["status"] == "queued"
            assert wire.ask("GET", f"/v1/file?task={key}", sent).status == 302


METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "TRACE", "OPTIONS", "PROPFIND")


def test_every_method_that_a_path_does_not_have_is_a_405_whoever_asks(empty_house: House) -> None:
    by_path: dict[str, set[str]] = {}
    for (method, _), row in ROWS.items():
        by_path.setdefault(row.path, set()).add(method)
    cells = 0
    credentials: list[dict[str, str]] = [{}, {"Authorization": "Secret alpha-secret-1"}, {"Authorization": "Secret no"}]
    with Wire(empty_house.port) as wire:
        for (path, has), method, headers in itertools.product(by_path.items(), METHODS, credentials):
            if method in has:
                continue
            cells += 1
            body = {"tasks": HELLO, "task": FILE}
            heard = wire.ask(method, path.replace("KEY", UNKNOWN) + "?task_name=test.file", headers, body)
            if method == "OPTIONS":
                assert (heard.status, heard.body) == (204, b"")
                assert heard.headers["access-control-allow-origin"] == "*"
            else:
                assert heard.status == 405, (method, path)
                assert heard.headers["allow"] == ", ".join(sorted(has)), (method, path)
                assert method == "HEAD" or heard.json.keys() == {"status", "message"}
    assert empty_house.size() == 0
    note("cells", f"{cells:,} cells of methods that a path does not have", "all 405 with Allow, or the preflight")


@pytest.mark.parametrize(
    ("tenant", "tasks", "says", "waiting_helps"),
    [
        ("one-a-call", 2, "1 tasks in one call", False),
        ("none-queued", 1, "0 tasks queued at once", True),
        ("none-a-minute", 1, "0 tasks created per minute", True),
        ("no-bytes", 1, "0 bytes of output files stored", False),
    ],
)
def test_a_limit_of_the_account_is_a_401_that_creates_nothing_on_any_route(
    empty_house: House, tenant: str, tasks: int, says: str, waiting_helps: bool
) -> None:
    headers = {"Authorization": f"Secret {TENANTS[tenant].secrets[0]}"}
    with Wire(empty_house.port) as wire:
        for (method, _), row in GUARDED.items():
            if row.kind == "cancels" or (tasks > 1 and row.kind not in ("posts", "streams")):
                continue
            body = {"tasks": [HELLO] * tasks, "task": FILE} if method == "POST" else None
            heard = wire.ask(method, f"{row.path}?{row.query}", headers, body)
            assert (heard.status, heard.json["message"]) == (401, f"account limit reached: {says}"), row
            assert ("retry-after" in heard.headers) is waiting_helps
    assert empty_house.counts() == {}


def test_single_flight_and_idempotency_keys_end_at_the_border_of_the_account(empty_house: House) -> None:
    with Wire(empty_house.port) as wire:
        images, posts = [], []
        for name in ("alpha", "beta", "gamma"):
            headers = {"Authorization": f"Secret {TENANTS[name].secrets[0]}", "Idempotency-Key": "the same"}
            for _ in range(2):
                heard = wire.ask("GET", "/v1/create_file/a.txt?task_name=test.file&text=same", headers)
                images.append(heard.headers["location"].partition("?task=")[2])
                posts.append(wire.ask("POST", "/v1/create", headers, {"tasks": HELLO}).json[0]["key"])
        for keys in (images, posts):
            assert keys[::2] == keys[1::2]
            assert len(set(keys)) == 3
        assert empty_house.counts() == {"alpha": 2, "beta": 2, "gamma": 2}


# --- signed URLs ------------------------------------------------------------------------------------------------------

Meaning = tuple[bytes, bytes | None, dict[bytes, list[bytes]]]
REFUSED = {"status": "error", "message": "the signature of this URL is not valid, or its time is over"}


def meaning_of(target: bytes) -> Meaning | None:
    """What a target says, by RFC 3986 and the form encoding alone: path, filename, values by name; None: elsewhere."""
    if any(not 32 < byte < 127 for byte in target):
        return None  # no URL: other bytes are to be written as %XX
    path, _, query = target.partition(b"#")[0].partition(b"?")
    if b"#" in target.partition(b"?")[0]:
        return None  # no target of a request: a server may take it for a part of the path, or for the end of it
    parts = [unquoted(part) for part in path.split(b"/")]
    if parts[:2] != [b"", b"v1"] or len(parts) not in (3, 4) or parts[2] not in (b"create_file", b"file"):
        return None
    filename = parts[3] if len(parts) == 4 else None
    if len(parts) == 4 and not parts[3]:
        return None
    values: dict[bytes, list[bytes]] = {}
    for pair in query.split(b"&"):
        if pair:
            name, _, value = pair.replace(b"+", b" ").partition(b"=")
            values.setdefault(unquoted(name), []).append(unquoted(value))
    return parts[2], filename, values


def unquoted(text: bytes) -> bytes:
    head, *rest = text.split(b"%")
    found = [head]
    for piece in rest:
        try:
            found.append(
                bytes([int(piece[:2], 16)]) + piece[2:] if piece[:2].isalnum() and len(piece) > 1 else b"%" + piece
            )
        except ValueError:
            found.append(b"%" + piece)
    return b"".join(found)


class Mutations:
    """Changes of a signed URL: of any byte, of any parameter, of the path."""

    def __init__(self, chance: random.Random, others: list[bytes]) -> None:
        self._chance = chance
        self._others = others  # other signed URLs, whose parts are mixed in

    def one(self, url: bytes) -> bytes:
        kinds = [
            self.flip_a_bit, self.change_a_byte, self.insert, self.delete, self.cut, self.extend, self.reorder,
            self.double, self.drop, self.change_a_value, self.rename, self.case, self.quote_more, self.quote_less,
            self.quote_twice, self.swap_endpoint, self.filename, self.account, self.expiry, self.signature,
            self.add, self.move_a_border, self.mix, self.unicode, self.path, self.separators,
        ]  # fmt: skip
        changed = url
        for _ in range(self._chance.choice((1, 1, 1, 2, 3))):
            changed = self._chance.choice(kinds)(changed)
        return bytes(byte for byte in changed if byte not in b"\r\n \t\x0b\x0c") or b"/"

    def flip_a_bit(self, url: bytes) -> bytes:
        at = self._chance.randrange(len(url))
        return url[:at] + bytes([url[at] ^ 1 << self._chance.randrange(8)]) + url[at + 1 :]

    def change_a_byte(self, url: bytes) -> bytes:
        at = self._chance.randrange(len(url))
        return (
            url[:at]
            + self._chance.choice([b"%00", b"a", b"A", b"0", b"=", b"&", b";", b"%", b".", b"/"])
            + url[at + 1 :]
        )

    def insert(self, url: bytes) -> bytes:
        at = self._chance.randrange(len(url) + 1)
        return (
            url[:at] + self._chance.choice([b"%20", b"+", b"%0a", b"%00", b"&", b"&&", b"=", b"x", b"%2526"]) + url[at:]
        )

    def delete(self, url: bytes) -> bytes:
        at = self._chance.randrange(len(url))
        return url[:at] + url[at + self._chance.randint(1, 4) :]

    def cut(self, url: bytes) -> bytes:
        return url[: self._chance.randint(1, len(url))]

    def extend(self, url: bytes) -> bytes:
        return url + self._chance.choice([b"&", b"&x=1", b"#", b"#x", b"=", b"%3D", b"%00", b"A", b"&sig=", b"?", b"/"])

    def _parameters(self, url: bytes) -> tuple[bytes, list[bytes]]:
        path, _, query = url.partition(b"?")
        return path, query.split(b"&")

    def reorder(self, url: bytes) -> bytes:
        path, pairs = self._parameters(url)
        self._chance.shuffle(pairs)
        return path + b"?" + b"&".join(pairs)

    def double(self, url: bytes) -> bytes:
        path, pairs = self._parameters(url)
        pairs.insert(self._chance.randint(0, len(pairs)), self._chance.choice(pairs))
        return path + b"?" + b"&".join(pairs)

    def drop(self, url: bytes) -> bytes:
        path, pairs = self._parameters(url)
        pairs.pop(self._chance.randrange(len(pairs)))
        return path + b"?" + b"&".join(pairs)

    def _on_a_pair(self, url: bytes, name: bytes | None, change: Any) -> bytes:
        path, pairs = self._parameters(url)
        fitting = [i for i, pair in enumerate(pairs) if name is None or pair.startswith(name + b"=")]
        if fitting:
            at = self._chance.choice(fitting)
            pairs[at] = b"=".join(change(*(pairs[at].partition(b"=")[::2])))
        return path + b"?" + b"&".join(pairs)

    def change_a_value(self, url: bytes) -> bytes:
        values = [b"", b"x", b"0", b"1", b"null", b"true", b"%2e", b"../", b"http://evil.net/"]
        return self._on_a_pair(url, None, lambda name, _: (name, self._chance.choice(values)))

    def rename(self, url: bytes) -> bytes:
        return self._on_a_pair(
            url, None, lambda name, value: (name + self._chance.choice([b"s", b"[]", b"%00"]), value)
        )

    def case(self, url: bytes) -> bytes:
        return self._chance.choice([bytes.upper, bytes.swapcase, bytes.title])(url)

    def quote_more(self, url: bytes) -> bytes:
        def spell(name: bytes, value: bytes) -> tuple[bytes, bytes]:
            spelled = [b"%%%02x" % byte if self._chance.random() < 0.3 else bytes([byte]) for byte in unquoted(value)]
            safe = {b"&": b"%26", b"#": b"%23", b"+": b"%2B", b"%": b"%25"}
            return name, b"".join(quote(part).encode() if part[0] > 127 else safe.get(part, part) for part in spelled)

        return self._on_a_pair(url, None, spell)

    def quote_less(self, url: bytes) -> bytes:
        return self._on_a_pair(url, None, lambda name, value: (name, unquoted(value)))

    def quote_twice(self, url: bytes) -> bytes:
        return self._on_a_pair(url, None, lambda name, value: (name, value.replace(b"%", b"%25")))

    def swap_endpoint(self, url: bytes) -> bytes:
        one, other = b"/v1/create_file", b"/v1/file"
        return url.replace(one, other, 1) if url.startswith(one) else url.replace(other, one, 1)

    def filename(self, url: bytes) -> bytes:
        path, _, query = url.partition(b"?")
        head = b"/".join(path.split(b"/")[:3])
        name = self._chance.choice(
            [b"", b"/dog.jpg", b"/cat.png", b"/Cat.jpg", b"/cat.jpg%20", b"/null", b"/..", b"/%2e"]
        )
        return head + name + b"?" + query

    def account(self, url: bytes) -> bytes:
        names = [b"beta", b"gamma", b"delta", b"nothing", b"Alpha", b"alpha%20", b"", b"revoked", b"*", b"alpha%00"]
        return self._on_a_pair(url, b"account", lambda name, _: (name, self._chance.choice(names)))

    def expiry(self, url: bytes) -> bytes:
        def later(name: bytes, value: bytes) -> tuple[bytes, bytes]:
            moments = [b"0", b"-1", b"+" + value, b"0" + value, value + b"0", value + b".0", b"9" * 16, b"1e18", b"",
                       b"9" * 400, b"%D9%A1" + value]  # fmt: skip
            return name, self._chance.choice(moments)

        return self._on_a_pair(url, b"exp", later)

    def signature(self, url: bytes) -> bytes:
        def forged(name: bytes, value: bytes) -> tuple[bytes, bytes]:
            made = [b"", b"A" * 43, value + b"=", value + b"%3D", value[:-1], value[::-1], value.lower()]
            made += [b"%20" + value, value.replace(b"-", b"+").replace(b"_", b"/"), value.hex().encode()]
            return name, self._chance.choice(made)

        return self._on_a_pair(url, b"sig", forged)

    def add(self, url: bytes) -> bytes:
        names = [
            b"width",
            b"url",
            b"secret",
            b"api_key",
            b"task_name",
            b"referrer",
            b"sig",
            b"exp",
            b"account",
            b"SIG",
            b"",
        ]
        path, pairs = self._parameters(url)
        pairs.insert(self._chance.randint(0, len(pairs)), self._chance.choice(names) + b"=1")
        return path + b"?" + b"&".join(pairs)

    def move_a_border(self, url: bytes) -> bytes:
        marks = [i for i, byte in enumerate(url) if byte in b"?&=/"]
        at = self._chance.choice(marks or [0])
        to = self._chance.randrange(len(url))
        without = url[:at] + url[at + 1 :]
        return without[:to] + url[at : at + 1] + without[to:]

    def mix(self, url: bytes) -> bytes:
        """A parameter of another URL that is signed too: its signature, its time, its account."""
        other = dict(pair.partition(b"=")[::2] for pair in self._parameters(self._chance.choice(self._others))[1])
        return self._on_a_pair(url, None, lambda name, value: (name, other.get(name, value)))

    def unicode(self, url: bytes) -> bytes:
        tricks = ["e\u0301", "ｅ", "\u200b", "\ufeff", "İ", "ſ", "\u2044", "\u0000", "％41", "\U0001f409"]
        at = self._chance.randrange(len(url) + 1)
        return url[:at] + quote(self._chance.choice(tricks)).encode() + url[at:]

    def path(self, url: bytes) -> bytes:
        path, _, query = url.partition(b"?")
        places = [b"/." + path, b"/" + path, path + b"/", b"/x/.." + path, path.replace(b"/v1", b"/v2"), path + b";x"]
        places += [path.replace(b"_", b"%5F"), path.replace(b"/v1/", b"/v1//"), path.replace(b"/", b"%2F")]
        return self._chance.choice(places) + b"?" + query

    def separators(self, url: bytes) -> bytes:
        path, pairs = self._parameters(url)
        return path + b"?" + self._chance.choice([b";", b"&amp;", b"&&", b"%26", b","]).join(pairs)


def signed_urls(house: House, wire: Wire) -> list[bytes]:
    """Signed by the two tenants, for both calls, with and without a filename, with values that need quoting."""
    headers = {"Authorization": "Secret alpha-secret-1"}
    key = wire.ask("POST", "/v1/create_file", headers, {"task": FILE}).headers["location"].partition("?task=")[2]
    exp = int(time.time()) + 3600
    urls = []
    for account, secret in (("alpha", "alpha-secret-1"), ("alpha", "alpha-secret-2"), ("beta", "beta-secret")):
        for url in (
            "/v1/create_file/cat.jpg?task_name=test.file&text=a%20b%26c%3Dd&seconds=0",
            "/v1/create_file?task_name=test.file&text=%C3%A9t%C3%A9&extension=.txt",
            "/v1/create_file/gro%C3%9Fe%20katze.jpg?task_name=test.file",
            f"/v1/file/cat.jpg?task={key}",
            f"/v1/file?task={key}&task_name=test.file",  # has what create_file needs, too
        ):
            urls.append(sign_url(url, account, secret, exp).encode())
    return urls


@pytest.mark.timeout(900)
def test_no_changed_signed_url_is_accepted_unless_it_says_the_same(empty_house: House) -> None:
    chance = seeded()
    found: Counter[str] = Counter()
    wanted = scale(10_000, 1_000)
    with Wire(empty_house.port) as wire:
        originals = signed_urls(empty_house, wire)
        for url in originals:
            assert wire.ask("GET", url).status == 302, url
        before = empty_house.counts()
        assert before == {"alpha": 1 + 3, "beta": 3}, "created, and joined by the second key's URL"
        mutations = Mutations(chance, originals)
        meanings = [meaning_of(url) for url in originals]
        tried: set[bytes] = set(originals)
        while found["different"] < wanted:
            url = chance.choice(originals)
            changed = mutations.one(url)
            if changed in tried:
                continue
            tried.add(changed)
            found[check_mutation(wire, meanings, changed)] += 1
        assert empty_house.counts() == before, "a changed URL has created a task"
    assert found["same"] > wanted // 100, "some spellings of the same URL are to be among them"
    note(
        "mutations",
        f"{found['different']:,} changes of {len(originals)} signed URLs over HTTP that say something else; "
        f"{found['same']:,} other spellings of the same; {found['unsigned']:,} of /v1/file without a signature",
        "0 accepted; all other spellings of the same accepted",
        chance,
    )


def check_mutation(wire: Wire, originals: list[Meaning | None], changed: bytes) -> str:
    """Asks, and holds the answer against what the change means: different, same, or no longer signed (for /v1/file)."""
    heard = wire.ask("GET", changed)
    says = meaning_of(changed)
    assert heard.status in ((302, 400, 401, 404) if says else (200, 400, 401, 404, 405)), (changed, heard)
    if says in originals:
        assert heard.status == 302, (changed, heard)
        return "same"
    if says and says[0] == b"file" and b"sig" not in says[2]:
        return "unsigned"  # the task's key alone is the permission to read: no signature is needed there
    assert heard.status != 302, (changed, heard)
    if says and b"sig" in says[2] and heard.status != 401:
        assert (heard.status, "errors" in heard.json) == (400, True), (changed, heard)
    elif says and b"sig" in says[2]:
        assert heard.json == REFUSED, (changed, heard)
    return "different"
