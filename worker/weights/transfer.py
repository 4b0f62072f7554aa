"""Download or copy a file. It appears under its name only once it is whole and has the right checksum.

The bytes of an interrupted download stay beside the target, as `.NAME.part`, and the next download resumes from there.
"""

import errno
import fcntl
import hashlib
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from worker.core.errors import is_retryable_status, redact_url
from worker.http import clients
from worker.weights.errors import FetchFailed, SourceRefused, SourceUnreachable, WrongContent

CHUNK = 1 << 20
MAX_BYTES = 2 << 30  # the largest known file has 1.7e9 bytes; an endless answer must not fill the disk
TIMEOUT_S = 30  # to connect, and between two bytes
TRIES = 3  # in a row without a new byte; a try with new bytes resets the count
PAUSE_S = 1.0  # before the second try; doubled before each later one

OnProgress = Callable[[int, int | None], None]
"""Called with the bytes so far and the total, which is None if it is unknown."""

OnStep = Callable[[str], None]
"""Called with a sentence about the step that begins."""


@dataclass(frozen=True, kw_only=True)
class Expected:
    """The checksum and the size that a file must have."""

    digest: str  # algorithm:hex
    size: int | None = None  # bytes; None if it is unknown


class _Interrupted(Exception):
    """This try failed, and another one may succeed."""


def file_digest(file: Path, algorithm: str = "sha256") -> str:
    """Return the checksum of a file's content in hex. Raises: OSError if it cannot be read."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, lambda: hashlib.new(algorithm, usedforsecurity=False)).hexdigest()


def mismatch(file: Path, expected: Expected) -> str:
    """Return what is wrong with a file, such as "has 12 bytes instead of 34"; empty if nothing is.

    Raises: OSError if it cannot be read.
    """
    size = file.stat().st_size
    if expected.size is not None and size != expected.size:
        return f"has {size:,} bytes instead of {expected.size:,}"
    algorithm, _, digest = expected.digest.partition(":")
    found = file_digest(file, algorithm)
    return "" if found == digest else f"({size:,} bytes) has the {algorithm} {found} instead of {digest}"


def is_valid(file: Path, expected: Expected) -> bool:
    """True if the file can be read and is the expected one."""
    try:
        return not mismatch(file, expected)
    except OSError:
        return False


def download(url: str, target: Path, expected: Expected, *, on_progress: OnProgress | None = None) -> None:
    """Download a file over HTTP, and resume an interrupted download.

    Raises:
        SourceUnreachable: the server does not answer or breaks off. The bytes so far are kept.
        SourceRefused: the server does not have the file or refuses it.
        WrongContent: the server sends another file.
        FetchFailed: the disk has too little space.
    """
    part = unfinished(target)
    begun = size_of(part) > 0
    _receive(url, part, expected, on_progress)
    wrong = mismatch(part, expected)
    if wrong and begun:  # the parts may come from different files
        part.unlink()
        _receive(url, part, expected, on_progress)
        wrong = mismatch(part, expected)
    if wrong:
        part.unlink()
        raise WrongContent(f"{redact_url(url)} {wrong}.")
    _finish(part, target)


def store(target: Path, source: str, expected: Expected, chunks: Iterator[bytes]) -> None:
    """Write a file from chunks; `source` names their origin in errors. Raises: WrongContent, FetchFailed, OSError."""
    require_space(target.parent, expected.size or 0)
    part = target.with_name(f".{target.name}.{os.getpid()}.part")  # beside it, so that the move is atomic
    try:
        with part.open("wb") as opened:
            for chunk in chunks:
                opened.write(chunk)
        if wrong := mismatch(part, expected):
            raise WrongContent(f"{source} {wrong}.")
        _finish(part, target)
    finally:
        part.unlink(missing_ok=True)


def copy(source: Path, target: Path, expected: Expected) -> None:
    """Copy a file, as `store` does. Raises: WrongContent, FetchFailed, OSError."""
    with source.open("rb") as opened:
        store(target, str(source), expected, iter(lambda: opened.read(CHUNK), b""))


def unfinished(target: Path) -> Path:
    """Return the file that holds the bytes of an interrupted download."""
    return target.with_name(f".{target.name}.part")


def size_of(file: Path) -> int:
    """Return a file's size in bytes, 0 if there is no file."""
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0


def require_space(folder: Path, needed: int) -> None:
    """Check that the folder's disk has `needed` bytes free. Raises: FetchFailed."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise FetchFailed(
            f"{folder} has {free:,} bytes free, and {needed:,} are needed. "
            "Make room, or set WORKER_WEIGHTS_DIR to another disk."
        )


@contextmanager
def fetch_lock(folder: Path, on_step: OnStep | None = None) -> Iterator[None]:
    """Allow one fetch at a time into a folder; a second one waits."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if on_step:
                on_step(f"Another process is fetching into {folder}; waiting for it.")
            fcntl.flock(opened, fcntl.LOCK_EX)
        except OSError as error:
            # NFS cannot lock a folder. Two fetches at the same time then damage each other's file, and its checksum is wrong.
            if error.errno not in {errno.EBADF, errno.ENOLCK, errno.ENOTSUP}:
                raise
        yield
    finally:
        os.close(opened)


def _receive(url: str, part: Path, expected: Expected, on_progress: OnProgress | None) -> None:
    """Download the file's bytes, with retries. Raises: SourceUnreachable, SourceRefused, WrongContent, FetchFailed."""
    in_vain = 0
    furthest = size_of(part)
    while True:
        try:
            _try(url, part, expected, on_progress)
        except (httpx.TransportError, _Interrupted) as error:
            have = size_of(part)
            # Only new bytes count: otherwise a server that makes us start again could keep us here for ever.
            in_vain = 1 if have > furthest else in_vain + 1
            furthest = max(furthest, have)
            if in_vain == TRIES:
                kept = f" {have:,} bytes are kept; the next fetch resumes from there." if have else ""
                reason = str(error) or type(error).__name__
                raise SourceUnreachable(f"{redact_url(url)} could not be fetched: {reason}.{kept}") from error
            time.sleep(PAUSE_S * 2 ** (in_vain - 1))
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise SourceRefused(f"{redact_url(url)} could not be fetched: {error}.") from error
        else:
            return


def _try(url: str, part: Path, expected: Expected, on_progress: OnProgress | None) -> None:
    have = size_of(part)
    if have and have == expected.size:
        return
    if have > (expected.size or MAX_BYTES):
        part.unlink()
        have = 0
    # Sizes and ranges of a compressed answer would not be those of the file.
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    with (
        clients.client(url, follow_redirects=True, timeout=TIMEOUT_S) as client,
        client.stream("GET", url, headers=headers) as response,
    ):
        have, total = _beginning(url, response, have, part)
        if total is not None and expected.size not in {None, total}:
            raise WrongContent(f"{redact_url(url)} has {total:,} bytes instead of {expected.size:,}.")
        total = expected.size or total
        require_space(part.parent, (total or 0) - have)
        with part.open("ab") as opened:
            opened.truncate(have)
            for chunk in response.iter_bytes():
                have += len(chunk)
                if have > (total or MAX_BYTES):
                    part.unlink()
                    raise WrongContent(
                        f"{redact_url(url)} is longer than {total or MAX_BYTES:,} bytes: these are not the weights."
                    )
                opened.write(chunk)
                if on_progress:
                    on_progress(have, total)
    if have < (total or 0):
        raise _Interrupted(f"it ended after {have:,} of {total:,} bytes")


def _beginning(url: str, response: httpx.Response, asked: int, part: Path) -> tuple[int, int | None]:
    """Return the first byte of the answer, and the size of the whole file, None if it is unknown."""
    status = response.status_code
    if is_retryable_status(status):
        raise _Interrupted(f"it answered {status}")
    if status == 416 and asked:  # "range not satisfiable": it is another file now
        part.unlink(missing_ok=True)
        raise _Interrupted("it cannot resume")
    if status == 206:
        matched = re.fullmatch(
            r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("content-range", ""), re.ASCII
        )
        if not matched or int(matched[1]) != asked or "content-encoding" in response.headers:
            part.unlink(missing_ok=True)
            raise _Interrupted("it resumes at another byte")
        return asked, None if matched[2] == "*" else int(matched[2])
    if status != 200:
        raise SourceRefused(f"{redact_url(url)} answered {status}.")
    length = response.headers.get("content-length", "")
    return 0, int(length) if length.isdecimal() and "content-encoding" not in response.headers else None


def _finish(part: Path, target: Path) -> None:
    with part.open("rb") as opened:
        os.fsync(opened.fileno())
    part.replace(target)
