"""Publishing: writes the files of a version to the path of its product, where the shop finds them.

Whoever publishes has taken the publication (worker.published) and holds its lease. A process that is frozen may still write
one file after its lease is lost; it then marks the publication, so that the file is written anew.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import structlog
from sqlalchemy.engine import Engine

from worker.core import metrics
from worker.core.errors import JobError, one_line
from worker.storage import Store, paths
from worker.versions import files, queue
from worker.versions.hold import Hold, Stopped, TakenOver
from worker.versions.queue import Publication

CACHE_S = 60  # a published path gets other bytes with the next version

log = structlog.get_logger()

Check = Callable[[], None]


def publish(
    engine: Engine,
    store: Store,
    work: Publication,
    find: Callable[[str, Check], Path],
    *,
    lease_s: float,
    check: Check,
    finish: Callable[[], bool] | None = None,
) -> bool:
    """Write the files of a publication that was taken. True if all of them lie there now; else it is tried again later.

    find: returns the local file for an ending; see `fetch`.
    check: called again and again; it raises Stopped if the daemon must end.
    finish: ends the publication in the database, in place of `worker.versions.queue.finish_publication`.
    """
    hold = Hold(lambda: queue.renew_publication(engine, work, lease_s=lease_s), lease_s, check)
    bound = log.bind(path=work.stem, version=work.digest, job_id=str(work.job_id))
    outcome = "retry_scheduled"
    begun = False
    try:
        with hold:
            local = {ending: find(ending, hold.check) for ending in files.NAMES if ending in work.files}
            begun = True
            _write(store, work.stem, local, hold)
            _finish(finish or (lambda: queue.finish_publication(engine, work)))
        outcome = "published"
        bound.info("version_published")
    except TakenOver:
        outcome = "taken_over"
        bound.warning("publication_taken_over")
        if begun:
            _doubt(engine, store, work)
    except Stopped:
        outcome = "released"
        queue.put_back_publication(engine, work, error=None)
    except (JobError, OSError, RuntimeError) as error:
        reason = one_line(error)
        until = queue.put_back_publication(engine, work, error=reason)
        bound.warning("publication_failed", reason=reason, until=until and until.isoformat())
    finally:
        metrics.PUBLICATIONS.labels(outcome).inc()
    return outcome == "published"


def _doubt(engine: Engine, store: Store, work: Publication) -> None:
    """Undo a file that was perhaps written after the lease was lost: have all files written anew, or remove those of a product that
    was erased. Whoever publishes there after that writes them all once more.
    """
    if queue.doubt_publication(engine, work):
        return
    try:
        store.remove([work.stem + ending for ending in files.NAMES])
    except JobError as error:
        log.error("erased_files_not_removed", path=work.stem, reason=one_line(error))  # noqa: TRY400 - it names itself
    queue.doubt_publication(engine, work, removed=True)


def _write(store: Store, stem: str, local: Mapping[str, Path], hold: Hold) -> None:
    """Put all files but the model, remove those that this version lacks, and put the model."""
    for ending, file in local.items():
        if ending == ".glb":
            hold.renew()
            store.remove([stem + other for other in files.NAMES if other not in local], hold.check)
        hold.renew()
        store.put(stem + ending, file, files.content_type(ending), hold.check, cache_s=CACHE_S)


def _finish(finish: Callable[[], bool]) -> None:
    if not finish():
        raise TakenOver


def fetch(store: Store, work: Publication, folder: Path) -> Callable[[str, Check], Path]:
    """Return a function that fetches the version's file of an ending into a folder, and checks its sha256."""
    stem = paths.version_stem(work.stem, work.digest)

    def find(ending: str, check: Check) -> Path:
        return files.fetch(store, stem, ending, work.files[ending], folder / files.NAMES[ending], check)

    return find
