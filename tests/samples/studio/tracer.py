"""A small path tracer for signed-distance scenes in a photo studio: area lights, a sweep, coated materials.

It only draws our sample photos. A scene gives two compiled functions, `distance` and `surface`; they are bound
into the tracer's own compiled code, which is why everything here is a tuple of floats and not an array.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from math import cos, floor, pi, sin, sqrt
from typing import Any

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

Vec = tuple[float, float, float]
Floats = NDArray[np.float64]

FAR = 1e9  # fast arithmetic knows no infinity
BOUNCES = 4
# The steps of one Kronecker sequence per random decision: it covers each decision more evenly than a plain
# random number, so a picture is clean with a quarter of the samples.
STEPS = (
    np.sqrt(np.array([2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71], float))
    % 1.0
)

jit = njit(fastmath=True, error_model="numpy")


@dataclass(frozen=True, kw_only=True)
class Light:
    """A rectangular softbox that looks at a point."""

    at: Vec
    to: Vec
    size: tuple[float, float]
    colour: Vec


@dataclass(frozen=True, kw_only=True)
class Studio:
    lights: tuple[Light, ...]
    box: tuple[Vec, Vec]  # the object lies within these corners
    camera: Vec
    target: Vec
    view: float  # height of what is seen at the target's distance
    sweep: Vec | None = (
        0.8,
        0.8,
        0.8,
    )  # the paper's colour; None: only the object is seen, the rest is clear
    wall: float = -2.2  # where the paper has risen to a wall
    bend: float = 1.4  # radius of the paper's curve
    room: tuple[Vec, Vec] = (
        (0.10, 0.10, 0.10),
        (0.30, 0.30, 0.32),
    )  # what is reflected besides: below, above
    texture: Floats = field(default_factory=lambda: np.zeros((1, 1, 3)))


@dataclass(frozen=True, kw_only=True)
class Photo:
    """A picture of a scene. The product stands turned on the paper, so that its side at `azimuth` faces the camera."""

    studio: Studio
    width: int
    height: int
    azimuth: float = 0.0  # degrees around the product, from its front towards its own left


@jit
def dot(a: Vec, b: Vec) -> float:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


@jit
def along(o: Vec, d: Vec, t: float) -> Vec:
    return (o[0] + d[0] * t, o[1] + d[1] * t, o[2] + d[2] * t)


@jit
def times(a: Vec, b: Vec) -> Vec:
    return (a[0] * b[0], a[1] * b[1], a[2] * b[2])


@jit
def unit(a: Vec) -> Vec:
    s = 1.0 / sqrt(dot(a, a) + 1e-20)
    return (a[0] * s, a[1] * s, a[2] * s)


@jit
def mix(a: Vec, b: Vec, t: float) -> Vec:
    return (a[0] + (b[0] - a[0]) * t, a[1] + (b[1] - a[1]) * t, a[2] + (b[2] - a[2]) * t)


@jit
def frame(n: Vec) -> tuple[Vec, Vec]:
    """Two directions that stand upright on `n` and on each other."""
    s = 1.0 if n[2] >= 0 else -1.0
    a = -1.0 / (s + n[2])
    b = n[0] * n[1] * a
    return (1.0 + s * n[0] * n[0] * a, s * b, -s * n[0]), (b, s + n[1] * n[1] * a, -n[1])


@jit
def to_world(n: Vec, x: float, y: float, z: float) -> Vec:
    u, v = frame(n)
    return (
        u[0] * x + v[0] * y + n[0] * z,
        u[1] * x + v[1] * y + n[1] * z,
        u[2] * x + v[2] * y + n[2] * z,
    )


@jit
def scramble(pixel: int, decision: int) -> float:
    """The start of a pixel's sequence for one decision, 0 to 1."""
    h = np.uint64(pixel) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(decision) * np.uint64(0xC2B2AE3D27D4EB4F)
    h = (h ^ (h >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
    h = (h ^ (h >> np.uint64(32))) * np.uint64(0x94D049BB133111EB)
    return float((h ^ (h >> np.uint64(31))) >> np.uint64(11)) / 9007199254740992.0


@jit
def draw(pixel: int, sample: int, decision: int) -> float:
    u = scramble(pixel, decision) + (sample + 1) * STEPS[decision % 20]
    return float(u - floor(u))


@jit
def span(o: Vec, d: Vec, box: Floats) -> tuple[float, float]:
    """Where a ray is inside the object's box."""
    near, far = 0.0, FAR
    for i in range(3):
        if abs(d[i]) < 1e-12:
            if o[i] < box[0, i] or o[i] > box[1, i]:
                return 1.0, 0.0
            continue
        a, b = (box[0, i] - o[i]) / d[i], (box[1, i] - o[i]) / d[i]
        near, far = max(near, min(a, b)), min(far, max(a, b))
    return near, far


@jit
def hit_sweep(o: Vec, d: Vec, wall: float, bend: float) -> float:
    """Floor, quarter of a cylinder, wall: the distance to the first, or FAR."""
    best = FAR
    if d[1] < -1e-9:
        t = -o[1] / d[1]
        if t > 1e-4 and o[2] + d[2] * t > wall + bend:
            best = t
    cy, cz = o[1] - bend, o[2] - wall - bend
    a, b = d[1] * d[1] + d[2] * d[2], cy * d[1] + cz * d[2]
    k = b * b - a * (cy * cy + cz * cz - bend * bend)
    if k > 0:
        t = (-b + sqrt(k)) / a
        if t > 1e-4 and cy + d[1] * t <= 0 and cz + d[2] * t <= 0:
            best = min(best, t)
    if d[2] < -1e-9:
        t = (wall - o[2]) / d[2]
        if t > 1e-4 and o[1] + d[1] * t > bend:
            best = min(best, t)
    return best


@jit
def sweep_normal(p: Vec, wall: float, bend: float) -> Vec:
    y, z = max(bend - p[1], 0.0), max(wall + bend - p[2], 0.0)
    return unit((0.0, y, z)) if y + z > 0 and z > 0 else (0.0, 1.0, 0.0)


@jit
def hit_light(o: Vec, d: Vec, light: Floats) -> float:
    """`light` is corner, edge, edge, colour, normal, area."""
    n = (light[12], light[13], light[14])
    slope = dot(d, n)
    if slope > -1e-9:  # a softbox shines to its front only
        return FAR
    c = (light[0] - o[0], light[1] - o[1], light[2] - o[2])
    t = dot(c, n) / slope
    p = (d[0] * t - c[0], d[1] * t - c[1], d[2] * t - c[2])
    u, v = (light[3], light[4], light[5]), (light[6], light[7], light[8])
    a, b = dot(p, u) / dot(u, u), dot(p, v) / dot(v, v)
    return t if t > 1e-4 and 0 <= a <= 1 and 0 <= b <= 1 else FAR


@jit
def fresnel(f0: float, c: float) -> float:
    m = max(0.0, 1.0 - c)
    return f0 + (1.0 - f0) * m * m * m * m * m


@jit
def facet(view: Vec, rough: float, u: float, v: float) -> Vec:
    """A visible microfacet's normal (GGX, spherical caps) for a view given in the surface's own frame."""
    a = max(rough * rough, 1e-3)
    w = unit((view[0] * a, view[1] * a, view[2]))
    z = (1.0 - v) * (1.0 + w[2]) - w[2]
    r = sqrt(max(0.0, 1.0 - z * z))
    return unit(
        ((r * cos(2 * pi * u) + w[0]) * a, (r * sin(2 * pi * u) + w[1]) * a, max(1e-6, z + w[2])),
    )


@jit
def reflect(d: Vec, n: Vec, rough: float, u: float, v: float) -> tuple[Vec, float]:
    """Where a ray goes from a glossy surface, and the cosine at which it met the facet."""
    x, y = frame(n)
    h = facet((-dot(x, d), -dot(y, d), max(1e-4, -dot(n, d))), rough, u, v)
    m = to_world(n, h[0], h[1], h[2])
    c = -dot(m, d)
    return unit((d[0] + 2 * c * m[0], d[1] + 2 * c * m[1], d[2] + 2 * c * m[2])), c


@jit
def shadowing(c: float, rough: float) -> float:
    a2 = max(rough * rough, 1e-3) ** 2
    return 2.0 * c / (c + sqrt(a2 + (1.0 - a2) * c * c) + 1e-9)


def compile_tracer(  # noqa: C901, PLR0915 - the scene reaches compiled code as a closure only
    distance: Callable[..., Any], surface: Callable[..., Any]
) -> Callable[..., None]:
    """Bind a scene's two functions into the render loop."""

    @jit
    def march(o: Vec, d: Vec, box: Floats, limit: float, close: float) -> float:
        near, far = span(o, d, box)
        far = min(far, limit)
        t = near
        for _ in range(160):
            if t >= far:
                return FAR
            h = distance(o[0] + d[0] * t, o[1] + d[1] * t, o[2] + d[2] * t)
            if h < close:
                return t
            t += h
        return FAR

    @jit
    def normal(p: Vec) -> Vec:
        e = 4e-4
        a = distance(p[0] + e, p[1] - e, p[2] - e)
        b = distance(p[0] - e, p[1] - e, p[2] + e)
        c = distance(p[0] - e, p[1] + e, p[2] - e)
        f = distance(p[0] + e, p[1] + e, p[2] + e)
        return unit((a - b - c + f, -a - b + c + f, -a + b - c + f))

    @jit
    def direct(p: Vec, n: Vec, lights: Floats, box: Floats, u: float, v: float, w: float) -> Vec:
        """Light that reaches a matt point from one of the softboxes, chosen by chance."""
        count = lights.shape[0]
        light = lights[min(int(w * count), count - 1)]
        d = (
            light[0] + light[3] * u + light[6] * v - p[0],
            light[1] + light[4] * u + light[7] * v - p[1],
            light[2] + light[5] * u + light[8] * v - p[2],
        )
        far2 = dot(d, d)
        d = unit(d)
        face, back = dot(d, n), -dot(d, (light[12], light[13], light[14]))
        if face <= 0 or back <= 0 or march(p, d, box, sqrt(far2), 3e-4) < FAR:
            return (0.0, 0.0, 0.0)
        g = face * back * light[15] * count / (pi * far2)
        return (light[9] * g, light[10] * g, light[11] * g)

    @jit
    def follow(  # noqa: C901 - one loop, and a call costs compile time
        o: Vec, d: Vec, pixel: int, sample: int, s: Any
    ) -> tuple[float, float, float, float]:
        """One path from the eye into the room: the light that comes back along it, and whether it met a thing."""
        lights, box, room, paper, texture, wall, bend, bare = s
        light, rest, alpha, mirror = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), 1.0, False
        for bounce in range(BOUNCES):
            k = 2 + bounce * 6
            back = FAR if bare and bounce == 0 else hit_sweep(o, d, wall, bend)
            t = march(o, d, box, back, 2.5e-4 if bounce == 0 else 3e-4)
            if mirror:
                for i in range(lights.shape[0]):
                    reach = hit_light(o, d, lights[i])
                    if reach < min(t, back):
                        glow = (lights[i, 9], lights[i, 10], lights[i, 11])
                        gain = times(rest, glow)
                        return (light[0] + gain[0], light[1] + gain[1], light[2] + gain[2], alpha)
            if t >= FAR and back >= FAR:
                if bounce == 0:
                    return (0.0, 0.0, 0.0, 0.0)
                up = 0.5 + 0.5 * d[1]
                gain = times(
                    rest, mix((room[0, 0], room[0, 1], room[0, 2]), (room[1, 0], room[1, 1], room[1, 2]), up)
                )
                return (light[0] + gain[0], light[1] + gain[1], light[2] + gain[2], alpha)
            if t < back:
                p = along(o, d, t)
                n = normal(p)
                colour, rough, f0, metal = surface(p, n, texture)
            else:
                p = along(o, d, back)
                n = sweep_normal(p, wall, bend)
                colour, rough, f0, metal = (paper[0], paper[1], paper[2]), 0.9, 0.0, 0.0
            p = along(p, n, 1.6e-3)
            c = max(1e-4, -dot(n, d))
            shine = fresnel(f0, c) * (1.0 - metal) + metal
            u, v = draw(pixel, sample, k), draw(pixel, sample, k + 1)
            # A coat reflects little, but what it reflects may be a lamp: look there more often than its share.
            often = 0.0 if f0 + metal <= 0.0 else max(shine, 0.3 if bounce == 0 else 0.1)
            if draw(pixel, sample, k + 2) < often:
                d, hd = reflect(d, n, rough, u, v)
                out = dot(d, n)
                if out <= 0:
                    return (light[0], light[1], light[2], alpha)
                g = shadowing(out, rough) * shine / often
                tint = mix((1.0, 1.0, 1.0), colour, metal * (1.0 - fresnel(0.0, hd)))
                rest = times(rest, (tint[0] * g, tint[1] * g, tint[2] * g))
                mirror = True
            else:
                g = (1.0 - shine) / (1.0 - often) if often > 0.0 else 1.0
                rest = times(rest, (colour[0] * g, colour[1] * g, colour[2] * g))
                gain = times(rest, direct(p, n, lights, box, u, v, draw(pixel, sample, k + 3)))
                top = 1e9 if bounce == 0 else 6.0  # one bright speck does not survive averaging; cap it
                light = (
                    light[0] + min(gain[0], top),
                    light[1] + min(gain[1], top),
                    light[2] + min(gain[2], top),
                )
                a, r = 2 * pi * draw(pixel, sample, k + 4), draw(pixel, sample, k + 5)
                d = to_world(n, sqrt(r) * cos(a), sqrt(r) * sin(a), sqrt(1.0 - r))
                mirror = False
            o = p
            if bounce > 1 and max(rest[0], rest[1], rest[2]) < 0.02:
                break
        return (light[0], light[1], light[2], alpha)

    @njit(fastmath=True, error_model="numpy", parallel=True)
    def fill(image: Floats, eye: Floats, s: Any, samples: int) -> None:
        height, width = image.shape[:2]
        for row in prange(height):
            for col in range(width):
                pixel = row * width + col
                r, g, b, a = 0.0, 0.0, 0.0, 0.0
                for i in range(samples):
                    x = (col + draw(pixel, i, 0) - width / 2) / height * eye[4, 0]
                    y = (height / 2 - row - draw(pixel, i, 1)) / height * eye[4, 0]
                    d = unit(
                        (
                            eye[1, 0] * x + eye[2, 0] * y + eye[3, 0],
                            eye[1, 1] * x + eye[2, 1] * y + eye[3, 1],
                            eye[1, 2] * x + eye[2, 2] * y + eye[3, 2],
                        )
                    )
                    c = follow((eye[0, 0], eye[0, 1], eye[0, 2]), d, pixel, i, s)
                    # A highlight is cut before it is averaged, or its rim would be a staircase of pure white.
                    r, g, b, a = r + min(c[0], 4.0), g + min(c[1], 4.0), b + min(c[2], 4.0), a + c[3]
                image[row, col, 0], image[row, col, 1] = r / samples, g / samples
                image[row, col, 2], image[row, col, 3] = b / samples, a / samples

    return fill


def turned(
    distance: Callable[..., Any], surface: Callable[..., Any], studio: Studio, azimuth: float
) -> tuple[Callable[..., Any], Callable[..., Any], Studio]:
    """Turn a scene's product on its paper, so that its side at `azimuth` faces the camera."""
    if not azimuth:
        return distance, surface, studio
    c, s = cos(azimuth * pi / 180), sin(azimuth * pi / 180)

    @jit
    def back(p: Vec) -> Vec:
        return (c * p[0] + s * p[2], p[1], c * p[2] - s * p[0])

    @jit
    def turned_distance(x: float, y: float, z: float) -> float:
        q = back((x, y, z))
        return float(distance(q[0], q[1], q[2]))

    @jit
    def turned_surface(p: Vec, n: Vec, texture: Floats) -> Any:
        return surface(back(p), back(n), texture)

    (x0, y0, z0), (x1, y1, z1) = studio.box
    corners = [(c * x - s * z, s * x + c * z) for x in (x0, x1) for z in (z0, z1)]
    xs, zs = zip(*corners, strict=True)
    box = ((min(xs), y0, min(zs)), (max(xs), y1, max(zs)))
    x, y, z = studio.target  # the photographer keeps the product in the middle
    return turned_distance, turned_surface, replace(studio, box=box, target=(c * x - s * z, y, s * x + c * z))


def pack_light(light: Light) -> list[float]:
    at, to = np.array(light.at), np.array(light.to)
    n = (to - at) / np.linalg.norm(to - at)
    u = np.cross((0.0, 1.0, 0.0) if abs(n[1]) < 0.99 else (1.0, 0.0, 0.0), n)
    u *= light.size[0] / np.linalg.norm(u)
    v = np.cross(n, u)
    v *= light.size[1] / np.linalg.norm(v)
    corner = at - u / 2 - v / 2
    return [*corner, *u, *v, *light.colour, *n, light.size[0] * light.size[1]]


def render(
    distance: Callable[..., Any],
    surface: Callable[..., Any],
    studio: Studio,
    *,
    width: int,
    height: int,
    samples: int,
) -> Floats:
    """A picture in linear light, (height, width, RGBA), colours multiplied by alpha."""
    eye, target = np.array(studio.camera), np.array(studio.target)
    ahead = target - eye
    far = float(np.linalg.norm(ahead))
    ahead /= far
    right = np.cross(ahead, (0.0, 1.0, 0.0))
    right /= np.linalg.norm(right)
    view = np.array([eye, right, np.cross(right, ahead), ahead, (studio.view / far, 0.0, 0.0)])
    scene = (
        np.array([pack_light(light) for light in studio.lights]),
        np.array(studio.box),
        np.array(studio.room),
        np.array(studio.sweep or (0.6, 0.6, 0.6)),
        studio.texture,
        studio.wall,
        studio.bend,
        studio.sweep is None,
    )
    image = np.zeros((height, width, 4))
    compile_tracer(distance, surface)(image, view, scene, samples)
    return image
