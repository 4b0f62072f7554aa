"""A model of a host with a GPU: real daemons, lanes and CPU work, and a sleep where the GPU would compute.

`python tests/benchmarks/gpu_host.py [--json]`. It shows whether lanes keep the cores busy, and whether a host does the jobs an
hour that arithmetic promises: the cores' seconds by those of a job, as long as lanes and GPU are no bound. Run it on a machine
that does nothing else.
"""

import sys
from pathlib import Path

# Not this folder, which Python puts first: its `queue` would hide the standard library's.
sys.path.pop(0)
sys.path.insert(0, str(Path(__file__).parents[1]))

import argparse
import json
import os
import tempfile
from collections.abc import Sequence
from datetime import datetime
from itertools import cycle, islice
from typing import Any

import psycopg
from benchmarks.rig import Daemon, Rig, rig, sql, until
from rich.console import Console
from rich.table import Table

from worker.compute.lanes import Host
from worker.local import samples

PRETEND = Path(__file__).parent / "pretend"  # for the children's PYTHONPATH
LONG_S = 1800.0
TICK = os.sysconf("SC_CLK_TCK")

Json = dict[str, Any]


def run(bench: Rig, lanes: int, jobs: int, quality: str, gpu_s: float, wait_s: float) -> Json:
    """Do so many jobs with so many lanes."""
    url = bench.database(f"lanes_{lanes}")
    daemon = bench.start(
        url,
        WORKER_LANES=str(lanes),
        PYTHONPATH=str(PRETEND),
        PYTHON_GPU_S=str(gpu_s),
        PYTHON_WAIT_S=str(wait_s),
        PYTHON_GPU_LOCK=str(bench.folder / "gpu"),
    )
    # Measured from the end of one job to that of another, both while each lane has a job: the first jobs load the background
    # model, and among the last ones lanes stand idle because the queue is empty.
    _enqueue(bench, url, lanes + jobs + lanes, quality)
    began, cpu_before, host_before = _ended(url, lanes), _cpu_seconds(daemon), _host_cpu_seconds()
    ended = _ended(url, lanes + jobs)
    cpu_s, host_s = _cpu_seconds(daemon) - cpu_before, _host_cpu_seconds() - host_before
    elapsed_s = (ended - began).total_seconds()
    [(completed,)] = sql(
        url,
        "SELECT count(*) FILTER (WHERE status = 'completed') FROM jobs WHERE completed_at > %s AND completed_at <= %s",
        began,
        ended,
    )
    bench.stop(daemon)
    cores, a_job_s = Host.measure().cores, cpu_s / jobs
    bounds = {
        "cores": cores * 3600 / a_job_s,
        "lanes": lanes * 3600 / (a_job_s + gpu_s + wait_s),
        "gpu": 3600 / gpu_s,
    }
    bound = min(bounds, key=lambda name: bounds[name])
    return {
        "lanes": lanes,
        "completed": completed,
        "jobs": jobs,
        "jobs_per_hour": 3600 * jobs / elapsed_s,
        "promised": bounds[bound],
        "bound": bound,
        "busy_cores": cpu_s / elapsed_s / cores,
        "busy_with_all": host_s / elapsed_s / os.sysconf("SC_NPROCESSORS_ONLN"),
        "busy_gpu": jobs * gpu_s / elapsed_s,
        "cpu_s_per_job": a_job_s,
        "cores": cores,
    }


def _enqueue(bench: Rig, url: str, jobs: int, quality: str) -> None:
    names = list(samples.SAMPLES)
    folder = bench.files / "photos"
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).write_bytes(samples.path(name).read_bytes())
    [(known,)] = sql(url, "SELECT count(*) FROM jobs")
    for n, name in enumerate(islice(cycle(names), jobs)):
        sql(
            url,
            "INSERT INTO jobs (shop, product_id, image_urls, quality, refresh) VALUES ('a', %s, %s, %s, true)",
            str(known + n),
            [f"{bench.backend.url}/photos/{name}"],
            quality,
        )


def _ended(url: str, jobs: int) -> datetime:
    """Wait until so many jobs have ended. Return when the last of them did."""
    nth = (
        "SELECT completed_at FROM jobs WHERE completed_at IS NOT NULL ORDER BY completed_at OFFSET %s LIMIT 1"
    )
    # One connection: new ones, 30 times a second, would take from the cores what the daemon is to have.
    with psycopg.connect(url, autocommit=True) as connection:
        [(ended_at,)] = until(
            lambda: connection.execute(nth, [jobs - 1]).fetchall(), LONG_S, "the jobs", every_s=0.1
        )
    assert isinstance(ended_at, datetime)
    return ended_at


def _cpu_seconds(daemon: Daemon) -> float:
    """Return the seconds of the processors that the daemon, its children and their ended children have had."""
    pids = {daemon.process.pid, *(event["pid"] for event in daemon.events("child_ready"))}
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += sum(int(field) for field in fields[11:15])  # utime, stime, cutime, cstime
    return ticks / TICK


def _host_cpu_seconds() -> float:
    """Return the seconds that the processors have been busy, with anything."""
    line = Path("/proc/stat").read_text().splitlines()[0]
    user, nice, system, _idle, _iowait, irq, softirq = (int(field) for field in line.split()[1:8])
    return (user + nice + system + irq + softirq) / TICK


def as_table(found: Sequence[Json]) -> Table:
    """Return what a person reads."""
    table = Table(
        "lanes",
        "jobs/h",
        "promised",
        "by",
        "busy cores",
        "with all else",
        "busy GPU",
        "CPU-s a job",
        box=None,
        header_style="dim",
    )
    for row in found:
        table.add_row(
            str(row["lanes"]),
            f"{row['jobs_per_hour']:.0f}",
            f"{row['promised']:.0f}",
            row["bound"],
            f"{row['busy_cores']:.0%}",
            f"{row['busy_with_all']:.0%}",
            f"{row['busy_gpu']:.1%}",
            f"{row['cpu_s_per_job']:.2f}",
        )
    return table


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--lanes", type=int, action="append", help="of the GPU; 1, 2, 4 and 6 by default")
    parser.add_argument("--jobs", type=int, default=24)
    parser.add_argument("--quality", default="balanced")
    parser.add_argument(
        "--gpu-s", type=float, default=0.13, help="of the GPU, a job; by arithmetic, of an L4"
    )
    parser.add_argument("--wait-s", type=float, default=1.15, help="of downloads and uploads, a job")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="worker-gpu-host-") as name, rig(Path(name)) as bench:
        found = [
            run(bench, lanes, chosen.jobs, chosen.quality, chosen.gpu_s, chosen.wait_s)
            for lanes in chosen.lanes or [1, 2, 4, 6]
        ]
    if chosen.json:
        print(json.dumps(found, indent=2))
    else:
        Console().print(as_table(found))


if __name__ == "__main__":
    main()
