"""Photos of several sides, from the command line to the row, through the real daemon."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import psycopg
from conftest import StartDaemon, until
from PIL import Image
from sqlalchemy.engine import Engine

from worker.jobs import queue
from worker.pipeline.role_checks import OTHER_OUTLINE

RED, BLUE = (200, 40, 40), (40, 70, 190)


def png(*, color: tuple[int, int, int], handle: int = 0, wide: int = 100) -> bytes:
    """A can 200 pixels high, with a handle on the right (1), on the left (-1) or not seen (0)."""
    picture = np.zeros((260, 260, 4), np.uint8)
    picture[30:230, 130 - wide // 2 : 130 + wide // 2] = (*color, 255)
    picture[30:60, 130 - wide // 2 : 130 + wide // 2] = (90, 90, 90, 255)
    if handle:
        edge = 130 + handle * 65
        picture[80:150, edge - 15 : edge + 15] = (*color, 255)
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    return file.getvalue()


def test_the_sides_that_a_command_states_are_used_or_left_out_with_the_reason(
    start_daemon: StartDaemon,
    engine: Engine,
    sql: psycopg.Connection,
    photos: Callable[[str, bytes], str],
    database_url: str,
) -> None:
    front = photos("front.png", png(color=RED, handle=1))
    left = photos("left.png", png(color=BLUE, wide=60))  # another product's
    back = photos("back.png", png(color=RED, handle=-1))
    right = photos("right.png", png(color=RED))
    spare = photos("spare.png", png(color=RED, handle=1))
    command = (
        f"enqueue {spare} --right {right} --front {front} --left {left} --back {back} --quality auto --json"
    )
    done = subprocess.run(
        [sys.executable, "-m", "worker", *command.split()],
        env=os.environ | {"DATABASE_URL": database_url},
        stdout=subprocess.PIPE,
        check=True,
    )
    job = json.loads(done.stdout)["id"]
    found = sql.execute("SELECT metadata -> 'views', image_urls FROM jobs").fetchone()
    assert found == ({"front": 0, "left": 1, "back": 2, "right": 3}, [front, left, back, right, spare])

    start_daemon()
    until(lambda: sql.execute("SELECT completed_at FROM jobs").fetchone() != (None,), what="the job to end")
    row = queue.get_jobs(engine, [job])[0]
    assert row["status"] == "completed"
    report = row["report"]
    assert [photo["view"] for photo in report["photos"]] == ["front", None, "back", "right", None]
    assert [photo["status"] for photo in report["photos"]] == ["used", "spare", "used", "used", "spare"]
    assert [photo.get("reason") for photo in report["photos"]] == [
        None,
        OTHER_OUTLINE,
        None,
        None,
        None,
    ]
    assert (report["quality_asked"], report["preset"]) == ("auto", "fast")
    assert "200 pixels" in report["preset_reason"]
