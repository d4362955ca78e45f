"""Who sent a request: accounts, their hashed keys, credentials. Knows nothing of aiohttp."""

from __future__ import annotations

import difflib
import hmac
import logging
import re
import time
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dragon.config import Config, is_loopback
from dragon.errors import ConfigError, Unauthorized
from dragon.referrers import Referrer, parse_page, parse_referrer, shown_page
from dragon.signing import ACCOUNT_ID, Purpose, is_signed_by, key_digest, split_signed

log = logging.getLogger("dragon.auth")

MOST_SECRETS = 2  # secret keys of one account: the present one and the next, while clients change over

_NO_CREDENTIALS = (
    "no credentials: send a secret key ('Authorization: Secret KEY', or the parameter 'secret'), "
    "or an api key ('Authorization: Api-Key KEY', or the parameter 'api_key') from a page on the account's whitelist"
)
_HEADER_NOT_UNDERSTOOD = (
    "the Authorization header is not understood: write 'Authorization: Secret KEY' or 'Authorization: Api-Key KEY'"
)
_OPERATOR_NEEDS_KEY = "no credentials: the operator API takes a secret key, in the header 'Authorization: Secret KEY'"
_API_KEY_IS_NOT_ENOUGH = "an api key is not enough for the operator API: send a secret key, 'Authorization: Secret KEY'"
_BAD_SIGNATURE = "the signature of this URL is not valid, or its time is over"


# --- Facts ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Limits:
    """What an account may use; None is unlimited."""

    tasks_queued: int | None = None  # waiting at once
    tasks_per_minute: int | None = None  # created
    tasks_per_call: int | None = None
    bytes_stored: int | None = None  # of output files
    streams: int | None = None  # open at once, waiting calls included, in one server process


@dataclass(frozen=True, slots=True)
class Account:
    """One table of the accounts file. The hashes are SHA-256 digests."""

    id: str
    name: str | None = None
    secret_hashes: tuple[bytes, ...] = field(default=(), repr=False)
    api_key_hashes: tuple[bytes, ...] = field(default=(), repr=False)
    referrers: tuple[Referrer, ...] = ()
    keyless_images: bool = False
    loopback_only: bool = False
    limits: Limits = Limits()
    operator: bool = False  # its secret keys see and change the tasks of all accounts

    def whitelists(self, page: str | None) -> bool:
        """Tells whether the page, an Origin or Referer as received, is on the account's whitelist."""
        parsed = None if page is None else parse_page(page)
        return parsed is not None and any(referrer.covers(parsed) for referrer in self.referrers)


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a request said about its sender. Never printed: the keys are in the clear."""

    secret: str | None = field(default=None, repr=False)
    api_key: str | None = field(default=None, repr=False)
    page: str | None = None  # Origin or Referer, as received
    unread_header: bool = False  # there is an Authorization header of some other kind

    @property
    def missing(self) -> bool:
        """Tells whether no key came with the request (then a GET create_file may ask `Accounts.keyless`)."""
        return self.secret is None and self.api_key is None


# --- Reading a request's credentials ----------------------------------------------------------------------------------


def read_credentials(
    headers: Mapping[str, str], body: Mapping[str, Any] | None = None, query: Mapping[str, str] | None = None
) -> Credentials:
    """Reads the credentials: the first place that has any counts, the header before the body before the querystring.

    `headers` must be case-insensitive; `query` is to be given for GET only. Raises Unauthorized when a key in the body
    is not a string.
    """
    page = _read_page(headers)
    header = headers.get("Authorization", "").strip()
    from_header = _read_authorization(header)
    if from_header is not None:
        kind, key = from_header
        return Credentials(key if kind == "secret" else None, key if kind == "api-key" else None, page)
    unread = bool(header)
    for place, members in (("body", body), ("querystring", query)):
        secret = _read_key(members or {}, "secret", place)
        api_key = _read_key(members or {}, "api_key", place)
        if secret is not None or api_key is not None:
            return Credentials(secret, api_key, page, unread)
    return Credentials(None, None, page, unread)


def _read_authorization(header: str) -> tuple[str, str] | None:
    scheme, *rest = header.split(None, 1) or [""]
    return (scheme.lower(), rest[0]) if rest and scheme.lower() in ("secret", "api-key") else None


def _read_key(members: Mapping[str, Any], name: str, place: str) -> str | None:
    key = members.get(name)
    if key is None or key == "":
        return None  # a template that was not filled in is no credential
    if not isinstance(key, str):
        raise Unauthorized(f"{name!r} in the {place} must be a string, in quotes")
    return key


def _read_page(headers: Mapping[str, str]) -> str | None:
    """Origin, unless it is null (a sandboxed page, a redirect), else Referer; "null" when that is all there is."""
    page = None
    for name in ("Origin", "Referer", "Referrer"):
        found = headers.get(name)
        if found is None or not (found := found.strip(" \t")):
            continue
        if found.lower() != "null":
            return found
        page = page or found
    return page


# --- The accounts -----------------------------------------------------------------------------------------------------


class Accounts:
    """The accounts of the file, and the answer to who sent a request."""

    def __init__(self, path: Path) -> None:
        """Reads the file. Raises ConfigError that names what is wrong: a server must not start with half a file."""
        self._path = path
        self._loopback = True
        self._stamp = _stamp(path)
        self._accounts = read_accounts(path)

    def __iter__(self) -> Iterator[Account]:
        return iter(self._accounts.values())

    def get(self, account_id: str) -> Account | None:
        return self._accounts.get(account_id)

    def refresh(self) -> None:
        """Reads the file again if it changed; costs one stat otherwise, so it may be called for every request.

        A file that is broken, or gone, is logged once and the accounts stay as they were.
        """
        stamp = _stamp(self._path)
        if stamp == self._stamp:
            return
        self._stamp = stamp  # taken before reading: a change in between is seen the next time
        try:
            accounts = read_accounts(self._path)
            if not self._loopback:
                _refuse_loopback_only(accounts.values())
        except ConfigError as error:
            log.error("accounts: not read again, the old ones stay: %s", error)
            return
        self._accounts = accounts
        log.info("accounts: read again, %d of them", len(accounts))

    def forbid_loopback_only(self) -> None:
        """Refuses accounts that are for this machine only, now and in every later version of the file.

        Raises ConfigError that says what to do.
        """
        _refuse_loopback_only(self)
        self._loopback = False

    def authenticate(self, credentials: Credentials) -> Account:
        """The account that the credentials belong to. Raises Unauthorized that says what failed."""
        if credentials.secret is not None:
            return self._by_secret(credentials.secret)
        if credentials.api_key is not None:
            return self._by_api_key(credentials.api_key, credentials.page)
        raise Unauthorized(_HEADER_NOT_UNDERSTOOD if credentials.unread_header else _NO_CREDENTIALS)

    def authenticate_operator(self, headers: Mapping[str, str]) -> Account:
        """The account of a call of the operator API: by a secret key in the header, for pages hold api keys only.

        Raises Unauthorized that says what failed.
        """
        credentials = read_credentials(headers)
        if credentials.secret is not None:
            return self._by_secret(credentials.secret)
        if credentials.api_key is not None:
            raise Unauthorized(_API_KEY_IS_NOT_ENOUGH)
        raise Unauthorized(_HEADER_NOT_UNDERSTOOD if credentials.unread_header else _OPERATOR_NEEDS_KEY)

    def keyless(self, page: str | None) -> Account:
        """The account of a GET create_file without credentials: the one that allows it and whitelists the page.

        Raises Unauthorized when none or several do.
        """
        willing = [account for account in self if account.keyless_images]
        found = [account for account in willing if account.whitelists(page)]
        if len(found) == 1:
            return found[0]
        if not willing or page is None:
            raise Unauthorized(_NO_CREDENTIALS)
        reason = "several accounts claim" if found else "no account allows images without a key on"
        raise Unauthorized(f"no credentials, and {reason} the page {shown_page(page)}")

    def verify_signature(
        self,
        purpose: Purpose,
        filename: str | None,
        query: Sequence[tuple[str, str]],
        now: float | None = None,
    ) -> Account:
        """The account that signed this URL. `query` is the whole querystring, decoded, in its order.

        Raises Unauthorized, always with the same words, for anything but an unchanged URL whose time is not over.
        """
        signed = split_signed(query)
        account = signed and self._accounts.get(signed.account_id)
        moment = time.time() if now is None else now
        if signed and account and is_signed_by(signed, account.secret_hashes, purpose, filename, moment):
            return account
        raise Unauthorized(_BAD_SIGNATURE)

    def _by_secret(self, secret: str) -> Account:
        account = self._holder(secret, lambda account: account.secret_hashes)
        if account is None:
            raise Unauthorized("unknown secret key")
        return account

    def _by_api_key(self, api_key: str, page: str | None) -> Account:
        account = self._holder(api_key, lambda account: account.api_key_hashes)
        if account is None:
            raise Unauthorized("unknown api key")
        if page is None:
            raise Unauthorized(
                "an api key counts only together with the page that sends the request, "
                "and there is no Origin or Referer header"
            )
        if not account.whitelists(page):
            raise Unauthorized(f"the page {shown_page(page)} is not on the account's whitelist")
        return account

    def _holder(self, key: str, hashes: Callable[[Account], tuple[bytes, ...]]) -> Account | None:
        """Compares with every key of every account, without stopping at the right one: time must tell nothing."""
        digest = key_digest(key)
        found = None
        for account in self:
            for candidate in hashes(account):
                if hmac.compare_digest(digest, candidate):
                    found = account
        return found


def check_loopback(accounts: Accounts, config: Config) -> None:
    """Refuses to serve an account whose keys everybody knows (the demo account) to other machines.

    Raises ConfigError that says what to do. Later versions of the accounts file are held to it too.
    """
    if not config.listens_on_loopback:
        accounts.forbid_loopback_only()
        return
    public = parse_page(config.public_url)
    if not (public and is_loopback(public.host.strip("[]"))) and any(account.loopback_only for account in accounts):
        # Behind a proxy that is fine for a try and bad for a service; the server cannot tell which it is.
        log.warning(
            "accounts: public_url is %s, and an account is active whose keys everybody knows", config.public_url
        )


def _refuse_loopback_only(accounts: Iterable[Account]) -> None:
    for account in accounts:
        if account.loopback_only:
            raise ConfigError(
                f"the account {account.id!r} is for this machine only (loopback_only), because everybody knows its "
                f"keys: remove it with `dragon account revoke {account.id}` and make your own with "
                "`dragon account new NAME`, or listen on 127.0.0.1"
            )


# --- The accounts file ------------------------------------------------------------------------------------------------


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _LimitsTable(_Table):
    tasks_queued: int | None = Field(None, ge=0)
    tasks_per_minute: int | None = Field(None, ge=0)
    tasks_per_call: int | None = Field(None, ge=0)
    bytes_stored: int | None = Field(None, ge=0)
    streams: int | None = Field(None, ge=0)


class _AccountTable(_Table):
    name: str | None = None
    secrets: list[str] = Field([], max_length=MOST_SECRETS)
    api_keys: list[str] = []
    referrers: list[str] = []
    keyless_images: bool = False
    loopback_only: bool = False
    operator: bool = False
    limits: _LimitsTable = _LimitsTable()


_KEY_HASH = re.compile(r"sha256:([0-9a-f]{64})", re.ASCII | re.IGNORECASE)


def hash_key(key: str) -> str:
    """A key as the accounts file holds it.

    A plain hash, without salt or stretching, is right here: keys are 192 random bits (`dragon account new`), which
    nobody guesses however fast a guess is.
    """
    return f"sha256:{key_digest(key).hex()}"


def read_accounts(path: Path) -> dict[str, Account]:
    """Reads the accounts file. Raises ConfigError that names the file, the account and what is wrong with it."""
    try:
        text = path.read_bytes().decode("utf-8")
    except OSError as error:
        raise ConfigError(f"cannot read the accounts file {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not UTF-8") from None
    return parse_accounts(text, str(path))


def parse_accounts(text: str, source: str) -> dict[str, Account]:
    """Reads the text of an accounts file; `source` names it in a ConfigError."""
    try:
        tables = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # of tomllib, and of int() for thousands of digits
        raise ConfigError(f"{source} is not valid TOML: {error}") from None
    try:
        accounts = {account_id: _read_account(account_id, table) for account_id, table in tables.items()}
        _refuse_shared_keys(accounts.values())
    except ValueError as error:
        raise ConfigError(f"{source}: {error}") from None
    return accounts


def _read_account(account_id: str, table: object) -> Account:
    if not ACCOUNT_ID.fullmatch(account_id):
        raise ValueError(f"{account_id!r} cannot be an account: a-z, 0-9, - and _, 41 characters at most")
    try:
        read = _AccountTable.model_validate(table)
    except ValidationError as error:
        raise ValueError(f"account {account_id!r}: {_describe(error)}") from None
    return Account(
        id=account_id,
        name=read.name,
        secret_hashes=_read_hashes(account_id, "secrets", read.secrets),
        api_key_hashes=_read_hashes(account_id, "api_keys", read.api_keys),
        referrers=_read_referrers(account_id, read.referrers),
        keyless_images=read.keyless_images,
        loopback_only=read.loopback_only,
        limits=Limits(**read.limits.model_dump()),
        operator=read.operator,
    )


def _read_hashes(account_id: str, member: str, texts: list[str]) -> tuple[bytes, ...]:
    hashes = []
    for text in texts:
        found = _KEY_HASH.fullmatch(text)
        if found is None:  # what stands there is not quoted: it may be a key in the clear
            raise ValueError(f"account {account_id!r}: {member}: write 'sha256:' and 64 hex digits, not the key itself")
        hashes.append(bytes.fromhex(found[1]))
    return tuple(hashes)


def _read_referrers(account_id: str, entries: list[str]) -> tuple[Referrer, ...]:
    try:
        return tuple(parse_referrer(entry) for entry in entries)
    except ValueError as error:
        raise ValueError(f"account {account_id!r}: referrers: {error}") from None


def _refuse_shared_keys(accounts: Iterable[Account]) -> None:
    """A key says who sends and what may be done: one that stands twice, or is both kinds, would say neither."""
    owners: dict[bytes, str] = {}
    for account in accounts:
        for digest in account.secret_hashes + account.api_key_hashes:
            if digest in owners:
                raise ValueError(f"account {account.id!r}: one of its keys stands in {owners[digest]!r} already")
            owners[digest] = account.id


def _describe(error: ValidationError) -> str:
    known = [*_AccountTable.model_fields, *(f"limits.{name}" for name in _LimitsTable.model_fields)]
    lines = []
    for item in error.errors(include_input=False, include_url=False):
        name = ".".join(str(part) for part in item["loc"])
        if item["type"] == "extra_forbidden":
            close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(known)}"
            lines.append(f"there is no {name!r}: {hint}")
        elif not name:
            lines.append("must be a table, [name] with its settings below it")
        else:
            lines.append(f"{name}: {item['msg']}")
    return "; ".join(lines)


def _stamp(path: Path) -> tuple[int, int, int] | None:
    """Differs when the file was written or replaced; None while it cannot be found."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
