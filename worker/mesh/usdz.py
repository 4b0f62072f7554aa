"""A textured mesh → a USDZ package for AR Quick Look. Needs usd-core, the extra `usdz`."""

import io
import shutil
import struct
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from worker.mesh.textured import TexturedMesh

TEXTURE = "texture.jpg"
HEADER = 30  # bytes before the name of a file in a zip
ALIGNMENT = 64  # bytes: where each file of a package begins, so that a reader can map it into memory
PADDING = 0x1986  # the kind of extra field that USD pads with


def write_usdz(path: Path, mesh: TexturedMesh, notes: Mapping[str, Any] | None = None) -> None:
    """Write one mesh with one UsdPreviewSurface, the same that `write_glb` writes.

    Args:
        path: of the package; an existing one is overwritten. Its folder takes the intermediate files.
        mesh: what to write. Its inside is drawn too unless it is watertight.
        notes: strings, and objects of strings, for the layer's customLayerData.

    Raises: ImportError if usd-core is not installed, OSError.
    """
    from pxr import Gf, Sdf, Usd, UsdGeom, UsdShade, Vt  # noqa: PLC0415 - an optional extra, 150 MB

    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        picture = io.BytesIO()
        Image.fromarray(mesh.texture).save(picture, "JPEG", quality=90, optimize=True)
        layer = Path(folder) / "model.usdc"
        stage = Usd.Stage.CreateNew(str(layer))
        stage.GetRootLayer().customLayerData = dict(notes or {})
        UsdGeom.SetStageUpAxis(stage, UsdGeom.Tokens.y)
        UsdGeom.SetStageMetersPerUnit(stage, 1.0)
        root = UsdGeom.Xform.Define(stage, "/model")
        stage.SetDefaultPrim(root.GetPrim())

        prim = UsdGeom.Mesh.Define(stage, "/model/mesh")
        prim.CreatePointsAttr(Vt.Vec3fArray.FromNumpy(np.ascontiguousarray(mesh.positions, np.float32)))
        prim.CreateFaceVertexCountsAttr(Vt.IntArray.FromNumpy(np.full(len(mesh.faces), 3, np.int32)))
        prim.CreateFaceVertexIndicesAttr(
            Vt.IntArray.FromNumpy(np.ascontiguousarray(mesh.faces, np.int32).ravel())
        )
        prim.CreateNormalsAttr(Vt.Vec3fArray.FromNumpy(np.ascontiguousarray(mesh.normals, np.float32)))
        prim.SetNormalsInterpolation(UsdGeom.Tokens.vertex)
        prim.CreateSubdivisionSchemeAttr(UsdGeom.Tokens.none)
        prim.CreateDoubleSidedAttr(mesh.double_sided)
        prim.CreateExtentAttr(
            [Gf.Vec3f(*map(float, bound(mesh.positions, axis=0))) for bound in (np.min, np.max)]
        )
        up = np.ascontiguousarray(
            np.stack([mesh.uv[:, 0], 1 - mesh.uv[:, 1]], axis=1), np.float32
        )  # v upwards
        UsdGeom.PrimvarsAPI(prim).CreatePrimvar(
            "st", Sdf.ValueTypeNames.TexCoord2fArray, UsdGeom.Tokens.vertex
        ).Set(Vt.Vec2fArray.FromNumpy(up))

        material = UsdShade.Material.Define(stage, "/model/material")
        surface = UsdShade.Shader.Define(stage, "/model/material/surface")
        surface.CreateIdAttr("UsdPreviewSurface")
        reader = UsdShade.Shader.Define(stage, "/model/material/st")
        reader.CreateIdAttr("UsdPrimvarReader_float2")
        reader.CreateInput("varname", Sdf.ValueTypeNames.String).Set("st")
        image = UsdShade.Shader.Define(stage, "/model/material/texture")
        image.CreateIdAttr("UsdUVTexture")
        image.CreateInput("file", Sdf.ValueTypeNames.Asset).Set(Sdf.AssetPath(TEXTURE))
        image.CreateInput("sourceColorSpace", Sdf.ValueTypeNames.Token).Set("sRGB")
        image.CreateInput("wrapS", Sdf.ValueTypeNames.Token).Set("clamp")
        image.CreateInput("wrapT", Sdf.ValueTypeNames.Token).Set("clamp")
        image.CreateInput("st", Sdf.ValueTypeNames.Float2).ConnectToSource(
            reader.CreateOutput("result", Sdf.ValueTypeNames.Float2)
        )
        surface.CreateInput("diffuseColor", Sdf.ValueTypeNames.Color3f).ConnectToSource(
            image.CreateOutput("rgb", Sdf.ValueTypeNames.Float3)
        )
        surface.CreateInput("metallic", Sdf.ValueTypeNames.Float).Set(0.0)
        surface.CreateInput("roughness", Sdf.ValueTypeNames.Float).Set(0.85)
        material.CreateSurfaceOutput().ConnectToSource(
            surface.CreateOutput("surface", Sdf.ValueTypeNames.Token)
        )
        UsdShade.MaterialBindingAPI.Apply(prim.GetPrim()).Bind(material)
        stage.GetRootLayer().Save()

        draft = Path(folder) / "model.usdz"
        _pack(draft, {layer.name: layer.read_bytes(), TEXTURE: picture.getvalue()})
        shutil.move(draft, path)


def _pack(path: Path, files: Mapping[str, bytes]) -> None:
    """Write a package; the layer comes first. USD's own writer stamps the local time on each file, so no two runs are alike."""
    at = 0
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as package:
        for name, data in files.items():
            entry = zipfile.ZipInfo(name)  # of 1980
            begin = at + HEADER + len(name)
            padding = -begin % ALIGNMENT
            if 0 < padding < 4:  # a field has a head of four bytes
                padding += ALIGNMENT
            if padding:
                entry.extra = struct.pack("<HH", PADDING, padding - 4) + bytes(padding - 4)
            package.writestr(entry, data)
            at = begin + padding + len(data)
