"""Nothing that a row may hold raises: not in a claim, a list, a view, a page, a command or a webhook."""

import asyncio
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, NamedTuple

import httpx
import psycopg
import pytest
from conftest import HOST, connected, new_database
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import sql as pg
from rich.console import Console
from sqlalchemy.engine import Engine
from starlette.applications import Starlette

from worker import database
from worker.cli.output import print_json
from worker.core.errors import JobError
from worker.core.settings import Settings
from worker.jobs import hosts, queue
from worker.local.postgres import Postgres
from worker.ops.dashboard import app
from worker.ops.terminal import live
from worker.ops.terminal.verdict import verdict
from worker.webhooks import outbox

DEEP = "[" * 3000 + "]" * 3000

POISON = [
    '{"n": 1e5000}',
    '{"n": -1e5000, "m": 1e-5000, "dimensions": {"height": 1e5000, "unit": "cm"}}',
    f'{{"n": {DEEP}}}',
    f'{{"n": {"[" * 4900 + "]" * 4900}}}',
    f'{{"dimensions": {DEEP}}}',
    f'{{"dimensions": {DEEP[1000:-1000]}}}',
    f'{{"views": {DEEP}, "subject": {DEEP[1000:-1000]}}}',
    '{"views": {"front": 1e400, "back": -1}, "subject": {"box": [1e400]}}',
    f'{{"worker": {DEEP}}}',
    f'{{"worker": {{"model": {DEEP[2500:-2500]}, "seconds": {{"a": 1e400}}, "quality": {{"score": 1e5000}}}}}}',
    '{"worker": {"model": {"triangles": 1e400, "glb_bytes": 1e400}, "seconds": {"a": 1e308, "b": 1e308}}}',
    '{"worker": {"photos": [[[1]]], "quality": {"score": 1e300, "x": 1e400, "warnings": [[], null, 1e400]}}}',
    '{"worker": {"poster_url": {"a": 1}, "engine": [1], "cutout_url": "\\u001b[31m"}}',
    '{"worker": "text", "dimensions": "\\\\u0000"}',
    json.dumps({"dimensions": {"unit": "cm", "height": "\\ud800"}, "x" * 100_000: "y" * 100_000}),
    f'{{"image_urls": {DEEP}}}',
    '{"image_urls": ["https://a/b", {"a": [1e5000]}, null, [["https://a/c"]]]}',
    '{"image_urls": {"0": "https://a/b"}}',
    "[]",
    "null",
]

ODD = "\x1b]0;title\x07\x1b[2J\x7f\x85\u202e\u2066\u2028\ufeff\r\n\ta\u0301😀商店"
texts = st.text(st.sampled_from(ODD) | st.characters(codec="utf-8", exclude_characters="\0"), max_size=40)
long_texts = texts | st.sampled_from(["x" * 255, "😀" * 255, "商" * 256, "\x1b" * 100_000])
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4)
)
KEYS = [
    "worker",
    "dimensions",
    "views",
    "subject",
    "image_urls",
    "model",
    "quality",
    "seconds",
    "photos",
    "warnings",
    "score",
    "unit",
]
objects = st.dictionaries(st.sampled_from(KEYS) | texts, values, max_size=5)
metadata = st.sampled_from(POISON) | st.one_of(
    objects, st.fixed_dictionaries({"worker": objects}), st.fixed_dictionaries({"dimensions": values})
).map(json.dumps)
urls = st.sampled_from(
    ["https://a/b", "http://x", "javascript:x", "https://a/\x1b[31m", "https://[", "https://a/" + "b" * 9000]
)
arrays = (
    st.none() | st.lists(st.none() | urls | texts, max_size=3) | st.just([["https://a/b"], ["https://a/c"]])
)
times = st.sampled_from(
    ["infinity", "-infinity", "now", "tomorrow", "1970-01-01Z", "9998-12-31Z", "0044-03-15 BC"]
)
small = st.integers(-32768, 32767)

rows = st.fixed_dictionaries(
    {
        "shop": st.just("a.example") | long_texts,
        "product_id": st.just("1") | long_texts,
        "image_urls": st.just(["https://a/b"]) | arrays,
        "metadata": metadata,
    },
    optional={
        "variant_id": long_texts,
        "product_handle": long_texts,
        "quality": st.sampled_from(["fast", "x"]),
        "priority": small,
        "run_after": times,
        "max_attempts": small | st.just(25),
        "dedupe_key": long_texts,
        "cancel_requested_at": times,
        "created_at": times,
    },
)
ends = st.fixed_dictionaries(
    {"status": st.sampled_from(["completed", "failed", "cancelled", "processing"]), "completed_at": times},
    optional={
        "progress": st.just(100) | small,
        "stage": long_texts,
        "model_url": long_texts | urls,
        "error_code": long_texts,
        "error_message": long_texts,
        "started_at": times,
        "attempts": st.just(1) | small,
        "lease_token": st.uuids(),
        "lease_expires_at": times,
        "claimed_by": long_texts,
    },
)
# What a status needs, so that some of these rows are accepted.
FITS: dict[str, dict[str, Any]] = {
    "completed": {"progress": 100, "model_url": "https://a/m.glb", "completed_at": "now", "started_at": "1970-01-01Z"},
    "failed": {"progress": 0, "error_code": "\x1b[31m", "error_message": ODD, "completed_at": "now"},
    "cancelled": {"progress": 0, "completed_at": "now"},
    "processing": {"progress": 5, "completed_at": None, "started_at": "now", "claimed_by": ODD,
                   "lease_token": "00000000-0000-0000-0000-000000000001", "lease_expires_at": "1970-01-01Z"},
}  # fmt: skip


class Place(NamedTuple):
    engine: Engine
    sql: psycopg.Connection
    site: Starlette


@pytest.fixture(scope="module")
def place(postgres: Postgres) -> Iterator[Place]:
    with (
        new_database(postgres) as url,
        connected(url) as engine,
        psycopg.connect(url, autocommit=True) as sql,
    ):
        yield Place(engine, sql, app.create(engine, Settings()))


def insert(sql: psycopg.Connection, row: dict[str, Any]) -> Any:
    statement = pg.SQL("INSERT INTO public.jobs ({}) VALUES ({}) RETURNING id").format(
        pg.SQL(", ").join(map(pg.Identifier, row)), pg.SQL(", ").join(pg.Placeholder() * len(row))
    )
    found = sql.execute(statement, list(row.values())).fetchone()
    assert found
    return found[0]


def test_hostile_rows(place: Place) -> None:
    _try_rows(place, 40)


@pytest.mark.long
def test_thousands_of_hostile_rows(place: Place) -> None:
    _try_rows(place, 4000)


@pytest.mark.parametrize("text", POISON, ids=lambda text: text[:40])
def test_poison_in_metadata(place: Place, text: str) -> None:
    for more in ({}, {"status": "completed"} | FITS["completed"]):
        _use_row(
            place, {"shop": ODD, "product_id": ODD, "image_urls": ["https://a/b"], "metadata": text} | more
        )


def test_a_poisoned_row_holds_up_no_other(engine: Engine, sql: psycopg.Connection) -> None:
    insert(
        sql,
        {"shop": "a", "product_id": "1", "image_urls": ["https://a/b"], "metadata": POISON[1], "priority": 1},
    )
    good = queue.enqueue(
        engine, shop="a", product_id="2", image_urls=["https://a/b"], metadata={"dimensions": {"unit": "m"}}
    )
    claimed = [queue.claim(engine, worker="w", lease_s=30) for _ in range(2)]
    assert [job and job.product_id for job in claimed] == ["1", "2"]
    assert claimed[0]
    assert claimed[0].dimensions == "too long"
    assert claimed[1]
    assert (claimed[1].id, claimed[1].dimensions) == (good, {"unit": "m"})


def test_a_report_with_what_postgres_refuses_is_stored(engine: Engine) -> None:
    job_id = queue.enqueue(engine, shop="a", product_id="1", image_urls=["https://a/b"])
    job = queue.claim(engine, worker="w", lease_s=30)
    assert job
    report = {"a\0": float("nan"), "b": ["\ud800\0", float("inf"), 1.5]}
    queue.fail(engine, job, JobError("no_object", "zero\0 byte \ud800"), report=report)
    (row,) = queue.get_jobs(engine, [job_id])
    assert (row["report"], row["error_message"]) == ({"a": None, "b": ["?", None, 1.5]}, "zero byte ?")


def test_times_that_python_does_not_know_are_the_nearest_it_knows(engine: Engine) -> None:
    with engine.connect() as connection:
        row = connection.exec_driver_sql(
            "SELECT 'infinity'::timestamptz, '-infinity'::timestamptz, '20000-01-01Z'::timestamptz,"
            " '0044-03-15 BC'::timestamptz, '[[[1e400]]]'::jsonb"
        ).one()
    latest, earliest = datetime.max.replace(tzinfo=UTC), datetime.min.replace(tzinfo=UTC)
    assert tuple(row)[:4] == (latest, earliest, latest, earliest)
    assert row[4] == [[[pytest.approx(1.797e308, rel=0.01)]]]
    assert database.parse_json(DEEP) == DEEP


def _try_rows(place: Place, examples: int) -> None:
    @settings(
        max_examples=examples, deadline=None, derandomize=True, database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
    )  # fmt: skip
    @given(row=rows, end=st.none() | ends, fits=st.booleans())
    def run(row: dict[str, Any], end: dict[str, Any] | None, *, fits: bool) -> None:
        _use_row(place, row | (end or {}) | (FITS[end["status"]] if end and fits else {}))

    run()


def _use_row(place: Place, row: dict[str, Any]) -> None:
    """Insert a row, beside one that waits. If Postgres accepts it, have all that reads rows read it."""
    engine, sql, _ = place
    sql.execute("TRUNCATE jobs")
    try:
        job_id = insert(sql, row)
    except psycopg.Error:
        return
    queue.enqueue(engine, shop="a", product_id="other", image_urls=["https://a/b"])
    _read_everywhere(place, job_id)
    queue.rescue(engine)
    for _ in range(2):
        if job := queue.claim(engine, worker="w", lease_s=30):
            _read_everywhere(place, job_id)
            queue.fail(engine, job, JobError("no_object"), report={})
    sql.execute(
        "UPDATE jobs SET status = 'failed', metadata = metadata || '{\"a\": 1}'"
    )  # as a late handler does
    _read_everywhere(place, job_id)
    while event := outbox.take(engine, sending_s=30):
        assert json.dumps(event.body)
        outbox.dead_letter(engine, event, refusals=5, reason="refused")
    outbox.dead(engine, 10)


def _read_everywhere(place: Place, job_id: Any) -> None:
    engine, sql, site = place
    said = io.StringIO()
    terminal = Console(file=said, force_terminal=True, color_system=None, width=200)
    for part in live.status(engine, terminal, 10):
        terminal.print(part)
    for job in queue.get_jobs(engine, [job_id]):
        terminal.print(verdict(job))
    assert not set(said.getvalue()) & set("\x1b\x07\r\x85\u202e\u2028")
    print_json([queue.recent(engine), queue.health(engine), hosts.list_hosts(engine), queue.failures(engine)])
    hosts.check_in(engine, HOST)
    queue.gauges(engine, "gauges")
    queue.queue_position(engine, job_id)
    sql.execute(
        "SELECT to_json(v)::text FROM job_status AS v UNION ALL SELECT to_json(v)::text FROM queue_health AS v"
    )
    for text in asyncio.run(_pages(site, "/", f"/jobs/{job_id}", f"/?q={str(job_id)[:8]}")):
        assert not set(text) & set("\x1b\x07\r\x85\u202e\u2028")


async def _pages(site: Starlette, *paths: str) -> list[str]:
    """What these pages say. An error in the application is raised here."""
    transport = httpx.ASGITransport(site)
    async with httpx.AsyncClient(
        transport=transport, base_url="http://localhost", follow_redirects=True
    ) as browser:
        answers = [await browser.get(path) for path in paths]
    assert [answer.status_code for answer in answers] == [200] * len(paths)
    return [answer.text for answer in answers]


def test_names_that_the_locale_lacks_break_no_command_and_no_log(database_url: str, engine: Engine) -> None:
    queue.enqueue(engine, shop="商店.example", product_id="\x1b[31mü", image_urls=["https://a/b"])
    latin = os.environ | {"DATABASE_URL": database_url, "PYTHONIOENCODING": "latin-1", "COLUMNS": "200"}
    said = subprocess.run(
        [sys.executable, "-m", "worker", "status"], env=latin, stderr=subprocess.PIPE, check=True
    ).stderr
    assert rb"\u5546\u5e97.example" in said
    assert b"\x1b[31m" not in said
    for form, wanted in (("json", rb"\u5546\u001b[31m"), ("console", rb"\u5546\ufffd[31m")):
        program = (
            "import sys, structlog; from worker.core import logs; sys.stdout.reconfigure(errors='backslashreplace');"
            f"logs.configure({form!r}, 'info'); structlog.get_logger().info('job_claimed', shop='商\\x1b[31m')"
        )
        line = subprocess.run(
            [sys.executable, "-c", program], env=latin, stdout=subprocess.PIPE, check=True
        ).stdout
        assert wanted in line
