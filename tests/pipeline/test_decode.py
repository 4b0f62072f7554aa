import struct
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms

from worker.core.errors import JobError
from worker.pipeline.decoder import decode_image

QUADRANTS = {"red": (200, 30, 30), "green": (30, 160, 30), "blue": (30, 30, 200), "gray": (120, 120, 120)}


def decode(file: Path) -> Image.Image:
    return decode_image(file.read_bytes())


def picture(width: int = 160, height: int = 120) -> Image.Image:
    """Red and green above blue and gray, so that every turn and flip of it is another picture."""
    image = Image.new("RGB", (width, height), QUADRANTS["red"])
    image.paste(QUADRANTS["green"], (width // 2, 0, width, height // 2))
    image.paste(QUADRANTS["blue"], (0, height // 2, width // 2, height))
    image.paste(QUADRANTS["gray"], (width // 2, height // 2, width, height))
    return image


def corners(image: Image.Image) -> list[str]:
    """The colours of the quadrants, as read."""
    width, height = image.size
    pixels = np.asarray(image.convert("RGB")).astype(int)
    found = (pixels[y, x] for y in (height // 4, 3 * height // 4) for x in (width // 4, 3 * width // 4))
    return [min(QUADRANTS, key=lambda name: np.abs(color - QUADRANTS[name]).sum()) for color in found]


def saved(folder: Path, image: Image.Image, name: str, **options: Any) -> Path:
    image.save(folder / name, **options)
    return folder / name


def refusal(file: Path) -> str:
    with pytest.raises(JobError) as caught:
        decode(file)
    assert not caught.value.retryable
    return caught.value.code


def png(width: int, height: int, depth: int, kind: int, rows: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG by hand, for what Pillow does not write."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(name, data) for name, data in parts)


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.avif"])
def test_reads_what_shops_use(tmp_path: Path, name: str) -> None:
    image = decode(saved(tmp_path, picture(), name))
    assert (image.mode, image.size) == ("RGB", (160, 120))
    assert corners(image) == ["red", "green", "blue", "gray"]


def test_the_content_tells_the_type_not_the_name(tmp_path: Path) -> None:
    file = saved(tmp_path, picture(), "a.png").rename(tmp_path / "photo.txt")
    assert corners(decode(file)) == ["red", "green", "blue", "gray"]


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.avif"])
def test_a_photo_of_which_much_is_missing_is_broken_wherever_it_ends(tmp_path: Path, name: str) -> None:
    noise = np.random.default_rng(1).integers(0, 255, (200, 200, 3), np.uint8)
    content = saved(tmp_path, Image.fromarray(noise), name).read_bytes()
    for share in (0, 0.001, 0.1, 0.5, 0.8):
        end = 16 if share == 0.001 else int(len(content) * share)
        (tmp_path / "cut").write_bytes(content[:end])
        assert refusal(tmp_path / "cut") == "photo_broken", share


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.avif"])
def test_damaged_bytes_are_refused_or_decoded_but_never_crash(tmp_path: Path, name: str) -> None:
    content = saved(tmp_path, picture(), name).read_bytes()
    rng = np.random.default_rng(7)
    for _ in range(60):
        damaged = bytearray(content)
        for at in rng.integers(12, len(damaged), 5):
            damaged[at] = rng.integers(256)
        (tmp_path / "damaged").write_bytes(damaged)
        with suppress(JobError):  # any other exception fails the test
            decode(tmp_path / "damaged")


def test_the_smallest_photo_is_accepted(tmp_path: Path) -> None:
    assert decode(saved(tmp_path, picture(64, 64), "a.png")).size == (64, 64)


def test_a_large_photo_is_reduced_to_what_later_steps_can_use(tmp_path: Path) -> None:
    image = decode(saved(tmp_path, picture(5000, 3750), "a.jpg"))
    assert image.size == (2048, 1536)
    assert corners(image) == ["red", "green", "blue", "gray"]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.avif"])
def test_every_exif_orientation_ends_upright(tmp_path: Path, name: str, orientation: int) -> None:
    undo = {  # what a camera held like this has stored
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = picture().transpose(undo[orientation]) if orientation > 1 else picture()
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = decode(saved(tmp_path, stored, name, exif=exif))
    assert image.size == (160, 120)
    assert corners(image) == ["red", "green", "blue", "gray"]


@pytest.mark.parametrize("exif", [b"Exif\x00\x00garbage", b"Exif\x00\x00II*\x00\xff\xff\xff\xff"])
def test_damaged_metadata_does_not_spoil_a_good_photo(tmp_path: Path, exif: bytes) -> None:
    assert corners(decode(saved(tmp_path, picture(), "a.jpg", exif=exif))) == [
        "red",
        "green",
        "blue",
        "gray",
    ]


def test_cmyk_becomes_the_colors_that_it_means(tmp_path: Path) -> None:
    image = decode(saved(tmp_path, picture().convert("CMYK"), "a.jpg", quality=95))
    assert image.mode == "RGB"
    assert corners(image) == ["red", "green", "blue", "gray"]


def wide_profile() -> bytes:
    """sRGB's profile with its red and green primaries exchanged: nobody can fail to see whether it was applied."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    red, green = profile.index(b"rXYZ"), profile.index(b"gXYZ")
    profile[red : red + 4], profile[green : green + 4] = b"gXYZ", b"rXYZ"
    return bytes(profile)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_a_color_profile_is_applied(tmp_path: Path, mode: str) -> None:
    image = decode(saved(tmp_path, picture().convert(mode), "a.png", icc_profile=wide_profile()))
    assert image.mode == ("RGBA" if mode == "RGBA" else "RGB")
    assert corners(image) == ["green", "red", "blue", "gray"]


def test_the_usual_profile_changes_nothing(tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    image = decode(saved(tmp_path, picture(), "a.png", icc_profile=profile))
    assert np.abs(np.asarray(image).astype(int) - np.asarray(picture())).max() <= 2


@pytest.mark.parametrize("profile", [b"garbage", b"\x00" * 4000, b""])
def test_a_damaged_profile_is_ignored(tmp_path: Path, profile: bytes) -> None:
    assert corners(decode(saved(tmp_path, picture(), "a.jpg", icc_profile=profile)))[0] == "red"


def test_a_profile_of_another_color_space_is_ignored(tmp_path: Path) -> None:
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    for mode in ("RGB", "L"):
        decoded = decode(saved(tmp_path, picture().convert(mode), "a.jpg", icc_profile=lab))
        assert np.asarray(decoded)[30, 40, 0] in range(60, 210)


def test_sixteen_bits_keep_their_brightness(tmp_path: Path) -> None:
    levels = np.linspace(0, 65535, 100 * 80).astype(np.uint16).reshape(80, 100)
    image = decode(saved(tmp_path, Image.fromarray(levels), "gray.png"))
    assert image.mode == "RGB"
    assert np.abs(np.asarray(image)[..., 0] - levels / 257).max() <= 1

    rgba = np.zeros((80, 100, 4), ">u2")
    rgba[..., 0], rgba[..., 3] = levels, 65535
    rgba[:20, :, 3] = 0
    rows = b"".join(b"\x00" + row.tobytes() for row in rgba)
    (tmp_path / "rgba.png").write_bytes(png(100, 80, 16, 6, rows))
    image = decode(tmp_path / "rgba.png")
    assert image.mode == "RGBA"
    pixels: NDArray[np.uint8] = np.asarray(image)
    assert np.abs(pixels[20:, :, 0] - levels[20:] / 257).max() <= 1
    assert pixels[0, 0, 3] == 0


def test_every_kind_of_transparency_becomes_alpha(tmp_path: Path) -> None:
    mask = Image.new("L", (160, 120), 255)
    mask.paste(0, (0, 0, 80, 60))
    rgba, la = picture(), picture().convert("L").convert("LA")
    rgba.putalpha(mask)
    la.putalpha(mask)
    palette = picture().quantize(8)
    red = palette.getpixel((0, 0))
    files = [
        saved(tmp_path, rgba, "rgba.png"),
        saved(tmp_path, rgba, "rgba.webp", lossless=True),
        saved(tmp_path, rgba, "rgba.avif"),
        saved(tmp_path, la, "la.png"),
        saved(tmp_path, palette, "palette.png", transparency=red),
        saved(tmp_path, picture(), "key.png", transparency=QUADRANTS["red"]),
    ]
    for file in files:
        image = decode(file)
        assert image.mode == "RGBA", file.name
        alpha = np.asarray(image)[..., 3]
        assert (alpha[30, 40], alpha[30, 120], alpha[90, 40]) == (0, 255, 255), file.name


@pytest.mark.parametrize("mode", ["1", "L", "P"])
def test_gray_bilevel_and_palette_become_rgb(tmp_path: Path, mode: str) -> None:
    image = decode(saved(tmp_path, picture().convert(mode), "a.png"))
    assert (image.mode, image.size) == ("RGB", (160, 120))


@pytest.mark.parametrize("name", ["a.webp", "a.png", "a.avif"])
def test_an_animation_gives_its_first_frame(tmp_path: Path, name: str) -> None:
    frames = [Image.new("RGB", (160, 120), color) for color in ("white", "black")]
    file = saved(tmp_path, picture(), name, save_all=True, append_images=frames)
    assert corners(decode(file)) == ["red", "green", "blue", "gray"]
