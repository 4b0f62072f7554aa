"""Versions in the database: begun, published, looked up, doomed; and what people decide about them."""

import threading
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from conftest import HOST
from sqlalchemy.engine import Engine
from sqlalchemy.exc import DBAPIError

from worker.jobs import hosts, queue
from worker.jobs.queue import Claimer, Job, LeaseLost
from worker.versions import queue as versions
from worker.versions.queue import Publication

FILES = {".png": "a" * 64, ".glb": "b" * 64}
Sql = psycopg.Connection


def enqueue(engine: Engine, product: str = "1", shop: str = "a", **more: Any) -> UUID:
    return queue.enqueue(
        engine, shop=shop, product_id=product, image_urls=["http://a/0", "http://a/1", "http://a/2"], **more
    )


def claim(engine: Engine) -> Job:
    job = queue.claim(engine, worker="w", lease_s=30)
    assert job
    return job


def begin(engine: Engine, job: Job, digest: str, key: str | None = None) -> bool:
    return versions.begin(
        engine, job, digest=digest, stem=f"{job.shop}/{job.product_id}", files=FILES, result_key=key
    )


def complete(
    engine: Engine, job: Job, digest: str, *, wants_review: bool = False, key: str | None = None
) -> str | None:
    assert begin(engine, job, digest, key)
    return queue.complete(
        engine,
        job,
        model_url=f"https://m/{digest}.glb",
        report={"engine": "relief"},
        digest=digest,
        wants_review=wants_review,
    )


def make(engine: Engine, digest: str, *, wants_review: bool = False, **row: Any) -> Job:
    """Insert a job and complete it; what it publishes is not written yet."""
    enqueue(engine, **row)
    job = claim(engine)
    complete(engine, job, digest, wants_review=wants_review)
    return job


def published(sql: Sql) -> Any:
    return sql.execute(
        "SELECT digest, written, CASE WHEN token IS NOT NULL THEN 'taken' WHEN next_try_at <= now() THEN 'due'"
        " WHEN next_try_at > now() THEN 'later' ELSE 'done' END FROM worker.published"
    ).fetchone()


def take(engine: Engine) -> Publication:
    work = versions.take_publication(engine, lease_s=30)
    assert work
    return work


def write(engine: Engine) -> str:
    """Publish what is due, as a daemon does. Returns the version's digest."""
    work = take(engine)
    assert versions.renew_publication(engine, work, lease_s=30)
    assert versions.finish_publication(engine, work)
    return work.digest


def expire(sql: Sql) -> None:
    """Let what was taken or put back be due now, as if its time had passed."""
    sql.execute("UPDATE worker.published SET next_try_at = now() WHERE next_try_at IS NOT NULL")
    sql.execute("UPDATE worker.versions SET next_try_at = now() WHERE next_try_at IS NOT NULL")


def age(sql: Sql, days: int = 31) -> None:
    sql.execute("UPDATE worker.versions SET used_at = used_at - make_interval(days => %s)", [days])


def events(sql: Sql, job: UUID) -> list[Any]:
    return [
        (body["status"], body.get("review"), body.get("modelUrl"))
        for (body,) in sql.execute(
            "SELECT body::jsonb FROM worker.outbox WHERE job_id = %s AND terminal ORDER BY seq", [job]
        )
    ]


def row(sql: Sql, job: UUID, columns: str) -> Any:
    return sql.execute(f"SELECT {columns} FROM jobs WHERE id = %s".encode(), [job]).fetchone()


def test_a_completed_job_s_worker_publishes_it(engine: Engine, sql: Sql) -> None:
    enqueue(engine, "gid://shopify/Product/1")
    job = claim(engine)
    path = complete(engine, job, "d1")
    assert path
    assert row(sql, job.id, "status::text, version, review") == ("completed", "d1", "none")
    assert published(sql) == ("d1", None, "taken")
    work = Publication.of(job, path=path, stem="a/1", digest="d1", files=FILES)
    assert versions.take_publication(engine, lease_s=30) is None, "its worker has it"
    assert versions.renew_publication(engine, work, lease_s=30)
    assert versions.finish_publication(engine, work)
    assert published(sql) == ("d1", "d1", "done")
    assert not versions.renew_publication(engine, work, lease_s=30)


def test_another_daemon_completes_what_a_dead_one_has_left(engine: Engine, sql: Sql) -> None:
    job = make(engine, "d1")
    expire(sql)
    work = take(engine)
    assert (work.digest, work.stem, work.shop, work.job_id, work.files) == ("d1", "a/1", "a", job.id, FILES)
    assert versions.take_publication(engine, lease_s=30) is None
    due = versions.put_back_publication(engine, work, error="503")
    assert due
    assert versions.take_publication(engine, lease_s=30) is None, "it waits after an error"
    assert sql.execute("SELECT last_error, next_try_at > now() + '5 s' FROM worker.published").fetchone() == (
        "503",
        True,
    )
    expire(sql)
    work = take(engine)
    versions.put_back_publication(engine, work, error=None)
    assert write(engine) == "d1", "without an error it is due at once"
    assert versions.put_back_publication(engine, work, error="late") is None
    assert published(sql) == ("d1", "d1", "later"), "a file of an earlier try may still arrive"
    expire(sql)
    assert write(engine) == "d1"
    assert published(sql) == ("d1", "d1", "done")


def test_the_same_bytes_are_not_written_again(engine: Engine, sql: Sql) -> None:
    make(engine, "d1")
    for _ in range(2):
        expire(sql)
        write(engine)
    second = make(engine, "d1")
    assert published(sql) == ("d1", "d1", "done")
    assert sql.execute("SELECT job_id FROM worker.published").fetchone() == (second.id,)
    assert sql.execute("SELECT job_id FROM worker.versions").fetchall() == [(second.id,)]


def test_a_model_that_is_made_anew_or_published_on_purpose_is_written_again(engine: Engine, sql: Sql) -> None:
    job = make(engine, "d1").id
    for _ in range(2):
        expire(sql)
        write(engine)
    assert queue.retry(engine, job)
    assert complete(engine, claim(engine), "d1"), "its lane writes it"
    assert published(sql) == ("d1", None, "taken")
    for _ in range(2):
        expire(sql)
        write(engine)
    assert published(sql) == ("d1", "d1", "done")
    assert queue.publish_version(engine, job)
    assert published(sql) == ("d1", None, "due")
    assert write(engine) == "d1"


def test_one_writes_at_a_time_and_the_newer_version_comes_after(engine: Engine, sql: Sql) -> None:
    make(engine, "d1")
    expire(sql)
    slow = take(engine)
    enqueue(engine)
    assert complete(engine, claim(engine), "d2") is None, "another daemon writes at this path"
    assert not versions.renew_publication(engine, slow, lease_s=30), "another version is to be published"
    assert write(engine) == "d2"
    assert published(sql) == ("d2", "d2", "later")


def test_who_ends_with_another_version_than_is_wanted_by_then_does_not_end_it(
    engine: Engine, sql: Sql
) -> None:
    make(engine, "d1")
    expire(sql)
    slow = take(engine)
    make(engine, "d2")
    assert not versions.finish_publication(engine, slow)
    following = enqueue(engine, "2")
    assert versions.finish_publication_and_claim(engine, slow, Claimer(worker="w", lease_s=30)) == (
        False,
        None,
    )
    assert row(sql, following, "status::text") == ("pending",)
    assert write(engine) == "d2"


def test_a_late_file_of_an_older_version_has_the_path_written_anew(engine: Engine, sql: Sql) -> None:
    make(engine, "d1")
    expire(sql)
    frozen = take(engine)
    expire(sql)
    make(engine, "d2")
    expire(sql)
    assert write(engine) == "d2"
    assert not versions.finish_publication(engine, frozen)
    assert published(sql) == ("d2", "d2", "later")
    versions.doubt_publication(engine, frozen)
    assert published(sql) == ("d2", None, "due")
    later = take(engine)
    versions.doubt_publication(engine, frozen)
    assert not versions.renew_publication(engine, later, lease_s=30)
    versions.doubt_publication(engine, later)  # its files are those that must lie there
    assert write(engine) == "d2"
    assert published(sql)[:2] == ("d2", "d2")


def test_the_newest_insert_wins_whenever_it_ends(engine: Engine, sql: Sql) -> None:
    older, newer = enqueue(engine), enqueue(engine, priority=1)
    job = claim(engine)
    assert job.id == newer
    complete(engine, job, "d2", wants_review=True)
    job = claim(engine)
    assert job.id == older, "what is not published supersedes nothing"
    assert queue.approve(engine, newer)
    complete(engine, job, "d1")
    assert row(sql, older, "status::text, version, model_url") == ("completed", "d1", "https://m/d1.glb")
    assert published(sql)[0] == "d2"


def test_what_waits_for_review_is_not_published(engine: Engine, sql: Sql) -> None:
    first = make(engine, "d1")
    second = make(engine, "d2", wants_review=True)
    assert published(sql)[0] == "d1"
    assert row(sql, second.id, "status::text, review, version, model_url, metadata -> 'worker'") == (
        "completed",
        "wanted",
        "d2",
        "https://m/d2.glb",
        {"engine": "relief", "review": "wanted"},
    )
    assert events(sql, first.id) == [("completed", None, "https://m/d1.glb")]
    assert events(sql, second.id) == [("completed", "wanted", None)]
    assert [found["id"] for found in queue.to_review(engine, 10)] == [second.id]


def test_approval_publishes_tells_and_supersedes(engine: Engine, sql: Sql) -> None:
    older = enqueue(engine)
    sql.execute("UPDATE jobs SET run_after = now() + interval '1 h'")
    job = make(engine, "d1", wants_review=True)
    newer = enqueue(engine)
    assert row(sql, older, "status::text") == ("pending",)
    assert queue.approve(engine, job.id)
    assert row(sql, older, "status::text, error_code") == ("cancelled", "superseded")
    assert row(sql, newer, "status::text") == ("pending",)
    assert row(sql, job.id, "review, metadata -> 'worker' ->> 'review'") == ("approved", "approved")
    assert events(sql, job.id) == [
        ("completed", "wanted", None),
        ("completed", "approved", "https://m/d1.glb"),
    ]
    assert write(engine) == "d1"
    assert not queue.approve(engine, job.id), "once"
    assert not queue.approve(engine, newer)
    assert not queue.approve(engine, uuid4())


def test_rejection_publishes_nothing_and_can_be_taken_back(engine: Engine, sql: Sql) -> None:
    job = make(engine, "d1", wants_review=True)
    assert queue.reject(engine, job.id, reason="The handle is missing.")
    assert not queue.reject(engine, job.id)
    assert row(sql, job.id, "review, status::text, metadata #>> '{worker,review_reason}'") == (
        "rejected",
        "completed",
        "The handle is missing.",
    )
    assert events(sql, job.id)[-1] == ("completed", "rejected", None)
    assert published(sql) is None
    assert not queue.publish_version(engine, job.id)
    assert queue.approve(engine, job.id)
    assert row(sql, job.id, "metadata -> 'worker'") == ({"engine": "relief", "review": "approved"},)
    assert sql.execute("SELECT rejected_at FROM worker.versions").fetchone() == (None,)
    assert not queue.reject(engine, job.id), "what is published is not rejected"


def test_approving_an_older_row_leaves_a_newer_published_one_and_publish_version_does_not(
    engine: Engine, sql: Sql
) -> None:
    older = make(engine, "d1", wants_review=True)
    assert not queue.publish_version(engine, older.id), "nobody has approved it"
    newer = make(engine, "d2")
    assert queue.approve(engine, older.id)
    assert row(sql, older.id, "review") == ("approved",)
    assert published(sql)[0] == "d2"
    assert queue.publish_version(engine, older.id)
    expire(sql)
    assert write(engine) == "d1"
    third = make(engine, "d3", wants_review=True)
    assert published(sql)[0] == "d1"
    assert queue.approve(engine, third.id)
    assert published(sql)[0] == "d3"
    assert queue.publish_version(engine, newer.id)
    assert published(sql)[0] == "d2"
    assert not queue.publish_version(engine, uuid4())


def test_going_back_holds_against_what_was_asked_for_before(engine: Engine, sql: Sql) -> None:
    first = make(engine, "d1")
    between = make(engine, "d2", wants_review=True)
    make(engine, "d3")
    assert queue.publish_version(engine, first.id)
    assert queue.approve(engine, between.id)
    assert published(sql)[0] == "d1"


def test_a_retry_sets_the_review_back_and_leaves_the_versions(engine: Engine, sql: Sql) -> None:
    job = make(engine, "d1", wants_review=True)
    assert queue.reject(engine, job.id)
    assert queue.retry(engine, job.id)
    assert row(sql, job.id, "status::text, review, version, refresh, model_url, metadata -> 'worker'") == (
        "pending",
        "none",
        None,
        True,
        None,
        {"engine": "relief"},
    )
    assert sql.execute("SELECT digest, doomed_at FROM worker.versions").fetchall() == [("d1", None)]
    again = claim(engine)
    assert again.refresh
    complete(engine, again, "d2")
    assert published(sql)[0] == "d2"
    queue.retry(engine, job.id)
    assert published(sql)[0] == "d2"


def test_a_retry_without_photos(engine: Engine, sql: Sql) -> None:
    job = make(engine, "d1").id
    for wrong in (-1, 3, 70_000):
        with pytest.raises(
            DBAPIError, match=f"without_photo is {wrong}: the job has 3 photos, counted from 0"
        ):
            queue.retry(engine, job, without_photo=wrong)
    assert queue.retry(engine, job, without_photo=2)
    assert not queue.retry(engine, job, without_photo=1), "it waits"
    assert claim(engine).excluded_photos == [2]
    queue.request_cancel(engine, job)
    queue.cancel(engine, claim_of(engine, job))
    assert queue.retry(engine, job, without_photo=2), "it may be said twice"
    queue.request_cancel(engine, job)
    assert queue.retry(engine, job, without_photo=0)
    queue.request_cancel(engine, job)
    with pytest.raises(DBAPIError, match="without_photo is 1: that is the last photo that is left"):
        queue.retry(engine, job, without_photo=1)
    assert row(sql, job, "excluded_photos, cardinality(image_urls), status::text") == ([0, 2], 3, "cancelled")
    assert queue.retry(engine, job)
    assert row(sql, job, "excluded_photos") == ([0, 2],)
    assert sql.execute("SELECT retry_job(job_id => %s, without_photo => 1)", [uuid4()]).fetchone() == (False,)


def test_a_photo_that_replaces_one_that_was_left_out_is_used(engine: Engine, sql: Sql) -> None:
    job = make(engine, "d1").id
    first, second, third = row(sql, job, "image_urls")[0]
    for photo in (0, 2):
        assert queue.retry(engine, job, without_photo=photo)
        queue.request_cancel(engine, job)
    for urls, excluded in (
        ([first, second, third], [0, 2]),  # the echo of an old backend
        (["https://a.example/new.jpg", second, third], [2]),
        ([second, third], []),
    ):
        sql.execute("UPDATE jobs SET image_urls = %s, product_handle = 'mug' WHERE id = %s", [urls, job])
        assert row(sql, job, "excluded_photos, cardinality(image_urls)") == (excluded, len(urls))
    assert queue.retry(engine, job, without_photo=1)


def claim_of(engine: Engine, job: UUID) -> Job:
    """Return the claim of a job that runs already."""
    with engine.connect() as connection:
        found = connection.exec_driver_sql(
            "SELECT id, lease_token, shop, product_id, variant_id, image_urls, quality, excluded_photos, refresh, attempts,"
            " max_attempts, NULL AS dimensions, NULL AS views, NULL AS subject FROM public.jobs WHERE id = %(id)s",
            {"id": job},
        ).mappings()
        return Job(**dict(found.one()))


def test_nothing_is_begun_or_completed_without_the_lease(engine: Engine, sql: Sql) -> None:
    enqueue(engine)
    job = claim(engine)
    queue.release(engine, job)
    with pytest.raises(LeaseLost):
        begin(engine, job, "d1")
    assert versions.find_result(engine, job, "k") is None
    again = claim(engine)
    with pytest.raises(LeaseLost):
        queue.complete(engine, again, model_url="x", report={}, digest="never begun")
    assert row(sql, job.id, "status::text") == ("processing",)


def test_nothing_is_begun_where_files_are_being_removed(engine: Engine, sql: Sql) -> None:
    first, second = make(engine, "d1"), make(engine, "d2")
    assert first.id != second.id
    age(sql)
    assert versions.doom(engine, days=30, batch=10) == (1, False)
    assert not queue.publish_version(engine, first.id)
    enqueue(engine)
    job = claim(engine)
    assert not begin(engine, job, "d1")
    work = versions.take_doomed(engine, lease_s=30)
    assert work
    assert (work.digest, work.stem, work.shop) == ("d1", "a/1", "a")
    assert versions.take_doomed(engine, lease_s=30) is None
    assert versions.renew_removal(engine, work, lease_s=30)
    assert versions.put_back_removal(engine, work, error="503")
    assert versions.take_doomed(engine, lease_s=30) is None
    expire(sql)
    again = versions.take_doomed(engine, lease_s=30)
    assert again
    assert not versions.renew_removal(engine, work, lease_s=30)
    assert not versions.finish_removal(engine, work)
    assert versions.finish_removal(engine, again)
    assert begin(engine, job, "d1")


def test_what_is_published_or_waits_for_review_is_kept(engine: Engine, sql: Sql) -> None:
    replaced = make(engine, "d1")
    make(engine, "d2")
    waiting = make(engine, "d3", wants_review=True)
    make(engine, "d4", wants_review=True)
    assert queue.reject(engine, sql.execute("SELECT id FROM jobs WHERE version = 'd4'").fetchone()[0])  # type: ignore[index]
    assert versions.doom(engine, days=30, batch=10) == (0, False)
    age(sql)
    assert versions.doom(engine, days=30, batch=3) == (1, True)
    assert versions.doom(engine, days=30, batch=3) == (1, False)
    kept = sql.execute(
        "SELECT digest FROM worker.versions WHERE doomed_at IS NULL ORDER BY digest"
    ).fetchall()
    assert kept == [("d2",), ("d3",)]
    assert row(sql, replaced.id, "version, model_url") == ("d1", "https://m/d1.glb"), "the row names it still"
    age(sql)
    assert queue.approve(engine, waiting.id)
    age(sql, 1)
    assert versions.doom(engine, days=30, batch=3)[0] == 0, "it was published until yesterday"


def test_a_review_keeps_no_version_of_another_product_with_the_same_bytes(engine: Engine, sql: Sql) -> None:
    make(engine, "d1", product="2")
    make(engine, "d2", product="2")
    make(engine, "d1", product="1", wants_review=True)
    age(sql)
    assert versions.doom(engine, days=30, batch=10) == (1, False)
    assert sql.execute("SELECT stem, digest FROM worker.versions WHERE doomed_at IS NOT NULL").fetchall() == [
        ("a/2", "d1")
    ]


def test_a_known_result_is_found_within_the_shop(engine: Engine, sql: Sql) -> None:
    enqueue(engine)
    source = claim(engine)
    complete(engine, source, "d1", key="k")
    enqueue(engine, "2")
    other = claim(engine)
    found = versions.find_result(engine, other, "k")
    assert found
    assert (found.job_id, found.same_product, found.stem, found.digest) == (source.id, False, "a/1", "d1")
    assert found.files == FILES
    assert found.report == {"engine": "relief"}
    assert versions.find_result(engine, other, "another") is None
    complete(engine, other, "d1", key="k", wants_review=True)
    enqueue(engine, "2")
    again = claim(engine)
    found = versions.find_result(engine, again, "k")
    assert found
    assert (found.job_id, found.same_product, found.stem) == (other.id, True, "a/2")
    queue.complete(engine, again, model_url="x", report={"cached": str(found.job_id)}, digest=found.digest)
    assert sql.execute("SELECT job_id FROM worker.versions WHERE stem = 'a/2'").fetchone() == (again.id,)
    enqueue(engine, shop="b")
    assert versions.find_result(engine, claim(engine), "k") is None


def test_a_known_result_is_not_pruned_once_it_was_found(engine: Engine, sql: Sql) -> None:
    enqueue(engine)
    complete(engine, claim(engine), "d1", key="k")
    make(engine, "d2")
    age(sql)
    enqueue(engine)
    assert versions.find_result(engine, claim(engine), "k")
    assert versions.doom(engine, days=30, batch=10) == (0, False)


def test_what_is_rejected_doomed_retried_or_not_wanted_is_not_found(engine: Engine, sql: Sql) -> None:
    def found(product: str = "1") -> bool:
        enqueue(engine, product, priority=9)
        job = claim(engine)
        result = versions.find_result(engine, job, "k")
        queue.cancel(engine, job)
        return result is not None

    enqueue(engine)
    job = claim(engine)
    complete(engine, job, "d1", key="k", wants_review=True)
    assert found()
    sql.execute(
        "INSERT INTO jobs (shop, product_id, image_urls, refresh) VALUES ('a', '1', '{http://a/b}', true)"
    )
    anew = claim(engine)
    assert anew.refresh
    assert versions.find_result(engine, anew, "k") is None
    queue.cancel(engine, anew)
    enqueue(engine, "2")
    complete(engine, claim(engine), "d1", key="k")
    queue.reject(engine, job.id)
    assert not found(), "not by the copy either"
    assert found("3")
    queue.approve(engine, job.id)
    assert found()
    sql.execute("UPDATE worker.versions SET doomed_at = now(), next_try_at = now() WHERE stem = 'a/2'")
    queue.retry(engine, job.id)
    assert not found("3")


def test_a_copy_is_not_approved_by_its_source(engine: Engine, sql: Sql) -> None:
    source = make(engine, "d1", wants_review=True)
    queue.approve(engine, source.id)
    copy = make(engine, "d1", wants_review=True, product="2")
    assert row(sql, copy.id, "review") == ("wanted",)
    assert sql.execute("SELECT count(*) FROM worker.published").fetchone() == (1,)


def test_due_files_are_named_by_the_statement_that_looks_for_due_jobs(engine: Engine, sql: Sql) -> None:
    make(engine, "d1")
    seen = hosts.check_in(engine, HOST)
    assert (seen.due, seen.files_due) == (False, False)
    assert seen.seconds
    assert 50 < seen.seconds <= 60
    expire(sql)
    seen = hosts.check_in(engine, HOST)
    assert (seen.files_due, seen.seconds) == (True, None)
    write(engine)
    assert not hosts.check_in(engine, HOST).files_due
    make(engine, "d2")
    assert not hosts.check_in(engine, HOST).files_due
    age(sql)
    versions.doom(engine, days=30, batch=10)
    assert hosts.check_in(engine, HOST).files_due


def test_an_idle_daemon_is_woken_for_files(engine: Engine, database_url: str) -> None:
    job = make(engine, "d1", wants_review=True)
    with psycopg.connect(database_url, autocommit=True) as listener:
        listener.execute("LISTEN worker_files; LISTEN worker_webhooks")
        assert queue.approve(engine, job.id)
        heard = {one.channel for one in listener.notifies(timeout=5, stop_after=2)}
    assert heard == {"worker_files", "worker_webhooks"}


def test_jobs_that_are_deleted_leave_their_versions_to_upkeep(engine: Engine, sql: Sql) -> None:
    make(engine, "d1")
    make(engine, "d2")
    sql.execute("DELETE FROM jobs WHERE version = 'd1'")
    sql.execute("TRUNCATE jobs")
    age(sql)
    assert versions.doom(engine, days=30, batch=10) == (1, False)
    expire(sql)
    assert write(engine) == "d2"


def test_a_job_that_waits_for_review_is_not_pruned(engine: Engine, sql: Sql) -> None:
    job = make(engine, "d1", wants_review=True)
    sql.execute("UPDATE worker.outbox SET delivered_at = now()")
    assert queue.prune(engine, "jobs", days=0, batch=10) == 0
    queue.approve(engine, job.id)
    sql.execute("UPDATE worker.outbox SET delivered_at = now()")
    assert queue.prune(engine, "jobs", days=0, batch=10) == 1


@pytest.mark.parametrize("decision", ["approve_job", "publish_version"])
def test_of_all_that_publish_at_once_the_newest_wins(
    engine: Engine, sql: Sql, database_url: str, decision: str
) -> None:
    """The first row of a path, too, at which nothing was published yet."""
    for n in range(4):
        product = str(n)
        older = make(engine, "d1", wants_review=decision == "approve_job", product=product)
        sql.execute("DELETE FROM worker.published")  # of a product that was published by none
        enqueue(engine, product)
        newer = claim(engine)
        assert begin(engine, newer, "d2")
        ready = threading.Barrier(2)

        def decide(job: UUID = older.id, ready: threading.Barrier = ready) -> None:
            with psycopg.connect(database_url, autocommit=True) as other:
                ready.wait()
                assert other.execute(f"SELECT {decision}(%s)".encode(), [job]).fetchone() == (True,)

        thread = threading.Thread(target=decide)
        thread.start()
        ready.wait()
        queue.complete(engine, newer, model_url="x", report={}, digest="d2")
        thread.join()
        digests = {"d2"} if decision == "approve_job" else {"d1", "d2"}
        assert published(sql)[0] in digests


def test_an_approval_that_waits_for_another_session_decides_once(
    engine: Engine, sql: Sql, database_url: str
) -> None:
    job = make(engine, "d1", wants_review=True)
    answers: list[Any] = []
    with psycopg.connect(database_url) as slow:
        assert slow.execute("SELECT approve_job(%s)", [job.id]).fetchone() == (True,)
        thread = threading.Thread(target=lambda: answers.append(queue.reject(engine, job.id)))
        thread.start()
        slow.commit()
        thread.join()
    assert answers == [False]
    assert row(sql, job.id, "review") == ("approved",)


def test_a_version_that_is_being_published_is_not_doomed(engine: Engine, sql: Sql, database_url: str) -> None:
    older = make(engine, "d1")
    make(engine, "d2")
    age(sql)
    with psycopg.connect(database_url) as slow:
        assert slow.execute("SELECT publish_version(%s)", [older.id]).fetchone() == (True,)
        # Not yet committed: its row is locked, and passed over.
        assert versions.doom(engine, days=30, batch=10)[0] == 0
        slow.commit()
    age(sql)
    assert versions.doom(engine, days=30, batch=10) == (1, False)
    assert sql.execute("SELECT digest FROM worker.versions WHERE doomed_at IS NULL").fetchall() == [("d1",)]


def test_a_caller_s_transaction_keeps_the_guard_after_the_functions(engine: Engine, sql: Sql) -> None:
    job = make(engine, "d1", wants_review=True)
    with sql.transaction():
        for function in ("reject_job", "approve_job", "publish_version", "retry_job"):
            assert sql.execute(f"SELECT {function}(%s)".encode(), [job.id]).fetchone() == (True,)
            sql.execute("UPDATE jobs SET progress = 7")
    assert row(sql, job.id, "status::text, progress") == ("pending", 0)
