"""What is drawn: the play icon of posters, and pictures on canvases."""

from __future__ import annotations

from functools import cache

from PIL import Image, ImageDraw

from tasks.pictures.sizes import Size

_ICON_SHARE = 0.4  # of the picture's shorter side
_DRAWN = 512  # pixels; the icon is drawn at this size and resized, which makes its edges smooth


def draw_play_icon(picture: Image.Image) -> Image.Image:
    """Puts a play icon into the centre: a white triangle and ring on a dark, translucent disc."""
    diameter = max(1, round(min(picture.size) * _ICON_SHARE))
    corner = ((picture.width - diameter) // 2, (picture.height - diameter) // 2)
    disc, lines = (mask.resize((diameter, diameter), Image.Resampling.LANCZOS) for mask in _icon())
    picture.paste("black", corner, disc)
    picture.paste("white", corner, lines)
    return picture


@cache
def _icon() -> tuple[Image.Image, Image.Image]:
    """The masks of the disc and of what is white on it."""
    disc, lines = (Image.new("L", (_DRAWN, _DRAWN)) for _ in range(2))
    edge, ring = _DRAWN - 3, _DRAWN // 16
    ImageDraw.Draw(disc).ellipse((2, 2, edge, edge), fill=140)
    pen = ImageDraw.Draw(lines)
    pen.ellipse((2, 2, edge, edge), outline=255, width=ring)
    # The triangle's centre of gravity, not the middle of its width, is in the centre of the disc.
    last = _DRAWN - 1
    pen.polygon([(last * x, last * y) for x, y in ((0.39, 0.28), (0.39, 0.72), (0.77, 0.5))], fill=255)
    return disc, lines


def new_canvas(size: Size, *, transparent: bool) -> Image.Image:
    return Image.new("RGBA", size, (0, 0, 0, 0)) if transparent else Image.new("RGB", size, "white")


def put(canvas: Image.Image, picture: Image.Image, corner: tuple[int, int], cell: Size) -> None:
    """Puts the picture into the middle of a cell of the canvas."""
    place = (corner[0] + (cell[0] - picture.width) // 2, corner[1] + (cell[1] - picture.height) // 2)
    if canvas.mode == "RGB" and picture.mode in ("LA", "RGBA"):
        canvas.paste(picture.convert("RGBA"), place, picture.getchannel("A"))
    else:
        canvas.paste(picture.convert(canvas.mode), place)
