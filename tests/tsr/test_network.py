"""The reference's numbers, on its own small checkpoint. Tolerances: a few times the noise of float32."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file
from scipy.spatial import cKDTree
from torch import Tensor
from torch.nn.functional import grid_sample

from worker.tsr import Config, Field, TripoSR, composite_on_grey, load
from worker.tsr.field import Decoder
from worker.tsr.image import stack

TINY = Path(__file__).parent.parent / "data" / "tsr-tiny"
TOKENS, SCENE, DENSITY, COLOR = 2e-5, 6e-5, 8e-5, 1e-5

Golden = dict[str, NDArray[Any]]


@pytest.fixture(scope="module")
def golden() -> Golden:
    with np.load(TINY / "golden.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def model() -> TripoSR:
    return load(TINY)


@pytest.fixture
def field(model: TripoSR, golden: Golden) -> Field:
    return model.field(torch.from_numpy(golden["scene_code"]))


def off(ours: Tensor, golden: NDArray[Any]) -> float:
    assert ours.dtype == torch.float32
    assert tuple(ours.shape) == golden.shape
    return float(np.abs(ours.numpy() - golden).max())


def test_a_photo_that_is_not_square_is_resized_as_the_reference_does(golden: Golden) -> None:
    assert off(stack([golden["image"]], 64)[0], golden["image_resized"]) < 2e-6


def test_position_embeddings_are_resampled_by_the_factor_that_the_network_was_trained_with(
    model: TripoSR, golden: Golden
) -> None:
    assert off(model.image_tokenizer.model.embeddings.positions[0], golden["pos_embed"]) < 2e-6


def test_position_embeddings_are_taken_as_they_are_where_the_sizes_agree() -> None:
    model = load(TINY)
    embeddings = model.image_tokenizer.model.embeddings
    embeddings.side = 14

    assert embeddings.positions is embeddings.position_embeddings


def test_patches_are_embedded(model: TripoSR, golden: Golden) -> None:
    seen = []
    hook = model.image_tokenizer.model.embeddings.register_forward_hook(lambda *call: seen.append(call[2]))
    model.image_tokens([golden["image"]])
    hook.remove()

    assert off(seen[0][0], golden["vit_embeddings"]) < TOKENS


def test_image_tokens(model: TripoSR, golden: Golden) -> None:
    assert off(model.image_tokens([golden["image"]])[0], golden["image_tokens"]) < TOKENS


def test_the_backbone(model: TripoSR, golden: Golden) -> None:
    tokens = model.tokenizer()
    image_tokens = torch.from_numpy(golden["image_tokens"])[None]

    assert (
        off(
            model.backbone(tokens, model.backbone.precompute(tokens), image_tokens)[0], golden["backbone_out"]
        )
        < SCENE
    )


def test_scene_codes_of_photos_of_different_shapes_in_one_batch(model: TripoSR, golden: Golden) -> None:
    codes = model.encode([golden["image"], golden["image_b"]])

    assert off(codes[0], golden["scene_code"]) < SCENE
    assert off(codes[1], golden["scene_code_b"]) < SCENE


def test_a_second_photo_is_not_changed_by_what_was_kept_of_the_first(model: TripoSR, golden: Golden) -> None:
    model.encode([golden["image"]])

    assert off(model.encode([golden["image_b"]])[0], golden["scene_code_b"]) < SCENE


def test_density_and_colour_inside_and_outside_the_cube(field: Field, golden: Golden) -> None:
    points = golden["points"]
    assert (np.abs(points) > field.radius).any()

    assert off(field.raw_density(points), golden["density"][:, 0]) < DENSITY
    assert off(field.raw(points)[:, 1:], golden["features"]) < DENSITY
    assert off(field.color(points), golden["color"]) < COLOR
    density, color = field(torch.from_numpy(points))
    np.testing.assert_allclose(density, golden["density_act"][:, 0], rtol=DENSITY)
    np.testing.assert_allclose(field.density(points), density, rtol=1e-5)
    assert off(color, golden["color"]) < COLOR


def test_photo_to_colour_end_to_end(model: TripoSR, golden: Golden) -> None:
    field = model.field(model.encode([golden["image"]])[0])

    assert off(field.raw_density(golden["points"]), golden["density"][:, 0]) < DENSITY
    assert off(field.color(golden["mesh_vertices"]), golden["mesh_vertex_color"]) < COLOR


def test_the_grid_that_surfaces_are_drawn_on(field: Field, golden: Golden) -> None:
    axis = np.linspace(-field.radius, field.radius, 24, dtype=np.float32)
    points = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)

    np.testing.assert_allclose(
        field.density(points).reshape(24, 24, 24), golden["density_act_grid"], rtol=DENSITY
    )


def test_the_reference_s_vertices_are_where_the_density_crosses_its_level(
    field: Field, golden: Golden
) -> None:
    axis = np.linspace(-field.radius, field.radius, 24, dtype=np.float32)
    points = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1)  # (24, 24, 24, 3)
    density = field.density(points.reshape(-1, 3)).reshape(24, 24, 24).numpy().astype(np.float64)
    crossings = []
    for along in range(3):
        a, b = (np.moveaxis(density, along, 0)[ends] for ends in (slice(None, -1), slice(1, None)))
        start, end = (np.moveaxis(points, along, 0)[ends] for ends in (slice(None, -1), slice(1, None)))
        crossed = (a > field.level) != (b > field.level)
        part = ((field.level - a) / (b - a))[crossed][:, None]
        crossings.append(start[crossed] * (1 - part) + end[crossed] * part)
    ours, theirs = np.concatenate(crossings), golden["mesh_vertices"]
    voxel = 2 * field.radius / 23

    assert cKDTree(ours).query(theirs)[0].max() < 1e-3 * voxel
    assert cKDTree(theirs).query(ours)[0].max() < 1e-3 * voxel


def test_the_reference_s_camera_sees_the_same_picture(field: Field, golden: Golden) -> None:
    assert off(render(field, golden["rays_o"], golden["rays_d"], samples=32), golden["render"]) < 1e-4


def render(field: Field, origins: NDArray[Any], directions: NDArray[Any], samples: int) -> Tensor:
    """The reference's volume rendering: steps count as parts of the ray, not as lengths; the background is white."""
    origin, direction = torch.from_numpy(origins).reshape(-1, 3), torch.from_numpy(directions).reshape(-1, 3)
    bound = field.radius * (1 - 1e-3)
    sides = torch.stack([(-bound - origin) / direction, (bound - origin) / direction])
    near = sides.amin(0).amax(-1).clamp(min=0)
    far = sides.amax(0).amin(-1)
    hits = far - near > 0.01
    steps = (torch.arange(samples) + 0.5) / samples
    depth = near[:, None] + (far - near)[:, None] * steps
    points = origin[:, None] + direction[:, None] * depth[..., None]
    density, color = field(points[hits].reshape(-1, 3))
    opacity = 1 - torch.exp(-density.reshape(-1, samples) / samples)
    through = torch.cumprod(1 - opacity + 1e-10, dim=1).roll(1, dims=1)
    through[:, 0] = 1
    weight = (opacity * through)[..., None]
    picture = torch.ones(len(origin), 3)
    picture[hits] = (weight * color.reshape(-1, samples, 3)).sum(1) + 1 - weight.sum(1)
    return picture.reshape(origins.shape)


def test_the_grey_behind_a_cut_out_is_the_reference_s(golden: Golden) -> None:
    # The reference's framing, which loses the box's last row and column; ours is the pipeline's.
    rgba = golden["preprocess_rgba"]
    rows, columns = np.nonzero(rgba[..., 3])
    cut = rgba[rows.min() : rows.max(), columns.min() : columns.max()]
    for side in (max(cut.shape[:2]), int(max(cut.shape[:2]) / 0.85)):
        missing = [side - length for length in cut.shape[:2]]
        cut = np.pad(cut, [*((m // 2, m - m // 2) for m in missing), (0, 0)])

    np.testing.assert_array_equal(composite_on_grey(cut), golden["preprocess_rgb"])


@pytest.mark.parametrize(
    "kind",
    [
        Image.fromarray,
        np.flipud,
        lambda array: (array / 255).astype(np.float64),
        lambda array: np.broadcast_to(array, array.shape),  # read-only
    ],
)
def test_pictures_and_arrays_mean_the_same(model: TripoSR, kind: Callable[[Any], Any]) -> None:
    array = np.random.default_rng(0).integers(0, 256, (40, 30, 3), np.uint8)
    image = kind(array)
    same = np.flipud(array) if kind is np.flipud else array

    torch.testing.assert_close(model.encode([image]), model.encode([same.astype(np.float32) / 255]))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (Image.new("RGBA", (8, 8)), "RGBA has alpha"),
        (np.zeros((8, 8, 4), np.uint8), r"\(8, 8, 4\), must be"),
        (np.zeros((8, 8), np.uint8), r"\(8, 8\), must be"),
        (np.zeros((8, 8, 3), np.int64), "int64"),
    ],
)
def test_an_image_that_is_not_rgb_is_refused(model: TripoSR, image: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        model.encode([image])


def test_no_image_is_refused(model: TripoSR) -> None:
    with pytest.raises(ValueError, match="no image"):
        model.encode([])


def test_chunks_change_nothing(model: TripoSR, golden: Golden) -> None:
    code, points = torch.from_numpy(golden["scene_code"]), golden["points"]

    torch.testing.assert_close(
        model.field(code, chunk=7).raw(points), model.field(code).raw(points), atol=DENSITY, rtol=0
    )


def test_the_rearranged_decoder_equals_the_plain_one_at_full_size() -> None:
    fitted = TINY.parent / "tsr-fitted"
    code = torch.from_numpy(np.load(fitted / "scene_code.npy")).float()
    decoder = Decoder(Config())
    decoder.load_state_dict(load_file(fitted / "decoder.safetensors"))
    field = Field(code, decoder, Config())
    points = torch.rand(20_000, 3, generator=torch.Generator().manual_seed(0)) * 2 - 1

    with torch.no_grad():
        planes = torch.stack([points[:, [0, 1]], points[:, [0, 2]], points[:, [1, 2]]]) / field.radius
        samples = grid_sample(code, planes[:, None], align_corners=False)[:, :, 0]  # (3, C, N)
        plain = decoder.layers(samples.flatten(0, 1).T)

    torch.testing.assert_close(field.raw(points), plain, atol=5e-5, rtol=0)
    torch.testing.assert_close(field.raw_density(points), plain[:, 0], atol=5e-5, rtol=0)


def test_any_points_are_answered(field: Field) -> None:
    assert field.density(np.empty((0, 3))).shape == (0,)
    assert field.color(torch.empty(0, 3)).shape == (0, 3)
    nothing_there = field.density(np.array([[9, 9, 9], [1e30, -1e30, 1e30], [np.inf, 0, -np.inf]]))
    assert nothing_there[0] == nothing_there[1]
    assert torch.isnan(field.density(np.full((1, 3), np.nan))).all()
    read_only = np.zeros((3, 3), np.float32)
    read_only.flags.writeable = False
    assert field.density(read_only[::-1]).shape == (3,)
    with pytest.raises(ValueError, match=r"\(3,\), must be \(N, 3\)"):
        field.density(np.zeros(3))


def test_half_precision_stays_near_and_is_of_the_transformers_alone(golden: Golden) -> None:
    exact = torch.from_numpy(golden["scene_code"])
    for dtype, tolerance in ((torch.float16, 0.01), (torch.bfloat16, 0.05)):
        model = load(TINY, dtype=dtype)
        code = model.encode([golden["image"]])[0]

        assert code.dtype == torch.float32
        assert float((code - exact).norm() / exact.norm()) < tolerance
        assert off(model.field(exact).raw_density(golden["points"]), golden["density"][:, 0]) < DENSITY
