"""The geometry of pictures: how large an output is, and which part of the source it shows."""

from __future__ import annotations

from dataclasses import dataclass

Size = tuple[int, int]  # width, height in pixels
Box = tuple[float, float, float, float]  # left, upper, right, lower in pixels


@dataclass(frozen=True, slots=True)
class Placement:
    """An output of `size` shows the region `box` of its source."""

    size: Size
    box: Box

    def across(self) -> Placement:
        """The same for a source that lies on its side. Regions are centred, so which side does not matter."""
        left, upper, right, lower = self.box
        return Placement(across(self.size), (upper, left, lower, right))


def across(size: Size) -> Size:
    return size[1], size[0]


def place(source: Size, width: int | None, height: int | None, *, crop: bool) -> Placement:
    """Fits `source` into the box, never larger than it is; with `crop` and both sides fills exactly that size."""
    if crop and width and height:
        return fill(source, (width, height))
    return whole(source, fit_within(source, width, height))


def whole(source: Size, size: Size) -> Placement:
    return Placement(size, (0, 0, *source))


def fill(source: Size, size: Size) -> Placement:
    """Exactly `size`, from the centre of the source; a small source is enlarged."""
    (source_width, source_height), (width, height) = source, size
    if width * source_height >= height * source_width:
        upper, lower = _middle(source_height, height * source_width / width)
        return Placement(size, (0, upper, source_width, lower))
    left, right = _middle(source_width, width * source_height / height)
    return Placement(size, (left, 0, right, source_height))


def fit_within(source: Size, width: int | None, height: int | None) -> Size:
    """The largest size of the source's shape within the box that does not enlarge the source."""
    return _scale(source, min(1.0, (width or source[0]) / source[0], (height or source[1]) / source[1]))


def fit_exactly(source: Size, box: Size) -> Size:
    """The largest size of the source's shape within the box: a small source is enlarged."""
    return _scale(source, min(box[0] / source[0], box[1] / source[1]))


def complete(source: Size, width: int | None, height: int | None) -> Size:
    """The box that was asked for, what is missing of it by the source's shape."""
    if width and height:
        return width, height
    return _scale(source, width / source[0] if width else height / source[1] if height else 1.0)


def _scale(size: Size, factor: float) -> Size:
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def _middle(length: int, part: float) -> tuple[float, float]:
    start = max(0.0, (length - part) / 2)
    return start, min(float(length), start + part)
