"""What the row itself refuses, whoever writes it."""

import json
from typing import Any

import psycopg
import pytest
from sqlalchemy.engine import Engine

from worker.core.errors import JobError
from worker.jobs import queue
from worker.versions import queue as versions

VALID = {"shop": "a.myshopify.com", "product_id": "1", "image_urls": ["https://a/b.jpg"]}


def insert(sql: psycopg.Connection, **columns: Any) -> Any:
    row = {k: v for k, v in (VALID | columns).items() if v is not ...}
    names = ", ".join(row)
    values = ", ".join(["%s"] * len(row))
    query = f"INSERT INTO jobs ({names}) VALUES ({values}) RETURNING id"
    found = sql.execute(query.encode(), list(row.values())).fetchone()
    assert found
    return found[0]


@pytest.mark.parametrize(
    ("columns", "rule"),
    [
        ({"image_urls": ...}, "image_urls"),
        ({"image_urls": []}, "image_urls_are_1_to_16"),
        ({"image_urls": ["https://a/b.jpg"] * 17}, "image_urls_are_1_to_16"),
        ({"image_urls": ["javascript:alert(1)"]}, "image_urls_are_http_or_https"),
        ({"image_urls": ["https://a/b.jpg", "file:///etc/passwd"]}, "image_urls_are_http_or_https"),
        ({"image_urls": ["https://a/b.jpg", None]}, "image_urls_are_http_or_https"),
        ({"image_urls": ["https://a/b c.jpg"]}, "image_urls_are_http_or_https"),
        ({"image_urls": ["https://a\njavascript:x"]}, "image_urls_are_http_or_https"),
        ({"image_urls": ["https://"]}, "image_urls_are_http_or_https"),
        ({"image_urls": [["https://a/b.jpg"], ["https://a/c.jpg"]]}, "image_urls_are_one_list"),
        ({"image_urls": ["https://a/" + "b" * 65_536]}, "image_urls_are_at_most_64_kB"),
        ({"product_handle": "x" * 256}, "product_handle_is_at_most_255_characters"),
        ({"metadata": '{"a": "' + "b" * 1_048_576 + '"}'}, "metadata_is_at_most_1_MB"),
        ({"metadata": '{"a": [' + "1e100000," * 11 + "1]}"}, "metadata_is_at_most_1_MB"),
        ({"metadata": '{"worker": "' + "b" * 1_048_576 + '"}'}, "metadata_is_at_most_1_MB"),
        ({"metadata": '{"a": ' + "[" * 9000 + "]" * 9000 + "}"}, "metadata_is_nested_at_most_5000_deep"),
        ({"cancel_requested_at": "infinity"}, "times_are_between_1970_and_9999"),
        ({"status": "cancelled", "completed_at": "-infinity"}, "times_are_between_1970_and_9999"),
        ({"started_at": "0044-03-15 BC"}, "times_are_between_1970_and_9999"),
        ({"quality": "ultra"}, "quality_is_fast_balanced_quality_or_auto"),
        ({"shop": " "}, "shop_is_1_to_255_characters"),
        ({"shop": ...}, "shop"),
        ({"product_id": ""}, "product_id_is_1_to_255_characters"),
        ({"variant_id": ""}, "variant_id_is_1_to_255_characters"),
        ({"max_attempts": 0}, "max_attempts_is_1_to_25"),
        ({"run_after": "infinity"}, "run_after_is_before_the_year_9999"),
        ({"run_after": "-infinity"}, "run_after_is_before_the_year_9999"),
        ({"start_by": "infinity"}, "start_by_is_before_the_year_9999"),
        ({"start_by": "-infinity"}, "start_by_is_before_the_year_9999"),
        ({"metadata": "[]"}, "metadata_is_an_object"),
        ({"status": "cancelled", "completed_at": "now", "progress": 101}, "progress_is_0_to_100"),
        ({"progress": 50}, "pending_has_no_progress"),
        ({"attempts": 4}, "attempts_are_0_to_max_attempts"),
        ({"status": "processing"}, "processing_has_a_lease"),
        ({"status": "cancelled"}, "ended_has_completed_at"),
        ({"status": "completed", "completed_at": "now", "progress": 100}, "completed_has_model_url_and_100"),
        ({"status": "failed", "completed_at": "now"}, "failed_has_error_code_and_message"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_bad_insert_is_refused_with_the_rule_s_name(
    sql: psycopg.Connection, columns: Any, rule: str
) -> None:
    with pytest.raises(psycopg.IntegrityError, match=rule):
        insert(sql, **columns)


@pytest.mark.parametrize(
    "column", [{"review": "wanted"}, {"version": "0" * 32}, {"excluded_photos": [0]}], ids=str
)
def test_what_only_the_worker_and_people_decide_is_refused_at_an_insert(
    sql: psycopg.Connection, column: dict[str, Any]
) -> None:
    with pytest.raises(psycopg.errors.CheckViolation, match="review, version and excluded_photos") as refusal:
        insert(sql, **column)
    assert refusal.value.diag.constraint_name == "review_version_and_excluded_photos_are_empty_in_a_new_row"
    insert(sql, review="none", version=None, excluded_photos=[], refresh=True)


def test_a_good_insert_needs_three_columns(sql: psycopg.Connection) -> None:
    job = insert(sql)
    row = sql.execute(
        "SELECT status::text, progress, quality, attempts FROM jobs WHERE id = %s", [job]
    ).fetchone()
    assert row == ("pending", 0, "balanced", 0)


def test_addresses_may_come_under_metadata(sql: psycopg.Connection) -> None:
    urls = ["https://a/1.jpg", "https://a/2.jpg"]
    job = insert(sql, image_urls=None, metadata=json.dumps({"image_urls": urls, "note": 1}))
    assert sql.execute(
        "SELECT image_urls, metadata ->> 'note' FROM jobs WHERE id = %s", [job]
    ).fetchone() == (urls, "1")
    with pytest.raises(psycopg.errors.CheckViolation, match="image_urls_are_http_or_https"):
        insert(sql, image_urls=None, metadata='{"image_urls": ["data:image/png;base64,"]}')
    with pytest.raises(psycopg.errors.NotNullViolation, match="image_urls"):
        insert(sql, image_urls=None, metadata='{"image_urls": "https://a/1.jpg"}')


def test_the_database_s_clock_sets_the_times(sql: psycopg.Connection) -> None:
    job = insert(sql, created_at="2001-01-01", updated_at="2001-01-01")
    row = sql.execute(
        "SELECT created_at > now() - interval '1 min', updated_at = created_at FROM jobs"
    ).fetchone()
    assert row == (True, True)
    sql.execute(
        "UPDATE jobs SET priority = 5, updated_at = '2001-01-01', created_at = '2001-01-01' WHERE id = %s",
        [job],
    )
    row = sql.execute(
        "SELECT created_at > now() - interval '1 min', updated_at > created_at, priority FROM jobs"
    ).fetchone()
    assert row == (True, True, 5)


def test_rows_of_one_transaction_keep_their_order(sql: psycopg.Connection, engine: Engine) -> None:
    with sql.transaction():
        wanted = [insert(sql, product_id=str(n)) for n in range(5)]
    claimed = [queue.claim(engine, worker="w", lease_s=30) for _ in wanted]
    assert [job and job.id for job in claimed] == wanted


BACKWARD = [
    ("status", "pending"),
    ("status", "cancelled"),
    ("progress", 3),
    ("stage", "x"),
    ("attempts", 0),
    ("model_url", "https://evil/"),
    ("review", "approved"),
    ("review", None),
    ("version", "0" * 32),
    ("excluded_photos", [0]),
    ("error_code", "x"),
    ("error_message", "x"),
    ("lease_token", None),
    ("lease_token", "00000000-0000-0000-0000-000000000000"),
    ("lease_expires_at", "2099-01-01"),
    ("claimed_by", "x"),
    ("started_at", None),
    ("completed_at", "2001-01-01"),
    ("created_at", "2001-01-01"),
    ("updated_at", "2001-01-01"),
    ("id", "00000000-0000-0000-0000-000000000000"),
]


@pytest.mark.parametrize("state", ["pending", "processing", "completed", "failed"])
def test_an_update_from_outside_moves_nothing(sql: psycopg.Connection, engine: Engine, state: str) -> None:
    insert(sql)
    if state != "pending":
        job = queue.claim(engine, worker="w", lease_s=30)
        assert job
        queue.report(engine, job, progress=40, stage="framed", lease_s=30)
        if state == "completed":
            queue.complete(engine, job, model_url="https://a/m.glb", report={"engine": "relief"})
        if state == "failed":
            queue.fail(engine, job, JobError("no_object"), report={})
    before = sql.execute("SELECT * FROM jobs").fetchall()
    warnings: list[str] = []
    sql.add_notice_handler(lambda notice: warnings.append(notice.message_primary or ""))
    for column, value in BACKWARD:
        sql.execute(f"UPDATE jobs SET {column} = %s".encode(), [value])
        assert sql.execute("SELECT * FROM jobs").fetchall() == before, column
    assert all("not changed" in warning for warning in warnings)
    assert warnings


def test_a_job_that_runs_keeps_the_place_of_its_files(sql: psycopg.Connection, engine: Engine) -> None:
    insert(sql, variant_id="2")
    changes = [("shop", "b"), ("product_id", "9"), ("variant_id", None)]
    for column, value in changes:
        sql.execute(f"UPDATE jobs SET {column} = %s".encode(), [value])
    job = queue.claim(engine, worker="w", lease_s=30)
    assert job
    assert (job.shop, job.product_id, job.variant_id) == ("b", "9", None), "one that waits may still move"
    for column, _ in changes:
        sql.execute(f"UPDATE jobs SET {column} = 'x', product_handle = 'mug'".encode())
    found = sql.execute("SELECT shop, product_id, variant_id, product_handle FROM jobs").fetchone()
    assert found == ("b", "9", None, "mug")


def test_a_job_is_made_anew_or_not_until_it_runs(sql: psycopg.Connection, engine: Engine) -> None:
    insert(sql)
    sql.execute("UPDATE jobs SET refresh = true")
    job = queue.claim(engine, worker="w", lease_s=30)
    assert job
    assert job.refresh
    sql.execute("UPDATE jobs SET refresh = false")
    assert sql.execute("SELECT refresh FROM jobs").fetchone() == (True,)
    queue.cancel(engine, job)
    sql.execute("UPDATE jobs SET refresh = false")
    assert sql.execute("SELECT refresh FROM jobs").fetchone() == (False,)


def test_a_backend_s_echo_of_a_review_changes_nothing(sql: psycopg.Connection, engine: Engine) -> None:
    """A handler that is minutes late writes back what it heard before somebody approved, or before a retry."""
    job = insert(sql, metadata='{"a": 1}')
    claimed = queue.claim(engine, worker="w", lease_s=30)
    assert claimed
    begin(engine, claimed, "d1")
    queue.complete(
        engine, claimed, model_url="x", report={"engine": "relief"}, digest="d1", wants_review=True
    )
    assert queue.approve(engine, job)
    sql.execute("""UPDATE jobs SET metadata = '{"a": 2}'""")
    [(wanted,), (approved,)] = sql.execute(
        "SELECT body::jsonb FROM worker.outbox WHERE terminal ORDER BY seq"
    ).fetchall()
    assert (wanted["review"], approved["review"]) == ("wanted", "approved")
    before = sql.execute("SELECT * FROM jobs").fetchall()
    for body in (wanted, approved):
        sql.execute(
            "UPDATE jobs SET status = %s, model_url = %s, review = %s, metadata = %s",
            [body["status"], body.get("modelUrl"), body["review"], json.dumps(body["metadata"])],
        )
        assert sql.execute("SELECT * FROM jobs").fetchall() == before


def begin(engine: Engine, job: queue.Job, digest: str) -> None:
    assert versions.begin(engine, job, digest=digest, stem="a/1", files={}, result_key=None)


def test_the_backend_s_metadata_is_merged_and_ours_is_kept(sql: psycopg.Connection, engine: Engine) -> None:
    insert(sql, metadata='{"a": 1, "b": 2}')
    job = queue.claim(engine, worker="w", lease_s=30)
    assert job
    queue.complete(engine, job, model_url="https://a/m.glb", report={"engine": "relief"})
    sql.execute("""UPDATE jobs SET metadata = '{"b": 3, "c": 4, "worker": {"engine": "stale"}}'""")
    row = sql.execute("SELECT metadata FROM jobs").fetchone()
    assert row == ({"a": 1, "b": 3, "c": 4, "worker": {"engine": "relief"}},)
    sql.execute("UPDATE jobs SET metadata = NULL")
    assert sql.execute("SELECT metadata FROM jobs").fetchone() == row


def test_metadata_that_would_grow_too_large_stays_as_it_is(sql: psycopg.Connection) -> None:
    """An error would make the backend's handler fail, and the webhook come again."""
    insert(sql, metadata=json.dumps({"a": "x" * 600_000}))
    warnings: list[str] = []
    sql.add_notice_handler(lambda notice: warnings.append(notice.message_primary or ""))
    sql.execute("UPDATE jobs SET priority = 3, metadata = %s", [json.dumps({"b": "x" * 600_000})])
    assert sql.execute("SELECT metadata ? 'b', priority FROM jobs").fetchone() == (False, 3)
    sql.execute("UPDATE jobs SET metadata = %s", ['{"b": ' + "[" * 9000 + "]" * 9000 + "}"])
    assert sql.execute("SELECT metadata ? 'b' FROM jobs").fetchone() == (False,)
    assert ["would be too large" in warning for warning in warnings] == [True, True]


def test_a_cancel_ends_a_waiting_job_at_once_and_marks_a_running_one(
    sql: psycopg.Connection, engine: Engine
) -> None:
    waiting = insert(sql)
    sql.execute("UPDATE jobs SET cancel_requested_at = '2001-01-01' WHERE id = %s", [waiting])
    row = sql.execute("SELECT status::text, completed_at > now() - interval '1 min' FROM jobs").fetchone()
    assert row == ("cancelled", True)

    running = insert(sql)
    job = queue.claim(engine, worker="w", lease_s=30)
    assert job
    assert job.id == running
    assert queue.renew(engine, job, lease_s=30) is False
    assert queue.request_cancel(engine, running) is True
    assert queue.renew(engine, job, lease_s=30) is True
    queue.cancel(engine, job)
    assert queue.request_cancel(engine, running) is False


def test_only_retry_goes_back(sql: psycopg.Connection, engine: Engine) -> None:
    first = insert(sql)
    assert queue.retry(engine, first) is False
    job = queue.claim(engine, worker="w", lease_s=30)
    assert job
    queue.fail(engine, job, JobError("no_object"), report={})
    assert queue.retry(engine, first) is True
    row = sql.execute(
        "SELECT status::text, attempts, error_code, completed_at, progress FROM jobs"
    ).fetchone()
    assert row == ("pending", 0, None, None, 0)


def test_retry_does_not_leave_its_key_in_the_transaction(sql: psycopg.Connection) -> None:
    job = insert(sql)
    with sql.transaction():
        sql.execute("SELECT retry_job(%s)", [job])
        sql.execute("UPDATE jobs SET attempts = 2")
    assert sql.execute("SELECT attempts FROM jobs").fetchone() == (0,)


def test_one_notification_a_statement_and_none_for_updates(
    database_url: str, sql: psycopg.Connection
) -> None:
    with psycopg.connect(database_url, autocommit=True) as listener:
        listener.execute("LISTEN worker_jobs")
        sql.execute(
            "INSERT INTO jobs (shop, product_id, image_urls) SELECT 'a', n::text, '{http://a/b}' FROM generate_series(1, 50) n"
        )
        sql.execute("UPDATE jobs SET priority = 2")
        sql.execute("NOTIFY worker_jobs, 'the end'")
        heard = [notification.payload for notification in listener.notifies(timeout=60, stop_after=2)]
        assert heard[1:] == ["the end"]
