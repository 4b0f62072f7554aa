"""Signed distances and patterns that the scenes share; units are about the height of the product."""

from math import cos, floor, sqrt
from typing import Any

from studio.tracer import Vec, jit


@jit
def step(a: float, b: float, x: float) -> float:
    """0 below a, 1 above b, smooth between."""
    t = min(max((x - a) / (b - a), 0.0), 1.0)
    return t * t * (3.0 - 2.0 * t)


@jit
def lerp(a: float, b: float, t: float) -> float:
    return a + (b - a) * t


@jit
def melt(a: float, b: float, k: float) -> float:
    """The union of two shapes with a fillet of about k."""
    h = max(k - abs(a - b), 0.0) / k
    return min(a, b) - h * h * k * 0.25


@jit
def carve(a: float, b: float, k: float) -> float:
    """Shape a without shape b, the edge rounded by about k."""
    return -melt(-a, b, k)


@jit
def length2(x: float, y: float) -> float:
    return sqrt(x * x + y * y)


@jit
def length3(x: float, y: float, z: float) -> float:
    return sqrt(x * x + y * y + z * z)


@jit
def box(x: float, y: float, z: float, a: float, b: float, c: float, r: float) -> float:
    """Half sizes a, b, c including the edge radius r."""
    x, y, z = abs(x) - a + r, abs(y) - b + r, abs(z) - c + r
    return length3(max(x, 0.0), max(y, 0.0), max(z, 0.0)) + min(max(x, y, z), 0.0) - r


@jit
def rod(across: float, lengthwise: float, radius: float, half: float, r: float) -> float:
    """A cylinder with rounded edges, from the distance to its axis and the position along it."""
    x, y = across - radius + r, abs(lengthwise) - half + r
    return length2(max(x, 0.0), max(y, 0.0)) + min(max(x, y), 0.0) - r


@jit
def ellipsoid(x: float, y: float, z: float, a: float, b: float, c: float) -> float:
    k = length3(x / a, y / b, z / c)
    m = length3(x / (a * a), y / (b * b), z / (c * c))
    return k * (k - 1.0) / (m + 1e-9) if k > 1e-6 else -min(a, b, c)


@jit
def limb(p: Vec, a: Vec, b: Vec, ra: float, rb: float) -> float:
    """A capsule from a to b whose radius goes from ra to rb."""
    x, y, z = p[0] - a[0], p[1] - a[1], p[2] - a[2]
    u, v, w = b[0] - a[0], b[1] - a[1], b[2] - a[2]
    t = min(max((x * u + y * v + z * w) / (u * u + v * v + w * w), 0.0), 1.0)
    return length3(x - u * t, y - v * t, z - w * t) - lerp(ra, rb, t)


@jit
def lookup(table: Any, x: float, top: float) -> float:
    """A curve given as a table over 0..top."""
    f = min(max(x / top, 0.0), 1.0) * (len(table) - 1)
    i = min(int(f), len(table) - 2)
    return lerp(table[i], table[i + 1], f - i)


@jit
def grain(i: int, j: int, k: int) -> float:
    h = (i * 374761393 + j * 668265263 + k * 1440662683) & 0xFFFFFFFF
    h = ((h ^ (h >> 13)) * 1274126177) & 0xFFFFFFFF
    return float((h ^ (h >> 16)) & 0xFFFF) / 65535.0


@jit
def noise(x: float, y: float, z: float) -> float:
    """Smooth values 0 to 1 that change over one unit."""
    i, j, k = floor(x), floor(y), floor(z)
    u, v, w = x - i, y - j, z - k
    u, v, w = u * u * (3 - 2 * u), v * v * (3 - 2 * v), w * w * (3 - 2 * w)
    a = lerp(
        lerp(grain(i, j, k), grain(i + 1, j, k), u), lerp(grain(i, j + 1, k), grain(i + 1, j + 1, k), u), v
    )
    k += 1
    b = lerp(
        lerp(grain(i, j, k), grain(i + 1, j, k), u), lerp(grain(i, j + 1, k), grain(i + 1, j + 1, k), u), v
    )
    return lerp(a, b, w)


@jit
def clouds(x: float, y: float, z: float) -> float:
    """Noise in four octaves."""
    total, weight = 0.0, 0.5
    for _ in range(4):
        total += weight * noise(x, y, z)
        x, y, z, weight = x * 2.03 + 5.1, y * 2.03 + 1.7, z * 2.03 + 9.2, weight * 0.5
    return total / 0.9375


@jit
def wood(along: float, across: float, depth: float) -> Vec:
    """Light beech: growth rings stretched along the board, with short dark pores."""
    bend = clouds(along * 1.6, across * 4.0, depth * 4.0)
    ring = 0.5 + 0.5 * cos((across * 1.3 + depth * 0.8) * 60.0 + bend * 14.0)
    pore = step(0.62, 0.8, noise(along * 38.0, across * 420.0, depth * 420.0))
    shade = 1.0 - 0.22 * ring * ring - 0.16 * pore - 0.12 * (bend - 0.5)
    return (0.66 * shade, 0.42 * shade * shade, 0.215 * shade * shade * shade)
