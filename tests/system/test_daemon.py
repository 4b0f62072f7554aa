"""The real daemon, as a process of its own, on real rows."""

import json
import os
import signal
import subprocess
import sys
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import gates
import psycopg
import pytest
import trimesh
from conftest import StartDaemon, until
from PIL import Image
from sqlalchemy.engine import Engine

from worker.jobs import queue
from worker.local.server import DevServer

PutPhoto = Callable[[str, bytes], str]


def settled(sql: psycopg.Connection, timeout: float = 60) -> None:
    until(
        lambda: sql.execute("SELECT count(*) = 0 FROM jobs WHERE completed_at IS NULL").fetchone() == (True,),
        timeout,
        "all jobs to end",
    )


def webhooks(site: DevServer) -> list[dict[str, object]]:
    if not site.journal.exists():
        return []
    return [json.loads(line)["body"] for line in site.journal.read_text().splitlines()]


def test_a_row_becomes_a_model(
    start_daemon: StartDaemon,
    engine: Engine,
    sql: psycopg.Connection,
    site: DevServer,
    photos: PutPhoto,
    mug: bytes,
) -> None:
    daemon = start_daemon(
        real_models=True,
        WORKER_STORAGE_URL="https://models.example",
        WORKER_TURNTABLE="true",
        WORKER_USDZ="true",
        WORKER_REVIEW="flagged",
        WORKER_REVIEW_SCORE="100",
    )
    job = queue.enqueue(
        engine,
        shop="a.myshopify.com",
        product_id="gid://shopify/Product/123",
        variant_id="gid://shopify/ProductVariant/4",
        image_urls=[photos("mug.png", mug) + "?token=secret", f"{site.url}/missing.jpg"],
        quality="fast",
        metadata={
            "order": 7,
            "dimensions": {"height": 11, "unit": "cm"},
            "views": {"front": 0, "back": 1, "left": 2},
            "subject": {"box": [0, 0, 0.04, 0.04]},
        },
    )
    settled(sql, 120)
    row = queue.get_jobs(engine, [job])[0]
    assert (row["status"], row["progress"], row["stage"], row["attempts"]) == (
        "completed",
        100,
        "completed",
        1,
    )
    decided = sql.execute("SELECT version, review FROM jobs").fetchone()
    assert decided
    stem = f"a.myshopify.com/123/4/v.{decided[0]}"
    assert row["model_url"] == f"https://models.example/{stem}.glb"

    report = row["report"]
    metadata = sql.execute("SELECT metadata FROM jobs").fetchone()
    assert metadata
    assert (metadata[0]["order"], metadata[0]["worker"]) == (7, report)
    assert (report["engine"], report["preset"]) == ("relief", "fast")
    assert [photo["status"] for photo in report["photos"]] == ["used", "refused"]
    assert [photo["view"] for photo in report["photos"]] == ["front", None]
    assert report["quality"]["warnings"][0].startswith("The left in the views is not the index of a photo")
    assert report["photos"][1]["error_code"] == "photo_not_found"
    assert report["photos"][0]["score"]["certainty"] < 0.5, "nothing lies in the subject's box"
    assert "secret" not in json.dumps(report)
    assert set(report["seconds"]) >= {"download", "cutout", "generate", "finish", "poster", "upload"}

    model = trimesh.load(daemon.files / f"{stem}.glb", force="mesh")
    assert isinstance(model, trimesh.Trimesh)
    assert 0 < len(model.faces) <= 10_000
    for name, ending in (
        ("poster", ".png"),
        ("cutout", ".cutout.png"),
        ("turntable", ".webp"),
        ("usdz", ".usdz"),
    ):
        assert report[f"{name}_url"] == f"https://models.example/{stem}{ending}"
    with Image.open(daemon.files / f"{stem}.webp") as turntable:
        assert (turntable.format, getattr(turntable, "n_frames", 0)) == ("WEBP", 24)
    assert zipfile.is_zipfile(daemon.files / f"{stem}.usdz")
    assert report["model"]["size_m"][1] == pytest.approx(0.11), "as `metadata.dimensions` says"
    assert report["quality"]["silhouette_iou"] > 0.9
    assert report["quality"]["score"] < 100
    assert (report["review"], decided[1]) == ("wanted", "wanted"), "below the threshold"
    assert not list((daemon.files / "a.myshopify.com/123").glob("*.*")), "nothing is published"
    assert queue.approve(engine, job)
    endings = (".glb", ".png", ".cutout.png", ".webp", ".usdz")
    published = [daemon.files / f"a.myshopify.com/123/4{ending}" for ending in endings]
    until(lambda: all(file.exists() for file in published), what="the publication")
    assert all(
        file.read_bytes() == (daemon.files / f"{stem}{ending}").read_bytes()
        for file, ending in zip(published, endings, strict=True)
    )
    until(lambda: not daemon.leftovers())

    assert daemon.stop() == 0
    events = webhooks(site)
    assert {event["jobId"] for event in events} == {str(job)}
    assert [event["seq"] for event in events] == sorted({event["seq"] for event in events})  # type: ignore[type-var]
    progress = [event["progress"] for event in events]
    assert progress == sorted(progress)  # type: ignore[type-var]
    assert set(progress) <= {5, 10, 40, 50, 60, 70, 80, 85, 95, 100}
    done, approved = events[-2:]
    told = [(event["status"], event["review"], event.get("modelUrl")) for event in (done, approved)]
    assert told == [("completed", "wanted", None), ("completed", "approved", row["model_url"])]
    assert done["metadata"] == metadata[0]


def test_two_daemons_do_every_row_exactly_once(
    start_daemon: StartDaemon,
    sql: psycopg.Connection,
    site: DevServer,
    photos: PutPhoto,
    mug: bytes,
) -> None:
    daemons = [start_daemon(), start_daemon()]
    # Most fail at their photo, which is quick and settles a row as a success does; two become models.
    text = photos("text.png", b"no photo")
    sql.execute(
        "INSERT INTO jobs (shop, product_id, image_urls, quality)"
        " SELECT 'a', n::text, ARRAY[CASE WHEN n %% 30 = 0 THEN %s ELSE %s END], 'fast' FROM generate_series(1, 60) n",
        [photos("mug.png", mug), text],
    )
    settled(sql, 120)
    assert sql.execute(
        "SELECT status::text, attempts, count(*) FROM jobs GROUP BY 1, 2 ORDER BY 1"
    ).fetchall() == [
        ("completed", 1, 2),
        ("failed", 1, 58),
    ]
    assert [daemon.stop() for daemon in daemons] == [0, 0]
    claimed = [Counter(event["job_id"] for event in daemon.events("job_claimed")) for daemon in daemons]
    assert all(claimed), "one daemon did it all"
    assert set((claimed[0] + claimed[1]).values()) == {1}
    ends = Counter(event["jobId"] for event in webhooks(site) if event["status"] in {"completed", "failed"})
    assert len(ends) == 60
    assert set(ends.values()) == {1}


def test_a_killed_daemon_s_job_is_done_by_the_next_and_its_files_are_swept(
    start_daemon: StartDaemon, engine: Engine, photos: PutPhoto, mug: bytes, held: gates.Gates
) -> None:
    first = start_daemon(WORKER_LEASE_S="6")
    child = first.events("child_ready")[0]["pid"]
    urls = [photos("mug.png", mug), held.url]
    job = queue.enqueue(engine, shop="a", product_id="1", image_urls=urls)
    until(first.leftovers)
    first.process.kill()
    first.process.wait()
    held.photos.set()
    until(
        lambda: (
            not Path(f"/proc/{child}").exists() or "Z" in Path(f"/proc/{child}/stat").read_text().split()[2]
        )
    )
    assert first.leftovers()
    second = start_daemon(WORKER_POLL_S="0.5")
    until(lambda: queue.get_jobs(engine, [job])[0]["status"] == "completed")
    assert queue.get_jobs(engine, [job])[0]["attempts"] == 2
    until(lambda: not second.leftovers())


def test_sigterm_finishes_what_runs_and_claims_no_more(
    start_daemon: StartDaemon, engine: Engine, held: gates.Gates
) -> None:
    daemon = start_daemon()
    jobs = [
        queue.enqueue(engine, shop="a", product_id=str(n), image_urls=[held.url], quality="fast")
        for n in range(2)
    ]
    until(lambda: queue.get_jobs(engine, jobs)[0]["progress"] >= 10)
    daemon.process.send_signal(signal.SIGTERM)
    until(lambda: "no more jobs are claimed" in daemon.log.read_text())
    held.photos.set()
    assert daemon.process.wait(60) == 0
    assert [row["status"] for row in queue.get_jobs(engine, jobs)] == ["completed", "pending"]
    assert not daemon.temp.exists() or not any(daemon.temp.iterdir())


def test_a_second_sigterm_gives_the_job_back(
    start_daemon: StartDaemon, engine: Engine, held: gates.Gates
) -> None:
    daemon = start_daemon()
    job = queue.enqueue(engine, shop="a", product_id="1", image_urls=[held.url])
    until(lambda: queue.get_jobs(engine, [job])[0]["progress"] >= 10)
    daemon.process.send_signal(signal.SIGTERM)
    until(lambda: "no more jobs are claimed" in daemon.log.read_text())
    assert daemon.stop() == 0
    row = queue.get_jobs(engine, [job])[0]
    assert (row["status"], row["attempts"], row["progress"]) == ("pending", 0, 0)


def test_the_soft_limit_ends_a_job_and_spares_the_child(
    start_daemon: StartDaemon, engine: Engine, held: gates.Gates
) -> None:
    daemon = start_daemon(WORKER_SOFT_LIMIT_S="0.3")
    job = queue.enqueue(engine, shop="a", product_id="1", image_urls=[held.url])
    until(lambda: queue.get_jobs(engine, [job])[0]["status"] == "failed")
    assert queue.get_jobs(engine, [job])[0]["error_code"] == "timed_out"
    assert len(daemon.events("child_ready")) == 1


def test_the_hard_limit_kills_a_child_that_does_not_listen(
    start_daemon: StartDaemon, engine: Engine, photos: PutPhoto, mug: bytes
) -> None:
    daemon = start_daemon(WORKER_SOFT_LIMIT_S="1", WORKER_HARD_LIMIT_S="2")
    child = daemon.events("child_ready")[0]["pid"]
    os.kill(child, signal.SIGSTOP)
    job = queue.enqueue(engine, shop="a", product_id="1", image_urls=[photos("mug.png", mug)])
    until(lambda: queue.get_jobs(engine, [job])[0]["status"] == "failed")
    assert queue.get_jobs(engine, [job])[0]["error_code"] == "timed_out"
    until(lambda: len(daemon.events("child_ready")) == 2)


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({"WORKER_ENGINE": "no-such"}, "WORKER_ENGINE: there is no engine 'no-such'. Use one of: triposr"),
        ({"WORKER_WEIGHTS_DIR": "/nowhere"}, "worker weights fetch u2netp"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
)
def test_what_the_child_cannot_use_ends_the_start_with_one_line(
    start_daemon: StartDaemon, environment: dict[str, str], says: str
) -> None:
    """`tests/cli/test_every_command.py` has the settings that the daemon itself refuses."""
    daemon = start_daemon(ready=False, **environment)
    assert daemon.process.wait(60) == 78
    last = daemon.log.read_text().splitlines()[-1]
    assert last.startswith("error: ")
    assert says in last


def test_a_process_of_the_daemon_s_user_cannot_read_the_daemon_s_secrets() -> None:
    code = """if True:
        import ctypes, os
        from worker.compute import linux
        if os.getuid() == 0:  # who may read everything
            os.setgid(65534)
            os.setuid(65534)
            ctypes.CDLL(None).prctl(4, 1)  # that took it away already; here the worker's own call is to
        def read():
            if os.fork() == 0:
                try:
                    print(len(open(f"/proc/{os.getppid()}/environ").read()) > 0, flush=True)
                except PermissionError:
                    print("refused", flush=True)
                os._exit(0)
            os.wait()
        read()
        linux.disable_core_dumps_and_ptrace()
        read()
    """
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.split() == ["True", "refused"]
