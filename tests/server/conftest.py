"""A second shared system for what takes 15 or 25 seconds with the default settings, and a server of pictures."""

from __future__ import annotations

import io
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from PIL import Image

from dragon.config import Config
from dragon.embedded import EmbeddedRedis, find_server
from tests.system import System, running_system, test_config


@pytest.fixture(scope="session")
def impatient() -> Iterator[System]:
    """A shared system that sends a sign of life every 0.2 s and lets create_file wait for 0.5 s."""
    folder = Path(tempfile.mkdtemp(prefix="dragon-test-"))
    try:
        with EmbeddedRedis(find_server(Config()), folder / "redis", folder / "sock", durable=False) as server:
            config = test_config(
                folder, server.url, server__heartbeat=0.2, server__file_wait=0.5, worker__concurrency=20
            )
            with running_system(config, "--executors", "2") as running:
                yield running
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
async def pictures() -> AsyncIterator[str]:
    """The address of a server with /image.jpg and /cat.jpg, pictures of 40 x 30, and /cat.jpeg, which is none."""
    buffer = io.BytesIO()
    Image.new("RGB", (40, 30), "orange").save(buffer, "JPEG")

    async def picture(_request: web.Request) -> web.Response:
        return web.Response(body=buffer.getvalue(), content_type="image/jpeg")

    async def no_picture(_request: web.Request) -> web.Response:
        return web.Response(text="a cat, in words")

    app = web.Application()
    app.add_routes([web.get("/image.jpg", picture), web.get("/cat.jpg", picture), web.get("/cat.jpeg", no_picture)])
    async with TestServer(app) as server:
        yield f"http://127.0.0.1:{server.port}"
