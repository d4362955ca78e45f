"""Pictures and contexts for the tests of the image tasks: real photographs, and an example of every oddity."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import skimage.data
from numpy.typing import NDArray
from PIL import ExifTags, Image

from dragon.task import Limits, OutputFile, TaskError

Pixels = NDArray[np.uint8]

RED, GREEN, BLUE, YELLOW, WHITE, BLACK = (
    (230, 20, 20),
    (20, 200, 20),
    (20, 20, 230),
    (240, 240, 20),
    (255, 255, 255),
    (0, 0, 0),
)


LIMITS = Limits(pixels=100_000_000, frames=1000, output_pixels=50_000_000)  # the defaults of conf/dragon.toml


@dataclass
class FakeContext:
    """What a `def` task is given; `files` stands for the web."""

    scratch: Path
    limits: Limits = LIMITS
    files: dict[str, Path] = field(default_factory=dict)
    fetched: list[str] = field(default_factory=list)
    reports: list[Any] = field(default_factory=list)
    key: str = "k"
    attempt: int = 1
    traceparent: str | None = None
    lines: list[str] = field(default_factory=list)

    def add(self, name: str, content: bytes | Image.Image | Pixels, **options: Any) -> str:
        """Puts a file on the web: bytes as they are, pictures saved in the format that `name` ends with."""
        path = self.scratch / f"web-{name}"
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            picture = content if isinstance(content, Image.Image) else Image.fromarray(content)
            picture.save(path, **options)
        url = f"http://files.com/{name}"
        self.files[url] = path
        return url

    def log(self, *values: Any) -> None:
        self.lines.append(" ".join(map(str, values)))

    def fetch(self, url: str) -> Path:
        self.fetched.append(url)
        if url not in self.files:
            raise TaskError(f"File '{url}' could not be downloaded: 404")
        copy = self.scratch / f"fetched-{len(self.fetched)}"
        copy.write_bytes(self.files[url].read_bytes())
        return copy

    def progress(self, value: Any) -> None:
        self.reports.append(value)

    def partial(self, value: Any) -> None:
        raise AssertionError("the image tasks have no partial results")

    def output_file(self, name: str, extension: str) -> OutputFile:
        return OutputFile(name, self.scratch / f"{name}{extension}")


def rgba(file: OutputFile | Path, frame: int = 0) -> Pixels:
    """The pixels of one frame of a file."""
    with Image.open(file.path if isinstance(file, OutputFile) else file) as image:
        image.seek(frame)
        return np.asarray(image.convert("RGBA"))


def info_of(file: OutputFile, frame: int = 0) -> dict[str, Any]:
    """What Pillow says of a frame, and `format`, `mode`, `size`, `n_frames`."""
    with Image.open(file.path) as image:
        frames = getattr(image, "n_frames", 1)
        image.seek(frame)
        image.load()
        return image.info | {"format": image.format, "mode": image.mode, "size": image.size, "n_frames": frames}


def near(colour: Any, expected: tuple[int, ...], tolerance: int = 12) -> bool:
    return bool(np.all(np.abs(np.asarray(colour, int)[: len(expected)] - expected) <= tolerance))


def quadrants(width: int = 80, height: int = 60) -> Pixels:
    """Red and green above blue and yellow: every turn and flip shows."""
    picture = np.empty((height, width, 3), np.uint8)
    middle, half = height // 2, width // 2
    picture[:middle, :half], picture[:middle, half:] = RED, GREEN
    picture[middle:, :half], picture[middle:, half:] = BLUE, YELLOW
    return picture


def stored_with_orientation(upright: Pixels, orientation: int) -> Pixels:
    """How a camera stores it. By the EXIF standard's table of where row 0 and column 0 are in the scene."""
    sideways = upright.swapaxes(0, 1)
    return np.ascontiguousarray(
        {
            1: upright,  # row 0 is the top, column 0 the left side
            2: upright[:, ::-1],  # top, right
            3: upright[::-1, ::-1],  # bottom, right
            4: upright[::-1],  # bottom, left
            5: sideways,  # left, top
            6: sideways[::-1],  # right, top
            7: sideways[::-1, ::-1],  # right, bottom
            8: sideways[:, ::-1],  # left, bottom
        }[orientation]
    )


def corners(picture: Pixels) -> list[Pixels]:
    """The colours in the middle of the four quarters: left and right above, left and right below."""
    height, width = picture.shape[:2]
    places = ((y, x) for y in (height // 4, 3 * height // 4) for x in (width // 4, 3 * width // 4))
    return [picture[place] for place in places]


def exif_of(main: Mapping[int, Any] | None = None, camera: Mapping[int, Any] | None = None) -> bytes:
    exif = Image.Exif()
    for tag, value in (main or {}).items():
        exif[tag] = value
    if camera:
        exif.get_ifd(ExifTags.IFD.Exif).update(camera)
    return exif.tobytes()


def exif_of_texts(*camera: int) -> bytes:
    """EXIF whose orientation is the text "up", and the camera's tags the text "one"; Pillow would not write it."""
    return _exif_of_entries(*(struct.pack(">HHI4s", tag, 2, 4, b"one") for tag in camera))


def exif_of_infinities(*camera: int) -> bytes:
    """The same with infinite floats."""
    return _exif_of_entries(*(struct.pack(">HHIf", tag, 11, 1, float("inf")) for tag in camera))


def _exif_of_entries(*camera: bytes) -> bytes:
    main = struct.pack(">HHHI4s", 2, 0x0112, 2, 3, b"up") + struct.pack(">HHII", 0x8769, 4, 1, 38) + bytes(4)
    return b"Exif\0\0MM\0*\0\0\0\x08" + main + struct.pack(">H", len(camera)) + b"".join(camera) + bytes(4)


def photograph() -> Image.Image:
    """A cat, 451 x 300."""
    return Image.fromarray(skimage.data.chelsea())


def bomb(width: int = 60_000, height: int = 60_000) -> bytes:
    """A PNG of some hundred bytes whose header promises many pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(100_000))) + chunk(b"IEND", b"")


def webp_bomb() -> bytes:
    """The first 30 bytes of a WebP of 16000 x 16000."""
    side = struct.pack("<I", 15_999)[:3]
    return b"RIFF" + struct.pack("<I", 22) + b"WEBPVP8X" + struct.pack("<I", 10) + bytes(4) + side + side


def growing_gif(width: int, height: int) -> bytes:
    """A GIF of 10 x 10 whose second frame says that it is as large as this."""
    buffer = BytesIO()
    Image.new("L", (10, 10)).save(buffer, "GIF", save_all=True, append_images=[Image.new("L", (10, 10), 255)])
    before, after = buffer.getvalue().rsplit(b"," + struct.pack("<HHHH", 0, 0, 10, 10), 1)
    return before + b"," + struct.pack("<HHHH", 0, 0, width, height) + after


def many_frames(count: int) -> bytes:
    """A GIF of 1 x 1 with that many frames."""
    frame = b"!\xf9\x04\x00\x0a\x00\x00\x00," + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\x00"
    return b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0x80, 0, 0) + bytes(6) + frame * count + b";"


# ICC profiles, built by hand because no tool here makes any but sRGB, Lab and XYZ. (ICC.1:2001-04)

ADOBE_RGB = ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457))  # XYZ, D50
ADOBE_GAMMA = 563 / 256
_D50 = (0.9642, 1.0, 0.8249)


def _fixed(*numbers: float) -> bytes:
    return b"".join(struct.pack(">i", round(number * 65536)) for number in numbers)


def _xyz(*numbers: float) -> bytes:
    return b"XYZ \0\0\0\0" + _fixed(*numbers)


def _gamma(exponent: float) -> bytes:
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(exponent * 256)) + b"\0\0"


def _profile(device: bytes, space: bytes, connection: bytes, tags: dict[bytes, bytes]) -> bytes:
    text = b"made for a test"
    tags = {
        b"desc": b"desc\0\0\0\0" + struct.pack(">I", len(text) + 1) + text + b"\0" + bytes(78),
        b"cprt": b"text\0\0\0\0" + text + b"\0",
        b"wtpt": _xyz(*_D50),
    } | tags
    offset = 128 + 4 + 12 * len(tags)
    table, body = struct.pack(">I", len(tags)), b""
    for name, data in tags.items():
        data += bytes(-len(data) % 4)
        table += name + struct.pack(">II", offset + len(body), len(data))
        body += data
    header = struct.pack(">I4sI4s4s4s", offset + len(body), bytes(4), 0x02400000, device, space, connection)
    header += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + _fixed(*_D50)
    return header.ljust(128, b"\0") + table + body


def adobe_rgb_profile() -> bytes:
    curve = _gamma(ADOBE_GAMMA)
    primaries = {name: _xyz(*value) for name, value in zip((b"rXYZ", b"gXYZ", b"bXYZ"), ADOBE_RGB, strict=True)}
    return _profile(b"mntr", b"RGB ", b"XYZ ", primaries | {b"rTRC": curve, b"gTRC": curve, b"bTRC": curve})


def linear_gray_profile() -> bytes:
    return _profile(b"mntr", b"GRAY", b"XYZ ", {b"kTRC": _gamma(1.0)})


INK_LAB = {"cyan": (150, 100, 90), "paper": (255, 128, 128)}  # 8-bit Lab, zero at 128


def cmyk_profile() -> bytes:
    """A printer whose cyan is as INK_LAB says, whose other inks are black."""
    corners = b""
    for corner in range(16):  # the last channel, black, changes fastest
        inks = f"{corner:04b}"
        colour = {"0000": INK_LAB["paper"], "1000": INK_LAB["cyan"]}.get(inks, (0, 128, 128))
        corners += bytes(colour)
    straight = bytes(range(256))
    identity = _fixed(1, 0, 0, 0, 1, 0, 0, 0, 1)
    table = b"mft1\0\0\0\0" + bytes((4, 3, 2, 0)) + identity + straight * 4 + corners + straight * 3
    return _profile(b"prtr", b"CMYK", b"Lab ", {b"A2B0": table, b"A2B1": table})


def adobe_rgb_to_srgb(colour: tuple[int, int, int]) -> tuple[int, ...]:
    """The same computed by the formulas, without LittleCMS."""
    linear = (np.array(colour) / 255) ** ADOBE_GAMMA
    xyz = np.array(ADOBE_RGB).T @ linear
    from_xyz = np.array(
        [[3.1338561, -1.6168667, -0.4906146], [-0.9787684, 1.9161415, 0.0334540], [0.0719453, -0.2289914, 1.4052427]]
    )
    light = (from_xyz @ xyz).clip(0, 1)
    encoded = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return tuple(int(value) for value in (255 * encoded).round())
