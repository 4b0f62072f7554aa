"""Removal of doomed versions: first the files, then the row. So a removal that was interrupted is found and goes on."""

from collections.abc import Callable

import structlog
from sqlalchemy.engine import Engine

from worker.core import metrics
from worker.core.errors import JobError, one_line
from worker.storage import Store, paths
from worker.versions import queue
from worker.versions.hold import Hold, Stopped, TakenOver
from worker.versions.queue import Doomed

log = structlog.get_logger()


def remove(engine: Engine, store: Store, work: Doomed, *, lease_s: float, check: Callable[[], None]) -> bool:
    """Remove the files of a doomed version that was taken, and its row. True if both are gone; else it is tried again later.

    `check` is called again and again; it raises Stopped if the daemon must end.
    """
    bound = log.bind(path=work.stem, version=work.digest)
    try:
        with Hold(lambda: queue.renew_removal(engine, work, lease_s=lease_s), lease_s, check) as hold:
            stem = paths.version_stem(work.stem, work.digest)
            while found := store.find(stem):
                # Nothing else may be begun under these paths meanwhile, and nothing may be removed after that.
                hold.renew()
                store.remove(found, hold.check)
        gone = queue.finish_removal(engine, work)
    except TakenOver:
        return False
    except Stopped:
        queue.put_back_removal(engine, work, error=None)
        return False
    except (JobError, RuntimeError) as error:
        reason = one_line(error)
        until = queue.put_back_removal(engine, work, error=reason)
        bound.warning("removal_failed", reason=reason, until=until and until.isoformat())
        return False
    if gone:
        metrics.VERSIONS_REMOVED.inc()
        bound.info("version_removed")
    return gone
