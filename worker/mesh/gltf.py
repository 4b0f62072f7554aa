"""A textured mesh → a binary glTF 2.0 file, with core features only, which every reader accepts."""

import io
import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from worker.mesh.textured import TexturedMesh

GENERATOR = "shop-model-worker"
NAME = "model"  # of node, mesh and material: the bytes depend on no product
FLOAT, USHORT, UINT = 5126, 5123, 5125  # component types of accessors, as OpenGL numbers them
VERTICES, INDICES = 34962, 34963  # the targets of buffer views


def write_glb(
    path: Path,
    mesh: TexturedMesh,
    *,
    extras: Mapping[str, Any],
    jpeg_quality: int = 90,
) -> None:
    """Write one mesh of one primitive with one opaque material.

    Args:
        path: of the file; an existing one is overwritten.
        mesh: what to write. Its inside is drawn too unless it is watertight.
        extras: JSON-able, goes to `asset.extras`.
        jpeg_quality: of the texture, 1 to 95. Colours keep their full resolution, so that islands do not bleed into each
            other.

    Raises: ValueError if `extras` are not JSON, OSError.
    """
    picture = io.BytesIO()
    Image.fromarray(mesh.texture).save(picture, "JPEG", quality=jpeg_quality, subsampling=0)
    small = len(mesh.positions) < 0xFFFF  # the greatest value of a type is not allowed as an index
    indices = np.ascontiguousarray(mesh.faces, "<u2" if small else "<u4")
    chunks = [
        (np.ascontiguousarray(mesh.positions, "<f4").tobytes(), VERTICES),
        (np.ascontiguousarray(mesh.normals, "<f4").tobytes(), VERTICES),
        (np.ascontiguousarray(mesh.uv, "<f4").tobytes(), VERTICES),
        (indices.tobytes(), INDICES),
        (picture.getvalue(), None),
    ]
    views: list[dict[str, int]] = []
    binary = bytearray()
    for data, target in chunks:
        binary += bytes(-len(binary) % 4)
        view = {"buffer": 0, "byteOffset": len(binary), "byteLength": len(data)}
        views.append(view | ({"target": target} if target else {}))
        binary += data
    binary += bytes(-len(binary) % 4)

    def accessor(view: int, kind: str, component: int, count: int, **bounds: list[float]) -> dict[str, Any]:
        return {"bufferView": view, "componentType": component, "count": count, "type": kind, **bounds}

    count = len(mesh.positions)
    low, high = mesh.positions.min(axis=0).tolist(), mesh.positions.max(axis=0).tolist()
    document = {
        "asset": {"version": "2.0", "generator": GENERATOR, "extras": dict(extras)},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0, "name": NAME}],
        "meshes": [
            {
                "name": NAME,
                "primitives": [
                    {"attributes": {"POSITION": 0, "NORMAL": 1, "TEXCOORD_0": 2}, "indices": 3, "material": 0}
                ],
            }
        ],
        "materials": [
            {
                "name": NAME,
                "pbrMetallicRoughness": {
                    "baseColorTexture": {"index": 0},
                    "metallicFactor": 0.0,
                    "roughnessFactor": 0.85,
                },
                "doubleSided": mesh.double_sided,
            }
        ],
        "textures": [{"source": 0, "sampler": 0}],
        "samplers": [{"magFilter": 9729, "minFilter": 9987, "wrapS": 33071, "wrapT": 33071}],
        "images": [{"bufferView": 4, "mimeType": "image/jpeg"}],
        "accessors": [
            accessor(0, "VEC3", FLOAT, count, min=low, max=high),
            accessor(1, "VEC3", FLOAT, count),
            accessor(2, "VEC2", FLOAT, count),
            accessor(3, "SCALAR", USHORT if small else UINT, mesh.faces.size),
        ],
        "bufferViews": views,
        "buffers": [{"byteLength": len(binary)}],
    }
    text = json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    with path.open("wb") as file:
        file.write(struct.pack("<4sII", b"glTF", 2, 12 + 8 + len(text) + 8 + len(binary)))
        file.write(struct.pack("<I4s", len(text), b"JSON") + text)
        file.write(struct.pack("<I4s", len(binary), b"BIN\0") + binary)
