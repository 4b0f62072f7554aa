"""docs/jobs.md: its columns and rules are the database's, its SQL prints its outputs, its programs wait for a job's end."""

import os
import re
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from conftest import HOST, NPM, until
from examples import PAIR, printed, said
from sqlalchemy.engine import Engine

from worker.database import transaction
from worker.jobs import estimates, hosts, queue
from worker.jobs.queue import Job
from worker.local.postgres import Postgres

PAGE = (Path(__file__).parents[2] / "docs" / "jobs.md").read_text()
BLOCK = re.compile(r"^( *)```(\w+)\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)


def blocks(language: str) -> list[str]:
    return [textwrap.dedent(found[3]) for found in BLOCK.finditer(PAGE) if found[2] == language]


def section(title: str) -> str:
    return PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def test_the_page_has_every_column_with_its_type_and_default(sql: psycopg.Connection) -> None:
    found = sql.execute(
        "SELECT column_name, format_type(atttypid, NULL), is_nullable, column_default FROM information_schema.columns"
        " JOIN pg_attribute ON attrelid = 'public.jobs'::regclass AND attname = column_name"
        " WHERE table_schema = 'public' AND table_name = 'jobs'"
    ).fetchall()
    real: dict[str, tuple[str, str]] = {}
    for name, kind, nullable, default in found:
        plain = re.sub(r"^'(.*)'::[\w.]+(?:\[\])?$", r"\1", default or "")
        real[name] = (kind, "required" if nullable == "NO" and default is None else plain)
    lines = re.findall(
        r"^- `(\w+)` \(([^,)]+)(?:, (required)|, default `([^`]*)`)?\)", section("The row"), re.MULTILINE
    )
    stated = {name: (kind, required or default) for name, kind, required, default in lines}
    assert stated == real


def test_the_page_has_every_rule(sql: psycopg.Connection) -> None:
    found = sql.execute(
        "SELECT (regexp_matches(prosrc, $$THEN '(\\w+)'$$, 'g'))[1] FROM pg_proc"
        " WHERE oid = 'worker.check_job_rules'::regproc"
        " UNION SELECT (regexp_matches(prosrc, $$CONSTRAINT = '(\\w+)'$$, 'g'))[1] FROM pg_proc"
        " WHERE oid = 'worker.receive_job'::regproc"
        " UNION SELECT (regexp_matches(prosrc, $$refuse_job\\('(\\w+)'\\)$$, 'g'))[1] FROM pg_proc"
        " WHERE oid = 'worker.keep_plans'::regproc"
        " UNION SELECT indexrelid::regclass::text FROM pg_index"
        " WHERE indrelid = 'public.jobs'::regclass AND indisunique AND indexrelid::regclass::text LIKE 'dedupe%'"
    ).fetchall()
    named = set(re.findall(r"`([a-z]\w+_(?:is|are|has)_\w+|pending_has_no_progress)`", section("Rules")))
    assert named == {name for (name,) in found}


def taken(engine: Engine, product: str) -> Job:
    job = queue.claim(engine, worker="gpu-1:4711", lease_s=300)
    assert job
    assert job.product_id == product
    return job


def one_runs_and_one_was_completed(engine: Engine) -> None:
    job = taken(engine, "124")
    queue.report(engine, job, progress=50, stage="generating", lease_s=300)
    queue.enqueue(
        engine, shop="other.myshopify.com", product_id="9", image_urls=["https://a/b"], priority=100
    )
    queue.complete(engine, taken(engine, "9"), model_url="https://m/9.glb", report={})
    with transaction(engine) as connection:
        connection.execute(
            "INSERT INTO worker.measured_seconds SELECT 'default', '', quality, '{42, 42, 42}', 3, 42, now()"
            " FROM unnest('{balanced, quality}'::text[]) AS quality"
        )
    hosts.check_in(engine, HOST)
    assert estimates.update(engine)
    hosts.check_out(engine, HOST)  # the page goes on with jobs that no host takes


BEFORE: dict[str, Callable[[Engine], None]] = {"The queue for people": one_runs_and_one_was_completed}


def test_the_page_s_sql_prints_what_the_page_says(
    postgres: Postgres, engine: Engine, database_url: str
) -> None:
    ran = 0
    for part in PAGE.split("\n## ")[1:]:
        if before := BEFORE.get(part.partition("\n")[0]):
            before(engine)
        for found in PAIR.finditer(part):
            assert printed(found, postgres.binaries / "psql", database_url) == said(found), found[2]
            ran += 1
    with psycopg.connect(database_url, autocommit=True) as owner:  # roles belong to the whole server
        owner.execute("DROP OWNED BY shop_backend")
        owner.execute("DROP ROLE shop_backend")
    assert ran == len(blocks("sql")) > 10


def test_the_rights_of_the_page_are_enough_for_a_backend(sql: psycopg.Connection) -> None:
    grants = next(block for block in blocks("sql") if block.startswith("CREATE ROLE"))
    with sql.transaction(force_rollback=True):  # roles belong to the whole server
        sql.execute(grants.encode())
        sql.execute("SET LOCAL ROLE shop_backend")
        row = sql.execute(
            "INSERT INTO jobs (shop, product_id, image_urls) VALUES ('a', '1', '{https://a/b}') RETURNING id"
        ).fetchone()
        assert row
        sql.execute("UPDATE jobs SET priority = 1")
        assert sql.execute("SELECT cancel_job(%s), retry_job(%s)", [row[0], row[0]]).fetchone() == (
            True,
            True,
        )
        assert sql.execute("SELECT status, priority FROM job_status").fetchone() == ("pending", 1)
        assert sql.execute("SELECT pending FROM queue_health WHERE shop = 'a'").fetchone() == (1,)


PROGRAMS: dict[str, Any] = {
    "python": ("python", "make_model.py", sys.executable, "python.myshopify.com"),
    "node": ("ts", "make-model.mjs", shutil.which("node"), "node.myshopify.com"),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_page_s_program_inserts_a_job_and_waits_for_its_end(
    engine: Engine, database_url: str, tmp_path: Path, name: str
) -> None:
    language, file, program, shop = PROGRAMS[name]
    if name == "node":
        if not program or not (NPM / "node_modules" / "postgres").exists():
            pytest.skip(f"needs node, and: npm install --prefix {NPM} postgres")
        (tmp_path / "node_modules").symlink_to(NPM / "node_modules")
    (tmp_path / file).write_text(blocks(language)[0])

    def start() -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [program, tmp_path / file],
            env=os.environ | {"DATABASE_URL": database_url},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    first = start()
    try:
        job = until(lambda: queue.claim(engine, worker="w", lease_s=300), what="the program's job")
        assert job
        assert (job.shop, job.quality) == (shop, "fast")
        second = start()
        output, _ = second.communicate(timeout=60)
        assert second.returncode == 1
        assert "This product's model is being made already." in output
        queue.complete(engine, job, model_url="https://m/1.glb?v=1", report={})
        output, _ = first.communicate(timeout=60)
    finally:
        first.kill()
        first.wait()
    assert (first.returncode, output.strip()) == (0, "https://m/1.glb?v=1")


@pytest.mark.skipif(not shutil.which("node"), reason="node is not installed")
def test_the_example_for_supabase_js_is_a_program(tmp_path: Path) -> None:
    file = tmp_path / "supabase.mjs"
    file.write_text(blocks("ts")[1])
    subprocess.run(["node", "--check", file], check=True)
