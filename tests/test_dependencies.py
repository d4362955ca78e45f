"""The table of dependencies in SECURITY.md is that of pyproject.toml."""

from __future__ import annotations

import re
import tomllib

from dragon.config import ROOT


def test_every_dependency_has_its_oldest_version_and_a_reason_in_the_table() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    declared = {}
    for text in project["dependencies"]:
        found = re.match(r"([\w.-]+)(?:\[\w+\])?>=([\d.]+)", text)
        assert found, f"no oldest version: {text}"
        declared[found[1]] = found[2]
    rows = re.findall(r"^\| ([\w.-]+) \| ([\d.]+) \| (.+) \|$", (ROOT / "SECURITY.md").read_text("utf-8"), re.MULTILINE)
    assert {name: version for name, version, _ in rows} == declared
    assert all(len(reason) > 10 for _, _, reason in rows)
