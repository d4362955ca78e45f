"""Output files: a table of formats, and a GIF writer that needs the memory of one frame."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator
from io import BytesIO
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

from PIL import GifImagePlugin, Image

from dragon.task import Limits, TaskError
from tasks.pictures import colours
from tasks.pictures.sizes import Size
from tasks.pictures.sources import Frame

EXTENSIONS = {"jpeg": ".jpg", "png": ".png", "gif": ".gif", "webp": ".webp", "avif": ".avif"}

#: The formats whose files may move.
ANIMATED = ("gif", "webp")

#: The longest side that a format can say, in pixels.
_LONGEST_SIDE = {"jpeg": 65500, "png": 1_000_000, "gif": 65535, "webp": 16383, "avif": 65535}

_TRANSPARENT = 255  # the palette's last entry
_CLEAR = 2  # GIF disposal: the next frame begins on an empty canvas
_KEEP = 1

_WEBP_FLAGS = 20  # where they stand in the file
_WEBP_ALPHA = 0x10


def check_output(size: Size, count: int, format: str, limits: Limits) -> None:
    """To be called before the pixels of an output are allocated. Raises TaskError that names the limit."""
    width, height = size
    if max(size) > _LONGEST_SIDE[format]:
        raise TaskError(
            f"the output would be {width} x {height} pixels, "
            f"the limit of {format} is {_LONGEST_SIDE[format]} pixels a side"
        )
    if width * height * count > limits.output_pixels:
        times = f" in each of {count} frames" if count > 1 else ""
        raise TaskError(
            f"the output would have {width} x {height} pixels{times}, "
            f"the limit is {limits.output_pixels} pixels in all (limits.output_pixels): make width and height smaller"
        )


def write(path: Path, format: str, frames: Iterator[Frame], *, quality: int, plays: int) -> None:
    """Writes the frames as an animation, or the first one where the format cannot move. `plays` is 0 for ever."""
    _WRITERS[format](path, frames, quality, plays)


def _write_jpeg(path: Path, frames: Iterator[Frame], quality: int, plays: int) -> None:
    colours.on_white(next(frames).picture).save(path, "JPEG", quality=quality)


def _write_png(path: Path, frames: Iterator[Frame], quality: int, plays: int) -> None:
    next(frames).picture.save(path, "PNG")


def _write_avif(path: Path, frames: Iterator[Frame], quality: int, plays: int) -> None:
    next(frames).picture.save(path, "AVIF", quality=quality)


def _write_webp(path: Path, frames: Iterator[Frame], quality: int, plays: int) -> None:
    first, *others = frames
    if not others:
        first.picture.save(path, "WEBP", quality=quality)
        return
    pictures = [frame.picture for frame in (first, *others)]
    durations = [frame.duration for frame in (first, *others)]
    content = BytesIO()
    first.picture.save(
        content, "WEBP", quality=quality, save_all=True, append_images=pictures[1:], duration=durations, loop=plays
    )
    if any(picture.mode in ("LA", "RGBA") for picture in pictures):
        # libwebp cuts frames to what is visible, and when those cuts are opaque calls the whole file opaque.
        content.getbuffer()[_WEBP_FLAGS] |= _WEBP_ALPHA
    path.write_bytes(content.getbuffer())


def _write_gif(path: Path, frames: Iterator[Frame], quality: int, plays: int) -> None:
    # GIF counts repetitions: 0 says for ever, so that playing once is said by silence.
    write_gif(path, frames, loop=-1 if plays == 1 else max(0, plays - 1))


_WRITERS: dict[str, Callable[[Path, Iterator[Frame], int, int], None]] = {
    "jpeg": _write_jpeg,
    "png": _write_png,
    "gif": _write_gif,
    "webp": _write_webp,
    "avif": _write_avif,
}


def write_gif(path: Path, frames: Iterable[Frame], *, loop: int) -> None:
    """Writes a GIF frame by frame, every frame whole and with its own palette.

    Pillow's own writer holds all frames in memory, and merges equal ones: the file would have fewer frames than were
    asked for. `loop` is 0 for ever, n for n repetitions, -1 or less for none.
    """
    with path.open("wb") as file:
        ends = 0
        for number, frame in enumerate(frames):
            if number == 0:
                file.write(_gif_header(frame.picture.size, loop))
            begins, ends = ends, ends + frame.duration
            file.write(_gif_frame(frame.picture, _hundredths(ends) - _hundredths(begins)))
        file.write(b";")


def gif_durations(seconds: float, count: int) -> list[int]:
    """Durations of frames in milliseconds, as GIF can say them: whole hundredths, that add up to the exact total."""
    ends = accumulate([seconds] * count, initial=0.0)
    return [10 * (round(100 * end) - round(100 * begin)) for begin, end in pairwise(ends)]


def _hundredths(milliseconds: int) -> int:
    return round(milliseconds / 10)


def _gif_header(size: Size, loop: int) -> bytes:
    header = b"GIF89a" + struct.pack("<HHBBB", *size, 0, 0, 0)  # no global palette
    if loop >= 0:
        header += b"!\xff\x0bNETSCAPE2.0\x03\x01" + struct.pack("<H", min(loop, 65535)) + b"\0"
    return header


def _gif_frame(picture: Image.Image, hundredths: int) -> bytes:
    indexed = _to_palette(picture)
    options: dict[str, Any] = {"duration": 10 * hundredths, "disposal": _KEEP, "include_color_table": True}
    if "transparency" in indexed.info:
        options |= {"transparency": _TRANSPARENT, "disposal": _CLEAR}
    return b"".join(GifImagePlugin.getdata(indexed, **options))


def _to_palette(picture: Image.Image) -> Image.Image:
    """The picture with the 256 colours that suit it best, dithered; one of them is for what is mostly transparent."""
    colourful = picture.convert("RGB")
    has_alpha = picture.mode in ("LA", "RGBA")
    palette = colourful.quantize(255 if has_alpha else 256)
    indexed = colourful.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG)
    if has_alpha:
        indexed.paste(_TRANSPARENT, mask=picture.getchannel("A").point(lambda alpha: 255 if alpha < 128 else 0))
        indexed.info["transparency"] = _TRANSPARENT
    return indexed
