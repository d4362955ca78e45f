"""The image tasks, called directly; that a worker runs them is tested in tests/integration."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import picture_files as made
import pytest
import skimage.data
import tifffile
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from picture_files import BLACK, BLUE, GREEN, RED, WHITE, YELLOW, FakeContext, corners, info_of, near, quadrants, rgba
from PIL import ExifTags, Image, ImageCms, ImageFile, TiffImagePlugin

from dragon.task import TaskError, load_tasks
from tasks import image as images
from tasks.pictures import sizes

ROOT = Path(__file__).resolve().parents[2]
FORMATS = ("jpeg", "png", "gif", "webp", "avif")
WITH_ALPHA = ("png", "gif", "webp", "avif")
INVALID = "File 'http://files.com/cat.jpeg' is not a valid image file"

same_context = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
base = ExifTags.Base


@pytest.fixture
def ctx(tmp_path: Path) -> FakeContext:
    return FakeContext(tmp_path)


def limited(ctx: FakeContext, **limits: int) -> FakeContext:
    ctx.limits = dataclasses.replace(ctx.limits, **limits)
    return ctx


def jpeg_of(picture: Image.Image | made.Pixels, **options: Any) -> bytes:
    buffer = BytesIO()
    (picture if isinstance(picture, Image.Image) else Image.fromarray(picture)).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def as_png(ctx: FakeContext, name: str, content: Any, **options: Any) -> made.Pixels:
    """What image.thumb makes of a file, at its own size and without loss."""
    url = ctx.add(name, content, **options)
    return rgba(images.thumb(ctx, url, format="png").output)


# The catalogue


def test_the_catalogue_lists_every_parameter_and_default_of_the_contract() -> None:
    registry = load_tasks(("tasks",))
    found = {}
    for name in ("image.info", "image.thumb", "image.gif", "image.strip"):
        schema = registry.tasks[name].describe()["parameters"]
        required = set(schema["required"])
        found[name] = {
            member: "*" if member in required else rest["default"] for member, rest in schema["properties"].items()
        }
    assert found == {
        "image.info": {"url": "*"},
        "image.thumb": {
            "url": "*",
            "width": None,
            "height": None,
            "crop": False,
            "rotation": 0,
            "poster": False,
            "format": "jpeg",
            "quality": 75,
        },
        "image.gif": {"images": "*", "loop": 0, "frame_duration": 0.1, "width": None, "height": None},
        "image.strip": {"urls": "*", "width": "*", "height": "*", "crop": False, "wrap": None, "format": "jpeg"},
    }


def test_the_catalogue_knows_the_output_files_from_the_results() -> None:
    tasks = load_tasks(("tasks",)).tasks
    assert {name: task.outputs for name, task in tasks.items() if name.startswith("image.")} == {
        "image.info": (),
        "image.thumb": ("output",),
        "image.gif": ("output",),
        "image.strip": ("output",),
    }


def test_a_querystring_is_converted_to_the_declared_types() -> None:
    thumb = load_tasks(("tasks",)).tasks["image.thumb"]
    texts = {"url": ["http://a.com/b"], "width": ["10"], "crop": ["true"], "rotation": ["90"], "format": ["webp"]}
    assert thumb.convert(texts) == {
        "url": "http://a.com/b",
        "width": 10,
        "crop": True,
        "rotation": 90,
        "format": "webp",
    }


@pytest.mark.parametrize(
    "wrong",
    [{"width": 0}, {"height": 20001}, {"rotation": 45}, {"rotation": 360}, {"quality": 96}, {"format": "eps"}],
    ids=str,
)
def test_values_outside_the_contract_are_refused(wrong: dict[str, Any]) -> None:
    thumb = load_tasks(("tasks",)).tasks["image.thumb"]
    with pytest.raises(Exception, match=next(iter(wrong))):
        thumb.check({"url": "http://a.com/b"} | wrong)


def test_loading_the_tasks_does_not_load_pillow() -> None:
    program = "import sys; from dragon.task import load_tasks; load_tasks(('tasks',)); sys.exit('PIL' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT).returncode == 0


# Sizes


sides = st.integers(1, 20_000)
pairs = st.tuples(sides, sides)
maybe_sides = st.none() | sides


@example((1, 20_000), None, 1)
@example((20_000, 1), 1, None)
@settings(deadline=None)
@given(pairs, maybe_sides, maybe_sides)
def test_a_fitted_picture_never_exceeds_the_box_nor_itself_and_never_vanishes(
    source: tuple[int, int], width: int | None, height: int | None
) -> None:
    placement = sizes.place(source, width, height, crop=False)
    assert 1 <= placement.size[0] <= min(width or 20_000, source[0])
    assert 1 <= placement.size[1] <= min(height or 20_000, source[1])
    assert placement.box == (0, 0, *source)


@settings(deadline=None)
@given(pairs, maybe_sides, maybe_sides)
def test_a_fitted_picture_touches_the_box_or_keeps_its_size(
    source: tuple[int, int], width: int | None, height: int | None
) -> None:
    size = sizes.place(source, width, height, crop=False).size
    assert size == source or size[0] == width or size[1] == height


@settings(deadline=None)
@given(pairs, maybe_sides, maybe_sides)
def test_a_fitted_picture_keeps_its_shape_to_half_a_pixel(
    source: tuple[int, int], width: int | None, height: int | None
) -> None:
    size = sizes.place(source, width, height, crop=False).size
    scale = max(size[0] / source[0], size[1] / source[1])
    lower = min((size[0] - 0.5) / source[0], (size[1] - 0.5) / source[1])
    assert lower <= scale
    if min(size) > 1:
        assert abs(size[0] / source[0] - size[1] / source[1]) <= 0.5 / source[0] + 0.5 / source[1]


@settings(deadline=None)
@given(pairs, pairs)
def test_a_crop_is_exactly_as_asked_and_shows_a_centred_region_of_the_same_shape(
    source: tuple[int, int], box: tuple[int, int]
) -> None:
    placement = sizes.place(source, *box, crop=True)
    left, upper, right, lower = placement.box
    assert placement.size == box
    assert 0 <= left < right <= source[0]
    assert 0 <= upper < lower <= source[1]
    assert left + right == pytest.approx(source[0], abs=1e-3)
    assert upper + lower == pytest.approx(source[1], abs=1e-3)
    assert (right - left) * box[1] == pytest.approx((lower - upper) * box[0], rel=1e-6)
    assert left == 0 or upper == 0


@settings(same_context, max_examples=60)
@given(
    source=st.tuples(st.integers(1, 300), st.integers(1, 300)),
    width=st.none() | st.integers(1, 300),
    height=st.none() | st.integers(1, 300),
    crop=st.booleans(),
    rotation=st.sampled_from([0, 90, 180, 270]),
    orientation=st.integers(1, 8),
    suffix=st.sampled_from(["jpg", "png"]),
)
def test_the_file_has_the_size_that_was_promised(
    ctx: FakeContext,
    source: tuple[int, int],
    width: int | None,
    height: int | None,
    crop: bool,
    rotation: int,
    orientation: int,
    suffix: str,
) -> None:
    exif = made.exif_of({base.Orientation: orientation})
    url = ctx.add(f"a.{suffix}", Image.new("RGB", source, RED), exif=exif)
    result = images.thumb(ctx, url, width, height, crop, rotation)
    swapped = (orientation >= 5) != (rotation in (90, 270))
    shown = source[::-1] if swapped else source
    expected = sizes.place(shown, width, height, crop=crop).size
    assert (result.width, result.height) == expected
    assert info_of(result.output)["size"] == expected
    assert (result.original_width, result.original_height) == source


def test_a_crop_with_one_side_only_is_no_crop(ctx: FakeContext) -> None:
    url = ctx.add("a.png", quadrants(80, 60))
    result = images.thumb(ctx, url, width=40, crop=True)
    assert (result.width, result.height) == (40, 30)


def test_a_crop_enlarges_a_small_picture_and_a_fit_does_not(ctx: FakeContext) -> None:
    url = ctx.add("a.png", quadrants(8, 6))
    cropped = images.thumb(ctx, url, 100, 90, crop=True)
    assert (cropped.width, cropped.height) == (100, 90)
    fitted = images.thumb(ctx, url, 100, 90)
    assert (fitted.width, fitted.height) == (8, 6)


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_a_crop_cuts_from_the_centre(ctx: FakeContext, suffix: str) -> None:
    picture = np.zeros((600, 1600, 3), np.uint8)
    picture[:, 500:1100] = GREEN  # the square in the middle
    picture[250:350, 750:850] = RED
    pixels = rgba(images.thumb(ctx, ctx.add(f"a.{suffix}", picture), 60, 60, crop=True, format="png").output)
    assert all(near(pixels[row, column], GREEN, 40) for row in (2, 57) for column in (2, 57))
    assert near(pixels[30, 30], RED, 40)
    reds = np.argwhere((pixels[:, :, 0] > 120) & (pixels[:, :, 1] < 100))
    assert reds.mean(axis=0) == pytest.approx([29.5, 29.5], abs=0.6)


def test_a_reduced_photograph_looks_like_one_that_was_resized_well(ctx: FakeContext) -> None:
    photograph = Image.fromarray(skimage.data.coffee()).resize((2400, 1600), Image.Resampling.BICUBIC)
    url = ctx.add("coffee.jpg", photograph, quality=92)
    ours = rgba(images.thumb(ctx, url, width=300, format="png").output)[:, :, :3].astype(int)
    well = np.asarray(photograph.resize((300, 200), Image.Resampling.LANCZOS)).astype(int)
    assert np.abs(ours - well).mean() < 0.9  # 0.5; 1.4 when the decoder alone had shrunk it


# Upright


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif", "avif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_comes_out_upright(ctx: FakeContext, orientation: int, suffix: str) -> None:
    upright = quadrants(96, 64)
    stored = made.stored_with_orientation(upright, orientation)
    if suffix == "tif":
        url = ctx.add("a.tif", stored, tiffinfo={274: orientation})
    else:
        url = ctx.add(f"a.{suffix}", stored, exif=made.exif_of({base.Orientation: orientation}), quality=95)
    for width, expected in ((None, (96, 64)), (24, (24, 16))):
        result = images.thumb(ctx, url, width=width, format="png")
        pixels = rgba(result.output)
        assert (result.width, result.height) == pixels.shape[1::-1] == expected
        for found, colour in zip(corners(pixels), (RED, GREEN, BLUE, YELLOW), strict=True):
            assert near(found, colour, 25)
    assert (result.original_width, result.original_height) == stored.shape[1::-1]


@pytest.mark.parametrize("orientation", [1, 3, 5, 6])
@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_rotation_is_counter_clockwise_from_the_upright_picture(
    ctx: FakeContext, orientation: int, rotation: int
) -> None:
    stored = made.stored_with_orientation(quadrants(96, 64), orientation)
    url = ctx.add("a.jpg", stored, exif=made.exif_of({base.Orientation: orientation}), quality=95)
    pixels = rgba(images.thumb(ctx, url, rotation=rotation, format="png").output)
    expected = np.rot90(quadrants(96, 64), rotation // 90)  # numpy turns counter-clockwise too
    assert pixels.shape[:2] == expected.shape[:2]
    assert [near(*pair, 25) for pair in zip(corners(pixels), corners(expected), strict=True)] == [True] * 4


def test_the_sample_picture_is_stored_turned_and_comes_out_upright(ctx: FakeContext) -> None:
    sample = (ROOT / "dragon" / "server" / "static" / "sample.jpg").read_bytes()
    assert len(sample) < 1_200_000
    url = ctx.add("sample.jpg", sample)
    assert images.info(ctx, url).exif_orientation == 6
    result = images.thumb(ctx, url, width=40, format="png")
    assert (result.width, result.height, result.original_width, result.original_height) == (40, 30, 3000, 4000)
    pixels = rgba(result.output)[:, :, :3].astype(int)
    assert near(pixels[15, 25], (255, 245, 215), 30), "the sun stands right of the middle"
    assert pixels[0].sum() < pixels[14].sum() > pixels[29].sum(), "night above, dusk in the middle, a bank below"


@pytest.mark.parametrize("format", FORMATS)
def test_outputs_carry_no_metadata(ctx: FakeContext, format: str) -> None:
    exif = made.exif_of({base.Orientation: 6, base.Make: "Camera"})
    profile = made.adobe_rgb_profile()
    url = ctx.add("a.jpg", made.photograph(), exif=exif, icc_profile=profile, comment=b"secret place")
    result = images.thumb(ctx, url, width=50, format=format)
    assert {"exif", "icc_profile", "comment", "xmp"} & info_of(result.output).keys() == set()
    with Image.open(result.output.path) as image:
        assert dict(image.getexif()) == {}
    content = result.output.path.read_bytes()
    assert b"Camera" not in content
    assert b"secret" not in content


# Formats


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_is_written_as_what_it_says(ctx: FakeContext, format: str) -> None:
    url = ctx.add("cat.jpg", made.photograph(), quality=95)
    result = images.thumb(ctx, url, width=150, format=format)
    with Image.open(result.output.path) as image:
        assert image.format == format.upper()
        found = np.asarray(image.convert("RGB")).astype(int)
    assert result.content_type == f"image/{format}"
    expected = np.asarray(made.photograph().resize((150, 100), Image.Resampling.LANCZOS)).astype(int)
    assert np.abs(found - expected).mean() < 6


@pytest.mark.parametrize("format", ["jpeg", "webp", "avif"])
def test_quality_decides_how_large_the_file_is(ctx: FakeContext, format: str) -> None:
    url = ctx.add("cat.png", made.photograph())
    bytes_by_quality = [
        images.thumb(ctx, url, format=format, quality=quality).output.path.stat().st_size for quality in (10, 75, 95)
    ]
    assert bytes_by_quality == sorted(set(bytes_by_quality))


@pytest.mark.parametrize("format", WITH_ALPHA)
def test_transparency_stays_transparent(ctx: FakeContext, format: str) -> None:
    picture = np.zeros((40, 40, 4), np.uint8)
    picture[:, 20:] = (*RED, 255)
    pixels = rgba(images.thumb(ctx, ctx.add("a.png", picture), format=format, quality=95).output)
    assert pixels[20, 5, 3] == 0
    assert pixels[20, 35, 3] == 255
    assert near(pixels[20, 35], RED)


def test_transparency_becomes_white_on_jpeg_by_degrees(ctx: FakeContext) -> None:
    picture = np.zeros((30, 90, 4), np.uint8)
    picture[:, 30:60, 3], picture[:, 60:, 3] = 128, 255
    pixels = rgba(images.thumb(ctx, ctx.add("a.png", picture), quality=95).output)
    assert near(pixels[15, 15], WHITE, 3)
    assert near(pixels[15, 45], (127, 127, 127), 3)
    assert near(pixels[15, 75], BLACK, 3)


def test_shrinking_does_not_mix_in_the_colour_of_transparent_pixels(ctx: FakeContext) -> None:
    picture = np.zeros((64, 64, 4), np.uint8)
    picture[:, :, 1] = 255  # green that nobody sees
    picture[::2] = (255, 0, 0, 255)
    pixels = rgba(images.thumb(ctx, ctx.add("a.png", picture), width=8, format="png").output)
    assert near(pixels[4, 4], (255, 0, 0), 8)
    assert near(pixels[4, 4, 3:], (127,), 16)


def test_transparent_palettes_and_grays_are_understood(ctx: FakeContext) -> None:
    palette = Image.new("P", (10, 10), 0)
    palette.putpalette([*RED, *GREEN])
    palette.paste(1, (5, 0, 10, 10))
    pixels = as_png(ctx, "p.png", palette, transparency=0)
    assert pixels[5, 2, 3] == 0
    assert tuple(pixels[5, 7]) == (*GREEN, 255)
    pixels = as_png(ctx, "p.gif", palette, transparency=1)
    assert tuple(pixels[5, 2]) == (*RED, 255)
    assert pixels[5, 7, 3] == 0
    gray = Image.new("LA", (10, 10), (90, 200))
    assert tuple(as_png(ctx, "la.png", gray)[5, 5]) == (90, 90, 90, 200)


def test_one_bit_pictures_become_black_and_white(ctx: FakeContext) -> None:
    bits = Image.new("1", (10, 10), 0)
    bits.paste(1, (5, 0, 10, 10))
    for name in ("bits.png", "bits.bmp", "bits.tif"):
        pixels = as_png(ctx, name, bits)
        assert (tuple(pixels[5, 2]), tuple(pixels[5, 7])) == ((*BLACK, 255), (*WHITE, 255))


RAMP = np.linspace(0, 65535, 256).round().astype(np.uint16).reshape(16, 16)
EXPECTED_RAMP = np.arange(256).reshape(16, 16)


@pytest.mark.parametrize(
    ("name", "values", "order"),
    [
        ("unsigned.tif", RAMP, "<"),
        ("unsigned-big-endian.tif", RAMP, ">"),
        ("long.tif", RAMP.astype(np.int32), "<"),
        ("unit.tif", (RAMP / 65535).astype(np.float32), "<"),
        ("bytes.tif", (RAMP / 257).astype(np.float32), "<"),
        ("measured.tif", (RAMP / 65535 * 3000 - 1000).astype(np.float32), "<"),
    ],
)
def test_deep_grays_are_scaled_down_from_black_to_white(
    ctx: FakeContext, name: str, values: np.ndarray[Any, Any], order: str
) -> None:
    buffer = BytesIO()
    tifffile.imwrite(buffer, values, byteorder=order, photometric="minisblack")
    pixels = as_png(ctx, name, buffer.getvalue())
    assert np.abs(pixels[:, :, 0].astype(int) - EXPECTED_RAMP).max() <= 1
    assert pixels[0, 0, 0] == 0
    assert pixels[-1, -1, 0] == 255


def test_a_16_bit_png_is_scaled_down_from_black_to_white(ctx: FakeContext) -> None:
    pixels = as_png(ctx, "deep.png", RAMP)
    assert np.abs(pixels[:, :, 0].astype(int) - EXPECTED_RAMP).max() <= 1


def test_floats_that_are_no_numbers_do_no_harm(ctx: FakeContext) -> None:
    values = np.full((8, 8), 0.5, np.float32)
    values[0, 0], values[0, 1], values[0, 2] = np.nan, np.inf, -np.inf
    buffer = BytesIO()
    tifffile.imwrite(buffer, values)
    assert near(as_png(ctx, "nan.tif", buffer.getvalue())[5, 5], (128, 128, 128), 2)


# Colours


def test_ink_without_a_profile_becomes_its_complement(ctx: FakeContext) -> None:
    inks = Image.new("CMYK", (64, 64), (255, 0, 0, 0))
    assert near(as_png(ctx, "a.jpg", inks, quality=95)[30, 30], (0, 255, 255), 4)
    assert near(as_png(ctx, "a.tif", inks)[30, 30], (0, 255, 255), 1)


def test_ink_with_a_profile_becomes_what_the_profile_says(ctx: FakeContext) -> None:
    inks = Image.new("CMYK", (64, 64), (255, 0, 0, 0))
    inks.paste((0, 0, 0, 0), (0, 0, 32, 64))
    pixels = as_png(ctx, "a.tif", inks, icc_profile=made.cmyk_profile())
    lightness, a, b = made.INK_LAB["cyan"]
    lab = (lightness / 255 * 100, a - 128, b - 128)
    assert near(pixels[30, 10], WHITE, 2)
    assert near(pixels[30, 50], lab_to_srgb(*lab), 6)
    assert not near(pixels[30, 50], (0, 255, 255), 60)


def lab_to_srgb(lightness: float, a: float, b: float) -> tuple[int, ...]:
    """By the formulas, without LittleCMS."""
    fy = (lightness + 16) / 116
    cubes = [
        value**3 if value > 6 / 29 else 3 * (6 / 29) ** 2 * (value - 4 / 29)
        for value in (fy + a / 500, fy, fy - b / 200)
    ]
    xyz = np.array(cubes) * (0.9642, 1.0, 0.8249)
    from_xyz = np.array(
        [[3.1338561, -1.6168667, -0.4906146], [-0.9787684, 1.9161415, 0.0334540], [0.0719453, -0.2289914, 1.4052427]]
    )
    light = (from_xyz @ xyz).clip(0, 1)
    encoded = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return tuple(int(value) for value in (255 * encoded).round())


@pytest.mark.parametrize("colour", [(180, 60, 60), (100, 150, 200), (128, 128, 128), (40, 120, 40)], ids=str)
def test_wide_gamut_colours_are_converted_to_srgb(ctx: FakeContext, colour: tuple[int, int, int]) -> None:
    picture = Image.new("RGB", (20, 20), colour)
    pixels = as_png(ctx, "wide.png", picture, icc_profile=made.adobe_rgb_profile())
    assert near(pixels[10, 10], made.adobe_rgb_to_srgb(colour), 2)


def test_converting_keeps_transparency(ctx: FakeContext) -> None:
    picture = Image.new("RGBA", (20, 20), (180, 60, 60, 77))
    pixels = as_png(ctx, "wide.png", picture, icc_profile=made.adobe_rgb_profile())
    assert pixels[10, 10, 3] == 77
    assert near(pixels[10, 10], made.adobe_rgb_to_srgb((180, 60, 60)), 2)


def test_a_gray_profile_is_heeded(ctx: FakeContext) -> None:
    pixels = as_png(ctx, "gray.png", Image.new("L", (20, 20), 128), icc_profile=made.linear_gray_profile())
    assert near(pixels[10, 10], (188, 188, 188), 2)  # half of the light is 188 in sRGB


def test_lab_pictures_become_srgb(ctx: FakeContext) -> None:
    lab = Image.new("LAB", (20, 20), (136, 78, 195))
    wanted = lab_to_srgb(136 / 255 * 100, 78 - 128, 195 - 128)
    assert near(as_png(ctx, "lab.tif", lab)[10, 10], wanted, 6)


def test_a_gray_picture_with_a_colour_profile_is_converted(ctx: FakeContext) -> None:
    pixels = as_png(ctx, "gray.png", Image.new("L", (20, 20), 25), icc_profile=made.adobe_rgb_profile())
    assert near(pixels[10, 10], made.adobe_rgb_to_srgb((25, 25, 25)), 1)


@pytest.mark.parametrize(
    ("mode", "profile"),
    [
        ("RGB", b"no profile at all"),
        ("RGB", made.adobe_rgb_profile()[:200]),
        ("RGB", b"\xff" * 3000),
        ("RGB", made.linear_gray_profile()),
        ("RGB", made.cmyk_profile()),
        ("RGBA", b"\0"),
    ],
    ids=["text", "cut", "noise", "gray", "inks", "zero"],
)
def test_a_profile_that_is_broken_or_of_another_mode_is_ignored(ctx: FakeContext, mode: str, profile: bytes) -> None:
    picture = Image.new("RGB", (20, 20), (180, 60, 60)).convert(mode)
    assert near(as_png(ctx, "a.png", picture, icc_profile=profile)[10, 10], (180, 60, 60), 0)


def test_an_srgb_profile_changes_nothing(ctx: FakeContext) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    pixels = as_png(ctx, "a.png", made.photograph(), icc_profile=profile)
    assert np.abs(pixels[:, :, :3].astype(int) - np.asarray(made.photograph())).max() <= 1


# Posters


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA"])
def test_a_poster_has_a_play_icon_in_the_centre_and_nothing_at_the_edge(ctx: FakeContext, mode: str) -> None:
    url = ctx.add("a.png", Image.new("RGB", (200, 100), (150, 150, 150)).convert(mode))
    pixels = rgba(images.thumb(ctx, url, poster=True, format="png").output)
    assert tuple(pixels[50, 100]) == (*WHITE, 255), "the triangle"
    assert near(pixels[50, 88], (68, 68, 68), 12), "the disc"
    assert near(pixels[50, 81], WHITE, 12), "the ring"
    assert tuple(pixels[5, 5]) == tuple(pixels[95, 195]) == (150, 150, 150, 255)
    plain = rgba(images.thumb(ctx, url, format="png").output)
    assert (plain == (150, 150, 150, 255)).all()


def test_a_poster_is_smooth_and_its_disc_is_round(ctx: FakeContext) -> None:
    url = ctx.add("a.png", Image.new("RGB", (300, 300)))
    icon = rgba(images.thumb(ctx, url, poster=True, format="png").output)[:, :, 0].astype(int)
    assert len(np.unique(icon)) > 30
    assert np.abs(icon - icon[::-1]).mean() < 0.5, "above and below are the same"
    rows, columns = np.nonzero(icon > 100)
    assert rows.max() - rows.min() == columns.max() - columns.min()


def test_the_smallest_poster_is_a_picture(ctx: FakeContext) -> None:
    url = ctx.add("a.png", Image.new("RGB", (1, 1)))
    assert images.thumb(ctx, url, poster=True).width == 1


# Animations


def animation(name: str, *, loop: int | None = 3) -> tuple[str, bytes]:
    """Three frames for 100, 200 and 300 ms: a red ground; a blue dot in the first, then a green, then none."""
    frames = [Image.new("RGBA", (40, 30), (*RED, 255)) for _ in range(3)]
    frames[0].paste((*BLUE, 255), (0, 0, 10, 10))
    frames[1].paste((*GREEN, 255), (30, 20, 40, 30))
    buffer = BytesIO()
    options: dict[str, Any] = {"quality": 100, "lossless": True} if name.endswith("webp") else {}
    if loop is not None:
        options["loop"] = loop
    frames[0].save(
        buffer, name.split(".")[-1], save_all=True, append_images=frames[1:], duration=[100, 200, 300], **options
    )
    return name, buffer.getvalue()


@pytest.mark.parametrize("format", ["gif", "webp"])
@pytest.mark.parametrize("suffix", ["gif", "webp", "png", "avif"])
def test_animations_stay_animations_with_their_pictures_and_durations(
    ctx: FakeContext, suffix: str, format: str
) -> None:
    url = ctx.add(*animation(f"a.{suffix}", loop=None if suffix == "avif" else 0))
    result = images.thumb(ctx, url, width=20, format=format, quality=95)
    assert (result.width, result.height, result.content_type) == (20, 15, f"image/{format}")
    infos = [info_of(result.output, frame) for frame in range(3)]
    assert infos[0]["n_frames"] == 3
    assert [info["duration"] for info in infos] == [100, 200, 300]
    dots = [(rgba(result.output.path, frame)[2, 2], rgba(result.output.path, frame)[12, 17]) for frame in range(3)]
    expected = [(BLUE, RED), (RED, GREEN), (RED, RED)]
    for pair, colours in zip(dots, expected, strict=True):
        assert near(pair[0], colours[0], 45)
        assert near(pair[1], colours[1], 45)


@pytest.mark.parametrize(
    ("source", "loop", "format", "expected"),
    [
        ("gif", None, "gif", None),
        ("gif", 0, "gif", 0),
        ("gif", 3, "gif", 3),
        ("gif", None, "webp", 1),
        ("gif", 0, "webp", 0),
        ("gif", 3, "webp", 4),  # WebP counts how often it plays, GIF how often it repeats
        ("webp", 4, "gif", 3),
        ("webp", 1, "gif", None),
        ("webp", 0, "gif", 0),
        ("png", 2, "webp", 2),
    ],
)
def test_an_animation_plays_as_often_as_before(
    ctx: FakeContext, source: str, loop: int | None, format: str, expected: int | None
) -> None:
    url = ctx.add(*animation(f"a.{source}", loop=loop))
    assert info_of(images.thumb(ctx, url, format=format).output).get("loop") == expected


@pytest.mark.parametrize("format", ["jpeg", "png", "avif"])
def test_the_other_formats_show_the_first_frame(ctx: FakeContext, format: str) -> None:
    result = images.thumb(ctx, ctx.add(*animation("a.gif")), format=format, quality=95)
    assert info_of(result.output)["n_frames"] == 1
    pixels = rgba(result.output)
    assert near(pixels[4, 4], BLUE, 25)
    assert near(pixels[25, 35], RED, 25)


@pytest.mark.parametrize("format", ["gif", "webp"])
def test_transparent_animations_clear_what_is_no_longer_shown(ctx: FakeContext, format: str) -> None:
    frames = [Image.new("RGBA", (40, 40)) for _ in range(2)]
    frames[0].paste((*RED, 255), (0, 0, 20, 40))
    frames[1].paste((*BLUE, 255), (20, 0, 40, 40))
    buffer = BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:], duration=100, disposal=2)
    output = images.thumb(ctx, ctx.add("a.gif", buffer.getvalue()), format=format).output
    first, second = rgba(output.path, 0), rgba(output.path, 1)
    assert near(first[20, 10], (*RED, 255), 30)
    assert first[20, 30, 3] == second[20, 10, 3] == 0
    assert near(second[20, 30], (*BLUE, 255), 30)


def test_the_picture_for_viewers_without_animation_is_no_frame(ctx: FakeContext) -> None:
    still, *frames = (Image.new("RGB", (20, 20), colour) for colour in (BLACK, RED, BLUE))
    buffer = BytesIO()
    still.save(buffer, "PNG", save_all=True, default_image=True, append_images=frames, duration=[100, 200])
    url = ctx.add("a.png", buffer.getvalue())
    output = images.thumb(ctx, url, format="gif").output
    assert info_of(output)["n_frames"] == 2
    assert near(rgba(output.path, 0)[5, 5], RED)
    assert near(rgba(output.path, 1)[5, 5], BLUE)
    assert near(rgba(images.thumb(ctx, url, format="png").output)[5, 5], BLACK)


def test_the_pages_of_a_tiff_are_no_animation(ctx: FakeContext) -> None:
    buffer = BytesIO()
    Image.new("RGB", (20, 20), RED).save(buffer, "TIFF", save_all=True, append_images=[Image.new("RGB", (9, 9))])
    output = images.thumb(ctx, ctx.add("a.tif", buffer.getvalue()), format="gif").output
    assert info_of(output)["n_frames"] == 1
    assert "loop" not in info_of(output)


def test_an_animated_thumbnail_reports_progress_and_a_still_one_does_not(ctx: FakeContext) -> None:
    url = ctx.add(*animation("a.gif"))
    images.thumb(ctx, url, format="webp")
    assert ctx.reports == [33, 66, 100]
    images.thumb(ctx, url, format="jpeg")
    assert ctx.reports == [33, 66, 100]


# Bounds and broken files


BROKEN = {
    "a web page": b"<!doctype html><html><body>404 not found</body></html>",
    "nothing": b"",
    "one byte": b"\xff",
    "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n",
    "a Photoshop file": b"8BPS\0\1" + bytes(6) + b"\0\3\0\0\0\x0a\0\0\0\x0a\0\x08\0\3" + bytes(400),
    "the beginning of a GIF": b"GIF89a\x0a",
    "the beginning of a PNG": b"\x89PNG\r\n\x1a\n\0\0",
    "a TIFF that points nowhere": b"II*\0\xff\xff\xff\x7f",
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN.keys())
def test_what_is_no_picture_ends_in_a_sentence_with_its_url(ctx: FakeContext, content: bytes) -> None:
    url = ctx.add("cat.jpeg", content)
    for call in (
        lambda: images.info(ctx, url),
        lambda: images.thumb(ctx, url),
        lambda: images.gif(ctx, [url, url]),
        lambda: images.strip(ctx, [url], 10, 10),
    ):
        with pytest.raises(TaskError) as raised:
            call()
        assert raised.value.message == INVALID


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF", "BMP"])
def test_a_truncated_picture_ends_in_a_sentence_with_its_url(ctx: FakeContext, format: str) -> None:
    buffer = BytesIO()
    made.photograph().save(buffer, format)
    whole = buffer.getvalue()
    url = ctx.add("cat.jpeg", whole[: len(whole) // 2])
    with pytest.raises(TaskError) as raised:
        images.thumb(ctx, url, width=20)
    assert raised.value.message == INVALID


def test_an_animation_whose_end_is_missing_ends_in_a_sentence_with_its_url(ctx: FakeContext) -> None:
    whole = animation("a.gif")[1]
    url = ctx.add("cat.jpeg", whole[:-40])
    with pytest.raises(TaskError) as raised:
        images.thumb(ctx, url, format="gif")
    assert raised.value.message == INVALID


def test_a_failed_download_is_passed_on(ctx: FakeContext) -> None:
    with pytest.raises(TaskError, match=r"File 'http://files\.com/none' could not be downloaded"):
        images.thumb(ctx, "http://files.com/none")


TOO_MANY_PIXELS = "File 'http://files.com/b.png' has more pixels than the limit of 100000000 (limits.pixels)"


@pytest.mark.parametrize(
    "content",
    [made.bomb(), made.bomb(10_000, 10_001), made.webp_bomb()],
    ids=["60000 x 60000", "one line too many", "WebP"],
)
def test_a_picture_beyond_the_limit_is_refused_before_it_is_decoded(ctx: FakeContext, content: bytes) -> None:
    assert len(content) < 1024
    url = ctx.add("b.png", content)
    for call in (lambda: images.info(ctx, url), lambda: images.thumb(ctx, url, 10), lambda: images.gif(ctx, [url] * 2)):
        with pytest.raises(TaskError) as raised:
            call()
        assert raised.value.message == TOO_MANY_PIXELS


def test_a_picture_of_exactly_the_limit_is_taken(ctx: FakeContext) -> None:
    limited(ctx, pixels=99)
    assert images.thumb(ctx, ctx.add("a.png", Image.new("L", (11, 9)))).width == 11
    with pytest.raises(TaskError, match=r"has more pixels than the limit of 99 \(limits\.pixels\)"):
        images.thumb(ctx, ctx.add("b.png", Image.new("L", (10, 10))))


def test_pillows_own_bound_is_left_as_it_was(ctx: FakeContext) -> None:
    before = Image.MAX_IMAGE_PIXELS
    images.info(ctx, ctx.add("a.png", Image.new("L", (11, 9))))
    with pytest.raises(TaskError):
        images.info(ctx, ctx.add("b.png", made.bomb()))
    assert before == Image.MAX_IMAGE_PIXELS


def test_a_frame_that_outgrows_the_limit_is_refused(ctx: FakeContext) -> None:
    url = ctx.add("b.png", made.growing_gif(60_000, 60_000))
    with pytest.raises(TaskError) as raised:
        images.thumb(ctx, url, format="gif")
    assert raised.value.message == TOO_MANY_PIXELS
    assert images.thumb(ctx, url, format="png").width == 10


@pytest.mark.parametrize("content", [made.growing_gif(200, 60), made.webp_bomb()], ids=["GIF", "WebP"])
def test_a_limit_below_that_of_pillow_holds_for_all_that_is_allocated(ctx: FakeContext, content: bytes) -> None:
    limited(ctx, pixels=9_999)
    url = ctx.add("b.png", content)
    with pytest.raises(TaskError) as raised:
        images.thumb(ctx, url, format="gif")
    assert (
        raised.value.message == "File 'http://files.com/b.png' has more pixels than the limit of 9999 (limits.pixels)"
    )


def test_more_frames_than_the_limit_are_refused_unless_only_the_first_is_shown(ctx: FakeContext) -> None:
    url = ctx.add("a.gif", made.many_frames(1001))
    for format in ("gif", "webp"):
        with pytest.raises(TaskError) as raised:
            images.thumb(ctx, url, format=format)
        assert raised.value.message == (
            "File 'http://files.com/a.gif' has 1001 frames, the limit is 1000 frames (limits.frames)"
        )
    assert images.thumb(ctx, url, format="jpeg").width == 1
    assert images.thumb(ctx, ctx.add("b.gif", made.many_frames(1000)), format="gif").width == 1


def test_an_output_beyond_the_limit_is_refused(ctx: FakeContext) -> None:
    limited(ctx, output_pixels=10_000)
    url = ctx.add("a.png", Image.new("L", (50, 50)))
    assert images.thumb(ctx, url, 100, 100, crop=True).width == 100
    with pytest.raises(TaskError) as raised:
        images.thumb(ctx, url, 101, 100, crop=True)
    assert raised.value.message == (
        "the output would have 101 x 100 pixels, the limit is 10000 pixels in all (limits.output_pixels): "
        "make width and height smaller"
    )


def test_all_frames_of_an_output_count_together(ctx: FakeContext) -> None:
    url = ctx.add(*animation("a.gif"))  # 3 frames of 40 x 30
    limited(ctx, output_pixels=3600)
    assert images.thumb(ctx, url, format="gif").width == 40
    limited(ctx, output_pixels=3599)
    with pytest.raises(TaskError, match="40 x 30 pixels in each of 3 frames"):
        images.thumb(ctx, url, format="gif")


def test_a_side_that_the_format_cannot_say_is_refused(ctx: FakeContext) -> None:
    url = ctx.add("a.png", Image.new("L", (16_384, 1)))
    with pytest.raises(TaskError, match="the limit of webp is 16383 pixels a side"):
        images.thumb(ctx, url, format="webp")
    assert images.thumb(ctx, url, format="jpeg").width == 16_384


@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF", "WEBP", "AVIF", "TIFF", "BMP"])
def test_damaged_files_give_a_picture_or_a_task_error_and_nothing_else(ctx: FakeContext, format: str) -> None:
    buffer = BytesIO()
    small = made.photograph().resize((60, 40))
    small.save(buffer, format, save_all=format in ("GIF", "WEBP", "AVIF"), append_images=[small.rotate(180)])
    whole = buffer.getvalue()
    random = np.random.default_rng(5)
    for _ in range(60):
        damaged = bytearray(whole)
        for place in random.integers(0, min(len(whole), 600), random.integers(1, 8)):
            damaged[place] = random.integers(0, 256)
        url = ctx.add("x", bytes(damaged))
        for call in (lambda url=url: images.info(ctx, url), lambda url=url: images.thumb(ctx, url, 20, format="gif")):
            try:
                call()
            except TaskError as error:
                assert error.message.startswith("File 'http://files.com/x' ") or "limits.output_pixels" in error.message


# image.info


CAMERA = {
    base.DateTimeOriginal: "2024:02:29 18:45:03",
    base.OffsetTimeOriginal: "+02:00",
    base.Flash: 0b11001,
    base.FocalLength: TiffImagePlugin.IFDRational(353, 10),
    base.ISOSpeedRatings: 400,
    base.ExposureTime: TiffImagePlugin.IFDRational(1, 250),
}


def test_info_tells_all_that_the_camera_wrote(ctx: FakeContext) -> None:
    url = ctx.add("cat.jpg", made.photograph(), exif=made.exif_of({base.Orientation: 6}, CAMERA))
    assert dataclasses.asdict(images.info(ctx, url)) == {
        "content_type": "image/jpeg",
        "type": "image",
        "width": 451,
        "height": 300,
        "alpha": False,
        "exif_orientation": 6,
        "rotation": 270,
        "date_time": "2024-02-29T18:45:03+02:00",
        "flash": True,
        "focal_length": 35.3,
        "iso_speed": 400,
        "exposure_time": 0.004,
    }


def test_info_has_null_for_what_the_file_does_not_say(ctx: FakeContext) -> None:
    url = ctx.add("cat.webp", made.photograph().convert("RGBA"), lossless=True)
    assert dataclasses.asdict(images.info(ctx, url)) == {
        "content_type": "image/webp",
        "type": "image",
        "width": 451,
        "height": 300,
        "alpha": False,  # WebP leaves out a channel that is opaque everywhere
        "exif_orientation": None,
        "rotation": None,
        "date_time": None,
        "flash": None,
        "focal_length": None,
        "iso_speed": None,
        "exposure_time": None,
    }


@pytest.mark.parametrize(
    ("orientation", "rotation"),
    [(1, 0), (2, None), (3, 180), (4, None), (5, None), (6, 270), (7, None), (8, 90), (0, None), (9, None)],
)
def test_turning_by_rotation_shows_the_picture_as_it_was_shot(
    ctx: FakeContext, orientation: int, rotation: int | None
) -> None:
    url = ctx.add("a.jpg", quadrants(), exif=made.exif_of({base.Orientation: orientation}))
    info = images.info(ctx, url)
    assert info.rotation == rotation
    assert info.exif_orientation == (orientation if 1 <= orientation <= 8 else None)
    if rotation is not None:
        stored = made.stored_with_orientation(quadrants(), orientation)
        assert (np.rot90(stored, rotation // 90) == quadrants()).all()


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif", "avif"])
def test_info_tells_the_stored_size_in_every_format(ctx: FakeContext, suffix: str, orientation: int) -> None:
    picture = Image.new("RGB", (80, 60))
    if suffix == "tif":
        url = ctx.add("a.tif", picture, tiffinfo={274: orientation})
    else:
        url = ctx.add(f"a.{suffix}", picture, exif=made.exif_of({base.Orientation: orientation}))
    info = images.info(ctx, url)
    assert (info.width, info.height, info.exif_orientation or 1) == (80, 60, orientation)


@pytest.mark.parametrize(
    ("name", "picture", "content_type", "alpha"),
    [
        ("a.jpg", Image.new("RGB", (9, 9)), "image/jpeg", False),
        ("a.png", Image.new("RGB", (9, 9)), "image/png", False),
        ("b.png", Image.new("RGBA", (9, 9)), "image/png", True),
        ("c.png", Image.new("LA", (9, 9)), "image/png", True),
        ("a.gif", Image.new("P", (9, 9)), "image/gif", False),
        ("a.webp", Image.new("RGBA", (9, 9)), "image/webp", True),
        ("a.avif", Image.new("RGBA", (9, 9)), "image/avif", True),
        ("a.tif", Image.new("CMYK", (9, 9)), "image/tiff", False),
        ("a.bmp", Image.new("L", (9, 9)), "image/bmp", False),
    ],
)
def test_info_knows_content_types_and_alpha(
    ctx: FakeContext, name: str, picture: Image.Image, content_type: str, alpha: bool
) -> None:
    info = images.info(ctx, ctx.add(name, picture))
    assert (info.content_type, info.alpha) == (content_type, alpha)


def test_a_transparent_colour_of_a_palette_is_alpha(ctx: FakeContext) -> None:
    assert images.info(ctx, ctx.add("a.png", Image.new("P", (9, 9)), transparency=0)).alpha is True


def test_a_jpeg_with_further_pictures_behind_it_is_a_jpeg(ctx: FakeContext) -> None:
    buffer = BytesIO()
    quarter = Image.fromarray(quadrants())
    quarter.save(buffer, "MPO", save_all=True, append_images=[Image.new("RGB", (10, 10))], quality=95)
    url = ctx.add("phone.jpg", buffer.getvalue())
    assert images.info(ctx, url).content_type == "image/jpeg"
    result = images.thumb(ctx, url, width=20, format="gif")
    assert (result.width, info_of(result.output)["n_frames"]) == (20, 1)
    assert near(corners(rgba(result.output))[3], YELLOW, 30)


def test_info_does_not_decode_the_picture(ctx: FakeContext, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = jpeg_of(made.photograph(), exif=made.exif_of({}, CAMERA))
    half = ctx.add("a.jpg", whole[: len(whole) // 2])
    large = ctx.add("b.png", made.bomb(9_000, 9_000))
    decoded: list[object] = []
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda image: decoded.append(image))
    assert images.info(ctx, half).iso_speed == 400
    assert images.info(ctx, large).width == 9000
    assert decoded == []


@pytest.mark.parametrize(
    ("date", "expected"),
    [
        ("2024:01:02 03:04:05", "2024-01-02T03:04:05"),
        ("2024-01-02T03:04:05", "2024-01-02T03:04:05"),
        ("2024/01/02 03:04:05\0", "2024-01-02T03:04:05"),
        ("2024:02:30 03:04:05", None),
        ("0000:00:00 00:00:00", None),
        ("    :  :     :  :  ", None),
        ("10", None),
        ("yesterday", None),
        ("", None),
    ],
)
def test_dates_become_iso_8601_and_are_never_invented(ctx: FakeContext, date: str, expected: str | None) -> None:
    url = ctx.add("a.jpg", made.photograph(), exif=made.exif_of({}, {base.DateTimeOriginal: date}))
    assert images.info(ctx, url).date_time == expected


def test_the_next_best_date_is_taken_when_the_first_is_unreadable(ctx: FakeContext) -> None:
    camera = {base.DateTimeOriginal: "?", base.OffsetTime: "-05:30"}
    url = ctx.add("a.jpg", made.photograph(), exif=made.exif_of({base.DateTime: "2020:05:06 07:08:09"}, camera))
    assert images.info(ctx, url).date_time == "2020-05-06T07:08:09-05:30"


def test_an_iso_speed_that_does_not_fit_is_found_in_the_larger_tag(ctx: FakeContext) -> None:
    camera = {base.ISOSpeedRatings: 65535, base.RecommendedExposureIndex: 102_400}
    url = ctx.add("a.jpg", made.photograph(), exif=made.exif_of({}, camera))
    assert images.info(ctx, url).iso_speed == 102_400


@pytest.mark.parametrize(("bits", "fired"), [(0, False), (1, True), (16, False), (0x5D, True)])
def test_flash_tells_whether_it_fired(ctx: FakeContext, bits: int, fired: bool) -> None:
    url = ctx.add("a.jpg", made.photograph(), exif=made.exif_of({}, {base.Flash: bits}))
    assert images.info(ctx, url).flash is fired


MALFORMED = {
    "zero denominators": made.exif_of(
        {},
        {tag: TiffImagePlugin.IFDRational(1, 0) for tag in (base.FocalLength, base.ExposureTime)}
        | {base.ISOSpeedRatings: 0},
    ),
    "zero by zero": made.exif_of({}, {base.ExposureTime: TiffImagePlugin.IFDRational(0, 0)}),
    "zeros": made.exif_of({}, dict.fromkeys((base.FocalLength, base.ExposureTime, base.ISOSpeedRatings), 0)),
    "infinite numbers": made.exif_of_infinities(base.FocalLength, base.ExposureTime, base.ISOSpeedRatings),
    "texts for numbers": made.exif_of_texts(base.FocalLength, base.ExposureTime, base.ISOSpeedRatings, base.Flash),
    "nonsense for dates": made.exif_of_texts(base.DateTimeOriginal, base.DateTimeDigitized, base.OffsetTimeOriginal),
    "no TIFF": b"Exif\0\0this is no EXIF at all",
    "nothing": b"Exif\0\0",
    "a directory beyond the end": b"Exif\0\0MM\0*\x7f\xff\xff\xff",
    "a camera directory beyond the end": b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x87\x69\0\x04\0\0\0\x01\x7f\xff\xff\xff",
    "a camera directory that is itself": b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x87\x69\0\x04\0\0\0\x01\0\0\0\x08\0\0\0\0",
    "a large block": b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x92\x86\0\x07\x7f\xff\xff\xff\0\0\0\x1a" + bytes(60_000),
}


@pytest.mark.parametrize("exif", MALFORMED.values(), ids=MALFORMED.keys())
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_malformed_exif_is_null_and_spoils_nothing(ctx: FakeContext, exif: bytes, suffix: str) -> None:
    url = ctx.add(f"a.{suffix}", made.photograph(), exif=exif)
    info = images.info(ctx, url)
    assert (info.width, info.exif_orientation, info.rotation, info.date_time) == (451, None, None, None)
    assert (info.flash, info.focal_length, info.iso_speed, info.exposure_time) == (None, None, None, None)
    assert images.thumb(ctx, url, width=20).width == 20


@settings(same_context, max_examples=150)
@given(data=st.data())
def test_whatever_stands_in_exif_the_result_is_json_and_the_picture_is_made(
    ctx: FakeContext, data: st.DataObject
) -> None:
    good = bytearray(made.exif_of({base.Orientation: 6, base.DateTime: "2020:05:06 07:08:09"}, CAMERA))
    changes = st.lists(st.tuples(st.integers(6, len(good) - 1), st.integers(0, 255)), max_size=6)
    for place, value in data.draw(changes):
        good[place] = value
    exif = bytes(good) + data.draw(st.binary(max_size=30))
    url = ctx.add("a.jpg", jpeg_of(Image.new("L", (30, 20)), exif=exif))
    json.dumps(dataclasses.asdict(images.info(ctx, url)), allow_nan=False)
    assert {images.thumb(ctx, url).width} <= {20, 30}


# image.gif


def colours_on_the_web(ctx: FakeContext, size: tuple[int, int] = (40, 30)) -> list[str]:
    named = {"red": RED, "green": GREEN, "blue": BLUE}
    return [ctx.add(f"{name}.png", Image.new("RGB", size, colour)) for name, colour in named.items()]


def test_a_gif_has_one_frame_of_each_image_in_their_order(ctx: FakeContext) -> None:
    urls = colours_on_the_web(ctx)
    result = images.gif(ctx, urls)
    assert (result.width, result.height, result.frames, result.duration) == (40, 30, 3, 0.3)
    assert info_of(result.output)["n_frames"] == 3
    assert [info_of(result.output, frame)["duration"] for frame in range(3)] == [100] * 3
    assert [tuple(rgba(result.output.path, frame)[15, 20, :3]) for frame in range(3)] == [RED, GREEN, BLUE]
    assert result.output.content_type == "image/gif"
    assert ctx.reports == [33, 66, 100]


def test_equal_images_stay_frames_of_their_own_and_are_downloaded_once(ctx: FakeContext) -> None:
    red, green, _ = colours_on_the_web(ctx)
    result = images.gif(ctx, [red, red, green, red])
    assert (result.frames, info_of(result.output)["n_frames"]) == (4, 4)
    assert [tuple(rgba(result.output.path, frame)[15, 20, :3]) for frame in range(4)] == [RED, RED, GREEN, RED]
    assert ctx.fetched == [red, green]


def test_downloads_are_removed_when_they_have_been_used(ctx: FakeContext) -> None:
    images.gif(ctx, colours_on_the_web(ctx))
    assert list(ctx.scratch.glob("fetched-*")) == []


@pytest.mark.parametrize(("loop", "written"), [(0, 0), (-1, None), (1, 1), (7, 7), (65535, 65535)])
def test_loop_is_written_as_asked(ctx: FakeContext, loop: int, written: int | None) -> None:
    assert info_of(images.gif(ctx, colours_on_the_web(ctx), loop=loop).output).get("loop") == written


@pytest.mark.parametrize(
    ("seconds", "count", "durations"),
    [(0.01, 3, [10, 10, 10]), (0.025, 4, [20, 30, 30, 20]), (1 / 3, 3, [330, 340, 330]), (2, 2, [2000, 2000])],
)
def test_frame_durations_add_up_although_gif_knows_hundredths_only(
    ctx: FakeContext, seconds: float, count: int, durations: list[int]
) -> None:
    urls = [colours_on_the_web(ctx)[number % 3] for number in range(count)]
    result = images.gif(ctx, urls, frame_duration=seconds)
    assert result.duration == pytest.approx(seconds * count, abs=0.005)
    found = [info_of(result.output, frame)["duration"] for frame in range(count)]
    assert sum(found) / 1000 == result.duration
    assert sorted(found) == sorted(durations)


@pytest.mark.parametrize(
    ("width", "height", "expected"),
    [(None, None, (40, 30)), (20, None, (20, 15)), (None, 60, (80, 60)), (50, 50, (50, 50))],
)
def test_the_first_image_decides_what_is_not_given(
    ctx: FakeContext, width: int | None, height: int | None, expected: tuple[int, int]
) -> None:
    first = ctx.add("first.png", Image.new("RGB", (40, 30), RED))
    second = ctx.add("second.png", Image.new("RGB", (500, 100), BLUE))
    result = images.gif(ctx, [first, second], width=width, height=height)
    assert (result.width, result.height) == expected
    assert [rgba(result.output.path, frame).shape[1::-1] for frame in range(2)] == [expected] * 2


def test_the_upright_size_of_the_first_image_counts(ctx: FakeContext) -> None:
    exif = made.exif_of({base.Orientation: 6})
    url = ctx.add("a.jpg", made.stored_with_orientation(quadrants(80, 60), 6), exif=exif, quality=95)
    result = images.gif(ctx, [url, url])
    assert (result.width, result.height) == (80, 60)
    found = corners(rgba(result.output))
    assert all(near(*pair, 30) for pair in zip(found, (RED, GREEN, BLUE, YELLOW), strict=True))


def test_other_shapes_stand_in_the_centre_of_white(ctx: FakeContext) -> None:
    first = ctx.add("first.png", Image.new("RGB", (90, 90), RED))
    second = ctx.add("second.png", Image.new("RGB", (30, 10), BLUE))  # small: it is enlarged to 90 x 30
    third = ctx.add("third.png", Image.new("RGB", (10, 30), GREEN))
    output = images.gif(ctx, [first, second, third]).output
    flat, tall = rgba(output.path, 1), rgba(output.path, 2)
    places = (2, 28, 31, 58, 61, 87)
    assert [tuple(flat[place, 45, :3]) for place in places] == [WHITE, WHITE, BLUE, BLUE, WHITE, WHITE]
    assert [tuple(tall[45, place, :3]) for place in places] == [WHITE, WHITE, GREEN, GREEN, WHITE, WHITE]


def test_transparent_images_stand_on_white(ctx: FakeContext) -> None:
    url = ctx.add("a.png", Image.new("RGBA", (20, 20), (*RED, 0)))
    gray = ctx.add("b.png", Image.new("LA", (20, 20), (0, 128)))
    output = images.gif(ctx, [url, gray]).output
    assert tuple(rgba(output)[10, 10]) == (*WHITE, 255)
    assert near(rgba(output.path, 1)[10, 10], (127, 127, 127, 255), 4)


def test_photographs_keep_their_colours_in_a_gif(ctx: FakeContext) -> None:
    cat = ctx.add("cat.png", made.photograph())
    result = images.gif(ctx, [cat, ctx.add("coffee.png", skimage.data.coffee())])
    found = rgba(result.output)[:, :, :3].astype(int)
    assert np.abs(found - np.asarray(made.photograph())).mean() < 8


def test_slow_gradients_are_dithered_in_a_gif(ctx: FakeContext) -> None:
    x, y = np.meshgrid(np.linspace(0, 255, 320), np.linspace(0, 255, 320))
    gradient = np.stack([x, y, (x + y) / 2], -1).astype(np.uint8)
    url = ctx.add("a.png", gradient)
    found = Image.fromarray(rgba(images.thumb(ctx, url, format="gif").output)[:, :, :3])
    seen = np.asarray(found.reduce(8)).astype(int) - np.asarray(Image.fromarray(gradient).reduce(8))
    assert np.abs(seen).mean() < 1.2  # from afar; 2.7 without dithering


def test_a_gif_beyond_the_limits_is_refused_before_the_second_download(ctx: FakeContext) -> None:
    urls = colours_on_the_web(ctx)  # 3 frames of 40 x 30
    limited(ctx, output_pixels=3599)
    with pytest.raises(TaskError, match=r"40 x 30 pixels in each of 3 frames, the limit is 3599 pixels in all"):
        images.gif(ctx, urls)
    assert ctx.fetched == urls[:1]
    limited(ctx, output_pixels=3600)
    assert images.gif(ctx, urls).frames == 3


def test_a_gif_of_more_images_than_the_limit_of_frames_is_refused(ctx: FakeContext) -> None:
    urls = colours_on_the_web(ctx)
    limited(ctx, frames=2)
    with pytest.raises(TaskError, match=r"3 images are given, the limit is 2 frames \(limits\.frames\)"):
        images.gif(ctx, urls)
    assert ctx.fetched == []


# image.strip


def test_a_strip_lays_the_images_side_by_side(ctx: FakeContext) -> None:
    result = images.strip(ctx, colours_on_the_web(ctx), 20, 15)
    assert dataclasses.replace(result, output=None) == images.Strip(3, 60, 15, "image/jpeg", None)  # type: ignore[arg-type]
    pixels = rgba(result.output)
    assert [near(pixels[7, x], colour, 20) for x, colour in ((10, RED), (30, GREEN), (50, BLUE))] == [True] * 3
    assert ctx.reports == [33, 66, 100]


@pytest.mark.parametrize(
    ("wrap", "size"), [(None, (60, 15)), (1, (20, 45)), (2, (40, 30)), (3, (60, 15)), (9, (60, 15))]
)
def test_wrap_is_the_number_of_images_in_a_line(ctx: FakeContext, wrap: int | None, size: tuple[int, int]) -> None:
    result = images.strip(ctx, colours_on_the_web(ctx), 20, 15, wrap=wrap)
    assert (result.width, result.height) == info_of(result.output)["size"] == size


@pytest.mark.parametrize(("format", "empty"), [("jpeg", (*WHITE, 255)), ("png", (0, 0, 0, 0))])
def test_what_no_image_covers_is_white_or_transparent(ctx: FakeContext, format: str, empty: tuple[int, ...]) -> None:
    urls = [*colours_on_the_web(ctx, (40, 10))[:2], ctx.add("a.png", Image.new("RGBA", (10, 40), (*RED, 0)))]
    result = images.strip(ctx, urls, 40, 40, wrap=2, format=format)
    assert result.content_type == f"image/{format}"
    pixels = rgba(result.output)
    assert near(pixels[20, 20], RED, 20), "the first, fitted"
    assert near(pixels[20, 60], GREEN, 20), "the second, right of it"
    for row, column, what in ((4, 20, "above it"), (36, 60, "below it"), (60, 20, "the third"), (60, 60, "no fourth")):
        found = pixels[row, column] if empty[3] else pixels[row, column, 3:]  # nobody sees what colour nothing has
        assert near(found, empty if empty[3] else (0,), 3), what


def test_a_cropped_strip_fills_every_place_from_the_centre(ctx: FakeContext) -> None:
    wide = np.zeros((10, 30, 3), np.uint8)
    wide[:, 10:20] = GREEN
    pixels = rgba(images.strip(ctx, [ctx.add("w.png", wide)], 40, 40, crop=True, format="png").output)
    assert near(pixels[20, 20], (*GREEN, 255), 2)
    assert near(pixels[2, 8], (*GREEN, 255), 40)
    assert near(pixels[37, 32], (*GREEN, 255), 40)


def test_a_strip_shows_the_first_frame_of_animations_upright_and_in_srgb(ctx: FakeContext) -> None:
    exif = made.exif_of({base.Orientation: 8})
    turned = ctx.add("t.jpg", made.stored_with_orientation(quadrants(), 8), exif=exif, quality=95)
    wide = ctx.add("w.png", Image.new("RGB", (80, 60), (180, 60, 60)), icc_profile=made.adobe_rgb_profile())
    urls = [ctx.add(*animation("a.gif")), turned, wide]
    pixels = rgba(images.strip(ctx, urls, 80, 60, format="png").output)
    assert near(pixels[8, 8], BLUE, 25)
    found = corners(pixels[:, 80:160])
    assert all(near(*pair, 25) for pair in zip(found, (RED, GREEN, BLUE, YELLOW), strict=True))
    assert near(pixels[30, 200], made.adobe_rgb_to_srgb((180, 60, 60)), 3)


def test_a_strip_beyond_the_limit_is_refused_before_anything_is_downloaded(ctx: FakeContext) -> None:
    urls = colours_on_the_web(ctx)
    with pytest.raises(TaskError, match=r"60000 x 20000 pixels, the limit is 50000000 pixels in all"):
        images.strip(ctx, urls, 20_000, 20_000)
    with pytest.raises(TaskError, match=r"the limit of jpeg is 65500 pixels a side"):
        images.strip(ctx, urls * 4, 20_000, 1)
    assert ctx.fetched == []
