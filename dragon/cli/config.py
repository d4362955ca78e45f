"""`dragon config show`: every setting, its value in force and where that comes from."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:  # imported where it is used: `--help` needs none of it
    from dragon.config import Config


@click.group()
def config() -> None:
    """Show the settings."""


@config.command()
def show() -> None:
    """Print every setting, its value in force, and where that comes from. Passwords in URLs are not shown."""
    for line in describe(os.environ):
        click.echo(line)


def describe(environ: Mapping[str, str]) -> list[str]:
    """The settings in force as lines: `name = value  # origin`. Raises ConfigError as loading does."""
    from dragon.config import _read_file, load_config, settings

    in_force = load_config(environ=environ)
    found, source = _read_file(None, environ)
    lines = [f"# settings file: {source}"]
    for name, default in settings().items():
        value = _value(in_force, name)
        variable = _variable(name, environ)
        if variable:
            origin = f"environment: {variable}"
        elif value != default and _is_in(found, name):
            origin = "file"
        else:
            origin = "default"
        lines.append(f"{name} = {_shown(value)}  # {origin}")
    return lines


def _value(config: Config, name: str) -> Any:
    value: Any = config
    for part in name.split("."):
        value = getattr(value, part)
    return value


def _is_in(found: Any, name: str) -> bool:
    for part in name.split("."):
        if not isinstance(found, dict) or part not in found:
            return False
        found = found[part]
    return True


def _variable(name: str, environ: Mapping[str, str]) -> str:
    """The variable that a setting comes from, by the same precedence as loading has; empty if from none."""
    from dragon.config import _SHORT

    long = "DRAGON_" + name.replace(".", "__").upper()
    return next((known for known in (f"{long}_FILE", long) if known in environ), "") or next(
        (known for known in _SHORT.get(name, ()) if environ.get(known)), ""
    )


def _shown(value: Any) -> str:
    if isinstance(value, str) and "://" in value:
        from dragon.redis_check import mask_url

        value = mask_url(value)
    return json.dumps(value, default=str, ensure_ascii=False)
