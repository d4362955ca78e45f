"""Signed URLs: an image tag's permission without a key in it. HMAC-SHA256 with a key derived for signing alone."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit, urlunsplit

from dragon.errors import BadRequest, ParameterError

ACCOUNT_ID = re.compile(r"[a-z0-9][a-z0-9_-]{0,40}", re.ASCII)

Purpose = Literal["create_file", "file"]

_SIGNATURE_NAMES = frozenset({"account", "exp", "sig"})
_CREDENTIAL_NAMES = frozenset({"secret", "api_key"})
_EXPIRES = re.compile(r"[0-9]{1,16}", re.ASCII)
_SAFE_IN_PATH = "/%:@!$&'()*+,;=-._~"  # the rest of a path is written as %XX
_SIGNABLE_PATH = re.compile(r"(?:.*)/v1/(create_file|file)(?:/([^/]*))?", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Signed:
    """The querystring of a signed URL, taken apart; `parameters` holds all of it but the signature."""

    parameters: list[tuple[str, str]]
    account_id: str
    expires: int
    signature: str


def sign(
    purpose: Purpose,
    filename: str | None,
    parameters: Iterable[tuple[str, str]],
    account_id: str,
    secret: str,
    expires: int,
) -> list[tuple[str, str]]:
    """The parameters, then `account`, `exp` (unix time) and `sig`: the querystring of a URL that needs no key.

    The server keeps no secret key, only its hash, and the signing key is derived from that hash: whoever can read the
    accounts file can sign URLs (and nothing else). So its mode is 0600. Raises BadRequest for what cannot be signed.
    """
    given = list(parameters)
    for name, _ in given:
        if name in _SIGNATURE_NAMES:
            raise _unsignable(f"there is a parameter {name!r} in it: it is signed already")
        if name in _CREDENTIAL_NAMES:
            raise _unsignable(f"there is a key in it ({name!r}), that everybody would see: take it out")
    if not ACCOUNT_ID.fullmatch(account_id):
        raise BadRequest(ParameterError("account", "querystring", "this is not an account's id"))
    if not secret:
        raise BadRequest(ParameterError("secret", "querystring", "the secret key is empty"))
    if not 0 < expires < 10**16:
        raise BadRequest(ParameterError("exp", "querystring", "expires is a unix time in seconds"))
    given += [("account", account_id), ("exp", str(expires))]
    signature = _signature(key_digest(secret), _canonical(purpose, filename, given))
    return [*given, ("sig", signature.decode("ascii"))]


def sign_url(url: str, account_id: str, secret: str, expires: int) -> str:
    """Signs a whole URL, or the path of one: `/v1/create_file/cat.jpg?task_name=...`, `/v1/file/cat.jpg?task=KEY`.

    `expires` is a unix time in seconds. Raises BadRequest for what cannot be signed.
    """
    try:
        url.encode()  # an argument that is not UTF-8 comes with lone surrogates, that urlencode would stumble over
        parts = urlsplit(url)
        path = quote(parts.path, safe=_SAFE_IN_PATH)
        parameters = parse_qsl(parts.query, keep_blank_values=True, errors="strict")
        purpose, filename = _read_path(path)
    except UnicodeError:
        raise _unsignable("it is not UTF-8 once decoded") from None
    except ValueError as error:
        raise _unsignable(str(error)) from None
    # Written anew from what was read, so that every reader of querystrings reads the same.
    query = urlencode(sign(purpose, filename, parameters, account_id, secret, expires), quote_via=quote)
    return urlunsplit((parts.scheme, parts.netloc, path, query, parts.fragment))


def is_signed(query: Iterable[tuple[str, str]]) -> bool:
    """Tells whether a querystring claims a signature, so that `verify_signature` must decide about it."""
    return any(name == "sig" for name, _ in query)


def _read_path(path: str) -> tuple[Purpose, str | None]:
    found = _SIGNABLE_PATH.fullmatch(path)
    if found is None:
        raise ValueError("only /v1/create_file and /v1/file take a signature")
    return (
        "create_file" if found[1] == "create_file" else "file",
        None if found[2] is None else unquote(found[2], errors="strict"),
    )


def _unsignable(reason: str) -> BadRequest:
    return BadRequest(ParameterError("url", "path", f"this URL cannot be signed: {reason}"))


def split_signed(query: Sequence[tuple[str, str]]) -> Signed | None:
    """None unless account, exp and sig are there, once each, and exp is a number."""
    single = [(name, value) for name, value in query if name in _SIGNATURE_NAMES]
    values = dict(single)
    if len(single) != len(values) or values.keys() != _SIGNATURE_NAMES or not _EXPIRES.fullmatch(values["exp"]):
        return None
    parameters = [(name, value) for name, value in query if name != "sig"]
    return Signed(parameters, values["account"], int(values["exp"]), values["sig"])


def is_signed_by(
    signed: Signed, secret_hashes: Iterable[bytes], purpose: Purpose, filename: str | None, now: float
) -> bool:
    """Whether one of the secret keys signed exactly this, and its time (unix, seconds) is not over."""
    message = _canonical(purpose, filename, signed.parameters)
    given = _utf8(signed.signature)
    # Compared as text, so there is one accepted spelling; with each key, so that the time taken tells nothing.
    is_valid = [hmac.compare_digest(given, _signature(key, message)) for key in secret_hashes]
    return any(is_valid) and now < signed.expires


def _canonical(purpose: Purpose, filename: str | None, parameters: Iterable[tuple[str, str]]) -> bytes:
    """What is signed: JSON, whose quotes keep the parts apart, and which tells no filename (null) from an empty one.

    Parameters may come in any order, but values of the same name are a list, and their order is part of the meaning:
    sorted by name only.
    """
    ordered = sorted(([name, value] for name, value in parameters), key=lambda pair: pair[0])
    return _utf8(json.dumps([purpose, filename, ordered], ensure_ascii=False, separators=(",", ":")))


def _signature(secret_hash: bytes, message: bytes) -> bytes:
    """The `sig` of a message: 43 characters of unpadded base64url."""
    signing_key = hmac.digest(secret_hash, b"dragon url signing v1", "sha256")
    return base64.urlsafe_b64encode(hmac.digest(signing_key, message, "sha256")).rstrip(b"=")


def key_digest(key: str) -> bytes:
    return hashlib.sha256(_utf8(key)).digest()


def _utf8(text: str) -> bytes:
    # surrogatepass: headers that were not UTF-8 arrive as lone surrogates, which must not end in a 500.
    return text.encode("utf-8", "surrogatepass")
