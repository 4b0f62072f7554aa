"""A downloaded file → an upright sRGB image. A process of its own decodes it: `worker.pipeline.decoder`."""

import json
import signal
import subprocess
import sys
import threading
from pathlib import Path

from PIL import Image

from worker.core.errors import JobError
from worker.pipeline.decoder import FORMATS, claims_to_be_a_photo

WORKING_SIDE = 2048
"""The longest side of a decoded photo in pixels: four times that of a view. It bounds the memory of all later steps."""
CPU_S = 20  # 40 megapixels take 1 s as JPEG and 5 to 9 s as AVIF
WALL_S = 90.0  # longer, because the host may be busy
MEMORY = 1536 << 20  # bytes of address space; 40 megapixels take 0.2 GB as JPEG, 0.9 GB as WebP
_MAX_BYTES = 4 * WORKING_SIDE**2 + 200  # the pixels and the line before them


def decode_in_subprocess(
    file: Path, *, cpu_s: int = CPU_S, wall_s: float = WALL_S, memory: int = MEMORY
) -> Image.Image:
    """Decode a photo as browsers show it, in a process with limits.

    Returns RGB, or RGBA if the photo has transparency: upright, sRGB, at most 2048 pixels on its longer side.
    `info["missing"]` is the share of the picture, 0 to 0.1, that a file without its end does not hold; `info["original"]` the
    width and height of the file in pixels, `info["format"]` its type: JPEG, PNG, WEBP or AVIF.

    Args:
        file: the downloaded photo.
        cpu_s: limit of CPU time, seconds.
        wall_s: limit of time, seconds.
        memory: limit of address space, bytes.

    Raises: JobError `photo_not_an_image`, `photo_broken`, `photo_too_many_pixels`, `photo_too_small`,
    `photo_too_complex`, `out_of_memory`; OSError if the file cannot be read.
    """
    with file.open("rb", buffering=0) as photo:
        if not claims_to_be_a_photo(photo.read(64)):
            raise JobError(
                "photo_not_an_image"
            )  # checked here because a process takes a tenth of a second to start
        photo.seek(0)
        # The decoder gets the open file, since it can open none.
        process = subprocess.Popen(
            [sys.executable, "-m", "worker.pipeline.decoder", str(cpu_s), str(memory)],
            stdin=photo,
            stdout=subprocess.PIPE,
        )
    with process:
        late = threading.Timer(wall_s, process.send_signal, [signal.SIGXCPU])
        late.start()
        try:
            assert process.stdout  # noqa: S101 - a pipe
            # Read no more than a valid answer has: a decoder that a photo took over could write for ever.
            answer = process.stdout.read(_MAX_BYTES)
            status = process.wait() if len(answer) < _MAX_BYTES else -signal.SIGSEGV
        finally:
            late.cancel()
            process.kill()
    if status == -signal.SIGXCPU:
        raise JobError("photo_too_complex")
    if status == -signal.SIGKILL:  # from the kernel: out of memory
        raise JobError("out_of_memory")
    if status < 0:
        raise JobError("photo_broken")
    if status > 0:  # the decoder failed before it opened the photo
        raise JobError("internal_error")
    return _image(answer)


def _image(answer: bytes) -> Image.Image:
    """Parse the decoder's answer and trust nothing in it: the photo may have taken over the decoder. Raises: JobError."""
    line, _, pixels = answer.partition(b"\n")
    try:
        said = json.loads(line)
        if "refused" not in said:
            mode = {"RGB": "RGB", "RGBA": "RGBA"}[said["mode"]]
            width, height = (min(int(side), WORKING_SIDE) for side in said["size"])
            image = Image.frombytes(mode, (width, height), pixels)
            image.info["missing"] = float(said["missing"])
            image.info["original"] = (int(said["original"][0]), int(said["original"][1]))
            image.info["format"] = said["format"] if said["format"] in FORMATS else "photo"
            return image
        refusal = JobError(said["refused"])
    except (ValueError, KeyError, TypeError, IndexError, OverflowError) as error:
        raise JobError("photo_broken") from error
    raise refusal
