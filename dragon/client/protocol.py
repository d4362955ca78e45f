"""What the two clients have in common and is no IO: requests, lines, when to try again, and what an answer means.

The verbs are generators (dragon/client/verbs.py): they yield the steps of this module, and are sent what came of them.
"""

from __future__ import annotations

import inspect
import json
import os
import random
import re
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Generic, NamedTuple, TypeVar
from urllib.parse import quote, urlencode, urlsplit

from dragon.client.errors import BadRequest, DragonClientError, Lost, NotFound, Refused, Unavailable
from dragon.errors import ParameterError

DEFAULT_URL = "http://127.0.0.1:8000"
BUFFERED = 60.0  # seconds that a client remembers that streams do not come through

_KEY = re.compile(r"[!-~]+")  # what can stand in a header
_PATH = re.compile(r"/[!-~]*")
_TEMPORARY = frozenset({408, 429, 502, 503, 504, *range(520, 531)})  # of a proxy's, too
_PORTS = {"http": 80, "https": 443}

T = TypeVar("T")
M = TypeVar("M", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Timing:
    """How long the clients wait for what; in seconds."""

    connect: float = 10.0  # for a connection
    heartbeat: float = 15.0  # the server's own setting `server.heartbeat`: it is never silent for longer
    first_line: float = 6.0  # for a stream's first byte; later, something on the way holds it back
    poll: float = 2.0  # of one long poll, where streams do not come through
    block: float = 25.0  # of one blocking call: below the limits of proxies
    retries: int = 5  # how often a call is tried again
    patience: float = 120.0  # for a server that is gone while tasks are followed
    backoff: float = 0.5  # the longest first pause; it doubles
    backoff_most: float = 10.0  # the longest pause

    @property
    def silence(self) -> float:
        """After so long without a byte a connection is given up."""
        return 2.5 * self.heartbeat


class Address(NamedTuple):
    """Where a server is."""

    scheme: str
    host: str  # an IPv6 address without its brackets
    port: int
    path: str = ""  # in front of /v1, without a slash at its end

    @property
    def origin(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}" + ("" if self.port == _PORTS[self.scheme] else f":{self.port}")

    @classmethod
    def read(cls, url: str) -> Address:
        """Takes a URL apart. Raises ValueError, which does not repeat it: there may be a password in it."""
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            raise ValueError("url is not a valid URL, write http://host:port") from None
        if parts.scheme not in _PORTS or not parts.hostname:
            raise ValueError("url must begin with http:// or https:// and a host")
        if parts.username is not None or parts.password is not None:
            raise ValueError("url has a user or password in it: give the key as `secret`")
        if parts.query or parts.fragment or not _PATH.fullmatch(parts.path or "/"):
            raise ValueError("url is the address of the server alone, without a query")
        return cls(parts.scheme, parts.hostname, port or _PORTS[parts.scheme], parts.path.rstrip("/"))


@dataclass(frozen=True, slots=True)
class Request:
    """One request. Credentials are not in it: the client adds them to those that need them."""

    method: str
    address: Address
    target: str  # path and querystring, as sent
    silence: float  # seconds to wait for the answer's head
    body: bytes | None = None
    idempotency_key: str = ""
    authorized: bool = False
    repeatable: bool = True  # whether the server does the same when it gets it twice


class Head(NamedTuple):
    """The beginning of an answer; names of headers in small letters."""

    status: int
    headers: Mapping[str, str]


class Open(NamedTuple):
    """A step: send a request; comes to the Head of its answer. An answer that is still open is left."""

    request: Request


class Read(NamedTuple):
    """A step: wait for bytes of the answer; comes to b"" at its end."""

    timeout: float


class Sleep(NamedTuple):
    """A step: wait; an open answer is left."""

    seconds: float


class Give(NamedTuple, Generic[T]):
    """A step: hand something to the caller of the verb."""

    item: T


Step = Open | Read | Sleep
#: A verb that returns something. What fails is thrown into it: Lost, or what must not be tried again.
Flow = Generator[Step, Any, T]
#: A verb that gives several things, one after the other.
Giving = Generator[Step | Give[T], Any, None]


def named_as(verb: Callable[..., Any], method: M) -> M:
    """Gives a client's method the name, the words and the parameters of its verb."""
    signature = inspect.signature(verb)
    _, *parameters = signature.parameters.values()
    this = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    method.__name__ = verb.__name__
    method.__doc__ = verb.__doc__
    method.__signature__ = signature.replace(parameters=[this, *parameters])  # type: ignore[attr-defined]
    return method


class Core:
    """What one client knows: the address, the credentials, and whether streams come through."""

    def __init__(
        self,
        url: str | None = None,
        *,
        secret: str | None = None,
        api_key: str | None = None,
        origin: str | None = None,
        account: str = "",
        timing: Timing | None = None,
        clock: Callable[[], float] = time.monotonic,
        chance: random.Random | None = None,
    ) -> None:
        if secret is not None and api_key is not None:
            raise ValueError("give secret or api_key, not both")
        if secret is None and api_key is None:
            secret = os.environ.get("DRAGON_SECRET") or None
        self.address = Address.read(url or os.environ.get("DRAGON_URL") or DEFAULT_URL)
        self.account = account
        self.secret = secret
        self.timing = timing or Timing()
        self.clock = clock
        self.chance = chance or random.SystemRandom()
        self._buffered_until = 0.0
        self._credentials = _credentials(secret, api_key, origin)

    def __repr__(self) -> str:
        return f"{self.address.origin}{self.address.path}"

    def headers(self, request: Request) -> dict[str, str]:
        """All headers of a request; the only place where a key is put into something."""
        headers = {"Accept": "*/*", "Accept-Encoding": "identity"}
        if request.body is not None:
            headers["Content-Type"] = "application/json"
        if request.idempotency_key:
            headers["Idempotency-Key"] = request.idempotency_key
        return headers | self._credentials if request.authorized else headers

    def request(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        query: Mapping[str, Any] | None = None,
        silence: float = 0.0,
        idempotency_key: str = "",
        authorized: bool = False,
        repeatable: bool = True,
    ) -> Request:
        """A request to the server; `path` is below the server's address and may have a querystring."""
        if not _PATH.fullmatch(path):
            raise ValueError(f"a path begins with / and is URL-encoded, this is none: {path!r}")
        pairs = query_pairs(query or {})
        return Request(
            method,
            self.address,
            self.address.path + path + (f"?{urlencode(pairs, quote_via=quote)}" if pairs else ""),
            silence or self.timing.silence,
            None if body is None else json.dumps(body, allow_nan=False).encode(),
            idempotency_key,
            authorized,
            repeatable,
        )

    def new_idempotency_key(self) -> str:
        """Names one creation, so that it can be repeated when its answer was lost."""
        return f"{self.chance.getrandbits(128):032x}"

    def trouble(self) -> Trouble:
        return Trouble(self.timing, self.clock, self.chance)

    @property
    def is_buffered(self) -> bool:
        """Whether streams did not come through a moment ago."""
        return self.clock() < self._buffered_until

    def note_buffering(self) -> None:
        self._buffered_until = self.clock() + BUFFERED


def _credentials(secret: str | None, api_key: str | None, origin: str | None) -> dict[str, str]:
    for name, value in (("secret", secret), ("api_key", api_key), ("origin", origin)):
        if value is not None and not _KEY.fullmatch(value):  # a line break or the like; http.client would repeat it
            raise ValueError(f"{name} is empty or has characters in it that it cannot have")
    headers = {"Origin": origin} if origin else {}
    if secret is not None:
        headers["Authorization"] = f"Secret {secret}"
    if api_key is not None:
        headers["Authorization"] = f"Api-Key {api_key}"
    return headers


def query_pairs(parameters: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Parameters as a querystring has them: None is left out, lists are repeated. Raises ValueError."""
    pairs = []
    for name, value in parameters.items():
        for item in value if isinstance(value, list | tuple) else [value]:
            if item is not None:
                pairs.append((name, _query_text(name, item)))
    return pairs


def _query_text(name: str, value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, date):  # and datetime
        return value.isoformat()
    if isinstance(value, str | int | float):
        return str(value)
    raise ValueError(f"{name} cannot stand in a URL: give text, numbers, true or false, or lists of them")


class Trouble:
    """Decides how long to wait after an error, and when it has been enough: backoff with full jitter."""

    def __init__(self, timing: Timing, clock: Callable[[], float], chance: random.Random) -> None:
        self._timing = timing
        self._clock = clock
        self._chance = chance
        self._count = 0  # errors in a row
        self._since: float | None = None  # when the first of them was
        self._is_patient = False

    def heard(self) -> None:
        """The server is there, and knows what is wanted: from now on it may be gone for a while."""
        self._is_patient = True
        self._since = None

    def over(self) -> None:
        """There was something new: the next error is the first one."""
        self.heard()
        self._count = 0

    def pause(self, error: DragonClientError) -> float:
        """Seconds to wait before the next try; raises the error when there is to be none."""
        self._count += 1
        now = self._clock()
        self._since = now if self._since is None else self._since
        is_enough = (
            now - self._since > self._timing.patience if self._is_patient else self._count > self._timing.retries
        )
        asked = error.retry_after
        if is_enough or (asked or 0) > self._timing.patience or (isinstance(error, Refused) and asked is None):
            raise error
        longest = min(self._timing.backoff_most, self._timing.backoff * 2.0 ** min(self._count - 1, 30))
        return (asked or 0.0) + self._chance.uniform(0, longest)


@dataclass
class Lines:
    """Cuts bytes, split anywhere, into lines; lines of white space are heartbeats and left out."""

    _pieces: list[bytes] = field(default_factory=list)  # of the line that is not whole yet

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that are whole now. What follows the last line break waits for the rest of it."""
        first, *others = data.split(b"\n")
        self._pieces.append(first)
        if not others:
            return []
        lines = [b"".join(self._pieces), *others[:-1]]
        self._pieces = [others[-1]]
        return [line for line in lines if line.strip()]


def read_values(lines: Iterable[bytes]) -> list[Any]:
    """The JSON values of lines. Raises Lost for anything else, which a stream does not have unless it was damaged."""
    try:
        return [json.loads(line) for line in lines]
    except ValueError:
        raise Lost("the stream is damaged: a line of it is no JSON") from None


def read_answer(head: Head, body: bytes) -> Any:
    """The JSON of an answer of 200. Raises what any other means."""
    if head.status != 200:
        raise error_of(head, body)
    try:
        return json.loads(body)
    except ValueError:
        if is_json(head):
            raise Lost("the answer was cut") from None
        kind = head.headers.get("content-type", "no type")
        raise DragonClientError(f"this is not a dragon: the answer is no JSON ({kind})", http_status=200) from None


def is_json(head: Head) -> bool:
    return "json" in head.headers.get("content-type", "")


def error_of(head: Head, body: bytes) -> DragonClientError:
    """What an answer that is not 200 means."""
    status, waiting = head.status, retry_after(head.headers.get("retry-after"))
    said = _json_or_none(body)
    told = said if isinstance(said, dict) else {}
    message = told.get("message")
    text = message if isinstance(message, str) else _plain_text(head)
    if status in (401, 403):
        return Refused(text, http_status=status, retry_after=waiting)
    if status == 400:
        return BadRequest(_parameter_errors(told.get("errors")), text)
    if status in (404, 410):
        return NotFound(text, http_status=status)
    kind = Unavailable if status in _TEMPORARY else DragonClientError
    return kind(text, http_status=status, retry_after=waiting)


def _json_or_none(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return None


def _plain_text(head: Head) -> str:
    if 300 <= head.status < 400:
        parts = urlsplit(head.headers.get("location", ""))
        return f"the server redirects to {parts.scheme}://{parts.netloc}{parts.path}: check the address of the client"
    return f"the server answered with HTTP status {head.status}"


def _parameter_errors(value: object) -> list[ParameterError]:
    items = [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
    return [
        ParameterError(*(str(item.get(name, "")) for name in ("name", "location", "description"))) for item in items
    ]


def retry_after(text: str | None) -> float | None:
    """Seconds to wait by a Retry-After header, which says seconds or a date; None when it says nothing."""
    if not text:
        return None
    if text.strip().isdecimal():
        return float(text)
    try:
        until = parsedate_to_datetime(text)
    except ValueError:
        return None
    return max(0.0, (until.replace(tzinfo=until.tzinfo or UTC) - datetime.now(UTC)).total_seconds())


def reason_of(error: BaseException) -> str:
    """Why a connection failed, in a few words."""
    if isinstance(error, OSError) and error.errno is not None and error.errno > 0:
        return os.strerror(error.errno)
    return str(getattr(error, "strerror", None) or error or type(error).__name__)
