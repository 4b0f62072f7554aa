"""A downloaded file → an upright sRGB image. The file is untrusted until its last pixel is decoded.

This runs in a process of its own, with limits on memory and time that a process with a GPU cannot have, and without files,
network or other processes. So a file that crashes a decoder, takes it over, or keeps it busy for hours, costs one photo, and the
process that holds the model goes on. `worker.pipeline.decode` starts it.
"""

import json
import os
import resource
import sys
import warnings
from io import BytesIO
from typing import Any

# All four formats by name: Pillow would load all of its plugins to look for one that is not imported.
from PIL import (
    AvifImagePlugin,
    Image,
    ImageChops,
    ImageCms,
    ImageFile,
    ImagePalette,  # noqa: F401 - these three are for what a photo may hold: nothing can be imported once it is read
    JpegImagePlugin,  # noqa: F401
    MpoImagePlugin,  # noqa: F401
    PngImagePlugin,  # noqa: F401
    TiffImagePlugin,  # noqa: F401
    UnidentifiedImageError,
    WebPImagePlugin,  # noqa: F401
)

from worker.core import landlock
from worker.core.errors import JobError

FORMATS = ("JPEG", "PNG", "WEBP", "AVIF")
MAX_PIXELS = 40_000_000
MIN_SIDE = 64
WORKING_SIDE = 2048  # see worker.pipeline.decode
MAX_MISSING = 0.1  # of the picture; if more is missing, the photo is broken

Image.preinit()  # what Image.open() would import first

# A thread for each core would need more address space than the limit allows.
AvifImagePlugin.DEFAULT_MAX_THREADS = 2

ORIENTATION = 0x0112  # EXIF's tag
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
PROFILE_SPACES = {
    "RGB": "RGB ",
    "CMYK": "CMYK",
    "L": "GRAY",
}  # image mode → the colour space of a profile that fits


def main() -> None:
    """Decode the photo on standard input. Arguments: seconds of CPU time, bytes of address space. Print a line of JSON, then the
    pixels.
    """
    cpu_s, memory = map(int, sys.argv[1:])
    if sys.platform == "linux":  # elsewhere only the number of pixels is limited
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        # SIGXCPU at the first limit, so that the parent can tell it from the kernel's SIGKILL when memory is short.
        resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s + 1))
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    pixels = b""
    try:
        content = sys.stdin.buffer.read()
        shut_in()
        image = decode_image(content)
        pixels = image.tobytes()
        answer = {
            "mode": image.mode,
            "size": image.size,
            "missing": image.info.get("missing", 0.0),
            "original": image.info["original"],
            "format": image.info["format"],
        }
    except JobError as error:
        answer = {"refused": error.code}
    except MemoryError:
        answer = {"refused": "photo_too_complex"}
    try:
        sys.stdout.buffer.write(json.dumps(answer).encode() + b"\n" + pixels)
        sys.stdout.flush()
    except BrokenPipeError:
        os._exit(1)  # who asked was killed; an exit in order would print a traceback


def shut_in() -> None:
    """Give up files, network and other processes for ever. What is open stays: the pipes to whoever asked."""
    if sys.platform == "linux":
        landlock.restrict({})
        # Whatever the kernel's Landlock can do: no file, socket or pipe can be opened any more, and no file grows.
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


def decode_image(content: bytes) -> Image.Image:
    """Decode a photo as browsers show it: RGB, or RGBA if it has transparency; upright, sRGB, at most 2048 pixels long.

    Of an animation it is the first frame. If the end of the file is missing, `info["missing"]` is the share of the
    picture that the file does not hold. `info["original"]` is the size in pixels that the file claims, `info["format"]` its type.

    Raises: JobError `photo_not_an_image`, `photo_broken`, `photo_too_many_pixels`, `photo_too_small`.
    """
    try:
        with warnings.catch_warnings():
            # Pillow warns of damage that it can handle, and of sizes that are checked here.
            warnings.simplefilter("ignore")
            try:
                return _decode(BytesIO(content))
            except UnidentifiedImageError:
                raise
            except (OSError, SyntaxError):  # Pillow's errors for a file that ends too soon
                return _decode_incomplete(content)
    except Image.DecompressionBombError as error:
        raise JobError("photo_too_many_pixels") from error
    except UnidentifiedImageError as error:
        raise JobError("photo_broken" if claims_to_be_a_photo(content) else "photo_not_an_image") from error
    except (JobError, MemoryError):
        raise
    except Exception as error:  # a decoder may raise anything
        raise JobError("photo_broken") from error


def _decode(content: BytesIO, fill: int | None = None) -> Image.Image:
    """Decode a file. Pixels that are missing in it get the level `fill`."""
    with Image.open(content, formats=FORMATS) as image:
        _check_size(*image.size)
        original = image.size
        # A JPEG can be decoded at 1/2, 1/4 or 1/8 for a fraction of the time and memory.
        image.draft(None, (WORKING_SIDE, WORKING_SIDE))
        if getattr(image, "default_image", False):
            image.seek(1)  # frame 0 of this APNG is for programs without animation, and may show anything
        if fill is not None:
            image.im = Image.new(image.mode, image.size, (fill,) * len(image.getbands())).im
        image.load()
        decoded = _normal(image)
        decoded.info |= {"original": original, "format": image.format}
        return decoded


def _decode_incomplete(content: bytes) -> Image.Image:
    """Decode a JPEG or PNG that ends too soon. Complete it in two ways: pixels that differ are missing in the file.

    Raises: JobError `photo_broken` if more than MAX_MISSING of the picture is missing; what Pillow raises.
    """
    is_jpeg = content.startswith(b"\xff\xd8")
    if is_jpeg and not _has_all_scans(content):
        raise JobError("photo_broken")
    # A JPEG is ended where it breaks off, as browsers do, or continued with noise. In a PNG the missing rows keep `fill`.
    noise = bytes(n * n % 251 for n in range(251)) * (len(content) // 125 + 1) if is_jpeg else b""
    ImageFile.LOAD_TRUNCATED_IMAGES = True
    try:
        image, other = (_decode(BytesIO(content + end), fill) for end, fill in ((b"", 255), (noise, 0)))
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = False
    levels = ImageChops.difference(image.convert("RGB"), other.convert("RGB")).convert("L").histogram()
    image.info["missing"] = missing = sum(levels[16:]) / sum(levels)
    if missing > MAX_MISSING:
        raise JobError("photo_broken")
    return image


def _has_all_scans(content: bytes) -> bool:
    """True if the last scan of a JPEG has begun: each component has all 64 coefficients in full precision.

    A baseline JPEG has them in its first scan. A progressive one without its last scans is a blurred photo.
    (ITU-T T.81, sections B.2.3 and G.1.1.)
    """
    at, components, seen = 2, 0, dict[int, set[int]]()
    while (at := content.find(b"\xff", at)) >= 0 and at + 4 <= len(content):
        marker, length = content[at + 1], int.from_bytes(content[at + 2 : at + 4], "big")
        if marker in (0x00, 0xFF, *range(0xD0, 0xD8)):  # stuffing and restarts within a scan, and fill bytes
            at += 1 if marker == 0xFF else 2
            continue
        segment = content[at + 4 : at + 2 + length]
        if marker in (0xC0, 0xC1, 0xC2):  # the frame
            components = segment[5] if len(segment) > 5 else 0
        elif marker == 0xDA and len(segment) == 4 + 2 * segment[0]:
            first, last, precision = segment[-3:]
            if not precision & 0x0F:
                for component in segment[1:-3:2]:
                    seen.setdefault(component, set()).update(range(first, last + 1))
        at += 2 + length
    return 0 < components == sum(len(found) == 64 for found in seen.values())


def claims_to_be_a_photo(content: bytes) -> bool:
    """True if a file begins like one of the formats, or is empty: that is a broken photo, not a file of another kind."""
    head = content[:64]
    return (
        head.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"))
        or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")
        or (head[4:8] == b"ftyp" and (b"avif" in head or b"avis" in head))
        or not head
    )


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise JobError("photo_too_many_pixels")
    if min(width, height) < MIN_SIDE:
        raise JobError("photo_too_small")


def _normal(image: Image.Image) -> Image.Image:
    orientation = _orientation(image)
    info = image.info
    image = _eight_bit(image)
    image.thumbnail((WORKING_SIDE, WORKING_SIDE), Image.Resampling.LANCZOS, reducing_gap=3.0)
    alpha = image.getchannel("A") if image.mode == "RGBA" else None
    image = _srgb(image.convert("RGB") if alpha else image, info)
    if alpha:
        image.putalpha(alpha)
    if orientation in UPRIGHT:
        image = image.transpose(UPRIGHT[orientation])
    return image


def _orientation(image: Image.Image) -> int:
    """Read the orientation that browsers obey: that of EXIF. They ignore that of XMP, and any in a WebP."""
    if image.format == "WEBP":
        return 1
    try:
        exif = Image.Exif()
        exif.load(image.info["exif"])  # Pillow's own getexif() looks at XMP too
        return int(exif.get(ORIENTATION, 1))
    except Exception:  # noqa: BLE001 - a photo with damaged metadata can still be good
        return 1


def _eight_bit(image: Image.Image) -> Image.Image:
    """Convert an image of any mode to RGB, RGBA, L or CMYK."""
    if image.mode.startswith(("I", "F")):  # one channel of 16 bits; Pillow's own conversion clips at 255
        levels = image.convert("I")
        grey = levels.point(lambda level: level * (1 / 257) + 0.5).convert("L")
        if not isinstance(transparent := image.info.get("transparency"), int):
            return grey
        # This mode allows only scaling: in one of the two images each level but the transparent one becomes 255.
        above, below = (
            levels.point(lambda level, s=sign: (level - transparent) * (255 * s) + 0.0) for sign in (1, -1)
        )
        alpha = ImageChops.lighter(above.convert("L"), below.convert("L"))
        return Image.merge("LA", (grey, alpha)).convert("RGBA")
    if image.mode == "RGB" and max(image.info.get("transparency", (0,))) > 255:
        # Pillow keeps the upper 8 of 16 bits of each channel, but all 16 of the transparent colour.
        image.info["transparency"] = tuple(level >> 8 for level in image.info["transparency"])
    if image.has_transparency_data:
        return image.convert("RGBA")
    return image if image.mode in ("RGB", "L", "CMYK") else image.convert("RGB")


def _srgb(image: Image.Image, info: dict[str | tuple[int, int], Any]) -> Image.Image:
    """Convert to RGB in sRGB. A profile that is damaged or of another colour space is ignored, as browsers do."""
    if profile := info.get("icc_profile"):
        try:
            source = ImageCms.ImageCmsProfile(BytesIO(profile))
            if source.profile.xcolor_space == PROFILE_SPACES[image.mode]:
                target = ImageCms.createProfile("sRGB")
                converted = ImageCms.profileToProfile(image, source, target, outputMode="RGB")
                if converted is not None:
                    return converted
        except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
            pass
    image = image.convert("RGB")
    gamma = info.get("gamma")  # a PNG's gAMA; iCCP and sRGB go before it
    if not gamma or profile or "srgb" in info or (abs(gamma - 1 / 2.2) < 1e-3 and "chromaticity" not in info):
        return image
    return image.point([_srgb_level((level / 255) ** (1 / gamma)) for level in range(256)] * 3)


def _srgb_level(light: float) -> int:
    """Encode linear light, 0..1, as a level of sRGB (IEC 61966-2-1)."""
    return round(255 * (light * 12.92 if light <= 0.0031308 else 1.055 * light ** (1 / 2.4) - 0.055))


if __name__ == "__main__":
    main()
