"""Files and servers made to exhaust: each ends in time, takes little, leaves nothing, and the worker serves on."""

from __future__ import annotations

import asyncio
import gzip
import itertools
import os
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from dragon.embedded import EmbeddedRedis, find_server
from dragon.processes import below, families
from tests.attack import bomb_files as made
from tests.auditing import assert_sound
from tests.figures import FULL, note, scale
from tests.system import Client, System, eventually, running_system, test_config
from tests.tasks import picture_files as pictures

SECONDS = 10.0  # in which every one of them has to end
STALL = float(scale(0, 8))  # seconds that processes may stall meanwhile, in the short form beside other tests
MEGABYTES = 300  # that worker and executors together may take for one

Definition = dict[str, Any]
THUMB: Definition = {"task_name": "image.thumb", "width": 200}
GIF: Definition = {"task_name": "image.thumb", "width": 20, "format": "gif"}
WEBP: Definition = {"task_name": "image.thumb", "width": 20, "format": "webp"}
WHOLE: Definition = {"task_name": "image.thumb"}
AVIF: Definition = {"task_name": "image.thumb", "format": "avif", "quality": 10}
INFO: Definition = {"task_name": "image.info"}
FRAMES: Definition = {"task_name": "image.gif", "images": 2, "width": 20}
STRIP: Definition = {"task_name": "image.strip", "urls": 2, "width": 20, "height": 20}


@dataclass(frozen=True)
class Bomb:
    """One file, what is asked of it, and how that has to end: `error`, `success`, or `either`."""

    name: str
    make: Callable[[], bytes]
    asked: tuple[Definition, ...] = (THUMB,)
    ends: str = "error"


#: Tags of a TIFF: 99 x 99 grey pixels, deflated, in one strip behind the head; and one enormous tile.
GREY = {256: (4, 1, 99), 257: (4, 1, 99), 258: (3, 1, 8), 259: (3, 1, 8), 262: (3, 1, 1), 273: (4, 1, 8)}
TILE = {322: (4, 1, 60_000), 323: (4, 1, 60_000), 324: (4, 1, 8), 325: (4, 1, 99)}


def bombs() -> list[Bomb]:
    """Those of every run."""
    everything = (INFO, THUMB, GIF, FRAMES, STRIP)
    found = [
        Bomb("PNG 60,000 x 60,000 in 1 kB", pictures.bomb, everything),
        Bomb("WebP 16,000 x 16,000 in 30 bytes", pictures.webp_bomb, everything),
        Bomb("JPEG 65,500 x 65,500, progressive", partial(made.progressive_jpeg, 100, 65_500, 65_500), everything),
        Bomb("TIFF 60,000 x 60,000", partial(made.tiff, {256: (4, 1, 60_000), 257: (4, 1, 60_000)}), everything),
        Bomb("BMP 10,000 x 10,000, run lengths, in 1 kB", made.rle_bmp),
        Bomb("BMP 60,000 x 60,000", partial(made.rle_bmp, 60_000), everything),
        Bomb("WebP 10,000 x 10,000 in 46 bytes", made.webp, (THUMB, WEBP, WHOLE, FRAMES, STRIP)),
        Bomb("WebP 3,500 x 3,500, just within", partial(made.webp, 3500, 3500), ends="success"),
        Bomb("GIF of 100,000 frames", partial(made.gif, 100_000, side=1), (GIF, WEBP)),
        Bomb("GIF of 1,000,000 frames", partial(made.gif, 1_000_000, side=1), (GIF, THUMB)),
        Bomb("GIF of 1,000 frames of 10,000 x 10,000", partial(made.gif, 1000), (GIF, WEBP)),
        Bomb("GIF of 50 frames of 2,000 x 2,000", partial(made.gif, 50, side=2000, disposal=3), (GIF,), "success"),
        Bomb("GIF whose second frame is 60,000 x 60,000", partial(pictures.growing_gif, 60_000, 60_000), (GIF,)),
        Bomb("GIF with a comment of 1,000,000 blocks", partial(made.gif_of_blocks, 1_000_000), everything),
        Bomb("APNG of 100,000 frames", partial(made.apng, 100_000, side=1), (GIF,)),
        Bomb("APNG that claims 900 of them", partial(made.apng, 20_000, side=1, claimed=900), (GIF,), "success"),
        Bomb("APNG that claims 2^31 frames", partial(made.apng, 2, side=1, claimed=1 << 31), (GIF, WEBP), "either"),
        Bomb("APNG of 1,000 frames of 3,000 x 3,000", partial(made.apng, 1000, side=3000), (GIF,)),
        Bomb("WebP of 100,000 frames", partial(made.animated_webp, 100_000, 1), (GIF, WEBP)),
        Bomb("WebP of 1,000 frames of 10,000 x 10,000", partial(made.animated_webp, 1000), (GIF, WEBP, THUMB)),
        Bomb("WebP of 50 frames of 1,000 x 1,000", partial(made.animated_webp, 50, 1000), (WEBP,), "success"),
        Bomb("JPEG 10,000 x 10,000 in 1,000 scans", partial(made.progressive_jpeg, 1000), everything),
        Bomb("JPEG 10,000 x 10,000 in 19 scans", partial(made.progressive_jpeg, 9)),
        Bomb("JPEG 6,300 x 6,300 in 40 scans", partial(made.progressive_jpeg, 30, 6300, 6300), ends="success"),
        Bomb("JPEG of 1,000,000 segments", partial(made.jpeg_of_segments, 1_000_000), everything),
        Bomb("PNG of 1,000,000 chunks", partial(made.png_of_chunks, 1_000_000), everything),
        *(Bomb(f"PNG whose {kind.decode()} unpacks to 30 MB", partial(made.text_bomb, kind, 30 << 20), (INFO, THUMB))
          for kind in (b"zTXt", b"iTXt", b"iCCP")),
        Bomb("PNG 10,000 x 10,000 in 98 kB, palette", partial(made.png, colour=3), (THUMB, FRAMES, STRIP)),
        Bomb("PNG 3,800 x 3,800 to AVIF", partial(made.png, 3800, 3800), (AVIF,)),
        Bomb("TIFF, 15,000 tags of 10 MB", partial(made.tiff, GREY, bytes(10 << 20), repeat=15_000), (INFO, THUMB),
             "either"),
        Bomb("TIFF with a strip of 4 GB", partial(made.tiff, GREY | {279: (4, 1, 0xFFFFFFF0)}, b"x" * 99)),
        Bomb("TIFF with a tile of 60,000 x 60,000", partial(made.tiff, GREY | TILE, b"x" * 99)),
        Bomb("TIFF with 65,535 samples", partial(made.tiff, GREY | {277: (3, 1, 65_535)}, b"x" * 99)),
        Bomb("TIFF 3,000 x 3,000 in one strip", partial(made.flat_tiff, 3000), ends="success"),
        Bomb("SVG with entities of 10^13 letters", lambda: made.SVG, everything),
        Bomb("EPS that loops for ever", lambda: made.EPS, everything),
        Bomb("PSD 30,000 x 30,000", lambda: made.PSD, everything),
        Bomb("ICO of 2 GB", lambda: made.ICO, everything),
    ]  # fmt: skip
    return found + (large_bombs() if FULL else [])


def large_bombs() -> list[Bomb]:
    """Those that take seconds to make."""
    return [
        Bomb("PNG 10,000 x 10,000 in 290 kB", made.png, (THUMB, WHOLE, GIF, FRAMES, STRIP)),
        Bomb("PNG 10,000 x 10,000 in 390 kB, alpha", partial(made.png, colour=6)),
        Bomb("PNG 10,000 x 10,000 in 190 kB, 16 bits", partial(made.png, colour=0, depth=16)),
        Bomb("PNG 10,000 x 10,000, 16 bits, alpha", partial(made.png, colour=6, depth=16)),
        Bomb("PNG 7,600 x 7,600, just within", partial(made.png, 7600, 7600), ends="success"),
        Bomb("PNG 5,400 x 5,400, alpha, just within", partial(made.png, 5400, 5400, colour=6), ends="success"),
        Bomb("PNG 5,200 x 5,200, 16 bits, just within", partial(made.png, 5200, 5200, colour=0, depth=16),
             ends="success"),
        Bomb("PNG 3,900 x 3,900 as large as it is", partial(made.png, 3900, 3900), (WHOLE,), "success"),
        Bomb("PNG 10,000 x 10,000 in 98 kB, grey", partial(made.png, colour=0), ends="success"),
        Bomb("APNG of 1,000 frames of 10,000 x 10,000", partial(made.apng, 1000), (GIF, WEBP)),
        Bomb("APNG of 30 frames of 3,800 x 3,800", partial(made.apng, 30, side=3800), (GIF,), "success"),
        Bomb("GIF 10,000 x 10,000 in 75 kB", made.full_gif),
        Bomb("GIF of 27 frames of 4,300 x 4,300", partial(made.gif, 27, side=4300), (GIF,), "success"),
        Bomb("WebP of 50 frames of 2,900 x 2,900", partial(made.animated_webp, 50, 2900), (WEBP,), "success"),
        Bomb("TIFF 10,000 x 10,000 in 290 kB", made.flat_tiff),
        Bomb("TIFF 5,900 x 5,900 in one strip", partial(made.flat_tiff, 5900), ends="success"),
        Bomb("TIFF 10,000 x 10,000, 16 bits, alpha", partial(made.flat_tiff, depth=16, samples=4)),
        Bomb("TIFF 10,000 x 10,000, floats", partial(made.flat_tiff, depth=32, samples=1, photometric=1, float_=True)),
        Bomb("TIFF 10,000 x 10,000, CMYK", partial(made.flat_tiff, samples=4, photometric=5)),
        Bomb("TIFF 10,000 x 10,000, Lab", partial(made.flat_tiff, samples=3, photometric=8)),
        Bomb("AVIF 8,000 x 8,000", partial(made.avif, 8000)),
        Bomb("AVIF 3,800 x 3,800, just within", partial(made.avif, 3800), ends="success"),
        Bomb("GIF of 8,000,000 frames", partial(made.gif, 8_000_000, side=1), (GIF,)),
        Bomb("JPEG of 40,000,000 segments", partial(made.jpeg_of_segments, 40_000_000), (INFO, THUMB)),
        Bomb("PNG of 15,000,000 chunks", partial(made.png_of_chunks, 15_000_000), (INFO, THUMB)),
    ]  # fmt: skip


MODES = [
    *(("CMYK", "JPEG"), ("CMYK", "TIFF"), ("L", "JPEG"), ("I;16", "PNG"), ("I;16", "TIFF"), ("I", "TIFF")),
    *(("F", "TIFF"), ("1", "PNG"), ("1", "TIFF"), ("P", "PNG"), ("P", "GIF"), ("P", "BMP"), ("LA", "PNG")),
    *(("LAB", "TIFF"), ("YCbCr", "TIFF"), ("RGBA", "WEBP"), ("RGBA", "TIFF")),
]


def with_exif(name: str, exif: bytes, format: str = "JPEG") -> Bomb:
    return Bomb(f"EXIF: {name}", partial(made.saved, "RGB", format, exif=exif), (INFO, THUMB), "success")


def oddities() -> list[Bomb]:
    """No bombs: seldom seen, and to be shown or refused, but nothing else."""
    jpeg = made.saved("RGB", "JPEG")
    orientations = [(0x0112, 3, 1, value) for value in (0, 9, 65_535)]
    return [
        *(Bomb(f"{mode} as {format}", partial(made.saved, mode, format), (INFO, THUMB, GIF), "success")
          for mode, format in MODES),
        *(Bomb(f"PNG: {kind}", partial(made.odd_png, kind), (INFO, THUMB), "either")
          for kind in ("one bit", "beyond the palette", "checksum")),
        *(Bomb(f"JPEG cut at {part}%", lambda part=part: jpeg[: len(jpeg) * part // 100]) for part in (1, 50, 90)),
        *(with_exif(f"orientation {entry[3]}", made.exif([entry])) for entry in orientations),
        with_exif("orientation that is a text", pictures.exif_of_texts()),
        with_exif("4,900 tags that are all of it", made.exif([(n, 7, 59_000, 8) for n in range(1, 4900)])),
        with_exif("500,000 rationals, 4 MB", made.exif([(0x829A, 5, 500_000, 26)], bytes(4 << 20)), "PNG"),
        with_exif("directories in a circle", made.exif([(0x8769, 4, 1, 8), (0x8825, 4, 1, 8)])),
        *(Bomb(f"ICC profile with a table of {size} bytes",
               partial(made.saved, "RGB", "JPEG", icc_profile=made.profile(size)), (INFO, THUMB), "success")
          for size in (1 << 20, 0xFFFFFFF0)),
        Bomb("nothing", lambda: b""),
        Bomb("noise", lambda: bytes(range(256)) * 4000),
    ]  # fmt: skip


# The system, and what is measured of it


@pytest.fixture(scope="module")
def bombed() -> Iterator[System]:
    """A server and a worker with one executor, all limits as they are shipped."""
    with tempfile.TemporaryDirectory(prefix="dragon-test-") as name:
        folder = Path(name)
        redis = EmbeddedRedis(find_server(test_config(folder, "")), folder / "r", folder / "s", durable=False)
        config = test_config(folder / "data", f"unix://{folder / 's'}", fetch__allow=("127.0.0.1",))
        with redis, running_system(config, "--executors", "1") as system:
            yield system


class Memory:
    """What a worker and all below it have taken at most since the start of this."""

    def __init__(self, system: System) -> None:
        worker = system.processes[1].pid
        self._before = {}
        for pid in (worker, *below(worker, families())):
            Path(f"/proc/{pid}/clear_refs").write_text("5")  # the peak is what it is now
            self._before[pid] = self._read(pid, "VmRSS")

    def megabytes(self) -> float:
        return sum(max(0, self._read(pid, "VmHWM") - before) for pid, before in self._before.items()) / 1024

    @staticmethod
    def _read(pid: int, name: str) -> int:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def left_over(system: System) -> list[str]:
    """What lies in the scratch folders."""
    return [name for folder in system.config.scratch_dir.iterdir() for name in os.listdir(folder) if name != ".lock"]


@dataclass
class Findings:
    """What was found of all, for docs/guarantees.md."""

    count: int = 0
    errors: int = 0
    seconds: float = 0.0
    megabytes: float = 0.0
    slowest: str = ""
    largest: str = ""

    def add(self, name: str, status: dict[str, Any], seconds: float, megabytes: float) -> None:
        self.count += 1
        self.errors += status["status"] == "error"
        print(f"{seconds:6.2f} s {megabytes:6.1f} MB  {name}: {status['status']} {str(status['result'])[:150]}")
        if seconds > self.seconds:
            self.seconds, self.slowest = seconds, name
        if megabytes > self.megabytes:
            self.megabytes, self.largest = megabytes, name

    def __str__(self) -> str:
        return (
            f"{self.errors} errors, {self.count - self.errors} pictures; "
            f"slowest {self.seconds:.1f} s ({self.slowest}), "
            f"most memory {self.megabytes:.0f} MB ({self.largest}); scratch empty, the same executor served on"
        )


def allowed_seconds() -> float:
    """The ten seconds, and more where others want more of the machine than it has."""
    return STALL + SECONDS * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


async def tried(system: System, client: Client, findings: Findings, name: str, definition: Definition) -> str | None:
    """Runs one task on one bomb; returns what is wrong with how it went."""
    memory, began = Memory(system), time.monotonic()
    status = await client.run(**{"name" if key == "task_name" else key: value for key, value in definition.items()})
    seconds, megabytes = time.monotonic() - began, memory.megabytes()
    findings.add(name, status, seconds, megabytes)
    if seconds > allowed_seconds() or megabytes > MEGABYTES:
        return f"{name}: took {seconds:.1f} s and {megabytes:.0f} MB"
    if "internal error" in str(status["result"]):
        return f"{name}: {status['result']}"
    return None


def asked_of(definition: Definition, url: str) -> Definition:
    """The definition with the URL in its place; where several are taken with two, so that both are read."""
    urls = {"images": [url, f"{url}?2"], "urls": [url, f"{url}?2"]}
    several = {name: urls[name] for name in ("images", "urls") if name in definition}
    return definition | (several or {"url": url})


# Servers


Speak = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
OK = b"HTTP/1.1 200 OK\r\n"


@asynccontextmanager
async def serving(speak: Speak) -> AsyncIterator[str]:
    """A server on loopback that says what `speak` says, until the client has gone."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            await speak(reader, writer)
            writer.close()
            await writer.wait_closed()
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the client has gone, or the test is over
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/a.png"
    finally:
        server.close()


def says(*parts: bytes) -> Speak:
    """Says this, and closes."""

    async def speak(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for part in parts:
            writer.write(part)
        await writer.drain()

    return speak


def for_ever(head: bytes, again: bytes, pause: float = 0) -> Speak:
    """Says `head`, and then `again` for ever."""

    async def speak(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(head)
        while True:
            writer.write(again)
            await writer.drain()
            await asyncio.sleep(pause)

    return speak


async def redirects(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Redirects to another place, for ever, each time after a while."""
    for number in itertools.count():
        await asyncio.sleep(0.1)
        writer.write(b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: /%d\r\n\r\n" % number)
        await writer.drain()
        await reader.readuntil(b"\r\n\r\n")


async def slow_redirects(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Each after some seconds: five of them would be more than what is allowed."""
    for number in itertools.count():
        await asyncio.sleep(3 + STALL / 2)
        writer.write(b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: /%d\r\n\r\n" % number)
        await writer.drain()
        await reader.readuntil(b"\r\n\r\n")


def packed(encoding: bytes, size: int) -> bytes:
    data = made.png(1, 1) + bytes(size)
    return OK + b"Content-Encoding: " + encoding + b"\r\nConnection: close\r\n\r\n" + gzip.compress(data, 9)


PICTURE = made.png(8, 8)
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
#: Whether the answer may be taken for a picture: some clients see no harm in them.
SERVERS: dict[str, tuple[Speak, str]] = {
    "gzip that unpacks to 300 MB": (says(packed(b"gzip", 300 << 20)), "error"),
    "gzip in gzip": (says(packed(b"gzip, gzip", 1000)), "error"),
    "an endless body": (for_ever(OK + b"\r\n", bytes(1 << 16)), "error"),
    "an endless body in chunks": (for_ever(CHUNKED, b"10000\r\n" + bytes(1 << 16) + b"\r\n"), "error"),
    "one byte a second": (for_ever(OK + b"\r\n" + PICTURE[:20], b"x", 1), "error"),
    "one byte a second after 50 kB": (for_ever(OK + b"\r\n" + bytes(50_000), b"x", 1), "error"),
    "one byte of a header a second": (for_ever(OK + b"X: ", b"x", 1), "error"),
    "one byte of the status a second": (for_ever(b"HTTP/1.1 200 ", b"x", 1), "error"),
    "one chunk of one byte a second": (for_ever(CHUNKED, b"1\r\nx\r\n", 1), "error"),
    "no answer": (for_ever(b"", b"", 1), "error"),
    "a length that is too long": (says(OK + b"Content-Length: 9999\r\n\r\n" + PICTURE), "error"),
    "a length that is too short": (says(OK + b"Content-Length: 20\r\n\r\n" + PICTURE), "error"),
    "a negative length": (says(OK + b"Content-Length: -1\r\n\r\n" + PICTURE), "error"),
    "a length with a sign": (says(OK + b"Content-Length: +%d\r\n\r\n" % len(PICTURE) + PICTURE), "error"),
    "two lengths": (says(OK + b"Content-Length: 20\r\nContent-Length: %d\r\n\r\n" % len(PICTURE) + PICTURE), "error"),
    "a length of 20 digits": (says(OK + b"Content-Length: 99999999999999999999\r\n\r\n" + PICTURE), "error"),
    "a length and chunks": (
        says(CHUNKED[:-2] + b"Content-Length: 5\r\n\r\n%x\r\n" % len(PICTURE) + PICTURE + b"\r\n0\r\n\r\n"),
        "either",
    ),
    "a chunk of 2^64": (for_ever(CHUNKED + b"FFFFFFFFFFFFFFFFF\r\n", bytes(1 << 16)), "error"),
    "an endless length of a chunk": (for_ever(CHUNKED, b"0" * 1000), "error"),
    "endless trailers": (for_ever(CHUNKED + b"1\r\nx\r\n0\r\n", b"X: y\r\n" * 1000), "error"),
    "endless headers": (for_ever(OK, b"X: y\r\n" * 1000), "error"),
    "one endless header": (for_ever(OK + b"X: ", b"x" * 1000), "error"),
    "an endless status": (for_ever(b"HTTP/1.1 200 ", b"x" * 1000), "error"),
    "endless answers of 100": (for_ever(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 100), "error"),
    "endless answers of 200": (for_ever(b"", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n" * 100), "error"),
    "endless redirects": (redirects, "error"),
    "slow redirects": (slow_redirects, "error"),
    "nothing but noise": (for_ever(b"", bytes(range(256)) * 100), "error"),
}


@pytest.mark.timeout(scale(900, 600))
async def test_files_made_to_exhaust_end_in_time_and_take_little(bombed: System) -> None:
    await try_all(bombed, bombs(), "files made to exhaust")


@pytest.mark.timeout(400)
async def test_oddities_are_pictures_or_errors(bombed: System) -> None:
    await try_all(bombed, oddities(), "odd and damaged files")


async def try_all(system: System, files: list[Bomb], what: str) -> None:
    content: list[bytes] = [b""]

    async def speak(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(OK + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(content[0]) + content[0])
        await writer.drain()

    findings, wrong = Findings(), []
    async with system.client() as client, serving(speak) as url:
        assert (await client.run("image.thumb", url=f"{system.url}/static/sample.jpg"))["status"] == "success"
        executor = (await client.run("test.pid"))["result"]
        for number, bomb in enumerate(files):
            content[0] = await asyncio.to_thread(bomb.make)
            for definition in bomb.asked:
                asked = asked_of(definition, f"{url}/{number}")
                name = f"{bomb.name}, {' '.join(str(value) for value in definition.values())}"
                before = findings.errors
                fault = await tried(system, client, findings, name, asked)
                ended = "error" if findings.errors > before else "success"
                if bomb.ends not in ("either", ended):
                    fault = f"{name} ended in {ended}"
                wrong += [fault] if fault else []
            await eventually(lambda: left_over(system) == [], 45)
        assert wrong == []
        assert (await client.run("test.pid"))["result"] == executor, "no bomb has cost the executor"
        assert (await client.run("hello"))["status"] == "success"
    note("bombs", f"{len(files)} {what}, {findings.count} tasks", str(findings))
    await assert_sound(system.config)


@pytest.mark.timeout(400)
async def test_servers_made_to_exhaust_end_in_time_and_take_little(bombed: System) -> None:
    """Those that wait at the same time, those that send as much as they can one by one; what all take counts."""
    findings, wrong = Findings(), []
    memory = Memory(bombed)
    busy = [name for name in SERVERS if name.startswith(("gzip", "an endless body"))]

    async def try_one(client: Client, name: str, speak: Speak, ends: str) -> None:
        async with serving(speak) as url:
            began = time.monotonic()
            (status,) = await client.create({"task_name": "test.async_fetch", "urls": [url]}, block=True)
            seconds = time.monotonic() - began
            if status["status"] == "success":  # the bytes are there: what are they worth?
                status = await client.run("image.thumb", url=url)
            findings.add(name, status, seconds, memory.megabytes())
            if seconds > allowed_seconds() or ends not in ("either", status["status"]):
                wrong.append(f"{name}: {seconds:.1f} s, {status['status']}")

    async with bombed.client() as client:
        await asyncio.gather(*(try_one(client, name, *rest) for name, rest in SERVERS.items() if name not in busy))
        for name in busy:
            await try_one(client, name, *SERVERS[name])
        assert wrong == []
        assert memory.megabytes() <= MEGABYTES
        assert (await client.run("hello"))["status"] == "success"
    await eventually(lambda: left_over(bombed) == [], 45)
    note("bombs", f"{len(SERVERS)} servers made to exhaust", str(findings))
    await assert_sound(bombed.config)
