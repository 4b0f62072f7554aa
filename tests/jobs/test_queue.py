"""The queue's rules, statement by statement."""

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from random import Random
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from conftest import HOST
from sqlalchemy.engine import Engine
from sqlalchemy.exc import IntegrityError

from worker.core.errors import JobError
from worker.jobs import hosts, queue
from worker.jobs.hosts import CheckIn
from worker.jobs.queue import Job, LeaseLost

# As `queue.claim` runs it, for a transaction that stays open.
CLAIM = re.sub(
    r"%\((worker|host|pools|runs|lease_s|shop_limit)\)s",
    lambda name: {
        "worker": "'slow'",
        "host": "'host'",
        "pools": "'{default}'",
        "runs": "''",
        "lease_s": "30",
        "shop_limit": "NULL",
    }[name[1]],
    queue.QUERIES["claim"],
).encode()


def enqueue(engine: Engine, product: str = "1", shop: str = "a.myshopify.com", **more: Any) -> Any:
    return queue.enqueue(engine, shop=shop, product_id=product, image_urls=["http://a/b"], **more)


def claim(engine: Engine, worker: str = "w") -> Job:
    job = queue.claim(engine, worker=worker, lease_s=30)
    assert job
    return job


def row(sql: psycopg.Connection, columns: str) -> Any:
    return sql.execute(f"SELECT {columns} FROM jobs".encode()).fetchone()


def shift(sql: psycopg.Connection, column: str, interval: str) -> None:
    """Moves time by moving the row's."""
    with sql.transaction():
        sql.execute("SELECT set_config('worker.lease', 'queue', true)")
        sql.execute(f"UPDATE jobs SET {column} = {column} + %s::interval".encode(), [interval])


def test_a_claim_takes_the_highest_priority_then_the_oldest(engine: Engine) -> None:
    order = [enqueue(engine, str(n), priority=p) for n, p in enumerate([0, 5, 0, 5])]
    assert [claim(engine).id for _ in order] == [order[1], order[3], order[0], order[2]]
    assert queue.claim(engine, worker="w", lease_s=30) is None


def test_a_claim_is_a_lease(engine: Engine, sql: psycopg.Connection) -> None:
    enqueue(engine)
    job = claim(engine, "host:1")
    assert row(sql, "status::text, progress, stage, attempts, claimed_by") == (
        "processing",
        5,
        "claimed",
        1,
        "host:1",
    )
    assert row(sql, "lease_token, extract(epoch FROM lease_expires_at - started_at)::int") == (
        job.lease_token,
        30,
    )


def test_a_job_is_not_taken_before_its_time(engine: Engine, sql: psycopg.Connection) -> None:
    enqueue(engine)
    sql.execute("UPDATE jobs SET run_after = now() + interval '1 h'")
    assert queue.claim(engine, worker="w", lease_s=30) is None


def test_a_claim_held_open_does_not_hold_up_another(engine: Engine, database_url: str) -> None:
    first, second = enqueue(engine, "1"), enqueue(engine, "2")
    with psycopg.connect(database_url) as slow:
        taken = slow.execute(CLAIM).fetchone()
        assert taken
        assert taken[0] == first
        assert claim(engine).id == second
        slow.rollback()
    assert claim(engine).id == first


def test_many_claimers_share_the_rows_without_a_double(engine: Engine) -> None:
    wanted = {enqueue(engine, str(n)) for n in range(200)}
    taken: list[Any] = []

    def work() -> None:
        while job := queue.claim(engine, worker="w", lease_s=30):
            taken.append(job.id)
            queue.complete(engine, job, model_url="x", report={})

    threads = [threading.Thread(target=work) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Counter(taken) == Counter(wanted)


def test_what_a_worker_without_the_lease_writes_changes_nothing(
    engine: Engine, sql: psycopg.Connection
) -> None:
    enqueue(engine)
    frozen = claim(engine, "frozen")
    shift(sql, "lease_expires_at", "-31 s")
    assert [found["status"] for found in queue.rescue(engine)] == ["pending"]
    owner = claim(engine, "owner")
    before = sql.execute("SELECT * FROM jobs").fetchall()
    events = sql.execute("SELECT * FROM worker.outbox").fetchall()
    for write in (
        lambda: queue.renew(engine, frozen, lease_s=30),
        lambda: queue.report(engine, frozen, progress=80, stage="written", lease_s=30),
        lambda: queue.complete(engine, frozen, model_url="stale", report={}),
        lambda: queue.fail(engine, frozen, JobError("no_object"), report={}),
        lambda: queue.cancel(engine, frozen),
        lambda: queue.release(engine, frozen),
    ):
        with pytest.raises(LeaseLost):
            write()
    assert sql.execute("SELECT * FROM jobs").fetchall() == before
    assert sql.execute("SELECT * FROM worker.outbox").fetchall() == events
    queue.complete(engine, owner, model_url="fresh", report={})
    assert row(sql, "model_url, attempts") == ("fresh", 2)


def test_a_deleted_row_is_a_lost_lease(engine: Engine, sql: psycopg.Connection) -> None:
    enqueue(engine)
    job = claim(engine)
    sql.execute("DELETE FROM jobs")
    with pytest.raises(LeaseLost):
        queue.report(engine, job, progress=10, stage="downloading", lease_s=30)


@pytest.mark.parametrize("forget", [b"DELETE FROM jobs WHERE shop = 'gone'", b"TRUNCATE jobs"])
def test_with_a_row_go_its_events_and_its_attempts(
    engine: Engine, sql: psycopg.Connection, forget: bytes
) -> None:
    for shop in ("gone", "gone", "here"):
        enqueue(engine, str(uuid4()), shop)
        claim(engine)
    sql.execute(forget)
    left = sql.execute("SELECT id FROM jobs").fetchall()
    assert sql.execute("SELECT job_id FROM worker.outbox").fetchall() == left
    assert sql.execute("SELECT job_id FROM worker.attempts").fetchall() == left


def test_an_attempt_is_found_by_its_index_though_its_table_was_empty_when_the_plan_was_made(
    engine: Engine, sql: psycopg.Connection
) -> None:
    sql.execute("VACUUM ANALYZE worker.attempts")
    for n in range(3):
        enqueue(engine, str(n))
        queue.complete(engine, claim(engine), model_url="x", report={})
    with engine.connect() as connection:
        connection.exec_driver_sql("SELECT pg_stat_force_next_flush()")
    assert sql.execute(
        "SELECT seq_scan, idx_scan FROM pg_stat_user_tables WHERE relid = 'worker.attempts'::regclass"
    ).fetchone() == (0, 3)


def test_a_claim_does_not_wait_for_the_disk_and_a_settlement_does(
    engine: Engine, sql: psycopg.Connection
) -> None:
    enqueue(engine)
    with sql.transaction():
        claimed = sql.execute("SELECT (worker.claim_job('w', 'h', '{default}', '', 30, NULL)).id").fetchone()
        assert sql.execute("SHOW synchronous_commit").fetchone() == ("off",)
    assert claimed == row(sql, "id")
    with sql.transaction():
        sql.execute("SELECT worker.complete_job(id, lease_token, 'x', '{}', NULL, false, 60) FROM jobs")
        assert sql.execute("SHOW synchronous_commit").fetchone() == ("on",)
    enqueue(engine, "2")
    claim(engine)
    enqueue(engine, "3")
    with sql.transaction():
        [(following,)] = sql.execute(
            "SELECT worker.complete_and_claim(id, lease_token, 'x', '{}', NULL, false, 60,"
            " 'w', 'h', '{default}', '', 30, NULL) FROM jobs WHERE status = 'processing'"
        )
        assert following[queue.CLAIMED.index("shop")] == "a.myshopify.com"
        assert sql.execute("SHOW synchronous_commit").fetchone() == ("on",)


def test_progress_never_falls(engine: Engine, sql: psycopg.Connection) -> None:
    enqueue(engine)
    job = claim(engine)
    for progress in (40, 10):
        queue.report(engine, job, progress=progress, stage="s", lease_s=30)
    assert row(sql, "progress") == (40,)


def test_what_can_succeed_later_waits_longer_each_time_and_then_fails(
    engine: Engine, sql: psycopg.Connection
) -> None:
    enqueue(engine)
    for attempt, (least, most) in enumerate([(7.5, 15), (15, 30)], start=1):
        job = claim(engine)
        assert job.attempts == attempt
        assert (
            queue.fail(engine, job, JobError("photo_unreachable"), report={"n": attempt})["status"]
            == "pending"
        )
        wait = row(sql, "extract(epoch FROM run_after - now())::float")[0]
        assert least - 1 < wait <= most
        assert row(sql, "progress, stage, error_code, lease_token") == (0, None, "photo_unreachable", None)
        shift(sql, "run_after", "-1 h")
    assert queue.fail(engine, claim(engine), JobError("photo_unreachable"), report={})["status"] == "failed"
    assert row(sql, "status::text, attempts, error_code") == ("failed", 3, "photo_unreachable")


def test_what_cannot_succeed_fails_at_once(engine: Engine, sql: psycopg.Connection) -> None:
    enqueue(engine)
    assert queue.fail(engine, claim(engine), JobError("no_object"), report={"x": 1})["status"] == "failed"
    assert row(sql, "attempts, metadata, error_message") == (
        1,
        {"worker": {"x": 1}},
        JobError("no_object").message,
    )


def test_released_costs_no_attempt(engine: Engine, sql: psycopg.Connection) -> None:
    enqueue(engine)
    queue.release(engine, claim(engine))
    assert row(sql, "status::text, attempts, progress, claimed_by") == ("pending", 0, 0, None)


def test_a_lost_worker_s_job_comes_back_at_once_then_later_then_fails(
    engine: Engine, sql: psycopg.Connection
) -> None:
    enqueue(engine)
    for waits in (False, True):
        claim(engine)
        assert queue.rescue(engine) == []
        shift(sql, "lease_expires_at", "-31 s")
        assert [found["status"] for found in queue.rescue(engine)] == ["pending"]
        assert row(sql, "run_after > now()") == (waits,)
        shift(sql, "run_after", "-1 h")
    claim(engine)
    shift(sql, "lease_expires_at", "-31 s")
    assert [found["status"] for found in queue.rescue(engine)] == ["failed"]
    assert row(sql, "status::text, error_code, attempts") == ("failed", "worker_lost", 3)


def test_the_first_job_that_a_child_dies_of_is_tried_again_at_once_and_then_later(
    engine: Engine, sql: psycopg.Connection
) -> None:
    enqueue(engine)
    for waits in (False, True):
        queue.fail(engine, claim(engine), JobError("worker_lost"), report={})
        assert row(sql, "status::text, run_after > now()") == ("pending", waits)
        shift(sql, "run_after", "-1 h")
    assert queue.fail(engine, claim(engine), JobError("worker_lost"), report={})["status"] == "failed"


def test_a_lost_worker_s_job_that_should_stop_is_cancelled(engine: Engine, sql: psycopg.Connection) -> None:
    job = enqueue(engine)
    claim(engine)
    queue.request_cancel(engine, job)
    shift(sql, "lease_expires_at", "-31 s")
    assert [found["status"] for found in queue.rescue(engine)] == ["cancelled"]


@pytest.mark.parametrize(
    "give_up",
    [
        lambda engine, job: queue.fail(engine, job, JobError("storage_unavailable"), report={}),
        lambda engine, job: queue.fail(engine, job, JobError("worker_lost"), report={}),
        queue.release,
    ],
    ids=["retry scheduled", "child died", "released"],
)
def test_a_job_that_should_stop_does_not_wait_for_another_try(
    engine: Engine, sql: psycopg.Connection, give_up: Callable[[Engine, Job], object]
) -> None:
    enqueue(engine)
    job = claim(engine)
    queue.request_cancel(engine, job.id)
    give_up(engine, job)
    assert row(sql, "status::text, error_code, completed_at IS NULL") == ("cancelled", None, False)
    assert sql.execute("SELECT outcome FROM worker.attempts").fetchone() == ("cancelled",)


def test_a_claim_held_open_keeps_its_files_from_another(engine: Engine, database_url: str) -> None:
    """Two jobs of one product, by id and by gid: the second is neither claimed beside the first nor waited for."""
    first = enqueue(engine, "1")
    enqueue(engine, "gid://shopify/Product/1")
    variant = enqueue(engine, "1", variant_id="2")
    with psycopg.connect(database_url) as slow:
        taken = slow.execute(CLAIM).fetchone()
        assert taken
        assert taken[0] == first
        assert claim(engine).id == variant
        assert queue.claim(engine, worker="w", lease_s=30) is None
        slow.commit()
    assert queue.claim(engine, worker="w", lease_s=30) is None


def test_a_claim_locks_no_path_of_a_job_that_others_hold(sql: psycopg.Connection, database_url: str) -> None:
    """A backend may touch thousands of waiting jobs in a transaction; the server has room for some thousand locks."""
    sql.execute(
        "INSERT INTO jobs (shop, product_id, image_urls)"
        " SELECT 'a', n::text, '{http://a/b}' FROM generate_series(1, 300) AS n"
    )
    with psycopg.connect(database_url) as backend, psycopg.connect(database_url) as slow:
        backend.execute("UPDATE jobs SET priority = 0")
        assert slow.execute(CLAIM).fetchone() is None
        locks = slow.execute(
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()"
        )
        assert locks.fetchone() == (0,)


def test_a_job_whose_attempts_a_backend_has_cut_is_tried_once_more_and_stops_no_claim(engine: Engine) -> None:
    first = enqueue(engine, "1")
    queue.fail(engine, claim(engine), JobError("worker_lost"), report={})
    with engine.connect() as backend:
        backend.exec_driver_sql("UPDATE jobs SET max_attempts = 1")
    job = claim(engine)
    assert (job.id, job.attempts, job.max_attempts) == (first, 1, 1)
    assert queue.fail(engine, job, JobError("worker_lost"), report={})["status"] == "failed"


def test_jobs_of_one_product_run_one_after_another(engine: Engine) -> None:
    order = [enqueue(engine, "1") for _ in range(3)]
    for wanted in order:
        job = claim(engine)
        assert job.id == wanted
        assert queue.claim(engine, worker="w", lease_s=30) is None
        queue.complete(engine, job, model_url="x", report={})


def test_an_older_job_never_overwrites_a_newer_one_s_file(engine: Engine) -> None:
    older, other = enqueue(engine, "1"), enqueue(engine, "2")
    newer = enqueue(engine, "gid://shopify/Product/1", priority=1)
    job = claim(engine)
    assert job.id == newer
    queue.complete(engine, job, model_url="x", report={})
    found = queue.get_jobs(engine, [older, other])
    assert [row["status"] for row in found] == ["cancelled", "pending"]
    assert (found[0]["error_code"], found[0]["error_message"]) == (
        "superseded",
        JobError("superseded").message,
    )
    assert queue.retry(engine, older), "who asks for it again has asked last"
    again = [claim(engine).id, claim(engine).id]
    assert set(again) == {older, other}


def test_shops_take_turns(engine: Engine) -> None:
    for shop in ("a", "b", "c"):
        for n in range(3):
            queue.enqueue(engine, shop=shop, product_id=str(n), image_urls=["http://a/b"])
    assert [claim(engine).shop for _ in range(9)] == ["a", "b", "c"] * 3


@pytest.mark.parametrize("shop_limit", [None, 1])
def test_the_claim_chooses_the_same_job_where_others_wait_for_their_time(
    engine: Engine, sql: psycopg.Connection, shop_limit: int | None
) -> None:
    """Then it chooses among the few that are due, and else walks along the index. The rules are those of the walk."""
    random = Random(shop_limit)
    for _ in range(12):
        sql.execute("TRUNCATE jobs")
        with sql.transaction():
            for n in range(random.randint(1, 14)):
                sql.execute(
                    "INSERT INTO jobs (pool, engine, shop, product_id, image_urls, priority, run_after)"
                    " VALUES (%s, %s, %s, %s, '{http://a/b}', %s, now() + make_interval(secs => %s))",
                    [
                        random.choice("xxy"),
                        random.choice([None, None, "relief"]),
                        random.choice("abc"),
                        str(n % 5),
                        random.choice([-1, 0, 0, 7]),
                        random.choice([-9, -5, 0, 3600]),
                    ],
                )
        for _ in range(14):
            choices = []
            for choose in (
                b"next_job('{x,y}', '{\"\",relief}', %s, '{}')",
                b"next_of_few(ARRAY(SELECT id FROM jobs WHERE status = 'pending'), %s, '{}')",
            ):
                with sql.transaction(force_rollback=True):
                    choices.append(sql.execute(b"SELECT worker." + choose, [shop_limit]).fetchone())
            assert choices[0] == choices[1]
            job = queue.claim(
                engine, worker="w", lease_s=30, shop_limit=shop_limit, pools=("x", "y"), runs="relief"
            )
            assert (job and job.id,) == choices[0]
            if job and random.random() < 0.6:
                queue.complete(engine, job, model_url="x", report={})


def test_one_job_behind_thousands_of_another_shop_is_next_but_one(
    engine: Engine, sql: psycopg.Connection
) -> None:
    sql.execute(
        "INSERT INTO jobs (shop, product_id, image_urls) SELECT 'b', n::text, '{http://a/b}' FROM generate_series(1, 3000) n"
    )
    for _ in range(4):
        claim(engine)
    for shop in ("c", "a"):
        queue.enqueue(engine, shop=shop, product_id="1", image_urls=["http://a/b"])
    assert [claim(engine).shop for _ in range(3)] == ["c", "a", "b"]


def test_a_shop_s_limit_is_exact_with_many_claimers(engine: Engine, sql: psycopg.Connection) -> None:
    sql.execute(
        "INSERT INTO jobs (shop, product_id, image_urls)"
        " SELECT s, n::text, '{http://a/b}' FROM generate_series(1, 20) n, unnest(ARRAY['a', 'b']) s"
    )
    most: Counter[str] = Counter()
    running: Counter[str] = Counter()
    reached = {shop: threading.Event() for shop in "ab"}
    lock = threading.Lock()

    def work() -> None:
        idle = 0
        while idle < 3:
            job = queue.claim(engine, worker="w", lease_s=30, shop_limit=2)
            if job is None:
                idle += 1
                time.sleep(0.01)
                continue
            with lock:
                running[job.shop] += 1
                most[job.shop] = max(most[job.shop], running[job.shop])
                if running[job.shop] == 2:
                    reached[job.shop].set()
            reached[job.shop].wait(10)  # the first one, for a second one beside it
            time.sleep(0.002)
            with lock:
                running[job.shop] -= 1
            queue.complete(engine, job, model_url="x", report={})

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most.values()) == 2, "reached, and never passed"


def test_a_full_shop_is_passed_over(engine: Engine) -> None:
    for shop in ("a", "a", "b"):
        enqueue(engine, str(uuid4()), shop=shop)
    taken = [queue.claim(engine, worker="w", lease_s=30, shop_limit=1) for _ in range(3)]
    assert [job and job.shop for job in taken] == ["a", "b", None]


def test_a_dedupe_key_is_unique_among_a_shop_s_unfinished_jobs(engine: Engine) -> None:
    enqueue(engine, dedupe_key="k")
    enqueue(engine, dedupe_key="k", shop="another")
    with pytest.raises(IntegrityError, match="dedupe_key_is_unique_among_the_shop_s_unfinished_jobs"):
        enqueue(engine, dedupe_key="k")
    for _ in range(2):
        queue.complete(engine, claim(engine), model_url="x", report={})
    enqueue(engine, dedupe_key="k")


def test_every_attempt_leaves_a_line(engine: Engine, sql: psycopg.Connection) -> None:
    enqueue(engine)
    queue.release(engine, claim(engine, "one"))
    claim(engine, "two")
    shift(sql, "lease_expires_at", "-31 s")
    queue.rescue(engine)
    queue.fail(
        engine,
        claim(engine),
        JobError("photo_unreachable"),
        report={"seconds": {"download": 2.5}, "lane": "cuda:0"},
    )
    shift(sql, "run_after", "-1 h")
    report = {"seconds": {"download": 1}, "lane": "cuda:1"}
    queue.complete(engine, claim(engine), model_url="x", report=report)
    assert sql.execute(
        "SELECT attempt, worker, outcome, error_code, seconds, lane, ended_at >= started_at, host <> ''"
        " FROM worker.attempts ORDER BY started_at"
    ).fetchall() == [
        (1, "one", "released", None, None, None, True, True),
        (1, "two", "lost", "worker_lost", None, None, True, True),
        (2, "w", "failed", "photo_unreachable", {"download": 2.5}, "cuda:0", True, True),
        (3, "w", "completed", None, {"download": 1}, "cuda:1", True, True),
    ]


def test_an_app_s_own_trigger_on_the_table_may_name_its_tables_without_a_schema(
    engine: Engine, sql: psycopg.Connection
) -> None:
    sql.execute("CREATE TABLE seen (status text)")
    sql.execute(
        "CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN INSERT INTO seen VALUES (NEW.status); RETURN NULL; END $$"
    )
    sql.execute("CREATE TRIGGER see AFTER UPDATE OF status ON jobs FOR EACH ROW EXECUTE FUNCTION see()")
    older = enqueue(engine)
    enqueue(engine, priority=1)
    queue.complete(engine, claim(engine), model_url="x", report={})
    queue.retry(engine, older)
    queue.request_cancel(engine, older)
    seen = [status for (status,) in sql.execute("SELECT status FROM seen")]
    # A cancelled row's status is set by the guard, which UPDATE OF does not see.
    assert sorted(seen) == ["cancelled", "completed", "pending", "processing"]


def test_next_due_says_when_to_look_again(engine: Engine, sql: psycopg.Connection) -> None:
    assert hosts.check_in(engine, HOST) == CheckIn(
        due=False,
        expired=False,
        late=False,
        files_due=False,
        batches_due=False,
        seconds=None,
        paused=False,
        shared=False,
    )
    enqueue(engine)
    assert hosts.check_in(engine, HOST).due
    sql.execute("UPDATE jobs SET run_after = now() + interval '60 s'")
    seconds = hosts.check_in(engine, HOST).seconds
    assert seconds
    assert 50 < seconds <= 60
    sql.execute("UPDATE jobs SET run_after = now()")
    claim(engine)
    seconds = hosts.check_in(engine, HOST).seconds
    assert seconds
    assert 20 < seconds <= 30
    shift(sql, "lease_expires_at", "-31 s")
    assert hosts.check_in(engine, HOST).expired


def test_what_ended_long_ago_is_pruned_in_batches(engine: Engine, sql: psycopg.Connection) -> None:
    jobs = [enqueue(engine, str(n)) for n in range(4)]
    for _ in jobs:
        queue.complete(engine, claim(engine), model_url="x", report={})
    assert queue.prune(engine, "jobs", days=1, batch=10) == 0
    sql.execute("UPDATE worker.outbox SET delivered_at = now(), created_at = created_at - interval '2 d'")
    sql.execute(
        "UPDATE worker.outbox SET delivered_at = NULL WHERE job_id = %s AND seq ="
        " (SELECT max(seq) FROM worker.outbox WHERE job_id = %s)",
        [jobs[0], jobs[0]],
    )
    sql.execute("UPDATE worker.attempts SET ended_at = ended_at - interval '2 d'")
    shift(sql, "completed_at", "-2 d")
    assert queue.prune(engine, "attempts", days=1, batch=1) == 1
    assert queue.prune(engine, "events", days=1, batch=100) > 0
    assert [queue.prune(engine, "jobs", days=1, batch=2) for _ in range(3)] == [2, 1, 0]
    assert row(sql, "id") == (jobs[0],), "its webhook has not been delivered yet"
    assert queue.prune(engine, "attempts", days=3, batch=10) == 0


def test_people_see_the_queue(engine: Engine, sql: psycopg.Connection) -> None:
    for shop, n in (("a", 3), ("b", 1)):
        for number in range(n):
            enqueue(engine, str(number), shop=shop)
    queue.complete(engine, claim(engine), model_url="x", report={})
    claim(engine)
    positions = sql.execute(
        "SELECT shop, position FROM job_status WHERE status = 'pending' ORDER BY position"
    )
    assert positions.fetchall() == [("a", 1), ("a", 2)]
    shift(sql, "lease_expires_at", "-41 s")
    assert sql.execute(
        "SELECT shop, pending, running, stuck, completed_last_hour FROM queue_health ORDER BY shop"
    ).fetchall() == [("a", 2, 0, 0, 1), ("b", 0, 1, 1, 0), (None, 2, 1, 1, 1)]


def test_the_claim_uses_its_index_whatever_the_history(sql: psycopg.Connection) -> None:
    """The plans of every statement inside the claim, as Postgres prints them."""
    sql.execute("ALTER TABLE jobs DISABLE TRIGGER USER")
    sql.execute("""
        INSERT INTO jobs (shop, product_id, image_urls, status, progress, model_url, started_at, completed_at)
        SELECT 'shop' || n % 50, n::text, '{http://a/b}', 'completed', 100, 'x', now() - n * interval '1 s', now()
        FROM generate_series(1, 20000) n""")
    sql.execute("""
        INSERT INTO jobs (shop, product_id, image_urls)
        SELECT 'shop' || n % 50, 'p' || n, '{http://a/b}' FROM generate_series(1, 5000) n""")
    sql.execute("ALTER TABLE jobs ENABLE TRIGGER USER")
    sql.execute("ANALYZE jobs")
    plans: list[str] = []
    sql.add_notice_handler(lambda notice: plans.append(notice.message_detail or ""))
    sql.execute("SET client_min_messages = log; SET debug_print_plan = on")
    sql.execute(CLAIM)
    sql.execute("SET debug_print_plan = off")
    names: dict[int, str] = dict(
        sql.execute("SELECT oid::int, relname FROM pg_class WHERE relkind = 'i'").fetchall()
    )
    used = Counter(names[int(oid)] for plan in plans for oid in re.findall(r":indexid (\d+)", plan))
    assert used["jobs_waiting"] == 2  # for the priorities of the lines, and for the job
    assert used["jobs_started"] == 1
    scans = [name for plan in plans for name in re.findall(r"\{(SEQSCAN|SORT|BITMAPHEAPSCAN)\b", plan)]
    assert not scans
    buffers = "\n".join(line[0] for line in sql.execute(b"EXPLAIN (ANALYZE, BUFFERS) " + CLAIM))
    assert int(re.search(r"shared hit=(\d+)", buffers)[1]) < 500, buffers  # type: ignore[index]


def test_worker_retry_runs_what_failed_lately_once_more(
    engine: Engine, sql: psycopg.Connection, database_url: str
) -> None:
    failed = [enqueue(engine, str(n), dedupe_key=str(n)) for n in range(3)]
    for _ in failed:
        queue.fail(engine, claim(engine), JobError("no_object"), report={})
    with sql.transaction():
        sql.execute("SELECT set_config('worker.lease', 'queue', true)")
        sql.execute("UPDATE jobs SET completed_at = now() - interval '3 h' WHERE id = %s", [failed[0]])
    enqueue(engine, "2", dedupe_key="2")
    ended = subprocess.run(
        [sys.executable, "-m", "worker", "retry", "--failed", "--since", "2h", "--json"],
        env=os.environ | {"DATABASE_URL": database_url},
        stdout=subprocess.PIPE,
        check=False,
    )
    assert json.loads(ended.stdout) == {str(failed[1]): True, str(failed[2]): False}
    assert ended.returncode == 1
