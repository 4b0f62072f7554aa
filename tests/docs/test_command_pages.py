"""docs/symptoms.md and docs/commands.md: the commands, run in the state that each comment names, print what stands below them.

A comment `<!-- state -->` in the page names a function of STATES; the job is 7e57ed00. `<!-- failed CODE -->` is a job that failed so.
"""

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from conftest import HOST, complete_next
from rich.console import Console
from sqlalchemy.engine import Engine

from worker.cli import app as cli
from worker.cli import batch, hosts, jobs, output, review, webhooks
from worker.core import settings
from worker.core.errors import ERRORS
from worker.jobs import hosts as registry
from worker.jobs import queue
from worker.ops import advice
from worker.webhooks import outbox

DOCS = Path(__file__).parents[2] / "docs"
PAGES = {name: (DOCS / name).read_text() for name in ("commands.md", "symptoms.md")}
JOB = "7e57ed00-52a1-4c7e-9d5e-0c6b1e6a2f10"
OTHERS = ("0a81c3f6-5b0d-4c8e-8a38-2f6d0b8c0a11", "c4d2e9b7-93a1-4f53-b0a4-7d1c5e3f9a22")
SHOP = "shop.myshopify.com"
BLOCK = re.compile(r"<!-- ([\w ]+) -->\n\n```sh\n(.*?)```\n\n```text\n(.*?)```", re.DOTALL)
WIDTH = 60  # columns: what a phone shows of a block without scrolling far

# A row as a daemon leaves it. Only with this key may a statement change what is the worker's.
SET = (
    "WITH key AS MATERIALIZED (SELECT set_config('worker.lease', 'queue', true)) UPDATE jobs SET {} FROM key"
)


@dataclasses.dataclass
class Place:
    sql: psycopg.Connection
    engine: Engine
    set: Callable[[str, str], None]

    def insert(self, **columns: object) -> None:
        columns = {
            "id": JOB, "shop": SHOP, "product_id": "123", "image_urls": ["https://cdn.shopify.com/a.jpg", "https://cdn.shopify.com/b.jpg"],
        } | columns  # fmt: skip
        names, values = ", ".join(columns), ", ".join(["%s"] * len(columns))
        self.sql.execute(f"INSERT INTO jobs ({names}) VALUES ({values})".encode(), list(columns.values()))

    def host(self, **changes: object) -> None:
        host = dataclasses.replace(HOST, name="gpu-1", version="0.1.0", **changes)  # type: ignore[arg-type]
        registry.check_in(self.engine, host)


def no_worker(place: Place) -> None:
    place.insert()


def other_pool(place: Place) -> None:
    place.host()
    place.insert(pool="large")


def paused(place: Place) -> None:
    place.host()
    registry.pause(place.engine, "gpu-1")
    place.insert()


def later(place: Place) -> None:
    place.host()
    place.insert(run_after="2030-01-01 06:00+00")


def retries(place: Place) -> None:
    place.host()
    place.insert()
    job = queue.claim(place.engine, worker="gpu-1", lease_s=60)
    assert job
    place.sql.execute(
        SET.format(
            "status = 'pending', progress = 0, stage = NULL, lease_token = NULL, lease_expires_at = NULL, claimed_by = NULL,"
            " error_code = 'storage_unavailable', error_message = 'x', run_after = '2030-01-01 06:00+00'"
        )
    )


def running(place: Place) -> None:
    place.host()
    place.insert()
    job = queue.claim(place.engine, worker="gpu-1", lease_s=600)
    assert job
    queue.report(place.engine, job, progress=50, stage="generating", lease_s=600)


def lost(place: Place) -> None:
    running(place)
    place.sql.execute(SET.format("lease_expires_at = now() - interval '1 min'"))
    place.sql.execute("UPDATE worker.hosts SET seen_at = now() - interval '40 min'")


def to_review(place: Place) -> None:
    place.insert()
    warnings = ["This is a preview: what the photos do not show is invented.", "The photo is blurred."]
    model = {"triangles": 29_994, "glb_bytes": 1_870_000}
    report = {"engine": "relief", "model": model, "quality": {"score": 41.2, "warnings": warnings}}
    complete_next(place.engine, digest="89" * 16, wants_review=True, report=report)


def dead(place: Place) -> None:
    place.insert()
    job = queue.claim(place.engine, worker="gpu-1", lease_s=60)
    assert job
    event = outbox.take(place.engine, sending_s=30)
    assert event
    outbox.dead_letter(place.engine, event, refusals=5, reason="the backend answered 404")
    place.sql.execute("UPDATE worker.outbox SET id = %s", [JOB.replace("7e57ed00", "e7e17000")])


def busy(place: Place) -> None:
    to_review(place)
    place.host()
    for id_ in OTHERS:
        place.insert(id=id_, product_id=f"45{id_[7]}")
    job = queue.claim(place.engine, worker="gpu-1", lease_s=600)
    assert job
    queue.report(place.engine, job, progress=50, stage="generating", lease_s=600)


def alike(place: Place) -> None:
    place.insert()
    place.insert(id=JOB.replace("7e57ed00", "7e57abcd"))


def no_database(place: Place) -> None:
    place.set("DATABASE_URL", "postgresql://worker:secret@127.0.0.1:9/postgres")


def no_setting(place: Place) -> None:
    place.set("DATABASE_URL", "")


def failed(place: Place, code: str) -> None:
    place.insert()
    assert queue.claim(place.engine, worker="gpu-1", lease_s=60)
    ended = "cancelled" if code in {"superseded", "expired"} else "failed"
    place.sql.execute(
        SET.format(
            "status = %s, lease_token = NULL, lease_expires_at = NULL, claimed_by = NULL, completed_at = now(), error_code = %s,"
            " error_message = %s"
        ),
        [ended, code, ERRORS[code].message],
    )


STATES = {
    state.__name__: state
    for state in (
        busy, alike, no_worker, other_pool, paused, later, retries, running, lost, to_review, dead, no_database, no_setting,
    )
}  # fmt: skip


def prepare(place: Place, state: str) -> None:
    for table in ("jobs", "worker.hosts", "worker.outbox", "worker.published", "worker.versions"):
        place.sql.execute(f"DELETE FROM {table}".encode())
    name, _, code = state.partition(" ")
    if name == "failed":
        failed(place, code)
    else:
        STATES[name](place)


def plain(text: str) -> list[str]:
    """Replace what differs from run to run: times, durations, and the widths of columns."""
    text = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC|\d\d:\d\d:\d\d( UTC)?", "TIME", text)
    text = re.sub(r"\b[\d.]+ (s|min|h|d)\b", "DURATION", text)
    return [" ".join(line.split()) for line in text.splitlines() if line.strip()]


@pytest.fixture
def place(
    monkeypatch: pytest.MonkeyPatch, database_url: str, engine: Engine, sql: psycopg.Connection
) -> Place:
    for name in settings.variables():
        monkeypatch.delenv(name, raising=False)
    for module in (output, batch, hosts, jobs, review, webhooks, cli):
        monkeypatch.setattr(module, "console", Console(stderr=True, width=WIDTH, color_system=None))
    # Advice for a host where systemd runs the daemon: that is what most readers have.
    monkeypatch.setattr(advice, "SYSTEMD", Path("/"))
    monkeypatch.setattr(advice, "UNITS", (Path("/"),))
    monkeypatch.setenv("DATABASE_URL", database_url)
    return Place(sql, engine, monkeypatch.setenv)


def said(command: str, capfd: pytest.CaptureFixture[str]) -> str:
    assert command.startswith("worker ")
    cli.execute(command.split()[1:])
    found = capfd.readouterr()
    return found.out + found.err


@pytest.mark.parametrize("page", PAGES)
def test_every_command_prints_what_the_page_shows(
    place: Place, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, page: str
) -> None:
    blocks = BLOCK.findall(PAGES[page])
    assert len(blocks) == PAGES[page].count("```text") > 6
    for state, command, shown in blocks:
        with monkeypatch.context() as patch:
            prepare(dataclasses.replace(place, set=patch.setenv), state)
            assert plain(said(command.strip(), capfd)) == plain(shown), (state, command)


@pytest.mark.parametrize("code", ERRORS)
def test_every_code_has_its_section(code: str) -> None:
    assert f"### {code}\n" in PAGES["symptoms.md"]
    assert f"<!-- failed {code} -->" in PAGES["symptoms.md"]


@pytest.mark.parametrize("page", PAGES.values(), ids=PAGES)
def test_the_page_fits_a_phone(page: str) -> None:
    assert not re.search(r"^\|", page, re.MULTILINE), "a table"
    code = "\n".join(re.findall(r"^```sh\n(.*?)^```$", page, re.DOTALL | re.MULTILINE))
    assert max(map(len, code.splitlines())) <= WIDTH


def test_what_the_dashboard_says_is_what_the_page_quotes() -> None:
    part = PAGES["symptoms.md"].partition("\n## The dashboard says")[2].partition("\n## ")[0]
    code = (DOCS.parent / "worker" / "ops" / "dashboard" / "app.py").read_text()
    quoted = re.findall(r'\*\*"([^"]+)"\*\*', part)
    assert len(quoted) > 3
    assert [words for words in quoted if words not in code] == []
