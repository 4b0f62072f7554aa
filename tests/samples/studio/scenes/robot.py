"""A tin toy robot in mint and cream on peach paper, photographed from the front and from its left."""

from math import cos, sin

from studio.shapes import box, carve, ellipsoid, length2, length3, limb, melt, rod, step
from studio.tracer import Floats, Light, Photo, Studio, Vec, jit, mix

MINT: Vec = (0.105, 0.43, 0.36)
CREAM: Vec = (0.80, 0.72, 0.56)
RED: Vec = (0.66, 0.045, 0.03)
DARK: Vec = (0.02, 0.024, 0.028)
STEEL: Vec = (0.78, 0.78, 0.80)
NEAR = 0.0015


@jit
def shell(x: float, y: float, z: float) -> float:
    """What is painted mint: head, body, boots. `x` is the distance from the middle."""
    head = box(x, y - 0.795, z, 0.205, 0.135, 0.15, 0.05)
    chest = box(x, y - 0.435, z, 0.235 + 0.035 * (y - 0.435), 0.195, 0.165, 0.045)
    seam = length2(y - 0.285, max(chest, -0.004) if chest < 0 else 0.0) - 0.004
    chest = carve(chest, seam, 0.004)
    boot = max(ellipsoid(x - 0.115, y - 0.0, z - 0.03, 0.105, 0.115, 0.175), -y)
    return min(head, chest, boot)


@jit
def arms(x: float, y: float, z: float) -> tuple[float, float]:
    """Mint sleeves with rings, and steel claws."""
    p = (x, y, z)
    sleeve = limb(p, (0.29, 0.535, 0.0), (0.345, 0.31, 0.05), 0.058, 0.050)
    sleeve = min(sleeve, length3(x - 0.272, y - 0.545, z) - 0.072)
    a, b, c = x - 0.352, y - 0.225, z - 0.065
    claw = max(length2(length2(a, b) - 0.048, c) - 0.021, min(0.028 - abs(a), -b))
    wrist = limb(p, (0.345, 0.31, 0.05), (0.35, 0.27, 0.062), 0.034, 0.034)
    return sleeve, melt(claw, wrist, 0.015)


@jit
def steel(x: float, y: float, z: float) -> float:
    """Neck, legs and the bolts at the head's sides."""
    neck = rod(length2(x, z), y - 0.645, 0.075 + 0.006 * cos(y * 330.0), 0.05, 0.006)
    leg = rod(length2(x - 0.115, z), y - 0.17, 0.060 + 0.006 * cos(y * 250.0), 0.11, 0.006)
    bolt = rod(length2(y - 0.80, z), x - 0.21, 0.055, 0.022, 0.012)
    stem = rod(length2(x, z), y - 0.975, 0.014, 0.06, 0.003)
    foot = rod(length2(x, z), y - 0.935, 0.036, 0.014, 0.008)
    lens = rod(length2(x - 0.088, y - 0.83), z - 0.15, 0.062, 0.018, 0.008)
    return min(neck, leg, bolt, stem, foot, lens)


@jit
def panel(x: float, y: float, z: float) -> float:
    return box(x, y - 0.455, z - 0.163, 0.165, 0.125, 0.012, 0.010)


@jit
def knobs(x: float, y: float, z: float) -> float:
    """Red: the antenna's ball, the bolts' caps and three buttons."""
    d = length3(x, y - 1.055, z) - 0.046
    d = min(d, rod(length2(y - 0.80, z), abs(x) - 0.24, 0.034, 0.024, 0.010))
    for i in range(3):
        d = min(d, rod(length2(x - 0.052 - 0.046 * (i - 1), y - 0.388), z - 0.175, 0.0165, 0.014, 0.006))
    return d


@jit
def eyes(x: float, y: float, z: float) -> float:
    return ellipsoid(x - 0.088, y - 0.83, z - 0.163, 0.046, 0.046, 0.024)


@jit
def distance(x: float, y: float, z: float) -> float:
    # Parts that are farther away than what is known already are not looked at: that halves the time.
    m = abs(x)
    d = shell(m, y, z)
    if box(m, y - 0.58, z - 0.17, 0.17, 0.33, 0.05, 0.0) < d + 0.01:
        mouth = box(m, y - 0.722, z - 0.15, 0.095, 0.028, 0.006, 0.005)
        d = min(carve(d, mouth, 0.004), panel(m, y, z), eyes(m, y, z))
    d = min(d, steel(m, y, z), knobs(x, y, z))
    if box(m - 0.33, y - 0.40, z - 0.03, 0.14, 0.26, 0.13, 0.0) < d:
        sleeve, claw = arms(m, y, z)
        d = min(d, sleeve, claw)
    return d * 0.85


@jit
def gauge(x: float, y: float) -> Vec:
    """What is printed on the chest's plate: a dial with a red needle, a row of lamps, a frame."""
    r = length2(x + 0.075, y - 0.49)
    frame = abs(max(abs(x) - 0.150, abs(y - 0.455) - 0.110))
    c = mix(CREAM, DARK, step(0.0035, 0.002, frame))
    c = mix(c, (0.92, 0.90, 0.84), step(0.061, 0.059, r))
    c = mix(c, DARK, step(0.004, 0.0028, abs(r - 0.060)))
    for i in range(7):
        a = 0.35 + 0.4 * i
        u, v = x + 0.075, y - 0.49
        tick = abs(u * sin(a) - v * cos(a))
        if u * cos(a) + v * sin(a) > 0:
            c = mix(c, DARK, step(0.0028, 0.0016, tick) * step(0.042, 0.043, r) * step(0.054, 0.053, r))
    u, v = x + 0.075, y - 0.485
    c = mix(
        c,
        RED,
        step(0.0045, 0.003, abs(u * sin(0.95) - v * cos(0.95)))
        * step(0.047, 0.045, r)
        * step(-0.012, -0.010, u),
    )
    for i in range(3):
        lamp = length2(x - 0.035 - 0.042 * i, y - 0.515)
        bulb = (0.90, 0.55, 0.05) if i == 1 else ((0.66, 0.045, 0.03) if i == 0 else (0.10, 0.42, 0.15))
        c = mix(mix(c, DARK, step(0.0165, 0.0155, lamp)), bulb, step(0.0135, 0.0125, lamp))
    for i in range(3):
        bar = max(abs(x - 0.077) - 0.058, abs(y - 0.475 + 0.018 * i) - 0.004)
        c = mix(c, DARK, step(0.001, -0.001, bar))
    return c


@jit
def surface(p: Vec, _n: Vec, _texture: Floats) -> tuple[Vec, float, float, float]:  # noqa: PLR0911 - one a part
    x, y, z = p
    m = abs(x)
    sleeve, claw = arms(m, y, z)
    if eyes(m, y, z) < NEAR:
        iris = length2(m - 0.088, y - 0.83)
        return mix((0.95, 0.62, 0.05), DARK, step(0.020, 0.018, iris)), 0.05, 0.06, 0.0
    if knobs(x, y, z) < NEAR:
        return RED, 0.12, 0.05, 0.0
    if panel(m, y, z) < NEAR:
        return gauge(x, y), 0.3, 0.045, 0.0
    if claw < NEAR or steel(m, y, z) < NEAR:
        return STEEL, 0.26, 0.0, 1.0
    if y > 0.69 and y < 0.755 and m < 0.1 and z > 0.13 and z < 0.1492:
        slot = step(0.3, 0.5, abs(((x + 1.0) * 38.0) % 1.0 - 0.5) * 2.0)
        return mix(DARK, STEEL, slot), 0.3, 0.045, 0.0
    if y < 0.2 and y > 0.0 and m < 0.3 and sleeve > NEAR:
        return mix(RED, DARK, step(0.022, 0.020, y)), 0.2, 0.045, 0.0
    stripe = step(0.0045, 0.0030, abs(y - 0.262)) if sleeve > NEAR else step(0.010, 0.008, abs(y - 0.345))
    return mix(MINT, CREAM, stripe), 0.2, 0.045, 0.0


LIGHTS = (
    Light(at=(-2.2, 2.2, 2.0), to=(0, 0.5, 0), size=(1.5, 1.9), colour=(6.6, 6.4, 6.1)),
    Light(at=(2.6, 1.5, 1.4), to=(0, 0.5, 0), size=(0.9, 2.2), colour=(3.2, 3.3, 3.5)),
    Light(at=(0.0, 3.6, -0.4), to=(0, 0.0, -0.8), size=(3.6, 2.6), colour=(2.7, 2.7, 2.7)),
)
BOX = ((-0.43, 0.0, -0.24), (0.43, 1.13, 0.24))
PEACH = (0.86, 0.50, 0.36)
STUDIO = Studio(
    lights=LIGHTS, box=BOX, camera=(0.0, 0.85, 5.6), target=(0, 0.55, 0), view=1.32, sweep=PEACH,
    room=((0.35, 0.24, 0.19), (0.5, 0.5, 0.5)),
)  # fmt: skip
PHOTOS = {
    "robot.jpg": Photo(studio=STUDIO, width=720, height=900),
    "robot-side.jpg": Photo(studio=STUDIO, width=720, height=900, azimuth=90),
}
