"""Settings: conf/dragon.toml names every one; the environment overrides; a misspelt name stops the start.

Order, the later wins: the defaults below, the file (`DRAGON_CONFIG`, else conf/dragon.toml in the working directory or
beside the package), the short names of `_SHORT`, `DRAGON_SECTION__NAME`, and `DRAGON_SECTION__NAME_FILE` (a file that
holds the value, for secrets).
"""

from __future__ import annotations

import ipaddress
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dragon.errors import ConfigError

ROOT = Path(__file__).resolve().parent.parent


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ServerConfig(_Section):
    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65535)
    processes: int = Field(1, ge=1, le=256)
    public_url: str = ""
    max_body_bytes: int = Field(1 << 20, ge=1)
    max_tasks_per_call: int = Field(1000, ge=1)
    block_timeout: float = Field(300.0, gt=0)
    file_wait: float = Field(25.0, gt=0)
    heartbeat: float = Field(15.0, gt=0)
    stop_grace: float = Field(8.0, ge=0)
    client_timeout: float = Field(20.0, gt=0)
    client_rate: float = Field(50.0, gt=0)
    connections: int = Field(20_000, ge=1)
    streams: int = Field(15_000, ge=1)
    followed: int = Field(1_000_000, ge=1)


class RedisConfig(_Section):
    url: str = ""
    server: str = ""
    timeout: float = Field(5.0, gt=0)


QueueName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$")]  # as dragon.task has it


class WorkerConfig(_Section):
    queues: tuple[QueueName, ...] = ("high", "default", "low")
    executors: int = Field(0, ge=0, le=1024)
    concurrency: int = Field(100, ge=0, le=100_000)
    heartbeat: float = Field(1.0, gt=0)
    lease: float = Field(5.0, gt=0)
    stop_grace: float = Field(6.0, ge=0)
    ahead: float = Field(0.05, ge=0)


class TasksConfig(_Section):
    modules: tuple[str, ...] = ("tasks",)


class FilesConfig(_Section):
    url: str = "files"
    life: int = Field(7 * 86400, ge=1)
    sweep_interval: float = Field(30.0, gt=0)


class FetchConfig(_Section):
    allow: tuple[str, ...] = ()
    max_bytes: int = Field(200 * (1 << 20), ge=1)
    max_redirects: int = Field(5, ge=0)
    connect_timeout: float = Field(5.0, gt=0)
    timeout: float = Field(60.0, gt=0)
    idle_timeout: float = Field(10.0, gt=0)
    slow_timeout: float = Field(8.0, gt=0)
    least_rate: int = Field(1000, ge=1)


class LimitsConfig(_Section):
    pixels: int = Field(100_000_000, ge=1)
    frames: int = Field(1000, ge=1)
    output_pixels: int = Field(50_000_000, ge=1)
    result_bytes: int = Field(8 * (1 << 20), ge=1)
    memory_bytes: int = Field(2 << 30, ge=0)
    cpu_seconds: int = Field(300, ge=0)
    file_bytes: int = Field(1 << 30, ge=0)
    processes: int = Field(256, ge=0)
    log_lines: int = Field(1000, ge=1)
    log_line_bytes: int = Field(4096, ge=16)


class LogConfig(_Section):
    level: str = Field("info", pattern="^(debug|info|warning|error)$")


class Config(_Section):
    """Every setting of every part; see conf/dragon.toml for a sentence on each."""

    data: Path = Path("var")
    accounts: Path = Path("conf/accounts.toml")
    server: ServerConfig = ServerConfig()
    redis: RedisConfig = RedisConfig()
    worker: WorkerConfig = WorkerConfig()
    tasks: TasksConfig = TasksConfig()
    files: FilesConfig = FilesConfig()
    fetch: FetchConfig = FetchConfig()
    limits: LimitsConfig = LimitsConfig()
    log: LogConfig = LogConfig()

    @property
    def data_dir(self) -> Path:
        """Where everything that dragon writes lives; relative settings are relative to the project."""
        return ROOT / self.data

    @property
    def accounts_file(self) -> Path:
        return ROOT / self.accounts

    @property
    def scratch_dir(self) -> Path:
        return self.data_dir / "scratch"

    @property
    def public_url(self) -> str:
        """The address that clients reach the server under, without a slash at the end."""
        if self.server.public_url:
            return self.server.public_url.rstrip("/")
        host = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(self.server.host, self.server.host)  # noqa: S104
        return f"http://{f'[{host}]' if ':' in host else host}:{self.server.port}"

    @property
    def listens_on_loopback(self) -> bool:
        return is_loopback(self.server.host)


def is_loopback(host: str) -> bool:
    """Tells whether listening on `host` reaches this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


#: Short names that the environment may use too, first match wins.
_SHORT: dict[str, tuple[str, ...]] = {
    "redis.url": ("DRAGON_REDIS_URL", "REDIS_URL"),
    "redis.server": ("DRAGON_REDIS_SERVER",),
    "data": ("DRAGON_DATA",),
    "accounts": ("DRAGON_ACCOUNTS",),
    "server.host": ("HOST",),
    "server.port": ("PORT",),
}

#: Names that begin with DRAGON_ and are no settings: they say where settings are, or concern other commands.
_NOT_SETTINGS = frozenset(
    {"DRAGON_CONFIG", "DRAGON_SECRET", "DRAGON_URL", *(name for names in _SHORT.values() for name in names)}
)


def load_config(path: Path | None = None, environ: Mapping[str, str] | None = None, **overrides: Any) -> Config:
    """Reads the settings; `overrides` are dotted names with double underscores (`server__port=0`), and win over all.

    Raises ConfigError that names what is misspelt or malformed and where it stands.
    """
    environ = os.environ if environ is None else environ
    found, source = _read_file(path, environ)
    _apply_environment(found, environ)
    for name, value in overrides.items():
        if value is not None:
            _put(found, name.replace("__", "."), value)
    try:
        return Config.model_validate(found)
    except ValidationError as error:
        raise ConfigError(_describe(error, source)) from None


def settings(model: type[BaseModel] = Config, prefix: str = "") -> dict[str, Any]:
    """Every setting's dotted name with its default, in the order of the file."""
    names: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        if isinstance(field.default, _Section):
            names |= settings(type(field.default), f"{prefix}{name}.")
        else:
            names[prefix + name] = field.default
    return names


def _read_file(path: Path | None, environ: Mapping[str, str]) -> tuple[dict[str, Any], str]:
    if path is None and environ.get("DRAGON_CONFIG"):
        path = Path(environ["DRAGON_CONFIG"])
    if path is None:
        candidates = (Path.cwd() / "conf" / "dragon.toml", ROOT / "conf" / "dragon.toml")
        path = next((candidate for candidate in candidates if candidate.is_file()), None)
        if path is None:
            return {}, "the defaults"
    try:
        return tomllib.loads(path.read_text("utf-8")), str(path)
    except OSError as error:
        raise ConfigError(f"cannot read the settings file {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from None


def _apply_environment(found: dict[str, Any], environ: Mapping[str, str]) -> None:
    known = settings()
    for setting, names in _SHORT.items():
        value = next((environ[name] for name in names if environ.get(name)), None)
        if value is not None:
            _put(found, setting, value)
    for name in sorted(environ):
        if not name.startswith("DRAGON_") or name in _NOT_SETTINGS:
            continue
        setting = name.removeprefix("DRAGON_").lower().replace("__", ".")
        text = environ[name]
        if setting not in known and setting.endswith("_file") and setting.removesuffix("_file") in known:
            setting = setting.removesuffix("_file")
            text = _read_secret(name, text)
        if setting not in known:
            raise ConfigError(f"the environment has {name}, but there is no setting {setting!r}: {_nearest(setting)}")
        _put(found, setting, _split(text) if isinstance(known[setting], tuple) else text)


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _read_secret(name: str, path: str) -> str:
    try:
        return Path(path).read_text("utf-8").strip()
    except OSError as error:
        raise ConfigError(f"{name} names a file that cannot be read: {path}: {error.strerror}") from None


def _put(found: dict[str, Any], setting: str, value: Any) -> None:
    *sections, name = setting.split(".")
    for section in sections:
        found = found.setdefault(section, {})
        if not isinstance(found, dict):
            raise ConfigError(f"{section} is a section of settings, write [{section}] and its settings below it")
    found[name] = value


def _describe(error: ValidationError, source: str) -> str:
    lines = []
    for item in error.errors(include_input=False, include_url=False):
        setting = ".".join(str(part) for part in item["loc"])
        if item["type"] == "extra_forbidden":
            lines.append(f"there is no setting {setting!r}: {_nearest(setting)}")
        else:
            lines.append(f"setting {setting!r}: {item['msg']}")
    return f"{source} (with the environment): " + "; ".join(lines)


def _nearest(setting: str) -> str:
    import difflib

    close = difflib.get_close_matches(setting, settings(), n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else "conf/dragon.toml lists them all"
