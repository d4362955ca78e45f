"""The doctor's look at this machine: Redis, clocks, workers, folders, accounts, limits. Only reads."""

from __future__ import annotations

import asyncio
import os
import resource
import shutil
import statistics
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import redis

from dragon.auth import Account, read_accounts
from dragon.cli.doctor.finding import Finding, Level
from dragon.config import Config, is_loopback
from dragon.connections import Redis
from dragon.embedded import redis_url, socket_path
from dragon.errors import ConfigError, Unavailable
from dragon.files import open_files
from dragon.files.local import LocalFiles
from dragon.redis_check import check_external, mask_url
from dragon.referrers import parse_page
from dragon.server.room import Room
from dragon.store import queues, workers
from dragon.store.queues import QueuePicture, QueuesPicture
from dragon.task import Registry, load_tasks

PINGS = 21
#: Milliseconds of a round trip to Redis: each call waits for one or two of them.
SLOW_TRIP, BAD_TRIP = 5.0, 100.0
#: Seconds between this machine's clock and Redis's.
CLOCK_OFF, CLOCK_WRONG = 1.0, 30.0
#: Bytes that are free where files go.
LITTLE_SPACE, NO_SPACE = 2 << 30, 200 << 20
FULL = 0.8  # share of Redis's memory or connections


def examine(config: Config) -> Iterator[Finding]:
    """Everything that can be looked at from here."""
    registry = yield from _tasks(config)
    yield from _store(config, registry)
    yield from _server(config)
    yield from _folders(config)
    yield from _accounts(config)
    yield _open_files(config)


def _tasks(config: Config) -> Generator[Finding, None, Registry | None]:
    """The task modules; returns the registry, None when they cannot be imported."""
    modules = ", ".join(config.tasks.modules)
    try:
        registry = load_tasks(config.tasks.modules)
    except ConfigError as error:
        yield Finding("problem", "tasks", f"{error.message}: correct it, or the setting tasks.modules")
        return None
    if not registry.tasks:
        yield Finding("problem", "tasks", f"{modules} defines no task: correct the setting tasks.modules")
        return registry
    yield Finding("ok", "tasks", f"{len(registry.tasks)} in {modules}")
    return registry


# --- Redis ------------------------------------------------------------------------------------------------------------


def _store(config: Config, registry: Registry | None) -> Iterator[Finding]:
    url = redis_url(config)
    client = None
    try:
        client = redis.Redis.from_url(url, socket_timeout=5, socket_connect_timeout=5, decode_responses=True)
        client.ping()
    except (redis.ConnectionError, redis.TimeoutError, ValueError, TypeError) as error:
        yield _unreachable(config, error)
        return
    finally:
        if client is not None:
            client.close()
    with client:
        info = yield from _redis(client, url)
        yield _latency(client)
        yield _clock(client)
        if info:
            yield from _fullness(info)
    yield from _workers(config, url, registry)


def _unreachable(config: Config, error: Exception) -> Finding:
    if not config.redis.url:
        path = socket_path(config)
        sentence = f"the embedded one does not run (nothing answers at {path}): start dragon with `dragon up`"
        return Finding("problem", "redis", sentence)
    place = mask_url(config.redis.url)
    if isinstance(error, redis.AuthenticationError):
        return Finding("problem", "redis", f"{place} refuses us: its URL must hold the right password")
    if isinstance(error, redis.TimeoutError):
        return Finding("problem", "redis", f"{place} does not answer in 5 s: see what keeps it, or its network, busy")
    if isinstance(error, redis.ConnectionError):
        sentence = f"{place} cannot be reached: start it, or correct DRAGON_REDIS_URL; a firewall may be in the way"
        return Finding("problem", "redis", sentence)
    return Finding("problem", "redis", f"{place} is not a Redis URL: use redis://, rediss:// or unix://")


def _redis(client: redis.Redis, url: str) -> Generator[Finding, None, dict[str, Any]]:
    """Version, persistence, eviction; returns what INFO says, {} when it is forbidden."""
    try:
        warnings = check_external(url)
        info: dict[str, Any] = client.info()
    except ConfigError as error:
        yield Finding("problem", "redis", error.message)
        return {}
    except redis.ResponseError:
        info = {}
    for warning in warnings:
        yield Finding("warning", "redis", warning)
    if info and not warnings:
        kind = "valkey" if "valkey_version" in info else "redis"
        version = info.get("valkey_version", info.get("redis_version"))
        yield Finding("ok", "redis", f"{kind} {version} with an append-only file, maxmemory-policy noeviction")
    if info.get("aof_enabled") and info.get("aof_last_write_status", "ok") != "ok":
        yield Finding("problem", "redis", "its append-only file cannot be written: make room on its disk")
    return info


def _latency(client: redis.Redis) -> Finding:
    trips = []
    for _ in range(PINGS):
        started = time.perf_counter()
        client.ping()
        trips.append((time.perf_counter() - started) * 1000)
    median, longest = statistics.median(trips), max(trips)
    sentence = f"a round trip takes {median:.2f} ms (median of {PINGS}; the longest {longest:.1f} ms)"
    if median < SLOW_TRIP:
        return Finding("ok", "latency", sentence)
    advice = ": each call waits for one or two; run Redis nearer to the servers and workers"
    return Finding("problem" if median >= BAD_TRIP else "warning", "latency", sentence + advice)


def _clock(client: redis.Redis) -> Finding:
    """The trip with the shortest way tells best: its middle is when Redis looked at its clock."""
    looks = []
    for _ in range(5):
        before = time.time()
        seconds, micros = client.time()
        after = time.time()
        looks.append((after - before, (before + after) / 2 - (seconds + micros / 1e6)))
    return judge_clock(min(looks)[1])


def judge_clock(off: float) -> Finding:
    """`off`: seconds that this machine's clock is ahead of Redis's."""
    if abs(off) < CLOCK_OFF:
        return Finding("ok", "clock", f"{abs(off) * 1000:.0f} ms from Redis's")
    where = "ahead of" if off > 0 else "behind"
    sentence = (
        f"this machine's is {abs(off):.1f} s {where} Redis's: leases go by Redis's and hold, but the times in statuses "
        "and the ends of signed URLs are wrong; let NTP (chrony, systemd-timesyncd) set both"
    )
    return Finding("problem" if abs(off) >= CLOCK_WRONG else "warning", "clock", sentence)


def _fullness(info: Mapping[str, Any]) -> Iterator[Finding]:
    for what, used, most, advice in (
        ("memory", "used_memory", "maxmemory", "raise maxmemory, or let ended tasks go sooner (files.life)"),
        ("connections", "connected_clients", "maxclients", "raise maxclients"),
    ):
        present, limit = int(info.get(used, 0)), int(info.get(most, 0))
        if limit and present >= FULL * limit:
            yield Finding("warning", "redis", f"{present / limit:.0%} of its {what} are in use: {advice}")


# --- Workers and queues -----------------------------------------------------------------------------------------------


def _workers(config: Config, url: str, registry: Registry | None) -> Iterator[Finding]:
    try:
        living, picture = asyncio.run(_look(config, url))
    except (Unavailable, redis.ResponseError) as error:
        yield Finding("problem", "workers", f"Redis does not tell: {error}")
        return
    if living:
        yield Finding("ok", "workers", f"{len(living)} alive, for the queues {_listed(_served(living))}")
    else:
        yield Finding("problem", "workers", "none is registered, so no task runs: `dragon worker`, or `dragon up`")
    if picture.suspended:
        yield Finding("problem", "workers", "RQ is suspended, so none takes tasks: `rq resume`")
    yield from judge_queues(_served(living), picture.queues)
    if living and registry is not None:
        yield from judge_tasks(living, registry)


async def _look(config: Config, url: str) -> tuple[dict[str, tuple[set[str], set[str]]], QueuesPicture]:
    """The workers whose lease runs, and what waits in each queue."""
    store = Redis(url, config.redis.timeout)
    try:
        return await workers.living(store), await queues.look(store, config.files.life)
    finally:
        await store.close()


def _served(living: Mapping[str, tuple[set[str], set[str]]]) -> set[str]:
    return {queue for queues, _ in living.values() for queue in queues}


def _listed(words: set[str]) -> str:
    return ", ".join(sorted(words))


def judge_queues(served: set[str], pictures: Sequence[QueuePicture]) -> Iterator[Finding]:
    """Queues in which tasks wait for a worker that does not come."""
    left = [one for one in pictures if one.waiting and one.name not in served]
    for one in left:
        tasks = "1 task waits" if one.waiting == 1 else f"{one.waiting:,} tasks wait"
        sentence = f"{tasks} in {one.name!r}, which no worker serves: `dragon worker --queues {one.name}`"
        yield Finding("problem", "queues", sentence)
    for one in (one for one in pictures if one.paused):
        yield Finding("warning", "queues", f"{one.name!r} is paused: `dragon queue resume {one.name}`")
    if not left:
        total = sum(one.waiting for one in pictures)
        yield Finding("ok", "queues", f"{total:,} tasks wait, all where a worker serves")


def judge_tasks(living: Mapping[str, tuple[set[str], set[str]]], registry: Registry) -> Iterator[Finding]:
    """Tasks that no living worker would run although their code is here."""
    for task in registry.tasks.values():
        if not any(task.name in known and task.queue in queues for queues, known in living.values()):
            sentence = (
                f"no worker runs {task.name!r} (queue {task.queue!r}): restart the workers if it is new, or let one "
                f"serve that queue: `dragon worker --queues {task.queue}`"
            )
            yield Finding("warning", "workers", sentence)


# --- The server -------------------------------------------------------------------------------------------------------


def _server(config: Config) -> Iterator[Finding]:
    """Whether one answers where the settings say."""
    address = config.model_copy(update={"server": config.server.model_copy(update={"public_url": ""})}).public_url
    if config.server.port == 0:
        yield Finding("skipped", "server", "the setting server.port is 0: any port; `dragon doctor URL` looks at one")
        return
    try:
        with urllib.request.urlopen(f"{address}/readyz", timeout=5):  # noqa: S310 - it is http
            yield Finding("ok", "server", f"answers at {address}; `dragon doctor URL` looks at the way to it")
    except urllib.error.HTTPError as error:
        yield Finding("problem", "server", f"the one at {address} is not ready: {_message(error)}")
    except OSError:
        yield Finding("warning", "server", f"nothing answers at {address}: `dragon server`, or `dragon up`")


def _message(error: urllib.error.HTTPError) -> str:
    import json

    try:
        return str(json.loads(error.read())["message"])
    except (ValueError, KeyError, TypeError):
        return f"it answers {error.code}, and is no dragon: another program has the port (server.port)"


# --- Folders ----------------------------------------------------------------------------------------------------------


def _folders(config: Config) -> Iterator[Finding]:
    files = open_files(config)
    if isinstance(files, LocalFiles):
        yield from judge_folder("files", config.data_dir / config.files.url.removeprefix("file://"), "files.url")
    yield from judge_folder("scratch", config.scratch_dir, "data")


def judge_folder(about: str, folder: Path, setting: str) -> Iterator[Finding]:
    """Whether files can be made there, and room; one that is not there yet is made at the start."""
    present = folder
    while not present.exists() and present != present.parent:
        present = present.parent
    reason = _unwritable(present)
    if reason:
        owner = f"chown -R {_user()} {present}"
        yield Finding("problem", about, f"{folder} cannot be written ({reason}): {owner}, or change `{setting}`")
        return
    space = shutil.disk_usage(present)
    sentence = f"{folder} can be written, {_size(space.free)} free of {_size(space.total)}"
    if space.free >= LITTLE_SPACE:
        yield Finding("ok", about, sentence)
    else:
        level: Level = "problem" if space.free < NO_SPACE else "warning"
        yield Finding(level, about, f"{sentence}: make room, or let ended tasks go sooner (files.life)")


def _unwritable(folder: Path) -> str:
    if not folder.is_dir():
        return f"{folder} is not a folder"
    try:
        with tempfile.TemporaryFile(prefix=".doctor-", dir=folder):
            return ""
    except OSError as error:
        return error.strerror or str(error)


def _user() -> str:
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def _size(count: int) -> str:
    return f"{count / (1 << 30):.1f} GiB" if count >= 1 << 30 else f"{count / (1 << 20):.0f} MiB"


# --- Accounts ---------------------------------------------------------------------------------------------------------


def _accounts(config: Config) -> Iterator[Finding]:
    path = config.accounts_file
    try:
        accounts = read_accounts(path)
    except ConfigError as error:
        yield Finding("problem", "accounts", f"{error.message}: correct it, or make one with `dragon account new NAME`")
        return
    if not accounts:
        yield Finding(
            "problem", "accounts", f"{path} holds none, so nobody may create tasks: `dragon account new NAME`"
        )
        return
    yield Finding("ok", "accounts", f"{len(accounts)} in {path}")
    yield from judge_mode(path, list(accounts.values()))
    yield from judge_demo(config, list(accounts.values()))


def judge_mode(path: Path, accounts: list[Account]) -> Iterator[Finding]:
    """Everybody knows the demo account's keys: who reads their hashes learns nothing."""
    mode = path.stat().st_mode & 0o777
    if mode & 0o022:
        sentence = f"{path} can be written by others (mode {mode:04o}), who can make accounts: chmod 600 {path}"
        yield Finding("problem", "accounts", sentence)
    elif mode & 0o004 and not all(account.loopback_only for account in accounts):
        sentence = f"{path} can be read by everybody (mode {mode:04o}), and a hash can sign URLs: chmod 600 {path}"
        yield Finding("problem", "accounts", sentence)


def judge_demo(config: Config, accounts: list[Account]) -> Iterator[Finding]:
    """An account whose keys everybody knows must not be within everybody's reach."""
    known = [account.id for account in accounts if account.loopback_only]
    if not known:
        return
    listed = ", ".join(known)
    remedy = f"`dragon account new NAME`, and `dragon account revoke {known[0]}`"
    if not config.listens_on_loopback:
        sentence = f"the server listens on {config.server.host}, and does not start with {listed}: {remedy}"
        yield Finding("problem", "accounts", sentence)
        return
    public = parse_page(config.public_url)
    if public is None or not is_loopback(public.host.strip("[]")):
        sentence = f"everybody knows the keys of {listed}, and {config.public_url} is public: {remedy}"
        yield Finding("problem", "accounts", sentence)
    else:
        yield Finding("ok", "accounts", f"{listed}: on this machine only")


# --- Limits of the system ---------------------------------------------------------------------------------------------


def _open_files(config: Config) -> Finding:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    return judge_open_files(config, 1 << 30 if most == resource.RLIM_INFINITY else most)


def judge_open_files(config: Config, most: int) -> Finding:
    """`most`: how many files a process of ours may have open at most (the hard limit, which dragon takes)."""
    room = Room.of(config, most)
    if room.connections >= config.server.connections:
        return Finding("ok", "open files", f"room for {config.server.connections:,} connections of a server process")
    sentence = (
        f"a process may open {most:,}, which is {room.connections:,} connections and not {config.server.connections:,} "
        "(server.connections): LimitNOFILE= in its systemd unit, nofile in /etc/security/limits.conf, `ulimit -Hn`"
    )
    return Finding("warning", "open files", sentence)
