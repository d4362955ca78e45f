"""The files of the JavaScript client, as every dragon serves them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from dragon.config import load_config
from dragon.server.app import create_app
from dragon.server.client_files import FOLDER, ClientFiles
from dragon.server.typescript import declare_tasks
from dragon.task import load_tasks
from tests.server.talking import ask
from tests.system import MODULES, Client

SCRIPT = "text/javascript; charset=utf-8"
TYPES = "application/typescript; charset=utf-8"
NAMES = {"dragon.js": SCRIPT, "dragon-elements.js": SCRIPT, "dragon.d.ts": TYPES, "tasks.d.ts": TYPES}


def published(name: str) -> bytes:
    """What stands in the folder, or is made of the tasks."""
    if name != "tasks.d.ts":
        return (FOLDER / name).read_bytes()
    registry = load_tasks(MODULES)
    return declare_tasks([registry.tasks[task].describe() for task in sorted(registry.tasks)]).encode()


@pytest.mark.parametrize("name", NAMES)
async def test_what_is_served_is_what_is_published(client: Client, name: str) -> None:
    answer = await ask(client.session, "GET", f"/v1/{name}", headers={"Origin": "https://anywhere.example"})
    etag = f'"{hashlib.sha256(published(name)).hexdigest()[:32]}"'
    assert (answer.status, answer.body) == (200, published(name))
    for header, value in (
        ("Content-Type", NAMES[name]),
        ("Cache-Control", "no-cache"),
        ("ETag", etag),
        ("X-Content-Type-Options", "nosniff"),
        ("Access-Control-Allow-Origin", "*"),
    ):
        assert answer.headers[header] == value
    again = await ask(client.session, "GET", f"/v1/{name}", headers={"If-None-Match": etag})
    assert (again.status, again.body) == (304, b"")
    assert (await ask(client.session, "GET", f"/v1/{name}", headers={"If-None-Match": '"other"'})).status == 200


async def test_the_module_names_its_types_for_deno(client: Client) -> None:
    answer = await ask(client.session, "GET", "/v1/dragon.js")
    assert answer.headers["X-TypeScript-Types"] == "./dragon.d.ts"


@pytest.mark.parametrize("name", ["package.json", "README.md", "dragon.js/", "js/dragon.js", "%2e%2e/pages.py"])
async def test_nothing_else_of_the_folder_is_served(client: Client, name: str) -> None:
    assert (await ask(client.session, "GET", f"/v1/{name}")).status == 404


def test_every_process_makes_the_same_types(tmp_path: Path) -> None:
    app = create_app(load_config(environ={}), "redis://127.0.0.1:1")
    assert {f"/v1/{name}" for name in NAMES} <= {resource.canonical for resource in app.router.resources()}
    registry = load_tasks(MODULES)
    there = ClientFiles(registry)._documents["tasks.d.ts"]
    registry.tasks = dict(reversed(registry.tasks.items()))
    assert ClientFiles(registry)._documents["tasks.d.ts"] == there
