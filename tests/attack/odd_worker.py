"""run_worker.py in a world of its own: names stand for what the tests say, and 127.0.0.2 counts as public.

`python tests/attack/odd_worker.py [--executors N]`. All else is the real worker with the guard's own code. Without the
injected address no test could redirect from a public host to a private one without the Internet.
"""

from __future__ import annotations

import contextlib
import socket
import sys
from ipaddress import ip_address
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from dragon import fetch
from dragon.addresses import IPAddress, is_public

PUBLIC = "127.0.0.2"
look_up = socket.getaddrinfo


def counts_as_public(address: IPAddress) -> bool:
    return address == ip_address(PUBLIC) or is_public(address)


def answer(host: Any, port: Any, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0) -> Any:
    """`public.example` is the public host, `nowhere...` is not there, and any other name means the canary."""
    with contextlib.suppress(socket.gaierror):
        return look_up(host, port, family, type, proto, flags | socket.AI_NUMERICHOST)
    if str(host).startswith("nowhere"):
        raise socket.gaierror(socket.EAI_NONAME, "the test says so")
    addresses = [PUBLIC] if str(host).rstrip(".") == "public.example" else ["127.0.0.1", "::1"]
    return [look_up(address, port, family, type, proto, flags)[0] for address in addresses]


if __name__ == "__main__":
    from dragon.cli import run
    from dragon.cli.processes import worker

    socket.getaddrinfo = answer
    fetch.Fetcher.__init__.__kwdefaults__["is_public"] = counts_as_public  # type: ignore[index]
    run(worker, "odd_worker.py")
