"""docs/cli.md: its examples work as they stand, and its commands and exit codes are those of the code."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from dragon.cli import COMMANDS
from dragon.cli.access import EXIT_FAILED, EXIT_INTERRUPTED
from dragon.config import ROOT
from dragon.errors import EXIT_CONFIG, EXIT_NO_PERMISSION, EXIT_UNAVAILABLE
from tests.cli.commands import environment
from tests.system import System

PAGE = (ROOT / "docs" / "cli.md").read_text("utf-8")
EXAMPLES = re.findall(r"^```sh example\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def run_example(source: str, url: str, folder: Path) -> str:
    """Runs an example in a folder as somebody would whose `dragon` is on the PATH."""
    script = f'set -euo pipefail\ndragon() {{ {sys.executable} -m dragon "$@"; }}\n{source}'
    environ = environment(url, {"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"]})
    command = ["bash", "-c", script]
    done = subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, f"{source}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.mark.timeout(120)
@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_the_examples_work_as_they_stand(system: System, tmp_path: Path, number: int) -> None:
    assert run_example(EXAMPLES[number], system.url, tmp_path)


def test_the_exit_codes_of_the_page_are_those_of_the_code() -> None:
    codes = {int(code) for code in re.findall(r"^\| (\d+) \|", PAGE, re.MULTILINE)}
    assert codes == {0, EXIT_FAILED, 2, EXIT_UNAVAILABLE, EXIT_NO_PERMISSION, EXIT_CONFIG, EXIT_INTERRUPTED}


def test_the_page_or_the_readme_names_every_command() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    for name in COMMANDS:
        assert re.search(rf"`dragon {name}\b|^dragon {name}\b|`{name}`", PAGE + readme, re.MULTILINE), name
