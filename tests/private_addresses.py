"""Where no download may go: spellings of addresses inside a network, and canaries that notice who comes all the same.

`PORT` stands for the canary's. For names, the tests' resolvers answer with the canary's addresses.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator

REFUSED_URLS = [
    # IPv4, plain
    "http://127.0.0.1:PORT/",
    "http://127.0.0.2:PORT/",
    "http://127.255.255.255:PORT/",
    "http://0.0.0.0:PORT/",
    "HTTP://127.0.0.1:PORT/",
    "http://127.0.0.1:PORT",
    "http://127.0.0.1:PORT?x",
    "http://127.0.0.1:PORT#x",
    "http://127.0.0.1:0PORT/",
    "https://127.0.0.1:PORT/",
    "http://10.0.0.1:PORT/",
    "http://169.254.169.254:PORT/latest/meta-data/",
    # IPv4, in disguise
    "http://127.1:PORT/",
    "http://127.0.1:PORT/",
    "http://0:PORT/",
    "http://0x7f.1:PORT/",
    "http://0x7f.0.0.1:PORT/",
    "http://0X7F.0.0.1:PORT/",
    "http://0x7f000001:PORT/",
    "http://0177.0.0.1:PORT/",
    "http://0177.0.0.01:PORT/",
    "http://017700000001:PORT/",
    "http://00000177.0.0.1:PORT/",
    "http://2130706433:PORT/",
    "http://6425673729:PORT/",
    "http://127.0.0.1.:PORT/",
    "http://127.0.0.1..:PORT/",
    "http://127.0.0.01:PORT/",
    "http://127.0.0.1%00:PORT/",
    "http://127.0.0.1%20:PORT/",
    "http://%31%32%37.0.0.1:PORT/",
    "http://127%2e0%2e0%2e1:PORT/",
    "http://127。0。0。1:PORT/",
    "http://127．0．0．1:PORT/",
    "http://１２７.０.０.１:PORT/",
    "http://①②⑦.⓪.⓪.①:PORT/",
    "http://𝟏𝟐𝟕.𝟎.𝟎.𝟏:PORT/",
    "http://١٢٧.0.0.1:PORT/",
    "http://2130706433.:PORT/",
    # IPv6
    "http://[::1]:PORT/",
    "http://[0:0:0:0:0:0:0:1]:PORT/",
    "http://[0000:0000:0000:0000:0000:0000:0000:0001]:PORT/",
    "http://[::]:PORT/",
    "http://[::127.0.0.1]:PORT/",
    "http://[::ffff:127.0.0.1]:PORT/",
    "http://[::FFFF:7f00:1]:PORT/",
    "http://[0:0:0:0:0:ffff:127.0.0.1]:PORT/",
    "http://[::ffff:0:127.0.0.1]:PORT/",
    "http://[64:ff9b::127.0.0.1]:PORT/",
    "http://[64:ff9b:1::127.0.0.1]:PORT/",
    "http://[2002:7f00:1::]:PORT/",
    "http://[2001:0:7f00:1::]:PORT/",
    "http://[fe80::1%25lo]:PORT/",
    "http://[fe80::1%lo]:PORT/",
    "http://[::1%25lo]:PORT/",
    "http://[::1%lo]:PORT/",
    "http://[fd00::1]:PORT/",
    "http://[ff02::1]:PORT/",
    "http://[127.0.0.1]:PORT/",
    "http://[v1.127.0.0.1]:PORT/",
    "http://[::1]x:PORT/",
    "http://x[::1]:PORT/",
    "http://[[::1]]:PORT/",
    "http://[::1:PORT/",
    "http://::1:PORT/",
    "http://[①::1]:PORT/",
    # what clouds and networks keep for themselves
    "http://169.254.0.23:PORT/",
    "http://169.254.42.42:PORT/",
    "http://168.63.129.16:PORT/",
    "http://100.100.100.200:PORT/",
    "http://192.0.0.192:PORT/",
    "http://[fd00:ec2::254]:PORT/",
    "http://[fd20:ce::254]:PORT/",
    "http://[fd00:c1::a9fe:a9fe]:PORT/",
    "http://metadata.google.internal:PORT/",
    "http://172.17.0.1:PORT/",
    "http://192.168.0.1:PORT/",
    "http://100.64.0.1:PORT/",
    "http://198.18.0.1:PORT/",
    "http://192.88.99.1:PORT/",
    "http://192.31.196.1:PORT/",
    "http://224.0.0.1:PORT/",
    "http://239.255.255.250:PORT/",
    "http://240.0.0.1:PORT/",
    "http://255.255.255.255:PORT/",
    "http://0xa9fea9fe:PORT/",
    "http://2852039166:PORT/",
    "http://0251.0376.0251.0376:PORT/",
    "http://169.254.43518:PORT/",
    "http://169.16689662:PORT/",
    # an IPv4 address inside an IPv6 one
    "http://[::7f00:1]:PORT/",
    "http://[::ffff:a9fe:a9fe]:PORT/",
    "http://[::ffff:0:7f00:1]:PORT/",
    "http://[64:ff9b::a9fe:a9fe]:PORT/",
    "http://[64:ff9b:1:7f00:0:100::]:PORT/",
    "http://[2002:a9fe:a9fe::1]:PORT/",
    "http://[2001:0:a9fe:a9fe::]:PORT/",
    "http://[2001::80ff:fffe]:PORT/",
    "http://[2a00:1450::5efe:7f00:1]:PORT/",
    "http://[2a00:1450::200:5efe:127.0.0.1]:PORT/",
    "http://[100::1]:PORT/",
    "http://[2001:db8::1]:PORT/",
    "http://[3fff::1]:PORT/",
    "http://[5f00::1]:PORT/",
    "http://[fec0::1]:PORT/",
    "http://[fe80::1]:PORT/",
    "http://[ff05::1:3]:PORT/",
    "http://[2620:4f:8000::1]:PORT/",
    # names: every one of them resolves to the canary
    "http://localhost:PORT/",
    "http://LocalHost:PORT/",
    "http://localhost.:PORT/",
    "http://localhost..:PORT/",
    "http://ⓛⓞⓒⓐⓛⓗⓞⓢⓣ:PORT/",
    "http://ｌｏｃａｌｈｏｓｔ:PORT/",
    "http://loc\u00adalhost:PORT/",
    "http://localhost%00.example.com:PORT/",
    "http://127.0.0.1.nip.example:PORT/",
    "http://rebinding.example:PORT/",
    "http://REBINDING.example.:PORT/",
    "http://bücher.example:PORT/",
    "http://a_b.example:PORT/",
    "http://localhost.localdomain:PORT/",
    "http://ip6-localhost:PORT/",
    "http://x.localhost:PORT/",
    "http://127-0-0-1.example:PORT/",
    "http://7f000001.example:PORT/",
    "http://xn--bcher-kva.example:PORT/",
    "http://db.corp.example:PORT/",
    "https://db.corp.example:PORT/",
    # what readers of URLs disagree on
    "http://127.0.0.1:PORT\\@example.com/",
    "http://example.com\\@127.0.0.1:PORT/",
    "http:\\\\127.0.0.1:PORT/",
    "http://127.0.0.1:PORT\\.example.com/",
    "http:127.0.0.1:PORT/",
    "http:/127.0.0.1:PORT/",
    "http:///127.0.0.1:PORT/",
    "//127.0.0.1:PORT/",
    "127.0.0.1:PORT/",
    " http://127.0.0.1:PORT/",
    "http://127.0.0.1 :PORT/",
    "http:// 127.0.0.1:PORT/",
    "http://127.0.\t0.1:PORT/",
    "http://127.0.0.1\n:PORT/",
    "http://127.0.0.1\r\nX:PORT/",
    "ht\ttp://127.0.0.1:PORT/",
    "http://127.0.0.1\x00:PORT/",
    "http://127.0.0.1:PORT:PORT/",
    "http://127.0.0.1:+PORT/",
    "http://127.0.0.1:PORT\ud800/",
    "http://127.0.0.1,example.com:PORT/",
    "http://127.0.0.1;example.com:PORT/",
    "http://127.0.0.1&example.com:PORT/",
    "http://(127.0.0.1):PORT/",
    "http://public@127.0.0.1:PORT/",
    "http://public:80@127.0.0.1:PORT/",
    "http://public%40127.0.0.1:PORT/",
    "http://public#@127.0.0.1:PORT/",
    "http://public?@127.0.0.1:PORT/",
    "http://public/@127.0.0.1:PORT/",
    "http://127.0.0.1:PORT#@example.com/",
    "http://127.0.0.1:PORT?@example.com/",
    "http://127.0.0.1:PORT%2f@example.com/",
    "http://127.0.0.1:PORT%23@example.com/",
    "http://[::ffff:127.0.0.1]:PORT@example.com/",
    "http:////127.0.0.1:PORT/",
    "http://\u2025127.0.0.1:PORT/",
    "http://127.0.0.1\u2024:PORT/",
    "http://127.0.0.1\uff0f@example.com:PORT/",
    "http://127.0.0.1\u200b:PORT/",
    "http://\u202e1.0.0.721:PORT/",
    # other schemes
    "ftp://127.0.0.1:PORT/",
    "file://127.0.0.1:PORT/etc/passwd",
    "ws://127.0.0.1:PORT/",
    "tcp://127.0.0.1:PORT/",
    "unix://127.0.0.1:PORT/",
    "gopher://127.0.0.1:PORT/_",
    "httpx://127.0.0.1:PORT/",
    "http+unix://127.0.0.1:PORT/",
    "view-source:http://127.0.0.1:PORT/",
    "file:///etc/passwd",
    "data:text/plain,secret",
    "dict://127.0.0.1:PORT/stats",
    "ldap://127.0.0.1:PORT/",
    "smb://127.0.0.1:PORT/x",
    "unix:/var/run/docker.sock",
    "redis://127.0.0.1:PORT/0",
    "netdoc:///etc/passwd",
    "jar:http://127.0.0.1:PORT/!/",
    "blob:http://127.0.0.1:PORT/x",
    "javascript:fetch('http://127.0.0.1:PORT/')",
]


@contextlib.contextmanager
def canary(
    port: int = 0, hosts: tuple[str, ...] = ("127.0.0.1", "127.0.0.2", "::1")
) -> Iterator[tuple[int, Callable[[], int]]]:
    """Listens on one port of several addresses; gives the port, and what counts who connected, even without a word."""
    with contextlib.ExitStack() as stack:
        sockets: list[socket.socket] = []
        for host in hosts:
            listening = stack.enter_context(socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET))
            listening.bind((host, port))
            port = listening.getsockname()[1]
            listening.listen()
            listening.setblocking(False)
            sockets.append(listening)

        def count() -> int:
            hits = 0
            for listening in sockets:
                with contextlib.suppress(BlockingIOError):
                    while True:
                        listening.accept()[0].close()
                        hits += 1
            return hits

        yield port, count
