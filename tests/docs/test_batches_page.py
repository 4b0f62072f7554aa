"""docs/batches.md: its SQL, run in order on jobs that end as the page says, prints its outputs; its event is the real one."""

import json
from pathlib import Path
from typing import Any

import psycopg
from conftest import complete_next
from examples import PAIR, printed, said
from sqlalchemy.engine import Engine

from worker.core.errors import JobError
from worker.jobs import batches, queue
from worker.jobs.queue import Job
from worker.jobs.rows import COLUMNS, read
from worker.local.postgres import Postgres

PAGE = (Path(__file__).parents[2] / "docs" / "batches.md").read_text()


def claim(engine: Engine) -> Job:
    job = queue.claim(engine, worker="w", lease_s=30)
    assert job
    return job


def test_the_page_s_sql_and_its_event_are_what_the_page_says(
    postgres: Postgres, engine: Engine, database_url: str, sql: psycopg.Connection[Any]
) -> None:
    found = [*PAIR.finditer(PAGE)]
    assert len(found) == PAGE.count("```sql") > 2
    running: list[Job] = []
    for pair in found:
        if "batch_status" in pair[2]:
            complete_next(engine, digest="a" * 32)
            queue.fail(engine, claim(engine), JobError("no_object"), report={})
            running.append(claim(engine))
        assert printed(pair, postgres.binaries / "psql", database_url) == said(pair), pair[2]
    queue.complete(engine, running[0], model_url="https://a/b.glb", report={})
    batches.fold(engine)
    (body,) = sql.execute(
        "SELECT body::jsonb FROM worker.outbox WHERE type = 'batch.finished'"
    ).fetchone() or ({},)
    event = json.loads(PAGE.partition("```json\n")[2].partition("```")[0])
    changing = {"seq", "startedAt", "finishedAt"}
    assert body.keys() == event.keys()
    assert {key: body[key] for key in body.keys() - changing} == {
        key: event[key] for key in event.keys() - changing
    }


def test_the_page_has_every_column_of_the_view(sql: psycopg.Connection[Any]) -> None:
    columns = sql.execute(
        "SELECT column_name FROM information_schema.columns WHERE table_name = 'batch_status'"
    ).fetchall()
    rows = [line.split("|")[1] for line in PAGE.splitlines() if line.startswith("| `")]
    assert {name.strip("` ") for row in rows for name in row.split(",")} == {name for (name,) in columns}


def test_a_file_may_have_every_column_that_a_backend_writes(sql: psycopg.Connection[Any]) -> None:
    (jobs,) = sql.execute(
        "SELECT array_agg(column_name::text) FROM information_schema.columns"
        " WHERE table_schema = 'public' AND table_name = 'jobs'"
    ).fetchone() or ([],)
    assert set(COLUMNS) <= set(jobs)


def test_the_page_s_file_can_be_read(tmp_path: Path) -> None:
    file = tmp_path / "products.csv"
    file.write_text(PAGE.rpartition("```text\n")[2].partition("```")[0])
    lines = read(file, {"shop": "a"})
    assert [len(line.columns["image_urls"]) for line in lines] == [2, 1]
