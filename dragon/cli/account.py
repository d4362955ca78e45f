"""`dragon account new | list | revoke` and `dragon sign`: the accounts file, changed by commands, and signed URLs."""

from __future__ import annotations

import fcntl
import functools
import json
import os
import re
import secrets
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import click

from dragon.errors import EXIT_CONFIG, ConfigError, DragonError
from dragon.signing import ACCOUNT_ID, sign_url

if TYPE_CHECKING:  # pydantic is slow to import, and `--help` needs none: it is imported where it is used
    from dragon.auth import Account
    from dragon.referrers import Referrer

KEY_BYTES = 24  # random bytes of a key: 192 bits, 32 characters

_LIMITS = ("tasks_queued", "tasks_per_minute", "tasks_per_call", "bytes_stored", "streams")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}

P = ParamSpec("P")
R = TypeVar("R")


class _Misconfigured(click.ClickException):
    exit_code = EXIT_CONFIG


def _readable_errors(command: Callable[P, R]) -> Callable[P, R]:
    """Turns dragon's errors into one line and an exit code."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except DragonError as error:
            failure = _Misconfigured if isinstance(error, ConfigError) else click.ClickException
            raise failure(error.message) from None
        except OSError as error:
            raise click.ClickException(f"{error.filename or 'the accounts file'}: {error.strerror}") from None

    return run


# --- Commands ---------------------------------------------------------------------------------------------------------


@click.group()
def account() -> None:
    """The accounts that may create tasks."""


@account.command()
@click.argument("name")
@click.option(
    "--referrer", "referrers", multiple=True, help="A page's host for the api key, as example.com; may be repeated."
)
@click.option("--keyless-images", is_flag=True, help="Let <img> on these pages work without any key.")
@click.option("--operator", is_flag=True, help="Let its secret key see and change the tasks of all accounts.")
@click.option("--tasks-queued", type=click.IntRange(0), help="Tasks waiting at once.")
@click.option("--tasks-per-minute", type=click.IntRange(0), help="Tasks created in a minute.")
@click.option("--tasks-per-call", type=click.IntRange(0), help="Tasks in one call.")
@click.option("--bytes-stored", type=click.IntRange(0), help="Bytes of output files that are stored.")
@click.option("--streams", type=click.IntRange(0), help="Streams and waiting calls at once, in each server process.")
@_readable_errors
def new(name: str, referrers: tuple[str, ...], keyless_images: bool, operator: bool, **limits: int | None) -> None:
    """Make the account NAME and show its keys, this once."""
    from dragon.auth import hash_key
    from dragon.config import load_config

    _check_name(name)
    for referrer in referrers:
        _check_referrer(referrer)
    secret, api_key = secrets.token_urlsafe(KEY_BYTES), secrets.token_urlsafe(KEY_BYTES)
    table = _table(name, hash_key(secret), hash_key(api_key), referrers, keyless_images, operator, limits)
    path = load_config().accounts_file
    with _changing(path) as file:
        if name in file.accounts:
            raise click.ClickException(f"there is an account {name!r} already: choose another name, or revoke it first")
        file.write(_append(file.text, table), expected={*file.accounts, name})
    click.echo(f"account     {name}\nsecret key  {secret}\napi key     {api_key}")
    click.echo(
        "The keys are shown this once, only their hashes are kept. The secret key is for servers only.", err=True
    )
    if not referrers:
        click.echo(f"The api key counts nowhere yet: add referrers to [{name}] in {path}.", err=True)


@account.command(name="list")
@_readable_errors
def list_accounts() -> None:
    """List the accounts, without their keys."""
    from dragon.auth import parse_accounts
    from dragon.config import load_config

    path = load_config().accounts_file
    accounts = parse_accounts(_read(path), str(path))
    if not accounts:
        click.echo(f"There are no accounts in {path}: make one with `dragon account new NAME`.", err=True)
    for found in accounts.values():
        click.echo(_summary(found))


@account.command()
@click.argument("name")
@_readable_errors
def revoke(name: str) -> None:
    """Remove the account NAME: its keys and signed URLs stop working."""
    from dragon.config import load_config

    path = load_config().accounts_file
    with _changing(path) as file:
        if name not in file.accounts:
            known = ", ".join(file.accounts) or "none"
            raise click.ClickException(f"there is no account {name!r} (there are: {known})")
        file.write(_without_table(file.text, name), expected=file.accounts.keys() - {name})
    click.echo(f"revoked {name}: running servers follow within a second")


@click.command()
@click.argument("url")
@click.option("--account", "account_id", required=True, help="The account's name.")
@click.option("--expires", default="7d", show_default=True, help="How long it works: a number with s, m, h, d or w.")
@_readable_errors
def sign(url: str, account_id: str, expires: str) -> None:
    """Sign URL (/v1/create_file... or /v1/file...), so that it works without a key in it.

    The secret key comes from DRAGON_SECRET, or is asked for: arguments can be seen by every user of the machine.
    """
    until = int(time.time()) + _seconds(expires)
    secret = os.environ.get("DRAGON_SECRET") or click.prompt("Secret key", hide_input=True, err=True)
    click.echo(sign_url(url, account_id, secret, until))


# --- Arguments --------------------------------------------------------------------------------------------------------


def _check_name(name: str) -> None:
    if ACCOUNT_ID.fullmatch(name):
        return
    proposal = re.sub(r"[^a-z0-9_-]+", "-", name.lower()).strip("-_")[:41]
    raise click.ClickException(
        f"{name!r} cannot be an account's name: a-z, 0-9, - and _, beginning with a letter or digit, 41 characters at "
        "most" + (f", as in {proposal}" if proposal else "")
    )


def _check_referrer(referrer: str) -> None:
    from dragon.referrers import parse_referrer

    try:
        parse_referrer(referrer)
    except ValueError as error:
        raise click.ClickException(f"--referrer {error}") from None


def _seconds(span: str) -> int:
    found = re.fullmatch(r"([0-9]{1,9})([smhdw]?)", span, re.ASCII)
    seconds = int(found[1]) * _SECONDS[found[2] or "s"] if found else 0
    if seconds == 0:
        raise click.ClickException(f"--expires {span!r} is not a span of time: write 90s, 15m, 12h, 7d or 4w")
    return seconds


def _summary(found: Account) -> str:
    facts = [f"{len(found.secret_hashes)} secret, {len(found.api_key_hashes)} api"]
    if found.referrers:
        facts.append("pages " + " ".join(_entry(referrer) for referrer in found.referrers))
    facts += [f"{name} {value}" for name in _LIMITS if (value := getattr(found.limits, name)) is not None]
    facts += ["keyless images"] * found.keyless_images + ["loopback only"] * found.loopback_only
    facts += ["operator"] * found.operator
    return f"{found.id:<16} " + "; ".join(facts)


def _entry(referrer: Referrer) -> str:
    scheme = f"{referrer.scheme}://" if referrer.scheme else ""
    port = f":{referrer.port}" if referrer.port else ""
    return f"{scheme}{'*.' if referrer.subdomains else ''}{referrer.host}{port}"


# --- The text of the file ---------------------------------------------------------------------------------------------


def _table(
    name: str,
    secret_hash: str,
    api_key_hash: str,
    referrers: tuple[str, ...],
    keyless_images: bool,
    operator: bool,
    limits: dict[str, int | None],
) -> str:
    """An account as TOML. JSON's strings and lists are TOML's, for texts without control characters."""
    lines = [
        f"[{name}]",
        f"secrets = {json.dumps([secret_hash])}",
        f"api_keys = {json.dumps([api_key_hash])}",
        f"referrers = {json.dumps(referrers, ensure_ascii=False)}",
        f"keyless_images = {json.dumps(keyless_images)}",
    ]
    lines += ["operator = true"] * operator
    lines += [f"limits.{limit} = {limits[limit]}" for limit in _LIMITS if limits.get(limit) is not None]
    return "\n".join(lines) + "\n"


def _append(text: str, table: str) -> str:
    return f"{text.rstrip()}\n\n{table}" if text.strip() else table


def _without_table(text: str, name: str) -> str:
    """The text without the account's tables ([name], [name.limits]) and the comments that touch them.

    Works on lines, so that all other comments stay; whoever calls checks that the result means what it should.
    """
    lines = text.splitlines(keepends=True)
    kept: list[str] = []
    index = 0
    while index < len(lines):
        if _header(lines[index]) == name:
            while kept and kept[-1].lstrip().startswith("#"):
                kept.pop()
            index = _end_of_table(lines, index)
        else:
            kept.append(lines[index])
            index += 1
    return "".join(kept)


def _header(line: str) -> str | None:
    """The account that a line opens a table of."""
    found = re.match(r"""\s*\[\s*["']?([a-z0-9_-]+)["']?\s*[].]""", line)
    return found[1] if found else None


def _end_of_table(lines: list[str], start: int) -> int:
    """The index behind the table's last line: comments that touch the next header belong to that one."""
    following = next((i for i in range(start + 1, len(lines)) if _header(lines[i])), len(lines))
    last = max(i for i in range(start, following) if lines[i].strip() and not lines[i].lstrip().startswith("#"))
    end = last + 1
    while end < following and lines[end].lstrip().startswith("#"):
        end += 1
    if end == following < len(lines):
        return last + 1
    while end < following and not lines[end].strip():
        end += 1
    return end


# --- The file ---------------------------------------------------------------------------------------------------------


class _File:
    """The accounts file while one command has it to itself."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.text = _read(path) if path.exists() else ""
        self.accounts = self._parsed(self.text)

    def write(self, text: str, expected: set[str]) -> None:
        """Replaces the file, if the text holds the expected accounts and those that stay are unchanged."""
        if not self._holds(text, expected):
            raise ConfigError(f"{self._path} is written in a way that this command cannot change: edit it by hand")
        _replace(self._path, text)

    def _parsed(self, text: str) -> dict[str, Account]:
        from dragon.auth import parse_accounts

        return parse_accounts(text, str(self._path))

    def _holds(self, text: str, expected: set[str]) -> bool:
        try:
            after = self._parsed(text)
        except ConfigError:
            return False
        staying = expected & self.accounts.keys()
        return after.keys() == expected and all(after[name] == self.accounts[name] for name in staying)


@contextmanager
def _changing(path: Path) -> Iterator[_File]:
    """Lets one command at a time change the file: two would lose an account whose keys were shown already."""
    path = path.resolve()  # a link stays a link
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)  # the file itself is replaced, its lock would be lost
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield _File(path)
    finally:
        os.close(folder)


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8")
    except OSError as error:
        raise ConfigError(f"cannot read the accounts file {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not UTF-8") from None


def _replace(path: Path, text: str) -> None:
    """Replaces the file in one step, so that no reader ever sees half of it."""
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # mode 0600
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(text.encode("utf-8"))
            file.flush()
            _keep_owner_and_mode(path, descriptor)
            os.fsync(descriptor)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _keep_owner_and_mode(path: Path, descriptor: int) -> None:
    """A mode that shuts others out was somebody's decision (0640 for the server's group) and stays; else 0600."""
    try:
        present = path.stat()
    except FileNotFoundError:
        return
    if not present.st_mode & stat.S_IRWXO:
        os.fchmod(descriptor, stat.S_IMODE(present.st_mode))
    if (present.st_uid, present.st_gid) != (os.getuid(), os.getgid()):
        os.fchown(descriptor, present.st_uid, present.st_gid)
