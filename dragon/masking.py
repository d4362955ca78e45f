"""What may be shown of parameters: without the secrets that their names, and the URLs in them, give away."""

from __future__ import annotations

import re
from typing import Any

MASK = "…"

#: A name is a secret's when it has one of these anywhere, or one of the words below as a word of its own.
_PARTS = re.compile(
    r"token|secret|passw|passphrase|signature|authori[sz]ation|credential|api_?-?key|access_?-?key|private_?-?key",
    re.IGNORECASE,
)
_WORDS = frozenset({"key", "keys", "sig", "pwd", "pass", "auth", "bearer", "cookie", "cookies", "session", "otp"})
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_GAP = re.compile(r"([\s\"'<>]+)")  # between the URLs in a text
_QUERY_PAIR = re.compile(r"([?&;#])([^=&;#\s\"'<>]{1,100})=([^&;#\s\"'<>]*)")


def is_secret(name: str) -> bool:
    """Whether the name of a parameter looks like a secret's: apiKey, access_token, X-Amz-Signature; not keyword."""
    return bool(_PARTS.search(name)) or any(word.lower() in _WORDS for word in _WORD.findall(name))


def masked(value: Any) -> Any:
    """A JSON value with what looks secret replaced by `…`, at any depth."""
    if isinstance(value, dict):
        return {
            name: MASK if is_secret(name) and member not in (None, "") else masked(member)
            for name, member in value.items()
        }
    if isinstance(value, list):
        return [masked(member) for member in value]
    return masked_text(value) if isinstance(value, str) else value


def masked_text(text: str) -> str:
    """A text whose URLs have no passwords and no signatures any more."""
    if "://" in text:
        text = "".join(map(_without_user, _GAP.split(text)))
    if "=" in text:
        text = _QUERY_PAIR.sub(_masked_pair, text)
    return text


def _without_user(url: str) -> str:
    """Wherever a slash in a password seems to end the authority: up to the last @."""
    scheme, mark, rest = url.partition("://")
    return f"{scheme}{mark}{MASK}@{rest.rpartition('@')[2]}" if mark and "@" in rest else url


def _masked_pair(found: re.Match[str]) -> str:
    mark, name, value = found.groups()
    return f"{mark}{name}={MASK}" if value and is_secret(name) else found[0]
