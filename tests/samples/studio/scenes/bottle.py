"""Face oil in an amber glass bottle with a dropper: a printed paper label, a ribbed collar, a rubber bulb."""

from math import atan2, cos

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from studio.shapes import carve, clouds, length2, lerp, melt, rod, step
from studio.tracer import Floats, Light, Photo, Studio, Vec, jit, mix

RADIUS = 0.228
LABEL = (0.075, 0.475)  # heights of its lower and upper edge
HALF = 1.28  # of the label's angle round the bottle


def label() -> Floats:
    """The label's print in linear light, (rows, columns, 3)."""
    width, height = 1400, int(1400 * (LABEL[1] - LABEL[0]) / (2 * HALF * RADIUS))
    page = Image.new("RGB", (width, height), (243, 236, 222))
    pen = ImageDraw.Draw(page)
    ink, leaf = (52, 58, 50), (104, 122, 84)

    def line(text: str, y: float, size: float, gap: float) -> None:
        font = ImageFont.load_default(size)
        long = sum(font.getlength(c) + gap for c in text) - gap
        x = width / 2 - long / 2
        for c in text:
            pen.text((x, y), c, ink, font, anchor="lm")
            x += font.getlength(c) + gap

    pen.rectangle((36, 36, width - 37, height - 37), outline=ink, width=5)
    for side in (-1, 1):
        for i in range(5):
            x, y = width / 2 + side * (34 + 30 * i), 165 - 9 * i
            for turn in (-1, 1):
                tip = (x + side * 34, y + turn * 34 - 8)
                pen.polygon(
                    [(x, y), (x + side * 26, y + turn * 10 - 2), tip, (x + side * 4, y + turn * 22)], leaf
                )
        pen.line((width / 2, 172, width / 2 + side * 175, 118), leaf, 5)
    line("FIELD & FERN", 315, 112, 16)
    pen.line((width / 2 - 90, 412, width / 2 + 90, 412), ink, 4)
    line("nourishing face oil", 482, 64, 5)
    line("ROSEHIP   ·   MARULA   ·   SQUALANE", 590, 40, 5)
    line("30 ml  /  1.0 fl oz", height - 105, 44, 4)
    light = np.asarray(page.resize((width, height)), dtype=np.float64) / 255
    return np.where(light <= 0.04045, light / 12.92, ((light + 0.055) / 1.055) ** 2.4)


@jit
def glass(r: float, y: float) -> float:
    d = rod(r, y - 0.27, RADIUS, 0.27, 0.045)
    d = melt(d, rod(r, y - 0.57, 0.105, 0.06, 0.01), 0.09)
    return carve(d, length2(r - RADIUS + 0.012, y) - 0.012, 0.01)


@jit
def collar(x: float, y: float, z: float, r: float) -> float:
    """The screw cap, with ribs all round."""
    rib = 0.0035 * (0.5 + 0.5 * cos(atan2(x, z) * 54.0)) * step(0.060, 0.045, abs(y - 0.685))
    return melt(rod(r, y - 0.685, 0.118 + rib, 0.062, 0.010), rod(r, y - 0.752, 0.088, 0.012, 0.008), 0.012)


@jit
def bulb(r: float, y: float) -> float:
    d = melt(rod(r, y - 0.80, 0.066, 0.050, 0.012), rod(r, y - 0.905, 0.074, 0.105, 0.070), 0.02)
    return melt(d, rod(r, y - 0.772, 0.080, 0.010, 0.008), 0.008)


@jit
def paper(x: float, y: float, z: float, r: float) -> float:
    """Return how far inside the label's outline a point of the wall is; below zero outside."""
    return min(
        HALF - abs(atan2(x, z)), (0.5 * (LABEL[1] - LABEL[0]) - abs(y - 0.5 * (LABEL[0] + LABEL[1]))) / r
    )


@jit
def distance(x: float, y: float, z: float) -> float:
    r = length2(x, z)
    wall = glass(r, y)
    if abs(wall) < 0.01 and y < 0.5:
        wall -= 0.0014 * step(-0.003, 0.003, paper(x, y, z, r))
    return min(wall, collar(x, y, z, r), bulb(r, y)) * 0.85


@jit
def surface(p: Vec, n: Vec, texture: Floats) -> tuple[Vec, float, float, float]:
    x, y, z = p
    r = length2(x, z)
    if collar(x, y, z, r) < 0.0015:
        return (0.018, 0.018, 0.019), 0.34, 0.045, 0.0
    if bulb(r, y) < 0.0015:
        return (0.022, 0.021, 0.021), 0.52, 0.04, 0.0
    if y < 0.5 and paper(x, y, z, r) > 0.0:
        rows, columns = texture.shape[0] - 1, texture.shape[1] - 1
        u = min(max((atan2(x, z) / HALF * 0.5 + 0.5) * columns, 0.0), columns - 1.0)
        v = min(max((LABEL[1] - y) / (LABEL[1] - LABEL[0]) * rows, 0.0), rows - 1.0)
        i, j = int(v), int(u)
        a = mix((texture[i, j, 0], texture[i, j, 1], texture[i, j, 2]),
                (texture[i, j + 1, 0], texture[i, j + 1, 1], texture[i, j + 1, 2]), u - j)  # fmt: skip
        b = mix((texture[i + 1, j, 0], texture[i + 1, j, 1], texture[i + 1, j, 2]),
                (texture[i + 1, j + 1, 0], texture[i + 1, j + 1, 1], texture[i + 1, j + 1, 2]), u - j)  # fmt: skip
        fibre = 0.94 + 0.08 * clouds(x * 60, y * 60, z * 60)
        c = mix(a, b, v - i)
        return (c[0] * fibre, c[1] * fibre, c[2] * fibre), 0.62, 0.03, 0.0
    # Amber glass is dark where one looks through much oil, and glows where light has a short way: at the rim,
    # at the shoulder and above the oil's level.
    rim = (1.0 - abs(n[2])) ** 2.2
    glow = max(lerp(0.05, 1.0, rim) * 0.75, 0.75 * step(0.475, 0.50, y) * (0.35 + 0.65 * rim))
    glow = max(glow, 0.6 * step(0.03, 0.008, y))
    return mix((0.030, 0.0085, 0.002), (0.46, 0.130, 0.012), glow), 0.04, 0.05, 0.0


STUDIO = Studio(
    lights=(
        Light(at=(-2.0, 1.5, 1.3), to=(0, 0.5, 0), size=(0.42, 2.6), colour=(12.5, 12.3, 12.0)),
        Light(at=(2.1, 1.3, 0.9), to=(0, 0.5, 0), size=(0.3, 2.4), colour=(8.8, 8.9, 9.2)),
        Light(at=(0.4, 3.4, 0.8), to=(0, 0.2, -0.6), size=(3.0, 2.4), colour=(3.0, 3.0, 3.0)),
    ),
    box=((-0.24, 0.0, -0.24), (0.24, 1.02, 0.24)),
    camera=(0.0, 0.92, 5.4),
    target=(0.0, 0.505, 0.0),
    view=1.25,
    sweep=(0.66, 0.66, 0.67),
    room=((0.10, 0.10, 0.10), (0.28, 0.28, 0.29)),
    texture=label(),
)
PHOTOS = {"bottle.jpg": Photo(studio=STUDIO, width=760, height=950)}
