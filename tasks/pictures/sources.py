"""Pictures as clients send them: opened with care, checked before they are decoded, handed out upright and in sRGB.

Pillow keeps its bound of pixels in a global, so one process reads one source at a time; executors of `def` tasks do.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

# Importing a plugin registers its format. Image.open would else load all forty at its first WebP.
from PIL import (
    AvifImagePlugin,  # noqa: F401
    BmpImagePlugin,  # noqa: F401
    GifImagePlugin,  # noqa: F401
    Image,
    ImageFile,
    JpegImagePlugin,  # noqa: F401
    MpoImagePlugin,  # noqa: F401
    PngImagePlugin,  # noqa: F401
    TiffImagePlugin,
    WebPImagePlugin,  # noqa: F401
)

from dragon.task import Limits, TaskError
from tasks.pictures import colours, costs
from tasks.pictures.exif import read_orientation
from tasks.pictures.sizes import Placement, Size, across
from tasks.pictures.structure import TooManyParts, count_scans

#: The formats that are read, with their content types. All others, PostScript first, stay shut.
FORMATS = {
    "JPEG": "image/jpeg",
    "MPO": "image/jpeg",  # a JPEG with further pictures behind it, as phones write it
    "PNG": "image/png",
    "GIF": "image/gif",
    "WEBP": "image/webp",
    "AVIF": "image/avif",
    "TIFF": "image/tiff",
    "BMP": "image/bmp",
}

_JPEG = ("JPEG", "MPO")
_OPENED = tuple(name for name in FORMATS if name != "MPO")  # which Pillow finds by opening a JPEG
_ANIMATED = ("GIF", "WEBP", "AVIF", "PNG")  # the further pictures of a TIFF or MPO are pages, no frames

_REDUCING_GAP = 2.0  # shrink fast to twice the size, well for the rest: not to be told from shrinking well all the way
_DEFAULT_DURATION = 100  # milliseconds: what browsers make of a frame without one

_TRANSPOSE = Image.Transpose
_UPRIGHT = {
    2: _TRANSPOSE.FLIP_LEFT_RIGHT,
    3: _TRANSPOSE.ROTATE_180,
    4: _TRANSPOSE.FLIP_TOP_BOTTOM,
    5: _TRANSPOSE.TRANSPOSE,
    6: _TRANSPOSE.ROTATE_270,
    7: _TRANSPOSE.TRANSVERSE,
    8: _TRANSPOSE.ROTATE_90,
}
_ROTATED = {90: _TRANSPOSE.ROTATE_90, 180: _TRANSPOSE.ROTATE_180, 270: _TRANSPOSE.ROTATE_270}
_ONTO_SIDE = frozenset(
    {_TRANSPOSE.TRANSPOSE, _TRANSPOSE.ROTATE_270, _TRANSPOSE.TRANSVERSE, _TRANSPOSE.ROTATE_90},
)


@dataclass(frozen=True, slots=True)
class Frame:
    """One picture of an animation."""

    picture: Image.Image
    duration: int  # milliseconds


@dataclass(frozen=True, slots=True)
class Source:
    """An open picture file."""

    image: ImageFile.ImageFile
    url: str
    limits: Limits
    file_bytes: int
    scans: int  # how often a decoder goes over it; more than 1 for some JPEGs only
    stored: Size  # as the file says
    turns: tuple[Image.Transpose, ...]  # what makes it upright, and then the rotation that was asked for
    lies: bool  # whether width and height change places on that way
    shown: Size  # at the end of it


@contextmanager
def open_header(path: Path, url: str, limits: Limits) -> Iterator[ImageFile.ImageFile]:
    """Opens a picture without decoding it. Raises TaskError when it is none, or has too many pixels."""
    with _opened(path, url, limits) as (image, _):
        yield image


@contextmanager
def _opened(path: Path, url: str, limits: Limits) -> Iterator[tuple[ImageFile.ImageFile, int]]:
    with _reading(url, limits):
        scans = count_scans(path)
        image = Image.open(path, formats=_OPENED)
    with image:
        _check_pixels(image.size, url, limits)
        if image.width * image.height * scans > costs.SCANS * limits.pixels:
            raise TaskError(
                f"File '{url}' goes {scans} times over {image.width} x {image.height} pixels, "
                f"the limit is {costs.SCANS} times {limits.pixels} pixels (limits.pixels)"
            )
        yield image, scans


@contextmanager
def open_source(path: Path, url: str, limits: Limits, rotation: int = 0) -> Iterator[Source]:
    """Opens a picture to make others of it, turned by `rotation` degrees counter-clockwise once it is upright."""
    with _opened(path, url, limits) as (image, scans):
        stored = stored_size(image)
        file_bytes = path.stat().st_size
        if image.format not in _JPEG:  # which may yet be decoded at an eighth of its size
            _check_memory(costs.memory(image, stored, (0, 0), "", scans=scans, is_animated=False), file_bytes, url)
        with _reading(url, limits):
            if image.format not in _JPEG:
                image.load()  # a PNG's EXIF may stand behind its pixels; a TIFF makes itself upright, and says so after
        wanted = (_UPRIGHT.get(read_orientation(image) or 1), _ROTATED.get(rotation))
        turns = tuple(turn for turn in wanted if turn is not None)
        lies = sum(turn in _ONTO_SIDE for turn in turns) % 2 == 1
        yield Source(
            image, url, limits, file_bytes, scans, stored, turns, lies, across(image.size) if lies else image.size
        )


def stored_size(image: ImageFile.ImageFile) -> Size:
    """Width and height as the file says, before any orientation; to be asked before the picture is loaded."""
    if isinstance(image, TiffImagePlugin.TiffImageFile):  # whose `size` is the upright one
        return image.tag_v2[TiffImagePlugin.IMAGEWIDTH], image.tag_v2[TiffImagePlugin.IMAGELENGTH]
    return image.size


def still(source: Source, placement: Placement) -> Image.Image:
    """The first frame."""
    return _render(source, placement)


def count_frames(source: Source) -> int:
    """How many frames its animation has; 1 when it has none. Raises TaskError when they are too many."""
    if source.image.format not in _ANIMATED:
        return 1
    with _reading(source.url, source.limits):
        count: int = getattr(source.image, "n_frames", 1) - _first_frame(source)
    if count > source.limits.frames:
        raise TaskError(
            f"File '{source.url}' has {count} frames, the limit is {source.limits.frames} frames (limits.frames)"
        )
    pixels = count * source.image.width * source.image.height
    most = max(costs.ANIMATIONS * source.limits.pixels, costs.PIXELS_PER_BYTE * source.file_bytes)
    if count > 1 and pixels > most:
        raise TaskError(
            f"File '{source.url}' has {count} frames of {source.image.width} x {source.image.height} pixels, "
            f"the limit is {most} pixels in all: {costs.ANIMATIONS} times limits.pixels, "
            f"or {costs.PIXELS_PER_BYTE} for a byte of the file"
        )
    return count


def frames(source: Source, placement: Placement) -> Iterator[Frame]:
    """All frames of an animation, one at a time."""
    first = _first_frame(source)
    for number in range(first, first + count_frames(source)):
        with _reading(source.url, source.limits):
            if number == first + 1:
                check_memory(source, placement, is_animated=True)
            source.image.seek(number)
            source.image.load()  # WebP and AVIF know a frame's duration only now
        duration = round(source.image.info.get("duration", 0)) or _DEFAULT_DURATION
        yield Frame(_render(source, placement), duration)


def plays(source: Source) -> int:
    """How often the animation plays, 0 for ever."""
    loop = source.image.info.get("loop")
    if source.image.format == "GIF":  # which counts repetitions, and without a word plays once
        return 1 if loop is None else loop and loop + 1
    return loop or 0


def _first_frame(source: Source) -> int:
    # An animated PNG may carry a picture for viewers that know no animations, in front of the frames.
    return int(bool(getattr(source.image, "default_image", False)))


def _render(source: Source, placement: Placement) -> Image.Image:
    """The present frame as `placement`, upright, in sRGB, with nothing but pixels.

    Shrinking comes first, so that colours and turns have little to do.
    """
    image = source.image
    lying = placement.across() if source.lies else placement
    with _reading(source.url, source.limits):
        scale = _draft(image, lying)
        check_memory(source, placement)
        image.load()
        picture = colours.plain(image)
    picture = _resize(picture, lying, scale)
    picture = colours.to_srgb(picture, image.info.get("icc_profile"))
    for turn in source.turns:
        picture = picture.transpose(turn)
    picture = picture.copy() if picture is image else picture
    picture.info = {}  # writers would copy EXIF, comments and the profile from here
    return picture


def _draft(image: ImageFile.ImageFile, placement: Placement) -> float:
    """Has a JPEG decoded at a half, quarter or eighth where that is enough; returns that scale."""
    if image.format not in _JPEG:
        return 1.0
    left, upper, right, lower = placement.box
    needed = _REDUCING_GAP * max(placement.size[0] / (right - left), placement.size[1] / (lower - upper))
    width, height = image.size
    drafted = image.draft(None, (math.ceil(width * needed), math.ceil(height * needed)))
    return drafted[1][2] / width if drafted else 1.0


def _resize(picture: Image.Image, placement: Placement, scale: float) -> Image.Image:
    left, upper, right, lower = (edge * scale for edge in placement.box)
    box = (left, upper, min(right, picture.width), min(lower, picture.height))
    if placement.size == picture.size and box == (0, 0, *picture.size):
        return picture
    return picture.resize(placement.size, Image.Resampling.LANCZOS, box, _REDUCING_GAP)


def _check_pixels(size: Size, url: str, limits: Limits) -> None:
    if size[0] * size[1] > limits.pixels:
        raise _too_many_pixels(url, limits)


def check_memory(source: Source, placement: Placement, format: str = "", *, is_animated: bool = False) -> None:
    """Raises TaskError when a small file would take much memory. `format` is what the output is written in."""
    needed = costs.memory(
        source.image, source.stored, placement.size, format, scans=source.scans, is_animated=is_animated
    )
    _check_memory(needed, source.file_bytes, source.url)


def _check_memory(needed: int, size: int, url: str) -> None:
    if needed > max(costs.FREE_MEMORY, costs.MEMORY_PER_BYTE * size):
        raise TaskError(
            f"File '{url}' would take {needed >> 20} MB of memory, and has {size} bytes: beyond "
            f"{costs.FREE_MEMORY >> 20} MB a file must have a byte for every {costs.MEMORY_PER_BYTE} of them"
        )


def _too_many_pixels(url: str, limits: Limits) -> TaskError:
    return TaskError(f"File '{url}' has more pixels than the limit of {limits.pixels} (limits.pixels)")


@contextmanager
def _reading(url: str, limits: Limits) -> Iterator[None]:
    """Turns whatever Pillow raises while it reads a file into a TaskError; to be put around nothing else.

    Broken files make it raise nearly every built-in exception, so there is no shorter list than Exception.
    """
    bound = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = math.ceil(limits.pixels / 2)  # Pillow warns beyond it, and refuses beyond twice of it
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except Image.DecompressionBombError:
        raise _too_many_pixels(url, limits) from None
    except TaskError:
        raise
    except TooManyParts:
        raise TaskError(f"File '{url}' is made of more parts than a picture has") from None
    except MemoryError:
        raise TaskError(f"File '{url}' needs more memory than a task may have (limits.memory_bytes)") from None
    except Exception as error:
        raise TaskError(f"File '{url}' is not a valid image file") from error
    finally:
        Image.MAX_IMAGE_PIXELS = bound
