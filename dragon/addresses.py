"""Which addresses and hosts downloads may reach: the public ones, and those that the settings allow."""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from dragon.errors import ConfigError

IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network

# A table of our own, because `is_global` of the supported Pythons differs, and holds multicast, NAT64, 6to4 and the
# like for public. Sources: IANA's IPv4 and IPv6 special-purpose registries, RFC 6890 and the RFCs named here.
_NOT_PUBLIC_IPV4 = tuple(
    IPv4Network(network)
    for network in (
        "0.0.0.0/8",  # "this network"; 0.0.0.0 reaches this machine on Linux
        "10.0.0.0/8",
        "100.64.0.0/10",  # carrier-grade NAT; 100.100.100.200 is Alibaba's metadata
        "127.0.0.0/8",
        "168.63.129.16/32",  # Azure's virtual public address of the host: agents and metadata
        "169.254.0.0/16",  # link-local; 169.254.169.254 is metadata in most clouds
        "172.16.0.0/12",
        "192.0.0.0/24",  # protocol assignments; 192.0.0.192 is Oracle's metadata
        "192.0.2.0/24",  # documentation
        "192.31.196.0/24",  # AS112, and below AMT relays: anycast, answered by whoever is near, perhaps inside
        "192.52.193.0/24",
        "192.88.99.0/24",  # 6to4 relays (RFC 7526)
        "192.168.0.0/16",
        "192.175.48.0/24",  # AS112
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, and broadcast
    )
)

# The only block that public unicast addresses come from. What is outside needs no entry: ::/96 (IPv4-compatible),
# ::ffff:0:0/96 (IPv4-mapped), 64:ff9b::/96 and 64:ff9b:1::/48 (NAT64), 100::/64, 5f00::/16 (SRv6), fc00::/7, fe80::/10,
# fec0::/10 (site-local), ff00::/8.
_GLOBAL_UNICAST = IPv6Network("2000::/3")
_NOT_PUBLIC_IPV6 = tuple(
    IPv6Network(network)
    for network in (
        "2001::/23",  # protocol assignments: Teredo, ORCHID, benchmarks, AMT, AS112
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4: any IPv4 address in disguise
        "2620:4f:8000::/48",  # AS112
        "3ffe::/16",  # the former 6bone
        "3fff::/20",  # documentation (RFC 9637)
    )
)


def is_public(address: IPAddress) -> bool:
    """Tells whether an address belongs to the public Internet; every form that embeds an IPv4 address does not."""
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _NOT_PUBLIC_IPV4)
    if address.scope_id is not None or _is_isatap(address):
        return False
    return address in _GLOBAL_UNICAST and not any(address in network for network in _NOT_PUBLIC_IPV6)


def _is_isatap(address: IPv6Address) -> bool:
    # RFC 5214: the interface identifier 0000:5efe or 0200:5efe and an IPv4 address, below any prefix.
    return (int(address) >> 32) & 0xFDFFFFFF == 0x00005EFE


# Underscores are no host name by the book, but names in use have them.
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\.?")
#: Name resolution reads a name whose last label is a number as an IPv4 address (127.1, 0x7f.1, 2130706433).
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_NAME_LIMIT = 253  # characters


def plain_host(host: str) -> str | None:
    """The one plain spelling of a URL's host (without brackets), lower case; None if it is spelled any other way."""
    try:
        return str(ip_address(host)) if "%" not in host else None
    except ValueError:
        return _plain_name(host.lower()) if host.isascii() else None


def _plain_name(name: str) -> str | None:
    if len(name) > _NAME_LIMIT or not _NAME.fullmatch(name):
        return None
    return None if _NUMBER.fullmatch(name.rstrip(".").rpartition(".")[2]) else name


#: Endings that public name servers do not answer for (RFC 6761, 6762, 8375; ICANN's "internal"; common habit).
_INTERNAL_ENDINGS = frozenset(
    {"arpa", "corp", "home", "internal", "intranet", "invalid", "lan", "local", "localdomain", "localhost", "private"}
)


def is_internal_name(host: str) -> bool:
    """Tells whether a name can only be known inside a network, so that even its absence is nobody's business."""
    name = host.rstrip(".")
    if ":" in name:
        return False  # an address
    return "." not in name or name.rpartition(".")[2] in _INTERNAL_ENDINGS


class AllowList:
    """The setting `fetch.allow`: networks and hosts that may be reached although they are not public.

    Entries are networks ("10.1.0.0/16"), single addresses, host names, and "*.NAME" for all names below NAME (not NAME
    itself). Raises ConfigError that names a malformed entry.
    """

    def __init__(self, entries: Iterable[str]) -> None:
        self._networks: list[IPNetwork] = []
        self._hosts: set[str] = set()
        self._endings: list[str] = []
        for entry in entries:
            self._add(entry)

    def _add(self, entry: str) -> None:
        try:
            self._networks.append(ip_network(entry))
            return
        except ValueError as error:
            reason = str(error)
        name = _plain_name(entry.lower().removeprefix("*."))
        if name is None:
            raise ConfigError(
                f"setting 'fetch.allow': {entry!r} is neither a network, an address, a host name nor *.NAME ({reason})"
            )
        name = name.rstrip(".")
        if entry.startswith("*."):
            self._endings.append("." + name)
        else:
            self._hosts.add(name)

    @property
    def has_networks(self) -> bool:
        """Whether any address is allowed that is not public."""
        return bool(self._networks)

    def has_address(self, address: IPAddress) -> bool:
        """Tells whether connections to an address are allowed."""
        return any(address in network for network in self._networks)

    def has_host(self, host: str) -> bool:
        """Tells whether a host (as plain_host spells it) may be reached whatever it resolves to."""
        name = host.rstrip(".")
        return name in self._hosts or any(name.endswith(ending) for ending in self._endings)
