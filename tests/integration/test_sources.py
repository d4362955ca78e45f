"""Image tasks on sources that misbehave, through the real worker: each ends in an error that says what was wrong."""

from __future__ import annotations

import asyncio
import io
import struct
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from PIL import Image

from tests.system import Client, System

OwnSystem = Callable[..., System]


def jpeg() -> bytes:
    data = io.BytesIO()
    Image.radial_gradient("L").convert("RGB").save(data, "JPEG")
    return data.getvalue()


def bomb() -> bytes:
    """A PNG header of 60,000 x 60,000 pixels in a few bytes."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(b"\0" * 1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + pixels + chunk(b"IEND", b"")


async def endless(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(b"x" * 65536)


async def stalled(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Length": "1000"})
    await response.prepare(request)
    await response.write(b"x")
    await asyncio.sleep(60)
    return response


async def trickle(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(b"x")
        await asyncio.sleep(0.2)


def fixed(body: bytes) -> Callable[[web.Request], object]:
    async def handle(_request: web.Request) -> web.Response:
        return web.Response(body=body)

    return handle


@pytest.fixture
async def sources() -> AsyncIterator[str]:
    app = web.Application()
    for path, handler in {
        "/good.jpg": fixed(jpeg()),
        "/page.html": fixed(b"<!doctype html><p>no image"),
        "/truncated.jpg": fixed(jpeg()[:-2000]),
        "/bomb.png": fixed(bomb()),
        "/empty": fixed(b""),
        "/endless": endless,
        "/stalled": stalled,
        "/trickle": trickle,
    }.items():
        app.router.add_get(path, handler)  # type: ignore[arg-type]
    async with TestServer(app) as server:
        yield str(server.make_url("")).rstrip("/")


@pytest.fixture
def impatient(own_system: OwnSystem) -> Iterator[System]:
    # The sources are of this process: neither it nor an executor may stand still for so long on a busy machine.
    system = own_system(
        fetch__allow=("127.0.0.0/8",), fetch__timeout=7, fetch__idle_timeout=5, fetch__max_bytes=1_000_000
    )
    system.start_server()
    system.start_worker("--executors", "2")
    yield system


async def test_every_bad_source_ends_in_an_error_that_says_what_was_wrong(impatient: System, sources: str) -> None:
    wanted = {
        "/missing.jpg": "cannot be fetched: the server answered 404",
        "/page.html": "is not a valid image file",
        "/truncated.jpg": "is not a valid image file",
        "/empty": "is not a valid image file",
        "/bomb.png": "100000000",  # the limit that it is over
        "/endless": "cannot be fetched: it is larger than 1000000 bytes",
        "/stalled": "cannot be fetched: the server sent nothing for 5 seconds",
        "/trickle": "cannot be fetched: it took longer than 7 seconds",
    }
    async with impatient.client() as client:
        definitions = [{"task_name": "image.thumb", "url": sources + path, "width": 50} for path in wanted]
        statuses = await client.create(
            *definitions, {"task_name": "image.thumb", "url": "http://10.0.0.1/"}, block=True
        )
        for status, (path, text) in zip(statuses, wanted.items(), strict=False):
            assert status["status"] == "error", path
            assert text in status["result"], path
            assert sources + path in status["result"], path
        assert statuses[-1]["result"] == "File 'http://10.0.0.1/' cannot be fetched: its address is not allowed"
        good = await client.run("image.thumb", url=f"{sources}/good.jpg", width=50)
        assert (good["status"], good["result"]["width"]) == ("success", 50)
        await _nothing_is_left(client, impatient.config.scratch_dir)


async def _nothing_is_left(client: Client, scratch: Path) -> None:
    assert (await client.run("hello"))["status"] == "success"
    left = [path for path in scratch.rglob("*") if path.is_file() and path.name != ".lock"]
    assert left == []


async def test_an_image_tag_of_a_bad_source_is_a_400_with_the_status(impatient: System, sources: str) -> None:
    async with impatient.client() as client:
        query = {"task_name": "image.thumb", "url": f"{sources}/page.html", "secret": "123456"}
        async with client.session.get("/v1/create_file/cat.jpg", params=query) as answer:
            assert answer.status == 400
            assert answer.headers["Cache-Control"] == "no-store"
            status = await answer.json()
    assert status["result"] == f"File '{sources}/page.html' is not a valid image file"
