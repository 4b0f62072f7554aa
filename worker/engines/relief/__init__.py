"""The engine without weights: it inflates the silhouettes of the photos like balloons and paints them with the photos.

The result is a preview and not a reconstruction. What the photos show is theirs, and all else is invented.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from worker.core.errors import JobError
from worker.core.settings import Device, Precision, TripoSRViews
from worker.engines.gate import Gate
from worker.engines.presets import Preset
from worker.engines.relief.above import above
from worker.engines.relief.legs import without_far_legs
from worker.engines.relief.mirror import mirrored
from worker.engines.relief.outline import Measured, halved
from worker.engines.relief.paint import paint, paint_front
from worker.engines.relief.section import section_of
from worker.engines.relief.solid import pillow, sided
from worker.engines.surface import PosedView, SourceView, Surface
from worker.engines.views import align
from worker.mesh.camera import Camera
from worker.mesh.isosurface import isosurface

FACES = 7  # of the surface of several photos for each triangle of the finished mesh: more make it no better
DISTANCE = 5.0
"""Of a photo's camera, as a multiple of the side of its picture. Known objects photographed from 3 to 4 (mean ΔE2000 from the
front and the back; parallel, 5, 3.5): duck 0.7/3.4, 0.3/1.9, 0.2/1.5; robot 8.9/2.5, 4.8/2.6, 3.9/2.6; mug 1.6/2.9, 2.4/2.8,
2.9/3.4."""


def load(
    _weights_dir: Path, _device: Device, _precision: Precision, _gate: Gate | None, _views: TripoSRViews
) -> "Relief":
    """Make a Relief, which has no weights and computes on the CPU in float32."""
    return Relief()


class Relief:
    """The engine `relief`. It is deterministic."""

    name = "relief"
    version = "3"
    details: Mapping[str, Any] = MappingProxyType({"device": "cpu"})

    def reconstruct(self, views: Sequence[PosedView], preset: Preset) -> Surface:
        """Make the surface that the views show: the front and, where they are there, the back and the sides.

        Raises: JobError `no_surface`.
        """
        outlines = align(views)
        if not outlines:
            raise JobError("no_surface")
        # Half of the resolution will do for the shape, and for colours over which the photos are laid.
        halves = [halved(outline) for outline in without_far_legs(outlines)]
        if any(outline.role in ("left", "right") for outline in outlines):
            section = section_of(halves)
            solid, height = sided(halves, preset.grid, FACES * preset.triangles, section), None
            report = {
                "section": {
                    "exponent": round(float(section.exponents.mean()), 3),
                    "box": round(section.box, 3),
                }
            }
        else:
            solid, height = pillow(Measured(*outlines[0]), preset.grid)
            report = {}
        vertices, faces = isosurface(solid.volume)
        if not len(faces):
            raise JobError("no_surface")
        points = (vertices * np.float32(solid.cell) + solid.origin).astype(np.float32)
        alone = height if len(outlines) == 1 else None
        inferred = [] if alone else mirrored(outlines)
        likely = [halved(o) for o in inferred]
        return Surface(
            vertices=points,
            faces=faces,
            color=paint_front(alone) if alone else paint(halves, likely, solid, points),
            source_views=[
                SourceView(role=o.role, view=o.view, camera=o.camera if alone else _in_perspective(o.camera))
                for o in outlines
            ],
            view_from_above=above(halves, likely, solid),
            mirrored_views={o.role: o.view for o in inferred},
            depth_factors=(0.01, 100.0) if alone else Surface.depth_factors,  # one photo's depth is made up
            report=report,
        )


def _in_perspective(camera: Camera) -> Camera:
    """Return the parallel camera of a photo at the distance of a usual one, from which what is nearer looks larger."""
    return replace(camera, distance=DISTANCE * camera.side)
