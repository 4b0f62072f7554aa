"""Measure a page of the dashboard with 10,000 jobs in the table: `.venv/bin/python tests/benchmarks/dashboard.py`.

A real `worker dashboard` before a real Postgres, asked over HTTP, one request after the other.
"""

import sys
from pathlib import Path

# Not this folder, which Python puts first: its `queue` would hide the standard library's.
sys.path.pop(0)
sys.path.insert(0, str(Path(__file__).parents[1]))

import re
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import psycopg

from worker import database
from worker.database import migrate
from worker.local.postgres import remove_server, start_server

CROWD = Path(__file__).parents[1] / "ops" / "dashboard" / "crowd.sql"
REQUESTS = 40


@contextmanager
def crowded(folder: Path) -> Iterator[str]:
    """Yield the URL of a database with the jobs in it."""
    postgres = start_server(folder)
    try:
        url = postgres.create_database("crowded")
        migrate.upgrade(database.parse(url, "DATABASE_URL"))
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(CROWD.read_bytes())
            connection.execute("VACUUM ANALYZE public.jobs, worker.attempts")
        yield url
    finally:
        postgres.stop("immediate")
        remove_server(folder)


@contextmanager
def dashboard(url: str) -> Iterator[httpx.Client]:
    """Run `worker dashboard` on the database. Yield a client of it."""
    command = [sys.executable, "-m", "worker", "dashboard", "--port", "0"]
    with subprocess.Popen(command, env={"DATABASE_URL": url}, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        said = next(line for line in process.stderr if "http://" in line)
        try:
            with httpx.Client(base_url=re.findall(r"http://[\w.:]+", said)[0], timeout=30) as site:
                yield site
        finally:
            process.terminate()


def main() -> None:
    """Print the figures."""
    with tempfile.TemporaryDirectory() as folder, crowded(Path(folder) / "postgres") as url:
        with psycopg.connect(url) as connection:
            found = connection.execute("SELECT id FROM jobs WHERE status = 'completed' LIMIT 1").fetchone()
        assert found
        pages = {
            "the queue": "/",
            "failed, third page": "/?status=failed&page=3",
            "a shop's completed": "/?q=shop-7&status=completed",
            "a job": f"/jobs/{found[0]}",
        }
        with dashboard(url) as site:
            print(f"{'page':20} {'median ms':>9} {'worst ms':>9} {'kB':>5}")
            for name, address in pages.items():
                taken = []
                for _ in range(REQUESTS):
                    began = time.perf_counter()
                    answer = site.get(address).raise_for_status()
                    taken.append((time.perf_counter() - began) * 1000)
                median = statistics.median(taken)
                print(f"{name:20} {median:9.1f} {max(taken):9.1f} {len(answer.content) / 1000:5.0f}")


if __name__ == "__main__":
    main()
