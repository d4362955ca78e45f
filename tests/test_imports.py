"""Imports point down: a module imports only from its own group and from those above it in docs/architecture.md."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from dragon.config import ROOT

#: From top to bottom; a group may import from the ones before it, and modules of one group from each other.
GROUPS = [
    (
        "pure",
        {
            "errors",
            "keys",
            "status",
            "definition",
            "config",
            "task",
            "addresses",
            "referrers",
            "signing",
            "processes",
            "__init__",
        },
    ),
    ("stores", {"connections", "embedded", "redis_check", "store", "files", "fetch"}),
    ("rules", {"queue", "auth", "feed", "log_follower", "streams", "service"}),
    ("edges", {"client", "server", "worker", "supervisor", "cli", "__main__"}),
]
#: Strangers that meet in Redis, each with what it may not import although it stands in the same group.
STRANGERS = {"server": {"worker", "cli", "supervisor"}, "worker": {"server", "cli", "supervisor"}}

MODULES = sorted((ROOT / "dragon").rglob("*.py"))


def head(module: str) -> str:
    return module.split(".")[1] if "." in module else "__init__"


def group_of(name: str) -> int:
    return next(index for index, (_, names) in enumerate(GROUPS) if name in names)


def imported(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "dragon":
            found |= {f"dragon.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("dragon."):
            found.add(node.module)
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.startswith("dragon.")}
    return {name for name in found if name != "dragon.__version__"}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down(path: Path) -> None:
    own = path.relative_to(ROOT / "dragon").parts[0].removesuffix(".py")
    for module in imported(path):
        target = head(module)
        assert group_of(target) <= group_of(own), f"{own} imports {module}, which stands below it"
        assert target not in STRANGERS.get(own, set()), f"{own} and {module} are strangers"


def test_tasks_import_nothing_of_dragon_but_dragon_task() -> None:
    for path in (ROOT / "tasks").rglob("*.py"):
        assert imported(path) <= {"dragon.task"}, path


def test_the_client_imports_nothing_that_needs_more_than_the_standard_library() -> None:
    for path in (ROOT / "dragon" / "client").rglob("*.py"):
        strangers = {name for name in imported(path) if not name.startswith("dragon.client")}
        assert strangers <= {"dragon.errors", "dragon.signing"}, path
    loaded = "import sys, dragon.client; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", loaded], cwd=ROOT, capture_output=True, text=True, check=True)
    heads = {name.partition(".")[0] for name in modules.stdout.split()}
    assert heads.isdisjoint({"aiohttp", "asyncio", "click", "orjson", "pydantic", "redis", "rq", "yarl"})
    assert heads >= {"dragon", "http"}


def test_the_core_knows_nothing_of_http_paths() -> None:
    for name in ("service", "queue", "feed", "status", "definition"):
        text = (ROOT / "dragon" / f"{name}.py").read_text("utf-8")
        assert '"/v1' not in text, name
        assert "aiohttp" not in text, name


def test_no_file_is_called_after_nothing() -> None:
    vague = {"utils", "helpers", "common", "base", "misc", "types"}
    assert not [path for path in MODULES if path.stem in vague]
