"""Measure what one, two, three and four photos of a product give, on objects whose shape and colours are known.

    .venv/bin/python tests/benchmarks/views.py [--sheets FOLDER] [OBJECT …]

An object is a GLB, `duck.glb@270` if its front is at that azimuth (degrees from +z towards +x); the name of one of the studio's
scenes; or `fitted`, the field that stands in for TripoSR's network. The first two go through `relief`, the last one through
`triposr`. Without an object all scenes and the field are measured. Photos are unlit, in perspective, perfectly cut out, and each is
framed alone.

"error" is the mean distance of the two surfaces, of both directions, in % of the object's height, after the model has got the object's
height and place. At each azimuth, in parallel projection, stand the intersection over union of the two outlines and the mean CIEDE2000 difference of the
colours inside both. "CPU s" is what the surface, the finish, the poster and the comparison with the photos took, and in brackets how many
times as much as with the first set of photos; "project" are the seconds in which the photos were laid over the surface, by the clock.
"""

import sys
from pathlib import Path

# Not this folder, which Python puts first: its `queue` would hide the standard library's.
sys.path.pop(0)
sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "samples"))

import argparse
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, get_args

import numpy as np
import torch
from benchmarks import known
from benchmarks.known import FITTED, SCENES, Known, Picture
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from rich.console import Console
from rich.table import Table
from skimage.color import deltaE_ciede2000, rgb2lab
from torch import Tensor

from worker.core.settings import TripoSRViews
from worker.engines.presets import PRESETS, Preset
from worker.engines.relief import Relief
from worker.engines.surface import AZIMUTHS, Engine, PosedView, Role
from worker.engines.triposr import TripoSR
from worker.mesh.render import Scene
from worker.pipeline import similarity
from worker.pipeline.finish import Model, finish
from worker.pipeline.frame import frame
from worker.pipeline.preview import poster
from worker.tsr.field import Field, Points

DISTANCE = 3.0  # of a photo's camera, as a multiple of what it sees: the perspective of a product photo
DATA = Path(__file__).parents[1] / "data"
SEEN_FROM = (0, 45, 90, 135, 180)
PHOTO = 768  # pixels a side of a photo
COMPARED = 384  # pixels a side of the pictures that are compared
TILE = 240  # pixels a side of a picture on a contact sheet
LABEL = 16  # pixels of the line above its row
PAGE = (245, 245, 245, 255)
ROLES: tuple[Role, ...] = ("front", "left", "back", "right")

Json = dict[str, Any]


class Fitted(TripoSR):
    """TripoSR with a fitted field in place of the network's answer. `depth` stretches it towards the camera, as a guess would be."""

    def __init__(self, field: Field, depth: float, views: TripoSRViews) -> None:
        super().__init__(DATA / "tsr-tiny", "cpu", views=views)
        self.model: Any = _Answer(field, depth)


class _Answer:
    """What stands in for the network: it has the same answer to every photo."""

    def __init__(self, field: Field, depth: float) -> None:
        self._field = field if depth == 1 else _Stretched(field, depth)

    def encode(self, _pictures: Sequence[NDArray[np.float32]]) -> Tensor:
        return torch.zeros(1, 1)

    def field(self, _code: Tensor) -> Any:
        return self._field


class _Stretched:
    """A field whose x axis, which points to the camera in TripoSR's axes, is stretched."""

    def __init__(self, field: Field, by: float) -> None:
        self._field, self.radius, self.level, self.device = field, field.radius, field.level, field.device
        self._scale = np.array([1 / by, 1, 1], np.float32)

    def density(self, points: Points) -> Any:
        there = np.asarray(points) * self._scale
        found = self._field.density(there)
        found[torch.from_numpy(np.abs(there).max(axis=1) > self.radius)] = 0  # a field ends with its cube
        return found

    def color(self, points: Points) -> Any:
        return self._field.color(np.asarray(points) * self._scale)


def photos_of(truth: Known, roles: Sequence[Role]) -> list[PosedView]:
    """Photograph an object from the sides of `roles`, and frame each photo alone."""
    cameras = {role: truth.turntable(AZIMUTHS[role], distance=DISTANCE) for role in roles}
    return [PosedView(role, frame(truth.photograph(camera, PHOTO))) for role, camera in cameras.items()]


def make(engine: Engine, views: Sequence[PosedView], preset: Preset) -> tuple[Model, Json]:
    """Make the model of some photos. Returns it, and its report's figures with the processor's seconds."""
    began = time.process_time()
    surface = engine.reconstruct(views, preset)
    surfaced = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        model = finish(surface, preset, Path(folder), extras={})
        finished = time.process_time()
        scene = Scene(model.mesh)
        poster(scene, Path(folder) / "poster.png")
    for view in model.source_views:
        similarity.compare(scene.render_unlit(view.camera, len(view.view)), view.view)
    spent = {
        "surface": round(surfaced - began, 2),
        "finish": round(finished - surfaced, 2),
        "pictures": round(time.process_time() - finished, 2),
    }
    keys = ("photo_used", "watertight", "triangles", "warnings")
    project_s = model.report["seconds"].get("project", 0.0)
    return model, {"cpu_s": spent, "project_s": project_s, **{key: model.report[key] for key in keys}}


def compare(made: Known, truth: Known) -> Json:
    """Compare a model, which stands as its object does, with the object."""
    there, back = known.surface_error(made, truth)
    found: Json = {
        "error": round(50 * (there + back), 3),
        "to_object": round(100 * there, 3),
        "to_model": round(100 * back, 3),
        "at": {},
    }
    for azimuth in SEEN_FROM:
        ours = made.photograph(truth.turntable(azimuth), COMPARED)
        theirs = _seen(truth, azimuth)
        inside, outside = (ours[..., 3] > 127, theirs[..., 3] > 127)
        both = inside & outside
        labs = (rgb2lab(picture[..., :3]) for picture in (ours, theirs))
        apart = deltaE_ciede2000(*(lab[both] for lab in labs))  # type: ignore[no-untyped-call]  # has no types
        found["at"][azimuth] = {
            "iou": round(float(both.sum() / (inside | outside).sum()), 3),
            "delta_e": round(float(apart.mean()), 2),
        }
    return found


@lru_cache(maxsize=len(SEEN_FROM))
def _seen(truth: Known, azimuth: int) -> Picture:
    """Return the object itself from one side; every model of it is compared with this."""
    return truth.photograph(truth.turntable(azimuth), COMPARED)


def strip(of: Known, like: Known) -> list[Image.Image]:
    """Draw an object from all sides of a contact sheet, in a studio's light, with the cameras of another one."""
    tiles = []
    for azimuth in SEEN_FROM:
        tile = Image.new("RGBA", (TILE, TILE), PAGE)
        tile.alpha_composite(Image.fromarray(of.photograph(like.turntable(azimuth), TILE, lit=True)))
        tiles.append(tile)
    return tiles


def contact_sheet(rows: Mapping[str, list[Image.Image]]) -> Image.Image:
    """Put rows of pictures under each other, each with its label above."""
    sheet = Image.new("RGB", (len(SEEN_FROM) * TILE, len(rows) * (TILE + LABEL)), PAGE[:3])
    draw = ImageDraw.Draw(sheet)
    for row, (label, tiles) in enumerate(rows.items()):
        top = row * (TILE + LABEL)
        draw.text((4, top + 2), label, fill=(0, 0, 0))
        for column, tile in enumerate(tiles):
            sheet.paste(tile, (column * TILE, top + LABEL))
    return sheet


def label(roles: Sequence[Role], figures: Json) -> str:
    """Return the line above a row of a contact sheet."""
    at = "  ".join(
        f"{azimuth}° {one['iou']:.2f}/{one['delta_e']:.1f}" for azimuth, one in figures["at"].items()
    )
    return f"{' + '.join(roles)}: error {figures['error']:.2f} %  {at}"


def measure(
    truth: Known, engine: Engine, preset: Preset, sets: Sequence[Sequence[Role]], sheet: Path | None
) -> dict[str, Json]:
    """Measure an object with each set of photos. Returns the figures by the roles, joined by commas."""
    photos = {
        view.role: view for view in photos_of(truth, [role for role in ROLES if any(role in s for s in sets)])
    }
    rows = {"the object": strip(truth, truth)} if sheet else {}
    found = {}
    for roles in sets:
        model, report = make(engine, [photos[role] for role in roles], preset)
        made = known.from_model(model.mesh).standing_like(truth)
        figures = compare(made, truth) | report
        found[",".join(roles)] = figures
        if sheet:
            rows[label(roles, figures)] = strip(made, truth)
    if sheet:
        contact_sheet(rows).save(sheet)
    return found


def as_table(found: Mapping[str, Mapping[str, Json]]) -> Table:
    """Return what a person reads."""
    azimuths = [f"{azimuth}°" for azimuth in SEEN_FROM]
    table = Table(
        "object", "photos", "error", *azimuths, "CPU s", "project", "photo used", box=None, header_style="dim"
    )
    for name, sets in found.items():
        first = next(iter(sets.values()))
        for roles, figures in sets.items():
            at = (f"{one['iou']:.2f}/{one['delta_e']:.1f}" for one in figures["at"].values())
            spent = sum(figures["cpu_s"].values())
            table.add_row(
                name,
                roles,
                f"{figures['error']:.2f}",
                *at,
                f"{spent:.1f} ({spent / sum(first['cpu_s'].values()):.2f})",
                f"{figures['project_s']:.1f}",
                f"{figures['photo_used']:.2f}",
            )
    return table


def as_markdown(found: Mapping[str, Mapping[str, Json]]) -> str:
    """Return the table of docs/models.md."""
    lines = [
        f"| object | photos | error | {' | '.join(f'{azimuth}°' for azimuth in SEEN_FROM)} |",
        "| --- | --- | --- |" + " --- |" * len(SEEN_FROM),
    ]
    for name, sets in found.items():
        for roles, figures in sets.items():
            at = (f"{one['iou']:.2f} / {one['delta_e']:.1f}" for one in figures["at"].values())
            lines.append(
                f"| {name} | {roles.replace(',', ', ')} | {figures['error']:.2f} % | {' | '.join(at)} |"
            )
    return "\n".join(lines)


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("objects", nargs="*", metavar="OBJECT", default=[*SCENES, FITTED])
    parser.add_argument("--preset", choices=list(PRESETS), default="balanced")
    parser.add_argument(
        "--photos",
        action="append",
        metavar="ROLES",
        help="a set of photos, such as front,back; may be given several times; by default one to four of front,left,back,right",
    )
    parser.add_argument("--depth", type=float, default=1.0, help="by how much the field's depth is wrong")
    parser.add_argument(
        "--triposr-views", choices=get_args(TripoSRViews), default="texture", help="WORKER_TRIPOSR_VIEWS"
    )
    parser.add_argument("--sheets", type=Path, help="a folder for a contact sheet of each object, as PNG")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="one JSON document on stdout")
    form.add_argument("--markdown", action="store_true", help="the table of docs/models.md on stdout")
    chosen = parser.parse_args()
    sets = [tuple(one.split(",")) for one in chosen.photos or ()] or [
        ROLES[: n + 1] for n in range(len(ROLES))
    ]
    for roles in sets:
        if roles[0] != "front" or not set(roles) <= set(ROLES):
            parser.error(f"no set of photos: {','.join(roles)}")
    if chosen.sheets:
        chosen.sheets.mkdir(parents=True, exist_ok=True)
    found = {}
    for name in chosen.objects:
        engine: Engine = Relief()
        path, _, front = name.partition("@")
        if name == FITTED:
            field = known.fitted_field(DATA / "tsr-fitted")
            truth, engine = known.from_field(field), Fitted(field, chosen.depth, chosen.triposr_views)
        elif name in SCENES:
            truth = known.from_scene(name)
        else:
            truth = known.from_glb(Path(path), float(front or 0))
        sheet = chosen.sheets and chosen.sheets / f"{Path(path).stem}.png"
        found[Path(path).stem] = measure(truth, engine, PRESETS[chosen.preset], sets, sheet)
    if chosen.json:
        print(json.dumps(found, indent=2))
    elif chosen.markdown:
        print(as_markdown(found))
    else:
        Console(width=130).print(as_table(found))


if __name__ == "__main__":
    main()
