"""The image tasks: facts about a picture, thumbnails, animations and strips of several.

Every output is upright (EXIF orientation is applied, then removed), in sRGB, and carries no metadata.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from dragon.task import Context, Field, HttpUrl, OutputFile, PositiveInt, TaskError, task

if TYPE_CHECKING:
    from PIL.Image import Image

    from tasks.pictures.sizes import Placement, Size
    from tasks.pictures.sources import Frame, Source

Side = Annotated[PositiveInt, Field(le=20000, description="pixels")]
Quality = Annotated[int, Field(ge=1, le=95)]
Rotation = Annotated[Literal[0, 90, 180, 270], Field(description="degrees counter-clockwise")]
Sources = Annotated[list[HttpUrl], Field(min_length=1, max_length=500)]

#: Imported inside the functions, so that the server never loads Pillow; executors are forked with it.
_PICTURES = tuple(
    f"tasks.pictures.{name}"
    for name in ("colours", "costs", "drawing", "exif", "sizes", "sources", "structure", "writing")
)


@dataclass(frozen=True)
class ImageInfo:
    """What a picture's header says. What is not known is None."""

    content_type: str
    type: Literal["image"]
    width: int  # as stored, before exif_orientation
    height: int
    alpha: bool
    exif_orientation: Annotated[int, Field(ge=1, le=8)] | None
    rotation: Annotated[int, Field(description="degrees counter-clockwise to see it as shot")] | None
    date_time: Annotated[str, Field(description="ISO 8601, the camera's local time")] | None
    flash: Annotated[bool, Field(description="whether it fired")] | None
    focal_length: Annotated[float, Field(description="mm")] | None
    iso_speed: int | None
    exposure_time: Annotated[float, Field(description="seconds")] | None


@dataclass(frozen=True)
class Thumb:
    width: int
    height: int
    original_width: int  # as stored, before exif_orientation
    original_height: int
    content_type: str
    output: OutputFile


@dataclass(frozen=True)
class Gif:
    width: int
    height: int
    frames: int
    duration: Annotated[float, Field(description="seconds of one pass")]
    output: OutputFile


@dataclass(frozen=True)
class Strip:
    count: int
    width: int
    height: int
    content_type: str
    output: OutputFile


@task("image.info", timeout=60, preload=_PICTURES)
def info(ctx: Context, url: HttpUrl) -> ImageInfo:
    """Tell size, format and the camera's facts of an image, from its header.

    `rotation` says how many degrees counter-clockwise the stored image is to be turned to see it as shot.
    """
    from tasks.pictures.exif import read_shot
    from tasks.pictures.sources import FORMATS, open_header, stored_size

    with open_header(ctx.fetch(url), url, ctx.limits) as image:
        width, height = stored_size(image)
        shot = read_shot(image)
        return ImageInfo(
            content_type=FORMATS[image.format or ""],
            type="image",
            width=width,
            height=height,
            alpha=image.has_transparency_data,
            exif_orientation=shot.orientation,
            rotation=shot.rotation,
            date_time=shot.date_time,
            flash=shot.flash,
            focal_length=shot.focal_length,
            iso_speed=shot.iso_speed,
            exposure_time=shot.exposure_time,
        )


@task("image.thumb", timeout=120, preload=_PICTURES)
def thumb(
    ctx: Context,
    url: HttpUrl,
    width: Side | None = None,
    height: Side | None = None,
    crop: bool = False,
    rotation: Rotation = 0,
    poster: bool = False,
    format: Literal["jpeg", "png", "gif", "webp", "avif"] = "jpeg",
    quality: Quality = 75,
) -> Thumb:
    """Create a thumbnail of an image.

    The output fits inside width x height and keeps its shape; an image that is smaller is not enlarged. With `crop` and
    both sides given the output is exactly width x height: filled, cut from the centre, enlarged where needed; with one
    side only `crop` has no effect. With neither side the image keeps its size. `rotation` turns it counter-clockwise
    once it is upright, before it is fitted. `poster` draws a play icon in the centre. `quality` concerns jpeg, webp and
    avif. Animations stay animations in gif and webp; the other formats show the first frame.
    """
    from tasks.pictures import sizes, sources, writing

    output = ctx.output_file("output", writing.EXTENSIONS[format])
    with sources.open_source(ctx.fetch(url), url, ctx.limits, rotation) as source:
        placement = sizes.place(source.shown, width, height, crop=crop)
        count = sources.count_frames(source) if format in writing.ANIMATED else 1
        writing.check_output(placement.size, count, format, ctx.limits)
        frames = _frames(ctx, source, placement, count, format, poster=poster)
        writing.write(output.path, format, frames, quality=quality, plays=sources.plays(source) if count > 1 else 1)
    return Thumb(*placement.size, *source.stored, output.content_type, output)


def _frames(
    ctx: Context, source: Source, placement: Placement, count: int, format: str, *, poster: bool
) -> Iterator[Frame]:
    from tasks.pictures import drawing, sources

    if count == 1:
        frames = iter([sources.Frame(sources.still(source, placement), 0)])
        sources.check_memory(source, placement, format)
    else:
        frames = sources.frames(source, placement)
    for number, frame in enumerate(frames, 1):
        yield sources.Frame(drawing.draw_play_icon(frame.picture), frame.duration) if poster else frame
        if count > 1:
            ctx.progress(100 * number // count)


@task("image.gif", timeout=600, preload=_PICTURES)
def gif(
    ctx: Context,
    images: Annotated[list[HttpUrl], Field(min_length=2, max_length=500)],
    loop: Annotated[int, Field(ge=-1, le=65535)] = 0,
    frame_duration: Annotated[float, Field(ge=0.01, le=600, description="seconds")] = 0.1,
    width: Side | None = None,
    height: Side | None = None,
) -> Gif:
    """Create an animated GIF, one frame of each image.

    All frames are width x height; the side that is not given follows from the shape of the first image, and so does the
    size when neither is. Every image is made as large as fits into that, enlarged where needed, in the centre of a
    white canvas. `loop` is 0 to repeat for ever, -1 to play once, n to repeat n times.
    """
    from tasks.pictures import sizes, writing
    from tasks.pictures.sources import Frame

    if len(images) > ctx.limits.frames:
        raise TaskError(f"{len(images)} images are given, the limit is {ctx.limits.frames} frames (limits.frames)")
    output = ctx.output_file("output", ".gif")
    canvas: list[Size] = []

    def on_canvas(source: Source) -> Image:
        if not canvas:
            canvas.append(sizes.complete(source.shown, width, height))
            writing.check_output(canvas[0], len(images), "gif", ctx.limits)
        return _cell(source, canvas[0])

    durations = writing.gif_durations(frame_duration, len(images))
    pictures = _pictures(ctx, images, on_canvas)
    frames = (Frame(picture, duration) for picture, duration in zip(pictures, durations, strict=True))
    writing.write_gif(output.path, frames, loop=loop)
    return Gif(*canvas[0], len(images), sum(durations) / 1000, output)


def _cell(source: Source, size: Size) -> Image:
    from tasks.pictures import drawing

    canvas = drawing.new_canvas(size, transparent=False)
    drawing.put(canvas, _fitted(source, size, crop=False), (0, 0), size)
    return canvas


def _fitted(source: Source, size: Size, *, crop: bool) -> Image:
    """The picture for a place of exactly `size`: as large as fits, or filled."""
    from tasks.pictures import sizes, sources

    if crop:
        return sources.still(source, sizes.fill(source.shown, size))
    return sources.still(source, sizes.whole(source.shown, sizes.fit_exactly(source.shown, size)))


@task("image.strip", timeout=600, preload=_PICTURES)
def strip(
    ctx: Context,
    urls: Sources,
    width: Side,
    height: Side,
    crop: bool = False,
    wrap: PositiveInt | None = None,
    format: Literal["jpeg", "png"] = "jpeg",
) -> Strip:
    """Create one image of several, side by side, `wrap` to a line (all in one line when it is not given).

    Every image gets a place of width x height. With `crop` it fills it, cut from the centre; else it is as large as
    fits, in the centre of white (jpeg) or nothing (png). Both enlarge a small image.
    """
    from tasks.pictures import drawing, writing
    from tasks.pictures.sources import Frame

    columns = min(wrap or len(urls), len(urls))
    size = columns * width, -(-len(urls) // columns) * height
    writing.check_output(size, 1, format, ctx.limits)
    output = ctx.output_file("output", writing.EXTENSIONS[format])
    canvas = drawing.new_canvas(size, transparent=format == "png")
    for number, picture in enumerate(_pictures(ctx, urls, lambda source: _fitted(source, (width, height), crop=crop))):
        line, column = divmod(number, columns)
        drawing.put(canvas, picture, (column * width, line * height), (width, height))
    writing.write(output.path, format, iter([Frame(canvas, 0)]), quality=85, plays=1)
    return Strip(len(urls), *size, output.content_type, output)


def _pictures(ctx: Context, urls: list[str], make: Callable[[Source], Image]) -> Iterator[Image]:
    """What `make` makes of each URL, with progress.

    A URL that comes again is downloaded once. A download is removed when it is no longer needed, because the limits
    hold for each of them and not for all together.
    """
    from tasks.pictures.sources import open_source

    repeated = {url for url, count in Counter(urls).items() if count > 1}
    made: dict[str, Image] = {}
    for number, url in enumerate(urls, 1):
        if url in made:
            picture = made[url]
        else:
            path = ctx.fetch(url)
            with open_source(path, url, ctx.limits) as source:
                picture = make(source)
            path.unlink()
            if url in repeated:
                made[url] = picture
        yield picture
        ctx.progress(100 * number // len(urls))
