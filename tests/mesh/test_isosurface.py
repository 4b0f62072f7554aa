import numpy as np
import pytest
import trimesh
from numpy.typing import NDArray

from worker.mesh.isosurface import isosurface


def ellipsoid(radii: tuple[float, float, float], center: tuple[float, float, float]) -> NDArray[np.float32]:
    """1 in the middle, 0 on the surface, negative outside."""
    x, y, z = np.meshgrid(*(np.arange(n, dtype=np.float32) for n in (40, 50, 60)), indexing="ij")
    parts = [(axis - c) / r for axis, c, r in zip((x, y, z), center, radii, strict=True)]
    return np.asarray(1 - np.sqrt(parts[0] ** 2 + parts[1] ** 2 + parts[2] ** 2), np.float32)


def test_the_surface_lies_where_the_samples_cross_the_level_and_faces_outwards() -> None:
    vertices, faces = isosurface(ellipsoid((10, 15, 20), (18, 23, 31)))
    assert vertices.dtype == np.float32
    assert faces.dtype == np.int32
    mesh = trimesh.Trimesh(vertices, faces, process=False)
    assert mesh.is_watertight
    assert mesh.volume == pytest.approx(4 / 3 * np.pi * 10 * 15 * 20, rel=0.01)
    np.testing.assert_allclose(mesh.bounds, [[8, 8, 11], [28, 38, 51]], atol=0.1)


def test_another_level_gives_another_surface() -> None:
    vertices, _ = isosurface(ellipsoid((10, 10, 10), (20, 20, 30)), 0.5)
    np.testing.assert_allclose(np.linalg.norm(vertices - [20, 20, 30], axis=1), 5, atol=0.1)


def test_what_reaches_out_of_the_volume_is_closed_at_its_faces() -> None:
    vertices, faces = isosurface(ellipsoid((15, 15, 15), (0, 25, 30)))
    mesh = trimesh.Trimesh(vertices, faces, process=False)
    assert mesh.is_watertight
    assert mesh.volume > 0
    assert -1 <= vertices[:, 0].min() <= 0
    assert vertices[:, 0].max() == pytest.approx(15, abs=0.1)


@pytest.mark.parametrize("value", [-1.0, 0.0, np.nan, np.inf, -np.inf])
def test_nothing_to_see_is_an_empty_mesh(value: float) -> None:
    vertices, faces = isosurface(np.full((8, 8, 8), value, np.float32))
    assert vertices.shape == (0, 3)
    assert faces.shape == (0, 3)


def test_one_sample_that_is_not_a_number_spoils_all() -> None:
    volume = ellipsoid((10, 10, 10), (20, 20, 30))
    volume[3, 3, 3] = np.nan
    assert not len(isosurface(volume)[1])
