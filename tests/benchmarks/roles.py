"""Measure how often photos that show the stated sides are refused, and how many of those that do not are found.

    .venv/bin/python tests/benchmarks/roles.py [--sets N] [--photos FOLDER] [OBJECT.glb …]

Every object, by default the studio's scenes, is photographed from its front, left, back and right `--sets` times, from a front of any
azimuth. Each set has its own light or none, lens and elevation; each photo is turned by some degrees, has its own exposure, white
balance and noise, and is framed alone. `--photos` adds sets of photographs that are cut out already: `NAME-front.png`,
`NAME-left.png` and so on.
"""

import sys
from pathlib import Path

# Not this folder, which Python puts first: its `queue` would hide the standard library's.
sys.path.pop(0)
sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "samples"))

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
from benchmarks import known
from benchmarks.known import SCENES, Known
from PIL import Image
from rich.console import Console
from rich.table import Table

from worker.engines.surface import AZIMUTHS, Role, View
from worker.pipeline.frame import frame
from worker.pipeline.role_checks import doubts

PHOTO = 256  # pixels a side
YAW, TILT = 4.0, 3.0  # degrees: standard deviation, and most, by which a photo is not from where it is stated
ELEVATION = (0.0, 12.0)  # degrees of a set
DISTANCE = (2.2, 6.0)  # of a set's camera, as a multiple of what it sees
STOPS, TINT, NOISE = 0.15, 0.03, 2.0  # of a photo's values: exposure and white balance, at most; noise, 8-bit

Views = Mapping[Role, View]
Json = dict[str, Any]


def photograph(truth: Known, random: np.random.Generator) -> Views:
    """Take a set of photos from a random side, as a careful merchant does."""
    front, lit = random.uniform(0, 360), bool(random.integers(2))
    elevation, distance = random.uniform(*ELEVATION), random.uniform(*DISTANCE)
    views = {}
    for role, azimuth in AZIMUTHS.items():
        yaw = float(np.clip(random.normal(0, YAW), -2 * YAW, 2 * YAW))
        camera = truth.turntable(front + azimuth + yaw, distance=distance)
        camera = replace(camera, elevation=elevation + random.uniform(-TILT, TILT))
        photo = truth.photograph(camera, PHOTO, lit=lit)
        gain = 2 ** random.uniform(-STOPS, STOPS) * (1 + random.uniform(-TINT, TINT, 3))
        noise = random.normal(0, NOISE, (PHOTO, PHOTO, 3))
        photo[..., :3] = (photo[..., :3] * gain + noise).clip(0, 255)
        views[role] = frame(photo)
    return views


def read(folder: Path) -> dict[str, Views]:
    """Read sets of cut-out photographs."""
    found: dict[str, dict[Role, View]] = {}
    for role in AZIMUTHS:
        for file in sorted(folder.glob(f"*-{role}.png")):
            photo = np.asarray(Image.open(file).convert("RGBA"))
            found.setdefault(file.stem.removesuffix(f"-{role}"), {})[role] = frame(photo)
    return {name: views for name, views in found.items() if len(views) > 1 and "front" in views}


def wrong(views: Views, others: Views, random: np.random.Generator) -> Iterator[tuple[str, Role, Views]]:
    """Make sets with a wrong photo: what is wrong, the role that ought to be refused, and the set."""
    front = views["front"]
    other = others[random.choice([*others])]
    for role in ("back", "left"):
        if role in views:
            yield f"another product as {role}", role, {**views, role: other}
    if "back" in views:
        yield "the back mirrored", "back", {**views, "back": _mirrored(views["back"])}
        yield "the front again as back", "back", {**views, "back": front}
    if "left" in views:
        yield "the front again as left", "left", {**views, "left": front}
        yield "the left mirrored", "left", {**views, "left": _mirrored(views["left"])}
        if "back" in views:
            yield "the left as back", "back", {"front": front, "back": views["left"]}
            yield "the back as left", "left", {"front": front, "left": views["back"]}
            yield (
                "front and back exchanged",
                "left",
                {"front": views["back"], "back": front, "left": views["left"]},
            )
        if "right" in views:
            yield (
                "left and right exchanged",
                "left",
                {**views, "left": views["right"], "right": views["left"]},
            )


def _mirrored(view: View) -> View:
    return np.ascontiguousarray(view[:, ::-1])


def measure(sets: Sequence[tuple[str, Views]], random: np.random.Generator) -> Json:
    """Count refusals. `sets` are the names of the products with correct photos of them."""
    refused: dict[str, dict[Role, str]] = {}
    fewer = refused_of_fewer = 0
    found: dict[str, dict[str, list[bool]]] = {}
    for n, (name, views) in enumerate(sets):
        if why := doubts(views):
            refused[f"{name} {n}"] = why
        parts = [*_parts(views)]
        fewer += len(parts)
        refused_of_fewer += sum(bool(doubts(part)) for part in parts)
        others = [there for other, there in sets if other != name]
        if not others:
            continue
        for kind, role, made in wrong(views, others[random.integers(len(others))], random):
            found.setdefault(kind, {}).setdefault(name, []).append(role in doubts(made))
    return {
        "correct_sets": len(sets),
        "refused": refused,
        "correct_sets_of_fewer": fewer,
        "refused_of_fewer": refused_of_fewer,
        "found": {
            kind: {name: f"{sum(hits)}/{len(hits)}" for name, hits in by.items()}
            for kind, by in found.items()
        },
    }


def _parts(views: Views) -> Iterator[Views]:
    """Leave out one or more of the photos beside the front, but not all."""
    others = [role for role in views if role != "front"]
    for count in range(1, len(others)):
        for roles in combinations(others, count):
            yield {"front": views["front"], **{role: views[role] for role in roles}}


def as_table(found: Json) -> Table:
    """Return what a person reads."""
    table = Table("wrong photo", "found", box=None, header_style="dim")
    for kind, by in found["found"].items():
        hits, sets = (sum(int(one.split("/")[part]) for one in by.values()) for part in (0, 1))
        table.add_row(kind, f"{hits} of {sets} ({100 * hits / sets:.0f} %)")
    return table


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("objects", nargs="*", metavar="OBJECT", default=[*SCENES])
    parser.add_argument("--sets", type=int, default=16, help="of each object")
    parser.add_argument("--photos", type=Path, help="a folder with sets of photographs")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    chosen = parser.parse_args()
    random = np.random.default_rng(chosen.seed)
    sets: list[tuple[str, Views]] = []
    for name in chosen.objects:
        truth = known.from_scene(name) if name in SCENES else known.from_glb(Path(name), 0.0)
        sets += [(Path(name).stem, photograph(truth, random)) for _ in range(chosen.sets)]
    if chosen.photos:
        sets += read(chosen.photos).items()
    found = measure(sets, random)
    if chosen.json:
        print(json.dumps(found, indent=2))
        return
    console = Console(width=110)
    console.print(f"correct sets: {found['correct_sets']}, with a photo refused: {len(found['refused'])}")
    for name, why in found["refused"].items():
        console.print(f"  {name}: {why}", highlight=False)
    console.print(
        f"two and three photos of them: {found['correct_sets_of_fewer']}, with a photo refused: {found['refused_of_fewer']}"
    )
    console.print(as_table(found))


if __name__ == "__main__":
    main()
