"""image.thumb of a large photo: dragon with two executors beside the same functions in two bare processes."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path

import orjson
from PIL import Image

from bench.load import post
from bench.measuring import Candidate, Goal, Table, alternate
from bench.place import Place
from dragon.keys import new_key
from dragon.task import Limits, OutputFile
from tasks import image

SIZE = (4000, 3000)
QUALITY = 90
WIDTH = 300
COUNT = 60
PROCESSES = 2
PATIENCE = 120.0  # seconds
LIMITS = Limits(pixels=100_000_000, frames=1000, output_pixels=50_000_000)  # as in conf/dragon.toml


async def measure(place: Place, rounds: int) -> list[Table]:
    key = new_key()
    # An output file like any other: the worker copies it from the disk for each task, as it does with files of its own.
    photo = place.data / "dragon" / "files" / key[:2] / key / "1" / "photo.jpg"
    make_photo(photo)
    folder = place.data / "thumbs"
    folder.mkdir()
    async with (
        place.server() as (_, port),
        place.worker(executors=PROCESSES, PORT=str(port)),
        processes() as pool,
    ):
        url = f"http://127.0.0.1:{port}/files/{key}/photo.jpg"
        request = post("/v1/create_stream", {"tasks": [thumb_of(url)] * COUNT})
        warm = post("/v1/create_stream", {"tasks": [thumb_of(url)] * PROCESSES})

        async def dragon() -> float:
            await stream(port, warm, PROCESSES)
            return COUNT / await stream(port, request, COUNT)

        async def pillow() -> float:
            await thumbs(pool, photo, folder, PROCESSES)
            begun = time.perf_counter()
            await thumbs(pool, photo, folder, COUNT)
            return COUNT / (time.perf_counter() - begun)

        megabytes = photo.stat().st_size / 1e6
        title = f"image.thumb, JPEG of {SIZE[0]} x {SIZE[1]} ({megabytes:.1f} MB) to {WIDTH} px"
        table = Table("images", title, "images/s", more_is_better=True)
        table.rows = await alternate(
            [
                Candidate("dragon", "dragon", dragon, f"{COUNT} tasks in one stream, {PROCESSES} executors"),
                Candidate("Pillow alone", "yardstick", pillow, f"Pillow {version('pillow')}, {PROCESSES} processes"),
            ],
            rounds,
        )
    ratio = table.row("dragon").median / table.row("Pillow alone").median
    table.goals.append(Goal("of Pillow alone", ratio, 0.95, at_least=True))
    return [table]


def make_photo(path: Path) -> None:
    """Gradients with noise on them, which compress about as well as a photo."""
    across = Image.linear_gradient("L").resize(SIZE)
    down = Image.linear_gradient("L").rotate(90).resize(SIZE)
    noise = Image.effect_noise(SIZE, 20)
    channels = [Image.blend(channel, noise, 0.4) for channel in (across, down, Image.blend(across, down, 0.5))]
    path.parent.mkdir(parents=True)
    Image.merge("RGB", channels).save(path, "JPEG", quality=QUALITY)


def thumb_of(url: str) -> dict[str, object]:
    return {"task_name": "image.thumb", "url": url, "width": WIDTH}


async def stream(port: int, request: bytes, count: int) -> float:
    """Seconds from the first task that executes to the last that has ended, by the lines of one stream."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
    writer.write(request)
    begun, ended = None, 0
    async with asyncio.timeout(PATIENCE):
        while ended < count:
            line = await reader.readline()
            if not line:
                raise RuntimeError(f"the stream ended after {ended} of {count} images")
            if not line.lstrip().startswith(b'{"status"'):
                continue
            status = orjson.loads(line)["status"]
            if status == "error":
                raise RuntimeError(f"no thumbnail: {line!r}")
            begun = begun or time.perf_counter()
            ended += status == "success"
    writer.close()
    assert begun is not None
    return time.perf_counter() - begun


# --- Pillow alone -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bare:
    """What the task asks of its context, and no more: the source is where it is, the output stays where it is put."""

    source: Path
    output: Path
    limits: Limits = LIMITS

    def fetch(self, _url: str) -> Path:
        return self.source

    def output_file(self, name: str, _extension: str) -> OutputFile:
        return OutputFile(name, self.output)


def thumb(source: Path, output: Path) -> None:
    """dragon's own function, called in this process."""
    made = image.thumb(Bare(source, output), url="file", width=WIDTH)
    if made.width != WIDTH or not output.stat().st_size:
        raise RuntimeError(f"no thumbnail: {made!r}")


@contextlib.asynccontextmanager
async def processes() -> AsyncIterator[ProcessPoolExecutor]:
    """Bare processes that have imported what they need."""
    pool = ProcessPoolExecutor(PROCESSES, get_context("spawn"))
    try:
        yield pool
    finally:
        pool.shutdown()


async def thumbs(pool: ProcessPoolExecutor, source: Path, folder: Path, count: int) -> None:
    """So many thumbnails, each a file of its own; whoever is free makes the next."""
    loop = asyncio.get_running_loop()
    outputs = [folder / f"{number}.jpg" for number in range(count)]
    await asyncio.gather(*(loop.run_in_executor(pool, thumb, source, output) for output in outputs))
