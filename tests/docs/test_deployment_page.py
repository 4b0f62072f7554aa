"""docs/deployment.md: the settings in its worker.env work together; its recipe takes the jobs of an earlier backend over."""

import re
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from worker import database
from worker.cli import preflight
from worker.core import settings
from worker.core.finding import Level
from worker.core.settings import ConfigError, Settings
from worker.database import migrate
from worker.local import samples
from worker.local.server import DevServer

PAGE = (Path(__file__).parents[2] / "docs" / "deployment.md").read_text()


def test_the_settings_of_the_first_host_take_the_photo_of_the_first_job(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, site: DevServer, photos: Callable[[str, bytes], str]
) -> None:
    def configured() -> Settings:
        for name in settings.variables():
            monkeypatch.delenv(name, raising=False)
        for name, value in written.items():
            monkeypatch.setenv(name, value)
        return settings.load()

    lines = PAGE.partition("worker.env <<'END'\n")[2].partition("END\n")[0].splitlines()
    written = dict(line.split("=", 1) for line in lines)
    assert written["WORKER_STORAGE_URL"] == "http://127.0.0.1:8080"
    written["WORKER_STORAGE_URL"] = site.url
    photo = photos("duck.jpg", samples.path("duck.jpg").read_bytes())
    assert preflight.fetch_and_open(photo, tmp_path / "photo", configured()).level is Level.OK
    del written["WORKER_PHOTO_LOOPBACK"]
    refused = preflight.fetch_and_open(photo, tmp_path / "photo", configured())
    assert refused.level is Level.FAIL
    assert refused.fix.endswith("WORKER_PHOTO_LOOPBACK=true")


def test_the_recipe_takes_the_jobs_of_an_earlier_backend_over(empty_database: str) -> None:
    part = PAGE.partition("### A project that already has jobs\n")[2].partition("\n## ")[0]
    table, rename, copy, view = re.findall(r"^```sql\n(.*?)^```$", part, re.DOTALL | re.MULTILINE)
    url = database.parse(empty_database, "")
    with psycopg.connect(empty_database, autocommit=True) as sql:
        sql.execute(table)
        sql.execute("""
            CREATE VIEW todo AS SELECT id FROM jobs WHERE status = 'pending';
            CREATE TABLE notes (job uuid REFERENCES jobs);
            INSERT INTO jobs (shop, product_id, status, model_url, error_message, metadata, created_at, updated_at) VALUES
                ('a', '1', 'completed', 'https://m/1.glb', NULL, '{"image_urls": ["https://a/1.jpg"], "order": 7}', '2024-05-01Z', '2024-05-02Z'),
                ('a', '2', 'completed', NULL, NULL, NULL, '2024-05-01Z', '2024-05-02Z'),
                ('a', '3', 'failed', NULL, 'No.', '{"image_urls": "x"}', '2024-05-01Z', '2024-05-02Z'),
                ('a', '4', 'processing', NULL, NULL, '{"image_urls": ["https://a/4.jpg", "data:x", null, 5]}', '2024-05-01Z', '2024-05-02Z'),
                ('a', '5', 'pending', NULL, NULL, '{"image_urls": []}', '2024-05-01Z', '2024-05-02Z')
        """)
        with pytest.raises(
            ConfigError, match=r"table public.jobs, type public.job_status\. Nothing was changed"
        ) as refusal:
            migrate.upgrade(url)
        for statement in rename.splitlines():
            assert statement in str(refusal.value)
        sql.execute(rename)
        migrate.upgrade(url)
        sql.execute(copy)
        found = sql.execute(
            "SELECT product_id, status::text, model_url, error_message, image_urls, created_at = '2024-05-01Z',"
            " completed_at = '2024-05-02Z', metadata ->> 'order' FROM jobs ORDER BY 1"
        ).fetchall()
        nowhere = ["https://photo.invalid/"]
        assert found == [
            ("1", "completed", "https://m/1.glb", None, ["https://a/1.jpg"], True, True, "7"),
            ("2", "failed", None, "The job failed.", nowhere, True, True, None),
            ("3", "failed", None, "No.", nowhere, True, True, None),
            ("4", "pending", None, None, ["https://a/4.jpg"], True, None, None),
            ("5", "pending", None, None, nowhere, True, None, None),
        ]
        assert sql.execute(
            "SELECT product_id FROM worker.claim_job('w', 'h', '{default}', '', 30, 1)"
        ).fetchone() == ("4",)
        sql.execute(view)
        sql.execute("""
            INSERT INTO model_jobs (shop, product_id, metadata) VALUES ('a', '6', '{"image_urls": ["https://a/6.jpg"]}');
            UPDATE model_jobs SET status = 'completed', metadata = '{"seen": true}' WHERE product_id = '6';
        """)
        assert sql.execute(
            "SELECT status::text, metadata ->> 'seen', image_urls FROM jobs WHERE product_id = '6'"
        ).fetchone() == ("pending", "true", ["https://a/6.jpg"])
