from pathlib import Path

import psycopg
from sqlalchemy.engine import Engine

from worker.core.stages import Stage, in_order
from worker.jobs import queue

ROOT = Path(__file__).parents[2]


def test_steps_are_sorted_and_unknown_ones_come_last() -> None:
    # As jsonb gives them: the shortest names first.
    seconds = {"stray": 1.0, "cutout": 2.0, "upload": 3.0, "download": 4.0}
    assert list(in_order(seconds).items()) == [
        ("download", 4.0),
        ("cutout", 2.0),
        ("upload", 3.0),
        ("stray", 1.0),
    ]


def test_progress_rises_and_ends_at_100() -> None:
    assert list(Stage) == sorted(Stage)
    assert [(stage.value, stage.title) for stage in (Stage.CLAIMED, Stage.COMPLETED)] == [
        (5, "claimed"),
        (100, "completed"),
    ]


def test_the_pages_list_all_stages() -> None:
    both = " · ".join(f"{stage.value} {stage.title}" for stage in Stage)
    assert f"| `progress`, `stage` | {both} |" in (ROOT / "README.md").read_text()
    page = (ROOT / "docs" / "jobs.md").read_text()
    assert f": {', '.join(str(stage.value) for stage in Stage)}; never decreases" in page
    assert f": {', '.join(stage.title for stage in Stage)}\n" in page


def test_the_database_claims_and_completes_at_the_table_s_ends(
    engine: Engine, sql: psycopg.Connection
) -> None:
    queue.enqueue(engine, shop="a", product_id="1", image_urls=["https://a/a.png"])
    job = queue.claim(engine, worker="w", lease_s=30)
    assert job
    row = "SELECT progress, stage FROM jobs"
    assert sql.execute(row).fetchone() == (Stage.CLAIMED, Stage.CLAIMED.title)
    queue.complete(engine, job, model_url="x", report={})
    assert sql.execute(row).fetchone() == (Stage.COMPLETED, Stage.COMPLETED.title)
