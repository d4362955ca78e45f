"""Runs the shell examples of the docs, the pages and the reference, as a reader would paste them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from PIL import Image


def run_shell(source: str, folder: Path) -> str:
    """Runs an example in `folder` and returns its output; an HTTP error or a task's error fails the test.

    Pictures that it leaves must be whole.
    """
    script = f'set -euo pipefail\ncurl() {{ {_curl()} -sS --fail-with-body --max-time 40 "$@"; }}\n{source}\n'
    done = subprocess.run(["bash", "-c", script], cwd=folder, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, f"{source}\n{done.stdout}{done.stderr}"
    failed = re.search(r'^ *\[?\{"status":"error"(?!.*"result":"cancelled")', done.stdout, re.MULTILINE)
    assert not failed, done.stdout
    for path in folder.glob("*.jpg"):
        with Image.open(path) as picture:
            picture.verify()
    return done.stdout


def _curl() -> str:
    found = shutil.which("curl")
    if found is None:
        reason = "NO CURL: the shell examples were not run; apt-get install -y --no-install-recommends curl"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return found
