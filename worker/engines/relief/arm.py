"""Add the one thin part that photos from the front and from a side both show beside the body, as the arm of a lamp."""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from worker.engines.relief.share import Share

Floats = NDArray[np.float32]
Part = NDArray[np.bool_]  # (N, M) true in a thin part

HALF = 0.5  # of a sample's part that is thin, from which on it counts
CRUMB = 0.2  # of the largest thin part: smaller ones do not count
COMMON = 0.8  # of the shorter part's height, which the longer one shares at least
LEAST = 1 / 3  # of the longer part's height, which the shorter one has at least
JOINT = 2  # samples at either end, where it grows from the body
COURSE = 8  # samples at its end that tell where it goes on


def add_arm(volume: Floats, front: Share, side: Share, x: Floats, z: Floats) -> tuple[Share, Share]:
    """Put such a part where both photos show it. Each photo alone would put it in the middle of what the other one shows.

    Args:
        volume: (N, M, K) of the solid, changed in place.
        front: (N, M) of the outline from the front.
        side: (K, M) of the outline from the side.
        x: (N,) the samples along the front.
        z: (K,) the samples along the side.

    Returns:
        The outlines, their `thin` empty if the part was added.
    """
    arms = [_only_part(share.thin) for share in (front, side)]
    levels = [np.flatnonzero(arm.any(axis=0)) for arm in arms]
    if not all(map(len, levels)) or not _alike(*levels):
        return front, side
    first, last = min(rows[0] for rows in levels), max(rows[-1] for rows in levels)
    rows = np.arange(max(first - JOINT, 0), min(last + JOINT + 1, volume.shape[1]))
    thick = [
        np.where(ndimage.binary_dilation(arm, iterations=JOINT), share.squared, -1)[:, rows]
        for share, arm in zip((front, side), arms, strict=True)
    ]
    at_x, at_z = (
        _course(share, arm, along)[rows]
        for share, arm, along in zip((front, side), arms, (x, z), strict=True)
    )
    own = np.maximum(
        thick[0][:, :, None] - (z - at_z[:, None]) ** 2, thick[1].T - (x[:, None, None] - at_x[:, None]) ** 2
    )
    body_x, body_z = (_middle(share.inside, along)[rows] for share, along in ((front, x), (side, z)))
    for n in np.flatnonzero((rows <= first + JOINT) | (rows >= last - JOINT)):
        ends = (np.array(of) for of in ((at_x[n], at_z[n]), (body_x[n], body_z[n])))
        joint = max(float(thick[0][:, n].max()), float(thick[1][:, n].max())) - _from_line(x, z, *ends)
        own[:, n] = np.maximum(own[:, n], joint)
    shown = np.minimum((front.inside * front.top)[:, rows, None], (side.inside * side.top).T[rows])
    own = np.minimum(own, shown)
    whole = volume[:, rows]
    beside = np.maximum(front.thin[:, rows, None], side.thin.T[rows])
    volume[:, rows] = np.maximum(whole + beside * (own - whole), own)
    return front._replace(thin=np.zeros_like(front.thin)), side._replace(thin=np.zeros_like(side.thin))


def _only_part(thin: Floats) -> Part:
    """Return the thin part, if there is but one, and it is higher than it is wide: a rung is no arm."""
    parts, _ = ndimage.label(thin > HALF)
    sizes = np.bincount(parts.ravel(), minlength=2)[1:]
    part = parts == sizes.argmax() + 1
    alone = (sizes > CRUMB * sizes.max()).sum() == 1 and part.any(axis=0).sum() ** 2 > part.sum()
    return np.asarray(part & alone)


def _alike(one: NDArray[np.intp], other: NDArray[np.intp]) -> bool:
    """Return true if parts at these rows may be the same: one photo may show the end of it in front of the body."""
    shorter, longer = sorted((len(one), len(other)))
    common = len(np.intersect1d(one, other))
    apart = min(abs(one[0] - other[0]), abs(one[-1] - other[-1]))
    return bool(common > COMMON * shorter > COMMON * LEAST * longer and apart < (1 - COMMON) * longer)


def _course(share: Share, arm: Part, along: Floats) -> Floats:
    """(M,) where the part is at each height: where its photo shows it, and straight on beyond, within the outline."""
    known = np.flatnonzero(arm.any(axis=0))
    place, every = _middle(arm.astype(np.float32), along), np.arange(arm.shape[1])
    for end, beyond in ((known[:COURSE], every < known[0]), (known[-COURSE:], every > known[-1])):
        line = np.polynomial.Polynomial.fit(end, place[end], min(1, len(end) - 1))
        place[beyond] = line(every[beyond])
    inside = share.inside > 0
    low, high = along[inside.argmax(axis=0)], along[len(along) - 1 - inside[::-1].argmax(axis=0)]
    return np.asarray(np.where(inside.any(axis=0), np.clip(place, low, high), place), np.float32)


def _middle(weight: Floats, along: Floats) -> Floats:
    """(M,) the mean of the (K,) places by (K, M) weights, as far as they are positive."""
    weight = np.maximum(weight, 0) ** 4
    return np.asarray(
        (weight * along[:, None]).sum(axis=0) / np.maximum(weight.sum(axis=0), 1e-9), np.float32
    )


def _from_line(x: Floats, z: Floats, start: NDArray[np.float32], end: NDArray[np.float32]) -> Floats:
    """(N, K) the squared distance of places from the line between two (2,) places."""
    place = np.stack(np.meshgrid(x, z, indexing="ij"), axis=-1) - start
    way = end - start
    along = np.clip(place @ way / max(float(way @ way), 1e-12), 0, 1)
    return np.asarray(((place - along[..., None] * way) ** 2).sum(axis=-1), np.float32)
