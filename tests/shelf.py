"""A store with versions in it, whose client can be ended at any step as kill -9 does."""

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import bucket_server
import psycopg
from sqlalchemy.engine import Engine

from worker.core.finding import Finding
from worker.storage import YEAR_S, Store, paths
from worker.storage.local import LocalStore
from worker.storage.supabase import SupabaseStore
from worker.versions import files, prune, publish, queue

STEM = "a.example/1"
LEASE_S = 60.0
ALL = tuple(files.NAMES)


class Killed(BaseException):
    """Where a process would end: nothing of it runs after this."""


class Dying:
    """A store whose client ends before or after one of its calls, counted from 0."""

    def __init__(self, store: Store, at: int, *, after: bool = False) -> None:
        self.store = store
        self.at = at
        self.after = after
        self.calls = 0

    @contextmanager
    def _call(self) -> Iterator[None]:
        mine, self.calls = self.calls == self.at, self.calls + 1
        if mine and not self.after:
            raise Killed
        yield
        if mine:
            raise Killed

    def put(
        self,
        path: str,
        file: Path,
        content_type: str,
        check: Callable[[], None] = lambda: None,
        *,
        cache_s: int = YEAR_S,
    ) -> str:
        with self._call():
            return self.store.put(path, file, content_type, check, cache_s=cache_s)

    def fetch(self, path: str, file: Path, check: Callable[[], None] = lambda: None) -> None:
        with self._call():
            self.store.fetch(path, file, check)

    def locate(self, path: str, digest: str, check: Callable[[], None] = lambda: None) -> str:
        with self._call():
            return self.store.locate(path, digest, check)

    def find(self, stem: str) -> list[str]:
        with self._call():
            return self.store.find(stem)

    def remove(self, paths: Sequence[str], check: Callable[[], None] = lambda: None) -> None:
        with self._call():
            self.store.remove(paths, check)

    def check_files(self, files: Sequence[tuple[Path, str]]) -> None:
        self.store.check_files(files)

    def check(self) -> list[Finding]:
        return self.store.check()


class Shelf:
    """The store, the database's rows about it, and what a daemon does with both."""

    def __init__(
        self,
        folder: Path,
        engine: Engine,
        sql: psycopg.Connection,
        store: Store,
        bucket: bucket_server.BucketServer | None,
    ) -> None:
        self.folder = folder
        self.engine = engine
        self.sql = sql
        self.store = store
        self.bucket = bucket
        found = sql.execute("SELECT worker.storage_path('a.example', '1', NULL)").fetchone()
        assert found
        self.path = found[0]

    def files(self) -> dict[str, bytes]:
        """Everything that is stored, by path."""
        if self.bucket:
            return {path: each.content for path, each in self.bucket.bucket.objects.items()}
        root = self.folder / "store"
        return {
            file.relative_to(root).as_posix(): file.read_bytes() for file in root.rglob("*") if file.is_file()
        }

    def published(self) -> dict[str, bytes]:
        """What is stored at the path of the product, by ending."""
        return {
            path.removeprefix(STEM): data
            for path, data in self.files().items()
            if path.startswith(f"{STEM}.")
        }

    def owned(self) -> set[str]:
        """The paths of all files that belong to a version or are published."""
        rows = self.sql.execute(
            "SELECT stem || '/v.' || digest || ending FROM worker.versions, jsonb_object_keys(files) AS ending UNION ALL"
            " SELECT one.stem || ending FROM worker.published AS one JOIN worker.versions USING (path, digest),"
            " jsonb_object_keys(files) AS ending"
        )
        return {path for (path,) in rows}

    def add(self, name: str, endings: Sequence[str] = ALL, stem: str = STEM) -> str:
        """Store a version whose files say the name, with its row. Return its digest."""
        contents = {ending: f"{name}{ending}".encode() for ending in endings}
        hashes = {ending: hashlib.sha256(data).hexdigest() for ending, data in contents.items()}
        digest = paths.version_digest(hashes)
        file = self.folder / "file"
        for ending, data in contents.items():
            file.write_bytes(data)
            self.store.put(f"{paths.version_stem(stem, digest)}{ending}", file, files.content_type(ending))
        self.sql.execute(
            "INSERT INTO worker.versions (path, digest, stem, shop, product, job_id, files)"
            " VALUES (%s, %s, %s, 'a.example', '1', gen_random_uuid(), %s)",
            [self.path if stem == STEM else stem, digest, stem, json.dumps(hashes)],
        )
        return digest

    def name(self, digest: str) -> None:
        """Have a version published, as a job's end does."""
        self.sql.execute(
            "SELECT worker.publish(gen_random_uuid(), %s, %s, now(), true, NULL, 0)", [self.path, digest]
        )

    def doom(self, digest: str) -> None:
        self.sql.execute(
            "UPDATE worker.versions SET doomed_at = now(), next_try_at = now() WHERE digest = %s", [digest]
        )
        self.sql.execute("NOTIFY worker_files")

    def hurry(self) -> None:
        """Let leases expire, and waits before the next try be over."""
        self.sql.execute("UPDATE worker.published SET next_try_at = now() WHERE next_try_at IS NOT NULL")
        self.sql.execute("UPDATE worker.versions SET next_try_at = now() WHERE next_try_at IS NOT NULL")

    def publish(self, store: Store | None = None) -> bool | None:
        """Publish one version from its stored files. None if none is due."""
        store = store or self.store
        work = queue.take_publication(self.engine, lease_s=LEASE_S)
        if work is None:
            return None
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        return publish.publish(
            self.engine, store, work, publish.fetch(store, work, folder), lease_s=LEASE_S, check=lambda: None
        )

    def remove(self, store: Store | None = None) -> bool | None:
        """Remove one doomed version. None if none is due."""
        work = queue.take_doomed(self.engine, lease_s=LEASE_S)
        if work is None:
            return None
        return prune.remove(self.engine, store or self.store, work, lease_s=LEASE_S, check=lambda: None)

    def state(self) -> tuple[str, str | None, bool]:
        """The version that is to be published, that which lies there, and if there is something to do."""
        found = self.sql.execute(
            "SELECT digest, written, next_try_at IS NOT NULL FROM worker.published"
        ).fetchone()
        assert found
        return found


@contextmanager
def shelf(kind: str, folder: Path, engine: Engine, sql: psycopg.Connection) -> Iterator[Shelf]:
    """Make a shelf in a `folder` or in a `bucket`."""
    if kind == "folder":
        yield Shelf(folder, engine, sql, LocalStore(folder / "store"), None)
        return
    with bucket_server.serve() as server:
        store = SupabaseStore(server.url, bucket_server.KEY, bucket_server.BUCKET, timeout_s=1, wait_s=0.001)
        yield Shelf(folder, engine, sql, store, server)
        store.storage.session.close()
