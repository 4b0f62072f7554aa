"""The life of versions as a state machine: hypothesis chooses what jobs, people, daemons and the clock do to two products."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, NamedTuple
from uuid import UUID

import psycopg
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from machine import explore, in_database
from sqlalchemy.engine import Engine

from worker.jobs import queue
from worker.local.postgres import Postgres
from worker.versions import queue as versions
from worker.versions.queue import Publication

Row = dict[str, Any]
MOST = 8  # the latest jobs and publications, of which one is chosen


class Stored(NamedTuple):
    """What is published at a path."""

    digest: str
    asked_at: datetime


class Life(RuleBasedStateMachine):
    """Jobs that end in any order, with the same bytes now and then; daemons that die or freeze while they publish."""

    engine: Engine
    sql: "psycopg.Connection[Row]"

    def __init__(self) -> None:
        super().__init__()
        self.jobs: list[UUID] = []
        self.publishing: list[Publication] = []  # all that were ever taken
        self.published: dict[str, Stored] = {}  # by stem
        self.files: dict[str, str] = {}  # by stem: the digest of the files that lie there

    @initialize()
    def begin(self) -> None:
        self.sql.execute("TRUNCATE jobs, worker.versions, worker.published")

    @rule(
        product=st.sampled_from("12"),
        digests=st.lists(st.sampled_from("abc"), min_size=1, max_size=3),
        wants_review=st.booleans(),
        newest_first=st.booleans(),
    )
    def jobs_end(self, product: str, digests: list[str], wants_review: bool, newest_first: bool) -> None:
        """The first of them wants a review or not, the others do not want what it wants."""
        found = [
            queue.enqueue(
                self.engine,
                shop="a",
                product_id=product,
                image_urls=["http://a/b"],
                priority=n if newest_first else 0,
            )
            for n in range(len(digests))
        ]
        self.jobs += found
        for digest in digests:
            job = queue.claim(self.engine, worker="w", lease_s=30)
            if job is None:
                break  # a newer one was published
            review = wants_review == (job.id == found[0])
            stem = f"a/{product}"
            assert versions.begin(self.engine, job, digest=digest, stem=stem, files={}, result_key="k")
            path = queue.complete(
                self.engine, job, model_url="x", report={}, digest=digest, wants_review=review
            )
            if not review:
                self.publish(job.id)
            if path:
                self.publishing.append(Publication.of(job, path=path, stem=stem, digest=digest, files={}))

    def publish(self, job: UUID, *, on_purpose: bool = False) -> None:
        """Note what is published from now on."""
        row = self.row(job)
        stem = f"a/{row['product_id']}"
        before = self.published.get(stem, Stored("", datetime.min.replace(tzinfo=UTC)))
        if on_purpose or before.asked_at <= row["queued_at"]:
            self.published[stem] = Stored(row["version"], max(before.asked_at, row["queued_at"]))

    @rule(
        data=st.data(), decision=st.sampled_from(["approve", "approve", "publish_version", "reject", "retry"])
    )
    def somebody_decides(self, data: st.DataObject, decision: str) -> None:
        if not self.jobs:
            return
        job = data.draw(st.sampled_from(self.jobs[-MOST:]))
        row = self.row(job)
        is_kept = (f"a/{row['product_id']}", row["version"]) in self.kept()
        match decision:
            case "approve":
                can = row["review"] in {"wanted", "rejected"} and is_kept
                assert queue.approve(self.engine, job) == can
            case "publish_version":
                can = row["status"] == "completed" and row["review"] in {"none", "approved"} and is_kept
                assert queue.publish_version(self.engine, job) == can
            case "reject":
                assert queue.reject(self.engine, job) == (row["review"] == "wanted")
                return
            case _:
                assert queue.retry(self.engine, job) == (row["completed_at"] is not None)
                queue.request_cancel(self.engine, job)
                return
        if can:
            self.publish(job, on_purpose=decision == "publish_version")

    @rule()
    def a_daemon_takes_a_publication(self) -> None:
        due = self.sql.execute("SELECT FROM worker.published WHERE next_try_at <= now()").fetchone()
        work = versions.take_publication(self.engine, lease_s=30)
        assert (work is None) == (due is None)
        if work:
            self.publishing.append(work)

    @rule(data=st.data(), end=st.sampled_from(["finished", "finished", "failed", "died", "late", "late"]))
    def a_daemon_writes(self, data: st.DataObject, end: str) -> None:
        """Whoever is late has looked at its lease long before it wrote."""
        if not self.publishing:
            return
        # Late files of another version than the one that lies there tell the most.
        others = [work for work in self.publishing if self.files.get(work.stem) != work.digest]
        work = data.draw(st.sampled_from(((end == "late" and others) or self.publishing)[-MOST:]))
        if end != "late" and not versions.renew_publication(self.engine, work, lease_s=30):
            return
        self.files[work.stem] = work.digest
        if end == "finished":
            assert versions.finish_publication(self.engine, work)
        elif end == "failed":
            versions.put_back_publication(self.engine, work, error="503")
        elif end == "late" and not versions.finish_publication(self.engine, work):
            versions.doubt_publication(self.engine, work)

    @rule(seconds=st.sampled_from([31, 700]))
    def time_passes(self, seconds: int) -> None:
        self.sql.execute(
            "UPDATE worker.published SET next_try_at = next_try_at - make_interval(secs => %s)", [seconds]
        )

    @rule()
    def unused_versions_are_removed(self) -> None:
        self.sql.execute("UPDATE worker.versions SET used_at = used_at - interval '31 d'")
        while versions.doom(self.engine, days=30, batch=2)[1]:
            pass
        while work := versions.take_doomed(self.engine, lease_s=30):
            assert versions.finish_removal(self.engine, work)

    @invariant()
    def the_database_is_right(self) -> None:
        kept = self.kept()
        waiting = self.sql.execute("SELECT product_id, version FROM jobs WHERE review = 'wanted'").fetchall()
        assert {(f"a/{row['product_id']}", row["version"]) for row in waiting} <= kept
        rows = self.sql.execute("SELECT *, next_try_at < now() AS is_due FROM worker.published").fetchall()
        assert {row["stem"]: Stored(row["digest"], row["requested_at"]) for row in rows} == self.published
        for row in rows:
            assert (row["stem"], row["digest"]) in kept
            assert row["written"] in {None, self.files.get(row["stem"])}, (
                "what is said to lie there lies there"
            )
            assert row["next_try_at"] or row["written"] == row["digest"], "what does not lie there is due"

    def teardown(self) -> None:
        """Whatever has happened, upkeep brings all files to what the database names."""
        for _ in range(2):
            self.time_passes(700)
            while work := versions.take_publication(self.engine, lease_s=30):
                self.files[work.stem] = work.digest
                assert versions.finish_publication(self.engine, work)
        assert self.files == {stem: stored.digest for stem, stored in self.published.items()}
        left = self.sql.execute(
            "SELECT FROM worker.published WHERE written <> digest OR next_try_at IS NOT NULL"
        )
        assert left.fetchone() is None

    def row(self, job: UUID) -> Row:
        row = self.sql.execute("SELECT *, status::text AS status FROM jobs WHERE id = %s", [job]).fetchone()
        assert row
        return row

    def kept(self) -> set[tuple[str, str]]:
        rows = self.sql.execute("SELECT stem, digest FROM worker.versions WHERE doomed_at IS NULL").fetchall()
        return {(row["stem"], row["digest"]) for row in rows}


@pytest.fixture
def life(postgres: Postgres) -> Iterator[type[Life]]:
    with in_database(Life, postgres) as machine:
        yield machine


@pytest.mark.parametrize(
    ("examples", "steps"), [(30, 40), pytest.param(500, 60, marks=pytest.mark.long)], ids=["short", "long"]
)
def test_whatever_happens_upkeep_brings_the_files_to_what_the_database_names(
    life: type[Life], examples: int, steps: int
) -> None:
    explore(life, examples, steps)
