"""Renders dragon/server/static/sample.jpg: a dragon over a lake at dusk. Everything is computed, nothing is borrowed.

    python docs/sample_picture.py [OUTPUT]

The file is stored turned, with EXIF orientation 6: only who applies EXIF sees it upright. That is what it is good for.
Distances are shares of the picture's height (y) and width (x) where nothing says pixels.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageDraw

Array = NDArray[Any]  # float32
Point = tuple[float, float]

WIDTH, HEIGHT = 4000, 3000
OUTPUT = Path(__file__).resolve().parent.parent / "dragon" / "server" / "static" / "sample.jpg"
SEED = 1977

SHORE = 0.66  # where the lake begins
SUN = (0.635, 0.50)

#: Height -> colour of the sky, from the zenith to the horizon.
SKY = {
    0.00: (16, 20, 52),
    0.16: (42, 36, 92),
    0.30: (104, 58, 124),
    0.42: (196, 88, 118),
    0.52: (246, 142, 94),
    0.60: (255, 196, 120),
    0.70: (255, 214, 150),
}

#: Mountain ranges from far to near: mean height of the ridge, how rugged, colour.
RANGES = (
    (0.565, 0.075, (206, 118, 118)),
    (0.595, 0.080, (158, 84, 112)),
    (0.620, 0.070, (104, 58, 98)),
    (0.640, 0.055, (60, 38, 76)),
    (0.655, 0.022, (30, 22, 50)),
)


def main() -> None:
    output = Path(sys.argv[1]) if len(sys.argv) > 1 else OUTPUT
    output.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # to be turned a quarter clockwise
    exif[ExifTags.Base.ImageDescription] = "A dragon over a lake at dusk, computed"
    lying = render().transpose(Image.Transpose.ROTATE_90)
    lying.save(output, quality=86, optimize=True, exif=exif)


def render() -> Image.Image:
    random = np.random.default_rng(SEED)
    picture = paint_sky(random)
    for ridge, rugged, colour in RANGES:
        paint_range(picture, random, ridge, rugged, np.array(colour, np.float32))
    paint_dragon(picture)
    paint_lake(picture, random)
    paint_shore(picture, random)
    darken_corners(picture)
    picture += random.uniform(-0.5, 0.5, (HEIGHT, WIDTH, 1)).astype(np.float32)  # keeps gradients free of steps
    return Image.fromarray(picture.round().clip(0, 255).astype(np.uint8))


def grid() -> tuple[Array, Array]:
    """x and y of all pixels."""
    x = (np.arange(WIDTH, dtype=np.float32) + 0.5) / WIDTH
    y = (np.arange(HEIGHT, dtype=np.float32) + 0.5) / HEIGHT
    return x[None, :], y[:, None]


def clouds_of(random: np.random.Generator, columns: int, rows: int, octaves: int) -> Array:
    """Fractal noise of mean 0 and deviation 1, `columns` x `rows` features at its coarsest."""
    total = np.zeros((HEIGHT, WIDTH), np.float32)
    for octave in range(octaves):
        coarse = random.standard_normal((rows * 2**octave + 3, columns * 2**octave + 3)).astype(np.float32)
        fine = Image.fromarray(coarse).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
        total += np.asarray(fine) * 0.52**octave
    total -= total.mean()
    return total / np.float32(total.std())


def ridge_of(random: np.random.Generator, features: int, octaves: int) -> Array:
    """Fractal noise along x with sharp peaks, roughly -1 to 1."""
    x = np.linspace(0, 1, WIDTH)
    total = np.zeros(WIDTH)
    for octave in range(octaves):
        count = features * 2**octave
        heights = random.uniform(-1, 1, count + 2)
        knots = (np.arange(count + 2) - random.uniform(0, 1)) / count
        total += np.interp(x, knots, heights) * 0.5**octave
    return (total / 1.6).astype(np.float32)


def blend(picture: Array, colour: Array, share: Array) -> None:
    picture += (colour - picture) * share[..., None]


def paint_sky(random: np.random.Generator) -> Array:
    x, y = grid()
    stops = np.array(list(SKY))
    channels = [np.interp(y[:, 0], stops, [colour[channel] for colour in SKY.values()]) for channel in range(3)]
    picture = np.broadcast_to(np.stack(channels, -1)[:, None, :], (HEIGHT, WIDTH, 3)).astype(np.float32).copy()
    paint_stars(picture, random)
    distance = np.hypot((x - SUN[0]) * WIDTH / HEIGHT, y - SUN[1])
    paint_clouds(picture, random, distance)
    blend(picture, np.array((255, 200, 120), np.float32), 0.62 * np.exp(-distance / 0.14))
    blend(picture, np.array((255, 248, 220), np.float32), np.clip((0.062 - distance) * HEIGHT / 3 + 0.5, 0, 1))
    return picture


def paint_stars(picture: Array, random: np.random.Generator) -> None:
    for _ in range(420):
        column, row = int(random.uniform(2, WIDTH - 3)), int(HEIGHT * 0.34 * random.uniform() ** 1.6) + 2
        light = 150 * random.uniform() ** 3 * (1 - row / (HEIGHT * 0.36)) + 12
        picture[row : row + 2, column : column + 2] += np.float32(light)
        picture[row - 1 : row + 3, column - 1 : column + 3] += np.float32(light / 4)


def paint_clouds(picture: Array, random: np.random.Generator, distance: Array) -> None:
    """Long banks of cloud: dark violet above, glowing where the sun is near."""
    _, y = grid()
    density = clouds_of(random, 3, 14, 6) + 0.35 * clouds_of(random, 2, 5, 3)
    bank = np.clip((density - 0.25) / 1.6, 0, 1) * np.clip((y - 0.06) / 0.2, 0, 1) * np.clip((0.66 - y) / 0.1, 0, 1)
    glow = np.exp(-distance / 0.30)[..., None]
    dark = np.array((92, 58, 112), np.float32)
    lit = np.array((255, 150, 96), np.float32)
    blend_to = dark + (lit - dark) * glow
    picture += (blend_to - picture) * (0.72 * bank)[..., None]
    edge = (
        np.clip(1 - np.abs(density - 0.9) / 0.9, 0, 1)
        * np.clip((y - 0.15) / 0.2, 0, 1)
        * np.clip((0.6 - y) / 0.1, 0, 1)
    )
    blend(picture, np.array((255, 206, 160), np.float32), 0.50 * edge * np.exp(-distance / 0.24))


def paint_range(picture: Array, random: np.random.Generator, ridge: float, rugged: float, colour: Array) -> None:
    """One range of mountains: its colour in front, haze from the valley, warm light on the side of the sun."""
    x, y = grid()
    line = ridge - rugged * ridge_of(random, 5, 9)
    cover = np.clip((y - line[None, :]) * HEIGHT + 0.5, 0, 1)
    depth = np.clip((y - line[None, :]) / 0.10, 0, 1)
    haze = np.array((250, 170, 130), np.float32)
    share = 0.34 * depth * np.exp(-np.abs(x - SUN[0]) / 0.35)
    body = colour + (haze - colour) * share[..., None]
    picture += (body - picture) * cover[..., None]


def paint_dragon(picture: Array) -> None:
    """A flying dragon in front of the glow."""
    mask = np.asarray(dragon_mask(), np.float32) / 255
    blend(picture, np.array((28, 16, 38), np.float32), mask * 0.97)


def dragon_mask() -> Image.Image:
    """The silhouette, in a square of 100 x 100; drawn four times as large as it is used, for smooth edges."""
    side, zoom = 1500, 4  # pixels
    drawn = Image.new("L", (side * zoom, side * zoom))
    pen = ImageDraw.Draw(drawn)
    scale = side * zoom / 100
    for shape in (*wings(), *limbs()):
        pen.polygon([(x * scale, y * scale) for x, y in shape], fill=255)
    for (x, y), radius in body():
        pen.ellipse(((x - radius) * scale, (y - radius) * scale, (x + radius) * scale, (y + radius) * scale), fill=255)
    mask = Image.new("L", (WIDTH, HEIGHT))
    mask.paste(drawn.resize((side, side), Image.Resampling.LANCZOS), (int(WIDTH * 0.165), int(HEIGHT * 0.035)))
    return mask


def spline(points: list[Point], steps: int = 60) -> list[Point]:
    """A Catmull-Rom curve through the points."""
    ends = np.array([points[0], *points, points[-1]])
    t = np.linspace(0, 1, steps, endpoint=False)[:, None]
    parts = [
        0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)
        for a, b, c, d in zip(ends, ends[1:], ends[2:], ends[3:], strict=False)
    ]
    return [(float(x), float(y)) for x, y in np.concatenate(parts)]


def body() -> list[tuple[Point, float]]:
    """Head, neck, trunk and tail as discs along a curve."""
    spine = spline(
        [
            (84, 40),
            (79, 36),
            (73, 38),
            (68, 45),
            (62, 51),
            (54, 54),
            (45, 58),
            (36, 66),
            (26, 72),
            (16, 71),
            (9, 64),
            (7, 56),
        ]
    )
    along = np.linspace(0, 1, len(spine))
    thick = np.interp(
        along, [0, 0.05, 0.12, 0.2, 0.32, 0.42, 0.52, 0.7, 1], [0.5, 1.3, 1.5, 1.2, 2.1, 3.5, 2.7, 1.2, 0.15]
    )
    return list(zip(spine, thick.tolist(), strict=True))


def limbs() -> list[list[Point]]:
    """Horns, jaw, the tip of the tail, legs drawn in for flight."""
    return [
        [(79, 35.2), (74, 31.0), (77, 36.8)],
        [(77, 35.6), (71.5, 33.2), (75.5, 37.4)],
        [(80, 36.2), (87.5, 39.6), (86.5, 40.6), (79, 38.6)],
        [(80, 38.4), (85.2, 42.6), (84.0, 43.2), (78, 39.4)],
        [(7.6, 57), (3.2, 52), (7.2, 46.5), (10.6, 52.5)],
        [(60, 53), (63, 60), (67, 61.5), (66, 63), (69, 64.4), (64, 64.6), (60, 61), (56, 55)],
        [(51, 56), (50, 63), (45, 66.5), (46.5, 68), (42, 70.6), (48, 69.8), (53.5, 64), (56, 56)],
    ]


def wings() -> list[list[Point]]:
    """The near wing raised, the far one behind it: an arm, fingers, and skin that hangs in bows between them."""
    near = wing((61, 50), (52, 27), [(33, 6), (20, 20), (16, 36), (25, 50)], (46, 55))
    far = wing((66, 47), (70, 25), [(82, 4), (90, 13), (92, 24), (84, 34)], (67, 44))
    return [near, far]


def wing(shoulder: Point, wrist: Point, tips: list[Point], root: Point) -> list[Point]:
    arm = spline([shoulder, ((shoulder[0] + wrist[0]) / 2 - 2, (shoulder[1] + wrist[1]) / 2), wrist])
    finger = spline([wrist, ((wrist[0] + tips[0][0]) / 2 + 1, (wrist[1] + tips[0][1]) / 2 - 4), tips[0]])
    outline = arm + finger
    for tip, following in zip(tips, [*tips[1:], root], strict=True):
        middle = ((tip[0] + following[0]) / 2, (tip[1] + following[1]) / 2)
        bow = (middle[0] + (wrist[0] - middle[0]) * 0.27, middle[1] + (wrist[1] - middle[1]) * 0.27)
        outline += spline([tip, bow, following])
    return outline


def paint_lake(picture: Array, random: np.random.Generator) -> None:
    """The scene above, upside down, shaken by waves that grow towards the viewer."""
    _, y = grid()
    first = int(SHORE * HEIGHT)
    depth = (y[first:] - SHORE) / (1 - SHORE)
    waves = clouds_of(random, 5, 90, 4)[first:]
    ripples = clouds_of(random, 16, 260, 3)[first:]
    shift = waves * (0.0016 + 0.018 * depth) + ripples * (0.0006 + 0.006 * depth)
    rows = np.clip((SHORE - (y[first:] - SHORE) * 1.45 + shift) * HEIGHT, 0, first - 1).astype(np.int32)
    columns = np.clip(np.arange(WIDTH)[None, :] + (waves * (2 + 26 * depth)).astype(np.int32), 0, WIDTH - 1)
    water = picture[rows, columns]
    deep = np.array((40, 20, 54), np.float32)
    water += (deep - water) * (0.12 + 0.42 * depth)[..., None]
    paint_glitter(water, depth, waves + ripples)
    picture[first:] = water


def paint_glitter(water: Array, depth: Array, waves: Array) -> None:
    """The path of the sun's light on the waves."""
    x, _ = grid()
    path = np.exp(-(((x - SUN[0]) / (0.026 + 0.075 * depth)) ** 2))
    sparkle = np.clip((waves - 0.35) / 1.1, 0, 1) * path * (1 - 0.55 * depth)
    blend(water, np.array((255, 214, 150), np.float32), 0.85 * sparkle)


def paint_shore(picture: Array, random: np.random.Generator) -> None:
    """A dark bank with pines at both sides of the foreground."""
    mask = Image.new("L", (WIDTH, HEIGHT))
    pen = ImageDraw.Draw(mask)
    line = 0.965 + 0.012 * ridge_of(random, 6, 8)
    x = np.linspace(0, 1, WIDTH)
    line = line - 0.075 * np.exp(-((x / 0.16) ** 2)) - 0.05 * np.exp(-(((1 - x) / 0.13) ** 2))
    pen.polygon(
        [(0, HEIGHT), *((column, line[column] * HEIGHT) for column in range(0, WIDTH, 4)), (WIDTH, HEIGHT)], fill=255
    )
    for place, size in pines(random):
        column = min(WIDTH - 1, max(0, int(place * WIDTH)))
        draw_pine(pen, random, place * WIDTH, float(line[column]) * HEIGHT + 110, size * HEIGHT)
    smooth = mask.resize((WIDTH // 2, HEIGHT // 2), Image.Resampling.BOX).resize(
        (WIDTH, HEIGHT), Image.Resampling.BICUBIC
    )
    blend(picture, np.array((12, 9, 22), np.float32), np.asarray(smooth, np.float32) / 255)


def pines(random: np.random.Generator) -> list[tuple[float, float]]:
    """Place and height of every tree: a stand of large ones on the left, small ones on the right."""
    left = [(float(random.uniform(-0.01, 0.17)), float(random.uniform(0.13, 0.40))) for _ in range(15)]
    right = [(float(random.uniform(0.87, 1.01)), float(random.uniform(0.09, 0.24))) for _ in range(12)]
    return left + right


def draw_pine(pen: ImageDraw.ImageDraw, random: np.random.Generator, x: float, foot: float, height: float) -> None:
    """A trunk, and boughs that widen downwards and droop."""
    pen.polygon([(x - height * 0.012, foot), (x, foot - height), (x + height * 0.012, foot)], fill=255)
    boughs = 26
    for number in range(boughs):
        share = (number + 1) / boughs
        top = foot - height * (1 - 0.9 * (number / boughs))
        for side in (-1, 1):
            reach = height * 0.20 * share**0.85 * random.uniform(0.65, 1.1) * side
            droop = height * (0.030 + 0.035 * share)
            pen.polygon(
                [(x, top), (x + reach, top + droop * 1.25), (x + reach * 0.35, top + droop), (x, top + droop * 1.5)],
                fill=255,
            )


def darken_corners(picture: Array) -> None:
    x, y = grid()
    away = ((x - 0.5) / 0.5) ** 2 + ((y - 0.5) / 0.5) ** 2
    picture *= (1 - 0.13 * np.clip(away - 0.5, 0, 2))[..., None].astype(np.float32)


if __name__ == "__main__":
    main()
