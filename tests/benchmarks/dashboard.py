"""Measure each page of the dashboard with a large queue: `python tests/benchmarks/dashboard.py [--history N] [--json]`.

By default a million jobs have ended and 100,000 wait, of 2,000 shops, in 400 batches: that takes some minutes to write. A real
`worker dashboard` before a real Postgres is asked over HTTP, one request after the other. `cpu ms` is what both have computed
for one page: on a quiet machine the time of a page, on a busy one still the same.
"""

import sys
from pathlib import Path

# Not this folder, which Python puts first: its `queue` would hide the standard library's.
sys.path.pop(0)
sys.path.insert(0, str(Path(__file__).parents[1]))

import argparse
import json
import os
import re
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import httpx
import psycopg

from worker import database
from worker.database import migrate
from worker.local.postgres import remove_server, start_server

CROWD = Path(__file__).parent / "crowd.sql"
REQUESTS = 20  # of each page, after two that do not count

# {job}, {waiting}: the ids of jobs; {place}: a place far down in the list.
PAGES = {
    "all jobs": "/",
    "ended, far back": "/?status=ended&older={place}",
    "waiting": "/?status=pending",
    "completed": "/?status=completed",
    "failed": "/?status=failed",
    "failed, far back": "/?status=failed&older={place}",
    "to review": "/?review=wanted",
    "an error code": "/?code=storage_refused",
    "a shop": "/?shop=shop-7.myshopify.com",
    "a part of a shop's name": "/?shop=SHOP-77",
    "a part of each shop's name": "/?shop=myshopify",
    "a shop's failed": "/?shop=shop-20.myshopify.com&status=failed",
    "a product": "/?product=8000000000123",
    "a handle": "/?handle=thing-1234",
    "a variant": "/?variant=9000000000123",
    "a batch": "/?batch=old-5",
    "the beginning of an id": "/?job={start}",
    "a preset": "/?preset=quality",
    "an engine": "/?engine=relief&status=completed",
    "a host": "/?host=gpu-3",
    "a host that is gone": "/?host=gpu-99",
    "a day": "/?since=7d&until=6d",
    "a day's failed of a preset": "/?since=7d&until=6d&status=failed&preset=fast",
    "a word that is not known": "/?q=teapot",
    "a job": "/jobs/{job}",
    "a job that waits": "/jobs/{waiting}",
    "hosts": "/hosts",
    "batches": "/batches",
    "batches of a name": "/batches?q=new-77",
    "one batch": "/batches/shop-7.myshopify.com/new-7",
    "webhooks": "/webhooks",
    "limits": "/limits",
    "limits of a shop": "/limits?q=shop-77",
    "trends, an hour": "/trends?span=hour",
    "trends, a day": "/trends",
    "trends, a week": "/trends?span=week",
    "errors": "/errors",
}


class Figures(NamedTuple):
    """What a page costs."""

    median_ms: float
    worst_ms: float
    cpu_ms: float
    bytes: int


@contextmanager
def crowded(folder: Path, sizes: Mapping[str, int]) -> Iterator[tuple[str, int]]:
    """Yield the URL of a database with the jobs in it, and its server's process."""
    postgres = start_server(folder)
    try:
        with psycopg.connect(postgres.url(), autocommit=True) as connection:
            connection.execute("ALTER SYSTEM SET max_wal_size = '4GB'")
            connection.execute("SELECT pg_reload_conf()")
        url = postgres.create_database("crowded")
        migrate.upgrade(database.parse(url, "DATABASE_URL"))
        fill(url, sizes)
        yield url, int((postgres.data / "postmaster.pid").read_text().splitlines()[0])
    finally:
        postgres.stop("immediate")
        remove_server(folder)


def fill(url: str, sizes: Mapping[str, int]) -> None:
    """Run crowd.sql with these numbers, one statement after the other."""
    text = re.sub(r"(?<!:):([a-z]+)", lambda name: str(sizes.get(name[1], name[0])), CROWD.read_text())
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in text.split(";\n"):
            if statement.strip():
                connection.execute(statement.encode())


@contextmanager
def dashboard(url: str) -> Iterator[tuple[httpx.Client, int]]:
    """Run `worker dashboard` on the database. Yield a client of it, and its process."""
    command = [sys.executable, "-m", "worker", "dashboard", "--port", "0"]
    with subprocess.Popen(command, env={"DATABASE_URL": url}, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        said = next(line for line in process.stderr if "http://" in line)
        try:
            with httpx.Client(base_url=re.findall(r"http://[\w.:]+", said)[0], timeout=30) as site:
                yield site, process.pid
        finally:
            process.terminate()


def cpu_s(*processes: int) -> float:
    """Return the seconds that these processes and their children have computed, with those that have ended."""
    ticks = 0
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:
            parts = file.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        own = int(file.parent.name) in processes
        if own or int(parts[1]) in processes:
            ticks += sum(map(int, parts[11 : 15 if own else 13]))
    return ticks / os.sysconf("SC_CLK_TCK")


def measure(site: httpx.Client, address: str, *processes: int) -> Figures:
    """Ask for a page again and again."""
    for _ in range(2):
        site.get(address)
    taken = []
    before = cpu_s(*processes)
    for _ in range(REQUESTS):
        began = time.perf_counter()
        answer = site.get(address)
        taken.append((time.perf_counter() - began) * 1000)
        assert answer.status_code == 200, (address, answer.text[:2000])
    cpu = (cpu_s(*processes) - before) / REQUESTS * 1000
    return Figures(statistics.median(taken), max(taken), cpu, len(answer.content))


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--history", type=int, default=1_000_000, help="jobs that have ended; a tenth as many wait"
    )
    parser.add_argument("--json", action="store_true", help="print a JSON object")
    options = parser.parse_args()
    sizes = {"history": options.history, "waiting": options.history // 10, "shops": 2000, "batches": 400}
    with tempfile.TemporaryDirectory() as folder, crowded(Path(folder) / "postgres", sizes) as (url, server):
        with psycopg.connect(url) as connection:
            found = connection.execute(
                "SELECT (SELECT id FROM jobs WHERE status = 'completed' LIMIT 1), (SELECT id FROM jobs WHERE status = 'pending' LIMIT 1),"
                " to_char(percentile_disc(0.5) WITHIN GROUP (ORDER BY completed_at), 'YYYY-MM-DD\"T\"HH24:MI:SS.USTZH:TZM')"
                " FROM jobs"
            ).fetchone()
        assert found
        job, waiting, time_of_place = map(str, found)
        names = {
            "job": job,
            "start": job[:6],
            "waiting": waiting,
            "place": f"{time_of_place}_{job}".replace("+", "%2B"),
        }
        with dashboard(url) as (site, process):
            figures = {
                name: measure(site, address.format(**names), server, process)
                for name, address in PAGES.items()
            }
    if options.json:
        print(json.dumps({name: row._asdict() for name, row in figures.items()}, indent=2))
        return
    print(f"{'page':28} {'median ms':>9} {'worst ms':>9} {'cpu ms':>7} {'kB':>5}")
    for name, row in figures.items():
        print(f"{name:28} {row.median_ms:9.1f} {row.worst_ms:9.1f} {row.cpu_ms:7.1f} {row.bytes / 1000:5.0f}")


if __name__ == "__main__":
    main()
