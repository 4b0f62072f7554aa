"""docs/architecture.md: its state machine is the one that the statements make, and what it names is there."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from sqlalchemy.engine import Engine

from worker.errors import JobError
from worker.jobs import queue
from worker.jobs.queue import Job

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text()
OUTSIDE = "[*]"

Edge = tuple[str, str]


def drawn() -> set[tuple[Edge, str]]:
    diagram = PAGE.partition("stateDiagram-v2\n")[2].partition("```")[0]
    edges = re.findall(r"^ *(\S+) --> (\S+) : (.+)$", diagram, re.MULTILINE)
    assert len(edges) == diagram.count("-->")
    return {((before, after), name) for before, after, names in edges for name in names.split(", ")}


@pytest.fixture
def moves(sql: psycopg.Connection) -> Iterator[Callable[[], set[Edge]]]:
    """Notes what moves in the table; what moved since the last look."""
    sql.execute("CREATE TABLE move (before text, after text)")
    sql.execute("""
        CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            INSERT INTO public.move VALUES (OLD.status, NEW.status);
            RETURN NULL;
        END $$""")
    sql.execute("CREATE TRIGGER note AFTER INSERT OR DELETE ON jobs FOR EACH ROW EXECUTE FUNCTION note()")
    sql.execute(
        "CREATE TRIGGER note_moves AFTER UPDATE ON jobs"
        " FOR EACH ROW WHEN (OLD.status <> NEW.status) EXECUTE FUNCTION note()"
    )

    def look() -> set[Edge]:
        found = sql.execute("DELETE FROM move RETURNING before, after").fetchall()
        return {(before or OUTSIDE, after or OUTSIDE) for before, after in found}

    yield look
    sql.execute("DROP FUNCTION note CASCADE")


class Stage:
    """Sets a job's scene, and runs the statement that a case is about as the code runs it."""

    def __init__(self, engine: Engine, sql: psycopg.Connection) -> None:
        self.engine = engine
        self.sql = sql

    def waiting(self, product: str = "1") -> None:
        queue.enqueue(self.engine, shop="a", product_id=product, image_urls=["https://a/b"])

    def running(self) -> Job:
        self.waiting()
        return self.claimed()

    def claimed(self) -> Job:
        job = queue.claim(self.engine, worker="w", lease_s=60)
        assert job
        return job

    def ended(self, how: str) -> Job:
        job = self.running()
        if how == "completed":
            queue.complete(self.engine, job, model_url="x", report={})
        elif how == "failed":
            queue.fail(self.engine, job, JobError("no_object"), report={})
        else:
            queue.cancel(self.engine, job)
        return job

    def lost(self, change: str) -> None:
        self.running()
        self.sql.execute("SELECT set_config('worker.lease', 'queue', false)")
        self.sql.execute(f"UPDATE jobs SET {change} lease_expires_at = now() - interval '1 s'".encode())
        self.sql.execute("SELECT set_config('worker.lease', '', false)")

    def old(self, how: str) -> None:
        job = self.ended(how)
        self.sql.execute("SELECT set_config('worker.lease', 'queue', false)")
        self.sql.execute("UPDATE jobs SET completed_at = now() - interval '9 d' WHERE id = %s", [job.id])
        self.sql.execute("SELECT set_config('worker.lease', '', false)")
        self.sql.execute("UPDATE worker.outbox SET delivered_at = now()")


Scene = Callable[[Stage], Callable[[], object]]
"""Prepares, and gives what runs the statement."""


def _with_job(prepare: Callable[[Stage], Job], act: Callable[[Stage, Job], object]) -> Scene:
    def scene(stage: Stage) -> Callable[[], object]:
        job = prepare(stage)
        return lambda: act(stage, job)

    return scene


def _scene(prepare: Callable[[Stage], object], act: Callable[[Stage], object]) -> Scene:
    def scene(stage: Stage) -> Callable[[], object]:
        prepare(stage)
        return lambda: act(stage)

    return scene


def _supersede(stage: Stage) -> Job:
    stage.waiting()
    stage.sql.execute("UPDATE jobs SET run_after = now() + interval '1 h'")
    stage.waiting()
    return stage.claimed()


def _all(stage: Stage) -> list[object]:
    return [id_ for (id_,) in stage.sql.execute("SELECT id FROM jobs").fetchall()]


ENDS = ("completed", "failed", "cancelled")
SCENES: list[tuple[str, Scene]] = [
    ("enqueue", _scene(lambda _: None, lambda s: s.waiting())),
    ("claim", _scene(lambda s: s.waiting(), lambda s: s.claimed())),
    ("renew", _with_job(Stage.running, lambda s, job: queue.renew(s.engine, job, lease_s=9))),
    (
        "report",
        _with_job(
            Stage.running, lambda s, job: queue.report(s.engine, job, progress=9, stage="x", lease_s=9)
        ),
    ),
    (
        "complete",
        _with_job(_supersede, lambda s, job: queue.complete(s.engine, job, model_url="x", report={})),
    ),
    *(
        (
            "fail",
            _with_job(
                Stage.running, lambda s, job, c=code: queue.fail(s.engine, job, JobError(c), report={})
            ),
        )  # type: ignore[misc]
        for code in ("no_object", "worker_lost")
    ),
    ("cancel", _with_job(Stage.running, lambda s, job: queue.cancel(s.engine, job))),
    ("release", _with_job(Stage.running, lambda s, job: queue.release(s.engine, job))),
    *(
        ("rescue", _scene(lambda s, c=change: s.lost(c), lambda s: queue.rescue(s.engine)))  # type: ignore[misc]
        for change in ("", "max_attempts = 1,", "cancel_requested_at = now(),")
    ),
    *(
        (name, _scene(prepare, act))
        for prepare in (
            Stage.waiting,
            Stage.running,
            *(lambda s, how=how: s.ended(how) for how in ENDS),  # type: ignore[misc]
        )
        for name, act in {
            "ask_to_cancel": lambda s: queue.ask_to_cancel(s.engine, _all(s)[0]),
            "ask_all_to_cancel": lambda s: queue.ask_all_to_cancel(s.engine, _all(s)),
            "retry": lambda s: queue.retry(s.engine, _all(s)[0]),
            "delete": lambda s: queue.delete(s.engine, _all(s)),
        }.items()
    ),
    *(
        (
            "prune_jobs",
            _scene(lambda s, h=how: s.old(h), lambda s: queue.prune(s.engine, "jobs", days=1, batch=9)),  # type: ignore[misc]
        )
        for how in ENDS
    ),
]


def test_the_diagram_has_the_edges_that_the_statements_make_and_no_others(
    engine: Engine, sql: psycopg.Connection, moves: Callable[[], set[Edge]]
) -> None:
    stage = Stage(engine, sql)
    seen = set()
    for name, scene in SCENES:
        sql.execute("DELETE FROM jobs")
        act = scene(stage)
        moves()
        act()
        seen |= {(edge, name) for edge in moves()}
    assert seen == drawn()


def test_every_statement_that_writes_to_jobs_is_among_them() -> None:
    writes = re.compile(
        r"INSERT INTO public\.jobs|UPDATE public\.jobs|DELETE FROM public\.jobs|claim_job\(|cancel_job\(|retry_job\("
    )
    writing = {name for name, statement in queue.QUERIES.items() if writes.search(statement.text)}
    assert writing == {name for name, _ in SCENES}
    section = PAGE.partition("## The state machine")[2].partition("\n## ")[0]
    named = {
        name for line in section.splitlines() if line.startswith("| `") for name in _code(line.split("|")[1])
    }
    assert named == writing


def test_the_files_that_the_page_names_are_there() -> None:
    named = re.findall(r"`((?:worker|tests|migrations)/[\w./]+)`", PAGE)
    assert len(named) > 30
    assert [name for name in named if not (ROOT / name).exists()] == []


def _code(text: str) -> list[str]:
    return re.findall(r"`(\w+)`", text)
