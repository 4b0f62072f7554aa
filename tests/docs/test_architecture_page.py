"""docs/architecture.md: its rooms, messages and outcomes are those of the code, its state machine that of the statements."""

import ast
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, get_args
from uuid import UUID

import psycopg
import pytest
from sqlalchemy.engine import Engine

from worker.compute import protocol
from worker.core.errors import JobError
from worker.daemon import settlement
from worker.database import fetch_all
from worker.jobs import batches, queue
from worker.jobs.queue import Claimer, Job
from worker.jobs.rows import Line
from worker.versions import erase
from worker.versions import queue as versions
from worker.versions.queue import Publication

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
    """Record the transitions of all rows. The function returns those since its last call, and forgets them."""
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

    def taken() -> set[Edge]:
        found = sql.execute("DELETE FROM move RETURNING before, after").fetchall()
        return {(before or OUTSIDE, after or OUTSIDE) for before, after in found}

    yield taken
    sql.execute("DROP FUNCTION note CASCADE")


class Stage:
    """Brings a job into a state, by the functions that the worker itself calls."""

    def __init__(self, engine: Engine, sql: psycopg.Connection) -> None:
        self.engine = engine
        self.sql = sql

    def ids(self) -> list[UUID]:
        return [job for (job,) in self.sql.execute("SELECT id FROM jobs").fetchall()]

    def waiting(self) -> None:
        queue.enqueue(self.engine, shop="a", product_id="1", image_urls=["https://a/b"], batch="x")

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
"""Prepares a job, and returns the function that runs the statement."""


def held(act: Callable[[Engine, Job], object], prepare: Callable[[Stage], Job] = Stage.running) -> Scene:
    """A statement of the worker that holds the job's lease."""
    return lambda stage: partial(act, stage.engine, prepare(stage))


def loose(act: Callable[[Stage], object], prepare: Callable[[Stage], object] = lambda _: None) -> Scene:
    def scene(stage: Stage) -> Callable[[], object]:
        prepare(stage)
        return partial(act, stage)

    return scene


def newer(stage: Stage) -> Job:
    """A running job, while an older one for the same files waits."""
    stage.waiting()
    stage.sql.execute("UPDATE jobs SET run_after = now() + interval '1 h'")
    return stage.running()


def complete_and_claim(stage: Stage) -> Callable[[], object]:
    job = newer(stage)
    queue.enqueue(stage.engine, shop="a", product_id="2", image_urls=["https://a/b"])
    return partial(queue.complete_and_claim, stage.engine, job, CLAIMER, model_url="x", report={})


def finish_publication_and_claim(stage: Stage) -> Callable[[], object]:
    job = stage.running()
    versions.begin(stage.engine, job, digest="d", stem="a/1", files={}, result_key=None)
    path = queue.complete(stage.engine, job, model_url="x", report={}, digest="d")
    assert path
    work = Publication.of(job, path=path, stem="a/1", digest="d", files={})
    stage.waiting()
    return partial(versions.finish_publication_and_claim, stage.engine, work, CLAIMER)


def failing(code: str) -> Scene:
    return held(lambda engine, job: queue.fail(engine, job, JobError(code), report={}))


def rescued(change: str) -> Scene:
    return loose(lambda s: queue.rescue(s.engine), lambda s: s.lost(change))


def pruned(how: str) -> Scene:
    return loose(lambda s: queue.prune(s.engine, "jobs", days=1, batch=9), lambda s: s.old(how))


CLAIMER = Claimer(worker="w", lease_s=60)
LINE = Line(1, {"shop": "a", "product_id": "1", "image_urls": ["https://a/b"]})


def erasing(statement: str, **parameters: Any) -> Callable[[Stage], object]:
    """A statement of an erasure that covers all jobs."""

    def run(stage: Stage) -> object:
        erase.begin(stage.engine, "a")
        work = erase.take(stage.engine)
        assert work
        return fetch_all(
            stage.engine, erase.QUERIES[statement], id=work.id, token=work.token, lease_s=9, **parameters
        )

    return run


def expired(stage: Stage) -> object:
    """By a start_by that has just passed, set as if long before."""
    stage.sql.execute("SELECT set_config('worker.lease', 'queue', false)")
    stage.sql.execute("UPDATE jobs SET start_by = now() - interval '1 s'")
    stage.sql.execute("SELECT set_config('worker.lease', '', false)")
    return queue.expire(stage.engine, 9)


erased = erasing(
    "delete_erased_jobs", after_time=datetime(1, 1, 1, tzinfo=UTC), after_id=UUID(int=0), batch=9, ended=True
)
ENDS = ("completed", "failed", "cancelled")
IN_EVERY_STATE: dict[str, Callable[[Stage], object]] = {
    "request_cancel": lambda s: queue.request_cancel(s.engine, s.ids()[0]),
    "cancel_jobs": lambda s: queue.cancel_jobs(s.engine, s.ids()),
    "cancel_batch": lambda s: batches.cancel(s.engine, "a", "x"),
    "retry": lambda s: queue.retry(s.engine, s.ids()[0]),
    "retry_jobs": lambda s: queue.retry_jobs(s.engine, s.ids()),
    "retry_batch": lambda s: batches.retry(s.engine, "a", "x"),
    "set_batch_priority": lambda s: batches.set_priority(s.engine, "a", "x", 1),
    "expire": expired,
    "stop_erased_jobs": erasing("stop_erased_jobs", quiet_s=0),
    "delete_erased_jobs": erased,
}
STATES: list[Callable[[Stage], object]] = [
    Stage.waiting,
    Stage.running,
    *(partial(Stage.ended, how=how) for how in ENDS),
]
SCENES: list[tuple[str, Scene]] = [
    ("enqueue", loose(Stage.waiting)),
    ("enqueue_all", loose(lambda s: batches.add(s.engine, [LINE]))),
    ("claim", loose(Stage.claimed, Stage.waiting)),
    ("renew", held(lambda engine, job: queue.renew(engine, job, lease_s=9))),
    ("report", held(lambda engine, job: queue.report(engine, job, progress=9, stage="x", lease_s=9))),
    ("complete", held(lambda engine, job: queue.complete(engine, job, model_url="x", report={}), newer)),
    ("complete_and_claim", complete_and_claim),
    ("finish_publication_and_claim", finish_publication_and_claim),
    *(("fail", failing(code)) for code in ("no_object", "worker_lost")),
    ("cancel", held(queue.cancel)),
    ("release", held(queue.release)),
    *(("rescue", rescued(change)) for change in ("", "max_attempts = 1,", "cancel_requested_at = now(),")),
    *((name, loose(act, state)) for state in STATES for name, act in IN_EVERY_STATE.items()),
    *(("prune_jobs", pruned(how)) for how in ENDS),
    ("delete_erased_jobs", loose(erased, lambda s: s.lost(""))),
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
        r"INSERT INTO public\.jobs|UPDATE public\.jobs|DELETE FROM public\.jobs|worker\.(?:\w+_and_claim|(?:claim|complete|fail|stop|release|rescue|expire)_jobs?)\("
        r"|worker\.(?:renew_lease|report_progress)\(|public\.(?:cancel|retry|set)_(?:job|batch)"
        r"|worker\.(?:stop|delete)_erased_jobs\("
    )
    writing = {
        name for name, statement in (queue.QUERIES | versions.QUERIES).items() if writes.search(statement)
    }
    assert writing == {name for name, _ in SCENES}
    section = PAGE.partition("## The state machine")[2].partition("\n## ")[0]
    named = {
        name for line in section.splitlines() if line.startswith("| `") for name in _code(line.split("|")[1])
    }
    assert named == writing


def _code(text: str) -> list[str]:
    return re.findall(r"`(\w+)`", text)


def test_the_page_has_every_message_of_the_protocol() -> None:
    found = re.findall(r"^\| `(\w+)` \| (to|from) the child \|", PAGE, re.MULTILINE)
    directions = {"to": protocol.ToChild, "from": protocol.FromChild}
    assert {(name, way) for name, way in found} == {
        (message.__name__, way) for way, union in directions.items() for message in get_args(union)
    }


def test_the_page_has_every_outcome_of_an_attempt() -> None:
    section = PAGE.partition("\n## The end of an attempt\n")[2].partition("\n## ")[0]
    rows = (line.split("|") for line in section.splitlines() if line.startswith("| `"))
    assert {tuple(_code(row[column])[0] for column in (1, 4, 5)) for row in rows} == {
        (outcome.name, end.metric, end.event) for outcome, end in settlement.ENDS.items()
    }


def rooms_of_the_page() -> dict[str, set[str]]:
    """Each room and the rooms that it imports, from the top down."""
    section = PAGE.partition("\n## Rooms\n")[2].partition("\n## ")[0]
    rows = (line.split("|") for line in section.splitlines() if line.startswith("| `"))
    return {_code(row[1])[0]: set(_code(row[3])) for row in rows}


def rooms_of_the_code() -> dict[str, set[str]]:
    """Each folder of worker/ and the folders that its modules import, also inside functions."""
    worker = ROOT / "worker"
    return {
        folder.name: {
            name.split(".")[1] for file in folder.rglob("*.py") for name in imports(file) if "." in name
        }
        - {folder.name}
        for folder in worker.iterdir()
        if (folder / "__init__.py").exists()
    }


def imports(file: Path) -> Iterator[str]:
    """The modules of the worker that a file imports, as `worker.room…`; `worker` alone for the package's own names."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module == "worker":
            names = [f"worker.{each.name}" for each in node.names if each.name != "__version__"]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        else:
            continue
        yield from (name for name in names if name.partition(".")[0] == "worker")


def test_the_page_has_every_room_with_its_imports() -> None:
    assert rooms_of_the_page() == rooms_of_the_code()


def test_a_room_imports_only_rooms_below_it() -> None:
    order = list(rooms_of_the_page())
    upward = [
        (room, other)
        for room, others in rooms_of_the_code().items()
        for other in others
        if order.index(other) <= order.index(room)
    ]
    assert upward == []


def test_there_are_few_rooms_and_arrows_and_no_module_beside_them() -> None:
    rooms = rooms_of_the_code()
    assert len(rooms) <= 18
    assert sum(map(len, rooms.values())) <= 70
    assert {file.name for file in (ROOT / "worker").glob("*.py")} == {"__init__.py", "__main__.py"}
