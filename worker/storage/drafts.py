"""Local files that are there whole or not at all: a draft beside the file takes its name at the end."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from worker.core.errors import JobError


@contextmanager
def replacing(file: Path) -> Iterator[BinaryIO]:
    """Yield a draft to write to; `file` becomes it unless the block raises. Raises: JobError `no_space`, `temp_unavailable`."""
    draft = file.with_name(f".{file.name}.part")
    try:
        with draft.open("wb") as writer:
            yield writer
        draft.replace(file)
    except OSError as error:
        full = error.errno in {errno.ENOSPC, errno.EDQUOT}
        raise JobError("no_space" if full else "temp_unavailable") from error
    finally:
        draft.unlink(missing_ok=True)
