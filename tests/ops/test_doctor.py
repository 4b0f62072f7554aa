"""`worker doctor` on machines that are set up wrong in the ways in which first deployments are."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import forward_proxy
import psycopg
import pytest
import receiver
from bucket_server import BUCKET, KEY, Bucket, BucketServer, serve

from worker import database as connections
from worker.compute import gpus
from worker.compute.gpus import Gpu
from worker.core.finding import Finding, Level, ok
from worker.core.settings import ConfigError, Settings
from worker.daemon import main as daemon
from worker.local.postgres import Postgres
from worker.local.server import DevServer
from worker.ops import doctor
from worker.ops.doctor import Check, host, services
from worker.storage import Store, open_store
from worker.storage.supabase import SupabaseStore

PASSWORD = "planted-Passw0rd"
SECRET = "cGxhbnRlZC1zZWNyZXQtb2YtMzItYnl0ZXMtaGVyZS4u"


@dataclass
class Place:
    """Where all is as it should be, until a case spoils it."""

    set: Callable[[str, str], None]
    postgres: Postgres
    url: str
    sql: psycopg.Connection
    bucket: BucketServer
    weights: Path
    tmp: Path

    def log_in_as(self, role: str) -> None:
        server = f"@127.0.0.1:{self.postgres.port}/{self.url.rpartition('/')[2]}"
        self.set("DATABASE_URL", f"postgresql://{role}:{PASSWORD}{server}")


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[BucketServer]:
    opened: list[Store] = []

    def open_and_keep(settings: Settings) -> Store:
        opened.append(open_store(settings))
        return opened[-1]

    monkeypatch.setattr(services, "open_store", open_and_keep)
    with serve() as server:
        yield server
    for store in opened:
        if isinstance(store, SupabaseStore):
            store.storage.session.close()


@pytest.fixture
def place(
    monkeypatch: pytest.MonkeyPatch,
    postgres: Postgres,
    database_url: str,
    sql: psycopg.Connection,
    bucket: BucketServer,
    site: DevServer,
    tmp_path: Path,
    u2netp: Path,
) -> Place:
    for name in [name for name in os.environ if name.startswith(("WORKER_", "SUPABASE_"))]:
        monkeypatch.delenv(name)
    right = {
        "DATABASE_URL": database_url,
        "SUPABASE_URL": bucket.url,
        "SUPABASE_SERVICE_ROLE_KEY": KEY,
        "BACKEND_URL": site.url,
        "WEBHOOK_SECRET": f"whsec_{SECRET}",
        "WORKER_ENGINE": "relief",
        "WORKER_BACKGROUND_MODEL": "u2netp",
        "WORKER_WEIGHTS_DIR": str(u2netp),
        "WORKER_TEMP_DIR": str(tmp_path),
        "CUDA_VISIBLE_DEVICES": "",
    }
    for name, value in right.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("worker.core.landlock.abi", lambda: 7)  # whatever this kernel has
    return Place(monkeypatch.setenv, postgres, database_url, sql, bucket, u2netp, tmp_path)


def worse(found: list[Finding]) -> list[Finding]:
    return [finding for finding in found if finding.level > Level.SKIPPED]


def test_where_all_is_as_it_should_be_all_is_good(place: Place) -> None:
    found = list(doctor.examine())
    assert worse(found) == []
    assert {finding.name for finding in found} == {"settings", *(check.name for check in doctor.CHECKS)}
    assert doctor.exit_status(found) == 0
    assert not place.bucket.bucket.objects, "the probe is removed"


def test_the_role_that_the_migrations_make_may_do_all_that_is_needed(place: Place) -> None:
    place.sql.execute(f"ALTER ROLE worker LOGIN PASSWORD '{PASSWORD}'")
    place.log_in_as("worker")
    assert worse(list(doctor.examine())) == []


def wrong_password(place: Place) -> None:
    # This server trusts nobody from loopback without a password.
    place.set("DATABASE_URL", place.url.replace(place.postgres.password, PASSWORD))


def no_such_database(place: Place) -> None:
    place.set("DATABASE_URL", place.postgres.url("nowhere"))


def nobody_listens(place: Place) -> None:
    place.set("DATABASE_URL", f"postgresql://worker:{PASSWORD}@127.0.0.1:9/postgres")


def no_migrations(place: Place) -> None:
    place.set("DATABASE_URL", place.postgres.url())


def schema_of_before_the_release(place: Place) -> None:
    place.sql.execute("UPDATE worker.alembic_version SET version_num = '0001'")


def role_without_policy(place: Place) -> None:
    place.sql.execute(f"""
        DROP ROLE IF EXISTS other;
        CREATE ROLE other LOGIN PASSWORD '{PASSWORD}';
        GRANT USAGE ON SCHEMA worker TO other;
        GRANT ALL ON ALL TABLES IN SCHEMA public, worker TO other;
    """)
    place.log_in_as("other")


def role_without_rights(place: Place) -> None:
    place.sql.execute(
        f"DROP ROLE IF EXISTS poor; CREATE ROLE poor LOGIN BYPASSRLS PASSWORD '{PASSWORD}';"
        "GRANT USAGE ON SCHEMA worker TO poor; GRANT SELECT ON public.jobs TO poor"
    )
    place.log_in_as("poor")


def clock_that_is_wrong(place: Place) -> None:
    """pg_catalog comes first, unless a database names it later."""
    name = place.url.rpartition("/")[2]
    place.sql.execute(
        "CREATE FUNCTION public.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS"
        " $$ SELECT pg_catalog.clock_timestamp() + interval '10 min' $$"
    )
    place.sql.execute(f"ALTER DATABASE {name} SET search_path = public, pg_catalog")


def missing_weights(place: Place) -> None:
    place.set("WORKER_WEIGHTS_DIR", str(place.tmp))


def truncated_weights(place: Place) -> None:
    whole = place.weights / "models/u2netp/u2netp.onnx"
    copy = place.tmp / "models/u2netp/u2netp.onnx"
    copy.parent.mkdir(parents=True)
    copy.write_bytes(whole.read_bytes()[:-1000])
    place.set("WORKER_WEIGHTS_DIR", str(place.tmp))


def missing_bucket(place: Place) -> None:
    place.set("SUPABASE_BUCKET_NAME", "models")


def private_bucket(place: Place) -> None:
    place.bucket.buckets[BUCKET] = Bucket(public=False)


def wrong_key(place: Place) -> None:
    place.set("SUPABASE_SERVICE_ROLE_KEY", "sb_secret_planted")


def no_storage(place: Place) -> None:
    place.set("SUPABASE_URL", "")


def temp_folder_that_cannot_be(place: Place) -> None:
    place.set("WORKER_TEMP_DIR", "/dev/null/tmp")


def full_disk(place: Place) -> None:
    place.set("WORKER_MIN_FREE_MB", "1000000000")


def malformed_backend(place: Place) -> None:
    place.set("BACKEND_URL", "backend.example.com")


def backend_that_is_down(place: Place) -> None:
    place.set("BACKEND_URL", "http://127.0.0.1:9")


def malformed_secret(place: Place) -> None:
    place.set("WEBHOOK_SECRET", f"{PASSWORD}!")


def short_secret(place: Place) -> None:
    place.set("WEBHOOK_SECRET", "c2hvcnQ=")


def transaction_pooler(place: Place) -> None:
    """Its port stands in the environment of the case: see the test."""
    port = os.environ["POOLER"]
    place.set("DATABASE_URL", place.url.replace(f":{place.postgres.port}/", f":{port}/"))


def malformed_setting(place: Place) -> None:
    place.set("WORKER_LEASE_S", "soon")


def photos_from_here(place: Place) -> None:
    place.set("WORKER_PHOTO_LOOPBACK", "true")


# What is spoilt, the check that finds it, how bad it is, and words of the finding and of its fix.
CASES = [
    (
        wrong_password,
        "database",
        Level.FAIL,
        "password authentication failed",
        "the password in DATABASE_URL",
    ),
    (no_such_database, "database", Level.FAIL, "does not exist", "name in DATABASE_URL"),
    (nobody_listens, "database", Level.UNREACHABLE, "onnection refused", "127.0.0.1:9 can be reached"),
    (no_migrations, "schema", Level.FAIL, "no jobs table", "worker migrate"),
    (schema_of_before_the_release, "schema", Level.FAIL, "before the first release", "worker migrate"),
    (
        role_without_policy,
        "rights",
        Level.FAIL,
        "other sees no row of public.jobs",
        "CREATE POLICY other_sees_all",
    ),
    (
        role_without_rights,
        "rights",
        Level.FAIL,
        "may not INSERT, UPDATE, DELETE on public.jobs",
        "GRANT INSERT",
    ),
    (clock_that_is_wrong, "clock", Level.FAIL, "600", "timedatectl"),
    (missing_weights, "weights", Level.FAIL, "are missing", "worker weights fetch u2netp"),
    (truncated_weights, "weights", Level.FAIL, "incomplete or wrong", "worker weights fetch u2netp"),
    (missing_bucket, "store", Level.FAIL, 'no bucket "models"', "New bucket"),
    (private_bucket, "store", Level.FAIL, "is private", "WORKER_SIGNED_URL_S"),
    (wrong_key, "store", Level.FAIL, "refuses the key", "service_role key"),
    (no_storage, "store", Level.FAIL, "No place for the models", ""),
    (temp_folder_that_cannot_be, "temp folder", Level.FAIL, "/dev/null/tmp", "Set WORKER_TEMP_DIR"),
    (full_disk, "disk", Level.FAIL, "no job is claimed", "WORKER_MIN_FREE_MB"),
    (malformed_backend, "webhook", Level.FAIL, "BACKEND_URL must be a URL", ""),
    (backend_that_is_down, "webhook", Level.UNREACHABLE, "does not answer", "that the backend runs"),
    (malformed_secret, "webhook secret", Level.FAIL, "is not base64", "openssl rand"),
    (short_secret, "webhook secret", Level.ADVICE, "shorter than 24 bytes", "openssl rand"),
    (transaction_pooler, "listen", Level.ADVICE, "do not arrive", "WORKER_LISTEN_DATABASE_URL"),
    (malformed_setting, "settings", Level.FAIL, "WORKER_LEASE_S: ", "Correct it"),
    (photos_from_here, "photos", Level.ADVICE, "this machine itself", "Unset WORKER_PHOTO_LOOPBACK"),
]
EXIT = {Level.FAIL: 78, Level.UNREACHABLE: 75, Level.ADVICE: 0}


@pytest.mark.parametrize(
    ("spoil", "check", "level", "text", "fix"), CASES, ids=[case[0].__name__ for case in CASES]
)
def test_what_is_set_up_wrong_is_named_with_its_fix(
    spoil: Callable[[Place], None],
    check: str,
    level: Level,
    text: str,
    fix: str,
    place: Place,
    request: pytest.FixtureRequest,
) -> None:
    if spoil is transaction_pooler:
        place.set("POOLER", str(request.getfixturevalue("pooler")))
    spoil(place)
    found = list(doctor.examine())
    named = worse(found)
    assert {finding.name for finding in named} == {check}, named
    finding = named[0]
    assert finding.level == level, finding
    assert text in finding.text, finding
    assert fix in finding.fix, finding
    assert doctor.exit_status(found) == EXIT[level]
    said = str(found)
    for secret in (PASSWORD, SECRET, KEY, place.postgres.password):
        assert secret not in said


GPUS = "0, NVIDIA A10G, 550.90.07, 23028 MiB\n1, NVIDIA A10G, 550.90.07, 23028 MiB"


@pytest.mark.parametrize(
    ("answer", "environment", "levels", "says"),
    [
        (f"echo '{GPUS}'", {}, [Level.OK, Level.OK], "NVIDIA A10G, 550.90.07"),
        (
            f"echo '{GPUS}'",
            {"CUDA_VISIBLE_DEVICES": "1,7"},
            [Level.FAIL, Level.OK, Level.OK],
            "names GPU 7",
        ),
        (
            "echo Failed to initialize NVML: Driver/library version mismatch; exit 18",
            {},
            [Level.ADVICE],
            "mismatch",
        ),
        ("exit 6", {"WORKER_DEVICE": "cuda"}, [Level.FAIL], "lists none"),
        ("exit 6", {"WORKER_DEVICE": "cpu"}, [Level.OK], "not used"),
    ],
)
def test_what_the_driver_says_is_held_against_the_settings(
    place: Place,
    monkeypatch: pytest.MonkeyPatch,
    answer: str,
    environment: dict[str, str],
    levels: list[Level],
    says: str,
) -> None:
    """By a program in the place of nvidia-smi."""
    program = place.tmp / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{answer}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{place.tmp}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    for name, value in {"WORKER_ENGINE": "triposr", **environment}.items():
        place.set(name, value)
    found = [*doctor.examine([check for check in doctor.CHECKS if check.name == "gpu"])][1:]
    assert [finding.level for finding in found] == levels
    assert says in found[0].text


@pytest.mark.parametrize(
    ("abi", "set_to", "level", "says"),
    [
        (7, True, Level.OK, "ABI 7: children keep their own files and the ports of photos, decoders nothing"),
        (4, True, Level.OK, "ABI 4: children keep their own files and the ports of photos"),
        (3, True, Level.ADVICE, "ABI 3: children keep their own files, and all ports"),
        (0, True, Level.ADVICE, "no Landlock here: a photo that takes a child over can open all that"),
        (7, False, Level.ADVICE, "off: a photo that takes a child over can open all that"),
    ],
)
def test_what_the_kernel_takes_from_children_is_said(
    monkeypatch: pytest.MonkeyPatch, abi: int, set_to: bool, level: Level, says: str
) -> None:
    monkeypatch.setattr("worker.core.landlock.abi", lambda: abi)
    (found,) = host.sandbox(Settings().model_copy(update={"sandbox": set_to}))
    assert (found.level, bool(found.fix)) == (level, level is Level.ADVICE)
    assert says in found.text


def test_lanes_are_shared_out_as_the_daemon_does_it(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA finds a GPU that torch, being for CPUs or for a newer driver, does not."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setattr(
        gpus, "find", lambda _wanted: gpus.Found([Gpu("0", "NVIDIA L4", 24, "8.9", "a")], ["odd"])
    )
    place.set("WORKER_ENGINE", "triposr")
    place.set("WORKER_LANES", "64")
    found = list(doctor.examine([check for check in doctor.CHECKS if check.name == "lanes"]))[1:]
    assert [finding.level for finding in found] == [Level.ADVICE, Level.OK, Level.ADVICE]
    assert [finding.text for finding in found[:2]] == ["odd", "0 (NVIDIA L4): 64, by WORKER_LANES"]
    assert found[2].text.startswith("224 GB may be needed")
    (torch,) = worse(list(doctor.examine([check for check in doctor.CHECKS if check.name == "torch"])))
    assert torch.level is Level.FAIL
    assert "sees no GPU" in torch.text


def crashes(_: Settings) -> NoReturn:
    raise RuntimeError(f"a crash that tells {SECRET}")


@pytest.mark.usefixtures("place")
def test_a_check_that_crashes_or_hangs_hides_no_other() -> None:
    over = threading.Event()

    def hangs(_: Settings) -> Iterator[Finding]:
        yield ok("hangs", "half of it")
        over.wait(60)

    def fine(_: Settings) -> list[Finding]:
        return [ok("last", "fine")]

    checks = [
        Check("crashes", crashes),
        Check("hangs", hangs, 0.2),
        Check("next", fine, after="hangs"),
        Check("last", fine),
    ]
    found = [(finding.name, finding.level, finding.text) for finding in doctor.examine(checks)]
    over.set()
    assert found[1:] == [
        ("crashes", Level.CHECK_FAILED, "the check itself failed: RuntimeError: a crash that tells …"),
        ("hangs", Level.OK, "half of it"),
        ("hangs", Level.UNREACHABLE, "no answer within 0.2 s"),
        ("next", Level.SKIPPED, "skipped: see hangs"),
        ("last", Level.OK, "fine"),
    ]
    assert doctor.exit_status([Finding(Level.CHECK_FAILED, "a", ""), Finding(Level.ADVICE, "b", "")]) == 1


def test_the_command_prints_lines_for_people_or_one_document(place: Place) -> None:
    malformed_secret(place)
    command = [sys.executable, "-m", "worker", "doctor"]
    people = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (people.returncode, people.stdout) == (78, "")
    assert "✗ webhook secret" in people.stderr
    assert "→ Make one with: openssl rand -base64 32" in people.stderr
    program = subprocess.run([*command, "--json"], capture_output=True, text=True, check=False)
    document = json.loads(program.stdout)
    assert program.returncode == document["exit_status"] == 78
    bad = [check for check in document["checks"] if check["level"] == "fail"]
    assert [check["check"] for check in bad] == ["webhook secret"]
    assert PASSWORD not in people.stderr + program.stdout


def test_torch_is_looked_at_where_triposr_needs_it(place: Place) -> None:
    place.set("WORKER_ENGINE", "triposr")
    place.set("WORKER_WEIGHTS_DIR", str(place.tmp))
    place.set("WORKER_DEVICE", "cuda")
    checks = [check for check in doctor.CHECKS if check.name in {"torch", "weights"}]
    found = worse(list(doctor.examine(checks)))
    assert [(finding.name, finding.level) for finding in found] == [
        ("torch", Level.FAIL),
        ("weights", Level.FAIL),
        ("weights", Level.FAIL),
    ]
    assert "sees no GPU" in found[0].text


@pytest.mark.usefixtures("place")
def test_an_older_schema(monkeypatch: pytest.MonkeyPatch) -> None:
    """The database is one that this version migrated; the worker is a later one."""
    found = connections.SCHEMA
    monkeypatch.setattr("worker.database.connection.SCHEMA", "9999")
    named = worse(list(doctor.examine()))
    assert [finding.name for finding in named] == ["schema"]
    assert f"({found}) is older" in named[0].text
    assert "worker migrate" in named[0].fix


@pytest.mark.parametrize(
    ("status", "level", "says"),
    [
        (204, Level.OK, "answers (204 to HEAD)"),
        (401, Level.ADVICE, "set WORKER_WEBHOOK_BEARER_TOKEN"),
        (403, Level.ADVICE, "set WORKER_WEBHOOK_BEARER_TOKEN"),
        (404, Level.ADVICE, "correct BACKEND_URL"),
        (302, Level.FAIL, "redirect"),
    ],
)
def test_the_backend_s_answer_says_if_webhooks_would_arrive(
    status: int, level: Level, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with receiver.serve() as backend:
        # The whole URL, which is used as it is.
        monkeypatch.setenv("BACKEND_URL", f"{backend.url}/api/models/webhook/update")
        monkeypatch.setenv("WEBHOOK_SECRET", SECRET)
        monkeypatch.setenv("WORKER_WEBHOOK_BEARER_TOKEN", "planted-token")
        backend.answers = [(status, {"X Cache": "no"})]
        (found,) = services.webhook(Settings())
    assert found.level is level
    assert says in str(found)
    assert "planted" not in str(found)
    assert found.text.count("/api/models/webhook/update") == 1
    # As a webhook, so that the backend's authentication treats it as one.
    (asked,) = backend.seen
    assert (asked.path, asked.body) == ("/api/models/webhook/update", b"")
    assert asked.headers["authorization"] == "Bearer planted-token"
    assert asked.headers["webhook-signature"].startswith("v1,")


def test_the_doctor_names_the_proxy_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BACKEND_URL", "http://backend.test")
    with receiver.serve() as backend, forward_proxy.serve(backend.server_port, "us", "planted") as proxy:
        address = f"127.0.0.1:{proxy.server_port}"
        monkeypatch.setenv("HTTP_PROXY", f"http://us:planted@{address}")
        (found,) = services.webhook(Settings())
        assert found.level is Level.OK
        assert f"through the proxy http://{address}" in found.text
        monkeypatch.setenv("HTTP_PROXY", f"http://us:planted-wrong@{address}")
        (refused,) = services.webhook(Settings())
    assert refused.level is Level.FAIL
    assert "the proxy refuses us" in refused.text
    assert "planted" not in f"{found} {refused}"


@pytest.mark.usefixtures("place")
def test_authorities_that_cannot_be_read_are_named_before_the_first_job(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere/authorities.pem")
    checks = [check for check in doctor.CHECKS if check.name in {"store", "photos", "webhook"}]
    found = list(doctor.examine(checks))
    assert {finding.name for finding in worse(found)} == {"store", "photos", "webhook"}
    for finding in worse(found):
        assert finding.text == "SSL_CERT_FILE cannot be used: No such file or directory."
    monkeypatch.setenv("WORKER_STORAGE_DIR", "/nowhere")
    with pytest.raises(ConfigError, match="SSL_CERT_FILE"):
        daemon.build(Settings())
