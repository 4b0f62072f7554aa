"""A downloaded file → an upright sRGB image, by the decoder's own process (`worker.pipeline.decoder`)."""

import json
import signal
import subprocess
import sys
import threading
from pathlib import Path

from PIL import Image

from worker.core.errors import JobError
from worker.pipeline.decoder import claims_to_be_a_photo

WORKING_SIDE = 2048
"""The longest side of a decoded photo, pixels: four times what a view keeps, and a bound for all later memory."""
CPU_S = 20  # 40 megapixels take 1 s as JPEG and 5 to 9 s as AVIF
WALL_S = 90.0  # more, since a busy host is not the photo's fault
MEMORY = 1536 << 20  # bytes of address space; they take 0.2 GB as JPEG, 0.9 GB as WebP
_MOST_BYTES = 4 * WORKING_SIDE**2 + 200  # the pixels and the line before them


def decode_in_subprocess(
    file: Path, *, cpu_s: int = CPU_S, wall_s: float = WALL_S, memory: int = MEMORY
) -> Image.Image:
    """The first frame of a photo: RGB, or RGBA where it has transparency; upright, sRGB, at most 2048 pixels long.

    Raises: JobError `photo_not_an_image`, `photo_broken`, `photo_too_many_pixels`, `photo_too_small`,
    `photo_too_complex`, `out_of_memory`.
    """
    if not claims_to_be_a_photo(file):
        raise JobError("photo_not_an_image")  # a process costs a tenth of a second
    with subprocess.Popen(
        [sys.executable, "-m", "worker.pipeline.decoder", str(file), str(cpu_s), str(memory)],
        stdout=subprocess.PIPE,
    ) as process:
        late = threading.Timer(wall_s, process.send_signal, [signal.SIGXCPU])
        late.start()
        try:
            assert process.stdout  # noqa: S101 - a pipe
            # Not more than it may say: a decoder that a photo has taken over could go on for ever.
            answer = process.stdout.read(_MOST_BYTES)
            status = process.wait() if len(answer) < _MOST_BYTES else -signal.SIGSEGV
        finally:
            late.cancel()
            process.kill()
    if status == -signal.SIGXCPU:
        raise JobError("photo_too_complex")
    if status == -signal.SIGKILL:  # by the kernel, for want of memory
        raise JobError("out_of_memory")
    if status < 0:
        raise JobError("photo_broken")
    if status > 0:  # the decoder did not get as far as the photo
        raise JobError("internal_error")
    return _image(answer)


def _image(answer: bytes) -> Image.Image:
    """Takes nothing on trust: it may be the photo that answers."""
    line, _, pixels = answer.partition(b"\n")
    try:
        said = json.loads(line)
        if "refused" not in said:
            mode = {"RGB": "RGB", "RGBA": "RGBA"}[said["mode"]]
            width, height = (min(int(side), WORKING_SIDE) for side in said["size"])
            return Image.frombytes(mode, (width, height), pixels)
        refusal = JobError(said["refused"])
    except (ValueError, KeyError, TypeError) as error:
        raise JobError("photo_broken") from error
    raise refusal
