"""Read `metadata.subject`: which of the things in a photo is the product."""

from typing import Any, NamedTuple

LEAST = 0.02  # of the photo's width and height; a smaller box is a mistake


class Box(NamedTuple):
    """A part of a photo. Each value is in parts of its width or height, 0..1 from the left or the top."""

    left: float
    top: float
    right: float
    bottom: float


class Subject(NamedTuple):
    """What a row says about the product's place in its photo."""

    box: Box | None
    warnings: tuple[str, ...]


def read_subject(value: Any) -> Subject:
    """Read {"box": [x0, y0, x1, y1]}. Anything else but None gives a warning and no box."""
    if value is None:
        return Subject(None, ())
    match value:
        case {"box": [left, top, right, bottom]} if all(
            isinstance(side, int | float) and not isinstance(side, bool)
            for side in (left, top, right, bottom)
        ):
            if 0 <= left < right <= 1 and 0 <= top < bottom <= 1 and min(right - left, bottom - top) >= LEAST:
                return Subject(Box(float(left), float(top), float(right), float(bottom)), ())
    said = 'The subject is not like {"box": [0.1, 0.2, 0.6, 0.9]}, in parts of the photo: it was ignored.'
    return Subject(None, (said,))
