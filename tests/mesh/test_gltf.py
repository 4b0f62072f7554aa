import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trimesh

from worker.mesh.gltf import write_glb
from worker.mesh.textured import TexturedMesh


def written(
    path: Path, mesh: trimesh.Trimesh, extras: dict[str, Any] | None = None, **changed: Any
) -> tuple[dict[str, Any], bytes]:
    """Writes the mesh and takes the file apart by the letter of the specification."""
    texture = np.zeros((16, 16, 3), np.uint8)
    texture[..., 0] = 255
    values: dict[str, Any] = {
        "positions": np.asarray(mesh.vertices, np.float32),
        "normals": np.asarray(mesh.vertex_normals, np.float32),
        "uv": np.asarray(mesh.vertices[:, :2] * 0.5 + 0.5, np.float32),
        "faces": np.asarray(mesh.faces, np.int32),
        "texture": texture,
        "watertight": True,
    }
    write_glb(path, TexturedMesh(**(values | changed)), extras=extras or {"job_id": "ä1"})
    data = path.read_bytes()
    magic, version, length, json_length, json_kind = struct.unpack_from("<4sIII4s", data)
    assert (magic, version, length, json_kind) == (b"glTF", 2, len(data), b"JSON")
    binary_length, binary_kind = struct.unpack_from("<I4s", data, 20 + json_length)
    assert binary_kind == b"BIN\0"
    assert 20 + json_length + 8 + binary_length == len(data)
    assert json_length % 4 == binary_length % 4 == 0
    return json.loads(data[20 : 20 + json_length]), data[28 + json_length :]


def test_the_file_holds_one_of_each_and_no_extension(tmp_path: Path) -> None:
    document, binary = written(tmp_path / "model.glb", trimesh.creation.icosphere(2))
    for key in ("scenes", "nodes", "meshes", "materials", "textures", "images", "buffers"):
        assert len(document[key]) == 1, key
    assert not {"extensionsUsed", "extensionsRequired"} & set(document)
    assert document["asset"]["version"] == "2.0"
    assert document["asset"]["extras"] == {"job_id": "ä1"}
    (primitive,) = document["meshes"][0]["primitives"]
    assert set(primitive["attributes"]) == {"POSITION", "NORMAL", "TEXCOORD_0"}
    material = document["materials"][0]
    assert material["pbrMetallicRoughness"]["metallicFactor"] == 0
    assert material["pbrMetallicRoughness"]["roughnessFactor"] == 0.85
    assert material["doubleSided"] is False
    assert material.get("alphaMode", "OPAQUE") == "OPAQUE"
    assert [view.get("target") for view in document["bufferViews"]] == [34962, 34962, 34962, 34963, None]
    assert all(view["byteOffset"] % 4 == 0 for view in document["bufferViews"])
    assert document["buffers"][0]["byteLength"] == len(binary)
    picture = document["bufferViews"][document["images"][0]["bufferView"]]
    assert binary[picture["byteOffset"] :][:3] == b"\xff\xd8\xff", "not a JPEG"


def test_an_independent_reader_finds_the_same_mesh(tmp_path: Path) -> None:
    mesh = trimesh.creation.icosphere(3)
    document, _ = written(tmp_path / "model.glb", mesh)
    # As a scene: trimesh computes normals of its own where it joins a scene to one mesh.
    scene: Any = trimesh.load_scene(tmp_path / "model.glb", process=False)
    (read,) = scene.geometry.values()
    np.testing.assert_array_equal(read.vertices, mesh.vertices.astype(np.float32))
    np.testing.assert_array_equal(read.faces, mesh.faces)
    np.testing.assert_allclose(read.vertex_normals, mesh.vertex_normals, atol=1e-6)
    np.testing.assert_allclose(read.visual.uv[:, 1], 0.5 - mesh.vertices[:, 1] * 0.5, atol=1e-6)
    assert read.visual.material.baseColorTexture.getpixel((5, 5))[0] > 250
    position = document["accessors"][0]
    np.testing.assert_array_equal(position["min"], read.vertices.min(axis=0))
    np.testing.assert_array_equal(position["max"], read.vertices.max(axis=0))


@pytest.mark.parametrize(("vertices", "component"), [(65_534, 5123), (65_535, 5125)])
def test_indices_are_as_short_as_they_can_be(tmp_path: Path, vertices: int, component: int) -> None:
    grid = np.zeros((vertices, 3), np.float32)
    grid[:, 0] = np.arange(vertices)
    faces = np.array([[0, 1, vertices - 1]], np.int32)
    document, binary = written(
        tmp_path / "model.glb",
        trimesh.creation.box(),
        positions=grid,
        normals=np.tile(np.array([0, 0, 1], np.float32), (vertices, 1)),
        uv=np.zeros((vertices, 2), np.float32),
        faces=faces,
    )
    accessor = document["accessors"][3]
    assert accessor["componentType"] == component
    offset = document["bufferViews"][accessor["bufferView"]]["byteOffset"]
    kind = {5123: "<u2", 5125: "<u4"}[component]
    np.testing.assert_array_equal(np.frombuffer(binary, kind, 3, offset), faces[0])


def test_what_json_cannot_say_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        written(tmp_path / "model.glb", trimesh.creation.box(), extras={"score": float("nan")})
    assert not (tmp_path / "model.glb").exists()
