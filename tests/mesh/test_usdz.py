import io
import struct
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trimesh
from PIL import Image

from worker.mesh.textured import TexturedMesh
from worker.mesh.usdz import write_usdz

pxr: Any = pytest.importorskip("pxr", reason="the extra `usdz` is not installed")


@pytest.fixture(scope="module")
def textured() -> TexturedMesh:
    """A box of 0.1 by 0.2 by 0.3 m on the floor; the texture is red at the top, blue below."""
    mesh = trimesh.creation.box((0.1, 0.2, 0.3)).apply_translation([0, 0.1, 0])
    mesh.unmerge_vertices()
    uv = np.stack([mesh.vertices[:, 0] * 10 + 0.5, 1 - mesh.vertices[:, 1] * 5], axis=1)
    texture = np.zeros((64, 64, 3), np.uint8)
    texture[:32, :, 0], texture[32:, :, 2] = 255, 255
    return TexturedMesh(
        positions=np.asarray(mesh.vertices, np.float32),
        normals=np.asarray(mesh.vertex_normals, np.float32),
        uv=uv.astype(np.float32),
        faces=np.asarray(mesh.faces, np.int32),
        texture=texture,
        watertight=True,
    )


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory, textured: TexturedMesh) -> Path:
    path = tmp_path_factory.mktemp("usdz") / "model.usdz"
    write_usdz(path, textured, {"engine": "relief", "photos": {"front": "aa"}})
    return path


def test_usds_own_validators_find_nothing(package: Path) -> None:
    from pxr import Usd, UsdValidation

    stage = Usd.Stage.Open(str(package))
    validators = UsdValidation.ValidationRegistry().GetOrLoadAllValidators()
    names = {validator.GetMetadata().name for validator in validators}
    assert "usdUtilsValidators:UsdzPackageValidator" in names, "those of the package itself are among them"
    found = UsdValidation.ValidationContext(validators).Validate(stage)
    assert [(error.GetName(), error.GetMessage()) for error in found] == []


def test_the_package_is_as_quick_look_reads_it(package: Path) -> None:
    data = package.read_bytes()
    with zipfile.ZipFile(package) as files:
        entries = files.infolist()
        assert entries[0].filename.endswith(".usdc"), "the model comes first"
        assert {Path(entry.filename).suffix for entry in entries} == {".usdc", ".jpg"}
        for entry in entries:
            assert entry.compress_type == zipfile.ZIP_STORED
            name, extra = struct.unpack_from("<HH", data, entry.header_offset + 26)
            assert (entry.header_offset + 30 + name + extra) % 64 == 0, "aligned"
        with Image.open(io.BytesIO(files.read(entries[1]))) as texture:
            assert (texture.format, texture.size) == ("JPEG", (64, 64))


def test_it_is_in_metres_y_up_and_standing_on_the_origin(package: Path) -> None:
    from pxr import Usd, UsdGeom

    stage = Usd.Stage.Open(str(package))
    assert UsdGeom.GetStageUpAxis(stage) == "Y"
    assert UsdGeom.GetStageMetersPerUnit(stage) == 1
    bound = UsdGeom.BBoxCache(Usd.TimeCode.Default(), ["default"]).ComputeWorldBound(stage.GetDefaultPrim())
    box = bound.ComputeAlignedRange()
    np.testing.assert_allclose([*box.GetMin(), *box.GetMax()], [-0.05, 0, -0.15, 0.05, 0.2, 0.15], atol=1e-6)


def test_the_texture_is_the_right_way_up(package: Path) -> None:
    from pxr import Usd, UsdGeom

    stage = Usd.Stage.Open(str(package))
    mesh = UsdGeom.Mesh(stage.GetPrimAtPath("/model/mesh"))
    points = np.asarray(mesh.GetPointsAttr().Get())
    st = np.asarray(UsdGeom.PrimvarsAPI(mesh).GetPrimvar("st").Get())
    # In USD v runs upwards: the picture's first row is at v = 1, and belongs to the top.
    np.testing.assert_allclose(st[:, 1], points[:, 1] * 5, atol=1e-5)


def test_nothing_is_left_beside_it(package: Path) -> None:
    assert [path.name for path in package.parent.iterdir()] == ["model.usdz"]


def test_neither_the_time_nor_the_place_nor_the_length_of_a_note_matters(
    package: Path, textured: TexturedMesh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "Etc/GMT+7")
    time.tzset()
    write_usdz(tmp_path / "again.usdz", textured, {"engine": "relief", "photos": {"front": "aa"}})
    monkeypatch.undo()
    time.tzset()
    assert (tmp_path / "again.usdz").read_bytes() == package.read_bytes()
    for length in range(64):
        write_usdz(tmp_path / "long.usdz", textured, {"engine": "x" * length})
        test_the_package_is_as_quick_look_reads_it(tmp_path / "long.usdz")
