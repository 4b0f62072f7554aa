"""Product photos for the demo, `worker bench`, `worker enqueue --sample` and the tests.

All but the coffee are our own renders (tests/samples/studio). The coffee is a real photograph with a table behind the cup; it
comes with scikit-image, which the worker needs anyway.
"""

import io
from collections.abc import Mapping
from importlib.util import find_spec
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

# One product from several sides, for `metadata.views`.
VIEWS = {
    "duck-views": {
        "front": "duck.jpg",
        "left": "duck-left.jpg",
        "back": "duck-back.jpg",
        "right": "duck-right.jpg",
    },
}

NAMES = ("coffee", *VIEWS, *(Path(name).stem for name in SAMPLES))
"""What `worker enqueue --sample` takes; with its ending, too."""


def path(name: str) -> Path:
    """Return the file of a sample. Raises: KeyError."""
    if name not in SAMPLES:
        raise KeyError(name)
    return Path(__file__).with_name(name)


def files(name: str) -> Mapping[str, Path]:
    """Return the photos of a sample by the sides that they show. `name` may lack the ending. Raises: KeyError."""
    if name in VIEWS:
        return {side: path(file) for side, file in VIEWS[name].items()}
    if name == "coffee":
        return {"front": _coffee()}
    found = [known for known in SAMPLES if name in {known, Path(known).stem}]
    if not found:
        raise KeyError(name)
    return {"front": path(found[0])}


def coffee_jpeg() -> bytes:
    """Return the coffee as a photograph comes: as a JPEG."""
    file = io.BytesIO()
    with Image.open(_coffee()) as photo:
        photo.convert("RGB").save(file, "JPEG", quality=92)
    return file.getvalue()


def _coffee() -> Path:
    package = find_spec("skimage")  # not imported: that takes a second
    if package is None or package.origin is None:
        raise KeyError("coffee")
    return Path(package.origin).with_name("data") / "coffee.png"
