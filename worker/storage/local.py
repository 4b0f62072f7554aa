"""A local folder instead of the bucket."""

import errno
import fcntl
import glob
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import structlog

from worker.core.errors import JobError, is_wrong_path, one_line
from worker.core.finding import Finding
from worker.storage import MAX_BYTES, YEAR_S, NotStored, StoreUnreachable, drafts, paths
from worker.storage.hashes import sha256

log = structlog.get_logger()

_CODES = {errno.ENOSPC: "no_space", errno.EDQUOT: "no_space", errno.EFBIG: "storage_too_large"}


class LocalStore:
    """A store in a folder. `url` is where the folder is served; without it, URLs are file:// ones.

    Raises: OSError if the path cannot be a folder. One that cannot be made or written just now is found by `check`.
    """

    def __init__(self, folder: Path, url: str | None = None) -> None:
        self.folder = folder.resolve()
        self.url = (url or self.folder.as_uri()).rstrip("/")
        try:
            _make_folder(self.folder)
        except OSError as error:
            if is_wrong_path(error):
                raise

    def check_files(self, files: Sequence[tuple[Path, str]]) -> None:
        """Check that the disk has room for the files. As `Store.check_files`."""
        with _job_errors():
            _make_folder(self.folder)
            if shutil.disk_usage(self.folder).free < sum(file.stat().st_size for file, _ in files):
                raise JobError("no_space")

    def put(
        self,
        path: str,
        file: Path,
        content_type: str,  # noqa: ARG002 - a file has no content type
        check: Callable[[], None] = lambda: None,
        *,
        cache_s: int = YEAR_S,  # noqa: ARG002 - who serves the folder decides about caches
    ) -> str:
        """Copy the file beside its target and rename it. As `Store.put`."""
        check()
        with _job_errors():
            _replace(self.folder / path, file)
        return f"{self.url}/{path}"

    def fetch(self, path: str, file: Path, check: Callable[[], None] = lambda: None) -> None:
        """Copy a file of the folder. As `Store.fetch`."""
        check()
        with _job_errors():
            try:
                reader = (self.folder / path).open("rb")
            except FileNotFoundError:
                raise NotStored(path) from None
            with reader, drafts.replacing(file) as writer:
                if os.fstat(reader.fileno()).st_size > MAX_BYTES:
                    raise JobError("storage_too_large")
                shutil.copyfileobj(reader, writer)

    def locate(self, path: str, digest: str, check: Callable[[], None] = lambda: None) -> str:
        """Hash a file of the folder. As `Store.locate`."""
        check()
        with _job_errors():
            try:
                found = sha256(self.folder / path)
            except FileNotFoundError:
                raise NotStored(path) from None
        if found != digest:
            raise NotStored(path)
        return f"{self.url}/{path}"

    def find(self, stem: str) -> list[str]:
        """List the stem's files, drafts included. As `Store.find`."""
        top = self.folder / stem
        with _job_errors():
            # A draft that a crash left behind belongs to the stem as well.
            own = [
                file
                for file in (top.parent.iterdir() if top.parent.is_dir() else ())
                if paths.is_named(file.name.removeprefix("."), top.name) and not file.is_dir()
            ]
            below = [file for file in top.rglob("*") if file.is_symlink() or not file.is_dir()]
        return sorted(file.relative_to(self.folder).as_posix() for file in own + below)

    def remove(self, paths: Sequence[str], check: Callable[[], None] = lambda: None) -> None:
        """Remove files, and folders that become empty. As `Store.remove`."""
        for path in paths:
            check()
            with _job_errors():
                file = self.folder / path
                file.unlink(missing_ok=True)
                _sweep(file)
                _prune(file.parent, self.folder)

    def check(self) -> list[Finding]:
        """Write a small file into the folder, which is made if it is missing. As `Store.check`."""
        try:
            _make_folder(self.folder)
            with tempfile.NamedTemporaryFile(dir=self.folder, prefix=".check-") as probe:
                probe.write(b"probe")
                probe.flush()
        except OSError as error:
            raise StoreUnreachable(f"WORKER_STORAGE_DIR cannot be written: {one_line(error)}") from error
        return []


def _replace(target: Path, file: Path) -> None:
    """Replace the target atomically: readers see the old file or the new one, also after a power failure."""
    _make_folder(target.parent)
    # Beside the target, so that the rename is atomic.
    descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    draft = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as writer, file.open("rb") as reader:
            # The kernel releases the lock when the process ends, however it ends. Some network file systems have none.
            with suppress(OSError):
                fcntl.flock(writer, fcntl.LOCK_EX)
            shutil.copyfileobj(reader, writer)
            writer.flush()
            os.fsync(writer.fileno())
        draft.chmod(0o644)  # mkstemp makes the file private, and a web server must read it
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)
    _sweep(target)
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _sweep(target: Path) -> None:
    """Remove the drafts of a file that ended processes left."""
    for draft in target.parent.glob(f".{glob.escape(target.name)}.*"):
        with suppress(OSError), draft.open("rb") as opened:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
            draft.unlink()


def _make_folder(folder: Path) -> None:
    """Make a folder and those above it. Who may read the files in it may enter it, whatever the umask is."""
    if folder.is_dir():
        return
    try:
        folder.mkdir(exist_ok=True)
    except FileNotFoundError:
        _make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
    folder.chmod(0o755)


def _prune(folder: Path, root: Path) -> None:
    """Remove the folder and those above it as long as they are empty, up to the root."""
    with suppress(OSError):
        while folder != root:
            folder.rmdir()
            folder = folder.parent


@contextmanager
def _job_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        code, reason = _CODES.get(error.errno or 0, "storage_unavailable"), one_line(error)
        if code != "no_space":  # of which the log says more when it stops the claims
            log.error(code, reason=reason)  # noqa: TRY400 - the reason is enough
        raise JobError(code, reason=reason) from error
