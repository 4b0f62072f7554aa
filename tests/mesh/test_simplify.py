from typing import Any

import fast_simplification
import manifold3d
import numpy as np
import pytest
import trimesh

from worker.mesh.clean import is_watertight, parts, weld
from worker.mesh.isosurface import isosurface
from worker.mesh.simplify import simplify

Mesh = tuple[np.ndarray[Any, np.dtype[np.float32]], np.ndarray[Any, np.dtype[np.int32]]]


@pytest.fixture(scope="module")
def dense() -> Mesh:
    """Two tori that nearly touch, as they come out of a grid: 32,000 triangles."""
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n, dtype=np.float32) for n in (120, 120, 60)), indexing="ij")
    left, right = ((np.hypot(x - side, y) - 0.3) ** 2 + (0.5 * z) ** 2 for side in (-0.45, 0.45))
    return isosurface(np.maximum(0.13**2 - left, 0.13**2 - right))


@pytest.mark.parametrize("triangles", [20_000, 2_000, 600])
def test_the_budget_is_kept_and_the_mesh_stays_closed(dense: Mesh, triangles: int) -> None:
    vertices, faces = simplify(*dense, triangles)
    assert 0.9 * triangles <= len(faces) <= triangles
    assert vertices.dtype == np.float32
    assert faces.dtype == np.int32
    assert is_watertight(weld(vertices, faces)[1])
    before, after = (trimesh.Trimesh(mesh[0], mesh[1], process=False) for mesh in (dense, (vertices, faces)))
    assert after.volume == pytest.approx(before.volume, rel=0.05)
    np.testing.assert_allclose(after.bounds, before.bounds, atol=2)


def test_a_mesh_within_the_budget_is_left_alone(dense: Mesh) -> None:
    vertices, faces = simplify(*dense, 1_000_000)
    assert vertices is dense[0]
    assert faces is dense[1]


@pytest.mark.parametrize("gap", [0, 1e-7])
def test_sheets_that_came_to_touch_are_taken_apart(
    dense: Mesh, monkeypatch: pytest.MonkeyPatch, gap: float
) -> None:
    boxes: Any = trimesh.creation.box((1, 1, 1))
    boxes += boxes.copy().apply_translation([1 + gap, 1 + gap, 0])
    # They share an edge: four faces meet there. If they only nearly do, they will when the mesh is scaled and rounded.
    shared = weld(np.asarray(boxes.vertices, np.float32), np.asarray(boxes.faces, np.int32))
    assert is_watertight(shared[1]) == (gap > 0)
    monkeypatch.setattr(fast_simplification, "simplify", lambda *_, **__: shared)
    vertices, faces = simplify(*dense, 100)
    assert len(faces) == 24
    assert is_watertight(weld(vertices.round(4), faces)[1])
    np.testing.assert_allclose(
        trimesh.Trimesh(vertices, faces).bounds, [[-0.5, -0.5, -0.5], [1.5, 1.5, 0.5]], rtol=1e-6
    )


def test_a_torn_mesh_is_made_anew(dense: Mesh, monkeypatch: pytest.MonkeyPatch) -> None:
    torn = dense[0], dense[1][:900]
    monkeypatch.setattr(fast_simplification, "simplify", lambda *_, **__: torn)
    dense_enough = simplify(*dense, 30_000)
    assert 0 < len(dense_enough[1]) <= 30_000
    assert is_watertight(weld(*dense_enough)[1])


def test_a_wire_that_the_fast_collapse_cuts_off_stays_on(monkeypatch: pytest.MonkeyPatch) -> None:
    one: Any = trimesh.creation.icosphere(4)
    two: Any = trimesh.creation.box((1, 1, 1))
    two += two.copy().apply_translation([1, 1, 0])
    pinched = weld(np.asarray(two.vertices, np.float32), np.asarray(two.faces, np.int32))
    monkeypatch.setattr(fast_simplification, "simplify", lambda *_, **__: pinched)
    vertices, faces = simplify(np.asarray(one.vertices, np.float32), np.asarray(one.faces, np.int32), 1000)
    assert len(faces) <= 1000
    assert is_watertight(weld(vertices, faces)[1])
    assert parts(vertices, faces)[0] == 1


def test_an_open_mesh_is_simplified_all_the_same(dense: Mesh) -> None:
    _, faces = simplify(dense[0], dense[1][:-5000], 3000)
    assert 0 < len(faces) <= 3000


def test_noise_is_simplified_in_bounded_time_and_stays_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A field of noise has handles everywhere: every collapse pinches, and the slow one works on all of it."""
    noise = isosurface(np.random.default_rng(0).standard_normal((24, 24, 24)).astype(np.float32))
    given = []
    whole = manifold3d.Manifold

    def counted(mesh: manifold3d.Mesh) -> manifold3d.Manifold:
        given.append(len(mesh.tri_verts))
        return whole(mesh)

    monkeypatch.setattr(manifold3d, "Manifold", counted)
    monkeypatch.setattr("worker.mesh.simplify.SLOW", 8_000)
    vertices, faces = simplify(*noise, 3_000)
    assert 0 < len(faces) <= 3_000
    assert is_watertight(weld(vertices, faces)[1])
    assert len(noise[1]) > 20_000
    assert max(given) <= 8_000


def test_a_mesh_that_no_collapse_gets_small_is_clustered(
    dense: Mesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fast_simplification, "simplify", lambda v, f, **_: (v, f))
    _, faces = simplify(dense[0], dense[1][:-5000], 500)
    assert 100 < len(faces) <= 500
