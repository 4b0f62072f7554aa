"""The sparse isosurface against scikit-image's marching cubes of every sample, and fields made to break it."""

import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from numpy.typing import NDArray
from safetensors.torch import load_file
from scipy.spatial import cKDTree
from skimage.measure import marching_cubes

from worker.mesh.isosurface import Extraction, extract

Array = NDArray[np.float32]
Density = Callable[[Array], Array]
DATA = Path(__file__).parent.parent / "data"
OUTSIDE = -1e30


def dense(
    field: Density, resolution: int, radius: float, level: float
) -> tuple[NDArray[np.float64], NDArray[np.int32]]:
    """Vertices in samples, and faces, from all samples with outside around them."""
    axis = np.linspace(-radius, radius, resolution).astype(np.float32)
    points = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)
    values = np.concatenate([field(part) for part in np.array_split(points, len(points) // 100000 + 1)])
    volume = np.nan_to_num(values, nan=OUTSIDE, posinf=-OUTSIDE, neginf=OUTSIDE).reshape((resolution,) * 3)
    volume = np.pad(volume, 1, constant_values=OUTSIDE)
    vertices, faces, _, _ = marching_cubes(  # type: ignore[no-untyped-call]
        volume, level, gradient_direction="ascent"
    )
    return vertices.astype(np.float64) - 1, faces


def assert_same(field: Density, resolution: int, *, radius: float = 1.0, level: float = 0.0) -> Extraction:
    surface = extract(field, resolution=resolution, radius=radius, level=level)
    vertices, faces = dense(field, resolution, radius, level)
    np.testing.assert_array_equal(surface.faces, faces)
    samples = (surface.vertices.astype(np.float64) + radius) / (2 * radius) * (resolution - 1)
    np.testing.assert_allclose(samples, vertices, atol=1e-3)
    assert surface.vertices.dtype == np.float32
    assert surface.faces.dtype == np.int32
    assert surface.queries <= resolution**3
    assert_closed(surface)
    return surface


def assert_closed(surface: Extraction) -> None:
    mesh = trimesh.Trimesh(surface.vertices, surface.faces, process=False)
    assert mesh.is_watertight
    assert mesh.is_winding_consistent
    assert mesh.volume > 0
    assert len(np.unique(surface.faces)) == len(surface.vertices)


def length(points: Array) -> Array:
    return np.asarray(np.sqrt(np.einsum("ij,ij->i", points, points)), np.float32)


def ball(center: tuple[float, float, float], radius: float) -> Density:
    return lambda points: np.float32(radius) - length(points - np.array(center, np.float32))


def rod(start: tuple[float, float, float], end: tuple[float, float, float], radius: float) -> Density:
    a, way = np.array(start, np.float32), np.subtract(end, start).astype(np.float32)

    def field(points: Array) -> Array:
        at = np.clip((points - a) @ way / (way @ way), 0, 1)
        return np.float32(radius) - length(points - a - at[:, None] * way)

    return field


def box(center: tuple[float, float, float], half: tuple[float, float, float]) -> Density:
    def field(points: Array) -> Array:
        beyond = np.abs(points - np.array(center, np.float32)) - np.array(half, np.float32)
        return np.asarray(-(length(np.maximum(beyond, 0)) + np.minimum(beyond.max(axis=1), 0)), np.float32)

    return field


def union(*fields: Density) -> Density:
    return lambda points: np.max([field(points) for field in fields], axis=0)


def hollow(field: Density) -> Density:
    return lambda points: -field(points)


def torus(points: Array) -> Array:
    ring = np.hypot(points[:, 0] - 0.03, points[:, 1]) - 0.6
    return np.asarray(0.2 - np.hypot(ring, points[:, 2] + 0.05), np.float32)


def shell(points: Array) -> Array:
    return np.asarray(0.02 - np.abs(length(points - np.float32(0.01)) - 0.6), np.float32)


def waves(seed: int, pitch: float) -> Density:
    """Smooth noise, about even parts of it inside and outside."""
    rng = np.random.default_rng(seed)
    way = rng.normal(size=(3, 12)).astype(np.float32) * np.float32(pitch)
    shift = rng.uniform(0, 2 * np.pi, 12).astype(np.float32)
    return lambda points: np.asarray(np.sin(points @ way + shift).sum(axis=1), np.float32)


SHAPES: dict[str, Density] = {
    "ball": ball((0.01, 0.02, -0.03), 0.7),
    "torus": torus,
    "thin rod": rod((-0.7, -0.61, -0.52), (0.63, 0.52, 0.71), 0.02),
    "rod along an axis": rod((-0.7, 0.013, 0.017), (0.7, 0.013, 0.017), 0.02),
    "thin sheet": box((0.02, 0.013, 0.03), (0.6, 0.5, 0.017)),
    "thin shell": shell,
    "two touching balls": union(ball((-0.4, 0, 0), 0.4), ball((0.4, 0, 0), 0.4)),
    "floaters": union(ball((0, 0, 0), 0.4), ball((0.7, 0.7, 0.7), 0.03), ball((-0.8, 0.5, 0.1), 0.04)),
    "out of two faces": ball((0.6, 0.1, -0.7), 0.6),
    "out of a corner": ball((1, 1, 1), 0.7),
    "a hollow": hollow(ball((0.2, 0, 0), 0.1)),
    "all inside": lambda points: np.ones(len(points), np.float32),
}


@pytest.mark.parametrize("resolution", [64, 117])
@pytest.mark.parametrize("name", SHAPES)
def test_the_faces_are_those_of_the_dense_grid_in_its_order(name: str, resolution: int) -> None:
    assert_same(SHAPES[name], resolution)


@pytest.mark.parametrize("resolution", [2, 3, 5, 17, 65, 66])
def test_small_grids_are_asked_for_completely_and_once(resolution: int) -> None:
    surface = assert_same(ball((0.1, 0, 0), 0.6 if resolution > 2 else 2), resolution)
    assert surface.queries == resolution**3 or resolution == 66


@pytest.mark.integration  # seconds of computing
@pytest.mark.parametrize("seed", range(4))
def test_noise_with_many_ambiguous_cells_is_the_same_too(seed: int) -> None:
    # Waves of about 5 samples at the least: a tenth of the crossed cells are ambiguous.
    assert_same(waves(seed, 9.0), (40, 64, 72, 80)[seed], level=1.0)


def test_level_and_radius_are_the_callers() -> None:
    surface = assert_same(lambda points: 30 * ball((0, 0, 0), 1)(points), 90, radius=0.87, level=25.0)
    np.testing.assert_allclose(length(surface.vertices), 1 / 6, atol=1e-3)


def test_samples_on_the_level_leave_no_crack() -> None:
    assert_same(
        lambda points: 400 - np.round(points * 32).astype(np.float32) ** 2 @ np.ones(3, np.float32), 65
    )


@pytest.fixture(scope="module")
def fitted() -> Iterator[Callable[[float], Density]]:
    """The scene fitted to a known shape; noise on its code, in parts of the code's deviation, → density."""
    with torch.inference_mode():
        code = torch.from_numpy(np.load(DATA / "tsr-fitted" / "scene_code.npy").astype(np.float32))
        state = load_file(DATA / "tsr-fitted" / "decoder.safetensors")
        names = sorted(
            (name for name in state if name.endswith("weight")), key=lambda n: int(n.split(".")[-2])
        )
        layers = [(state[name], state[name.removesuffix("weight") + "bias"]) for name in names]
        first = layers[0][0].view(-1, 3, code.shape[1])

        def scene(noise: float) -> Density:
            spoilt = code + noise * code.std() * torch.randn(
                code.shape, generator=torch.Generator().manual_seed(0)
            )
            planes = torch.einsum("opc,pchw->pohw", first, spoilt)

            def density(points: Array) -> Array:
                with torch.inference_mode():
                    parts = []
                    for part in torch.from_numpy(points / np.float32(0.87)).split(16384):  # type: ignore[no-untyped-call]
                        at = torch.stack([part[:, [0, 1]], part[:, [0, 2]], part[:, [1, 2]]])[:, None]
                        x = torch.nn.functional.grid_sample(planes, at, align_corners=False)[:, :, 0].sum(0).T
                        x += layers[0][1]
                        for weight, bias in layers[1:-1]:
                            x = torch.nn.functional.linear(torch.nn.functional.silu(x), weight, bias)
                        x = torch.nn.functional.silu(x) @ layers[-1][0][0] + layers[-1][1][0]
                        parts.append(torch.exp(x - 1))
                    return torch.cat(parts).numpy()

            return density

        yield scene


@pytest.mark.integration  # seconds of computing
@pytest.mark.parametrize(
    ("noise", "resolution"),
    [
        (0.5, 80),
        *(pytest.param(*case, marks=pytest.mark.long) for case in [(0.25, 80), (1.0, 128)]),
    ],
)
def test_a_noisy_scene_loses_no_crumb(
    fitted: Callable[[float], Density], noise: float, resolution: int
) -> None:
    surface = assert_same(fitted(noise), resolution, radius=0.87, level=25.0)
    assert surface.queries < 450_000  # at any resolution here: 275 thousand are the coarse lattice


def test_the_reference_makes_the_same_vertices() -> None:
    golden = np.load(DATA / "tsr-tiny" / "golden.npz")
    grid = golden["density_act_grid"]
    n = len(grid)

    def field(points: Array) -> Array:
        x, y, z = np.rint((points / 0.87 + 1) / 2 * (n - 1)).astype(int).T
        return np.asarray(grid[x, y, z], np.float32)

    surface = extract(field, resolution=n, radius=0.87, level=25.0)
    assert_closed(surface)
    ours, theirs = ((v / 0.87 + 1) / 2 * (n - 1) for v in (surface.vertices, golden["mesh_vertices"]))
    # The cap's vertices are at samples (where another may be by chance), Lewiner's own are on no grid edge.
    fractions = np.abs(ours - np.rint(ours)) > 1e-4
    edges = fractions.sum(axis=1) == 1
    assert edges.sum() > 8000
    assert cKDTree(theirs).query(ours[edges])[0].max() < 1e-2
    assert cKDTree(ours).query(theirs)[0].max() < 1e-2


# 129 samples and a coarse lattice of 17: a coarse step is 8 samples, the half step 4.
STEP = 2 / 16


@pytest.mark.parametrize("center", [(STEP / 2, STEP / 2, STEP / 2), (0.4375, -0.5625, 0.0625)])
def test_a_ball_that_reaches_over_a_coarse_cell_is_found_wherever_it_is(
    center: tuple[float, float, float],
) -> None:
    # The centres are as far from the lattice as can be; signs alone give the slopes nothing to see.
    field = ball(center, 1.001 * np.sqrt(3) / 2 * STEP)
    for case, parts in ((field, 1), (hollow(field), 2)):
        surface = extract(lambda p, f=case: np.sign(f(p)), resolution=129, radius=1, level=0, lattice=17)  # type: ignore[misc]
        mesh = trimesh.Trimesh(surface.vertices, surface.faces, process=False)
        assert mesh.is_watertight
        assert mesh.body_count == parts


def test_a_small_floater_near_the_rest_is_found() -> None:
    # No coarse sample is in it, a half-step one is; the steps of the field give the slopes nothing to see.
    crumb = ball((STEP * 5.5, STEP / 2, STEP / 2), 0.02)
    rest = ball((0, 0, 0), STEP * 4.6)
    field = union(rest, crumb)
    surface = extract(lambda p: np.sign(field(p)), resolution=129, radius=1, level=0, lattice=17)
    assert trimesh.Trimesh(surface.vertices, surface.faces, process=False).body_count == 2
    alone = extract(lambda p: np.sign(crumb(p)), resolution=129, radius=1, level=0, lattice=17)
    assert len(alone.faces) == 0


def test_a_sheet_between_the_lattice_planes_is_found_by_its_slopes() -> None:
    for shift in (0.25, 0.5, 0.7):
        sheet = box((0.02, 0.03, STEP * shift), (0.5, 0.4, 0.011))
        surface = extract(sheet, resolution=129, radius=1, level=0, lattice=17)
        np.testing.assert_array_equal(surface.faces, dense(sheet, 129, 1, 0)[1])


def test_a_thread_is_followed_to_its_end() -> None:
    # Between all lattice lines, one sample thick, around a corner, with a crumb of a ball at its end.
    a, b, c = ((STEP * x, STEP * y, STEP * 0.3) for x, y in ((0, 0.3), (6.3, 0.3), (6.3, -6.4)))
    field = union(ball((0, 0, 0), 0.2), rod(a, b, 0.012), rod(b, c, 0.012), ball(c, 0.02))
    surface = extract(lambda p: np.sign(field(p)), resolution=129, radius=1, level=0, lattice=17)
    assert trimesh.Trimesh(surface.vertices, surface.faces, process=False).body_count == 1
    assert surface.vertices[:, 1].min() < STEP * -6.4


def test_what_reaches_the_faces_is_closed_there_flat() -> None:
    surface = extract(SHAPES["all inside"], resolution=70, radius=0.87, level=0.5)
    np.testing.assert_allclose(np.abs(surface.vertices).max(axis=1), 0.87, atol=1e-6)
    assert trimesh.Trimesh(surface.vertices, surface.faces).volume == pytest.approx(1.74**3)


@pytest.mark.parametrize("value", [-1.0, 0.0, np.nan, -np.inf])
def test_nothing_inside_is_an_empty_surface(value: float) -> None:
    surface = extract(lambda p: np.full(len(p), value, np.float32), resolution=80, radius=1, level=0)
    assert surface.vertices.shape == (0, 3)
    assert surface.faces.shape == (0, 3)
    assert surface.vertices.dtype == np.float32
    assert surface.faces.dtype == np.int32


def test_infinity_is_inside_and_what_is_not_a_number_is_outside() -> None:
    def field(points: Array) -> Array:
        values = SHAPES["ball"](points)
        values[length(points) < 0.5] = np.inf
        values[points[:, 0] > 0.3] = np.nan
        values[points[:, 0] < -0.6] = -np.inf
        return values

    surface = assert_same(field, 90)
    assert np.isfinite(surface.vertices).all()
    assert surface.vertices[:, 0].max() < 0.31
    assert assert_same(lambda p: np.where(p[:, 0] > 0.5, np.inf, -np.inf).astype(np.float32), 70).queries


@pytest.mark.integration  # seconds of computing
def test_few_points_are_asked_for_in_pieces_none_twice_and_the_same_again() -> None:
    asked: list[Array] = []

    def field(points: Array) -> Array:
        asked.append(points)
        return torus(points)

    surface = extract(field, resolution=256, radius=1, level=0)
    points = np.concatenate(asked)
    assert max(map(len, asked)) <= 1 << 17
    assert points.dtype == np.float32
    assert len(points) == surface.queries < 0.06 * 256**3
    assert len(np.unique(points.view([("", np.float32)] * 3))) == len(points)
    again = extract(torus, resolution=256, radius=1, level=0)
    np.testing.assert_array_equal(surface.vertices, again.vertices)
    np.testing.assert_array_equal(surface.faces, again.faces)
    assert surface.queries == again.queries


@pytest.mark.integration  # seconds of computing
def test_memory_goes_by_the_surface() -> None:
    tracemalloc.start()
    try:
        surface = extract(SHAPES["torus"], resolution=512, radius=1, level=0)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert_closed(surface)
    assert surface.queries < 0.015 * 512**3
    assert peak < 200 * 2**20  # all samples alone would be 512 MiB


@pytest.mark.parametrize("resolution", [0, 1, 1025])
def test_a_grid_that_cannot_be_is_refused(resolution: int) -> None:
    with pytest.raises(ValueError, match=f"a grid of {resolution} samples"):
        extract(torus, resolution=resolution, radius=1, level=0)
    with pytest.raises(ValueError, match="a lattice of 1 samples"):
        extract(torus, resolution=64, radius=1, level=0, lattice=1)
