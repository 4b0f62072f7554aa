"""`worker bench`: photos through this host's own lanes, beside its real queue and store, and what they cost."""

import math
import re
import shutil
import statistics
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from rich.table import Table

from worker import database, engines, weights
from worker.core import settings, stages
from worker.core.settings import ConfigError, Settings
from worker.jobs import queue
from worker.local import samples
from worker.local.postgres import remove_server
from worker.local.stack import Stack, await_jobs, interrupt_on_signals, start_daemon, start_stack
from worker.ops.terminal.formats import file_size

SHOP = "bench.myshopify.com"
LIMIT_S = 1800  # for one job after another's end
MB = 2**20  # of the report's figures
READY_S = 0.2  # between two looks at the daemon's log

Rows = Sequence[Mapping[str, Any]]


def run(
    photos: Sequence[Path],
    *,
    jobs: int | None,
    quality: str,
    lanes: Sequence[int] = (),
    on_rows: Callable[[Rows], None] = lambda _: None,
) -> dict[str, Any]:
    """Run the daemon with this host's own settings on a queue and a store of the measurement's own. `--json` prints the result.

    Args:
        photos: one a job, taken in turns; the samples if there are none.
        jobs: how many jobs to run; by default one a photo.
        quality: the jobs' preset.
        lanes: of each device. With several numbers all jobs are run with each of them, and the result has `by_lanes`;
            with none they are WORKER_LANES.
        on_rows: called again and again with the jobs' rows.

    Raises: ConfigError; KeyboardInterrupt for a signal.
    """
    interrupt_on_signals()
    configured = settings.load()
    _require_weights(configured)
    photos = photos or [samples.path(name) for name in samples.SAMPLES]
    count = jobs or len(photos)
    with tempfile.TemporaryDirectory(prefix="worker-bench-") as name:
        folder = Path(name)
        try:
            with start_stack(folder, engine=configured.engine) as stack:
                urls = []
                for n, photo in enumerate(islice(cycle(photos), count)):
                    target = stack.files / "photos" / f"{n}{photo.suffix}"
                    target.parent.mkdir(exist_ok=True)
                    shutil.copyfile(photo, target)
                    urls.append(f"{stack.server.url}/photos/{target.name}")
                counts = [str(each) for each in lanes] or [str(configured.lanes)]
                runs = {each: _measure(stack, configured, each, urls, quality, on_rows) for each in counts}
        finally:
            remove_server(folder / "postgres")
    made = {"engine": configured.engine, "quality": quality}
    return {**made, "by_lanes": runs} if len(runs) > 1 else {**made, **next(iter(runs.values()))}


def _measure(
    stack: Stack,
    configured: Settings,
    lanes: str,
    urls: Sequence[str],
    quality: str,
    on_rows: Callable[[Rows], None],
) -> dict[str, Any]:
    """Run a job for each URL with so many lanes a device."""
    log = stack.files.parent / f"daemon-{lanes}.log"
    environment = {
        **stack.environment,
        "BACKEND_URL": "",
        "WORKER_BACKGROUND_MODEL": configured.background_model,
        "WORKER_GRACE_S": "0",  # a job that Ctrl-C interrupts is of no use to anybody
        "WORKER_HTTP_PORT": "",  # the host's daemon may have it
        "WORKER_LANES": lanes,
        "WORKER_LISTEN_DATABASE_URL": "",
        "WORKER_LOG_FORMAT": "json",
    }
    db = database.connect(database.parse(environment["DATABASE_URL"], "DATABASE_URL"))
    try:
        with (
            log.open("wb") as output,
            start_daemon(environment, stdout=output, stderr=output) as daemon,
        ):
            _await_ready(daemon, log)
            ids = [
                queue.enqueue(
                    db,
                    shop=SHOP,
                    product_id=f"{lanes}-{n}",
                    image_urls=[url],
                    quality=quality,
                    refresh=True,  # each run makes its models, whatever another run has made
                    metadata={},
                )
                for n, url in enumerate(urls)
            ]
            rows = await_jobs(db, ids, daemon, log, limit_s=LIMIT_S, on_rows=on_rows)
    finally:
        db.dispose()
    return {"lanes": _lanes(log), **summarise(rows)}


def _await_ready(daemon: "subprocess.Popen[bytes]", log: Path) -> None:
    """Wait until all lanes can work, so that loading is not measured. Returns also if the daemon has ended."""
    while daemon.poll() is None and '"event": "ready"' not in log.read_text(encoding="utf-8"):
        time.sleep(READY_S)


def summarise(rows: Rows) -> dict[str, Any]:
    """Return what the jobs' rows tell: jobs an hour from the first claim to the last end, means by step, peak of memory."""
    completed = [row for row in rows if row["status"] == "completed"]
    reports = [row["report"] for row in completed]
    began = [row["started_at"] for row in rows if row["started_at"]]
    elapsed_s = (max(row["completed_at"] for row in rows) - min(began)).total_seconds() if began else 0.0
    steps = stages.in_order({step: 0.0 for report in reports for step in report["seconds"]})
    return {
        "jobs": len(rows),
        "completed": len(completed),
        "errors": dict(Counter(row["error_code"] for row in rows if row["error_code"])),
        "elapsed_s": round(elapsed_s, 2),
        "jobs_per_hour": round(len(completed) / elapsed_s * 3600, 1) if elapsed_s else 0.0,
        "job": {
            "wall_s": _mean([(row["completed_at"] - row["started_at"]).total_seconds() for row in completed]),
            "cpu_s": _mean([math.fsum(report["cpu_seconds"].values()) for report in reports]),
        },
        "steps": {
            step: {
                "wall_s": _mean([report["seconds"][step] for report in reports if step in report["seconds"]]),
                "cpu_s": _mean(
                    [report["cpu_seconds"][step] for report in reports if step in report["cpu_seconds"]]
                ),
            }
            for step in steps
        },
        "peak_memory_mb": max((report["peak_rss_mb"] for report in reports), default=None),
        "peak_gpu_memory_mb": max(
            (report["surface"]["peak_vram_mb"] for report in reports if "peak_vram_mb" in report["surface"]),
            default=None,
        ),
    }


def as_tables(found: Mapping[str, Any]) -> list[Table]:
    """Return what a person reads: a table for each number of lanes."""
    return [_table(run) for run in found.get("by_lanes", {"": found}).values()]


def _table(found: Mapping[str, Any]) -> Table:
    table = Table("a job", "wall s", "CPU s", box=None, header_style="dim")
    for column in table.columns[1:]:
        column.justify = "right"
    for name, row in (*found["steps"].items(), ("all", found["job"])):
        table.add_row(name, *("" if row[key] is None else f"{row[key]:.2f}" for key in ("wall_s", "cpu_s")))
    table.add_section()
    table.add_row("jobs an hour", f"{found['jobs_per_hour']:,.1f}")
    table.add_row("completed", f"{found['completed']} of {found['jobs']}")
    for code, count in found["errors"].items():
        table.add_row(f"  {code}", f"{count}", style="red")
    if found["peak_memory_mb"]:
        table.add_row("peak memory of a lane", file_size(found["peak_memory_mb"] * MB))
    if found["peak_gpu_memory_mb"]:
        table.add_row("peak GPU memory of a lane", file_size(found["peak_gpu_memory_mb"] * MB))
    table.add_row("lanes", ", ".join(found["lanes"]))
    return table


def _require_weights(configured: Settings) -> None:
    for name in engines.weights_needed(configured.engine, configured.background_model):
        try:
            weights.verify(configured.weights_dir, name)
        except weights.NotOfficial:
            pass
        except weights.WeightsMissing as error:
            raise ConfigError(str(error)) from None


def _mean(values: Sequence[float]) -> float | None:
    return round(statistics.fmean(values), 3) if values else None


def _lanes(log: Path) -> list[str]:
    """Return the names of the lanes, from the daemon's log."""
    ready = re.findall(
        r'"lane": "([^"]+)".*"event": "child_ready"|"event": "child_ready".*"lane": "([^"]+)"',
        log.read_text(encoding="utf-8"),
    )
    return sorted({first or second for first, second in ready})
