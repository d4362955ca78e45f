"""Downloads for tasks: the one way out, guarded at the socket, limited, and shared while it is in flight."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import errno
import functools
import itertools
import logging
import os
import re
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urljoin

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

import dragon
from dragon.addresses import AllowList, IPAddress, is_internal_name, is_public, plain_host
from dragon.config import FetchConfig
from dragon.errors import TaskError

log = logging.getLogger(__name__)

# Written to the file on the event loop: measured, a chunk of 64 KiB takes 20-40 us there, the hop to a thread and back
# 140 us (and 256 KiB hold the loop for 3 ms at worst).
CHUNK = 64 * 1024  # bytes
DOWNLOADS_AT_ONCE = 256  # they are file descriptors of the process that all the executors hang on
LOOKUPS_AT_ONCE = 16  # threads
SHOWN = 500  # characters of a URL in a message
URL_LIMIT = 8192  # characters
INTERIM_ANSWERS = 10  # before the one that counts

_MODE = 0o400  # read-only: several tasks may hold the same file
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_ENCODINGS = frozenset({"identity", "gzip", "deflate"})  # what aiohttp decodes without further libraries
#: What os.link says when it cannot do it here: other file system, no links at all, too many of them.
_CANNOT_LINK = frozenset({errno.EXDEV, errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})

# What is refused tells nothing of the network: which of these two it is can be seen from the URL alone. An address is
# refused alike whether anything listens there or not, and a name whether it stands for such an address or for none.
_NOT_ALLOWED = "its address is not allowed"
_NOT_FOUND = "its host cannot be found, or its address is not allowed"
_NOT_VALID = "it is not a valid URL"
_NOT_STORED = "it cannot be stored"
_CONNECTION_FAILED = "the connection to the server failed"
_BAD_REDIRECT = "it redirects to an address that is not valid"


class _Failed(Exception):
    """Raised when a download ends; `str` of it is the half of the sentence that says why."""


class _Refused(OSError):
    """Raised in place of a connection to an address that is not allowed; an OSError, so that aiohttp tries the next."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Target:
    """One URL that may be asked for: its host is spelled plainly, and `url` names that host and no other."""

    url: URL
    host: str


@dataclasses.dataclass(eq=False, slots=True)
class _Download:
    """One download under way, and how many wait for it."""

    task: asyncio.Task[Path]
    callers: int = 0


class Fetcher:
    """Downloads URLs for tasks: http and https, to public addresses and allowed ones only, within the limits.

    Any port may be asked for: what is guarded is whom a connection goes to, and public hosts serve files on all ports.
    `scratch` is a folder for downloads under way. `local` maps a URL of this very server to the file that it stands
    for (None: it is not one); it is asked about valid URLs only, and not about redirects. Raises ConfigError for a
    malformed `config.allow`.
    """

    def __init__(
        self,
        config: FetchConfig,
        *,
        scratch: Path,
        local: Callable[[str], Path | None] = lambda url: None,
        is_public: Callable[[IPAddress], bool] = is_public,
    ) -> None:
        self._config = config
        self._scratch = scratch
        self._local = local
        self._is_public = is_public
        self._allow = AllowList(config.allow)
        self._guarded: aiohttp.ClientSession | None = None
        self._trusted: aiohttp.ClientSession | None = None
        self._resolver = _Resolver()
        self._slots = asyncio.Semaphore(DOWNLOADS_AT_ONCE)
        self._downloads: dict[str, _Download] = {}  # those that one more caller may join, by URL
        self._tasks: set[asyncio.Task[Path]] = set()  # all that run, also those that nobody waits for any more
        self._numbers = itertools.count(1)
        self._closed = False
        scratch.mkdir(parents=True, exist_ok=True)

    async def fetch(self, url: str, folder: Path) -> Path:
        """Downloads `url` into a new file in `folder` and returns its path.

        The file is read-only, since tasks that ask for the same URL at the same time are given the same one. Raises
        TaskError with a sentence for the client.
        """
        if self._closed:
            raise TaskError(_sentence(url, "the worker is stopping"))
        target = _parse_first(url)
        own = self._local(url)
        if own is not None:
            return await self._hand_out_own(url, own, folder)
        download = self._downloads.get(url) or self._begin(url, target)
        download.callers += 1
        try:
            # Not awaited itself: a caller that is cancelled leaves, and the others go on waiting.
            await asyncio.wait([download.task])
            if download.task.cancelled():
                raise TaskError(_sentence(url, "the worker is stopping"))
            return await self._hand_out(url, download.task.result(), folder)
        finally:
            self._leave(url, download)

    async def close(self) -> None:
        """Ends all downloads, their callers get a TaskError, and closes the connections."""
        self._closed = True
        running = list(self._tasks)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        for session in (self._guarded, self._trusted):
            if session is not None:
                await session.close()
        await self._resolver.close()

    # Sharing: who joins, who leaves, who cleans up.

    def _begin(self, url: str, target: _Target) -> _Download:
        task = asyncio.create_task(self._download(url, target))
        download = _Download(task)
        self._downloads[url] = download
        self._tasks.add(task)
        task.add_done_callback(lambda _: self._end(download))
        return download

    def _leave(self, url: str, download: _Download) -> None:
        download.callers -= 1
        if download.callers == 0:
            del self._downloads[url]  # at once: a caller that comes now must not join what is being cancelled
            download.task.cancel()  # does nothing if it has ended
            _discard(download)

    def _end(self, download: _Download) -> None:
        self._tasks.discard(download.task)
        _discard(download)

    # Handing out: every caller gets a name of its own for the file.

    async def _hand_out(self, url: str, source: Path, folder: Path) -> Path:
        try:
            return self._place(folder, functools.partial(os.link, source))
        except OSError as error:
            if error.errno not in _CANNOT_LINK:
                log.warning("a download cannot be linked into %s: %s", folder, error)
                raise TaskError(_sentence(url, _NOT_STORED)) from None
        return await self._copy_into(url, source, folder)

    async def _hand_out_own(self, url: str, own: Path, folder: Path) -> Path:
        # Never a link: a task could change what the server gives to others.
        if not own.is_file():
            raise TaskError(_sentence(url, "there is no such file"))
        if own.stat().st_size > self._config.max_bytes:
            raise TaskError(_sentence(url, str(self._too_large())))
        return await self._copy_into(url, own, folder)

    async def _copy_into(self, url: str, source: Path, folder: Path) -> Path:
        try:
            return await asyncio.to_thread(self._place, folder, functools.partial(_copy, source))
        except OSError as error:
            log.warning("a download cannot be copied into %s: %s", folder, error)
            raise TaskError(_sentence(url, _NOT_STORED)) from None

    def _place(self, folder: Path, put: Callable[[Path], None]) -> Path:
        while True:
            path = folder / f"download-{next(self._numbers)}"
            try:
                put(path)
            except FileExistsError:
                continue
            return path

    # One download.

    async def _download(self, url: str, target: _Target) -> Path:
        async with self._slots:
            try:
                async with asyncio.timeout(self._config.timeout), _Pace(self._config) as pace:
                    return await self._follow(target, pace)
            except _Failed as failed:
                reason = str(failed)
            except (aiohttp.ClientError, TimeoutError) as error:
                reason = self._reason(error)
            except OSError as error:
                log.warning("a download cannot be written to %s: %s", self._scratch, error)
                reason = _NOT_STORED
            except Exception:
                log.exception("a download failed in a way that dragon has no sentence for")
                reason = "the download failed"
        raise TaskError(_sentence(url, reason))

    async def _follow(self, target: _Target, pace: _Pace) -> Path:
        for _ in range(self._config.max_redirects + 1):
            self._check_name(target.host)
            async with self._session(target).get(target.url, allow_redirects=False) as response:
                if response.status not in _REDIRECTS:
                    return await self._receive(response, pace)
                target = _parse_redirect(target, response.headers.get("Location", ""))
        raise _Failed(f"it redirects more than {self._config.max_redirects} times")

    def _check_name(self, host: str) -> None:
        """Refuses names that only a network knows before they are looked up: how long that takes would tell of them."""
        # Where the settings allow addresses inside, their names have to be looked up.
        if is_internal_name(host) and not self._allow.has_host(host) and not self._allow.has_networks:
            raise _Failed(_NOT_FOUND)

    async def _receive(self, response: aiohttp.ClientResponse, pace: _Pace) -> Path:
        if response.status != 200:
            raise _Failed(f"the server answered {response.status}")
        _check_encoding(response)
        if (response.content_length or 0) > self._config.max_bytes:
            raise self._too_large()
        with _new_file(self._scratch) as (path, file):
            await self._save(response, file, pace)
        return path

    async def _save(self, response: aiohttp.ClientResponse, file: BinaryIO, pace: _Pace) -> None:
        size = 0
        # These bytes are unpacked ones, a chunk at most: a bomb of gzip takes no more room than any large file.
        async for chunk in response.content.iter_chunked(CHUNK):
            size += len(chunk)
            if size > self._config.max_bytes:
                raise self._too_large()
            file.write(chunk)
            pace.received(len(chunk))
            # Nor more time of the others: while a bomb goes off there is always a next chunk, and reading never waits.
            await asyncio.sleep(0)

    def _too_large(self) -> _Failed:
        return _Failed(f"it is larger than {self._config.max_bytes} bytes")

    # Connections.

    def _session(self, target: _Target) -> aiohttp.ClientSession:
        """The connections of guarded hosts, or those of the hosts that the settings trust: they never mix.

        Two pools and no mark on the request, because aiohttp connects in tasks of its own and keeps connections.
        """
        if self._allow.has_host(target.host):
            self._trusted = self._trusted or self._open(None)
            return self._trusted
        self._guarded = self._guarded or self._open(self._connect)
        return self._guarded

    def _open(self, socket_factory: aiohttp.SocketFactoryType | None) -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(
            socket_factory=socket_factory,
            resolver=self._resolver,
            limit=0,  # to wait for a connection would count as time to connect; the slots are the limit
            keepalive_timeout=5,  # seconds; aiohttp does not limit how many idle connections it keeps
            ttl_dns_cache=10,  # seconds; the guard stands behind it, so an old answer is no danger
        )
        return aiohttp.ClientSession(
            connector=connector,
            response_class=_Response,
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,  # a proxy would connect where we cannot look
            read_bufsize=CHUNK,
            headers={"User-Agent": f"dragon/{dragon.__version__}", "Accept-Encoding": "identity"},
            timeout=aiohttp.ClientTimeout(
                total=None, connect=self._config.connect_timeout, sock_read=self._config.idle_timeout
            ),
        )

    def _connect(self, info: aiohttp.AddrInfoType) -> socket.socket:
        """The guard: makes the socket for one address, the very one that it is connected to next."""
        family, kind, protocol, _, address = info
        if not self._may_reach(str(address[0])):
            log.info("refused a download from %s", address[0])
            raise _Refused(_NOT_ALLOWED)
        return socket.socket(family, kind, protocol)

    def _may_reach(self, text: str) -> bool:
        try:
            address = ip_address(text)
        except ValueError:
            return False
        return self._is_public(address) or self._allow.has_address(address)

    def _reason(self, error: Exception) -> str:
        """Why a download failed, without a word on addresses."""
        match error:
            case aiohttp.ConnectionTimeoutError():
                return f"the server accepted no connection within {self._config.connect_timeout:g} seconds"
            case aiohttp.SocketTimeoutError():
                return f"the server sent nothing for {self._config.idle_timeout:g} seconds"
            case TimeoutError():
                return f"it took longer than {self._config.timeout:g} seconds"
            case aiohttp.ClientConnectorDNSError():
                log.info("the host of a download cannot be found: %s", error.os_error)
                return _NOT_FOUND
            case aiohttp.ClientConnectorCertificateError():
                return "the server's certificate is not valid"
            case aiohttp.ClientConnectorSSLError():
                return "no secure connection to the server can be made"
            case aiohttp.ClientConnectorError():
                return _refusal(error.host) if isinstance(error.os_error, _Refused) else _CONNECTION_FAILED
            case aiohttp.InvalidURL():
                return _NOT_ALLOWED
            case aiohttp.ClientResponseError():
                return "the server's answer is not valid HTTP"
            case aiohttp.ClientPayloadError():
                return "the server's answer is incomplete or damaged"
            case _:
                return "the connection to the server broke off"


class _Response(aiohttp.ClientResponse):
    """An answer with few interim ones (`100 Continue`) before it: aiohttp reads any number of them, without a pause."""

    async def start(self, connection: Any) -> aiohttp.ClientResponse:
        protocol, read = connection.protocol, connection.protocol.read
        left = iter(range(INTERIM_ANSWERS + 1))

        async def read_few() -> Any:
            if next(left, None) is None:
                raise aiohttp.ClientResponseError(self.request_info, (), message="too many interim answers")
            return await read()

        protocol.read = read_few
        try:
            return await super().start(connection)
        finally:
            del protocol.read


class _Pace:
    """Gives up a download that is slower than it may be: every byte puts the end off, never further than the patience.

    Raises _Failed. A server that sends a byte now and then is not silent, and may else hold its task for `timeout`.
    """

    def __init__(self, config: FetchConfig) -> None:
        self._patience = config.slow_timeout
        self._rate = config.least_rate
        self._timeout = asyncio.timeout(self._patience)
        self._ends = 0.0

    async def __aenter__(self) -> _Pace:
        await self._timeout.__aenter__()
        self._ends = self._timeout.when() or 0.0
        return self

    async def __aexit__(self, *error: Any) -> None:
        try:
            await self._timeout.__aexit__(*error)
        except TimeoutError:
            raise _Failed(f"it came slower than {self._rate} bytes a second for {self._patience:g} seconds") from None

    def received(self, size: int) -> None:
        latest = asyncio.get_running_loop().time() + self._patience
        self._ends = min(self._ends + size / self._rate, latest)
        self._timeout.reschedule(self._ends)


class _Resolver(AbstractResolver):
    """Looks names up in threads of its own: names that take for ever must not occupy those of the whole worker."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(LOOKUPS_AT_ONCE, thread_name_prefix="dragon-lookup")

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        look_up = functools.partial(socket.getaddrinfo, host, port, family, socket.SOCK_STREAM)
        found = await asyncio.get_running_loop().run_in_executor(self._threads, look_up)
        flags = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
        return [
            ResolveResult(hostname=host, host=str(address[0]), port=port, family=family, proto=protocol, flags=flags)
            for family, _, protocol, _, address in found
        ]

    async def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


def _refusal(host: str) -> str:
    """The sentence for a host that is an address, or for one that is a name."""
    try:
        ip_address(host)
    except ValueError:
        return _NOT_FOUND
    return _NOT_ALLOWED


def _check_encoding(response: aiohttp.ClientResponse) -> None:
    """We ask for none, but files that are stored compressed are sent so all the same."""
    encodings = response.headers.getall("Content-Encoding", [])
    if len(encodings) > 1 or not _ENCODINGS.issuperset(encoding.strip().lower() for encoding in encodings):
        raise _Failed("the server sent it in an encoding that it was not asked for")


@contextlib.contextmanager
def _new_file(folder: Path) -> Iterator[tuple[Path, BinaryIO]]:
    """A file that is there afterwards only if all went well."""
    descriptor, name = tempfile.mkstemp(prefix="download-", dir=folder)
    path = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield path, file
        path.chmod(_MODE)
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _discard(download: _Download) -> None:
    """Removes the file of a download that has ended, once nobody is left who waits for it."""
    task = download.task
    if not task.done() or task.cancelled():
        return
    # Asking for the exception also keeps asyncio from reporting one that nobody waited for.
    if task.exception() is None and download.callers == 0:
        task.result().unlink(missing_ok=True)


def _copy(source: Path, path: Path) -> None:
    path.open("xb").close()  # ours alone from here on
    try:
        shutil.copyfile(source, path)  # in the kernel, where it can
        path.chmod(_MODE)
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _sentence(url: str, reason: str) -> str:
    shown = url[:SHOWN].encode("utf-8", "replace").decode()  # half a surrogate pair would break the status line
    return f"File '{shown}{'…' if len(url) > SHOWN else ''}' cannot be fetched: {reason}"


# URLs. One reading of them, ours: what it lets through has one meaning only, and aiohttp must read the same host in it.

_URL = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<authority>[^/?#]*)(?P<rest>[^#]*)(?:#.*)?", re.IGNORECASE)
_WEB = re.compile(r"https?://", re.IGNORECASE)
_UNREADABLE = re.compile(r"[\x00-\x1f\x7f\\\ud800-\udfff]")
_AUTHORITY = re.compile(r"(?:\[(?P<ipv6>[^\[\]]*)\]|(?P<name>[^\[\]:]*))(?::(?P<port>[0-9]{1,5}))?")
#: A path and query that go out as they are: quoting again would break URLs that are signed.
_QUOTED = re.compile(r"(?:[A-Za-z0-9\-._~:/?\[\]@!$&'()*+,;=]|%[0-9A-Fa-f]{2})*")


def _parse_first(url: str) -> _Target:
    try:
        return _parse(url)
    except _Failed as failed:
        # What is before an @ may be a password, wherever a slash in it seems to end the authority.
        shown = (url[: url.index("://") + 3] if _WEB.match(url) else "") + "…" if "@" in url else url
        raise TaskError(_sentence(shown, str(failed))) from None


def _parse_redirect(present: _Target, location: str) -> _Target:
    try:
        return _parse(urljoin(str(present.url), _checked(location)))
    except ValueError:
        raise _Failed(_BAD_REDIRECT) from None
    except _Failed as failed:
        raise _Failed(_NOT_ALLOWED if str(failed) == _NOT_ALLOWED else _BAD_REDIRECT) from None


def _parse(text: str) -> _Target:
    """Reads a URL; raises _Failed if it has another scheme, credentials, or a host that is not spelled plainly."""
    found = _URL.fullmatch(_checked(text))
    if found is None:
        raise _Failed(_NOT_VALID)
    scheme = found["scheme"].lower()
    if scheme not in ("http", "https"):
        raise _Failed("only http and https URLs can be fetched")
    if "@" in found["authority"]:
        raise _Failed("a URL must not have a user name or a password in it")
    host, port = _read_authority(found["authority"])
    bracketed = f"[{host}]" if ":" in host else host
    rest = found["rest"]
    url = _build(f"{scheme}://{bracketed}{port}{rest if rest.startswith('/') else '/' + rest}")
    if url.raw_host != host:  # no such text is known; if there is one, it must not get further
        raise _Failed(_NOT_ALLOWED)
    return _Target(url, host)


def _checked(text: str) -> str:
    """A text that all readers of URLs agree on: some drop control characters, or take a backslash for a slash."""
    if not text or len(text) > URL_LIMIT or _UNREADABLE.search(text):
        raise _Failed(_NOT_VALID)
    return text


def _read_authority(authority: str) -> tuple[str, str]:
    found = _AUTHORITY.fullmatch(authority)
    if not authority or found is None or (found["port"] and not 0 < int(found["port"]) < 65536):
        raise _Failed(_NOT_VALID)
    if found["ipv6"] is None:
        host = plain_host(_to_ascii(found["name"]))
    else:
        host = plain_host(found["ipv6"]) if ":" in found["ipv6"] else None
    if host is None:
        raise _Failed(_NOT_ALLOWED)
    return host, f":{found['port']}" if found["port"] else ""


def _to_ascii(name: str) -> str:
    if name.isascii():
        return name
    try:
        encoded = URL.build(scheme="http", host=name).raw_host or ""
    except ValueError:
        return ""
    # Letters of other scripts become xn--…; fullwidth or circled letters and digits are a disguise of plain ones.
    return encoded if "xn--" in encoded else ""


def _build(text: str) -> URL:
    try:
        return URL(text, encoded=_QUOTED.fullmatch(text.partition("://")[2]) is not None)
    except ValueError:
        raise _Failed(_NOT_VALID) from None
