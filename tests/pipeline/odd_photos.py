"""Odd files as they lie in shops: what a browser shows of each is right. `test_browsers.py` compares."""

import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image, ImageCms, PngImagePlugin
from test_decode import picture, png


def encoded(image: Image.Image, form: str, **options: Any) -> bytes:
    """The bytes of a file."""
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def exif(orientation: int) -> bytes:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags.tobytes()


def xmp(orientation: int) -> bytes:
    return (
        '<?xpacket begin="" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF '
        'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about="" '
        f'xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="{orientation}"/></rdf:RDF></x:xmpmeta>'
        '<?xpacket end="w"?>'
    ).encode()


def png_text(orientation: int) -> PngImagePlugin.PngInfo:
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", xmp(orientation).decode())
    return info


def with_chunks(content: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG with more chunks after its header."""
    made = b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )
    return content[:33] + made + content[33:]


def gamma(value: float) -> tuple[bytes, bytes]:
    return b"gAMA", struct.pack(">I", round(value * 100_000))


SRGB_CHROMATICITIES = (
    b"cHRM",
    struct.pack(">8I", 31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000),
)


def grey_16(transparent: bool) -> bytes:
    """Two halves: a light one, and one whose grey the file declares transparent."""
    levels = np.full((120, 160), 40_000, ">u2")
    levels[:, 80:] = 12_345
    rows = b"".join(b"\0" + row.tobytes() for row in levels)
    return png(160, 120, 16, 0, rows, *([(b"tRNS", struct.pack(">H", 12_345))] if transparent else []))


def rgb_16(transparent: bool) -> bytes:
    levels = np.full((120, 160, 3), (40_000, 20_000, 10_000), ">u2")
    levels[:, 80:] = (1_234, 54_321, 33_333)
    rows = b"".join(b"\0" + row.tobytes() for row in levels)
    return png(
        160,
        120,
        16,
        2,
        rows,
        *([(b"tRNS", struct.pack(">3H", 1_234, 54_321, 33_333))] if transparent else []),
    )


def animated(*, stand_in: bool) -> bytes:
    """An APNG whose first frame is the picture; `stand_in` is an image before it that belongs to no frame."""
    frames = [picture(), picture().transpose(Image.Transpose.ROTATE_180)]
    if stand_in:
        first = Image.new("RGB", (160, 120), (120, 120, 120))
        return encoded(first, "PNG", save_all=True, append_images=frames, default_image=True, duration=5000)
    return encoded(frames[0], "PNG", save_all=True, append_images=frames[1:], duration=5000)


def textured() -> Image.Image:
    """A picture whose every part has detail, as a photo's has."""
    noise = np.random.default_rng(7).integers(-20, 20, (480, 640, 3))
    return Image.fromarray((np.asarray(picture(640, 480)).astype(int) + noise).clip(0, 255).astype(np.uint8))


def jpeg(**options: Any) -> bytes:
    return encoded(textured(), "JPEG", quality=85, **options)


ODD: dict[str, Callable[[], bytes]] = {
    "jpeg exif 6": lambda: encoded(picture(), "JPEG", quality=95, exif=exif(6)),
    "jpeg xmp 6": lambda: encoded(picture(), "JPEG", quality=95, xmp=xmp(6)),
    "jpeg exif 3, xmp 6": lambda: encoded(picture(), "JPEG", quality=95, exif=exif(3), xmp=xmp(6)),
    "png exif 6": lambda: encoded(picture(), "PNG", exif=exif(6)),
    "png xmp 6": lambda: encoded(picture(), "PNG", pnginfo=png_text(6)),
    "webp exif 6": lambda: encoded(picture(), "WEBP", lossless=True, exif=exif(6)),
    "webp xmp 6": lambda: encoded(picture(), "WEBP", lossless=True, xmp=xmp(6)),
    "avif exif 6": lambda: encoded(picture(), "AVIF", quality=95, exif=exif(6)),
    "avif xmp 6": lambda: encoded(picture(), "AVIF", quality=95, xmp=xmp(6)),
    "png gamma 1": lambda: with_chunks(encoded(picture(), "PNG"), gamma(1.0)),
    "png gamma 1/1.8": lambda: with_chunks(encoded(picture(), "PNG"), gamma(1 / 1.8)),
    "png gamma 1/2.2": lambda: with_chunks(encoded(picture(), "PNG"), gamma(0.45455)),
    "png gamma 1/2.2, chromaticities": lambda: with_chunks(
        encoded(picture(), "PNG"), gamma(0.45455), SRGB_CHROMATICITIES
    ),
    "png gamma 1, chromaticities": lambda: with_chunks(
        encoded(picture(), "PNG"), gamma(1.0), SRGB_CHROMATICITIES
    ),
    "png gamma 1, srgb": lambda: with_chunks(encoded(picture(), "PNG"), gamma(1.0), (b"sRGB", b"\0")),
    "png gamma 1, profile": lambda: with_chunks(
        encoded(
            picture(), "PNG", icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
        ),
        gamma(1.0),
    ),
    "png gamma 1, alpha": lambda: with_chunks(encoded(picture().convert("RGBA"), "PNG"), gamma(1.0)),
    "png gamma 1, palette": lambda: with_chunks(encoded(picture().quantize(16), "PNG"), gamma(1.0)),
    "png gamma 1, grey": lambda: with_chunks(encoded(picture().convert("L"), "PNG"), gamma(1.0)),
    "png gamma 0": lambda: with_chunks(encoded(picture(), "PNG"), gamma(0.0)),
    "apng": lambda: animated(stand_in=False),
    "apng with a stand-in": lambda: animated(stand_in=True),
    "png grey 16": lambda: grey_16(transparent=False),
    "png grey 16, transparent": lambda: grey_16(transparent=True),
    "png rgb 16": lambda: rgb_16(transparent=False),
    "png rgb 16, transparent": lambda: rgb_16(transparent=True),
    "jpeg cmyk": lambda: encoded(picture().convert("CMYK"), "JPEG", quality=95),
    "jpeg, 2 bytes short": lambda: jpeg()[:-2],
    "jpeg, 4 bytes short": lambda: jpeg()[:-4],
    "jpeg, a hundredth short": lambda: jpeg()[: -len(jpeg()) // 100],
    "jpeg progressive, 2 bytes short": lambda: jpeg(progressive=True)[:-2],
    "jpeg progressive, a twentieth short": lambda: jpeg(progressive=True)[: -len(jpeg()) // 20],
    "jpeg with more after its end": lambda: jpeg() + b"\0" * 100,
    "png without its end": lambda: encoded(textured(), "PNG")[:-12],
    "png, a hundredth short": lambda: encoded(textured(), "PNG")[: -len(encoded(textured(), "PNG")) // 100],
}
