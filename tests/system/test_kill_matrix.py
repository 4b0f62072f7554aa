"""Real daemons and children, ended or frozen or broken in every way, in every stage of a job.

Two daemons share the queue; the one that has the job is the victim, or its child is. The job is held in the stage by
what the stage waits for: the photo's server, the engine, the bucket, a lock in the database. With three lanes a daemon, two
more jobs are held beside it, and must come to their end too.
"""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gates
import psycopg
import pytest
from conftest import NUMBERS, Daemon, launch, new_database, until

from worker.local.postgres import Postgres
from worker.local.server import DevServer, serve_folder

LEASE_S = 6  # a busy machine must not cost the lease
HARD_LIMIT_S = 45  # many times what a job takes here, however busy the machine
STAGES = {"downloading": 10, "generating": 50, "uploading": 85, "settling": 95}
HOWS = ("SIGTERM", "SIGTERM twice", "SIGKILL", "SIGSTOP and SIGCONT", "exit", "out of memory", "hang in C")


class Fleet:
    """Two daemons, replaced when they end as a supervisor would do; a backend; the gates."""

    def __init__(
        self, url: str, folder: Path, site: DevServer, gate: gates.Gates, weights: Path, lanes: int
    ) -> None:
        self.folder = folder
        self.lanes = lanes
        self.gates = gate
        self.site = site
        self.sql = psycopg.connect(url, autocommit=True)
        self.lock = psycopg.connect(url, autocommit=True)
        self.orders = folder / "rogue"
        self.orders.mkdir()
        self.started = 0
        self.daemons: list[Daemon] = []
        self.intact = True
        self.variables = gate.environment | {
            "DATABASE_URL": url,
            "BACKEND_URL": site.url,
            "WORKER_WEIGHTS_DIR": str(weights),
            "WORKER_LANES": str(lanes),
            "WORKER_LEASE_S": str(LEASE_S),
            "WORKER_POLL_S": "0.5",
            "WORKER_SOFT_LIMIT_S": str(HARD_LIMIT_S - 1),
            "WORKER_HARD_LIMIT_S": str(HARD_LIMIT_S),
            "PYTHON_ROGUE": str(self.orders),
        }
        # What holds a job in its last stage: the statement that completes it waits for a lock.
        self.sql.execute("""
            CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS
                $$ BEGIN PERFORM pg_advisory_xact_lock(1); RETURN NEW; END $$;
            CREATE TRIGGER hold BEFORE UPDATE ON jobs FOR EACH ROW
                WHEN (NEW.status = 'completed') EXECUTE FUNCTION hold()""")

    def begin(self) -> None:
        """Ready for a test; with nothing left of one that was left in the middle."""
        if not self.intact:
            self.stop()
            self.sql.execute("DELETE FROM jobs WHERE completed_at IS NULL")
        self.mend()
        self.intact = False

    def mend(self) -> None:
        """Removes what has ended, and starts anew what is missing."""
        self.daemons = [daemon for daemon in self.daemons if daemon.process.poll() is None]
        while len(self.daemons) < 2:
            self.started += 1
            name = f"d{self.started}"
            self.daemons.append(launch(self.folder, self.started, self.variables | {"WORKER_NAME": name}))

    def stop(self) -> None:
        for daemon in self.daemons:
            daemon.process.kill()
            daemon.process.wait()

    def close(self) -> None:
        self.stop()
        self.sql.close()
        self.lock.close()

    def owner(self, job: Any) -> Daemon:
        name = self.row(job)["claimed_by"]
        return next(daemon for daemon in self.daemons if daemon.log.stem == f"daemon-{name[1:]}")

    def child(self, job: Any) -> int:
        """The process that has the job: the last one of the lane that claimed it last."""
        daemon = self.owner(job)
        claimed = [line["lane"] for line in daemon.events("job_claimed") if line["job_id"] == str(job)]
        ready = [line["pid"] for line in daemon.events("child_ready") if line["lane"] == claimed[-1]]
        return int(ready[-1])

    def row(self, job: Any) -> dict[str, Any]:
        with self.sql.cursor(row_factory=psycopg.rows.dict_row) as cursor:
            found = cursor.execute(
                "SELECT *, status::text AS status FROM jobs WHERE id = %s", [job]
            ).fetchone()
        assert found, "a row was lost"
        return found

    def published(self, product: str) -> str | None:
        """The version whose files lie at the path of the product."""
        query = "SELECT written FROM worker.published WHERE stem = %s"
        found = self.sql.execute(query, [f"a/{product}"]).fetchone()
        return found[0] if found else None

    def outbox(self, job: Any, condition: str) -> int:
        query = f"SELECT count(*) FROM worker.outbox WHERE job_id = %s AND {condition}"
        found = self.sql.execute(query.encode(), [job]).fetchone()
        assert found
        return int(found[0])

    def hold(self, stage: str) -> Callable[[], None]:
        """From now on jobs stay in this stage; what ends that."""
        if stage == "downloading":
            self.gates.photos.clear()
            return self.gates.photos.set
        if stage == "generating":
            hold = self.orders / "hold"
            hold.touch()
            return lambda: hold.unlink(missing_ok=True)
        if stage == "uploading":
            self.gates.bucket.clear()
            return self.gates.bucket.set
        self.lock.execute("SELECT pg_advisory_lock(1)")
        return self._unlock

    def _unlock(self) -> None:
        self.lock.execute("SELECT pg_advisory_unlock_all()")

    def processes(self) -> set[int]:
        """All that live and were started by this fleet, directly or not."""
        # A daemon hides its environment from its own user.
        daemons = {daemon.process.pid for daemon in self.daemons}
        mark = f"PYTHON_ROGUE={self.orders}".encode()
        marked = {pid for pid in _pids() if mark in _read(pid, "environ").split(b"\0")}
        return {pid for pid in daemons | marked if _state(pid) not in {"", "Z"}}

    def starves(self) -> bool:
        """True if one of them has no memory just now."""
        marks = [int(mark.name.partition("-")[0]) for mark in self.orders.glob("*-starves")]
        return bool(marks) and not self.processes().isdisjoint(marks)


@pytest.fixture(scope="module")
def fleet(
    request: pytest.FixtureRequest,
    postgres: Postgres,
    tmp_path_factory: pytest.TempPathFactory,
    u2netp: Path,
    mug: bytes,
) -> Iterator[Fleet]:
    folder = tmp_path_factory.mktemp("fleet")
    with (
        new_database(postgres) as url,
        serve_folder(folder, folder / "webhooks.jsonl") as site,
        gates.serve(mug) as gate,
    ):
        fleet = Fleet(url, folder, site, gate, u2netp, getattr(request, "param", 1))
        yield fleet
        fleet.close()


SHORT = [
    ("daemon", "SIGTERM", "uploading"),
    ("daemon", "SIGKILL", "generating"),
    ("daemon", "SIGSTOP and SIGCONT", "generating"),
    ("child", "exit", "settling"),
    ("child", "out of memory", "generating"),
]
ALL = [(victim, how, stage) for victim in ("daemon", "child") for how in HOWS for stage in STAGES]


@pytest.mark.parametrize(
    ("fleet", "victim", "how", "stage"),
    [
        *((1, *cell) for cell in SHORT),
        *(pytest.param(1, *cell, marks=pytest.mark.long) for cell in ALL if cell not in SHORT),
        *(pytest.param(3, *cell, marks=pytest.mark.long) for cell in ALL),
    ],
    indirect=["fleet"],
    ids=lambda value: value.replace(" ", "-") if isinstance(value, str) else f"{value}-lanes",
)
def test_no_job_is_lost_or_done_twice_whatever_ends_a_process(
    fleet: Fleet, victim: str, how: str, stage: str
) -> None:
    fleet.begin()
    release = fleet.hold(stage)
    try:
        job, *beside = jobs = [_enqueue(fleet) for _ in range(fleet.lanes)]
        _reach(fleet, jobs, stage)
        daemon = fleet.owner(job)
        target = daemon.process.pid if victim == "daemon" else fleet.child(job)
        with _done_to(fleet, job, daemon, target, how, stage):
            release()
            for each in jobs:
                _wait_for_the_end(fleet, each)
    finally:
        release()

    row = fleet.row(job)
    status, attempts = _expected(victim, how, stage)
    assert (row["status"], row["error_code"]) == (status, None if status == "completed" else "timed_out")
    assert row["attempts"] in attempts
    for each in beside:
        other = fleet.row(each)
        assert other["status"] == "completed", other["error_message"]
        # A child takes nothing with it but its own job.
        assert other["attempts"] in ({1} if victim == "child" else {1, 2})

    if how == "hang in C" and target in fleet.processes():
        # Whoever watches the service ends what does not answer. An event in its sender's hand would come a minute later.
        if victim == "child":
            until(lambda: fleet.outbox(job, "delivered_at IS NULL") == 0)
        daemon.process.kill()
        daemon.process.wait()
    if victim == "daemon" and how in {"SIGTERM", "SIGTERM twice", "SIGKILL", "exit"}:
        code = daemon.process.wait(60)
        assert code == 0 or not how.startswith("SIGTERM")
    _check_the_rest(fleet, job, row)
    until(lambda: not fleet.starves(), what="memory for the next one")
    fleet.intact = True


def test_a_daemon_that_has_lost_a_thread_ends_and_is_started_again(fleet: Fleet) -> None:
    fleet.begin()
    daemon = fleet.daemons[0]
    daemon.wait_for("ready", 60)
    (fleet.orders / "draft").write_text("lose_upkeep")
    (fleet.orders / "draft").rename(fleet.orders / str(daemon.process.pid))
    assert daemon.process.wait(60) == 75
    assert daemon.events("thread_ended")[0]["threads"] == ["upkeep"]
    fleet.intact = True


@pytest.mark.long  # test_threads.py has its short form
def test_daemons_that_lack_memory_again_and_again_do_all_jobs_in_the_end(fleet: Fleet) -> None:
    fleet.begin()
    ended = "SELECT completed_at IS NOT NULL FROM jobs WHERE id = %s"
    leave = """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
               WHERE application_name = 'shop-model-worker' AND datname = current_database()"""
    jobs = []
    for number in range(16):
        fleet.mend()
        jobs.append(_enqueue(fleet))
        for daemon in fleet.daemons:
            (fleet.orders / "draft").write_text("famish")
            (fleet.orders / "draft").rename(fleet.orders / str(daemon.process.pid))
        if number % 5 == 0:
            fleet.sql.execute(leave)
        until(lambda: not fleet.starves(), what="memory")

    def all_ended() -> bool:
        fleet.mend()
        fleet.sql.execute("UPDATE jobs SET run_after = now() WHERE status = 'pending' AND run_after > now()")
        return all(fleet.sql.execute(ended, [job]).fetchone() == (True,) for job in jobs)

    until(all_ended, 180, "all jobs to end")
    fleet.intact = True


def _enqueue(fleet: Fleet) -> Any:
    number = next(NUMBERS)
    found = fleet.sql.execute(
        "INSERT INTO jobs (shop, product_id, image_urls, quality) VALUES ('a', %s, %s, 'fast') RETURNING id",
        [str(number), [f"{fleet.gates.url}/{number}.png"]],
    ).fetchone()
    assert found
    return found[0]


def _reach(fleet: Fleet, jobs: list[Any], stage: str) -> None:
    arrived = fleet.gates.arrived
    until(lambda: all(fleet.row(job)["progress"] == STAGES[stage] for job in jobs), 60, stage)
    if stage == "uploading":
        until(lambda: fleet.gates.arrived >= arrived + len(jobs))
    if stage == "settling":
        waiting = "SELECT count(*) = %s FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        until(lambda: fleet.sql.execute(waiting, [len(jobs)]).fetchone() == (True,))
    # An event in a dead sender's hand would be sent again only a minute later.
    until(lambda: all(fleet.outbox(job, "delivered_at IS NULL") == 0 for job in jobs))


@contextmanager
def _done_to(fleet: Fleet, job: Any, daemon: Daemon, target: int, how: str, stage: str) -> Iterator[None]:
    """Does it to the process; inside, the stage is let go."""
    if how == "SIGSTOP and SIGCONT":
        os.kill(target, signal.SIGSTOP)
        until(lambda: _state(target) == "T")
        renewed = fleet.row(job)["lease_expires_at"]
        if target == daemon.process.pid and stage != "settling":  # there its statement holds the row
            until(lambda: fleet.row(job)["attempts"] == 2, LEASE_S + 60)
        else:
            later = "SELECT clock_timestamp() > %s + interval '1 s'"
            until(lambda: fleet.sql.execute(later, [renewed]).fetchone() == (True,), LEASE_S + 60)
        try:
            if target == daemon.process.pid:
                yield
                os.kill(target, signal.SIGCONT)
                if stage != "settling":
                    daemon.wait_for("lease_lost")
            else:
                os.kill(target, signal.SIGCONT)
                yield
        finally:
            os.kill(target, signal.SIGCONT)
        return
    if how in {"exit", "out of memory", "hang in C"}:
        order = {"exit": "leave", "out of memory": "starve", "hang in C": "hang"}[how]
        by_engine = stage == "generating" and target != daemon.process.pid
        file = fleet.orders / (f"{target}-engine" if by_engine else str(target))
        draft = fleet.orders / "draft"
        draft.write_text(order)
        draft.rename(file)
        until(lambda: not file.exists(), what="the order to be obeyed")
        if how == "exit":
            until(lambda: target not in fleet.processes())
    else:
        os.kill(target, signal.SIGKILL if how == "SIGKILL" else signal.SIGTERM)
        if how == "SIGTERM twice" and target == daemon.process.pid:
            until(lambda: "SIGTERM" in daemon.log.read_text())
            os.kill(target, signal.SIGTERM)
    yield


def _wait_for_the_end(fleet: Fleet, job: Any) -> None:
    def ended() -> bool:
        # A wait before the next attempt is cut short, but not so short that it finds the same lack of memory.
        if not fleet.starves():
            fleet.sql.execute("UPDATE jobs SET run_after = now() WHERE id = %s AND run_after > now()", [job])
        return fleet.row(job)["completed_at"] is not None

    until(ended, HARD_LIMIT_S + 60, f"the end of {fleet.row(job)}")


def _expected(victim: str, how: str, stage: str) -> tuple[str, set[int]]:
    """The row's status and attempts in the end."""
    if how == "out of memory" and not (victim == "child" and stage == "generating"):
        return "completed", {1, 2}  # it depends on what just asked for memory
    if victim == "child":
        if stage in {"uploading", "settling"} or how == "SIGSTOP and SIGCONT":
            return "completed", {1}
        return ("failed", {1}) if how == "hang in C" else ("completed", {2})
    if how == "SIGSTOP and SIGCONT" and stage == "settling":
        return "completed", {
            2
        }  # the statement waited for the lock until its lock_timeout, with nobody to repeat it
    # A statement that is under way comes to its end, whatever became of who sent it.
    return "completed", {1} if how.startswith("SIGTERM") or stage == "settling" else {2}


def _check_the_rest(fleet: Fleet, job: Any, row: dict[str, Any]) -> None:
    fleet.mend()
    until(lambda: fleet.outbox(job, "delivered_at IS NULL") == 0, what="the webhooks")
    events = [event for event in _webhooks(fleet) if event["jobId"] == str(job)]
    sequence = [event["seq"] for event in events]
    assert sequence == sorted(set(sequence)), "webhooks in order and none twice"
    assert [event["status"] for event in events if event["status"] not in {"pending", "processing"}] == [
        row["status"]
    ]
    assert events[-1]["status"] == row["status"]
    assert fleet.outbox(job, "terminal") == 1
    assert fleet.row(job) == row, "nothing is written after the end"
    if row["status"] == "completed":
        product = row["product_id"]
        version = f"a/{product}/v.{row['version']}.glb"
        assert row["model_url"].endswith(f"/{version}")
        assert len(fleet.gates.versions(product)) <= row["attempts"]
        until(lambda: fleet.published(product) == row["version"], what="the publication")
        assert fleet.gates.objects[f"a/{product}.glb"][-1] == fleet.gates.objects[version][-1]

    until(lambda: all(daemon.events("ready") for daemon in fleet.daemons), 60)
    living = {daemon.process.pid for daemon in fleet.daemons}

    def children() -> set[int]:
        """The last one of each lane."""
        ready = [(daemon.log, line) for daemon in fleet.daemons for line in daemon.events("child_ready")]
        return set({(log, line["lane"]): line["pid"] for log, line in ready}.values())

    until(lambda: fleet.processes() == living | children(), what="orphans to be gone")
    until(lambda: not fleet.daemons[0].leftovers(), what="temp files to be gone")


def _webhooks(fleet: Fleet) -> list[dict[str, Any]]:
    import json

    return [json.loads(line)["body"] for line in fleet.site.journal.read_text().splitlines()]


def _pids() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _read(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""


def _state(pid: int) -> str:
    """R, S, T, Z …; of a process that is no more, nothing."""
    return _read(pid, "stat").rpartition(b")")[2].strip()[:1].decode()
