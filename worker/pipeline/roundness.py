"""Judge how likely the depth of a preview is right that was made without a photo from the side.

Such a preview is an inflated outline: each part of it is about as deep as it is wide. Nothing shows whether the product is,
but the photo and the model have signs of it. `SIGNS` weighs them; docs/models.md says how it was found.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from skimage.color import rgb2lab

from worker.engines.relief.lathe import turned
from worker.engines.surface import View
from worker.mesh.camera import Camera
from worker.mesh.render import Scene
from worker.pipeline.single_view import boxiness, rims

SIDE = 128  # pixels of the pictures in which light is compared with the shape: light changes slowly
HUE = 15.0  # of a* and b*; colours that differ by less are one
COMMON = 0.03  # part of the product that has a colour, from which on it counts
PLAIN = 0.05  # standard deviation of L*; less is no light and shade
EVEN = 0.5  # of L*, from a pixel to the next; less is even light
LOWEST = 0.25  # of the product's height: the part that may stand on the ground
LEVEL = 0.03  # of the product's height, within which its base is level


class Signs(NamedTuple):
    """What a photo, and the model that was made from it, say about the model's depth."""

    boxiness: float  # of the photo: from 0 for round; at 1 a box is as likely
    shading: float  # part of the differences in lightness that light on the model's shape explains, 0..1
    evenness: float  # part of the product in the photo that is lit as evenly as a flat thing, 0..1
    base: float  # part of the product's lowest quarter that stands on one level, 0..1
    middle: float  # how low the middle of the product's area lies, from 0 at its top to 1 at its base
    rims: float  # logarithm of 1 + the length of the edges that run along the outline
    turned: bool  # the outline is that of a product from a lathe
    depth: float  # of the model: logarithm of its depth in parts of the longer of its other sides
    width: float  # of the model: logarithm of its width in parts of its height


class _Sign(NamedTuple):
    weight: float  # how much the logarithm of the odds rises with it
    even: float  # where it speaks neither for nor against
    warning: str = ""  # a sentence for a merchant, where it speaks against


SIGNS: Mapping[str, _Sign] = {
    "boxiness": _Sign(
        -1.6,
        1.0,
        "The photo shows straight edges, and a preview without photos of the sides makes all things round.",
    ),
    "shading": _Sign(
        2.6,
        0.33,
        "The light in the photo is not that on a round product. It may be flat, "
        "and a preview without photos of the sides makes all things round.",
    ),
    "evenness": _Sign(
        -3.8,
        0.32,
        "Much of the product is lit as evenly in the photo as a flat thing, "
        "and a preview without photos of the sides makes all things round.",
    ),
    "base": _Sign(
        1.4,
        0.56,
        "The product's base is not level in the photo. It may be seen from above or at an angle, "
        "and a preview without photos of the sides cannot tell its depth.",
    ),
    "middle": _Sign(
        8.0,
        0.5,
        "The product is wider above than below in the photo. It may be seen from above, "
        "and a preview without photos of the sides cannot tell its depth.",
    ),
    "rims": _Sign(
        -1.0,
        1.1,
        "Edges run along the product's outline in the photo, as on a plate or the face of a box, "
        "and a preview without photos of the sides makes all things round.",
    ),
    "turned": _Sign(1.0, 0.3),
    "depth": _Sign(
        -1.6,
        -0.6,
        "The preview is about as deep as the product is wide, and no photo shows whether the product is.",
    ),
    "width": _Sign(
        -1.2,
        0.0,
        "The product is wider than high, and a preview without photos of the sides makes such things as deep as they are high.",
    ),
}


def signs_of(view: View, scene: Scene, camera: Camera) -> Signs:
    """Read the signs from the photo and from the model, which `camera` sees as the photo shows it."""
    width, height, depth = np.ptp(scene.mesh.positions, axis=0).tolist()
    solid = np.asarray(_premultiplied(view).reduce(2))[..., 3] > 127
    return Signs(
        boxiness=boxiness(view),
        shading=shading(view, scene.render_normals(camera, SIDE)),
        evenness=evenness(view),
        base=level_base(solid),
        middle=middle(solid),
        rims=math.log1p(rims(view)),
        turned=bool(solid.any()) and turned(solid) is not None,
        depth=math.log(depth / max(width, height)),
        width=math.log(width / height),
    )


def chance(signs: Signs) -> tuple[float, str]:
    """Return how likely the depth is right, 0..1, and the sentence of the sign that speaks most against it."""
    terms = {name: sign.weight * (getattr(signs, name) - sign.even) for name, sign in SIGNS.items()}
    worst = min((name for name, sign in SIGNS.items() if sign.warning), key=terms.__getitem__)
    return 1 / (1 + math.exp(-sum(terms.values()))), SIGNS[worst].warning


def shading(view: View, normals: NDArray[np.float32]) -> float:
    """Return which part of the differences in lightness is that of light on a shape, 0..1.

    A matt surface in any distant light is as bright as a polynomial of the second degree in its direction says, nearly (Basri
    and Jacobs, "Lambertian reflectance and linear subspaces", 2003). Only points of one colour are compared with each other,
    so that print does not count.

    Args:
        view: (S, S, 4) of the product.
        normals: (N, N, 3) of the shape as the photo's camera sees it, S a multiple of N; 0 where there is none.
    """
    small = np.asarray(_premultiplied(view).reduce(len(view) // len(normals)), np.float32)
    inside = ndimage.binary_erosion(small[..., 3] > 127) & normals.any(axis=2)
    if not inside.any():
        return 0.0
    lab = rgb2lab(small[inside][:, :3] / small[inside][:, 3:])
    _, color, count = np.unique(
        (lab[:, 1:] / HUE).round() @ (1, 100), return_inverse=True, return_counts=True
    )
    common = count[color] >= COMMON * len(color)
    if not common.any():
        return 0.0
    x, y, z = normals[inside].T.astype(np.float64)
    values = np.stack([lab[:, 0], x, y, z, x * y, x * z, y * z, x * x - y * y, z * z])
    means = np.stack([np.bincount(color, value) / count for value in values])
    lightness, *light = (values - means[:, color])[:, common]
    if lightness.var() < PLAIN**2:
        return 0.0
    terms = np.stack(light)
    # Few sums of many products: not worth to wake all cores for.
    products, wanted = np.einsum("ik,jk->ij", terms, terms), np.einsum("ik,k->i", terms, lightness)
    explained = wanted @ np.linalg.pinv(products, hermitian=True) @ wanted
    return float(np.clip(explained / (lightness @ lightness), 0, 1))


def evenness(view: View) -> float:
    """Return which part of the product in a (S, S, 4) view is lit evenly, 0..1: its lightness does not change, or hardly."""
    small = np.asarray(_premultiplied(view).reduce(len(view) // SIDE), np.float32)
    inside = ndimage.binary_erosion(small[..., 3] > 127, iterations=2)  # the outline is an edge of its own
    if not inside.any():
        return 0.0
    lightness = rgb2lab(small[..., :3] / np.maximum(small[..., 3:], 1))[..., 0]
    return float((np.hypot(*np.gradient(lightness))[inside] < EVEN).mean())


def level_base(solid: NDArray[np.bool_]) -> float:
    """Return which part of the width of a product's lowest quarter stands on one level, 0..1: 1 for a box seen straight on."""
    rows = np.flatnonzero(solid.any(axis=1))
    if not len(rows):
        return 0.0
    height, base = rows[-1] - rows[0] + 1, rows[-1]
    lowest = np.where(solid.any(axis=0), len(solid) - 1 - solid[::-1].argmax(axis=0), -1)
    near = lowest[lowest > base - LOWEST * height]
    return float((near > base - LEVEL * height).mean())


def middle(solid: NDArray[np.bool_]) -> float:
    """Return how low the middle of a product's area lies, from 0 at its top to 1 at its base: 0.67 for a cone that stands."""
    rows = np.flatnonzero(solid.any(axis=1))
    if not len(rows):
        return 0.5
    area = solid.sum(axis=1)[rows[0] : rows[-1] + 1]
    return float(np.average(np.arange(len(area)) + 0.5, weights=area)) / len(area)


def _premultiplied(view: View) -> Image.Image:
    """Return the view with colours times alpha, so that it can be averaged."""
    return Image.fromarray(view).convert("RGBa")
