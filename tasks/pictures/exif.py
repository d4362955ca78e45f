"""What a camera wrote into a picture. Anything is found there: what cannot be read is None, never an error."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from PIL import ExifTags, Image

_DATE = re.compile(r"(\d{4})\D(\d\d)\D(\d\d)[ T](\d\d):(\d\d):(\d\d)")
_OFFSET = re.compile(r"[+-]\d\d:\d\d")
_ISO_TOO_LARGE = 65535  # means: see the tags that have room for it

#: EXIF orientation -> how far counter-clockwise it is to be turned; the others need a flip.
_ROTATIONS = {1: 0, 3: 180, 6: 270, 8: 90}


@dataclass(frozen=True, slots=True)
class Shot:
    """What is known of how a picture was taken."""

    orientation: int | None  # 1-8
    rotation: int | None  # degrees counter-clockwise to see it as shot; None: unknown, or it needs a flip
    date_time: str | None  # ISO 8601, with an offset where the camera wrote one
    flash: bool | None
    focal_length: float | None  # mm
    iso_speed: int | None
    exposure_time: float | None  # seconds


def read_shot(image: Image.Image) -> Shot:
    """Reads the header only, no pixels are decoded."""
    # PngImageFile.getexif would decode the pixels, for the rare EXIF that stands behind them.
    exif = _attempt(lambda: Image.Image.getexif(image))
    main: Mapping[int, Any] = {} if exif is None else exif
    camera: Mapping[int, Any] = _attempt(lambda: exif.get_ifd(ExifTags.IFD.Exif)) or {}
    turned = _orientation(main)
    return Shot(
        orientation=turned,
        rotation=_ROTATIONS.get(turned or 0),
        date_time=_date_time(main, camera),
        flash=_flash(camera),
        focal_length=_positive(_tag(camera, ExifTags.Base.FocalLength)),
        iso_speed=_iso_speed(camera),
        exposure_time=_positive(_tag(camera, ExifTags.Base.ExposureTime)),
    )


def read_orientation(image: Image.Image) -> int | None:
    """The EXIF orientation, 1-8. A PNG is to be loaded first: its EXIF may stand behind the pixels."""
    return _orientation(_attempt(image.getexif) or {})


def _orientation(main: Mapping[int, Any]) -> int | None:
    number = _whole(_tag(main, ExifTags.Base.Orientation))
    return number if number is not None and number <= 8 else None


def _date_time(main: Mapping[int, Any], camera: Mapping[int, Any]) -> str | None:
    base = ExifTags.Base
    moments = (
        (_tag(camera, base.DateTimeOriginal), _tag(camera, base.OffsetTimeOriginal)),
        (_tag(camera, base.DateTimeDigitized), _tag(camera, base.OffsetTimeDigitized)),
        (_tag(main, base.DateTime), _tag(camera, base.OffsetTime)),
    )
    return next((text for moment in moments if (text := _iso_date(*moment))), None)


def _iso_date(date: Any, offset: Any) -> str | None:
    # Not dateutil: it completes what is missing from the present day, and a date must not be invented.
    found = _DATE.match(_text(date))
    zone = _OFFSET.match(_text(offset))
    if found is None:
        return None
    try:
        moment = datetime(*(int(part) for part in found.groups())).isoformat()  # type: ignore[arg-type]
        return datetime.fromisoformat(moment + (zone[0] if zone else "")).isoformat()
    except ValueError:
        return None


def _flash(camera: Mapping[int, Any]) -> bool | None:
    value = _first(_tag(camera, ExifTags.Base.Flash))
    return bool(value & 1) if isinstance(value, int) else None  # the other bits: mode, red eye, return light


def _iso_speed(camera: Mapping[int, Any]) -> int | None:
    base = ExifTags.Base
    speed = _whole(_tag(camera, base.ISOSpeedRatings))
    if speed is None or speed == _ISO_TOO_LARGE:
        speed = _whole(_tag(camera, base.RecommendedExposureIndex)) or _whole(_tag(camera, base.ISOSpeed)) or speed
    return speed


def _whole(value: Any) -> int | None:
    number = _positive(value)
    return int(number) if number is not None and number >= 1 else None


def _positive(value: Any) -> float | None:
    # 0 is what cameras write for "unknown"; a rational with a zero denominator is NaN.
    number = _attempt(lambda: float(_first(value)))
    return number if number is not None and math.isfinite(number) and number > 0 else None


def _first(value: Any) -> Any:
    return value[0] if isinstance(value, tuple) and value else value


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        value = value.decode("ascii", "replace")
    return value.strip("\0 ") if isinstance(value, str) else ""


def _tag(tags: Mapping[int, Any], tag: int) -> Any:
    # Values are decoded when they are asked for, so even this may raise.
    return _attempt(lambda: tags.get(tag))


def _attempt(read: Callable[[], Any]) -> Any:
    # Pillow raises a dozen different errors over malformed EXIF, and none of them says more than "malformed".
    try:
        return read()
    except Exception:
        return None
