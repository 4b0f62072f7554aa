"""A textured mesh → a USDZ package for AR Quick Look. Needs usd-core, the extra `usdz`."""

import io
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def write_usdz(
    path: Path,
    *,
    positions: NDArray[np.float32],
    normals: NDArray[np.float32],
    uv: NDArray[np.float32],
    faces: NDArray[np.int32],
    texture: NDArray[np.uint8],
    double_sided: bool,
) -> None:
    """One mesh with one UsdPreviewSurface; the same as `write_glb` writes.

    Args:
        path: of the package, written over.
        positions: (V, 3) metres, y up, the front towards +z.
        normals: (V, 3) unit vectors.
        uv: (V, 2), v downwards.
        faces: (F, 3), counter-clockwise from outside.
        texture: (S, S, 3) sRGB.
        double_sided: whether the inside can be seen.

    Raises: ImportError without usd-core.
    """
    from pxr import Gf, Sdf, Usd, UsdGeom, UsdShade, UsdUtils, Vt  # noqa: PLC0415 - an optional extra, 150 MB

    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        picture = io.BytesIO()
        Image.fromarray(texture).save(picture, "JPEG", quality=90, optimize=True)
        (Path(folder) / "texture.jpg").write_bytes(picture.getvalue())
        layer = Path(folder) / "model.usdc"
        stage = Usd.Stage.CreateNew(str(layer))
        UsdGeom.SetStageUpAxis(stage, UsdGeom.Tokens.y)
        UsdGeom.SetStageMetersPerUnit(stage, 1.0)
        root = UsdGeom.Xform.Define(stage, "/model")
        stage.SetDefaultPrim(root.GetPrim())

        mesh = UsdGeom.Mesh.Define(stage, "/model/mesh")
        mesh.CreatePointsAttr(Vt.Vec3fArray.FromNumpy(np.ascontiguousarray(positions, np.float32)))
        mesh.CreateFaceVertexCountsAttr(Vt.IntArray.FromNumpy(np.full(len(faces), 3, np.int32)))
        mesh.CreateFaceVertexIndicesAttr(Vt.IntArray.FromNumpy(np.ascontiguousarray(faces, np.int32).ravel()))
        mesh.CreateNormalsAttr(Vt.Vec3fArray.FromNumpy(np.ascontiguousarray(normals, np.float32)))
        mesh.SetNormalsInterpolation(UsdGeom.Tokens.vertex)
        mesh.CreateSubdivisionSchemeAttr(UsdGeom.Tokens.none)
        mesh.CreateDoubleSidedAttr(double_sided)
        mesh.CreateExtentAttr([Gf.Vec3f(*map(float, bound(positions, axis=0))) for bound in (np.min, np.max)])
        up = np.ascontiguousarray(np.stack([uv[:, 0], 1 - uv[:, 1]], axis=1), np.float32)  # v upwards
        UsdGeom.PrimvarsAPI(mesh).CreatePrimvar(
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
        image.CreateInput("file", Sdf.ValueTypeNames.Asset).Set(Sdf.AssetPath("texture.jpg"))
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
        UsdShade.MaterialBindingAPI.Apply(mesh.GetPrim()).Bind(material)
        stage.GetRootLayer().Save()

        draft = Path(folder) / "model.usdz"
        if not UsdUtils.CreateNewARKitUsdzPackage(Sdf.AssetPath(str(layer)), str(draft)):
            raise OSError("USD could not write the package.")
        draft.replace(path)
