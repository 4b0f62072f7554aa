"""`worker delete`: stop the jobs of a product, a variant or a whole shop, then delete their files and rows."""

import time
from dataclasses import dataclass

from sqlalchemy.engine import Engine

from worker.core.errors import JobError
from worker.database import Row
from worker.jobs import queue
from worker.storage import Store, paths

WAIT_S = 120.0  # longer than a lease and the end of a child: a job that still runs then does not stop
PAUSE_S = 0.5


class StillRunning(Exception):
    """Jobs that were asked to stop still run. The message names them and their workers."""


@dataclass(frozen=True)
class Removed:
    """Counts of what was deleted: rows of jobs, and files."""

    jobs: int
    files: int


def find(engine: Engine, store: Store, stem: str, shop: str) -> tuple[list[Row], list[str]]:
    """Return the jobs and the files of a stem (see storage.paths) of this shop. Raises: JobError."""
    return _jobs(engine, stem, shop), store.find(stem)


def delete(engine: Engine, store: Store, stem: str, shop: str, wait_s: float = WAIT_S) -> Removed:
    """Delete files, then rows, so that a deletion that fails can be repeated. Jobs that are inserted meanwhile stay.

    Raises: StillRunning, JobError.
    """
    jobs = _jobs(engine, stem, shop)
    ids = [job["id"] for job in jobs]
    queue.request_cancel_all(engine, ids)
    deadline = time.monotonic() + wait_s
    while running := [
        job for job in _jobs(engine, stem, shop) if job["id"] in set(ids) and job["claimed_by"]
    ]:
        if time.monotonic() > deadline:
            named = ", ".join(f"{job['id']} at {job['claimed_by']}" for job in running)
            raise StillRunning(f"Nothing was deleted: these jobs still run: {named}.")
        time.sleep(PAUSE_S)
        # The job of a lost worker is free when its lease has expired.
        queue.rescue(engine)
    removed: set[str] = set()
    while files := store.find(stem):
        if removed.issuperset(files):
            raise JobError("storage_unavailable", f"{len(files)} files exist again after their removal.")
        store.remove(files)
        removed.update(files)
    return Removed(jobs=queue.delete(engine, ids), files=len(removed))


def _jobs(engine: Engine, stem: str, shop: str) -> list[Row]:
    """Compare jobs by the path of their files, so that a gid and a plain id are the same product."""
    return [
        job
        for job in queue.list_shop_jobs(engine, shop)
        if f"{paths.stem(job['shop'], job['product_id'], job['variant_id'])}/".startswith(f"{stem}/")
    ]
