"""A thrown stoneware vase: speckled bare clay below, a glossy sea-green glaze that has run down from the lip."""

from math import atan2, cos, sin, sqrt

import numpy as np
from scipy.interpolate import CubicSpline
from studio.shapes import clouds, length2, lerp, lookup, melt, noise, step
from studio.tracer import Floats, Light, Photo, Studio, Vec, jit, mix

# Height and radius of the wall, from the foot to the lip.
WALL = [
    (0.0, 0.175), (0.012, 0.190), (0.05, 0.205), (0.16, 0.262), (0.30, 0.322), (0.42, 0.338), (0.54, 0.312),
    (0.66, 0.232), (0.75, 0.152), (0.82, 0.118), (0.88, 0.114), (0.94, 0.130), (0.98, 0.158), (1.0, 0.172),
]  # fmt: skip
RADIUS = CubicSpline(*np.array(WALL).T)(np.linspace(0, 1, 2000))


@jit
def edge(angle: float) -> float:
    """Height at which the glaze ends: round runs of uneven length, the same after a full turn."""
    a = angle + 0.16 * sin(2 * angle + 0.7) + 0.07 * sin(5 * angle + 2.0)
    drop = 0.5 + 0.5 * cos(9 * a + 0.9)
    long = 0.5 + 0.5 * sin(4 * angle + 2.2)
    return 0.435 - (0.05 + 0.11 * long) * drop * (2.0 - drop) + 0.02 * sin(3 * angle)


@jit
def distance(x: float, y: float, z: float) -> float:
    wall = lookup(RADIUS, y, 1.0)
    slope = (lookup(RADIUS, y + 0.01, 1.0) - lookup(RADIUS, y - 0.01, 1.0)) / 0.02
    lean = 1.0 / sqrt(1.0 + slope * slope)
    out = length2(x, z) - wall
    inner = -(out + 0.03)
    if -0.02 < out < 0.03:
        above = y - edge(atan2(x, z))
        glaze = 0.0055 * step(-0.004, 0.022, above) * (1.0 + 0.9 * step(0.07, 0.0, above))
        out -= glaze + 0.0007 * sin(y * 120.0) * step(0.3, 0.1, y)
    elif out > 0.0:
        out -= 0.0115  # the most that lies on the wall, so that no step ends within it
    shell = max(out, inner) if y > 0.6 else out
    # The runs' sides are steep: only short steps are safe beside them.
    return max(-melt(-shell * lean, 0.996 - y, 0.018), -y) * 0.6


@jit
def surface(p: Vec, _n: Vec, _texture: Floats) -> tuple[Vec, float, float, float]:
    angle = atan2(p[0], p[2])
    above = p[1] - edge(angle)
    speck = step(0.79, 0.86, noise(p[0] * 120, p[1] * 120, p[2] * 120)) * 0.8
    clay = mix((0.60, 0.49, 0.36), (0.66, 0.56, 0.43), clouds(p[0] * 5, p[1] * 5, p[2] * 5))
    clay = mix(clay, (0.16, 0.095, 0.055), speck)
    if above < 0.004:
        return clay, 0.75, 0.03, 0.0
    streak = clouds(angle * 7.0, p[1] * 2.4, 3.0)
    pool = mix((0.010, 0.135, 0.150), (0.065, 0.36, 0.335), step(0.25, 0.75, streak))
    pool = mix(pool, (0.20, 0.50, 0.42), step(0.35, 0.85, p[1]) * 0.55 * clouds(angle * 12, p[1] * 6, 8.0))
    # Where glaze is thin the clay shows through: at the lip, and as a halo where the runs end.
    thin = max(step(0.976, 0.997, p[1]), 0.85 * step(0.034, 0.006, above))
    pool = mix(pool, (0.33, 0.19, 0.08), thin)
    pool = mix(pool, (0.03, 0.06, 0.06), 0.3 * speck)
    return pool, lerp(0.09, 0.2, thin), 0.055, 0.0


STUDIO = Studio(
    lights=(
        Light(at=(-2.3, 2.2, 1.9), to=(0, 0.5, 0), size=(1.3, 2.0), colour=(10.0, 9.6, 9.0)),
        Light(at=(2.7, 1.3, 1.0), to=(0, 0.5, 0), size=(0.7, 2.3), colour=(3.6, 3.7, 4.0)),
        Light(at=(0.2, 3.4, -0.6), to=(0, 0.5, 0), size=(2.2, 1.4), colour=(3.2, 3.2, 3.2)),
    ),
    box=((-0.37, 0.0, -0.37), (0.37, 1.01, 0.37)),
    camera=(0.0, 0.86, 5.2),
    target=(0.0, 0.50, 0.0),
    view=1.12,
    sweep=None,
)

PHOTOS = {"vase.png": Photo(studio=STUDIO, width=640, height=800)}
