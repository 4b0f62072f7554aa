import numpy as np
import trimesh

from worker.mesh.rasterize import rasterize
from worker.mesh.unwrap import unwrap


def test_every_face_gets_its_own_place_in_the_square() -> None:
    mesh = trimesh.creation.icosphere(4)  # 5,120 faces: more than one piece
    vertices, faces = np.asarray(mesh.vertices, np.float32), np.asarray(mesh.faces, np.int32)
    source, corners, uv = unwrap(vertices, faces, 512)
    assert uv.min() >= 0
    assert uv.max() <= 1
    assert len(source) == len(uv)
    assert source.dtype == corners.dtype == np.int32

    # The same triangles as before, each once, each turned the same way.
    def listed(triangles: np.ndarray) -> list[tuple[int, ...]]:
        return sorted(tuple(np.roll(row, -int(row.argmin()))) for row in triangles)

    assert listed(source[corners]) == listed(faces)

    # No texel's centre lies well inside two triangles.
    times = np.zeros(512 * 512, int)
    for batch in rasterize(uv[corners] * np.float32(512), 512, 512):
        inner = batch.weight.min(axis=1) > 1e-3
        np.add.at(times, batch.pixel[inner], 1)
    assert times.max() == 1
    assert (times > 0).mean() > 0.4, "too much of the texture is left empty"


def test_faces_without_area_do_no_harm() -> None:
    mesh = trimesh.creation.box((1, 1, 1))
    vertices = np.concatenate([mesh.vertices, [[0.5, 0.5, 0.5]]]).astype(np.float32)
    faces = np.concatenate([mesh.faces, [[0, 0, 8]]]).astype(np.int32)
    source, corners, uv = unwrap(vertices, faces, 64)
    assert len(corners) == len(faces)
    assert np.isfinite(uv).all()
    assert corners.max() < len(source)


def test_two_runs_give_the_same() -> None:
    mesh = trimesh.creation.icosphere(4)
    vertices, faces = np.asarray(mesh.vertices, np.float32), np.asarray(mesh.faces, np.int32)
    for first, second in zip(unwrap(vertices, faces, 256), unwrap(vertices, faces, 256), strict=True):
        np.testing.assert_array_equal(first, second)
