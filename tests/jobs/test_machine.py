"""The life of jobs as a state machine: hypothesis chooses what backends, workers, people and the clock do."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import psycopg
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from machine import explore, in_database
from sqlalchemy.engine import Engine
from sqlalchemy.exc import DBAPIError, IntegrityError

from worker.core.errors import JobError
from worker.jobs import batches, plans, queue
from worker.jobs.queue import Claimer, Completion, Job, LeaseLost
from worker.local.postgres import Postgres
from worker.storage import paths
from worker.versions import queue as versions
from worker.versions.queue import Publication

ENDED = {"completed", "failed", "cancelled"}
FORWARD = {
    ("pending", "processing"),
    ("pending", "cancelled"),
    ("processing", "pending"),
    *(("processing", end) for end in ENDED),
}
MOST_JOBS = 6
Row = dict[str, Any]
Batch = tuple[str, str]  # shop and name
Write = Callable[[Engine, Job], object]


@dataclass(frozen=True)
class Plan:
    """The plan of a shop, and what it refuses."""

    jobs_a_day: int
    jobs_at_once: int | None
    presets: list[str] | None

    def refuses(self, quality: str, of_today: int) -> str | None:
        """Return the rule that one more job breaks."""
        if self.presets is not None and quality not in self.presets:
            return "quality_is_in_the_plan_of_the_shop"
        return "jobs_of_the_day_are_in_the_plan_of_the_shop" if of_today >= self.jobs_a_day else None


def begin_version(engine: Engine, job: Job, *, wants_review: bool = False) -> Completion:
    """Begin a version of the job's own. Returns what completes the job with it."""
    digest, stem = job.lease_token.hex, paths.stem(job.shop, job.product_id, job.variant_id)
    assert versions.begin(engine, job, digest=digest, stem=stem, files={}, result_key=None)
    return {"model_url": "https://a/b.glb", "report": {}, "digest": digest, "wants_review": wants_review}


def complete(engine: Engine, job: Job, *, wants_review: bool = False) -> None:
    queue.complete(engine, job, **begin_version(engine, job, wants_review=wants_review))


WRITES: dict[str, Write] = {
    "renew": lambda engine, job: queue.renew(engine, job, lease_s=30),
    "report": lambda engine, job: queue.report(engine, job, progress=50, stage="generating", lease_s=30),
    "complete": complete,
    "complete, to be reviewed": lambda engine, job: complete(engine, job, wants_review=True),
    "fail, to be tried again": lambda engine, job: queue.fail(engine, job, JobError("no_space"), report={}),
    "fail for good": lambda engine, job: queue.fail(engine, job, JobError("no_object"), report={}),
    "cancel": queue.cancel,
    "release": queue.release,
}

LATE_WRITES = WRITES | {
    "complete and claim": lambda engine, job: queue.complete_and_claim(
        engine, job, {"worker": "w1", "lease_s": 30}, model_url="https://a/b.glb", report={}
    )
}


class Life(RuleBasedStateMachine):
    """Several workers, some of which hold on to jobs that were taken from them."""

    engine: Engine
    sql: "psycopg.Connection[Row]"

    def __init__(self) -> None:
        super().__init__()
        self.jobs: list[UUID] = []
        self.held: list[Job] = []  # every claim that was ever made
        self.before: dict[UUID, Row] = {}
        self.endings: Counter[UUID] = Counter()
        self.retried: set[UUID] = set()
        self.opened: set[Batch] = set()  # had an unfinished job since they finished last
        self.published: dict[str, tuple[str, datetime]] = {}  # by stem: the digest, and when it was asked for
        self.plans: dict[str, Plan] = {}
        self.used: Counter[tuple[str, str]] = Counter()  # by shop and end

    @initialize()
    def begin(self) -> None:
        self.sql.execute(
            "TRUNCATE jobs, worker.versions, worker.published, worker.shop_limits, worker.shop_days, worker.shop_changes"
        )
        for product in ("1", "gid://shopify/Product/1", "2"):
            self.enqueue("a", product, None, 0, 3, "x")
        self.before = self._rows()

    @precondition(lambda self: len(self.jobs) < MOST_JOBS)
    @rule(
        shop=st.sampled_from("ab"),
        product=st.sampled_from(["1", "gid://shopify/Product/1", "2"]),
        variant=st.sampled_from([None, "1"]),
        priority=st.integers(0, 1),
        max_attempts=st.integers(1, 3),
        batch=st.sampled_from([None, "x", "y"]),
        quality=st.sampled_from(["fast", "balanced"]),
        start_in_s=st.sampled_from([None, None, 0, 20, 600]),
    )
    def a_backend_inserts(
        self,
        shop: str,
        product: str,
        variant: str | None,
        priority: int,
        max_attempts: int,
        batch: str | None,
        quality: str,
        start_in_s: int | None,
    ) -> None:
        today = datetime.now(UTC).date()
        count = sum(row["shop"] == shop and row["created_at"].date() == today for row in self.before.values())
        plan = self.plans.get(shop)
        if plan and (rule := plan.refuses(quality, count)):
            with pytest.raises(IntegrityError, match=rule):
                self.enqueue(shop, product, variant, priority, max_attempts, batch, quality, start_in_s)
            return
        self.enqueue(shop, product, variant, priority, max_attempts, batch, quality, start_in_s)

    @rule(
        shop=st.sampled_from("ab"),
        jobs_a_day=st.integers(0, MOST_JOBS),
        jobs_at_once=st.sampled_from([None, 0, 1, 2]),
        presets=st.sampled_from([None, ["fast"], ["fast", "balanced"]]),
    )
    def a_shop_gets_a_plan(
        self, shop: str, jobs_a_day: int, jobs_at_once: int | None, presets: list[str] | None
    ) -> None:
        plans.set_plan(self.engine, shop, jobs_a_day=jobs_a_day, jobs_at_once=jobs_at_once, presets=presets)
        self.plans[shop] = Plan(jobs_a_day, jobs_at_once, presets)

    def enqueue(
        self,
        shop: str,
        product: str,
        variant: str | None,
        priority: int,
        max_attempts: int,
        batch: str | None,
        quality: str = "balanced",
        start_in_s: int | None = None,
    ) -> None:
        job = queue.enqueue(
            self.engine,
            shop=shop,
            product_id=product,
            variant_id=variant,
            image_urls=["http://a/b", "http://a/c"],
            priority=priority,
            batch=batch,
            quality=quality,
        )
        self.sql.execute(
            "UPDATE jobs SET max_attempts = %s, start_by = now() + make_interval(secs => %s) WHERE id = %s",
            [max_attempts, start_in_s, job],
        )
        self.jobs.append(job)

    @precondition(lambda self: self._due())
    @rule(worker=st.sampled_from(["w1", "w2", "w3"]))
    def a_lane_claims(self, worker: str) -> None:
        self.claim(worker)

    def claim(self, worker: str) -> None:
        open_to_claim = [row["priority"] for row in self._due_and_free()]
        job = queue.claim(self.engine, worker=worker, lease_s=30)
        if job is None:
            assert not open_to_claim, "there was one to claim"
            return
        assert self.before[job.id]["priority"] == max(open_to_claim)
        assert job.attempts == self.before[job.id]["attempts"] + 1
        self.held.append(job)

    @precondition(lambda self: self._any("processing") or self._due_and_free())
    @rule(data=st.data(), what=st.sampled_from(sorted(WRITES)))
    def who_has_a_job_writes(self, data: st.DataObject, what: str) -> None:
        if not self._any("processing"):
            self.claim("w1")
            self.all_is_in_order()
        job = data.draw(st.sampled_from([job for job in self.held if self._live(job)]))
        WRITES[what](self.engine, job)
        if what == "complete":
            self._publish(job.id)

    @precondition(lambda self: self._any("processing"))
    @rule(data=st.data(), worker=st.sampled_from(["w1", "w2", "w3"]), wants_review=st.booleans())
    def a_lane_ends_a_job_and_claims_the_next(
        self, data: st.DataObject, worker: str, wants_review: bool
    ) -> None:
        """With the end of a job that is to be reviewed, or with that of its publication."""
        job = data.draw(st.sampled_from([job for job in self.held if self._live(job)]))
        claimer, began = Claimer(worker=worker, lease_s=30), datetime.now(UTC)
        if wants_review:
            completion = begin_version(self.engine, job, wants_review=True)
            path, following = queue.complete_and_claim(self.engine, job, claimer, **completion)
            assert path is None
        else:
            completion = begin_version(self.engine, job)
            path = queue.complete(self.engine, job, **completion)
            self._publish(job.id)
            if path is None:
                return  # another worker writes
            stem, digest = paths.stem(job.shop, job.product_id, job.variant_id), job.lease_token.hex
            work = Publication.of(job, path=path, stem=stem, digest=digest, files={})
            ended, following = versions.finish_publication_and_claim(self.engine, work, claimer)
            assert ended
        rows = self._rows()
        left = [row["priority"] for row in self._due_and_free(rows, began)]
        if following is None:
            assert not left, "there was one to claim"
            return
        assert self.before[following.id]["status"] == "pending"
        assert following.attempts == self.before[following.id]["attempts"] + 1
        assert rows[following.id]["priority"] >= max(left, default=0)
        self.held.append(following)

    @precondition(lambda self: any(not self._live(job) for job in self.held))
    @rule(data=st.data(), what=st.sampled_from(sorted(LATE_WRITES)))
    def who_has_lost_a_job_writes_nothing(self, data: st.DataObject, what: str) -> None:
        stale = [job for job in self.held if not self._live(job)]
        # One that another worker has now tells the most.
        stale.sort(key=lambda job: self.before[job.id]["status"] == "processing", reverse=True)
        events = self._events()
        with pytest.raises(LeaseLost):
            LATE_WRITES[what](self.engine, data.draw(st.sampled_from(stale[:2])))
        assert self._rows() == self.before
        assert self._events() == events

    @precondition(lambda self: self._any("pending") or self._any("processing"))
    @rule(seconds=st.sampled_from([8, 40, 700]))
    def time_passes(self, seconds: int) -> None:
        self._pass_time(seconds)

    @precondition(lambda self: self._any("processing"))
    @rule()
    def a_worker_freezes_and_its_jobs_go_to_another(self) -> None:
        self._pass_time(31)
        self.rescue()
        self.all_is_in_order()
        self._pass_time(700)
        while self._due_and_free():
            self.claim("w4")
            self.all_is_in_order()

    def _pass_time(self, seconds: int) -> None:
        with self.sql.transaction():
            self.sql.execute("SELECT set_config('worker.lease', 'queue', true)")
            self.sql.execute(
                "UPDATE jobs SET run_after = run_after - make_interval(secs => %(s)s),"
                " lease_expires_at = lease_expires_at - make_interval(secs => %(s)s),"
                " start_by = start_by - make_interval(secs => %(s)s)",
                {"s": seconds},
            )
        self.before = self._rows()

    @precondition(lambda self: self._any("processing"))
    @rule()
    def somebody_looks_for_lost_workers(self) -> None:
        self.rescue()

    def rescue(self) -> None:
        now = datetime.now(UTC)
        lost = {
            job
            for job, row in self.before.items()
            if row["status"] == "processing" and row["lease_expires_at"] < now
        }
        assert {row["id"] for row in queue.rescue(self.engine)} == lost

    @precondition(lambda self: any(_is_late(row) for row in self.before.values()))
    @rule()
    def somebody_looks_for_jobs_that_have_not_begun_in_time(self) -> None:
        late = {job for job, row in self.before.items() if _is_late(row)}
        assert {row["id"] for row in queue.expire(self.engine, 200)} == late
        rows = self._rows()
        assert all((rows[job]["status"], rows[job]["error_code"]) == ("cancelled", "expired") for job in late)

    @rule()
    def a_daemon_folds_what_was_used(self) -> None:
        queue.fold_usage(self.engine, 5)

    @precondition(lambda self: self.jobs)
    @rule(data=st.data())
    def request_cancel(self, data: st.DataObject) -> None:
        job = data.draw(st.sampled_from(self.jobs))
        assert queue.request_cancel(self.engine, job) == (self.before[job]["completed_at"] is None)

    @precondition(lambda self: any(self._any(end) for end in ENDED))
    @rule(data=st.data(), without_photo=st.sampled_from([None, 0, 1]))
    def retry(self, data: st.DataObject, without_photo: int | None) -> None:
        job = data.draw(st.sampled_from(self.jobs))
        ended = self.before[job]["completed_at"] is not None
        excluded = {*self.before[job]["excluded_photos"], without_photo} - {None}
        if ended and len(excluded) == len(self.before[job]["image_urls"]):
            with pytest.raises(DBAPIError, match="last photo"):
                queue.retry(self.engine, job, without_photo=without_photo)
            return
        assert queue.retry(self.engine, job, without_photo=without_photo) == ended
        if ended:
            self.retried.add(job)
            row = self._rows()[job]
            assert (row["refresh"], row["review"], row["version"]) == (True, "none", None)
            assert row["start_by"] is None or row["start_by"] > datetime.now(UTC)
            assert set(row["excluded_photos"]) == excluded

    @precondition(lambda self: self._any("completed"))
    @rule(data=st.data(), decision=st.sampled_from(["approve", "reject", "publish_version"]))
    def somebody_decides(self, data: st.DataObject, decision: str) -> None:
        job = data.draw(st.sampled_from(self.jobs))
        row = self.before[job]
        is_kept = (_path(row), row["version"]) in self._versions()
        match decision:
            case "approve":
                can = row["review"] in {"wanted", "rejected"} and is_kept
                assert queue.approve(self.engine, job) == can
            case "reject":
                can = row["review"] == "wanted"
                assert queue.reject(self.engine, job) == can
            case _:
                can = row["status"] == "completed" and row["review"] in {"none", "approved"} and is_kept
                assert queue.publish_version(self.engine, job) == can
                self.endings[job] += can  # it tells once more of a row that does not change
        if can and decision != "reject":
            self._publish(job, on_purpose=decision == "publish_version")

    def _publish(self, job: UUID, *, on_purpose: bool = False) -> None:
        """Note what is published from now on."""
        row = self._rows()[job]
        _, asked_at = self.published.get(_path(row), ("", datetime.min.replace(tzinfo=UTC)))
        if on_purpose or asked_at <= row["queued_at"]:
            self.published[_path(row)] = (row["version"], max(asked_at, row["queued_at"]))

    @precondition(lambda self: self._batches())
    @rule(data=st.data())
    def a_batch_is_cancelled(self, data: st.DataObject) -> None:
        batch = data.draw(st.sampled_from(self._batches()))
        unasked = [
            row
            for row in self._of(batch)
            if row["completed_at"] is None and row["cancel_requested_at"] is None
        ]
        assert batches.cancel(self.engine, *batch) == len(unasked)

    @precondition(lambda self: self._any("failed"))
    @rule(data=st.data())
    def a_batch_is_retried(self, data: st.DataObject) -> None:
        batch = data.draw(st.sampled_from(self._batches()))
        failed = {row["id"] for row in self._of(batch) if row["status"] == "failed"}
        assert batches.retry(self.engine, *batch) == len(failed)
        self.retried |= failed

    @precondition(lambda self: self._batches())
    @rule()
    def a_daemon_folds(self) -> None:
        ended = {
            batch for batch in self.opened if all(row["completed_at"] is not None for row in self._of(batch))
        }
        known = len(self._finishes())
        assert batches.fold(self.engine) == len(ended)
        new = self._finishes()[known:]
        assert {(event["shop"], event["batch"]) for event in new} == ended
        for event in new:
            counts = Counter(row["status"] for row in self._of((event["shop"], event["batch"])))
            assert counts == +Counter({end: event[end] for end in ENDED})
        self.opened -= ended

    @precondition(lambda self: self.jobs)
    @rule(data=st.data(), status=st.sampled_from(["pending", "processing", "completed"]))
    def a_backend_writes_back_what_it_heard_long_ago(self, data: st.DataObject, status: str) -> None:
        job = data.draw(st.sampled_from(self.jobs))
        self.sql.execute(
            "UPDATE jobs SET status = %s, progress = 50, model_url = 'old', completed_at = NULL, review = 'approved',"
            " version = 'old', excluded_photos = '{1}' WHERE id = %s",
            [status, job],
        )
        assert self._rows() == self.before

    @invariant()
    def all_is_in_order(self) -> None:
        rows = self._rows()
        assert set(rows) == set(self.jobs), "no job is lost"
        running = [row for row in rows.values() if row["status"] == "processing"]
        assert len({_path(row) for row in running}) == len(running), "one running job a storage path"
        newest = {job.id: job.lease_token for job in self.held}
        assert all(row["lease_token"] == newest[row["id"]] for row in running), (
            "the newest claim alone is live"
        )
        assert all(row["attempts"] <= row["max_attempts"] for row in rows.values())
        assert not any(row["cancel_requested_at"] for row in rows.values() if row["status"] == "pending"), (
            "who is to be stopped does not wait"
        )
        for job, row in rows.items():
            was = self.before[job]["status"] if job in self.before else "pending"
            if job in self.retried:
                assert row["status"] == "pending"
            elif row["status"] != was:
                assert (was, row["status"]) in FORWARD, "states only move forward"
                self.endings[job] += row["status"] in ENDED
                self.used[row["shop"], row["status"]] += row["status"] in ENDED
            elif job in self.before and row["review"] != self.before[job]["review"]:
                self.endings[job] += 1
        self._check_versions(rows)
        self._check_events(rows)
        self._check_history(rows)
        self.before, self.retried = rows, set()
        self._check_batches()
        self._check_usage()

    def _check_usage(self) -> None:
        sums = self.sql.execute(
            "SELECT shop, sum(completed)::int AS completed, sum(failed)::int AS failed, sum(cancelled)::int AS cancelled"
            " FROM shop_usage GROUP BY shop"
        ).fetchall()
        found = Counter({(row["shop"], end): row[end] for row in sums for end in ENDED})
        assert +found == +self.used, "each end counts once, folded or not"

    def _check_batches(self) -> None:
        sums = {
            (row["shop"], row["batch"]): row
            for row in self.sql.execute("SELECT * FROM batch_status").fetchall()
        }
        assert sums.keys() == set(self._batches())
        for batch, row in sums.items():
            states = Counter(each["status"] for each in self._of(batch))
            found = {"pending": row["waiting"], "processing": row["running"]} | {
                end: row[end] for end in ENDED
            }
            assert states == +Counter(found), "the sums are exact at every look"
            assert row["total"] == states.total()
            if row["waiting"] + row["running"]:
                self.opened.add(batch)

    def _check_versions(self, rows: dict[UUID, Row]) -> None:
        assert all((row["version"] is None) == (row["status"] != "completed") for row in rows.values())
        kept = self._versions()
        waiting = {(_path(row), row["version"]) for row in rows.values() if row["review"] == "wanted"}
        assert waiting <= kept
        assert {(stem, digest) for stem, (digest, _) in self.published.items()} <= kept
        found = self.sql.execute("SELECT * FROM worker.published").fetchall()
        assert {row["stem"]: (row["digest"], row["requested_at"]) for row in found} == self.published

    def _versions(self) -> set[tuple[str, str]]:
        rows = self.sql.execute("SELECT stem, digest FROM worker.versions").fetchall()
        return {(row["stem"], row["digest"]) for row in rows}

    def _check_events(self, rows: dict[UUID, Row]) -> None:
        events = self._events()
        assert Counter(event["job_id"] for event in events if event["terminal"]) == +self.endings
        last = {}
        for event in events:
            assert event["body"]["seq"] == event["seq"]
            last[event["job_id"]] = event["body"]  # by rising seq
        for job, body in last.items():
            now = rows[job]
            assert (body["status"], body["progress"]) == (now["status"], now["progress"]), (
                "the last word is true"
            )
            assert body.get("review", "none") == now["review"]
            assert ("modelUrl" in body) == (
                now["status"] == "completed" and now["review"] in {"none", "approved"}
            )

    def _check_history(self, rows: dict[UUID, Row]) -> None:
        lines = self.sql.execute("SELECT * FROM worker.attempts").fetchall()
        assert {line["lease_token"] for line in lines} == {job.lease_token for job in self.held}
        assert all((line["ended_at"] is None) == (line["outcome"] is None) for line in lines)
        unfinished = {line["lease_token"] for line in lines if line["ended_at"] is None}
        assert unfinished == {row["lease_token"] for row in rows.values() if row["lease_token"]}

    def _batches(self) -> list[Batch]:
        return sorted({(row["shop"], row["batch"]) for row in self.before.values() if row["batch"]})

    def _of(self, batch: Batch) -> list[Row]:
        return [row for row in self.before.values() if (row["shop"], row["batch"]) == batch]

    def _finishes(self) -> list[Row]:
        rows = self.sql.execute(
            "SELECT body::jsonb AS body FROM worker.outbox WHERE type = 'batch.finished' ORDER BY seq"
        ).fetchall()
        return [row["body"] for row in rows]

    def _due(self, rows: Mapping[UUID, Row] | None = None, at: datetime | None = None) -> list[Row]:
        rows = self.before if rows is None else rows
        now = at or datetime.now(UTC)  # Python's clock is the database's here.
        return [row for row in rows.values() if row["status"] == "pending" and row["run_after"] <= now]

    def _due_and_free(self, rows: Mapping[UUID, Row] | None = None, at: datetime | None = None) -> list[Row]:
        rows = self.before if rows is None else rows
        running = [row for row in rows.values() if row["status"] == "processing"]
        busy = {_path(row) for row in running}
        full = {
            shop
            for shop, plan in self.plans.items()
            if plan.jobs_at_once is not None
            and sum(row["shop"] == shop for row in running) >= plan.jobs_at_once
        }
        return [
            row
            for row in self._due(rows, at)
            if _path(row) not in busy and row["shop"] not in full and not _is_late(row)
        ]

    def _any(self, status: str) -> bool:
        return any(row["status"] == status for row in self.before.values())

    def _live(self, job: Job) -> bool:
        return bool(self.before[job.id]["lease_token"] == job.lease_token)

    def _rows(self) -> dict[UUID, Row]:
        return {
            row["id"]: row
            for row in self.sql.execute("SELECT *, status::text AS status FROM jobs").fetchall()
        }

    def _events(self) -> list[Row]:
        return self.sql.execute(
            "SELECT seq, job_id, terminal, body::jsonb AS body FROM worker.outbox"
            " WHERE job_id IS NOT NULL ORDER BY seq"
        ).fetchall()


def _is_late(row: Row) -> bool:
    """True if a job has not begun by its start_by, since it was queued."""
    has_begun = row["started_at"] is not None and row["started_at"] >= row["queued_at"]
    return bool(
        row["status"] == "pending"
        and not has_begun
        and row["start_by"] is not None
        and row["start_by"] <= datetime.now(UTC)
    )


def _path(row: Row) -> str:
    return paths.stem(row["shop"], row["product_id"], row["variant_id"])


@pytest.fixture
def life(postgres: Postgres) -> Iterator[type[Life]]:
    with in_database(Life, postgres) as machine:
        yield machine


@pytest.mark.parametrize(
    ("examples", "steps"), [(30, 50), pytest.param(1000, 80, marks=pytest.mark.long)], ids=["short", "long"]
)
def test_whatever_happens_in_whatever_order_no_job_is_lost_doubled_or_stuck(
    life: type[Life], examples: int, steps: int
) -> None:
    explore(life, examples, steps)
