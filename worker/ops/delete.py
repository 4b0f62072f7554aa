"""Takes the models of a product, a variant or a whole shop away: their jobs are stopped, then files and rows go."""

import time
from dataclasses import dataclass

from sqlalchemy.engine import Engine

from worker.core.errors import JobError
from worker.database import Row
from worker.jobs import queue
from worker.storage import Store, paths

WAIT_S = 120.0  # longer than a lease and a child's stop: what still runs then is not stopping
PAUSE_S = 0.5


class StillRunning(Exception):
    """Jobs that were asked to stop have not; the message says which, and who has them."""


@dataclass(frozen=True)
class Removed:
    jobs: int
    files: int


def find(engine: Engine, store: Store, stem: str, shop: str) -> tuple[list[Row], list[str]]:
    """The jobs and the files of a stem of this shop. Raises: JobError."""
    return _jobs(engine, stem, shop), store.find(stem)


def delete(engine: Engine, store: Store, stem: str, shop: str, wait_s: float = WAIT_S) -> Removed:
    """The rows go last, so that a deletion that fails can be repeated. Jobs that come in meanwhile stay.

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
        # A worker that is no more leaves its job when the lease has run out.
        queue.rescue(engine)
    removed: set[str] = set()
    while files := store.find(stem):
        if removed.issuperset(files):
            raise JobError("storage_unavailable", f"{len(files)} files are there again after their removal.")
        store.remove(files)
        removed.update(files)
    return Removed(jobs=queue.delete(engine, ids), files=len(removed))


def _jobs(engine: Engine, stem: str, shop: str) -> list[Row]:
    """By the very path under which their files lie, so that a gid and a plain id are one product."""
    return [
        job
        for job in queue.list_shop_jobs(engine, shop)
        if f"{paths.stem(job['shop'], job['product_id'], job['variant_id'])}/".startswith(f"{stem}/")
    ]
