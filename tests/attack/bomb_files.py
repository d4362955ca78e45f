"""Files made to exhaust who opens them: small ones that promise or become large pictures, many frames, long work."""

from __future__ import annotations

import struct
import zlib
from functools import cache
from io import BytesIO

from PIL import Image

SIDE = 10_000  # SIDE x SIDE is just what limits.pixels allows


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def _deflated(size: int) -> bytes:
    """That many zeros, packed 1,030 : 1."""
    packer, block = zlib.compressobj(9), bytes(1 << 20)
    parts = [packer.compress(block) for _ in range(size >> 20)]
    return b"".join([*parts, packer.compress(bytes(size & 0xFFFFF)), packer.flush()])


_BYTES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # a pixel, by PNG's colour types


@cache
def png(width: int = SIDE, height: int = SIDE, *, colour: int = 2, depth: int = 8, extra: bytes = b"") -> bytes:
    """A whole and valid PNG of nothing but zeros; `extra` chunks stand before the pixels."""
    line = 1 + width * _BYTES[colour] * depth // 8
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    if colour == 3:
        header += _chunk(b"PLTE", bytes(768)) + _chunk(b"tRNS", bytes(256))
    body = _chunk(b"IDAT", _deflated(line * height))
    return b"\x89PNG\r\n\x1a\n" + header + extra + body + _chunk(b"IEND", b"")


def apng(count: int, *, side: int = SIDE, claimed: int | None = None, dispose: int = 2) -> bytes:
    """An animated PNG: the first frame is as large as the canvas, all others are one pixel."""
    control = _chunk(b"acTL", struct.pack(">II", count if claimed is None else claimed, 0))
    first = _chunk(b"fcTL", struct.pack(">IIIIIHHBB", 0, side, side, 0, 0, 1, 10, dispose, 1))
    whole = png(side, side, colour=6, extra=control + first)
    pixel = zlib.compress(bytes(5))
    frames = b"".join(
        _chunk(b"fcTL", struct.pack(">IIIIIHHBB", 2 * number + 1, 1, 1, 0, 0, 1, 10, dispose, 1))
        + _chunk(b"fdAT", struct.pack(">I", 2 * number + 2) + pixel)
        for number in range(count - 1)
    )
    return whole[:-12] + frames + whole[-12:]


def png_of_chunks(count: int) -> bytes:
    """A PNG of one pixel with many empty chunks in front of it."""
    return png(1, 1, colour=0, extra=_chunk(b"dRaG", b"") * count)


def text_bomb(kind: bytes, size: int) -> bytes:
    """A PNG whose text or profile unpacks to that many bytes: `zTXt`, `iTXt` or `iCCP`."""
    head = {b"zTXt": b"k\0\0", b"iTXt": b"k\0\x01\0\0\0", b"iCCP": b"k\0\0"}[kind]
    return png(10, 10, colour=2, extra=_chunk(kind, head + _deflated(size)))


def gif(count: int, *, side: int = SIDE, disposal: int = 2) -> bytes:
    """A GIF on a large canvas whose frames are one pixel each."""
    frame = struct.pack("<BBBBHBB", 0x21, 0xF9, 4, disposal << 2, 10, 0, 0)
    frame += b"," + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\x00"
    return b"GIF89a" + struct.pack("<HHBBB", side, side, 0x80, 0, 0) + bytes(6) + frame * count + b";"


def gif_of_blocks(count: int) -> bytes:
    """A GIF whose comment consists of blocks of one byte."""
    return gif(1, side=1).replace(b"!\xf9", b"!\xfe" + b"\1x" * count + b"\0!\xf9", 1)


@cache
def full_gif(side: int = SIDE) -> bytes:
    buffer = BytesIO()
    Image.new("P", (side, side)).save(buffer, "GIF")
    return buffer.getvalue()


def webp(width: int = SIDE, height: int = SIDE) -> bytes:
    """A lossless WebP of one colour, whose pixels take no bits at all: 34 bytes, whatever its size."""
    buffer = BytesIO()
    Image.new("RGBA", (1, 1), (1, 2, 3, 4)).save(buffer, "WEBP", lossless=True)
    return _resized(buffer.getvalue(), width, height)


def _resized(small: bytes, width: int, height: int) -> bytes:
    at = small.index(b"VP8L") + 9
    bits = struct.unpack_from("<I", small, at)[0] & ~0xFFFFFFF
    return small[:at] + struct.pack("<I", bits | (width - 1) | (height - 1) << 14) + small[at + 4 :]


def animated_webp(count: int, side: int = SIDE, frame_side: int = 1) -> bytes:
    """An animation on a large canvas of frames of one colour."""

    def sized(name: bytes, data: bytes) -> bytes:
        return name + struct.pack("<I", len(data)) + data + bytes(len(data) % 2)

    picture = webp(frame_side, frame_side)[12:]
    short = struct.pack("<I", frame_side - 1)[:3]
    frame = sized(b"ANMF", bytes(6) + short * 2 + struct.pack("<I", 100)[:3] + b"\1" + picture)
    canvas = sized(b"VP8X", b"\x12\0\0\0" + struct.pack("<I", side - 1)[:3] * 2)
    body = b"WEBP" + canvas + sized(b"ANIM", bytes(6)) + frame * count
    return b"RIFF" + struct.pack("<I", len(body)) + body


@cache
def progressive_jpeg(scans: int, width: int = SIDE, height: int = SIDE) -> bytes:
    """A JPEG whose header says that large a picture, with that many scans that have nearly no data."""
    buffer = BytesIO()
    Image.new("RGB", (16, 16), (200, 30, 30)).save(buffer, "JPEG", progressive=True, subsampling=0)
    data = buffer.getvalue()
    frame = data.index(b"\xff\xc2")
    data = data[: frame + 5] + struct.pack(">HH", height, width) + data[frame + 9 :]
    last = data.rindex(b"\xff\xda")
    return data[:-2] + data[last:-2] * scans + b"\xff\xd9"


def jpeg_of_segments(count: int) -> bytes:
    """A JPEG of 8 x 8 with many empty comments."""
    buffer = BytesIO()
    Image.new("L", (8, 8)).save(buffer, "JPEG")
    return b"\xff\xd8" + b"\xff\xfe\0\2" * count + buffer.getvalue()[2:]


def tiff(entries: dict[int, tuple[int, int, int]], body: bytes = b"", *, repeat: int = 0) -> bytes:
    """A TIFF of these tags: type, count, value or offset (8: the body); `repeat` private tags that all say the body."""
    tags = dict(sorted((entries | {50_000 + number: (7, len(body), 8) for number in range(repeat)}).items()))
    directory = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", tag, *rest) for tag, rest in tags.items())
    return b"II*\0" + struct.pack("<I", 8 + len(body)) + body + directory + bytes(4)


def flat_tiff(
    side: int = SIDE, *, depth: int = 8, samples: int = 3, photometric: int = 2, float_: bool = False
) -> bytes:
    """A valid TIFF of zeros, deflated, in one strip."""
    body = _deflated(side * side * samples * depth // 8)
    entries = {
        256: (4, 1, side), 257: (4, 1, side), 259: (3, 1, 8), 262: (3, 1, photometric), 273: (4, 1, 8),
        277: (3, 1, samples), 278: (4, 1, side), 279: (4, 1, len(body)), 339: (3, 1, 3 if float_ else 1),
    }  # fmt: skip
    if samples == 1:
        return tiff(entries | {258: (3, 1, depth)}, body)
    offset = 8 + len(body)
    body += struct.pack("<H", depth) * samples
    return tiff(entries | {258: (3, samples, offset) if samples > 2 else (3, samples, depth | depth << 16)}, body)


def rle_bmp(side: int = SIDE) -> bytes:
    """A BMP whose run-length code jumps over everything."""
    palette = bytes(1024)
    body = b"\0\2\xff\xff" * (side // 255 + 1) + b"\0\1"
    offset = 14 + 40 + len(palette)
    header = struct.pack("<IiiHHIIiiII", 40, side, side, 1, 8, 1, len(body), 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", offset + len(body), 0, 0, offset) + header + palette + body


@cache
def avif(side: int) -> bytes:
    buffer = BytesIO()
    Image.new("RGB", (side, side)).save(buffer, "AVIF", speed=10, quality=10)
    return buffer.getvalue()


# Odd ones: not large, but seldom seen.


def odd_png(kind: str) -> bytes:
    """Valid and invalid rarities: an interlaced one-bit picture, an index beyond the palette, a wrong checksum."""
    match kind:
        case "one bit":
            header = _chunk(b"IHDR", struct.pack(">IIBBBBB", 64, 64, 1, 0, 0, 0, 0))
            return b"\x89PNG\r\n\x1a\n" + header + _chunk(b"IDAT", zlib.compress(bytes(9 * 64))) + _chunk(b"IEND", b"")
        case "beyond the palette":
            header = _chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 3, 0, 0, 0)) + _chunk(b"PLTE", bytes(6))
            body = _chunk(b"IDAT", zlib.compress((b"\0" + b"\xff" * 8) * 8))
            return b"\x89PNG\r\n\x1a\n" + header + body + _chunk(b"IEND", b"")
        case "checksum":
            whole = bytearray(png(8, 8))
            whole[29] ^= 1
            return bytes(whole)
    raise ValueError(kind)


def saved(mode: str, format: str, **options: object) -> bytes:
    """A small picture of a mode, as Pillow writes it."""
    buffer = BytesIO()
    Image.new(mode, (64, 48)).save(buffer, format, **options)
    return buffer.getvalue()


def exif(entries: list[tuple[int, int, int, int]], body: bytes = b"") -> bytes:
    """EXIF of these entries: tag, type, count, value or offset."""
    directory = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"Exif\0\0II*\0" + struct.pack("<I", 8) + directory + bytes(4) + body


def profile(size: int) -> bytes:
    """An ICC profile whose table of colours says that it is as large as this."""
    table = b"mft2\0\0\0\0" + bytes((3, 3, 255, 0)) + bytes(36) + struct.pack(">HH", 4096, 4096)
    tags = b"".join(name + struct.pack(">II", 200, size) for name in (b"A2B0", b"A2B1", b"B2A0"))
    head = struct.pack(">I4sI4s4s4s", 200 + len(table), b"lcms", 0x02400000, b"mntr", b"RGB ", b"Lab ")
    head = (head + struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp").ljust(128, b"\0")
    return (head + struct.pack(">I", 3) + tags).ljust(200, b"\0") + table + bytes(1 << 20)


SVG = (
    b'<?xml version="1.0"?><!DOCTYPE s [<!ENTITY a "aaaaaaaaaa">'
    + b"".join(b'<!ENTITY %c "%s">' % (98 + n, b"&%c;" % (97 + n) * 10) for n in range(12))
    + b']><svg xmlns="http://www.w3.org/2000/svg"><text>&m;</text></svg>'
)
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n{} loop\n"
PSD = b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 30_000, 30_000, 8, 3) + bytes(12)
ICO = struct.pack("<HHHBBBBHHII", 0, 1, 1, 0, 0, 0, 0, 1, 32, 1 << 31, 22)
