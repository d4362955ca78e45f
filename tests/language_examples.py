"""Runs the JavaScript and Python examples of the docs and the reference, as a reader would save and start them."""

from __future__ import annotations

import http.client
import os
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import playwright

from dragon.config import ROOT
from tests.shell_examples import run_shell

NODE = Path(playwright.__file__).parent / "driver" / "node"

# In a page the browser says which page it is; an api key counts with it only.
_AS_A_PAGE = """\
const plain = globalThis.fetch;
globalThis.fetch = (url, options = {}) => {
  const headers = new Headers(options.headers);
  headers.set("Origin", "http://localhost");
  return plain(url, { ...options, headers }).then((response) => {
    if (response.status < 400) return response;
    throw new Error(`the example's call of ${url} was answered with ${response.status}`);
  });
};
"""
_SERVER_MODULE = re.compile(r'from "(https?://[^"]+/v1/dragon\.js)"')


def run_example(language: str, source: str, folder: Path) -> str:
    """Runs an example in `folder` and returns what it prints; an exception or an error exit fails the test."""
    return _RUN[language](source, folder)


def run_python(source: str, folder: Path) -> str:
    path = folder / "example.py"
    path.write_text(source)
    return _run([sys.executable, "-W", "error", str(path)], folder, {"PYTHONPATH": str(ROOT)})


def run_javascript(source: str, folder: Path) -> str:
    """In Node, as if it were a page on the account's whitelist.

    Node cannot import from a URL, so the module is fetched, and the server that it would know from that is told.
    """
    environment = {}
    for address in set(_SERVER_MODULE.findall(source)):
        environment = {"DRAGON_URL": address.removesuffix("/v1/dragon.js")}
        (folder / "dragon.mjs").write_bytes(_get(address))
        source = source.replace(f'"{address}"', '"./dragon.mjs"')
    (folder / "page.mjs").write_text(_AS_A_PAGE)
    (folder / "example.mjs").write_text(source)
    return _run([str(NODE), "--import", "./page.mjs", "example.mjs"], folder, environment)


def _get(address: str) -> bytes:
    parts = urlsplit(address)
    connection = http.client.HTTPConnection(parts.netloc, timeout=40)
    try:
        connection.request("GET", parts.path)
        response = connection.getresponse()
        assert response.status == 200, address
        return response.read()
    finally:
        connection.close()


def _run(command: list[str], folder: Path, environment: dict[str, str]) -> str:
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    assert done.stdout.strip(), f"the example shows nothing: {done.stderr}"
    return done.stdout


def _run_shell(source: str, folder: Path) -> str:
    return run_shell(source, folder)


_RUN = {"Shell": _run_shell, "JavaScript": run_javascript, "Python": run_python}
