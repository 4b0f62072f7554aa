"""What people change on the pages, and who may not: by raw requests to one server."""

import dataclasses
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from html import unescape
from typing import Any

import httpx
import psycopg
import pytest
from conftest import HOST
from pydantic import SecretStr
from rows import HOSTILE, Tags, change, insert, served
from sqlalchemy.engine import Engine
from structlog.testing import capture_logs

from worker.jobs import hosts, queue
from worker.ops.dashboard import actions
from worker.webhooks import outbox

READ, ACT, OTHER = "a-token-that-only-reads", "a-token-of-anna-that-acts", "a-token-of-bert-that-acts"


class Person:
    """A browser in which somebody has logged in."""

    def __init__(self, http: httpx.Client, token: str) -> None:
        self.http = http
        assert http.post("/login", data={"token": token}).status_code == 303

    @property
    def csrf(self) -> str:
        return str(re.findall(r'name="csrf" value="([^"]+)"', self.http.get("/hosts").text)[0])

    def act(self, action: str, **fields: Any) -> str | None:
        """Press a button, and answer the question if there is one. Return what the next page says; None for a question."""
        fields = {"csrf": self.csrf, "confirmed": "1", "next": "/hosts"} | fields
        answer = self.http.post(f"/actions/{action}", data=fields)
        if answer.status_code == 200:
            assert 'name="confirmed" value="1"' in answer.text
            return None
        assert answer.status_code == 303, answer.text
        return self.told()

    def told(self) -> str:
        found = re.findall(r'<p class="notice[^>]*>([^<]*)', self.http.get("/hosts").text)
        return unescape(found[0]) if found else ""


LogIn = Callable[[str], Person]


@pytest.fixture
def address(engine: Engine) -> Iterator[str]:
    tokens = {
        "dashboard_token": SecretStr(READ),
        "dashboard_act_token": SecretStr(f"anna:{ACT},bert:{OTHER}"),
    }
    with served(engine, **tokens) as found:
        yield found


@pytest.fixture
def log_in(address: str) -> Iterator[LogIn]:
    with ExitStack() as ending:
        headers = {"origin": address, "sec-fetch-site": "same-origin"}
        yield lambda token: Person(
            ending.enter_context(httpx.Client(base_url=address, timeout=60, headers=headers)), token
        )


def state(sql: psycopg.Connection, job: str) -> str:
    found = sql.execute("SELECT status::text FROM public.jobs WHERE id = %s", [job]).fetchone()
    assert found
    return str(found[0])


def test_a_job_is_cancelled_after_a_question_and_the_log_says_by_whom(
    log_in: LogIn, sql: psycopg.Connection
) -> None:
    job = insert(sql)
    anna = log_in(ACT)
    fields = {"csrf": anna.csrf, "id": job, "next": f"/jobs/{job}"}
    question = anna.http.post("/actions/cancel", data=fields)
    assert "Cancel this job?" in question.text
    assert state(sql, job) == "pending"
    with capture_logs() as logs:
        answer = anna.http.post("/actions/cancel", data={**fields, "confirmed": "1"})
    assert (answer.status_code, answer.headers["location"]) == (303, f"/jobs/{job}")
    assert state(sql, job) == "cancelled"
    (line,) = [entry for entry in logs if entry["event"] == "dashboard_action"]
    assert line["actor"] == "anna"
    assert line["client"] == "127.0.0.1"
    assert line["target"] == {"id": [job]}
    assert (line["done"], line["outcome"]) == (True, "Cancelled 1 job.")
    assert anna.told() == "Cancelled 1 job."
    assert anna.told() == ""


def test_a_selection_is_cancelled_and_retried_as_far_as_possible(
    log_in: LogIn, sql: psycopg.Connection
) -> None:
    waits, runs, failed = (
        insert(sql),
        insert(sql, status="processing"),
        insert(sql, status="failed", dedupe_key="x"),
    )
    done = insert(sql, status="completed")
    insert(sql, dedupe_key="x")
    anna = log_in(ACT)
    everything = [waits, runs, failed, done]
    assert anna.act("cancel", id=everything) == "Cancelled 1 job. Asked 1 job to stop."
    assert anna.act("cancel", id=[failed]) == "Nothing to cancel: no such job waits or runs."
    assert [state(sql, job) for job in everything] == ["cancelled", "processing", "failed", "completed"]
    assert (
        anna.act("retry", id=everything)
        == "Queued 2 jobs again. Not 1 job: another unfinished one has the same dedupe_key."
    )
    assert [state(sql, job) for job in everything] == ["pending", "processing", "failed", "pending"]
    assert anna.act("retry") == "Nothing to retry: no such job has ended."


def test_all_that_match_a_filter_are_cancelled_and_retried_part_by_part(
    log_in: LogIn, sql: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(actions, "AT_ONCE", 2)
    ours = {
        status: [insert(sql, shop="tea", status=status) for _ in range(5)]
        for status in ("pending", "failed", "cancelled")
    }
    runs, other = insert(sql, shop="tea", status="processing"), insert(sql, shop="coffee")
    anna = log_in(ACT)
    fields = {"csrf": anna.csrf, "next": "/?shop=tea", "filter": "shop=tea&page=2"}
    question = unescape(anna.http.post("/actions/cancel", data=fields).text)
    assert "Cancel 6 running and waiting jobs that match the filter?" in question
    assert (
        anna.act("cancel", filter="shop=tea&status=failed") == "Nothing to cancel: no such job waits or runs."
    )
    assert anna.act("cancel", filter="shop=tea") == "Cancelled 5 jobs. Asked 1 job to stop."
    assert state(sql, other) == "pending"
    assert {state(sql, job) for job in ours["pending"]} == {"cancelled"}
    assert state(sql, runs) == "processing"
    assert "Retry 5 failed jobs that match" in anna.http.post("/actions/retry", data=fields).text
    assert anna.act("retry", filter="shop=tea") == "Queued 5 jobs again."
    assert {state(sql, job) for job in ours["cancelled"]} == {"cancelled"}
    assert anna.act("retry", filter="shop=tea&status=cancelled") == "Queued 10 jobs again."
    change(sql, insert(sql, shop="tea", status="completed", metadata={"worker": {}}), "review = 'rejected'")
    rejected = {"filter": "shop=tea&review=rejected"}
    assert "Retry 1 completed job that match" in anna.http.post("/actions/retry", data=fields | rejected).text
    assert anna.act("retry", **rejected) == "Queued 1 job again."
    answer = anna.http.post("/actions/retry", data=fields | {"filter": "status=nonsense", "confirmed": "1"})
    assert answer.status_code == 400
    # After a while it asks if it shall go on.
    monkeypatch.setattr(actions, "MOST_S", -1)
    again = unescape(anna.http.post("/actions/cancel", data=fields | {"confirmed": "1"}).text)
    assert "There are more. Go on?" in again
    assert 'name="filter" value="shop=tea&page=2"' in again


def test_only_what_cannot_be_undone_is_asked_once_more(log_in: LogIn, sql: psycopg.Connection) -> None:
    failed, done, waits = insert(sql, status="failed"), insert(sql, status="completed"), insert(sql)
    pair = insert(sql, status="failed", image_urls=["https://s.example/1.jpg", "https://s.example/2.jpg"])
    anna = log_in(ACT)
    for name, fields in (
        ("cancel", {"id": waits}), ("retry", {"id": done}), ("retry", {"id": pair, "without_photo": "1"}),
        ("approve", {"id": done}), ("replay", {"shop": "a"}), ("remove-plan", {"shop": "a"}),
    ):  # fmt: skip
        assert anna.act(name, **fields, confirmed="") is None, name
    assert [state(sql, job) for job in (failed, done, waits)] == ["failed", "completed", "pending"]
    assert anna.act("retry", id=failed, confirmed="") == "Queued 1 job again."
    assert anna.act("cancel", id=done, confirmed="") == "Nothing to cancel: no such job waits or runs."
    assert anna.act("retry", id=pair, without_photo="9") == (
        "Nothing was changed. without_photo is 9: the job has 2 photos, counted from 0."
    )
    assert anna.act("retry", id=pair, without_photo="1") == "Queued again, without photo 2."
    assert sql.execute("SELECT excluded_photos FROM jobs WHERE id = %s", [pair]).fetchone() == ([1],)


def test_models_are_decided_on_and_published(log_in: LogIn, sql: psycopg.Connection) -> None:
    job = insert(sql, status="completed")
    change(sql, job, "review = 'wanted', version = 'abcdef0123456789'")
    anna = log_in(ACT)
    assert anna.act("publish", id=job) == (
        "Not published: the version waits for review, was rejected, or its files are gone."
    )
    assert (
        anna.act("reject", id=job, reason="The handle is missing.") == "Rejected. The model is not published."
    )
    row = sql.execute("SELECT review, metadata #>> '{worker,review_reason}' FROM jobs").fetchone()
    assert row == ("rejected", "The handle is missing.")
    assert anna.act("reject", id=job) == "Not rejected: the model does not wait for it."
    assert anna.act("approve", id=job) == (
        "Not approved: the model does not wait for it, or its files are gone."
    )
    sql.execute(
        "INSERT INTO worker.versions (path, digest, stem, shop, product, job_id, files) SELECT"
        " worker.storage_path(shop, product_id, variant_id), version, 'a/1', shop, product_id, id, '{}' FROM jobs"
    )
    assert anna.act("approve", id=job) == "Approved. The model is published in a moment."
    assert anna.act("publish", id=job) == "Published. The shop shows this version in a moment."
    again, older = insert(sql, status="completed"), insert(sql, status="completed")
    change(sql, again, "review = 'wanted', version = 'abcdef0123456789'")
    assert anna.act("reject", id=again) == "Rejected. An equal model of an earlier job stays published."
    change(
        sql, older, "review = 'wanted', version = '0123456789abcdef', queued_at = now() - interval '1 day'"
    )
    sql.execute(
        "INSERT INTO worker.versions (path, digest, stem, shop, product, job_id, files) SELECT"
        " worker.storage_path(shop, product_id, variant_id), version, 'a/1', shop, product_id, id, '{}' FROM jobs WHERE id = %s",
        [older],
    )
    assert anna.act("approve", id=older) == "Approved. Another model of the product stays published."


def test_hosts_are_paused_and_resumed(log_in: LogIn, engine: Engine) -> None:
    hosts.check_in(engine, dataclasses.replace(HOST, name=HOSTILE))
    anna = log_in(ACT)
    assert anna.act("pause", name=HOSTILE) == f"{HOSTILE} claims no more jobs."
    assert '<span class="pill again">paused</span>' in anna.http.get("/hosts").text
    assert anna.act("resume", name=HOSTILE) == f"{HOSTILE} is resumed."
    assert '<span class="pill completed">live</span>' in anna.http.get("/hosts").text
    assert anna.act("pause", name="nobody") == "There is no host nobody."


def test_a_batch_is_looked_at_and_changed(log_in: LogIn, sql: psycopg.Connection) -> None:
    name = HOSTILE + "/.. %2F#?&é\u202e\x07"
    waits, failed = insert(sql, batch=name), insert(sql, batch=name, status="failed", error_message=HOSTILE)
    sql.execute("SELECT worker.recount_batches('a.myshopify.com')")
    anna = log_in(ACT)
    (link,) = [link for link in Tags(anna.http.get("/batches").text).links if link.startswith("/batches/")]
    page = anna.http.get(link)
    assert page.status_code == 200
    assert f"<h1>{HOSTILE}/.. %2F#?&é\ufffd\ufffd</h1>" in unescape(page.text)
    assert f'name="batch" value="{name}"' in unescape(page.text).replace("\r", "")
    assert f"/jobs/{failed}" in Tags(page.text).links
    of = {"shop": "a.myshopify.com", "batch": name}
    assert anna.act("set-priority", **of, priority="-7") == "Set the priority of 1 job to -7."
    assert sql.execute("SELECT priority FROM jobs WHERE id = %s", [waits]).fetchone() == (-7,)
    assert anna.act("retry-batch", **of) == "Queued 1 job again."
    question = anna.http.post("/actions/cancel-batch", data={"csrf": anna.csrf, **of}).text
    assert f"of the batch {HOSTILE}/.." in unescape(question)
    assert Tags(question).names.count("script") == 2
    assert anna.act("cancel-batch", **of) == "Cancelled 2 jobs, or asked them to stop."
    assert anna.http.get("/batches/a.myshopify.com/other").status_code == 404
    assert "No shop and no batch" in anna.http.get("/batches?q=other").text


def test_dead_webhooks_are_sent_again(log_in: LogIn, engine: Engine, sql: psycopg.Connection) -> None:
    for n, shop in enumerate(("a", "a", "b", HOSTILE)):
        queue.enqueue(engine, shop=shop, product_id=str(n), image_urls=["http://a/b"])
        assert queue.claim(engine, worker="w", lease_s=30)
        event = outbox.take(engine, sending_s=30)
        assert event
        outbox.dead_letter(engine, event, refusals=3, reason=HOSTILE)
    anna = log_in(ACT)
    page = anna.http.get("/webhooks").text
    assert HOSTILE in unescape(page)
    assert Tags(page).names.count("script") == 2
    events = re.findall(r'<li data-key="([0-9a-f-]{36})">', page)
    assert len(events) == 4
    assert (
        re.findall(r'<li data-key="([0-9a-f-]{36})">', anna.http.get("/webhooks?shop=a").text) == events[2:]
    )
    assert anna.act("replay", id=events[1]) == "Sending 1 event again."
    assert anna.act("replay", id=events[1]) == (
        "Nothing to send: no such event is dead, or later ones have replaced them."
    )
    assert anna.act("replay", shop="a") == "Sending 2 events again."
    assert sql.execute("SELECT shop FROM worker.outbox WHERE dead_at IS NOT NULL").fetchall() == [(HOSTILE,)]


def test_a_shop_s_plan_is_set_and_removed(log_in: LogIn, sql: psycopg.Connection) -> None:
    anna = log_in(ACT)
    told = "holds for what is inserted and claimed from now on."
    assert anna.act(
        "set-plan", shop=HOSTILE, jobs_a_day="7", jobs_at_once="", preset=["fast", "auto", "x"]
    ) == (f"The plan of {HOSTILE} {told}")
    plan = sql.execute("SELECT shop, jobs_a_day, jobs_at_once, presets FROM worker.shop_limits").fetchone()
    assert plan == (HOSTILE, 7, None, ["fast", "auto"])
    insert(sql, shop=HOSTILE, quality="fast")
    insert(sql, shop=HOSTILE, quality="fast", status="processing")
    page = unescape(anna.http.get("/limits").text)
    assert "7 jobs a day" in page
    assert "Today: 2 inserted · 0 completed · 0 failed · 1 running" in page
    assert Tags(anna.http.get("/limits").text).names.count("script") == 2
    sql.execute(
        "INSERT INTO worker.shop_changes (shop, day, quality, completed, failed, cancelled, cached, device_seconds, cpu_seconds, bytes)"
        " VALUES (%s, CAST(now() AT TIME ZONE 'UTC' AS date), 'fast', 3, 0, 0, 0, 80, 0, 2794608)",
        (HOSTILE,),
    )
    assert "3 completed, 0 of them known before · 0 failed · 1 min 20 s in the engine · 2.8 MB" in unescape(
        anna.http.get("/limits").text
    )
    assert anna.act("remove-plan", shop=HOSTILE) == f"{HOSTILE} has no limits any more."
    assert anna.act("remove-plan", shop=HOSTILE) == f"{HOSTILE} has no plan."
