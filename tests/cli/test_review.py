"""`worker review`, `publish` and `retry --without-photo`: what people see and decide."""

import json
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from conftest import complete_next
from rich.console import Console
from sqlalchemy.engine import Engine
from typer.testing import CliRunner, Result

from worker.cli import output, review
from worker.cli.app import app, execute
from worker.core import settings
from worker.jobs import queue

Worker = Callable[..., Result]
PHOTOS = ["https://cdn.shopify.com/front.jpg", "https://cdn.shopify.com/back.jpg"]


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch, database_url: str) -> Worker:
    """The command line on the test's database, as wide as a terminal, in this process."""
    for name in settings.variables():
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DATABASE_URL", database_url)
    for module in (output, review):
        monkeypatch.setattr(module, "console", Console(stderr=True, width=80, color_system=None))
    return lambda *arguments: CliRunner().invoke(app, arguments, catch_exceptions=False)


def completed(engine: Engine, digit: str, *, wants_review: bool = False) -> str:
    """A job of the product 7 that was completed with a version of its own."""
    queue.enqueue(engine, shop="a.myshopify.com", product_id="gid://shopify/Product/7", image_urls=PHOTOS)
    quality = {"score": 41.2, "warnings": ["The photo is blurred.", "It is flat."]}
    job = complete_next(engine, digest=digit * 32, wants_review=wants_review, report={"quality": quality})
    return str(job.id)


def row(sql: psycopg.Connection, job: str) -> Any:
    return sql.execute(
        "SELECT seen.status, seen.review, published, excluded_photos FROM job_status AS seen JOIN jobs USING (id) WHERE id = %s",
        [job],
    ).fetchone()


def test_models_are_listed_approved_and_rejected(
    worker: Worker, engine: Engine, sql: psycopg.Connection
) -> None:
    assert worker("review").stderr == "No model waits for review.\n"
    assert worker("review", "--json").stdout == "[]\n"
    first, second = (completed(engine, digit, wants_review=True) for digit in "ab")
    listed = worker("review").stderr
    assert listed.splitlines() == [
        f"{first}  7  a.myshopify.com  score 41 of 100  waits 0 s",
        "  The photo is blurred.",
        f"  https://models.example/a.myshopify.com/7/v.{'a' * 32}.glb",
        f"{second}  7  a.myshopify.com  score 41 of 100  waits 0 s",
        "  The photo is blurred.",
        f"  https://models.example/a.myshopify.com/7/v.{'b' * 32}.glb",
    ]
    assert "and 1 more: worker review --limit 2" in worker("review", "--limit", "1").stderr
    assert [each["id"] for each in json.loads(worker("review", "--json").stdout)] == [first, second]

    rejected = worker("review", "reject", first, "--reason", "The handle is missing.")
    assert (rejected.exit_code, rejected.stderr) == (0, f"{first} rejected\n")
    reason = sql.execute("SELECT metadata #>> '{worker,review_reason}' FROM jobs WHERE id = %s", [first])
    assert reason.fetchone() == ("The handle is missing.",)
    approved = worker("review", "approve", second, "--json")
    assert (approved.exit_code, json.loads(approved.stdout)) == (0, {second: True})
    assert row(sql, second)[1:3] == ("approved", True)
    again = worker("review", "reject", second)
    assert (again.exit_code, again.stderr) == (1, f"{second} waits for no review\n")


def test_an_older_model_is_published_again(worker: Worker, engine: Engine, sql: psycopg.Connection) -> None:
    older, newer = completed(engine, "a"), completed(engine, "b")
    assert [row(sql, job)[2] for job in (older, newer)] == [False, True]
    assert worker("publish", older).stderr == f"{older} published\n"
    assert [row(sql, job)[2] for job in (older, newer)] == [True, False]
    between, newest = completed(engine, "d", wants_review=True), completed(engine, "e")
    assert (
        f"a newer model stays published. See: worker publish {between[:8]}"
        in worker("review", "approve", between).stderr
    )
    assert (row(sql, between)[1:3], row(sql, newest)[2]) == (("approved", False), True)
    assert worker("publish", older).exit_code == 0
    flagged = completed(engine, "c", wants_review=True)
    refused = worker("publish", flagged)
    assert (refused.exit_code, refused.stderr) == (
        1,
        f"{flagged} waits for review. See: worker review approve {flagged[:8]}\n",
    )
    assert row(sql, older)[2]


def test_a_model_is_made_anew_without_a_photo(
    worker: Worker, engine: Engine, sql: psycopg.Connection, capfd: pytest.CaptureFixture[str]
) -> None:
    job = completed(engine, "a", wants_review=True)
    assert worker("retry", job, "--without-photo", "1").stderr == f"{job} queued again\n"
    assert row(sql, job) == ("pending", "none", False, [1])
    complete_next(engine, digest="b" * 32)
    for number, reason in (
        ("2", "the job has 2 photos, counted from 0"),
        ("0", "the last photo that is left"),
    ):
        assert execute(["retry", job, "--without-photo", number]) == 1
        said = capfd.readouterr().err
        assert said.startswith(f"error: {job} is not queued again: without_photo is")
        assert said.rstrip().endswith(reason)
    assert worker("retry", job, job, "--without-photo", "0").exit_code == 2
