"""A local folder in place of the bucket."""

import errno
import shutil
import tempfile
from pathlib import Path

from worker.errors import JobError
from worker.storage import version


class LocalStore:
    def __init__(self, folder: Path, url: str | None = None) -> None:
        self.folder = folder.resolve()
        self.url = (url or self.folder.as_uri()).rstrip("/")
        self.folder.mkdir(parents=True, exist_ok=True)

    def put(self, path: str, file: Path, content_type: str) -> str:  # noqa: ARG002 - a file has no content type
        target = self.folder / path
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            # Beside the target, so that the rename is atomic.
            with tempfile.TemporaryDirectory(dir=target.parent, prefix=".") as drafts:
                draft = shutil.copyfile(file, Path(drafts) / target.name)
                draft.replace(target)
        except OSError as error:
            full = error.errno in {errno.ENOSPC, errno.EDQUOT}
            raise JobError("no_space" if full else "storage_unavailable") from error
        return f"{self.url}/{path}?v={version(file)}"
