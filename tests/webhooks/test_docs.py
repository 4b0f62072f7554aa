"""The receivers of docs/webhooks.md, taken from the page and run as processes of their own."""

import json
import os
import re
import shutil
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from conftest import until
from pydantic import SecretStr
from receiver import SECRET
from sqlalchemy.engine import Engine

from worker.core.settings import Settings
from worker.jobs import queue
from worker.webhooks import sender, signature

PAGE = Path(__file__).parents[2] / "docs" / "webhooks.md"


def code(language: str) -> str:
    found = re.search(rf"^```{language}\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    assert found
    return found[1]


@contextmanager
def running(folder: Path, program: str, file: str, language: str) -> Iterator[str]:
    """The receiver's address; what it writes goes to `folder`/out."""
    (folder / file).write_text(code(language))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    variables = {"WEBHOOK_SECRET": SECRET, "PORT": str(port), "DATABASE": str(folder / "models.db")}
    with (folder / "out").open("wb") as out:
        process = subprocess.Popen(
            [program, folder / file], env=os.environ | variables, stdout=out, stderr=subprocess.DEVNULL
        )
    try:
        until(lambda: answers(port), what=f"{file} to listen")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def answers(port: int) -> bool:
    with closing(socket.socket()) as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def in_python(folder: Path) -> list[tuple[str, str, str | None]]:
    with closing(sqlite3.connect(folder / "models.db")) as database:
        return database.execute("SELECT job, status, model_url FROM models").fetchall()


def in_node(folder: Path) -> list[tuple[str, str, str | None]]:
    last = (folder / "out").read_text().splitlines()[-1]
    return [(event["jobId"], event["status"], event.get("modelUrl")) for event in json.loads(last)]


RECEIVERS = {
    "python": (sys.executable, "receiver.py", "python", in_python),
    "node": (shutil.which("node"), "receiver.mjs", "js", in_node),
}


@pytest.mark.parametrize("name", RECEIVERS)
def test_the_page_s_receiver_takes_each_event_once_and_is_not_taken_back(
    engine: Engine, tmp_path: Path, name: str
) -> None:
    program, file, language, models = RECEIVERS[name]
    if program is None:
        pytest.skip("node is not installed")
    with running(tmp_path, program, file, language) as address:
        # During a rotation, by the real sender.
        secrets = SecretStr("whsec_" + "bmV3" * 8 + "," + SECRET)
        settings = Settings().model_copy(update={"backend_url": address, "webhook_secret": secrets})
        queue.enqueue(
            engine, shop="a", product_id="1", image_urls=["http://a/b"], metadata={"name": "Stühle"}
        )
        job = queue.claim(engine, worker="w", lease_s=30)
        assert job
        queue.complete(engine, job, model_url="https://m/1.glb", report={})
        delivery = sender.Sender(engine, settings)
        delivery.stopping.set()
        delivery.run()
        done = [(str(job.id), "completed", "https://m/1.glb")]
        assert models(tmp_path) == done

        def post(event: str, body: bytes, *, delay_s: float = 0, tampered: bool = False) -> int:
            sent_at = datetime.now(UTC) - timedelta(seconds=delay_s)
            headers = signature.headers(signature.keys(SECRET), event=event, body=body, sent_at=sent_at)
            return httpx.post(
                address + sender.PATH, content=body + b" " * tampered, headers=headers
            ).status_code

        older = json.dumps({"jobId": str(job.id), "status": "processing", "seq": 1, "metadata": {}}).encode()
        newer = json.dumps({"jobId": str(job.id), "status": "pending", "seq": 10**6, "metadata": {}}).encode()
        assert post("older", older) == 204
        assert models(tmp_path) == done, "an older event takes nothing back"
        assert post("older", newer) == 204
        assert models(tmp_path) == done, "an event that was seen is not looked at again"
        for refused in (
            post("x", newer, delay_s=310),
            post("x", newer, delay_s=-310),
            post("x", newer, tampered=True),
        ):
            assert refused == 401
        assert httpx.post(address + sender.PATH, content=newer).status_code == 401
        assert httpx.post(address + "/elsewhere", content=newer).status_code == 404
        assert post("newer", newer) == 204
        assert models(tmp_path) == [(str(job.id), "pending", None)]
