"""The page of the queue over time."""

import re
import urllib.request

import psycopg
import pytest
from rows import HOSTILE, Tags, served
from sqlalchemy.engine import Engine

from worker.jobs import queue
from worker.ops.dashboard import trends

# Jobs that have ended within the last day, of two pools and two hosts; one in ten failed.
ENDED = """
    INSERT INTO jobs (shop, product_id, image_urls, pool, status, progress, model_url, error_code, error_message, attempts,
        created_at, queued_at, run_after, started_at, completed_at, metadata)
    SELECT 'a', n::text, '{http://a/b}', CASE WHEN n %% 3 = 0 THEN 'large' ELSE 'default' END,
        (CASE WHEN n %% 10 = 0 THEN 'failed' ELSE 'completed' END)::worker.job_state, CASE WHEN n %% 10 = 0 THEN 50 ELSE 100 END,
        CASE WHEN n %% 10 > 0 THEN 'http://a/c' END, CASE WHEN n %% 10 = 0 THEN 'no_object' END, CASE WHEN n %% 10 = 0 THEN 'No.' END, 1,
        at - interval '3 min', at - interval '3 min', at - interval '3 min', at - interval '1 min', at, jsonb_build_object('worker', jsonb_build_object(
            'seconds', jsonb_build_object('generate', 2 + n %% 3, 'texture', 0.5, %(odd)s::text, 1)))
    FROM (SELECT n, now() - n * interval '1 min' AS at FROM generate_series(0, 700) AS n) AS one
"""


@pytest.fixture
def history(engine: Engine, sql: psycopg.Connection) -> None:
    sql.execute("ALTER TABLE jobs DISABLE TRIGGER USER")
    sql.execute(ENDED, {"odd": HOSTILE[:40]})
    sql.execute(
        "INSERT INTO worker.attempts (job_id, lease_token, attempt, worker, host, started_at, ended_at, outcome)"
        " SELECT id, gen_random_uuid(), 1, 'w', CASE WHEN product_id::int %% 2 = 0 THEN %s ELSE 'cpu-1' END,"
        " started_at, completed_at, status::text::worker.outcome FROM jobs",
        [HOSTILE],
    )
    sql.execute("ALTER TABLE jobs ENABLE TRIGGER USER")
    queue.fold_history(engine, keep_days=90)


def text(address: str) -> str:
    with urllib.request.urlopen(address) as answer:
        return str(answer.read().decode())


@pytest.mark.usefixtures("history")
def test_the_page_shows_what_ended_how_long_it_took_and_why_it_failed(engine: Engine) -> None:
    shown = trends.show(engine, {"span": "day"})
    ended, _, start, finish = shown["charts"]
    assert sum(int(values[0]) for _, values in ended.rows) == 630
    assert [values[2] for _, values in ended.rows if values[2] != "0"]
    assert start.rows[-3][1] == ["1 min 57 s", "1 min 57 s"]  # two minutes, to 9 %
    assert finish.rows[-3][1] == ["2 min 46 s", "2 min 46 s"]
    assert shown["codes"] == [{"code": "no_object", "jobs": 71, "share": 71 / 701}]
    assert {step["step"]: round(step["seconds"], 1) for step in shown["steps"]}["texture"] == 0.5
    assert {(group["pool"], group["host"]) for group in shown["groups"]} == {
        (pool, host) for pool in ("default", "large") for host in ("cpu-1", HOSTILE)
    }
    of_one = trends.show(engine, {"span": "day", "pool": "large", "host": "cpu-1"})
    assert sum(group["ended"] for group in of_one["groups"]) == 117
    hour = trends.show(engine, {"span": "hour"})
    assert sum(group["ended"] for group in hour["groups"]) in range(55, 61)
    with served(engine) as address:
        page = text(f"{address}/trends?span=week&pool=%22&host=%00")
        assert "Nothing in this time." in page
        page = text(f"{address}/trends?span=day")
        assert Tags(page).names.count("svg") > 4
        assert "<script" not in re.sub(r"<script src=[^>]*></script>", "", page)
        assert "style=" not in page


def test_a_page_of_a_queue_without_a_past(engine: Engine) -> None:
    with served(engine) as address:
        assert text(f"{address}/trends").count("Nothing in this time.") == 4


@pytest.mark.parametrize(("share", "seconds"), [(0.5, 1.1), (0.95, 4.4), (1.0, 4.4)])
def test_a_percentile_is_of_the_jobs_and_not_of_the_steps(share: float, seconds: float) -> None:
    lines = [{"key": "0", "count": 90}, {"key": "8", "count": 10}]
    assert trends.percentile(lines, share) == pytest.approx(seconds, rel=0.01)


def test_there_is_no_percentile_of_nothing() -> None:
    assert trends.percentile([], 0.5) is None
