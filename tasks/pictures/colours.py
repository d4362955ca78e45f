"""Colours: whatever a file holds becomes 8-bit sRGB (L, LA, RGB or RGBA)."""

from __future__ import annotations

import math
from io import BytesIO

from PIL import Image, ImageCms

_WHITE = "white"


def plain(image: Image.Image) -> Image.Image:
    """The same picture in a mode that can be resized: 8 bits a channel, no palette. May be `image` itself."""
    if image.mode.startswith("I") or image.mode == "F":
        return _from_deep(image)
    if image.mode in ("CMYK", "LAB"):
        return image
    gray = image.mode in ("1", "L", "LA", "La")
    mode = ("L" if gray else "RGB") + ("A" if image.has_transparency_data else "")
    return image if image.mode == mode else image.convert(mode)


def _from_deep(image: Image.Image) -> Image.Image:
    values = image if image.mode in ("I;16", "I", "F") else image.convert("I")
    low, high = _range(values)
    scale = 255 / (high - low)
    shift = 0.5 - low * scale  # converting cuts the fraction off, so that half a step makes it rounding
    narrow = values.point(lambda value: value * scale + shift)
    gray = (narrow.convert("I") if narrow.mode == "I;16" else narrow).convert("L")
    transparent = image.info.get("transparency")
    if not isinstance(transparent, int):
        return gray
    gray.info["transparency"] = min(255, max(0, int(transparent * scale + shift)))
    return gray.convert("LA")


def _range(values: Image.Image) -> tuple[float, float]:
    """The values that are black and white: no header says so, but there are few customs."""
    if values.mode == "I;16":
        return 0, 65535
    low, high = (float(extreme) for extreme in values.getextrema())  # type: ignore[arg-type]
    if not (math.isfinite(low) and math.isfinite(high)):
        return 0, 1
    customs = (65535,) if values.mode == "I" else (1, 255, 65535)
    for white in customs:
        if low >= 0 and high <= white:
            return 0, white
    return low, max(high, low + 1)


def to_srgb(picture: Image.Image, profile: bytes | None) -> Image.Image:
    """Converts by the profile; by custom where there is none, or where it is broken or belongs to another mode."""
    converted = _by_profile(picture, profile) if profile else None
    if converted is not None:
        return converted
    if picture.mode == "LAB":
        return _transform(picture, ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")))
    return picture.convert("RGB") if picture.mode == "CMYK" else picture


def _by_profile(picture: Image.Image, profile: bytes) -> Image.Image | None:
    try:
        source = ImageCms.ImageCmsProfile(BytesIO(profile))
        colours = _opaque(picture)
        if colours.mode == "L" and source.profile.xcolor_space == "RGB ":
            colours = colours.convert("RGB")
        converted = _transform(colours, source)  # LittleCMS refuses a profile of another mode
    except (ImageCms.PyCMSError, OSError, TypeError, ValueError):
        return None
    if _has_alpha(picture):
        converted.putalpha(picture.getchannel("A"))
    return converted


def _transform(picture: Image.Image, source: ImageCms.ImageCmsProfile) -> Image.Image:
    converted = ImageCms.profileToProfile(
        picture,
        source,
        ImageCms.createProfile("sRGB"),
        ImageCms.Intent.RELATIVE_COLORIMETRIC,
        "RGB",
        flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,  # as browsers do it; without it dark photographs drown
    )
    assert converted is not None  # it is None for conversions in place only
    return converted


def _has_alpha(picture: Image.Image) -> bool:
    return picture.mode in ("LA", "RGBA")


def _opaque(picture: Image.Image) -> Image.Image:
    """The colours without the alpha channel."""
    return picture.convert(picture.mode.removesuffix("A")) if _has_alpha(picture) else picture


def on_white(picture: Image.Image) -> Image.Image:
    """The picture as it looks on white paper, without alpha."""
    if not _has_alpha(picture):
        return picture
    paper = Image.new(picture.mode.removesuffix("A"), picture.size, _WHITE)
    paper.paste(_opaque(picture), mask=picture.getchannel("A"))
    return paper
