"""Pictures of the micro study: 48x48 RGB drawings made from a random generator, and real digits.

A picture knows nothing of questions (`harness.micro.skills` asks them). Every function draws from
the `numpy.random.Generator` it is given, so that a picture is a function of its seed alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw

SIDE = 48  # pixels; six patches of 8, which the model merges into 3x3 image tokens

COLORS = {
    "red": (220, 40, 40),
    "green": (40, 160, 60),
    "blue": (50, 80, 220),
    "yellow": (235, 205, 40),
    "purple": (140, 60, 170),
    "orange": (245, 140, 30),
    "pink": (245, 150, 190),
    "black": (25, 25, 25),
}
SCENE_COLORS = ("red", "green", "blue", "yellow", "purple", "black")
SHAPES = ("circle", "square", "triangle", "cross", "diamond")
SIZES = {"small": 5.0, "large": 8.0}  # circumscribed radius in pixels
TEXTURES = ("striped", "dotted", "checked", "plain", "ringed", "crossed")

# A species is a body shape with a body colour and the colour of its cap. Four of each body, so
# that neither the shape nor one colour alone gives the name away.
SPECIES = {
    "finch": ("circle", "red", "black"),
    "wren": ("circle", "orange", "blue"),
    "robin": ("circle", "orange", "black"),
    "tit": ("circle", "yellow", "blue"),
    "crow": ("square", "black", "purple"),
    "jay": ("square", "blue", "black"),
    "swift": ("square", "black", "pink"),
    "owl": ("square", "orange", "pink"),
    "heron": ("triangle", "blue", "yellow"),
    "gull": ("triangle", "yellow", "black"),
    "tern": ("triangle", "yellow", "red"),
    "stork": ("triangle", "pink", "red"),
}

DigitPart = Literal["train", "test"]
View = Literal["book", "field"]
"""How birds and tissues are seen: as the base met them, or as the stages train and test them."""


@dataclass(frozen=True, slots=True)
class Thing:
    """One object of a scene."""

    shape: str
    color: str
    size: str


def canvas(rng: np.random.Generator) -> Image.Image:
    """A light sheet with a random tint and a little grain."""
    tint = rng.integers(222, 246, size=3)
    grain = rng.integers(-6, 7, size=(SIDE, SIDE, 1))
    return Image.fromarray(np.clip(tint + grain, 0, 255).astype(np.uint8), "RGB")


def outline(shape: str, x: float, y: float, r: float) -> list[tuple[float, float]]:
    """Corner points of `shape` around (x, y) with circumscribed radius `r` pixels."""
    if shape == "cross":
        a, b = 0.36 * r, r
        corners = [(-a, -b), (a, -b), (a, -a), (b, -a), (b, a), (a, a), (a, b), (-a, b)]
        corners += [(-a, a), (-b, a), (-b, -a), (-a, -a)]
    elif shape == "square":
        corners = [
            (-0.8 * r, -0.8 * r),
            (0.8 * r, -0.8 * r),
            (0.8 * r, 0.8 * r),
            (-0.8 * r, 0.8 * r),
        ]
    elif shape == "triangle":
        corners = [(0, -r), (0.95 * r, 0.8 * r), (-0.95 * r, 0.8 * r)]
    elif shape == "diamond":
        corners = [(0, -r), (0.65 * r, 0), (0, r), (-0.65 * r, 0)]
    else:
        raise ValueError(f"no outline for {shape!r}")
    return [(x + dx, y + dy) for dx, dy in corners]


def draw_shape(
    pen: ImageDraw.ImageDraw, shape: str, color: str, at: tuple[float, float], r: float
) -> None:
    """Fill `shape` around the point `at` with a colour name."""
    x, y = at
    if shape == "circle":
        pen.ellipse((x - r, y - r, x + r, y + r), fill=COLORS[color])
    else:
        pen.polygon(outline(shape, x, y, r), fill=COLORS[color])


def scene(rng: np.random.Generator, n: int) -> tuple[Image.Image, list[Thing]]:
    """`n` things (1 to 5) in a 3x3 grid; no colour and no shape occurs twice."""
    image = canvas(rng)
    pen = ImageDraw.Draw(image)
    shapes = rng.permutation(SHAPES)[:n]
    colors = rng.permutation(SCENE_COLORS)[:n]
    cells = rng.permutation(9)[:n]
    things = []
    for shape, color, cell in zip(shapes, colors, cells, strict=True):
        size = str(rng.choice(list(SIZES)))
        r = SIZES[size]
        # Hardly any play: the model has 0.7 M parameters and shall learn shapes, not places.
        x = 8 + 16 * (cell % 3) + rng.uniform(-0.8, 0.8)
        y = 8 + 16 * (cell // 3) + rng.uniform(-0.8, 0.8)
        draw_shape(pen, str(shape), str(color), (x, y), r)
        things.append(Thing(str(shape), str(color), size))
    return image, things


def bird(rng: np.random.Generator, species: str, view: View = "book") -> Image.Image:
    """One bird of `species`: a body with a cap on top, anywhere on the sheet.

    In the field birds are farther away.
    """
    shape, body, cap = SPECIES[species]
    image = canvas(rng)
    pen = ImageDraw.Draw(image)
    r = rng.uniform(9, 13) if view == "book" else rng.uniform(5, 9)
    x = rng.uniform(r, SIDE - r)
    y = rng.uniform(r + 6, SIDE - r)
    draw_shape(pen, shape, body, (x, y), r)
    head = r * 0.5
    top = y - r * 0.75
    pen.ellipse((x - head, top - head, x + head, top + head), fill=COLORS[cap])
    return image


def dots(rng: np.random.Generator, n: int) -> Image.Image:
    """`n` dots (1 to 9) of one colour that do not touch, in jittered places of a 3x3 grid."""
    image = canvas(rng)
    pen = ImageDraw.Draw(image)
    color = str(rng.choice(list(COLORS)))
    for cell in rng.permutation(9)[:n]:
        r = rng.uniform(2.5, 4.5)
        room = 7 - r
        x = 8 + 16 * (cell % 3) + rng.uniform(-room, room)
        y = 8 + 16 * (cell // 3) + rng.uniform(-room, room)
        draw_shape(pen, "circle", color, (x, y), r)
    return image


def tissue(rng: np.random.Generator, texture: str, view: View = "book") -> Image.Image:
    """A stained sheet with one texture, its period and phase at random.

    In the field the texture is finer or coarser, the stain weaker and the grain stronger.
    """
    ys, xs = np.mgrid[0:SIDE, 0:SIDE].astype(np.float64)
    book = view == "book"
    period = rng.uniform(8, 13) if book else rng.uniform(5, 16)
    phase_x, phase_y = rng.uniform(0, period, size=2)
    u, v = (xs + phase_x) % period / period, (ys + phase_y) % period / period
    if texture == "striped":
        ink = (u if rng.random() < 0.5 else v) < 0.5
    elif texture == "checked":
        ink = (u < 0.5) ^ (v < 0.5)
    elif texture == "dotted":
        ink = (u - 0.5) ** 2 + (v - 0.5) ** 2 < 0.09
    elif texture == "ringed":
        far = np.hypot(xs - rng.uniform(12, 36), ys - rng.uniform(12, 36))
        ink = (far + phase_x) % period / period < 0.5
    elif texture == "crossed":
        ink = (u < 0.25) | (v < 0.25)
    elif texture == "plain":
        ink = np.zeros_like(u, dtype=bool)
    else:
        raise ValueError(f"no texture {texture!r}")
    light = rng.integers([225, 170, 190], [250, 210, 230])
    dark = rng.integers([130, 40, 100], [190, 100, 160])
    if not book:
        dark = light + (dark - light) * rng.uniform(0.3, 0.8)
    grain = 12 if book else 30
    noise = rng.integers(-grain, grain + 1, size=(SIDE, SIDE, 1))
    sheet = np.where(ink[..., None], dark, light) + noise
    return Image.fromarray(np.clip(sheet, 0, 255).astype(np.uint8), "RGB")


def clock(rng: np.random.Generator, hour: int, minute: int) -> Image.Image:
    """A clock face that shows `hour` (1 to 12) and `minute` (0 to 59); the short hand moves on."""
    image = canvas(rng)
    pen = ImageDraw.Draw(image)
    r = rng.uniform(19, 22)
    x, y = rng.uniform(r + 0.5, SIDE - r - 0.5, size=2)
    pen.ellipse((x - r, y - r, x + r, y + r), fill=(255, 255, 255), outline=(60, 60, 60))
    hands = (
        ((hour + minute / 60) / 12, 0.5 * r, 4, (200, 30, 30)),
        (minute / 60, 0.88 * r, 2, (20, 20, 120)),
    )
    for turn, length, width, color in hands:
        angle = 2 * math.pi * turn
        tip = (x + length * math.sin(angle), y - length * math.cos(angle))
        pen.line(((x, y), tip), fill=color, width=width)
    return image


@cache
def digit_scans(part: DigitPart) -> tuple[np.ndarray, np.ndarray]:
    """scikit-learn's handwritten digits: (n, 8, 8) ink in 0..16 and (n,) labels.

    Every fifth scan is for tests, the others are for training.
    """
    from sklearn.datasets import load_digits  # needed by the demo only

    scans = load_digits()
    chosen = np.arange(len(scans.target)) % 5 == 0
    if part == "train":
        chosen = ~chosen
    return scans.images[chosen], scans.target[chosen]


def digit(rng: np.random.Generator, scan: np.ndarray) -> Image.Image:
    """An (8, 8) scan written on a sheet, scaled and shifted at random."""
    image = canvas(rng)
    side = int(rng.integers(34, 47))
    left, top = rng.integers(0, SIDE - side + 1, size=2)
    ink = Image.fromarray((scan * 15.9).astype(np.uint8), "L").resize((side, side))
    image.paste((30, 30, 60), (int(left), int(top)), ink)
    return image
