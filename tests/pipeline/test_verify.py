"""Damage between writing a GLB and publishing it: each kind is found, and a sound file passes."""

import json
import struct
from collections.abc import Callable, Mapping
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trimesh
from PIL import Image

from worker.core.errors import JobError
from worker.engines.presets import Preset
from worker.engines.surface import Surface
from worker.mesh.gltf import write_glb
from worker.mesh.textured import TexturedMesh
from worker.pipeline.finish import finish
from worker.pipeline.verify import verify_glb

SMALL = Preset(name="small", grid=64, triangles=2000, texture=256)
Document = dict[str, Any]
Damage = Callable[[Document, bytearray], None]
POSITION, NORMAL, UV, INDEX, IMAGE = range(5)  # the buffer views, in the order of `write_glb`


def ball() -> Surface:
    mesh = trimesh.creation.icosphere(4, 2.0)
    return Surface(
        vertices=np.asarray(mesh.vertices, np.float32),
        faces=np.asarray(mesh.faces, np.int32),
        color=lambda points: np.tile(np.array((0.8, 0.2, 0.1), np.float32), (len(points), 1)),
    )


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, Mapping[str, Any]]:
    folder = tmp_path_factory.mktemp("sound")
    report = finish(ball(), SMALL, folder, extras={}).report
    return (folder / "model.glb").read_bytes(), report


def taken_apart(data: bytes) -> tuple[Document, bytearray]:
    (length,) = struct.unpack_from("<I", data, 12)
    return json.loads(data[20 : 20 + length]), bytearray(data[28 + length :])


def put_together(document: Document, binary: bytearray) -> bytes:
    """A GLB whose lengths are right, whatever it holds."""
    text = json.dumps(document).encode()
    text += b" " * (-len(text) % 4)
    binary = binary + bytes(-len(binary) % 4)
    return (
        struct.pack("<4sII", b"glTF", 2, 28 + len(text) + len(binary))
        + struct.pack("<I4s", len(text), b"JSON")
        + text
        + struct.pack("<I4s", len(binary), b"BIN\0")
        + binary
    )


def start(document: Document, view: int) -> int:
    return int(document["bufferViews"][view]["byteOffset"])


def put(view: int, value: float, *, at: int = 40) -> Damage:
    def damage(document: Document, binary: bytearray) -> None:
        struct.pack_into("<f", binary, start(document, view) + at, value)

    return damage


def corner_that_is_not_there(document: Document, binary: bytearray) -> None:
    struct.pack_into("<H", binary, start(document, INDEX), document["accessors"][POSITION]["count"])


def triangle_left_out(document: Document, binary: bytearray) -> None:  # noqa: ARG001 - a Damage
    document["accessors"][INDEX]["count"] -= 3


def hole(document: Document, binary: bytearray) -> None:
    """The first triangle in the place of the second: the count stays."""
    first = start(document, INDEX)
    binary[first + 6 : first + 12] = binary[first : first + 6]


def millimetres(document: Document, binary: bytearray) -> None:  # noqa: ARG001
    document["nodes"][0]["scale"] = [1000, 1000, 1000]


def no_texture(document: Document, binary: bytearray) -> None:  # noqa: ARG001
    del document["images"], document["textures"]
    del document["materials"][0]["pbrMetallicRoughness"]["baseColorTexture"]


def no_material(document: Document, binary: bytearray) -> None:  # noqa: ARG001
    del document["materials"], document["meshes"][0]["primitives"][0]["material"]


def half_a_texture(document: Document, binary: bytearray) -> None:  # noqa: ARG001
    document["bufferViews"][IMAGE]["byteLength"] //= 2


def texture_of_another_size(document: Document, binary: bytearray) -> None:
    picture = BytesIO()
    Image.new("RGB", (128, 256)).save(picture, "JPEG")
    document["bufferViews"][IMAGE]["byteLength"] = len(picture.getvalue())
    binary[start(document, IMAGE) :] = picture.getvalue()


def noise_for_a_texture(document: Document, binary: bytearray) -> None:
    binary[start(document, IMAGE) :] = np.random.default_rng(0).bytes(len(binary) - start(document, IMAGE))


def other_sides(document: Document, binary: bytearray) -> None:  # noqa: ARG001
    document["materials"][0]["doubleSided"] = True


def second_mesh(document: Document, binary: bytearray) -> None:  # noqa: ARG001
    document["nodes"].append(document["nodes"][0] | {"name": "again"})
    document["scenes"][0]["nodes"].append(1)


def no_normals(document: Document, binary: bytearray) -> None:
    count = document["accessors"][NORMAL]["count"]
    binary[start(document, NORMAL) : start(document, NORMAL) + 12 * count] = bytes(12 * count)


def file_beside_it(document: Document, binary: bytearray) -> None:  # noqa: ARG001
    document["buffers"] = [{"uri": "/etc/hostname", "byteLength": 4}]


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (corner_that_is_not_there, "corner"),
        (triangle_left_out, r"19\d\d triangles"),
        (hole, "closed"),
        (second_mesh, "one mesh"),
        (millimetres, "measures"),
        (put(POSITION, 3.0), "measures"),
        (put(POSITION, float("nan")), "nowhere"),
        (put(POSITION, float("inf")), "nowhere"),
        (put(NORMAL, float("nan")), "normals"),
        (put(NORMAL, 2.0), "normals"),
        (no_normals, "normals"),
        (put(UV, float("nan")), "texture coordinates"),
        (put(UV, -0.5), "texture coordinates"),
        (put(UV, 1.5), "texture coordinates"),
        (no_texture, "texture"),
        (no_material, "cannot be read|texture"),
        (half_a_texture, "cannot be read"),
        (texture_of_another_size, "texture"),
        (noise_for_a_texture, "texture"),
        (other_sides, "sides"),
        (file_beside_it, "cannot be read"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_each_damage_is_found(sound: tuple[bytes, Mapping[str, Any]], damage: Damage, problem: str) -> None:
    data, report = sound
    document, binary = taken_apart(data)
    verify_glb(put_together(document, binary), report)
    damage(document, binary)
    with pytest.raises(JobError, match=problem) as error:
        verify_glb(put_together(document, binary), report)
    assert error.value.code == "internal_error"


def test_a_file_that_ends_early_is_found_wherever_it_ends(sound: tuple[bytes, Mapping[str, Any]]) -> None:
    data, report = sound
    verify_glb(data, report)
    for length in [0, 4, 11, 12, 19, 20, 27, *range(28, len(data), len(data) // 40), len(data) - 1]:
        with pytest.raises(JobError, match="damaged"):
            verify_glb(data[:length], report)
        # With a header that knows of it, only the reader finds it.
        if length >= 12:
            known = data[:8] + struct.pack("<I", length) + data[12:length]
            with pytest.raises(JobError, match="damaged"):
                verify_glb(known, report)


@pytest.mark.parametrize(
    ("claim", "value"),
    [
        ("triangles", 1),
        ("vertices", 1),
        ("texture_px", 512),
        ("size_m", [0.3, 0.3, 0.2]),
        ("watertight", False),
    ],
)
def test_each_claim_of_the_report_counts(
    sound: tuple[bytes, Mapping[str, Any]], claim: str, value: object
) -> None:
    data, report = sound
    with pytest.raises(JobError, match="damaged"):
        verify_glb(data, {**report, claim: value})


def test_no_broken_file_leaves_the_finish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(path: Path, mesh: TexturedMesh, **options: Any) -> None:
        write_glb(path, mesh, **options)
        path.write_bytes(path.read_bytes()[:-100])

    monkeypatch.setattr("worker.pipeline.finish.write_glb", broken)
    with pytest.raises(JobError) as error:
        finish(ball(), SMALL, tmp_path, extras={})
    assert error.value.code == "internal_error"


def test_nothing_in_the_extras_matters(tmp_path: Path) -> None:
    for name in ("../../etc/passwd", "<script>", "a\0b", "\u202e名前", "x" * 10_000, ""):
        finish(ball(), SMALL, tmp_path, extras={"said": name})


@pytest.mark.parametrize("size", [0.1, 10_000])
def test_tiny_and_huge_products_pass(tmp_path: Path, size: float) -> None:
    dimensions = {"height": size, "unit": "cm"}
    report = finish(ball(), SMALL, tmp_path, extras={}, dimensions=dimensions).report
    assert report["scale_source"] == "dimensions"


def test_an_open_mesh_passes_as_an_open_one(tmp_path: Path) -> None:
    whole = ball()
    fin = np.array([[whole.faces[0, 0], whole.faces[0, 1], len(whole.vertices)]], np.int32)
    surface = replace(
        whole,
        vertices=np.concatenate([whole.vertices, [[9, 9, 9]]]).astype(np.float32),
        faces=np.concatenate([whole.faces, fin]),
    )
    report = finish(surface, replace(SMALL, triangles=9000), tmp_path, extras={}).report
    assert report["watertight"] is False
