"""The sha256 of files, by which stored files are told apart."""

import hashlib
from pathlib import Path


def sha256(file: Path) -> str:
    """Return the sha256 of a file's content in hex. Raises: OSError if it cannot be read."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
