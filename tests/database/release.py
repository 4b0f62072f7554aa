"""Write tests/data/release-VERSION.dump: a database of this version with rows in all tables. Run once, when a version is released:

PYTHONPATH=tests python tests/database/release.py
"""

import subprocess
import tempfile
from pathlib import Path

import psycopg
from shops import Shelf, forget, furnish, supersede
from test_migrations import PROGRAMS

from worker import __version__, database
from worker.database import migrate
from worker.jobs import estimates, hosts, queue
from worker.local.postgres import start_server

HOST = hosts.Host(
    name="gpu-1",
    version=__version__,
    engine="triposr",
    pools=["default"],
    lanes=1,
    devices=["cuda:0"],
    memory_mb=64_000,
)
DATA = Path(__file__).parents[1] / "data"


def main() -> None:
    """Write the file."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        server = start_server(folder / "postgres")
        try:
            url = database.parse(server.url(), "")
            migrate.upgrade(url)
            with psycopg.connect(server.url(), autocommit=True) as sql:
                for shop in ("one.myshopify.com", "two.myshopify.com"):
                    furnish(sql, Shelf(folder / "files", None), shop)
                forget(sql, "gone.myshopify.com")
                supersede(sql, "two.myshopify.com")
                engine = database.connect(url)
                hosts.check_in(engine, HOST)
                queue.fold_history(engine, keep_days=90)
                estimates.update(engine)
                engine.dispose()
            file = DATA / f"release-{__version__}.dump"
            command = [PROGRAMS / "pg_dump", "--format=custom", "--no-owner", "--file", file, server.url()]
            subprocess.run([str(part) for part in command], check=True)
        finally:
            server.stop()


if __name__ == "__main__":
    main()
