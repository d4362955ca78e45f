"""JSON values as JSON, JavaScript and Python write them, broken over lines where they are long."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, NamedTuple

WIDTH = 60  # characters of a value that still stands in one line


class Notation(NamedTuple):
    """How a language writes values."""

    name: Callable[[str], str]  # of a member
    scalar: Callable[[Any], str]
    space: str  # inside the braces of an object
    comma: str  # after the last part of what stands on several lines
    step: str  # of indentation

    def write(self, value: Any, indent: str = "") -> str:
        """The value; lines after the first begin with `indent`."""
        if not isinstance(value, dict | list):
            return self.scalar(value)
        flat = self._flat(value)
        if len(flat) + len(indent) <= WIDTH or not value:
            return flat
        inner = indent + self.step
        parts = ",\n".join(inner + part for part in self._parts(value, inner))
        opening, closing = "{}" if isinstance(value, dict) else "[]"
        return f"{opening}\n{parts}{self.comma}\n{indent}{closing}"

    def _flat(self, value: Any) -> str:
        if isinstance(value, dict):
            members = ", ".join(f"{self.name(name)}: {self._flat(part)}" for name, part in value.items())
            return f"{{{self.space}{members}{self.space}}}" if value else "{}"
        if isinstance(value, list):
            return f"[{', '.join(map(self._flat, value))}]"
        return self.scalar(value)

    def _parts(self, value: Any, indent: str) -> list[str]:
        if isinstance(value, dict):
            return [f"{self.name(name)}: {self.write(part, indent)}" for name, part in value.items()]
        return [self.write(part, indent) for part in value]


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _javascript_name(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z_$][\w$]*", name, re.ASCII) else _json(name)


def _python_scalar(value: Any) -> str:
    return _json(value) if isinstance(value, str) else repr(value)


JSON = Notation(_json, _json, "", "", "  ")
JAVASCRIPT = Notation(_javascript_name, _json, " ", ",", "  ")
PYTHON = Notation(_json, _python_scalar, "", ",", "    ")
