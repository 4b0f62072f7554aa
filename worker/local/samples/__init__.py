"""Product photos for the demo, `worker bench` and the tests. All but the coffee are our own renders (tests/samples/studio)."""

import io
from pathlib import Path

from PIL import Image

SAMPLES = {
    "vase.png": "Stoneware vase with a glaze that has run; transparent background; render made by us",
    "duck.jpg": "Wooden pull-along duck on a white studio sweep; render made by us",
    "duck-left.jpg": "The same duck from its left, which is its beak; render made by us",
    "duck-back.jpg": "The same duck from its back; render made by us",
    "duck-right.jpg": "The same duck from its right, which is its tail; render made by us",
    "bottle.jpg": "Amber dropper bottle with a printed label on light grey; render made by us",
    "robot.jpg": "Tin toy robot on peach paper, from the front; render made by us",
    "robot-side.jpg": "The same robot from its left; render made by us",
    "bag.jpg": "Leather handbag with white stitches on dusty blue paper; render made by us",
}

COFFEE = "A cup of coffee on a wooden table; photo by Rachel Michetti, courtesy of Pikolo Espresso Bar, CC0"


def path(name: str) -> Path:
    """Return the file of a sample. Raises: KeyError."""
    if name not in SAMPLES:
        raise KeyError(name)
    return Path(__file__).with_name(name)


def coffee_jpeg() -> bytes:
    """Return a real photograph with a real background, which is in scikit-image's package."""
    from skimage import data  # noqa: PLC0415 - it takes a second, which only the coffee is worth

    file = io.BytesIO()
    photo = data.coffee()  # type: ignore[no-untyped-call]
    Image.fromarray(photo).save(file, "JPEG", quality=92)
    return file.getvalue()
