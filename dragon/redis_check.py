"""Looking at a Redis that is not ours before anything is written to it: version, persistence, eviction."""

from __future__ import annotations

import re
import ssl
from typing import Any

import redis

from dragon.errors import ConfigError

_OLDEST = (6, 2)


def mask_url(url: str) -> str:
    """A Redis URL as it may be shown: without whatever stands before the @, and without secrets in the query."""
    url = re.sub(r"^(\w+://)[^/?#]*@", r"\1***@", url)
    if "@" in url.partition("?")[0].replace("***@", "", 1):  # an unescaped / or # in a password: show nothing
        return "***"
    return re.sub(r"([?&][^=&]*(?:pass|secret|token)[^=&]*=)[^&]*", r"\1***", url, flags=re.IGNORECASE)


def check_external(url: str) -> list[str]:
    """Looks at a Redis that is not ours before anything is written to it; returns warnings.

    Raises ConfigError where it would lose tasks or cannot work. One that cannot be reached is a warning: it may come.
    """
    place = mask_url(url)
    try:
        client = redis.Redis.from_url(url, socket_timeout=5, socket_connect_timeout=5, decode_responses=True)
    except (ValueError, TypeError):
        raise ConfigError(f"{place} is not a Redis URL: use redis://, rediss:// or unix://") from None
    with client:
        try:
            return _check_answers(client, place)
        except redis.AuthenticationError:
            raise ConfigError(f"the Redis at {place} refuses us: its URL must hold the right password") from None
        except redis.ConnectionError as error:
            _refuse_bad_tls(error, place)
            return [f"the Redis at {place} cannot be reached now, so it was not checked; dragon keeps trying"]
        except redis.TimeoutError:
            return [f"the Redis at {place} does not answer in 5 s, so it was not checked; dragon keeps trying"]


def _refuse_bad_tls(error: BaseException, place: str) -> None:
    """Raises ConfigError where the connection failed for its TLS: that does not pass by itself."""
    cause = next((one for one in (error.__cause__, error.__context__) if isinstance(one, ssl.SSLError)), None)
    if isinstance(cause, ssl.SSLCertVerificationError):
        raise ConfigError(
            f"the Redis at {place} shows a certificate that cannot be trusted ({cause.verify_message}): it must be of "
            "the host in the URL; the file of an authority of yours goes behind it as ?ssl_ca_certs=FILE"
        ) from None
    if cause is not None and cause.reason in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG"):
        raise ConfigError(f"the Redis at {place} does not speak TLS: use redis://") from None


def _check_answers(client: Any, place: str) -> list[str]:
    client.ping()
    try:
        info: dict[str, Any] = client.info()
    except redis.ResponseError:
        return [f"the Redis at {place} forbids INFO: its version, persistence and eviction could not be checked"]
    _refuse_unfit(info, place)
    return [*_check_eviction(info, place), *_check_persistence(client, info, place)]


def _refuse_unfit(info: dict[str, Any], place: str) -> None:
    version = str(info.get("redis_version", ""))
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    if numbers and numbers < _OLDEST:
        raise ConfigError(f"the Redis at {place} is version {version}; dragon needs 6.2 or newer")
    if info.get("redis_mode", "standalone") != "standalone":
        raise ConfigError(f"the Redis at {place} runs in {info['redis_mode']} mode; dragon needs one primary")
    if info.get("role", "master") != "master":
        raise ConfigError(f"the Redis at {place} is a read-only replica; give the address of its primary")


def _check_eviction(info: dict[str, Any], place: str) -> list[str]:
    policy = info.get("maxmemory_policy")
    if policy is None:
        return [
            f"whether the Redis at {place} evicts keys could not be checked; its maxmemory-policy must be noeviction"
        ]
    if policy == "noeviction":
        return []
    if int(info.get("maxmemory", 0)) > 0:
        raise ConfigError(
            f"the Redis at {place} throws keys away when its memory is full (maxmemory-policy {policy}), and with them "
            "tasks: set its maxmemory-policy to noeviction"
        )
    return [f"the Redis at {place} has maxmemory-policy {policy}; set it to noeviction before you give it a maxmemory"]


def _check_persistence(client: Any, info: dict[str, Any], place: str) -> list[str]:
    if int(info.get("aof_enabled", 0)):
        return []
    try:
        snapshots = client.config_get("save").get("save")
    except redis.ResponseError:
        return [
            f"the Redis at {place} has no append-only file and forbids CONFIG: whether it takes snapshots is unknown"
        ]
    if snapshots:
        return [
            f"the Redis at {place} keeps snapshots only: a crash loses the tasks since the last; set appendonly yes"
        ]
    return [f"the Redis at {place} keeps nothing on disk: a restart of it loses all tasks; set appendonly yes"]
