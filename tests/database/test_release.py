"""A database of each released version is upgraded with all that is in it: tests/database/release.py makes their backups."""

import re
import subprocess
from pathlib import Path

import psycopg
import pytest
from conftest import connected
from shops import texts
from test_migrations import PROGRAMS, catalogue

from worker import __version__, database
from worker.database import migrate
from worker.jobs import queue

ROOT = Path(__file__).parents[2]
ESTIMATES = {"worker.forecasts", "worker.batch_forecasts", "worker.measured_seconds"}
RELEASES = sorted((ROOT / "tests" / "data").glob("release-*.dump"))


def test_this_version_has_its_backup_and_its_place_in_the_changelog() -> None:
    assert f"release-{__version__}.dump" in {file.name for file in RELEASES}
    versions = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert __version__ in versions[:2]  # after what is unreleased


@pytest.mark.parametrize("release", RELEASES, ids=lambda file: file.stem)
def test_a_release_is_upgraded(release: Path, empty_database: str, database_url: str) -> None:
    restore = [PROGRAMS / "pg_restore", "--exit-on-error", "--no-owner", "--dbname", empty_database, release]
    subprocess.run([str(part) for part in restore], check=True)
    with psycopg.connect(empty_database, autocommit=True) as sql, connected(empty_database) as engine:
        rows = texts(sql)
        # What a daemon measures and foresees, it finds again.
        assert {table for table, found in rows.items() if not found} <= ESTIMATES
        migrate.upgrade(database.parse(empty_database, ""))
        assert catalogue(empty_database) == catalogue(database_url)
        # A revision that changes a table says here what becomes of its rows.
        upgraded = texts(sql)
        assert upgraded.pop("worker.alembic_version") == [f"({database.SCHEMA})"]
        assert upgraded == {table: found for table, found in rows.items() if table in upgraded}
        database.check_schema(engine)
        assert queue.claim(engine, worker="w", lease_s=30)
