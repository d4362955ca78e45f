"""What a picture costs, known before it is decoded: a small file that would take much is made to exhaust.

Bytes a pixel were measured with Pillow 13: the peak of image.thumb at 10,000 x 10,000, with tests/attack/bomb_files.py.
"""

from __future__ import annotations

from typing import Any

from PIL import Image, TiffImagePlugin

from tasks.pictures.sizes import Size

#: Memory that any picture may take, in bytes; with what a process has besides, 300 MB are not reached.
FREE_MEMORY = 240 * (1 << 20)
#: Beyond it a picture may take so many bytes for a byte of its file. A photograph takes 10 to 100.
MEMORY_PER_BYTE = 400
#: How often a decoder may go over a picture of limits.pixels, or ten times as often over a tenth of it.
SCANS = 20
#: Times limits.pixels that all frames of an animation may have together,
ANIMATIONS = 5
#: or pixels for a byte of its file.
PIXELS_PER_BYTE = 200

#: Bytes a pixel, by Pillow's mode: as decoded, and what it is converted to on the way to another size.
_MODES = {"1": 2, "L": 1, "P": 5, "PA": 9, "LA": 8, "RGB": 4, "RGBA": 8, "RGBX": 4, "CMYK": 4, "LAB": 4}
_DEEP_MODE, _OTHER_MODE = 9, 13  # I;16 and its kin; I, F and others
_TRANSPARENT_COLOUR = 4  # more: a palette's alpha, or a colour that is none
_CANVASES = {"WEBP": 12, "AVIF": 12}  # more: what these decoders have besides
_ANIMATED = 8  # more: earlier frames, on which the next one is drawn
_OUTPUT = 12  # a pixel of the output, on its way through colours and turns
_WRITERS = {"webp": 18, "avif": 24}  # the same, as these encoders have it
_COEFFICIENT = 2  # all of a JPEG are kept when it comes in several scans


def memory(image: Image.Image, stored: Size, output: Size, format: str, *, scans: int, is_animated: bool) -> int:
    """Bytes that it takes to decode `image`, `stored` in that size, and to make a picture of size `output` of it.

    `format` is what that one is written in, empty: not known yet.
    """
    mode = _MODES.get(image.mode, _DEEP_MODE if image.mode.startswith("I;16") else _OTHER_MODE)
    each = mode + _CANVASES.get(image.format or "", 0)
    each += _TRANSPARENT_COLOUR * ("transparency" in image.info) + _ANIMATED * is_animated
    beside = stored[0] * stored[1] * _COEFFICIENT * len(image.getbands()) if scans > 1 else 0
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        beside = _tiff_part(image)
    return image.width * image.height * each + output[0] * output[1] * _WRITERS.get(format, _OUTPUT) + beside


def _tiff_part(image: TiffImagePlugin.TiffImageFile) -> int:
    """Bytes of the strip or tile that is decoded at a time, which may be all of the picture, or more than that."""

    def number(tag: int, default: int) -> int:
        value: Any = image.tag_v2.get(tag, default)
        value = max(value, default=default) if isinstance(value, tuple) else value
        return value if isinstance(value, int) else default

    width = number(TiffImagePlugin.TILEWIDTH, number(TiffImagePlugin.IMAGEWIDTH, 0))
    lines = min(number(TiffImagePlugin.ROWSPERSTRIP, image.height), number(TiffImagePlugin.IMAGELENGTH, 0))
    height = number(TiffImagePlugin.TILELENGTH, lines)
    depth = number(TiffImagePlugin.BITSPERSAMPLE, 8) * number(TiffImagePlugin.SAMPLESPERPIXEL, 1)
    return width * height * depth // 8
