"""A downloaded file → an upright sRGB image. The file is untrusted until its last pixel is decoded.

This runs in a process of its own, with limits on memory and time that a process with a GPU cannot have. So a file that
crashes a decoder, or keeps it busy for hours, costs one photo, and the process that holds the model goes on.
`worker.pipeline.decode` starts it.
"""

import json
import resource
import sys
import warnings
from io import BytesIO
from pathlib import Path

# All four formats by name: Pillow would load all of its plugins to look for one that is not imported.
from PIL import (
    AvifImagePlugin,
    Image,
    ImageCms,
    JpegImagePlugin,  # noqa: F401
    PngImagePlugin,  # noqa: F401
    UnidentifiedImageError,
    WebPImagePlugin,  # noqa: F401
)

from worker.core.errors import JobError

FORMATS = ("JPEG", "PNG", "WEBP", "AVIF")
MOST_PIXELS = 40_000_000
LEAST_SIDE = 64
WORKING_SIDE = 2048  # see worker.pipeline.decode

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
    """Decode one file. Arguments: the file, seconds of CPU time, bytes of address space. Print a line of JSON, then the pixels."""
    file, cpu_s, memory = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    if sys.platform == "linux":  # elsewhere only the number of pixels is limited
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        # SIGXCPU at the first limit, so that the parent can tell it from the kernel's SIGKILL when memory is short.
        resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s + 1))
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    pixels = b""
    try:
        image = decode_image(file)
        pixels = image.tobytes()
        answer = {"mode": image.mode, "size": image.size}
    except JobError as error:
        answer = {"refused": error.code}
    except MemoryError:
        answer = {"refused": "photo_too_complex"}
    sys.stdout.buffer.write(json.dumps(answer).encode() + b"\n" + pixels)


def decode_image(file: Path) -> Image.Image:
    """Decode the first frame of a photo: RGB, or RGBA if it has transparency; upright, sRGB, at most 2048 pixels long.

    Raises: JobError `photo_not_an_image`, `photo_broken`, `photo_too_many_pixels`, `photo_too_small`.
    """
    try:
        with warnings.catch_warnings():
            # Pillow warns of damage that it can handle, and of sizes that are checked here.
            warnings.simplefilter("ignore")
            with Image.open(file, formats=FORMATS) as image:
                _check_size(*image.size)
                # A JPEG can be decoded at 1/2, 1/4 or 1/8 for a fraction of the time and memory.
                image.draft(None, (WORKING_SIDE, WORKING_SIDE))
                image.load()
                return _normal(image)
    except Image.DecompressionBombError as error:
        raise JobError("photo_too_many_pixels") from error
    except UnidentifiedImageError as error:
        raise JobError("photo_broken" if claims_to_be_a_photo(file) else "photo_not_an_image") from error
    except (JobError, MemoryError):
        raise
    except Exception as error:  # a decoder may raise anything
        raise JobError("photo_broken") from error


def claims_to_be_a_photo(file: Path) -> bool:
    """True if a file begins like one of the formats, or is empty: that is a broken photo, not a file of another kind."""
    with file.open("rb") as opened:
        head = opened.read(64)
    return (
        head.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"))
        or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")
        or (head[4:8] == b"ftyp" and (b"avif" in head or b"avis" in head))
        or not head
    )


def _check_size(width: int, height: int) -> None:
    if width * height > MOST_PIXELS:
        raise JobError("photo_too_many_pixels")
    if min(width, height) < LEAST_SIDE:
        raise JobError("photo_too_small")


def _normal(image: Image.Image) -> Image.Image:
    orientation = _orientation(image)
    profile = image.info.get("icc_profile")
    image = _eight_bit(image)
    image.thumbnail((WORKING_SIDE, WORKING_SIDE), Image.Resampling.LANCZOS, reducing_gap=3.0)
    alpha = image.getchannel("A") if image.mode == "RGBA" else None
    image = _srgb(image.convert("RGB") if alpha else image, profile)
    if alpha:
        image.putalpha(alpha)
    if orientation in UPRIGHT:
        image = image.transpose(UPRIGHT[orientation])
    return image


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except Exception:  # noqa: BLE001 - a photo with damaged metadata can still be good
        return 1


def _eight_bit(image: Image.Image) -> Image.Image:
    """Convert any mode to RGB, RGBA, L or CMYK."""
    if image.mode.startswith(("I", "F")):  # one channel of 16 bits; Pillow's own conversion clips at 255
        return image.convert("I").point(lambda level: level * (1 / 257) + 0.5).convert("L")
    if image.has_transparency_data:
        return image.convert("RGBA")
    return image if image.mode in ("RGB", "L", "CMYK") else image.convert("RGB")


def _srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Convert to RGB in sRGB. A profile that is damaged or of another colour space is ignored, as browsers do."""
    if profile:
        try:
            source = ImageCms.ImageCmsProfile(BytesIO(profile))
            if source.profile.xcolor_space == PROFILE_SPACES[image.mode]:
                target = ImageCms.createProfile("sRGB")
                converted = ImageCms.profileToProfile(image, source, target, outputMode="RGB")
                if converted is not None:
                    return converted
        except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
            pass
    return image.convert("RGB")


if __name__ == "__main__":
    main()
