"""A catalogue from a CSV to its `batch.finished`, through daemons that die, an outage, and a cancel in the middle.

The `long` form has 5,000 rows.
"""

import faulthandler
import json
import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import proxy
import psycopg
import pytest
from conftest import Daemon, StartDaemon, until
from psycopg.rows import dict_row

from worker.local.postgres import Postgres
from worker.local.server import DevServer

ENDED = ("completed", "failed", "cancelled")


class Watcher(threading.Thread):
    """Reads the sums of the batch again and again, and keeps those that do not add up."""

    def __init__(self, url: str, total: int) -> None:
        super().__init__(daemon=True)
        self.url = url
        self.total = total
        self.wrong: list[dict[str, Any]] = []
        self.looks = 0
        self.estimates = 0
        self.ended = threading.Event()

    def run(self) -> None:
        with psycopg.connect(self.url, autocommit=True, row_factory=dict_row) as sql:
            while not self.ended.wait(0.02):
                row = sql.execute("SELECT * FROM batch_status").fetchone() or {}
                if (
                    sum(row[name] for name in ("waiting", "running", *ENDED)) != self.total
                    or min(value for value in row.values() if isinstance(value, int)) < 0
                ):
                    self.wrong.append(row)
                self.looks += 1
                self.estimates += row["estimated_end"] is not None


@pytest.mark.parametrize("rows", [16, pytest.param(5_000, marks=pytest.mark.long)])
def test_a_catalogue_ends_with_exact_sums_and_one_event(
    postgres: Postgres,
    database_url: str,
    sql: psycopg.Connection[Any],
    start_daemon: StartDaemon,
    photos: Callable[[str, bytes], str],
    site: DevServer,
    mug: bytes,
    tmp_path: Path,
    rows: int,
) -> None:
    if rows > 100:
        faulthandler.cancel_dump_traceback_later()  # it takes more than five minutes, and its waits have limits of their own
    good, missing = photos("mug.png", mug), f"{site.url}/none.png"
    file = tmp_path / "monday.csv"
    # Most photos are missing, so that most jobs end at once and for good.
    lines = [f"a.myshopify.com,{n},{missing if n % 8 else good},fast" for n in range(rows)]
    file.write_text("\n".join(["shop,product_id,image_urls,quality", *lines]))
    subprocess.run(
        [sys.executable, "-m", "worker", "batch", "add", str(file)],
        env=os.environ | {"DATABASE_URL": database_url},
        check=True,
    )
    watcher = Watcher(database_url, rows)
    watcher.start()

    def left(share: float) -> bool:
        (found,) = sql.execute("SELECT waiting + running FROM batch_status").fetchone() or (0,)
        return bool(found <= rows * share)

    with proxy.serve(postgres.port) as link:

        def start(name: str) -> Daemon:
            return start_daemon(
                ready=False,
                DATABASE_URL=database_url.replace(str(postgres.port), str(link.port)),
                WORKER_NAME=name,
                WORKER_LEASE_S="4",
                WORKER_WEBHOOK_EVENTS="job.updated,batch.finished",
            )

        daemons = [start(f"d{n}") for n in range(3 if rows > 100 else 2)]
        until(lambda: left(0.9), 300, "the first jobs")
        daemons[0].process.kill()
        daemons[0].process.wait()
        until(lambda: left(0.8), 600, "jobs after a kill")
        link.cut()
        daemons.append(start("again"))
        until(lambda: left(0.5), 900, "jobs after an outage")
        sql.execute("SELECT cancel_batch('a.myshopify.com', 'monday')")
        finished = until(lambda: webhooks(tmp_path, "batch.finished"), 300, "batch.finished")
        for daemon in daemons[1:]:
            daemon.stop()
    watcher.ended.set()
    watcher.join()
    assert watcher.looks
    assert watcher.estimates or rows < 100, "there are some when jobs have been measured, within ten seconds"
    assert watcher.wrong == []
    states = sql.execute("SELECT status::text, count(*) FROM jobs GROUP BY 1").fetchall()
    assert len({event["webhook"] for event in finished}) == 1, "at least once delivered, one event"
    assert sql.execute("SELECT count(*) FROM worker.outbox WHERE type = 'batch.finished'").fetchone() == (1,)
    assert Counter({name: finished[0][name] for name in ENDED}) == Counter(dict(states))
    assert finished[0]["total"] == rows
    received = webhooks(tmp_path, "job.updated")
    assert max(event["seq"] for event in received) < finished[0]["seq"], "it comes after those of the jobs"


def webhooks(folder: Path, kind: str) -> list[dict[str, Any]]:
    """The bodies that the backend received, with their ids; those of a batch have no job."""
    file = folder / "webhooks.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    found = [line["body"] | {"webhook": line["id"]} for line in lines]
    return [body for body in found if ("jobId" in body) is (kind == "job.updated")]
