"""Who may not act on the dashboard, by raw requests: each attack meets the same server, and none changes a row."""

import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.client import HTTPResponse
from time import monotonic
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import httpx
import psycopg
import pytest
from conftest import connected, new_database
from pydantic import SecretStr
from rows import insert, served
from sqlalchemy.engine import Engine
from structlog.testing import capture_logs

from worker import database
from worker.core import settings
from worker.core.settings import ConfigError
from worker.local.postgres import Postgres
from worker.ops.dashboard import access, app, forms, sessions, throttle

READ, ANNA, BERT = "a-token-that-only-reads", "a-token-of-anna-that-acts", "a-token-of-bert-that-acts"
ACT = {"dashboard_token": SecretStr(READ), "dashboard_act_token": SecretStr(f"anna:{ANNA},bert:{BERT}")}


@dataclass
class Answer:
    code: int
    headers: dict[str, list[str]]
    text: str

    @property
    def location(self) -> str:
        (found,) = self.headers["location"]
        return found


@dataclass
class Site:
    """A running dashboard with one waiting job, which everybody wants to cancel."""

    address: str
    engine: Engine
    sql: psycopg.Connection
    job: str
    cookies: dict[str, str] = field(default_factory=dict)

    @property
    def host(self) -> str:
        return urlsplit(self.address).netloc

    def send(self, request: bytes) -> Answer:
        """Send these bytes, and read one answer."""
        host, _, port = self.host.partition(":")
        with socket.create_connection((host, int(port)), timeout=30) as connection:
            connection.sendall(request)
            answer = HTTPResponse(connection, method=request.split(b" ")[0].decode())
            answer.begin()
            headers: dict[str, list[str]] = {}
            for name, value in answer.getheaders():
                headers.setdefault(name.lower(), []).append(value)
            return Answer(answer.status, headers, answer.read().decode())

    def ask(self, method: str, path: str, body: bytes = b"", **headers: str | None) -> Answer:
        """A request with the headers of a browser on our own page, other ones, or without those that are None."""
        all_headers = {
            "host": self.host,
            "origin": self.address,
            "sec-fetch-site": "same-origin",
            "content-type": "application/x-www-form-urlencoded",
            "content-length": str(len(body)),
            "connection": "close",
        } | {name.replace("_", "-"): value for name, value in headers.items()}
        lines = [f"{method} {path} HTTP/1.1", *(f"{k}: {v}" for k, v in all_headers.items() if v is not None)]
        return self.send("\r\n".join([*lines, "", ""]).encode() + body)

    def log_in(self, token: str) -> str:
        """The cookie header of a new session."""
        if token not in self.cookies:
            answer = self.ask("POST", "/login", urlencode({"token": token}).encode())
            assert answer.code == 303, answer
            self.cookies[token] = answer.headers["set-cookie"][0].partition(";")[0]
        return self.cookies[token]

    def csrf(self, cookie: str) -> str:
        return str(
            re.findall(r'name="csrf" value="([^"]+)"', self.ask("GET", "/hosts", cookie=cookie).text)[0]
        )

    def cancel(
        self, token: str | None = ANNA, fields: dict[str, Any] | None = None, **headers: str | None
    ) -> Answer:
        """Post what the button posts, as somebody who has logged in, but for the given fields and headers."""
        cookie = self.log_in(token) if token else None
        values = {"csrf": self.csrf(cookie) if cookie else "", "id": self.job, "next": "/", "confirmed": "1"}
        body = urlencode(values | (fields or {}), doseq=True).encode()
        return self.ask("POST", "/actions/cancel", body, **{"cookie": cookie} | headers)

    def state(self) -> str:
        found = self.sql.execute("SELECT status::text FROM jobs WHERE id = %s", [self.job]).fetchone()
        assert found
        return str(found[0])


@pytest.fixture(scope="module")
def running(postgres: Postgres) -> Iterator[Site]:
    with (
        new_database(postgres) as url,
        connected(url) as engine,
        psycopg.connect(url, autocommit=True) as sql,
        served(engine, **ACT) as address,
    ):
        yield Site(address, engine, sql, "")


@pytest.fixture
def site(running: Site) -> Iterator[Site]:
    running.cookies.clear()
    running.job = insert(running.sql, product_handle="teapot")
    with capture_logs() as logs:
        yield running
    assert [entry for entry in logs if entry["event"] == "dashboard_action"] == []
    assert running.state() == "pending"


def test_no_other_page_can_act(site: Site) -> None:
    ours = site.address
    with capture_logs() as logs:
        assert site.cancel(origin="http://evil.example").code == 403
    assert [
        (entry["event"], entry["actor"], entry["action"])
        for entry in logs
        if entry["event"] != "dashboard_login"
    ] == [("dashboard_action_refused", "anna", "cancel")]
    for origin in (None, "null", "", "http://evil.example", f"{ours}.evil.example", f"http://evil@{site.host}",
                   "http://127.0.0.1:1", "http://127.0.0.1", f"{ours}/path", f"file://{site.host}", site.host, "http://["):  # fmt: skip
        answer = site.cancel(origin=origin)
        assert (answer.code, "Not from this page" in answer.text) == (403, True), origin
    for where in ("cross-site", "same-site", "none", "same-origin, cross-site", ""):
        assert site.cancel(sec_fetch_site=where).code == 403, where
    assert site.cancel(host="evil.example").code == 403  # a name that leads here, as by DNS rebinding
    assert site.cancel(token=None, host="evil.example", origin="http://evil.example").code == 401
    for path in ("/login", "/logout"):
        assert site.ask("POST", path, b"token=" + ANNA.encode(), origin="http://evil.example").code == 403


def test_no_form_of_another_session_acts(site: Site) -> None:
    anna, bert, reader = (site.csrf(site.log_in(token)) for token in (ANNA, BERT, READ))
    assert len({anna, bert, reader}) == 3
    for wrong in ("", "x", anna[:-1], anna + "x", anna.upper(), bert, reader, "é", "\0"):
        answer = site.cancel(fields={"csrf": wrong})
        assert answer.code in ({403} if "\0" not in wrong else {400}), wrong
    assert site.cancel(fields={"csrf": [anna, anna]}).code == 400
    # A question may not be asked either: what it shows of the database is not for everybody.
    assert "Cancel this job?" not in site.cancel(fields={"csrf": bert, "confirmed": ""}).text


def test_who_only_reads_cannot_act_with_anything(site: Site) -> None:
    anna = site.csrf(site.log_in(ANNA))
    for fields in ({}, {"csrf": anna}):
        answer = site.cancel(token=READ, fields=fields)
        assert answer.code == 403
        assert "This session only reads" in answer.text
    page = site.ask("GET", f"/jobs/{site.job}", cookie=site.log_in(READ)).text
    assert "teapot" in page
    assert "/actions/" not in page
    for token in (READ, ANNA):
        bearer = f"Bearer {token}"
        assert "teapot" in site.ask("GET", "/", authorization=bearer).text
        for csrf in ("", anna):
            assert site.cancel(token=None, fields={"csrf": csrf}, authorization=bearer).code == 403
    # A wrong bearer beside a good cookie is no way in.
    assert site.cancel(authorization="Bearer wrong").code == 401
    assert site.cancel(token=None).code == 401
    name = site.log_in(ANNA).partition("=")[0]
    for cookie in (ANNA, anna, "", "x" * 5000, site.log_in(ANNA)[len(name) + 1 : -1]):
        assert site.cancel(token=None, fields={"csrf": anna}, cookie=f"{name}={cookie}").code == 401


def test_a_session_ends(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def at(seconds: float) -> None:
        monkeypatch.setattr(sessions, "monotonic", lambda: now + seconds)

    now = monotonic()
    at(0)
    cookie, reader = site.log_in(ANNA), site.log_in(READ)
    csrf = site.csrf(cookie)
    half = sessions.IDLE_S * 0.6
    at(half)
    assert site.ask("GET", "/", cookie=cookie).code == 200
    assert site.ask("GET", "/", cookie=reader, x_refresh="1").code == 200
    at(2 * half)
    assert site.ask("GET", "/", cookie=cookie, x_refresh="1").code == 200
    assert site.ask("GET", "/", cookie=reader, x_refresh="1").code == 200
    at(3 * half)  # the page of whoever acts has only refreshed itself since
    assert site.cancel(token=None, fields={"csrf": csrf}, cookie=cookie).code == 401
    assert site.ask("GET", "/", cookie=reader).code == 200
    at(0)
    assert site.ask("GET", "/", cookie=cookie).code == 401  # it stays ended
    site.cookies.clear()
    cookie = site.log_in(ANNA)
    at(sessions.LONGEST_S - 1)
    monkeypatch.setattr(sessions, "IDLE_S", 2 * sessions.LONGEST_S)
    assert site.ask("GET", "/", cookie=cookie).code == 200
    at(sessions.LONGEST_S + 1)
    assert site.ask("GET", "/", cookie=cookie).code == 401


def test_who_logs_out_or_in_again_has_no_old_session(site: Site) -> None:
    old = site.log_in(ANNA)
    answer = site.ask("POST", "/login", urlencode({"token": BERT}).encode(), cookie=old)
    new = answer.headers["set-cookie"][0].partition(";")[0]
    assert site.ask("GET", "/", cookie=old).code == 401
    csrf = site.csrf(new)
    assert site.ask("POST", "/logout", b"csrf=wrong", cookie=new).code == 303
    assert site.ask("GET", "/", cookie=new).code == 200
    answer = site.ask("POST", "/logout", urlencode({"csrf": csrf}).encode(), cookie=new)
    assert "Max-Age=0" in answer.headers["set-cookie"][0]
    assert site.cancel(token=None, fields={"csrf": csrf}, cookie=new).code == 401


def test_a_new_token_ends_the_sessions_of_the_old_one(site: Site) -> None:
    cookie = site.log_in(ANNA)
    csrf = site.csrf(cookie)
    with served(site.engine, dashboard_act_token=SecretStr("another-token-of-anna")) as address:
        later = Site(address, site.engine, site.sql, site.job)
        assert later.cancel(token=None, fields={"csrf": csrf}, cookie=cookie).code == 401
        assert later.ask("POST", "/login", urlencode({"token": ANNA}).encode()).code == 401
        # Without a token that reads, only those who act get in.
        assert later.ask("GET", "/").code == 401
        assert "teapot" in later.ask("GET", "/", cookie=later.log_in("another-token-of-anna")).text


def test_sessions_are_few_and_say_nothing_of_a_token(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = site.ask("GET", f"/?token={ANNA}&status=failed")
    assert answer.location == "/?status=failed"
    cookie = answer.headers["set-cookie"][0]
    for flag in ("httponly", "samesite=lax", "path=/"):
        assert flag in cookie.lower()
    assert "secure" not in cookie.lower()
    assert (
        "secure"
        in site.ask("GET", f"/?token={ANNA}", x_forwarded_proto="https").headers["set-cookie"][0].lower()
    )
    with capture_logs() as logs:
        site.ask("GET", f"/?token={ANNA}", x_forwarded_for="203.0.113.7")  # by a proxy on this host
        site.ask("GET", "/?token=wrong", x_forwarded_for="x\x1b[31m")
    assert [entry["client"] for entry in logs] == ["203.0.113.7", "unknown"]
    page = site.ask("GET", "/", cookie=cookie.partition(";")[0]).text
    for secret in (ANNA, BERT, READ, cookie.partition(";")[0].partition("=")[2]):
        assert secret not in page
    monkeypatch.setattr(sessions, "MOST", 3)
    acts, reads = site.log_in(BERT), site.log_in(READ)
    for _ in range(3):
        site.cookies.clear()
        site.log_in(READ)
    assert [site.ask("GET", "/", cookie=each).code for each in (acts, reads)] == [200, 401]


def test_wrong_tokens_come_slowly(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def at(seconds: float) -> None:
        monkeypatch.setattr(throttle, "monotonic", lambda: seconds)

    def bearer(client: str, token: str = "wrong") -> int:
        return there.ask("GET", "/hosts", authorization=f"Bearer {token}", x_forwarded_for=client).code

    at(0)
    with served(site.engine, **ACT) as address, capture_logs() as logs:
        there = Site(address, site.engine, site.sql, site.job)
        cookie = there.log_in(ANNA)
        codes = [
            *(there.ask("POST", "/login", b"token=wrong").code for _ in range(4)),
            *(there.ask("GET", "/?token=wrong").code for _ in range(3)),
            *(bearer("127.0.0.1") for _ in range(4)),
        ]
        assert codes == [401] * throttle.CLIENT.burst + [429]
        # A right token must wait, too, or a guess would not. It waits a few seconds, however many others come first.
        body = urlencode({"token": BERT, "next": "/hosts"}).encode()
        for seconds, wait in ((0, "3"), (0.9, "3"), (2.5, "1")):
            at(seconds)
            answer = there.ask("POST", "/login", body)
            assert (answer.code, answer.headers["retry-after"]) == (429, [wait])
            assert f"Too many wrong tokens were given. Try again in {wait} second" in answer.text
            assert 'name="next" value="/hosts"' in answer.text
            assert "set-cookie" not in answer.headers
            assert there.ask("GET", f"/?token={BERT}").code == bearer("127.0.0.1", READ) == 429
        # Sessions go on, and other clients get in.
        assert there.ask("GET", "/", cookie=cookie).code == 200
        assert bearer("203.0.113.7", READ) == 200
        assert len([entry for entry in logs if entry["event"] == "dashboard_login_refused"]) == 10
        at(3)
        assert there.ask("POST", "/login", body).code == 303  # a right one uses up no turn
        assert [bearer("127.0.0.1"), bearer("127.0.0.1")] == [401, 429]
        # The /64 of an IPv6 address is one client, and its neighbour another.
        assert [bearer(f"2001:db8::{n:x}") for n in range(11)] == [401] * 10 + [429]
        assert bearer("2001:db8:0:1::") == 401
        assert [bearer(f"::ffff:10.0.0.{n}") for n in range(11)] == [401] * 11
        # All clients together have a limit, which passes as soon.
        codes = [bearer(f"198.51.100.{n}") for n in range(100)]
        assert codes == sorted(codes)
        assert 60 < codes.count(401) < 80
        assert bearer("192.0.2.1", READ) == 429
        at(3 + throttle.ALL.every_s)
        assert bearer("192.0.2.1", READ) == 200


def test_only_a_post_acts(site: Site) -> None:
    cookie = site.log_in(ANNA)
    query = urlencode({"csrf": site.csrf(cookie), "id": site.job, "confirmed": "1"})
    for method in ("GET", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH"):
        answer = site.ask(method, f"/actions/cancel?{query}", cookie=cookie, x_http_method_override="POST")
        assert answer.code == 405, method
    # What counts is in the form, not in the address.
    assert site.ask("POST", f"/actions/cancel?{query}", cookie=cookie).code == 403
    for name in ("nothing", "run", "__class__", "cancel%00", "..%2Flogin", "cancel/"):
        body = urlencode({"csrf": site.csrf(cookie), "id": site.job, "confirmed": "1"}).encode()
        assert site.ask("POST", f"/actions/{name}", body, cookie=cookie).code in {303, 307, 404}, name


def test_no_form_is_too_large_or_too_slow_for_us(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    cookie = site.log_in(ANNA)
    csrf = site.csrf(cookie)
    assert site.cancel(fields={"reason": "x" * forms.LARGEST}).code == 413
    assert site.cancel(fields={"id": [site.job] * (forms.MOST_FIELDS + 1)}).code in {400, 413}
    assert site.cancel(fields={f"f{n}": "" for n in range(forms.MOST_FIELDS)}).code == 400
    head = f"POST /actions/cancel HTTP/1.1\r\nhost: {site.host}\r\norigin: {site.address}\r\ncookie: {cookie}\r\n"
    head += "content-type: application/x-www-form-urlencoded\r\n"
    chunk = b"8000\r\n" + b"a" * 0x8000 + b"\r\n"
    assert (
        site.send(f"{head}transfer-encoding: chunked\r\n\r\n".encode() + chunk * 3 + b"0\r\n\r\n").code == 413
    )
    monkeypatch.setattr(app, "FORM_S", 0.2)
    assert site.send(f"{head}content-length: 100\r\n\r\ncsrf={csrf}".encode()).code == 408
    for kind in (None, "text/plain", "application/json", "multipart/form-data; boundary=x", "x"):
        assert site.cancel(content_type=kind).code == 415, kind
    for body in (b"\xff\xfe=1", b"csrf=%ff", b"id=%00"):
        assert site.ask("POST", "/actions/cancel", body, cookie=cookie).code in {400, 403}, body
    for wrong in ("x", "1" * 40, "'; DROP TABLE jobs", "é"):
        assert site.cancel(fields={"id": wrong}).code == 400, wrong
    # Two bodies in one: h11 refuses what a proxy might read otherwise.
    both = f"{head}content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n".encode()
    assert site.send(both).code in {400, 403}


@pytest.mark.parametrize(
    "target",
    ["//evil.example", "///evil.example", "https://evil.example", "/\\evil.example", "\\\\evil.example", "javascript:alert(1)",
     "/\r\nset-cookie: a=b", "/\nx: y", "/\t/evil.example", " //evil.example", "/ x", "evil", "", "/é", "/" + "a" * 9000,
     "data:text/html,x", "@evil.example", "/\0"],
)  # fmt: skip
def test_no_form_leads_elsewhere(site: Site, target: str) -> None:
    body = urlencode({"token": ANNA, "next": target}).encode()
    answer = site.ask("POST", "/login", body)
    if answer.code == 303:
        assert answer.location == "/"
        assert set(answer.headers) >= {"content-security-policy"}
        assert len(answer.headers["set-cookie"]) == 1
    else:
        assert answer.code == 400
    page = site.ask("GET", f"/login?next={quote(target)}").text
    assert re.findall(r'name="next" value="([^"]*)"', page) == ["/"]
    assert access.own_path(target) == "/"
    for path in (f"/{quote(target)}?token={ANNA}", f"/x?token={ANNA}&a={quote(target)}"):
        answer = site.ask("GET", path)
        location = urlsplit(answer.location)
        assert not location.netloc
        assert not location.scheme
        assert answer.location.startswith("/")
        assert len(answer.headers["set-cookie"]) == 1


def test_a_page_of_ours_is_where_a_form_leads() -> None:
    for path in ("/", "/jobs/1?a=b&c=d", "/?shop=a%20b", "/batches/a/..%2F%22"):
        assert access.own_path(path) == path


def test_without_tokens_nobody_acts(site: Site) -> None:
    with served(site.engine) as address:
        alone = Site(address, site.engine, site.sql, site.job)
        assert "This dashboard only reads" in alone.ask("GET", "/login").text
        page = alone.ask("GET", f"/jobs/{site.job}").text
        assert "teapot" in page
        assert "<form" not in page.replace('<form action="/" role="search"', "")
        for token in ("", READ, ANNA):
            assert alone.ask("POST", "/login", urlencode({"token": token}).encode()).code == 401
        assert alone.cancel(token=None).code == 403
        assert alone.cancel(token=None, origin=None).code == 403


def test_a_role_that_may_only_read_makes_actions_fail_with_a_sentence(site: Site) -> None:
    site.sql.execute("CREATE ROLE dashboard_reader")
    try:
        site.sql.execute("GRANT USAGE ON SCHEMA public, worker TO dashboard_reader")
        site.sql.execute("GRANT SELECT ON ALL TABLES IN SCHEMA public, worker TO dashboard_reader")
        site.sql.execute("GRANT EXECUTE ON FUNCTION worker.served_lines, worker.is_live TO dashboard_reader")
        for options in ("-c role=worker -c default_transaction_read_only=on", "-c role=dashboard_reader"):
            target = site.engine.url.update_query_dict({"options": options})
            engine = database.connect(target)
            with (
                served(engine, **ACT) as address,
                httpx.Client(base_url=address, headers={"origin": address}) as anna,
            ):
                anna.get(f"/?token={ANNA}")
                csrf = re.findall(r'name="csrf" value="([^"]+)"', anna.get("/hosts").text)[0]
                for name, fields in (
                    ("cancel", {"id": site.job}), ("reject", {"id": site.job}), ("pause", {"name": "a"}), ("set-plan", {"shop": "a"}),
                ):  # fmt: skip
                    form = {"csrf": csrf, "confirmed": "1", "next": "/hosts"} | fields
                    with capture_logs() as logs:
                        assert anna.post(f"/actions/{name}", data=form).status_code == 303, name
                    assert [entry["done"] for entry in logs] == [False], name
                    told = anna.get("/hosts").text
                    assert "Nothing was changed. The database role of this dashboard may only read" in told, (
                        name
                    )
            engine.dispose()
    finally:
        site.sql.execute("DROP OWNED BY dashboard_reader")
        site.sql.execute("DROP ROLE dashboard_reader")


@pytest.mark.parametrize(
    ("value", "people"),
    [
        (ANNA, [("operator", ANNA)]),
        (f"anna:{ANNA},bert:{BERT}", [("anna", ANNA), ("bert", BERT)]),
        (f"anna@shop.example:{ANNA},anna@shop.example:{BERT}", [("anna@shop.example", ANNA), ("anna@shop.example", BERT)]),
        ("short", None), (f"anna:{ANNA},", None), (f"an na:{ANNA}", None), (f"anna:{ANNA},bert:short", None), (":" + ANNA, None),
        (READ, None),
    ],
)  # fmt: skip
def test_a_token_may_name_whose_it_is(
    value: str, people: list[tuple[str, str]] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORKER_DASHBOARD_TOKEN", READ)
    monkeypatch.setenv("WORKER_DASHBOARD_ACT_TOKEN", value)
    if people is None:
        with pytest.raises(ConfigError, match="WORKER_DASHBOARD_ACT_TOKEN") as refused:
            settings.load()
        assert value not in str(refused.value)
    else:
        assert settings.load().dashboard_actors() == people
        assert settings.load().redact(f"it is {people[-1][1]}!") == "it is …!"
