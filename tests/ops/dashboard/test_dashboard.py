"""The dashboard by plain HTTP: what it shows, to whom, and what it costs the database."""

import dataclasses
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from html import unescape
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import psycopg
import pytest
import sqlalchemy as sa
import uvicorn
from conftest import HOST, connected, new_database, until
from pydantic import SecretStr
from rich.console import Console
from rows import HOSTILE, Tags, change, insert, served
from sqlalchemy.engine import Engine

from worker import database
from worker.core import settings
from worker.core.settings import Settings
from worker.jobs import hosts, queue
from worker.local.postgres import Postgres
from worker.ops import dashboard
from worker.ops.dashboard import access, pages, sessions
from worker.webhooks import outbox

TOKEN = "correct-horse-battery"
CROWD = Path(__file__).parent / "crowd.sql"


@pytest.fixture
def site(engine: Engine) -> Iterator[httpx.Client]:
    with served(engine) as address, httpx.Client(base_url=address, timeout=60) as client:
        yield client


def ids(page: str) -> list[str]:
    return re.findall(r'<li data-key="([0-9a-f-]{36})">', page)


def test_the_overview_shows_the_queue_s_figures(
    site: httpx.Client, engine: Engine, sql: psycopg.Connection
) -> None:
    running = insert(sql, status="processing", progress=40, product_handle="teapot")
    waiting = insert(sql)
    sql.execute("UPDATE jobs SET pool = 'large' WHERE id = %s", [waiting])
    hosts.check_in(engine, dataclasses.replace(HOST, name="gpu-1"))
    failed = insert(sql, status="failed", product_id="gid://shopify/Product/77")
    done = insert(sql, status="completed", metadata={"worker": {"poster_url": "https://s.example/a.png"}})
    page = site.get("/").text
    assert ids(page)[:2] == [running, waiting]
    assert set(ids(page)) == {running, waiting, failed, done}
    assert "teapot" in page
    assert '<progress max="100" value="40"' in page
    assert "<b>77</b>" in page
    assert "No product could be found." in page
    assert '<img src="https://s.example/a.png"' in page
    assert "gpu-1" in page
    assert "Jobs are waiting, but no worker is running." not in page
    assert "1 waiting job of the pool large: no running host takes them." in page
    assert ids(site.get("/?status=failed").text) == [failed]
    assert ids(site.get("/?status=pending").text) == [waiting]
    answer = site.get("/?status=nonsense")
    assert (answer.status_code, ids(answer.text)) == (400, [])
    assert "status is one of processing, pending" in answer.text


def test_models_to_review_are_listed_and_what_became_of_them_is_said(
    site: httpx.Client, sql: psycopg.Connection
) -> None:
    jobs = {review: insert(sql, status="completed") for review in ("none", "wanted", "approved", "rejected")}
    for review, job in jobs.items():
        change(sql, job, f"review = '{review}', version = 'abcdef0123456789'")
    page = site.get("/").text
    assert '<a href="/?review=wanted">1 model to review</a>' in page
    assert '<span class="pill again">to review</span>' in page
    assert '<span class="pill failed">rejected</span>' in page
    for url in ("/?review=wanted", "/?review=wanted&q=a", f"/?review=wanted&q={jobs['wanted'][:8]}"):
        assert ids(site.get(url, follow_redirects=True).text) == [jobs["wanted"]], url
    texts = {
        "none": "",
        "wanted": "not published yet",
        "approved": "has approved this model",
        "rejected": "has rejected this model",
    }
    for review, job in jobs.items():
        told = site.get(f"/jobs/{job}").text
        assert "<code>abcdef01</code>" in told
        assert [name for name, text in texts.items() if text and text in told] == [review] * bool(
            texts[review]
        )
    sql.execute(
        "INSERT INTO worker.published (path, stem, shop, product, digest, job_id, requested_at)"
        " SELECT worker.storage_path(shop, product_id, variant_id), 'x', shop, 'x', version, id, now() FROM jobs LIMIT 1"
    )
    pages = {review: site.get(f"/jobs/{job}").text for review, job in jobs.items()}
    assert "an equal one was published before." in pages["wanted"]
    assert "an equal one was published before and still is." in pages["rejected"]
    assert not any("not published" in page for page in pages.values())


def test_a_job_tells_its_whole_story(site: httpx.Client, sql: psycopg.Connection) -> None:
    report = {
        "engine": "triposr",
        "seconds": {"upload": 0.25, "download": 1.5, "generate": 3.25},
        "model": {"triangles": 30000, "glb_bytes": 2_400_000, "watertight": True},
        "quality": {"score": 71.4, "delta_e": 3.2, "warnings": ["The photo is blurred."]},
        "photos": [
            {"status": "used", "view": "left"},
            {"status": "refused", "error_message": "The photo is too small."},
            {"status": "spare", "view": None, "reason": "It shows another product."},
        ],
    }
    photos = [f"https://cdn.shopify.com/{n}.jpg" for n in (1, 2, 3)]
    job = insert(sql, status="completed", image_urls=photos, metadata={"worker": report, "mine": "kept"})
    sql.execute(
        "INSERT INTO worker.attempts (lease_token, job_id, attempt, worker, host, started_at, ended_at, outcome,"
        " error_code, error_message) VALUES (gen_random_uuid(), %s, 1, 'gpu-9:1', 'gpu-9', now() - interval '60 s',"
        " now(), 'lost', 'worker_lost', 'The server stopped.')",
        [job],
    )
    page = unescape(site.get(f"/jobs/{job}").text)
    for said in ("30,000", "2.4 MB", "watertight", "71 of 100", "The photo is blurred.", "by ΔE 3.2", "gpu-9:1", "was lost",
                 "The server stopped.", "1 min 0 s", "The photo is too small.",
                 "used as the left", "It shows another product.", *photos, '"mine": "kept"'):  # fmt: skip
        assert said in page, said
    assert page.index("download <") < page.index("generate <") < page.index("upload <")
    assert 'data-src="https://store.example/a.glb"' in page
    assert "lease_token" not in page
    waits = insert(sql, run_after="now")
    assert "<b>Number 1</b> in the queue" in site.get(f"/jobs/{waits}").text


@pytest.mark.parametrize(
    "report", [None, [], "x", {"seconds": [1], "quality": "x", "model": 3, "photos": 7, "poster_url": {"a": 1}},
             {"quality": {"warnings": 3, "score": "9"}, "seconds": {"a": "b", "c": -1, "d": 0}, "photos": [3]}],
)  # fmt: skip
def test_a_report_of_any_shape_does_not_break_the_page(
    site: httpx.Client, sql: psycopg.Connection, report: object
) -> None:
    job = insert(sql, status="completed", metadata={"worker": report})
    assert site.get(f"/jobs/{job}").status_code == 200
    assert site.get("/").status_code == 200


def test_words_from_outside_stay_words(site: httpx.Client, sql: psycopg.Connection) -> None:
    job = insert(
        sql, status="failed", shop=HOSTILE, product_id=HOSTILE, variant_id=HOSTILE, product_handle=HOSTILE,
        error_code=HOSTILE, error_message=HOSTILE, stage=HOSTILE,
        metadata={HOSTILE: HOSTILE, "worker": {"engine": HOSTILE, "seconds": {HOSTILE: 1.0},
                  "quality": {HOSTILE: 1, "warnings": [HOSTILE]}}},
    )  # fmt: skip
    insert(sql, status="processing", stage=HOSTILE, claimed_by=HOSTILE)
    for path, scripts in (("/", 1), (f"/jobs/{job}", 2), (f"/?q={HOSTILE}", 1)):
        page = site.get(path).text
        tags = Tags(page)
        assert tags.names.count("script") == scripts, path
        assert "x" not in tags.links
        assert HOSTILE in unescape(page)


def test_whatever_a_job_s_page_shows_stays_words_and_is_bounded(
    site: httpx.Client, sql: psycopg.Connection
) -> None:
    texts = dict.fromkeys(
        ("engine", "lane", "cached", "preset_reason", "review_reason", "cutout_url", "poster_url"), HOSTILE
    )
    photo = dict.fromkeys(("status", "view", "reason", "warning", "error_code", "error_message"), HOSTILE)
    numbers = dict.fromkeys(("score", "silhouette_iou", "delta_e", "detail", "photo_px", "watertight"), 1e300)
    report = texts | {"photos": [photo, photo | {"status": "refused"}], "model": {"triangles": HOSTILE}}
    report["quality"] = numbers | {
        "parts": {"outline": HOSTILE, "colours": 7, HOSTILE: 1},
        "warnings": [HOSTILE],
    }
    job = insert(
        sql, status="completed", product_id=HOSTILE, image_urls=["https://a.example/1.jpg", "https://a.example/2.jpg"],
        metadata={"worker": report, "views": {"front": 10**400, "left": 1, "back": [HOSTILE]}},
    )  # fmt: skip
    change(sql, job, "version = 'abcdef0123456789'")
    for digest in ("abcdef0123456789", HOSTILE):
        sql.execute(
            "INSERT INTO worker.versions (path, digest, stem, shop, product, job_id, files)"
            " SELECT worker.storage_path(shop, product_id, variant_id), %s, 'x', shop, 'x', id, '{\".png\": \"\"}' FROM jobs",
            [digest],
        )
    sql.execute(
        "INSERT INTO worker.attempts (lease_token, job_id, attempt, worker, host, started_at, ended_at, outcome, error_code,"
        " error_message, lane, seconds) SELECT gen_random_uuid(), id, 1, %s, %s, now(), now(), 'failed', %s, %s, %s, '{\"a\": 1e300}' FROM jobs",
        [HOSTILE] * 5,
    )
    sql.execute(
        "INSERT INTO worker.outbox (type, shop, job_id, terminal, body, dead_at, last_error)"
        " SELECT %s, shop, id, true, repeat(%s, 20000), now(), repeat(%s, 20000) FROM jobs",
        [HOSTILE] * 3,
    )
    page = site.get(f"/jobs/{job}").text
    tags = Tags(page)
    assert tags.names.count("script") == 2
    assert "x" not in tags.links
    assert unescape(page).count(HOSTILE) > 15
    # The backend's part of a megabyte, and of thousands of levels.
    sql.execute("UPDATE jobs SET metadata = metadata || jsonb_build_object('large', repeat('<b>', 300000))")
    assert len(site.get(f"/jobs/{job}").text) < 200_000
    sql.execute("UPDATE jobs SET metadata = metadata || jsonb_build_object('large', '')")
    sql.execute(
        "UPDATE jobs SET metadata = metadata || jsonb_build_object('deep', (repeat('[', 4000) || repeat(']', 4000))::jsonb)"
    )
    assert site.get(f"/jobs/{job}").status_code == 200


def test_a_hostile_address_never_becomes_a_link(site: httpx.Client, sql: psycopg.Connection) -> None:
    for bad in ("javascript:alert(1)", "data:text/html,x", "file:///etc/passwd", " javascript:alert(1)",
                "https:javascript:alert(1)", "https://u:p@h/x", 'https://h/"onload=x'):  # fmt: skip
        report = {"poster_url": bad, "cutout_url": bad, "turntable_url": bad, "usdz_url": bad}
        job = insert(sql, status="completed", model_url=bad, metadata={"worker": report})
        for path in ("/", f"/jobs/{job}"):
            assert bad not in Tags(site.get(path).text).links, bad
    assert access.web_url("https://a.example/b?c=d&e") == "https://a.example/b?c=d&e"
    assert access.web_url(["https://a.example"]) is None


def test_a_browser_may_do_only_what_the_page_needs(engine: Engine) -> None:
    store = {"supabase_url": "https://p.supabase.co", "photo_hosts": ("cdn.shopify.com", "*.x.example")}
    with served(engine, **store) as address:
        for path in ("/", "/nowhere", "/static/style.css", "/jobs/1"):
            headers = httpx.get(address + path).headers
            policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
            assert policy["default-src"] == "'none'"
            assert policy["script-src"] == policy["style-src"] == "'self'"
            assert (
                policy["img-src"]
                == "'self' https://p.supabase.co https://cdn.shopify.com https://*.x.example"
            )
            assert policy["connect-src"] == "'self' https://p.supabase.co"
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["referrer-policy"] == "same-origin"
        assert httpx.get(f"{address}/jobs/{uuid4()}").status_code == 404
        assert httpx.post(address).status_code == 403
        assert httpx.post(address, headers={"origin": address}).status_code == 405
        assert httpx.get(f"{address}/static/..%2Fapp.py").status_code == 404


def test_a_token_opens_the_page(
    engine: Engine, sql: psycopg.Connection, capfd: pytest.CaptureFixture[str]
) -> None:
    insert(sql, product_handle="secret-teapot")
    with served(engine, dashboard_token=SecretStr(TOKEN)) as address:
        for wrong in ({}, {"token": "wrong"}, {"token": TOKEN + "x"}, {"token": ""}):
            answer = httpx.get(address, params=wrong)
            assert answer.status_code == 401
            assert "secret-teapot" not in answer.text
            assert "set-cookie" not in answer.headers
        name = f"{sessions.COOKIE}_{address.rpartition(':')[2]}"
        assert httpx.get(address, cookies={name: TOKEN}).status_code == 401
        assert httpx.get(address, headers={"authorization": "Bearer wrong"}).status_code == 401
        assert httpx.get(address, headers={"authorization": f"Bearer {TOKEN}"}).status_code == 200

        answer = httpx.get(f"{address}//other.example/x?status=failed&token={TOKEN}")
        assert (answer.status_code, answer.headers["location"]) == (303, "/other.example/x?status=failed")
        cookie = answer.headers["set-cookie"]
        assert TOKEN not in cookie
        assert cookie.startswith(f"{name}=")  # of this port alone: others may have dashboards, too
        assert "HttpOnly" in cookie
        assert "samesite=lax" in cookie.lower()
        with httpx.Client(base_url=address, headers={"origin": address}) as person:
            assert person.post("/login", data={"token": "wrong"}).status_code == 401
            assert person.post("/login", data={"token": "x" * 70_000}).status_code == 413
            assert person.post("/login", data={"token": TOKEN}).headers["location"] == "/"
            assert "secret-teapot" in person.get("/").text
    said = capfd.readouterr()
    assert TOKEN not in said.out + said.err


def test_without_a_token_no_other_name_leads_here(site: httpx.Client, sql: psycopg.Connection) -> None:
    insert(sql, product_handle="teapot")
    names = {"localhost:8780": 200, "[::1]:1": 200}
    names |= dict.fromkeys(("evil.example", "evil_1.example", "[", "localhost.evil.example", "x@y", ""), 421)
    for name, code in names.items():
        answer = site.get("/", headers={"host": name})
        assert (answer.status_code, "teapot" in answer.text) == (code, code == 200), name


def test_the_command_serves_other_hosts_only_with_a_token(database_url: str) -> None:
    def dashboard(**variables: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "worker", "dashboard", "--host", "0.0.0.0", "--port", "0"],
            env=os.environ | {"DATABASE_URL": database_url} | variables,
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip

    refused = dashboard()
    assert refused.returncode == 78
    assert "WORKER_DASHBOARD_TOKEN" in refused.stderr
    short = dashboard(WORKER_DASHBOARD_TOKEN="planted")
    assert short.returncode == 78
    assert "planted" not in short.stderr
    assert "WORKER_DASHBOARD_TOKEN" in short.stderr


def test_the_pages_need_no_more_than_to_read_as_the_daemon_s_role(
    database_url: str, sql: psycopg.Connection
) -> None:
    job = insert(sql)
    options = "-c role=worker -c default_transaction_read_only=on"
    target = database.parse(database_url, "DATABASE_URL").update_query_dict({"options": options})
    engine = database.connect(target)
    with served(engine) as address:
        for path in (
            "/",
            f"/jobs/{job}",
            "/?status=failed",
            "/?status=pending",
            "/?shop=a",
            "/?q=a",
            f"/?job={job}",
        ):
            answer = httpx.get(address + path, follow_redirects=True)
            assert (answer.status_code, job in answer.text) == (200, "failed" not in path)
    engine.dispose()


def test_the_page_says_that_the_database_is_away_and_comes_back(
    postgres: Postgres, sql: psycopg.Connection, engine: Engine, database_url: str
) -> None:
    insert(sql, product_handle="teapot")
    name = sa.make_url(database_url).database
    with psycopg.connect(postgres.url(), autocommit=True) as admin, served(engine) as address:
        assert "teapot" in httpx.get(address).text
        sql.close()
        admin.execute(f'ALTER DATABASE "{name}" WITH ALLOW_CONNECTIONS false'.encode())
        admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name])
        for _ in range(2):
            answer = httpx.get(address)
            assert answer.status_code == 503
            assert "The database cannot be reached" in answer.text
            assert "Traceback" not in answer.text
            assert 'id="live"' in answer.text
        admin.execute(f'ALTER DATABASE "{name}" WITH ALLOW_CONNECTIONS true'.encode())
        until(lambda: "teapot" in httpx.get(address).text)


def test_a_database_without_our_tables_is_told_apart(empty_database: str) -> None:
    engine = database.connect(database.parse(empty_database, "DATABASE_URL"))
    with served(engine) as address:
        answer = httpx.get(address)
    engine.dispose()
    assert answer.status_code == 503
    assert "Run: worker migrate" in answer.text


@pytest.fixture(scope="module")
def crowded(postgres: Postgres) -> Iterator[Engine]:
    with (
        new_database(postgres) as url,
        connected(url) as engine,
        psycopg.connect(url, autocommit=True) as sql,
    ):
        sql.execute(CROWD.read_bytes())
        sql.execute("VACUUM ANALYZE public.jobs, worker.attempts")
        yield engine


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for part in plan.get("Plans", ()):
        yield from nodes(part)


def test_no_page_reads_or_sorts_the_whole_table(crowded: Engine) -> None:
    with crowded.connect() as connection:
        job = connection.scalar(sa.text("SELECT id FROM public.jobs WHERE status = 'pending' LIMIT 1"))
    some = {"limit": pages.PAGE, "ids": [job], "id": job, "shop": "shop-7.myshopify.com", "batch": "monday",
            "part": "1 h", "width": "1 h", "since": datetime.now(UTC) - timedelta(days=7), "pool": "", "host": "",
            "before": None, "after": "", "seq": None}  # fmt: skip
    figures = {
        name: queue.QUERIES[name]
        for name in (
            "health", "list_hosts", "unserved", "failures", "queue_position", "batch_page", "plans", "busiest_shops", "count_states"
        )
    } | {name: outbox.QUERIES[name] for name in ("dead", "dead_shops")}  # fmt: skip
    for name, statement in (pages.QUERIES | figures).items():
        needed = {key: some[key] for key in re.findall(r"%\((\w+)\)s", statement)}
        with crowded.connect() as connection:
            explain = "EXPLAIN (ANALYZE, FORMAT JSON) " + statement
            plan = connection.exec_driver_sql(explain, needed).scalar_one()[0]["Plan"]
        for node in nodes(plan):
            read = node["Actual Rows"] * node["Actual Loops"]
            assert node["Node Type"] != "Seq Scan" or node["Relation Name"] not in {"jobs", "attempts"}, name
            assert "Sort" not in node["Node Type"] or read < 500, (name, node)
            assert read <= 1_000, (name, node)


def test_with_10000_jobs_the_pages_show_what_is_asked_for(crowded: Engine) -> None:
    with served(crowded) as address, httpx.Client(base_url=address, timeout=60) as site:
        page = site.get("/").text
        assert "<dt>waiting</dt><dd>200</dd>" in page
        assert len(ids(page)) == 10 + pages.AHEAD + pages.PAGE
        assert len(ids(site.get("/?shop=shop-7&status=completed").text)) == pages.PAGE


def test_no_packet_of_an_answer_waits_for_an_acknowledgement(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []

    def accept(_server: uvicorn.Server, sockets: list[socket.socket]) -> None:
        with socket.create_connection(sockets[0].getsockname()), sockets[0].accept()[0] as accepted:
            found.append(accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        sockets[0].close()

    monkeypatch.setattr(uvicorn.Server, "run", accept)
    monkeypatch.setenv("DATABASE_URL", database_url)
    dashboard.run(settings.load(), host="127.0.0.1", port=0, console=Console(quiet=True))
    assert found
    assert found[0], "TCP_NODELAY is set"


def test_links_of_the_settings_are_no_way_around_the_policy() -> None:
    policy = access.headers(Settings().model_copy(update={"storage_url": "javascript:alert(1)"}))
    assert "javascript" not in json.dumps(dict(policy))
