"""Where the server is and who asks: DRAGON_URL, DRAGON_SECRET, and the options that every command on a server has."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeVar
from urllib.parse import urlsplit

import click

DEFAULT_URL = "http://127.0.0.1:8000"
#: The demo account's keys: everybody knows them, and they count on this machine only.
DEMO_SECRET, DEMO_API_KEY = "123456", "654321"

F = TypeVar("F", bound=Callable[..., object])


class Access(NamedTuple):
    """A server's address and the secret key for it."""

    url: str
    secret: str | None
    is_demo: bool = False  # nobody gave a key, and the demo account's is tried


def access_options(command: F) -> F:
    """Adds --server and --secret-file, and passes an Access as `access`.

    A key is never an argument itself: every user of the machine can see those.
    """

    @click.option("--server", "server_url", metavar="URL", help=f"The server.  [DRAGON_URL, {DEFAULT_URL}]")
    @click.option("--secret-file", metavar="FILE", help="A file that holds the secret key.  [DRAGON_SECRET]")
    @functools.wraps(command)
    def run(server_url: str | None, secret_file: str | None, **arguments: object) -> object:
        url = server_url or os.environ.get("DRAGON_URL") or DEFAULT_URL
        return command(access=find_access(url, secret_file), **arguments)

    return run  # type: ignore[return-value]


def find_access(url: str, secret_file: str | None) -> Access:
    """The file before the environment before the demo account's key, which is for this machine."""
    if secret_file is not None:
        return Access(url, _read_secret(secret_file))
    if secret := os.environ.get("DRAGON_SECRET"):
        return Access(url, secret)
    return Access(url, DEMO_SECRET, is_demo=True) if is_here(url) else Access(url, None)


def is_here(url: str) -> bool:
    """Whether a URL leads to this machine."""
    try:
        host = urlsplit(url if "://" in url else f"http://{url}").hostname or ""
    except ValueError:
        return False
    return host in ("localhost", "::1") or host.startswith("127.")


def _read_secret(path: str) -> str:
    try:
        secret = Path(path).read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise click.UsageError(f"--secret-file {path} cannot be read: {reason}") from None
    if not secret:
        raise click.UsageError(f"--secret-file {path} is empty: it is to hold the secret key")
    return secret
