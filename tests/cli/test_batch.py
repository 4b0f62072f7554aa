"""`worker batch …`: thousands of jobs from a file, all or none, and what people do with them under one name."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from conftest import HOST, complete_next
from rich.console import Console
from sqlalchemy.engine import Engine
from typer.testing import CliRunner, Result

from worker.cli import batch, output
from worker.cli.app import app
from worker.core import settings
from worker.core.errors import JobError
from worker.jobs import estimates, hosts, queue

Worker = Callable[..., Result]
HEADER = "shop,product_id,image_urls"
ROW = "a.myshopify.com,{},https://cdn.shopify.com/{}.jpg"
OURS = {"id", "created_at", "queued_at", "updated_at", "run_after"}


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch, database_url: str, tmp_path: Path) -> Worker:
    """The command line on the test's database, as wide as a terminal, in this process."""
    for name in settings.variables():
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.chdir(tmp_path)
    for module in (output, batch):
        monkeypatch.setattr(module, "console", Console(stderr=True, width=200, color_system=None))
    return lambda *arguments: CliRunner().invoke(app, arguments, catch_exceptions=False)


def write(name: str, *lines: str) -> None:
    Path(name).write_text("\n".join(lines) + "\n")


def jobs(sql: psycopg.Connection, columns: str) -> list[Any]:
    return sql.execute(f"SELECT {columns} FROM jobs ORDER BY created_at".encode()).fetchall()


def test_a_line_is_the_row_that_a_backend_would_insert(worker: Worker, sql: psycopg.Connection) -> None:
    write("monday.csv", HEADER, ROW.format(1, 1))
    assert worker("batch", "add", "monday.csv").stderr == "1 job inserted in the batch monday.\n"
    sql.execute(
        "INSERT INTO jobs (shop, product_id, image_urls, batch)"
        " VALUES ('a.myshopify.com', '1', '{https://cdn.shopify.com/1.jpg}', 'monday')"
    )
    ours, theirs = (
        {name: value for name, value in row.items() if name not in OURS}
        for (row,) in jobs(sql, "to_jsonb(jobs)")
    )
    assert ours == theirs


def test_csv_as_spreadsheets_write_it(worker: Worker, sql: psycopg.Connection) -> None:
    Path("a.csv").write_bytes(
        (
            "\ufeffproduct_id;image_urls;variant_id;priority;refresh;run_after;metadata;batch;shop\r\n"
            'gid://shopify/Product/1;"https://a/1.jpg\r\nhttps://a/2.jpg";7;5;true;2030-01-02T03:04:05Z;"{""k"": 1}";x;\r\n'
            ";;;;;;;;\r\n"
            '2;"[""https://a/3.jpg""]";;;;;;;b.myshopify.com\r\n'
        ).encode()
    )
    assert worker("batch", "add", "a.csv", "--shop", "a.myshopify.com").exit_code == 0
    assert jobs(
        sql,
        "shop, batch, product_id, variant_id, image_urls, priority, refresh, run_after = '2030-01-02 03:04:05Z', metadata",
    ) == [
        (
            "a.myshopify.com",
            "x",
            "gid://shopify/Product/1",
            "7",
            ["https://a/1.jpg", "https://a/2.jpg"],
            5,
            True,
            True,
            {"k": 1},
        ),
        ("b.myshopify.com", "a", "2", None, ["https://a/3.jpg"], 0, False, False, {}),
    ]


def test_json_lines(worker: Worker, sql: psycopg.Connection) -> None:
    write(
        "a.jsonl",
        '{"product_id": "1", "image_urls": ["https://a/1"], "priority": 3, "metadata": {"k": [1]}}',
        "",
        '{"product_id": 2, "metadata": {"image_urls": ["https://a/2"]}, "engine": null}',
    )
    assert worker("batch", "add", "a.jsonl", "--shop", "a", "--batch", "tuesday").exit_code == 0
    assert jobs(sql, "batch, product_id, image_urls, priority, engine") == [
        ("tuesday", "1", ["https://a/1"], 3, None),
        ("tuesday", "2", ["https://a/2"], 0, None),
    ]


@pytest.mark.parametrize(
    ("name", "lines", "says"),
    [
        ("a.csv", ["shop,produkt_id,image_urls"], 'line 1: there is no column "produkt_id"; the nearest is product_id'),
        ("a.csv", ["shop,status", "a,b"], 'line 1: there is no column "status"; the columns are shop'),
        ("a.csv", ["shop,shop"], "line 1: the column shop is there twice"),
        ("a.csv", [HEADER, ROW.format(1, 1), "a,b"], "line 3: it has 2 fields, and the header 3"),
        ("a.csv", [HEADER, 'a,"b', "c"], "line 2: unexpected end of data"),
        ("a.csv", [HEADER, ROW.format(1, 1), "a,b,ftp://a/b"], "line 3: it breaks the rule image_urls_are_http_or_https"),
        ("a.csv", [HEADER, "a,,https://a/b"], 'line 2: null value in column "product_id"'),
        ("a.csv", ["shop,product_id,image_urls,priority", 'a,"x', 'y",http://a/b,1', "a,b,http://a/b,high"],
         'line 4: invalid input syntax for type smallint: "high"'),
        ("a.csv", ["shop,product_id,image_urls,metadata", "a,b,http://a/b,[1]"], "line 2: metadata is no JSON object"),
        ("a.csv", [HEADER], "the file has no jobs"),
        ("a.jsonl", ["[]"], "line 1: this is no JSON object"),
        ("a.jsonl", ['{"image_urls": "http://a/b"}'], "line 1: image_urls is no JSON array"),
        ("a.jsonl", ['{"metadata": "x"}'], "line 1: metadata is no JSON object"),
        ("a.jsonl", ['{"a": 1}'], 'line 1: there is no column "a"'),
        ("a.jsonl", ['{"shop": "a", "product_id": "b\\u0000", "image_urls": ["http://a/b"]}'], "line 1: "),
    ],
)  # fmt: skip
def test_a_wrong_line_names_itself_and_nothing_is_inserted(
    worker: Worker, sql: psycopg.Connection, name: str, lines: list[str], says: str
) -> None:
    write(name, *lines)
    done = worker("batch", "add", name)
    assert done.exit_code == 1
    (line,) = done.stderr.splitlines()
    assert says in line
    assert line.endswith("Nothing was inserted.")
    assert jobs(sql, "id") == []


def test_up_to_ten_wrong_lines_are_named_among_many_good_ones(
    worker: Worker, sql: psycopg.Connection
) -> None:
    wrong = {7, 300, 301, *range(500, 520)}
    write("a.csv", HEADER, *(ROW.format(n, n) if n not in wrong else f"a,{n},x" for n in range(2, 602)))
    lines = worker("batch", "add", "a.csv").stderr.splitlines()
    assert [line.split(":")[1] for line in lines] == [f" a.csv, line {n}" for n in sorted(wrong)[:10]]
    assert jobs(sql, "id") == []


def test_what_a_dedupe_key_refuses_is_reported(worker: Worker, sql: psycopg.Connection) -> None:
    write("a.csv", f"dedupe_key,{HEADER}", *(f"k{n % 3},{ROW.format(n, n)}" for n in range(4)))
    dry = worker("batch", "add", "a.csv", "--dry-run")
    assert dry.stderr.splitlines() == [
        "3 jobs would be inserted in the batch a.",
        "1 refused, because an unfinished job of the shop has the same dedupe_key: line 5.",
    ]
    assert jobs(sql, "id") == sql.execute("SELECT * FROM batch_status").fetchall() == []
    assert json.loads(worker("batch", "add", "a.csv", "--json").stdout) == {
        "batches": ["a"],
        "inserted": 3,
        "refused": [{"line": 5, "dedupe_key": "k0"}],
    }
    again = worker("batch", "add", "a.csv").stderr.splitlines()
    assert again[0] == "0 jobs inserted in the batch a."
    assert again[1].endswith("lines 2, 3, 4, 5.")


def test_a_batch_is_watched_retried_exported_and_cancelled(worker: Worker, engine: Engine) -> None:
    write("monday.csv", HEADER, *(ROW.format(n, n) for n in range(3)))
    worker("batch", "add", "monday.csv")
    complete_next(engine, digest="a" * 32)
    job = queue.claim(engine, worker="w", lease_s=30)
    assert job
    queue.fail(engine, job, JobError("no_object"), report={})
    shown = worker("batch", "status").stderr
    assert "monday  a.myshopify.com" in shown
    assert "2/3" in shown
    assert "1 waiting  1 completed  1 failed" in shown
    (seen,) = json.loads(worker("batch", "status", "monday", "--json").stdout)
    assert (seen["total"], seen["percent"]) == (3, 66)
    assert worker("batch", "retry", "monday").stderr == "1 failed job queued again.\n"
    assert json.loads(worker("batch", "cancel", "monday", "--json").stdout) == {"batch": "monday", "jobs": 2}
    watched = worker("batch", "watch", "monday", "--json")
    assert watched.exit_code == 1
    assert json.loads(watched.stdout)["cancelled"] == 2
    rows = list(csv.DictReader(io.StringIO(worker("batch", "export", "monday").stdout)))
    assert [(row["product_id"], row["status"]) for row in rows] == [
        ("0", "completed"),
        ("1", "cancelled"),
        ("2", "cancelled"),
    ]
    worker("batch", "export", "monday", "-o", "out.csv")
    assert list(csv.DictReader(Path("out.csv").read_text().splitlines())) == rows


def test_a_name_that_two_shops_use_needs_the_shop(worker: Worker) -> None:
    write("a.csv", HEADER, ROW.format(1, 1), "b.myshopify.com,1,https://a/b")
    worker("batch", "add", "a.csv")
    assert "Name one with --shop" in worker("batch", "cancel", "a").stderr
    assert worker("batch", "cancel", "a", "--shop", "b.myshopify.com").exit_code == 0
    assert "There is no batch b." in worker("batch", "watch", "b").stderr


def test_status_says_how_long_a_batch_and_its_jobs_still_take(
    worker: Worker, engine: Engine, sql: psycopg.Connection
) -> None:
    write("monday.csv", HEADER, *(ROW.format(n, n) for n in range(4)))
    worker("batch", "add", "monday.csv")
    assert " left" not in worker("batch", "status").stderr
    hosts.check_in(engine, HOST)
    sql.execute(
        "INSERT INTO worker.measured_seconds VALUES ('default', '', 'balanced', '{150, 150, 150}', 3, 150, now())"
    )
    assert queue.claim(engine, worker=HOST.name, lease_s=300)
    assert estimates.update(engine)
    assert "about 9 min left" in worker("batch", "status", "monday").stderr
    shown = worker("status").stderr
    assert "claimed, about 2 min left" in shown
    assert [f"starts in about {minutes} min" in shown for minutes in (2, 4, 7)] == [True] * 3
    sql.execute("UPDATE worker.measured_seconds SET seconds = '{20, 150, 900}'")
    shown = worker("status").stderr
    assert "claimed" in shown
    assert " left" not in shown, "that job may take anything"
    assert "starts in about 2 min" in shown
