"""A small leather handbag with a flap, brass fittings and white stitches, on dusty blue paper."""

from math import atan2, cos, pi, sqrt

from studio.shapes import box, clouds, length2, length3, melt, noise, rod, step
from studio.tracer import Floats, Light, Photo, Studio, Vec, jit, mix

LEATHER: Vec = (0.40, 0.135, 0.042)
BRASS: Vec = (0.92, 0.66, 0.30)
THREAD: Vec = (0.86, 0.78, 0.64)
NEAR = 0.0015
FLAP = (0.352, 0.36, 0.13)  # half width, lower edge, radius of the corners


@jit
def outline(m: float, y: float) -> tuple[float, float]:
    """Return how far a point of the front is outside the flap, and where along the flap's edge it is nearest."""
    half, low, r = FLAP
    a, b = m - half + r, low + r - y
    if a > 0 and b > 0:
        d, s = length2(a, b) - r, half - r + r * atan2(a, b)
    elif b > a:
        d, s = b - r, m
    else:
        d, s = a - r, half - r + r * pi / 2 + (y - low - r)
    return d, s


@jit
def body(x: float, y: float, z: float) -> float:
    """Wider at its foot, full in its middle, open corners rounded."""
    swell = 0.035 * cos(min(abs(x) / 0.42, 1.0) * pi / 2) * cos(min(abs(y - 0.30) / 0.32, 1.0) * pi / 2)
    return box(x, y - 0.315, z, 0.41 - 0.07 * (y - 0.1), 0.29, 0.115 + swell - 0.06 * (y - 0.3), 0.055)


@jit
def flap(skin: float, edge: float) -> float:
    d = -melt(-(skin - 0.014), -edge, 0.012)
    return max(d, -skin)


@jit
def stitch(edge: float, along: float, skin: float) -> float:
    """A row of short bulges of thread, 14 mm inside an edge."""
    t = along / 0.026
    t = (t - round(t)) * 0.026
    return length3(max(abs(t) - 0.0068, 0.0), edge + 0.020, skin) - 0.0036


@jit
def brass(x: float, y: float, z: float) -> float:
    """Clasp, the handle's rings and their posts."""
    m = abs(x)
    plate = box(m, y - 0.435, z - 0.158, 0.042, 0.050, 0.014, 0.012)
    knob = rod(length2(m, y - 0.425), z - 0.178, 0.019, 0.016, 0.007)
    ring = length2(length2(m - 0.205, y - 0.635) - 0.036, z) - 0.0085
    post = rod(length2(m - 0.205, z), y - 0.605, 0.018, 0.016, 0.006)
    feet = length3(m - 0.33, y - 0.018, abs(z) - 0.06) - 0.019
    return min(melt(plate, knob, 0.004), ring, post, feet)


@jit
def handle(x: float, y: float, z: float) -> float:
    """Half an ellipse of round leather between the rings."""
    a, b = x / 0.205, max(y - 0.665, 0.0) / 0.235
    k = length2(a, b)
    slope = sqrt((a / 0.205) ** 2 + (b / 0.235) ** 2) / (k + 1e-6)
    arc = abs(k - 1.0) / (slope + 1e-6)
    return length3(arc if y > 0.665 else abs(abs(x) - 0.205), max(0.655 - y, 0.0), z) - 0.0195


@jit
def distance(x: float, y: float, z: float) -> float:
    m = abs(x)
    skin = body(x, y, z)
    d = skin
    if skin < 0.08:
        edge, along = outline(m, y)
        over = flap(skin, edge) if z > -0.06 else 1.0
        d = min(d, over)
        if d < 0.02:
            d += 0.0007 * clouds(x * 70, y * 70, z * 70) - 0.0003
            if z > 0.03:
                d = min(d, stitch(edge, along, skin - 0.0145))
            # The seam round the body's front edge stands a little proud.
            rim = length2(skin, max(abs(z - 0.075 - 0.02) - 0.004, 0.0)) - 0.0055
            d = melt(d, rim, 0.006) if over > 0.004 else d
        else:
            d -= 0.006  # room for what stands proud of the leather
    else:
        d -= 0.02  # and for the flap
    if box(m, y - 0.77, z, 0.24, 0.18, 0.04, 0.0) < d:
        d = min(d, handle(x, y, z))
    if d > 0.0005:
        d = min(d, brass(x, y, z))
    return d * 0.8


@jit
def surface(p: Vec, _n: Vec, _texture: Floats) -> tuple[Vec, float, float, float]:
    x, y, z = p
    m = abs(x)
    if brass(x, y, z) < NEAR:
        return BRASS, 0.2, 0.0, 1.0
    skin = body(x, y, z)
    edge, along = outline(m, y)
    if z > 0.03 and stitch(edge, along, skin - 0.0145) < 0.0012 and handle(x, y, z) > NEAR:
        return THREAD, 0.7, 0.03, 0.0
    tone = 0.86 + 0.28 * clouds(x * 6, y * 6, z * 6) - 0.10 * noise(x * 90, y * 90, z * 90)
    # Cut edges are sealed darker than the grain side.
    cut = step(-0.007, -0.003, edge) * step(0.003, 0.006, skin) if z > -0.06 else 0.0
    c = mix(LEATHER, (0.12, 0.040, 0.016), cut)
    return (c[0] * tone, c[1] * tone, c[2] * tone), 0.42, 0.045, 0.0


STUDIO = Studio(
    lights=(
        Light(at=(-2.1, 2.3, 2.1), to=(0, 0.4, 0), size=(1.5, 1.8), colour=(7.4, 7.2, 6.9)),
        Light(at=(2.6, 1.4, 1.3), to=(0, 0.4, 0), size=(0.9, 2.2), colour=(3.4, 3.5, 3.7)),
        Light(at=(0.0, 3.6, -0.4), to=(0, 0.0, -0.8), size=(3.6, 2.6), colour=(3.0, 3.0, 3.0)),
    ),
    box=((-0.46, 0.0, -0.22), (0.46, 0.94, 0.22)),
    camera=(0.0, 0.80, 5.4),
    target=(0.0, 0.46, 0.0),
    view=1.18,
    sweep=(0.36, 0.47, 0.56),
    room=((0.22, 0.24, 0.27), (0.45, 0.46, 0.48)),
)
PHOTOS = {"bag.jpg": Photo(studio=STUDIO, width=840, height=840)}
