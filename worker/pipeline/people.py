"""Tell whether a cut-out shows a person: by the face, which is all that can be told without a network of its own."""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDES = (
    460,
    410,
)  # pixels that the product's longer side has where a face is found, and where it is confirmed
MARGIN = 0.1  # of the side; the detector is blind at the border
MIN_FACE = 28  # pixels; a person who stands has one of about 50
SKIN = 0.75  # part of a face that has the colour of skin
FLUSH = (
    4.0  # levels of red chroma by which lips and cheeks at least differ from the rest; paint in one hue has 2
)
HUE = (0.4, 1.8)  # how much less blue skin is than grey, as a multiple of how much redder it is; beer has 3
EYES = 0.9  # a dark place in the middle of each eye has at most this much of the cheek's light below it
OVERLAP = 0.4  # intersection over union of a face and its confirmation

Square = tuple[float, float, float]  # left, top, side in parts of the picture's longer side


def shows_face(rgba: NDArray[np.uint8]) -> bool:
    """True if a frontal face with the colour of skin is in the cut-out, (H, W, 4) sRGB.

    A cascade of local binary patterns finds faces, and much else. So the face must be skin for the most part, of more
    than one hue, have two eyes, and be found again in a smaller, mirrored picture. Dolls, busts and printed portraits may count as
    persons; a person from behind or without a head does not.
    """
    image = Image.fromarray(rgba)
    image = image.crop(image.getchannel("A").getbbox())
    large, small = (_on_grey(image, side) for side in SIDES)
    skin = _skin(large)
    if skin.mean() < 0.002:  # the smallest face
        return False
    light, _, red = np.moveaxis(np.asarray(large.convert("YCbCr")), -1, 0)
    faces = [
        face
        for face in _faces(large)
        if _middle(skin, face).mean() > SKIN
        and np.ptp(np.percentile(_middle(red, face), (10, 90))) >= FLUSH
        and _has_eyes(light, face)
    ]
    if not faces:
        return False
    again = _faces(small.transpose(Image.Transpose.FLIP_LEFT_RIGHT))
    width = small.width / max(small.size)
    mirrored = [(width - left - side, top, side) for left, top, side in again]
    return any(_overlap(one, other) > OVERLAP for one in faces for other in mirrored)


def _on_grey(image: Image.Image, side: int) -> Image.Image:
    """Scale to that length, and lay on grey with a margin. Returns RGB."""
    scale = side / max(image.size)
    scaled = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))
    margin = round(MARGIN * side)
    grey = Image.new("RGBA", (scaled.width + 2 * margin, scaled.height + 2 * margin), (128, 128, 128, 255))
    grey.alpha_composite(scaled, (margin, margin))
    return grey.convert("RGB")


def _faces(photo: Image.Image) -> list[Square]:
    size = min(photo.size)
    found = _detector().detect_multi_scale(
        img=np.asarray(photo.convert("L")),
        scale_factor=1.12,
        step_ratio=1,
        min_size=(MIN_FACE, MIN_FACE),
        max_size=(size, size),
        min_neighbor_number=4,
    )
    longer = max(photo.size)
    return [(face["c"] / longer, face["r"] / longer, face["width"] / longer) for face in found]


@cache
def _detector() -> Any:
    # Imported here because it takes a fifth of a second, and few photos need it.
    import skimage  # noqa: PLC0415
    from skimage.feature import Cascade  # noqa: PLC0415

    return Cascade(str(Path(skimage.__file__).parent / "data" / "lbpcascade_frontalface_opencv.xml"))


def _skin(photo: Image.Image) -> NDArray[np.bool_]:
    """Return which pixels have the colour of skin, dark or fair: a narrow range of chroma (Chai and Ngan, 1999) and hue."""
    light, blue, red = np.moveaxis(np.asarray(photo.convert("YCbCr"), np.int16), -1, 0)
    yellowish, reddish = 128 - blue, red - 128
    hue = (yellowish >= HUE[0] * reddish) & (yellowish <= HUE[1] * reddish)
    return np.asarray((light > 35) & (blue >= 80) & (blue <= 128) & (red >= 134) & (red <= 175) & hue)


def _has_eyes(light: NDArray[Any], face: Square) -> bool:
    """True if on both sides there is something darker where an eye would be than on the cheek below it."""
    sides = ((0.22, 0.45), (0.55, 0.78))
    return all(
        np.percentile(_part(light, face, across, (0.28, 0.48)), 15)
        <= EYES * np.median(_part(light, face, across, (0.52, 0.66)))
        for across in sides
    )


def _middle(picture: NDArray[Any], face: Square) -> NDArray[Any]:
    """Return the part of the picture that is the face without hair and background beside it."""
    return _part(picture, face, (1 / 5, 4 / 5), (1 / 8, 7 / 8))


def _part(
    picture: NDArray[Any], face: Square, across: tuple[float, float], down: tuple[float, float]
) -> NDArray[Any]:
    """Return what lies in a rectangle, given in parts of the face's square."""
    left, top, side = (part * max(picture.shape) for part in face)
    rows, columns = (
        slice(*(round(start + side * part) for part in parts))
        for start, parts in ((top, down), (left, across))
    )
    return picture[rows, columns]


def _overlap(one: Square, other: Square) -> float:
    width, height = (
        max(0, min(one[axis] + one[2], other[axis] + other[2]) - max(one[axis], other[axis]))
        for axis in (0, 1)
    )
    return width * height / (one[2] ** 2 + other[2] ** 2 - width * height)
