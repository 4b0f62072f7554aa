"""A lacquered wooden duck on wheels, photographed from four sides on white paper. It is sold by its side, which is its front here."""

from studio.shapes import box, carve, ellipsoid, length2, length3, limb, melt, rod, step, wood
from studio.tracer import Floats, Light, Photo, Studio, Vec, jit, mix

EYE = (0.375, 0.835)


@jit
def body(x: float, y: float, z: float) -> float:
    trunk = ellipsoid(x + 0.02, y - 0.43, z, 0.43, 0.225, 0.215)
    breast = ellipsoid(x - 0.22, y - 0.46, z, 0.22, 0.215, 0.195)
    tail = limb((x, y, z * 0.75), (-0.30, 0.47, 0.0), (-0.515, 0.655, 0.0), 0.13, 0.035)
    neck = limb((x, y, z), (0.25, 0.55, 0.0), (0.30, 0.76, 0.0), 0.145, 0.13)
    head = ellipsoid(x - 0.315, y - 0.80, z, 0.195, 0.182, 0.178)
    return melt(melt(melt(melt(trunk, breast, 0.12), tail, 0.16), neck, 0.10), head, 0.06)


@jit
def wing(x: float, y: float, z: float, skin: float) -> float:
    """A board in a drop's shape that follows the body, grooved for three rows of feathers."""
    drop = limb((x, y, 0.0), (0.09, 0.455, 0.0), (-0.27, 0.555, 0.0), 0.115, 0.022)
    d = -melt(-(skin - 0.020), -drop, 0.022)
    for i in range(3):
        row = abs(length2(x - 0.235, y - 0.43) - 0.20 - 0.085 * i)
        d = carve(d, length2(row, min(skin - 0.020, 0.0)) - 0.006, 0.004)
    return max(d, 0.1 - abs(z))


@jit
def beak(x: float, y: float, z: float) -> float:
    upper = ellipsoid(x - 0.515, y - 0.785 - 0.10 * (x - 0.5) ** 2, z, 0.105, 0.034, 0.082)
    lower = ellipsoid(x - 0.495, y - 0.742, z, 0.085, 0.026, 0.066)
    return melt(upper, lower, 0.008)


@jit
def plank(x: float, y: float, z: float) -> float:
    return box(x, y - 0.185, z, 0.43, 0.028, 0.15, 0.02)


@jit
def wheels(x: float, y: float, z: float) -> tuple[float, float]:
    """Tyres with hubs, and the pegs that hold them."""
    r = length2(abs(x) - 0.27, y - 0.115)
    side = abs(z) - 0.195
    disc = rod(r, side, 0.115, 0.033, 0.016)
    disc = carve(disc, rod(r, side - 0.04, 0.078, 0.02, 0.006), 0.008)
    peg = min(rod(r, side - 0.022, 0.026, 0.022, 0.012), rod(r, z, 0.014, 0.21, 0.004))
    return disc, peg


@jit
def eye(x: float, y: float, z: float) -> float:
    return length3(x - EYE[0], y - EYE[1], (abs(z) - 0.157) * 1.4) - 0.034


@jit
def distance(x: float, y: float, z: float) -> float:
    disc, peg = wheels(x, y, z)
    skin = body(x, y, z)
    solid = min(skin, beak(x, y, z), eye(x, y, z))
    if skin < 0.06:
        solid = min(solid, wing(x, y, z, skin))
    return min(solid, plank(x, y, z), disc, peg) * 0.85


@jit
def surface(p: Vec, _n: Vec, _texture: Floats) -> tuple[Vec, float, float, float]:  # noqa: PLR0911 - one a part
    x, y, z = p
    disc, peg = wheels(x, y, z)
    near = 0.002
    if eye(x, y, z) < near:
        return (0.012, 0.011, 0.012), 0.04, 0.06, 0.0
    if disc < near:
        r = length2(abs(x) - 0.27, y - 0.115)
        return mix(wood(y * 0.9, x, 0.3), (0.60, 0.032, 0.022), step(0.080, 0.082, r)), 0.22, 0.045, 0.0
    if peg < near:
        return (0.72, 0.60, 0.42), 0.35, 0.04, 0.0
    if plank(x, y, z) < near:
        return wood(x, z + 0.4, y), 0.38, 0.04, 0.0
    if beak(x, y, z) < near:
        return (0.82, 0.20, 0.018), 0.2, 0.045, 0.0
    if wing(x, y, z, body(x, y, z)) < near:
        return (0.035, 0.27, 0.32), 0.2, 0.045, 0.0
    # A white ring round the eye and a red collar are painted on.
    around = length2(x - EYE[0], y - EYE[1])
    yellow = (0.84, 0.47, 0.02)
    collar = y - 0.655 + 0.35 * (x - 0.27)
    yellow = mix(yellow, (0.60, 0.032, 0.022), step(0.0235, 0.022, abs(collar)) * step(0.0, 0.05, x))
    return mix(yellow, (0.93, 0.92, 0.88), step(0.057, 0.055, around)), 0.16, 0.045, 0.0


STUDIO = Studio(
    lights=(
        Light(at=(-1.9, 2.5, 2.2), to=(0, 0.4, 0), size=(1.8, 1.8), colour=(5.6, 5.5, 5.35)),
        Light(at=(2.6, 1.7, 1.6), to=(0, 0.4, 0), size=(1.2, 2.0), colour=(2.4, 2.45, 2.6)),
        Light(at=(0.0, 3.6, -0.4), to=(0, 0.0, -0.6), size=(4.0, 3.0), colour=(2.2, 2.2, 2.2)),
    ),
    box=((-0.58, 0.0, -0.36), (0.64, 1.02, 0.36)),
    camera=(-0.4, 0.95, 5.6),
    target=(0.02, 0.47, 0.0),
    view=1.32,
    sweep=(0.86, 0.86, 0.86),
    room=((0.4, 0.4, 0.4), (0.5, 0.5, 0.5)),
)

PHOTOS = {
    "duck.jpg": Photo(studio=STUDIO, width=840, height=840),
    "duck-left.jpg": Photo(studio=STUDIO, width=640, height=640, azimuth=90),
    "duck-back.jpg": Photo(studio=STUDIO, width=640, height=640, azimuth=180),
    "duck-right.jpg": Photo(studio=STUDIO, width=640, height=640, azimuth=270),
}
