"""What people change on the pages, and who may not: by raw requests to one server."""

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import psycopg
import pytest
from pydantic import SecretStr
from rows import insert, served
from sqlalchemy.engine import Engine
from structlog.testing import capture_logs

READ, ACT, OTHER = "a-token-that-only-reads", "a-token-of-anna-that-acts", "a-token-of-bert-that-acts"


class Person:
    """A browser in which somebody has logged in."""

    def __init__(self, http: httpx.Client, token: str) -> None:
        self.http = http
        assert http.post("/login", data={"token": token}).status_code == 303

    @property
    def csrf(self) -> str:
        return str(re.findall(r'name="csrf" value="([^"]+)"', self.http.get("/").text)[0])

    def act(self, name: str, **fields: Any) -> httpx.Response:
        """Press a button and answer the question with yes."""
        return self.http.post(f"/actions/{name}", data={"csrf": self.csrf, "confirmed": "1", **fields})

    def told(self) -> str:
        """What the next page says about it."""
        found = re.findall(r'<p class="notice[^>]*>([^<]*)', self.http.get("/").text)
        return str(found[0]) if found else ""


@pytest.fixture
def address(engine: Engine) -> Iterator[str]:
    tokens = {
        "dashboard_token": SecretStr(READ),
        "dashboard_act_token": SecretStr(f"anna:{ACT},bert:{OTHER}"),
    }
    with served(engine, **tokens) as found:
        yield found


@pytest.fixture
def log_in(address: str) -> Iterator[Callable[[str], Person]]:
    with ExitStack() as ending:
        headers = {"origin": address, "sec-fetch-site": "same-origin"}
        yield lambda token: Person(
            ending.enter_context(httpx.Client(base_url=address, timeout=60, headers=headers)), token
        )


def test_a_job_is_cancelled_after_a_question_and_the_log_says_by_whom(
    log_in: Callable[[str], Person], sql: psycopg.Connection
) -> None:
    job = insert(sql)
    anna = log_in(ACT)
    fields = {"csrf": anna.csrf, "id": job, "next": f"/jobs/{job}"}
    question = anna.http.post("/actions/cancel", data=fields)
    assert "Cancel this job?" in question.text
    assert sql.execute("SELECT status FROM jobs").fetchone() == ("pending",)
    with capture_logs() as logs:
        answer = anna.http.post("/actions/cancel", data={**fields, "confirmed": "1"})
    assert (answer.status_code, answer.headers["location"]) == (303, f"/jobs/{job}")
    assert sql.execute("SELECT status FROM jobs").fetchone() == ("cancelled",)
    (line,) = [entry for entry in logs if entry["event"] == "dashboard_action"]
    assert line["actor"] == "anna"
    assert line["client"] == "127.0.0.1"
    assert line["target"] == {"id": [job]}
    assert "cancelled" in anna.told()
    assert anna.told() == ""
