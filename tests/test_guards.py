"""The table of guards is about this code: `make guards`, which takes minutes, breaks them one by one."""

from __future__ import annotations

import ast

import pytest

from dragon.config import ROOT
from tests.guards import GUARDS, Guard


@pytest.mark.parametrize("guard", GUARDS, ids=[guard.name for guard in GUARDS])
def test_each_guard_stands_once_and_names_a_test(guard: Guard) -> None:
    assert (ROOT / guard.file).read_text("utf-8").count(guard.present) == 1
    path, _, name = guard.test.partition("::")
    names = [node.name for node in ast.walk(ast.parse((ROOT / path).read_text("utf-8"))) if hasattr(node, "name")]
    assert not name or name.partition("[")[0] in names


def test_guards_have_names_of_their_own() -> None:
    assert len({guard.name for guard in GUARDS}) == len(GUARDS)
