"""Pages that requests come from, and the whitelist entries that cover them: parsed hosts, never substrings."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from functools import lru_cache

import idna

PAGE_LIMIT = 8192  # characters of an Origin or Referer that is looked at
HOST_LIMIT = 253  # characters, RFC 1035
SHOWN_LIMIT = 100  # characters of a page in a message


@dataclass(frozen=True, slots=True)
class Page:
    """The origin of a page, normalised; `port` is None only where the scheme has no port of its own."""

    scheme: str
    host: str  # lower-case A-labels without a trailing dot, an IPv4 address, or an IPv6 address in brackets
    port: int | None

    def __str__(self) -> str:
        is_default = self.port == _DEFAULT_PORTS.get(self.scheme)
        return f"{self.scheme}://{self.host}" + ("" if is_default else f":{self.port}")


@dataclass(frozen=True, slots=True)
class Referrer:
    """One entry of an account's whitelist; None means any."""

    scheme: str | None  # None: http and https; the hosts of other schemes (android-app:) are not hosts of the web
    host: str  # as Page.host
    port: int | None
    subdomains: bool  # of `host`, and not `host` itself

    def covers(self, page: Page) -> bool:
        return self._covers_host(page.host) and self._covers_scheme(page.scheme) and self.port in (None, page.port)

    def _covers_host(self, host: str) -> bool:
        return host.endswith("." + self.host) if self.subdomains else host == self.host

    def _covers_scheme(self, scheme: str) -> bool:
        return scheme in _DEFAULT_PORTS if self.scheme is None else scheme == self.scheme


_DEFAULT_PORTS = {"http": 80, "https": 443}

# Not urlsplit: it takes evil.net\@example.com for example.com, where a browser goes to evil.net, and drops tabs.
_SCHEME = r"(?P<scheme>[a-z][a-z0-9+.-]*)://"
_HOST_AND_PORT = r"(?P<host>\[[^\[\]]*\]|[^:@/?#\\\[\]]+)(?::(?P<port>[0-9]*))?"
_PAGE = re.compile(rf"{_SCHEME}(?:[^@/?#\\\[\]]*@)?{_HOST_AND_PORT}(?:[/?#].*)?", re.ASCII | re.IGNORECASE | re.DOTALL)
_ENTRY = re.compile(rf"(?:{_SCHEME})?(?P<wildcard>\*\.)?{_HOST_AND_PORT}", re.ASCII | re.IGNORECASE)
_SPACE_OR_CONTROL = re.compile(r"[\x00-\x20\x7f]")
_LABEL = re.compile(r"[a-z0-9_-]{1,63}", re.ASCII)
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*", re.ASCII)


@lru_cache(1024)  # a site's pages send the same origin with every request
def parse_page(text: str) -> Page | None:
    """The origin of the page whose URL (or origin) this is; None when it is malformed, `null` included."""
    if len(text) > PAGE_LIMIT or _SPACE_OR_CONTROL.search(text):
        return None
    found = _PAGE.fullmatch(text)
    if found is None:
        return None
    scheme = found["scheme"].lower()
    try:
        port = _normal_port(found["port"])
        return Page(scheme, _normal_host(found["host"]), _DEFAULT_PORTS.get(scheme) if port is None else port)
    except ValueError:
        return None


def parse_referrer(entry: str) -> Referrer:
    """Reads an entry of a whitelist. Raises ValueError that says what an entry looks like."""
    found = None if _SPACE_OR_CONTROL.search(entry) else _ENTRY.fullmatch(entry)
    try:
        if found is None or found["port"] == "":
            raise ValueError
        host = _normal_host(found["host"])
        if found["wildcard"] and _is_address(host):
            raise ValueError
        scheme = found["scheme"] and found["scheme"].lower()
        return Referrer(scheme, host, _normal_port(found["port"]), bool(found["wildcard"]))
    except ValueError:
        raise ValueError(
            f"{entry!r} names no pages: write example.com, example.com:8000, https://example.com, "
            "https://example.com:8000, [::1] or *.example.com, without a path"
        ) from None


def _normal_port(text: str | None) -> int | None:
    if not text:
        return None
    port = int(text)
    if not 0 < port <= 65535:
        raise ValueError("no such port")
    return port


def _normal_host(text: str) -> str:
    """One spelling for each host, the one that browsers send. Raises ValueError for what no browser goes to."""
    if len(text) > HOST_LIMIT + 1:
        raise ValueError("too long")
    if text.startswith("["):
        return _normal_ipv6(text[1:-1])
    # UTS 46 as browsers do it. Python's own codec is of 2003: it makes another domain, strasse.de, of straße.de.
    host = text if text.isascii() else idna.encode(text, uts46=True).decode("ascii")
    host = host.lower().removesuffix(".")
    labels = host.split(".")
    if len(host) > HOST_LIMIT or not all(_LABEL.fullmatch(label) for label in labels):
        raise ValueError("not a host")
    # A host that ends in a number is an IPv4 address or nothing; browsers never send 127.1 or 0x7f000001.
    return str(ipaddress.IPv4Address(host)) if _NUMBER.fullmatch(labels[-1]) else host


def _normal_ipv6(text: str) -> str:
    address = ipaddress.IPv6Address(text)
    if address.scope_id is not None:
        raise ValueError("a zone is not part of an origin")
    return f"[{address.compressed}]"


def _is_address(host: str) -> bool:
    return host.startswith("[") or _NUMBER.fullmatch(host.rpartition(".")[2]) is not None


def shown_page(page: str) -> str:
    """A received page as a message may show it: only its origin (a path or userinfo may hold secrets), cut short."""
    parsed = parse_page(page)
    text = str(parsed) if parsed is not None else _origin_part(page[:PAGE_LIMIT])
    text = "".join(character for character in text if character.isprintable())
    return text if len(text) <= SHOWN_LIMIT else text[:SHOWN_LIMIT] + "..."


def _origin_part(malformed: str) -> str:
    found = re.match(rf"(?:{_SCHEME})?", malformed, re.ASCII | re.IGNORECASE)
    scheme = found[0] if found else ""
    return scheme + re.split(r"[/?#\\]", malformed[len(scheme) :], maxsplit=1)[0].rpartition("@")[2]
