"""The smallest files of each kind that a job leaves, with a payload that makes them differ."""

import io
import json
import struct
import zipfile
import zlib


def glb(payload: bytes = b"", **changes: object) -> bytes:
    """A GLB with one mesh, whose only buffer is the payload."""
    binary = payload + bytes(-len(payload) % 4)
    document = {
        "asset": {"version": "2.0"},
        "meshes": [{"primitives": []}],
        "buffers": [{"byteLength": len(binary)}],
        "bufferViews": [{"buffer": 0, "byteLength": len(binary)}],
    } | changes
    text = json.dumps(document).encode()
    text += b" " * (-len(text) % 4)
    parts = (
        struct.pack("<I4s", len(text), b"JSON") + text + struct.pack("<I4s", len(binary), b"BIN\0") + binary
    )
    return struct.pack("<4sII", b"glTF", 2, 12 + len(parts)) + parts


def png(payload: bytes = b"", side: int = 1) -> bytes:
    """A PNG of one black pixel, with the payload as a text."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
        + chunk(b"tEXt", b"a\0" + payload)
        + chunk(b"IDAT", zlib.compress(b"\0\0"))
        + chunk(b"IEND", b"")
    )


def webp(payload: bytes = b"") -> bytes:
    """A WebP whose picture is the payload."""
    chunk = b"VP8L" + struct.pack("<I", len(payload)) + payload + bytes(len(payload) % 2)
    return b"RIFF" + struct.pack("<I", 4 + len(chunk)) + b"WEBP" + chunk


def usdz(payload: bytes = b"") -> bytes:
    """A package with one layer, the payload."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as package:
        package.writestr("model.usdc", payload)
    return buffer.getvalue()
