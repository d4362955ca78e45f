"""What counts as a public address, how hosts are spelled, and the setting fetch.allow."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dragon.addresses import AllowList, is_internal_name, is_public, plain_host
from dragon.errors import ConfigError

UNHURRIED = settings(deadline=None)

NOT_PUBLIC_IPV4 = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "168.63.129.16/32",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.31.196.0/24",
    "192.52.193.0/24",
    "192.88.99.0/24",
    "192.168.0.0/16",
    "192.175.48.0/24",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/4",
    "240.0.0.0/4",
]
NOT_PUBLIC_IPV6 = [
    "::/96",
    "::ffff:0:0/96",
    "64:ff9b::/96",
    "64:ff9b:1::/48",
    "100::/64",
    "2001::/32",
    "2001:2::/48",
    "2001:10::/28",
    "2001:20::/28",
    "2001:30::/28",
    "2001:db8::/32",
    "2001:3::/32",
    "2001:4:112::/48",
    "2002::/16",
    "2620:4f:8000::/48",
    "3ffe::/16",
    "3fff::/20",
    "5f00::/16",
    "fc00::/7",
    "fe80::/10",
    "fec0::/10",
    "ff00::/8",
]
PUBLIC = [
    "1.1.1.1",
    "8.8.8.8",
    "9.255.255.255",
    "11.0.0.0",
    "100.63.255.255",
    "100.128.0.0",
    "126.255.255.255",
    "128.0.0.0",
    "168.63.129.15",
    "168.63.129.17",
    "169.253.255.255",
    "169.255.0.0",
    "172.15.255.255",
    "172.32.0.0",
    "192.0.1.0",
    "192.167.255.255",
    "192.169.0.0",
    "198.17.255.255",
    "198.20.0.0",
    "223.255.255.255",
    "2001:200::",
    "2001:4860:4860::8888",
    "2003::1",
    "2606:4700:4700::1111",
    "2a00:1450:4001:82a::200e",
]


@pytest.mark.parametrize("text", PUBLIC)
def test_an_address_of_the_public_internet_is_public(text: str) -> None:
    assert is_public(ip_address(text))


@pytest.mark.parametrize("network", NOT_PUBLIC_IPV4)
def test_both_ends_of_every_special_ipv4_network_are_refused(network: str) -> None:
    block = IPv4Network(network)
    assert not is_public(block[0])
    assert not is_public(block[-1])


@pytest.mark.parametrize("network", NOT_PUBLIC_IPV6)
def test_both_ends_of_every_special_ipv6_network_are_refused(network: str) -> None:
    block = IPv6Network(network)
    assert not is_public(block[0])
    assert not is_public(block[-1])


@pytest.mark.parametrize(
    "text",
    [
        "169.254.169.254",  # most clouds
        "100.100.100.200",  # Alibaba
        "192.0.0.192",  # Oracle
        "168.63.129.16",  # Azure
        "fd00:ec2::254",  # Amazon
        "fd20:ce::254",  # Google
    ],
)
def test_the_metadata_services_of_clouds_are_refused(text: str) -> None:
    assert not is_public(ip_address(text))


@UNHURRIED
@given(st.sampled_from(NOT_PUBLIC_IPV4).flatmap(lambda network: st.ip_addresses(network=network)))
def test_no_address_of_a_special_ipv4_network_is_public(address: IPv4Address) -> None:
    assert not is_public(address)


@UNHURRIED
@given(st.sampled_from(NOT_PUBLIC_IPV6).flatmap(lambda network: st.ip_addresses(network=network)))
def test_no_address_of_a_special_ipv6_network_is_public(address: IPv6Address) -> None:
    assert not is_public(address)


@UNHURRIED
@given(st.ip_addresses(v=4), st.integers(0, 2**32 - 1))
def test_no_ipv6_form_of_an_ipv4_address_is_public(address: IPv4Address, rest: int) -> None:
    low = int(address)
    forms = {
        "compatible": low,
        "mapped": 0xFFFF << 32 | low,
        "translated (RFC 2765)": 0xFFFF << 48 | low,
        "NAT64": int(IPv6Address("64:ff9b::")) | low,
        "local NAT64": int(IPv6Address("64:ff9b:1::")) | low,
        "6to4": 0x2002 << 112 | low << 80 | rest,
        "Teredo's client": 0x20010000 << 96 | rest << 64 | (low ^ 0xFFFFFFFF),
        "Teredo's server": 0x20010000 << 96 | low << 64 | rest,
        "ISATAP": int(IPv6Address("2a00:1450::")) | 0x5EFE << 32 | low,
        "ISATAP, global": int(IPv6Address("2a00:1450::")) | 0x2005EFE << 32 | low,
    }
    assert [name for name, form in forms.items() if is_public(IPv6Address(form))] == []


@UNHURRIED
@given(st.ip_addresses())
def test_what_is_public_here_is_global_to_the_standard_library(address: IPv4Address | IPv6Address) -> None:
    assert not is_public(address) or (address.is_global and not address.is_multicast)


def test_an_address_with_a_zone_is_not_public() -> None:
    assert is_public(IPv6Address("2606:4700:4700::1111"))
    assert not is_public(IPv6Address("2606:4700:4700::1111%eth0"))


@pytest.mark.parametrize(
    ("host", "plain"),
    [
        ("example.com", "example.com"),
        ("EXAMPLE.com", "example.com"),
        ("example.com.", "example.com."),
        ("my_bucket.example.com", "my_bucket.example.com"),
        ("xn--bcher-kva.de", "xn--bcher-kva.de"),
        ("3com.com", "3com.com"),
        ("1.2.3.4.example", "1.2.3.4.example"),
        ("localhost", "localhost"),
        ("8.8.8.8", "8.8.8.8"),
        ("2606:4700:0:0::1111", "2606:4700::1111"),
        ("::FFFF:127.0.0.1", "::ffff:7f00:1"),
    ],
)
def test_a_plain_host_has_one_spelling(host: str, plain: str) -> None:
    assert plain_host(host) == plain


@pytest.mark.parametrize(
    "host",
    [
        "",
        ".",
        "..",
        "a..b",
        ".a",
        "a..",
        "-a.com",
        "a-.com",
        "a b",
        "a/b",
        "a%2eb",
        "a,b",
        "a*b",
        "bücher.de",
        "①.1.1.1",
        "127.1",
        "127.0.0.1.",
        "127.0.0.01",
        "0177.0.0.1",
        "0x7f.0.0.1",
        "0x7f000001",
        "2130706433",
        "1.2.3.4.5",
        "256.1.1.1",
        "a.0x",
        "a.1",
        "fe80::1%eth0",
        "example.com%00",
        "a" * 64 + ".com",
        "a." * 127,
    ],
)
def test_any_other_spelling_of_a_host_is_none(host: str) -> None:
    assert plain_host(host) is None


@pytest.mark.parametrize("host", ["db", "localhost", "db.internal", "x.y.local", "printer.lan.", "10.in-addr.arpa"])
def test_names_that_only_a_network_knows_are_internal(host: str) -> None:
    assert is_internal_name(host)


@pytest.mark.parametrize("host", ["example.com", "local.example.com", "internal.org.", "8.8.8.8", "2606:4700::1111"])
def test_names_of_the_public_tree_are_not_internal(host: str) -> None:
    assert not is_internal_name(host)


def test_an_allowed_network_allows_its_addresses_only() -> None:
    allow = AllowList(["127.0.0.0/8", "::1/128", "10.0.0.5", "fd00::7"])
    texts = ["127.0.0.1", "127.255.255.255", "128.0.0.0", "::1", "::2", "10.0.0.5", "10.0.0.6", "fd00::7"]
    allowed = [text for text in texts if allow.has_address(ip_address(text))]
    assert allowed == ["127.0.0.1", "127.255.255.255", "::1", "10.0.0.5", "fd00::7"]
    assert not allow.has_address(ip_address("::ffff:127.0.0.1"))


def test_an_allowed_host_allows_its_name_only() -> None:
    allow = AllowList(["Media.Internal", "*.cdn.internal."])
    names = [
        "media.internal",
        "media.internal.",
        "x.media.internal",
        "cdn.internal",
        "a.cdn.internal",
        "a.b.cdn.internal.",
    ]
    assert [name for name in names if allow.has_host(name)] == [
        "media.internal",
        "media.internal.",
        "a.cdn.internal",
        "a.b.cdn.internal.",
    ]
    assert not allow.has_host("xcdn.internal")
    assert not allow.has_host("127.0.0.1")
    assert not allow.has_address(ip_address("127.0.0.1"))


@pytest.mark.parametrize(
    "entry",
    [
        "",
        "*",
        "*.",
        "*.*.example.com",
        "*.10.0.0.1",
        "10.0.0.0/33",
        "10.0.0.1/8",
        "10.0.0",
        "127.1",
        "2130706433",
        "[::1]",
        "::1/129",
        "http://media.internal",
        "media.internal:80",
        "media.internal/",
        "media internal",
        "a..b",
    ],
)
def test_a_malformed_entry_is_named(entry: str) -> None:
    with pytest.raises(ConfigError) as error:
        AllowList(["127.0.0.0/8", entry])
    assert error.value.message.startswith(f"setting 'fetch.allow': {entry!r} is neither ")
