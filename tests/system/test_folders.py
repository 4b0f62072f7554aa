"""The folders of running jobs and of models are deleted and made again under a real daemon: no job pays for it."""

import http.client
import json
import shutil
from collections.abc import Callable
from typing import Any

import gates
import psycopg
from conftest import Daemon, StartDaemon, until


def ready(daemon: Daemon) -> tuple[int, dict[str, Any]]:
    connection = http.client.HTTPConnection(
        "127.0.0.1", daemon.wait_for("http_listening")["port"], timeout=30
    )
    connection.request("GET", "/readyz")
    answer = connection.getresponse()
    return answer.status, json.loads(answer.read())["parts"]


def test_a_temp_folder_taken_away_costs_no_attempt_and_one_lost_under_a_job_is_retried(
    start_daemon: StartDaemon,
    sql: psycopg.Connection,
    held: gates.Gates,
    photos: Callable[[str, bytes], str],
    mug: bytes,
) -> None:
    daemon = start_daemon(WORKER_HTTP_PORT="0")
    url = photos("mug.png", mug)

    def insert(photo: str) -> Any:
        found = sql.execute(
            "INSERT INTO jobs (shop, product_id, image_urls, quality) VALUES ('a', gen_random_uuid(), %s, 'fast') RETURNING id",
            [[photo]],
        ).fetchone()
        assert found
        return found[0]

    def row(job: Any) -> tuple[Any, ...]:
        found = sql.execute(
            "SELECT status::text, attempts, error_code FROM jobs WHERE id = %s", [job]
        ).fetchone()
        assert found
        return found

    # Deleted under an idle daemon: made anew.
    shutil.rmtree(daemon.temp)
    job = insert(url)
    until(lambda: row(job) == ("completed", 1, None))

    # Cannot be made anew: nothing is claimed, and there is a reason.
    shutil.rmtree(daemon.temp)
    daemon.temp.touch()
    assert daemon.temp.is_file()
    job = insert(url)
    daemon.wait_for("temp_unavailable")
    status, parts = ready(daemon)
    assert status == 503
    assert parts["folders"].startswith("WORKER_TEMP_DIR cannot be used: ")
    assert row(job) == ("pending", 0, None)
    daemon.temp.unlink()
    until(lambda: row(job) == ("completed", 1, None))
    assert len(daemon.events("temp_unavailable")) == len(daemon.events("disk_recovered")) == 1
    assert ready(daemon)[0] == 200

    # Deleted under a job: an error of its own, and another attempt.
    job = insert(f"{held.url}/mug.png")
    until(lambda: daemon.events("job_progress")[-1]["job_id"] == str(job))
    shutil.rmtree(daemon.temp)
    held.photos.set()
    until(lambda: row(job) == ("pending", 1, "temp_unavailable"))
    sql.execute("UPDATE jobs SET run_after = now() WHERE status = 'pending'")
    until(lambda: row(job) == ("completed", 2, None))
    assert "Traceback" not in daemon.log.read_text()
    until(lambda: daemon.leftovers() == [])


def test_a_storage_folder_that_is_not_there_at_the_start_is_waited_for(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(ready=False, WORKER_HTTP_PORT="0", WORKER_STORAGE_DIR="/proc/not-mounted")
    said = daemon.wait_for("storage_unreachable")["reason"]
    assert said.startswith("WORKER_STORAGE_DIR cannot be written: ")
    until(lambda: said in ready(daemon)[1]["daemon"])
    assert ready(daemon)[0] == 503
    assert daemon.stop() == 0
    assert len(daemon.events("storage_unreachable")) == 1
