"""Where the server is and who asks: DRAGON_URL, DRAGON_SECRET, and what every command on a server has in common."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

import click

from dragon.errors import EXIT_NO_PERMISSION, EXIT_UNAVAILABLE

if TYPE_CHECKING:  # imported where it is used: `--help` needs none of it
    from dragon.client import Dragon

DEFAULT_URL = "http://127.0.0.1:8000"
#: The demo account's keys: everybody knows them, and they count on this machine only.
DEMO_SECRET, DEMO_API_KEY = "123456", "654321"
EXIT_FAILED = 1  # a task ended in an error, or what was asked for is not there
EXIT_INTERRUPTED = 130  # as shells have it for a program that Ctrl-C ended

SERVER = "dragon.cli.server"  # in click's `meta`: the server's address

F = TypeVar("F", bound=Callable[..., object])


class Access(NamedTuple):
    """A server's address and the secret key for it."""

    url: str
    secret: str | None
    is_demo: bool = False  # nobody gave a key, and the demo account's is tried


class ServerAway(click.ClickException):
    """The server cannot be asked."""

    exit_code = EXIT_UNAVAILABLE


class NotPermitted(click.ClickException):
    """The server does not know the key, or lets it do no more."""

    exit_code = EXIT_NO_PERMISSION


def on_a_server(*, needs_secret: bool) -> Callable[[F], F]:
    """Adds --server and --secret-file to a command and passes it a `client`; its failures become sentences.

    A key is never an argument itself: every user of the machine can see those.
    """

    def adds(command: F) -> F:
        @click.option("--server", "server_url", metavar="URL", help=f"The server.  [DRAGON_URL, {DEFAULT_URL}]")
        @click.option("--secret-file", metavar="FILE", help="A file that holds the secret key.  [DRAGON_SECRET]")
        @functools.wraps(command)
        def run(server_url: str | None, secret_file: str | None, **arguments: Any) -> None:
            access = find_access(server_url or os.environ.get("DRAGON_URL") or DEFAULT_URL, secret_file)
            click.get_current_context().meta[SERVER] = access.url
            if needs_secret:
                _check_secret(access)
            with readable_failures(access), open_client(access) as client:
                command(client=client, **arguments)

        return run  # type: ignore[return-value]

    return adds


def find_access(url: str, secret_file: str | None) -> Access:
    """The file before the environment before the demo account's key, which is for this machine."""
    url = url if "://" in url else f"http://{url}"
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


def _check_secret(access: Access) -> None:
    if access.secret is None:
        raise click.UsageError("this needs a secret key: set DRAGON_SECRET, or give --secret-file FILE")
    if access.is_demo:
        say("no DRAGON_SECRET is set: trying the demo account's key, which works on this machine only")


def say(sentence: str) -> None:
    """A sentence beside the output."""
    click.echo(f"dragon: {sentence}", err=True)


def open_client(access: Access) -> Dragon:
    """A client that gives up soon when there is no server, and is patient once it has heard of one."""
    from dragon.client import Dragon, Timing

    try:
        return Dragon(access.url, secret=access.secret, timing=Timing(connect=5.0, retries=1, backoff=0.2))
    except ValueError as error:
        raise click.UsageError(f"the server's address or the key is not usable: {error}") from None


@contextmanager
def readable_failures(access: Access) -> Iterator[None]:
    """Says in one sentence what went wrong and what to do about it."""
    from dragon.client import DragonClientError, Refused, Unavailable

    try:
        yield
    except Unavailable as error:
        raise ServerAway(_away(access, error)) from None
    except Refused as error:
        raise NotPermitted(_refused(access, error.message)) from None
    except DragonClientError as error:
        raise click.ClickException(error.message) from None
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)


def _away(access: Access, error: Any) -> str:
    if error.http_status:
        return f"{access.url} cannot serve now: {error.message}"
    remedy = "start it with `dragon up`, or" if is_here(access.url) else "`dragon doctor URL` looks at the way to it;"
    return f"{error.message}: {remedy} set DRAGON_URL to where it is"


def _refused(access: Access, message: str) -> str:
    if "key" not in message or message.startswith("account limit"):
        return message
    if access.is_demo:
        return f"{message}: this server has no demo account, set DRAGON_SECRET to a secret key of yours"
    return f"{message}: set DRAGON_SECRET (or --secret-file) to a secret key of {access.url}"
