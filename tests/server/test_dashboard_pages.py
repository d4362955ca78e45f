"""/dashboard as files: what is served, under which policy, and that the libraries are the ones they say they are."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import orjson
import pytest

from dragon.config import load_config
from dragon.server.dashboard_pages import DASHBOARD, DashboardPages
from dragon.server.pages import Document
from tests.server.test_pages import TYPES, get
from tests.system import System

VENDOR = DASHBOARD / "vendor"
SERVED = sorted(path for folder in (DASHBOARD, VENDOR) for path in folder.iterdir() if path.suffix in TYPES)
OWN = [path for path in SERVED if path.parent == DASHBOARD]
ROWS = re.findall(r"^\| `(\S+)` \| (.*?) \| (\S+) \| (.*?) \| `(\w+)` \|$", (VENDOR / "VENDORED.md").read_text(), re.M)


def names(paths: list[Path]) -> list[str]:
    return [path.name for path in paths]


def test_two_folders_are_one_and_no_name_is_there_twice() -> None:
    assert len(set(names(SERVED))) == len(SERVED)
    assert {"app.js", "dashboard.css", "theme.js", "preact.js", "uplot.js", "uplot.css"} <= set(names(SERVED))
    kinds = {path.suffix for folder in (DASHBOARD, VENDOR) for path in folder.iterdir() if path.is_file()}
    assert kinds <= {*TYPES, ".html", ".md", ".txt"}, "a kind of file that nobody serves"


@pytest.mark.parametrize("path", SERVED, ids=names(SERVED))
def test_every_file_is_served_unchanged_with_its_type(system: System, path: Path) -> None:
    response, body = get(system, f"/dashboard/{path.name}")
    assert (response.status, body) == (200, path.read_bytes())
    assert response.headers["Content-Type"] == TYPES[path.suffix]
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert response.headers["Cache-Control"] == "no-cache"


@pytest.mark.parametrize("path", ["/dashboard", "/dashboard/app.js", "/dashboard/preact.js"])
def test_what_a_browser_has_already_is_not_sent_again(system: System, path: str) -> None:
    etag = get(system, path)[0].headers["ETag"]
    response, body = get(system, path, **{"If-None-Match": etag})
    assert (response.status, body) == (304, b"")
    response, body = get(system, path, **{"If-None-Match": '"other"'})
    assert response.status == 200
    assert etag == f'"{hashlib.sha256(body).hexdigest()[:32]}"'


@pytest.mark.parametrize(
    "path",
    [
        "/dashboard/",
        "/dashboard/index.html",
        "/dashboard/nothing.js",
        "/dashboard/vendor",
        "/dashboard/vendor/preact.js",
        "/dashboard/VENDORED.md",
        "/dashboard/LICENSE-htm.txt",
        "/dashboard/../dashboard_pages.py",
        "/dashboard/..%2fdashboard_pages.py",
        "/dashboard/%2e%2e%2fpages.py",
        "/dashboard/vendor%2fpreact.js",
        "/dashboard/app.js%00",
        "/dashboard/%2fetc%2fpasswd",
    ],
)
def test_nothing_but_the_folders_files_can_be_reached(system: System, path: str) -> None:
    response, body = get(system, path)
    assert response.status == 404
    assert orjson.loads(body)["status"] == "error"


def test_the_page_has_a_strict_policy_and_needs_nothing_else(system: System) -> None:
    response, body = get(system, "/dashboard")
    policy = dict(part.strip().partition(" ")[::2] for part in response.headers["Content-Security-Policy"].split(";"))
    assert response.headers["Content-Type"] == "text/html; charset=utf-8"
    assert response.headers["Cache-Control"] == "no-cache"
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
    text = body.decode()
    assert not re.search(r"<script(?![^>]* src=)|<style| style=| on\w+=", text), "something inline, which would not run"
    for address in re.findall(r'(?:src|href)="([^"]+)', text):
        assert get(system, address)[0].status == 200, address


@pytest.mark.parametrize("path", OWN, ids=names(OWN))
def test_what_we_wrote_imports_its_own_folder_and_makes_no_html_of_text(path: Path) -> None:
    text = path.read_text("utf-8")
    for module in re.findall(r'^import [^"\n]*"([^"]+)";', text, re.M):
        assert module.startswith("./")
        assert module.removeprefix("./") in names(SERVED), module
    for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function", "http://"):
        assert word not in text, word


def page(**settings: object) -> bytes:
    document: Document = DashboardPages(load_config(environ={}, **settings))._page
    return document.body


def test_the_demo_key_is_named_on_loopback_only() -> None:
    assert b'data-demo="123456"' in page()
    public = page(server__host="0.0.0.0")
    assert b'data-demo=""' in public
    assert b"123456" not in public


def test_the_address_is_escaped_on_the_page() -> None:
    assert b"<script>alert" not in page(server__public_url='http://x"><script>alert(1)</script>')


def test_the_libraries_are_the_ones_that_are_written_down() -> None:
    assert sorted(name for name, *_ in ROWS) == sorted(path.name for path in VENDOR.iterdir() if path.suffix in TYPES)
    for name, _, version, licence, digest in ROWS:
        assert hashlib.sha256((VENDOR / name).read_bytes()).hexdigest() == digest, f"{name} is not {version}"
        files = re.findall(r"LICENSE-\w+\.txt", licence)
        assert files
        for file in files:
            assert re.search(r"MIT License|Apache License", (VENDOR / file).read_text()), file
