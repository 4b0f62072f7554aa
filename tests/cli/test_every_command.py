"""Every command in every state that a person meets: one line and an exit status, never a traceback.

Most run in this process, by the same function that the console script calls; what depends on the process itself, such as
signals and closed streams, runs as one.
"""

import errno
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import pytest
import uvicorn
from conftest import new_database, until
from typer.main import get_command

from worker.cli.app import app, execute
from worker.cli.output import console
from worker.core import settings
from worker.local.postgres import Postgres
from worker.storage import supabase

JOB = "7e57ed00-0000-4000-8000-000000000000"
PASSWORD = "planted-Passw0rd"
DATABASE, STORE, WEIGHTS = "database", "store", "weights"


@dataclass(frozen=True)
class Command:
    """How to call a command so that it ends with `status` where all is well, and what it needs."""

    arguments: str
    needs: frozenset[str] = frozenset()
    status: int = 0
    settings: bool = True


def command(arguments: str, *needs: str, status: int = 0) -> Command:
    return Command(arguments, frozenset(needs), status)


# `migrate` comes last: it changes the database that the others are tried on.
COMMANDS = {
    "enqueue": command("enqueue https://cdn.shopify.com/a.jpg", DATABASE),
    "status": command("status", DATABASE),
    "watch": command(f"watch {JOB}", DATABASE, status=1),
    "cancel": command(f"cancel {JOB}", DATABASE, status=1),
    "retry": command("retry --failed", DATABASE),
    "review": command("review", DATABASE),
    "review approve": command(f"review approve {JOB}", DATABASE, status=1),
    "review reject": command(f"review reject {JOB}", DATABASE, status=1),
    "publish": command(f"publish {JOB}", DATABASE, status=1),
    "batch add": command("batch add jobs.csv", DATABASE),
    "batch status": command("batch status", DATABASE),
    "batch watch": command("batch watch nothing", DATABASE, status=1),
    "batch cancel": command("batch cancel nothing", DATABASE, status=1),
    "batch retry": command("batch retry nothing", DATABASE, status=1),
    "batch export": command("batch export nothing", DATABASE, status=1),
    "hosts": command("hosts", DATABASE),
    "pause": command("pause nobody", DATABASE, status=1),
    "resume": command("resume nobody", DATABASE, status=1),
    "limits": command("limits nobody.example", DATABASE, status=1),
    "usage": command("usage", DATABASE),
    "delete": command("delete --shop nobody.example --yes", DATABASE, STORE),
    "webhooks list": command("webhooks list", DATABASE),
    "webhooks replay": command("webhooks replay --all", DATABASE),
    "doctor": command("doctor --json", DATABASE, STORE, WEIGHTS),
    "dashboard": command("dashboard --port 0", DATABASE),
    "weights fetch": command("weights fetch", WEIGHTS),
    "weights verify": command("weights verify", WEIGHTS),
    "weights path": command("weights path"),
    "version": Command("version", settings=False),
    "migrate": command("migrate", DATABASE),
}

# The daemon needs what all of them need, and waits for a database that does not answer. It changes its whole process, and
# so runs in one of its own.
RUN = command("run", DATABASE, STORE, WEIGHTS)

# These start a database, a store and a daemon of their own, and handle signals: tests/local and tests/system try that.
LOCAL = {
    "dev": command("dev --folder dev --port 0", WEIGHTS),
    "demo": command("demo --results demo", WEIGHTS),
    "bench": command("bench", WEIGHTS),
}


def leaves(group: object, prefix: str = "") -> Iterator[str]:
    for name, each in group.commands.items():  # type: ignore[attr-defined]
        if hasattr(each, "commands"):
            if each.invoke_without_command:
                yield prefix + name
            yield from leaves(each, f"{prefix}{name} ")
        else:
            yield prefix + name


def test_no_command_is_left_out() -> None:
    assert set(leaves(get_command(app))) == {*COMMANDS, "run", *LOCAL}


@dataclass
class Place:
    """Where all is as it should be, until a state spoils it."""

    postgres: Postgres
    url: str
    tmp: Path
    patch: pytest.MonkeyPatch
    ending: ExitStack = field(default_factory=ExitStack)

    def set(self, name: str, value: str) -> None:
        self.patch.setenv(name, value)

    def sql(self, statement: str) -> None:
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(statement.encode())

    def server(self) -> str:
        return f"127.0.0.1:{self.postgres.port}/{self.url.rpartition('/')[2]}"


@pytest.fixture
def place(
    postgres: Postgres, database_url: str, u2netp: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Place]:
    for name in settings.variables():
        monkeypatch.delenv(name, raising=False)
    for name, value in {
        "DATABASE_URL": database_url,
        "WORKER_STORAGE_DIR": str(tmp_path / "store"),
        "WORKER_ENGINE": "relief",
        "WORKER_BACKGROUND_MODEL": "u2netp",
        "WORKER_WEIGHTS_DIR": str(u2netp),
        "WORKER_TEMP_DIR": str(tmp_path / "tmp"),
        "CUDA_VISIBLE_DEVICES": "",
    }.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "jobs.csv").write_text(
        "shop,product_id,image_urls\na.myshopify.com,1,https://cdn.shopify.com/a.jpg\n"
    )
    monkeypatch.chdir(tmp_path)
    # It would serve for ever; tests/ops/dashboard/ serves for real.
    monkeypatch.setattr(uvicorn.Server, "run", lambda _self, sockets: [each.close() for each in sockets])
    found = Place(postgres, database_url, tmp_path, monkeypatch)
    with found.ending:
        yield found


@dataclass(frozen=True)
class Ending:
    status: int
    out: str
    err: str

    def problem(self, expected: int, before: str = "Usage: ") -> str | None:
        """What is wrong with it: a traceback, another status, or more than one line of error, but for one `before` it."""
        lines = [line for line in self.err.splitlines() if line.strip() and not line.startswith(before)]
        if "Traceback" in self.out + self.err:
            return self.out + self.err
        if self.status != expected:
            return f"{self.status}, not {expected}: {self.out}{self.err}"
        if self.status and (len(lines) > 1 or PASSWORD in self.err):
            return self.err
        if self.status == 2 and "Usage: worker" not in self.err:
            return f"no usage: {self.err}"
        return None


Call = Callable[[str], Ending]


@pytest.fixture
def call(capfd: pytest.CaptureFixture[str]) -> Call:
    """A command in this process."""

    def call(arguments: str) -> Ending:
        status = execute(arguments.split())
        said = capfd.readouterr()
        return Ending(status, said.out, said.err)

    return call


def process(arguments: str, **popen: object) -> Ending:
    """A command in a process of its own."""
    found = subprocess.run(
        [sys.executable, "-m", "worker", *arguments.split()],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        **popen,  # type: ignore[call-overload]
    )
    return Ending(found.returncode, found.stdout, found.stderr)


def problems(call: Call, expected: Mapping[str, int], words: str = "") -> dict[str, str]:
    """By command: what is wrong with its ending, or which words of its error are missing."""
    found = {}
    for name, status in expected.items():
        ending = call(COMMANDS[name].arguments)
        problem = ending.problem(status)
        if status not in {0, COMMANDS[name].status} and words not in ending.out + ending.err:
            problem = f"{words!r} is not in {ending.out}{ending.err}"
        if problem:
            found[name] = problem
    return found


def where(need: str, status: int, **others: int) -> dict[str, int]:
    """The expected statuses where what `need` names is spoilt; `others` by name, with `_` for a space."""
    others = {name.replace("_", " "): each for name, each in others.items()}
    return {
        name: others.get(name, status if need in each.needs else each.status)
        for name, each in COMMANDS.items()
    }


# The database


def database_unset(place: Place) -> None:
    place.set("DATABASE_URL", "")


def database_malformed(place: Place) -> None:
    place.set("DATABASE_URL", f"postgresql:/worker:{PASSWORD}@")


def database_option_unknown(place: Place) -> None:
    place.set("DATABASE_URL", f"{place.url}?no_such_option=1")


def database_of_another_kind(place: Place) -> None:
    place.set("DATABASE_URL", f"mysql://worker:{PASSWORD}@localhost/jobs")


def database_unreachable(place: Place) -> None:
    place.set("DATABASE_URL", f"postgresql://worker:{PASSWORD}@127.0.0.1:9/jobs")


def password_wrong(place: Place) -> None:
    place.set("DATABASE_URL", f"postgresql://postgres:{PASSWORD}@{place.server()}")


def database_missing(place: Place) -> None:
    place.set("DATABASE_URL", place.postgres.url("nowhere"))


def unmigrated(place: Place) -> None:
    place.set("DATABASE_URL", place.ending.enter_context(new_database(place.postgres, "template1")))


def schema_older(place: Place) -> None:
    place.patch.setattr("worker.database.connection.SCHEMA", "9999")


def schema_newer(place: Place) -> None:
    place.sql("UPDATE worker.alembic_version SET version_num = '9999'")


def schema_of_before_the_release(place: Place) -> None:
    place.sql("UPDATE worker.alembic_version SET version_num = '0006'")


def role_without_rights(place: Place) -> None:
    role = f"stranger_{os.getpid()}"
    place.sql(f"DROP ROLE IF EXISTS {role}; CREATE ROLE {role} LOGIN PASSWORD '{PASSWORD}'")
    place.ending.callback(place.sql, f"DROP ROLE {role}")
    place.set("DATABASE_URL", f"postgresql://{role}:{PASSWORD}@{place.server()}")


# What is spoilt, the statuses, and words that the error must have.
DATABASE_STATES = [
    (database_unset, where(DATABASE, 78), "DATABASE_URL is not set"),
    (database_malformed, where(DATABASE, 78), "DATABASE_URL"),
    (database_option_unknown, where(DATABASE, 78), "no_such_option"),
    (database_of_another_kind, where(DATABASE, 78), "postgresql://"),
    (database_unreachable, where(DATABASE, 75, dashboard=0), "refused"),
    (password_wrong, where(DATABASE, 78), "password authentication failed"),
    (database_missing, where(DATABASE, 78), "does not exist"),
    (unmigrated, where(DATABASE, 78, migrate=0), "worker migrate"),
    (schema_older, where(DATABASE, 78, migrate=0), "worker migrate"),
    (schema_newer, where(DATABASE, 78), "9999"),
    (schema_of_before_the_release, where(DATABASE, 78), "before the first release"),
    (role_without_rights, where(DATABASE, 78), "permission denied"),
]


@pytest.mark.parametrize(
    ("spoil", "expected", "words"), DATABASE_STATES, ids=[state[0].__name__ for state in DATABASE_STATES]
)
def test_the_database_is_not_as_it_should_be(
    place: Place, call: Call, spoil: Callable[[Place], None], expected: dict[str, int], words: str
) -> None:
    spoil(place)
    assert problems(call, expected, words) == {}


def test_before_it_queues_a_test_job_enqueue_names_what_is_wrong_with_the_database(
    place: Place, call: Call
) -> None:
    for spoil, status, words in ((unmigrated, 78, "worker migrate"), (database_unreachable, 75, "refused")):
        spoil(place)
        ending = call("enqueue --watch --sample vase")
        assert ending.problem(status) is None
        assert words in ending.err


# The settings and the options


def test_all_is_as_it_should_be(place: Place, call: Call) -> None:
    place.set("WORKER_TURNTABLE", "false")
    assert problems(call, {name: each.status for name, each in COMMANDS.items()}) == {}


def test_a_setting_is_malformed(place: Place, call: Call) -> None:
    place.set("WORKER_LEASE_S", PASSWORD)
    expected = {name: 78 if each.settings else each.status for name, each in COMMANDS.items()}
    assert problems(call, expected, "WORKER_LEASE_S") == {}


@pytest.mark.parametrize("name", [*COMMANDS, "run", *LOCAL])
def test_an_option_does_not_exist(call: Call, name: str) -> None:
    assert call(f"{name} --no-such-option").problem(2) is None


@pytest.mark.parametrize(
    "arguments",
    [
        "no-such-command",
        "weights no-such-command",
        "enqueue",
        "enqueue https://a/b.jpg --sample vase",
        "enqueue https://a/b.jpg --priority 99999999999",
        "enqueue https://a/b.jpg --quality ultra",
        "enqueue https://a/b.jpg --engine unicorn",
        "enqueue https://a/b.jpg --left https://a/c.jpg",
        "enqueue --front https://a/b.jpg --sample vase",
        "watch not-an-id",
        "watch --json",
        "cancel",
        "retry",
        f"retry {JOB} --failed",
        "retry --failed --since tomorrow",
        f"retry {JOB} --since 2h",
        f"watch {JOB} --limit 3",
        f"retry --failed --since {'9' * 20}d",
        "delete",
        "delete --shop a --json",
        "status --limit -1",
        "webhooks replay",
        "webhooks replay not-an-id",
        "weights fetch --from https://mirror.example",
        "weights fetch unicorn",
        "weights verify u2netp unicorn",
        "weights path unicorn --json",
        "dashboard --port 80000",
        "dashboard --port http",
        "dev --port 80000",
        "dev --engine magic",
    ],
)
def test_arguments_that_make_no_sense(call: Call, arguments: str) -> None:
    assert call(arguments).problem(2) is None


def test_a_revision_or_a_sample_that_nobody_knows(place: Place, call: Call) -> None:
    del place
    for arguments, words in {
        "migrate 9999": "9999",
        "enqueue --sample unicorn": "unicorn",
        "enqueue no-such-file.jpg": "no-such-file.jpg",
        "enqueue https://a/b.jpg --pool a,b": "pool_is_a_name",
    }.items():
        ending = call(arguments)
        status = 2 if arguments.startswith("enqueue") and "pool" not in arguments else 78
        assert ending.problem(status) is None
        assert words in ending.err


def test_the_commands_without_a_name_print_their_help(call: Call) -> None:
    for arguments in ("", "weights", "webhooks"):
        ending = call(arguments)
        assert ending.status == 2
        assert "Usage" in ending.out
        assert ending.err == ""


# The store, the models, the ports


def store_unset(place: Place) -> int:
    place.set("WORKER_STORAGE_DIR", "")
    return 78


def store_that_cannot_be_written(place: Place) -> int:
    place.set("WORKER_STORAGE_DIR", "/dev/null/store")
    return 78


def store_unreachable(place: Place) -> int:
    place.set("WORKER_STORAGE_DIR", "")
    place.set("SUPABASE_URL", "http://127.0.0.1:9")
    place.set("SUPABASE_SERVICE_ROLE_KEY", PASSWORD)
    place.patch.setattr(supabase, "TRIES", 1)
    return 75


@pytest.mark.parametrize("spoil", [store_unset, store_that_cannot_be_written, store_unreachable])
def test_the_store_is_not_as_it_should_be(place: Place, call: Call, spoil: Callable[[Place], int]) -> None:
    status = spoil(place)
    assert problems(call, where(STORE, status)) == {}
    assert call("enqueue --sample vase").problem(status) is None


def test_the_folder_of_the_models_cannot_be_written(place: Place, call: Call) -> None:
    place.set("WORKER_WEIGHTS_DIR", "/dev/null/weights")
    assert problems(call, where(WEIGHTS, 78), "/dev/null/weights") == {}


def test_there_is_no_home(place: Place) -> None:
    """Neither in the environment nor in the list of users."""
    place.set("WORKER_WEIGHTS_DIR", "")
    place.patch.delenv("HOME", raising=False)
    start = (
        "import pwd, sys; pwd.getpwuid = {}.__getitem__; from worker.cli.main import main; sys.exit(main())"
    )
    for arguments, status in {
        "status": 0,
        "weights path": 0,
        "weights fetch": 78,
        "doctor --json": 78,
    }.items():
        found = subprocess.run(
            [sys.executable, "-c", start, *arguments.split()],
            capture_output=True,
            text=True,
            check=False,
            cwd=place.tmp,
        )
        ending = Ending(found.returncode, found.stdout, found.stderr)
        assert ending.problem(status) is None, arguments
        if arguments == "weights fetch":
            assert "WORKER_WEIGHTS_DIR" in ending.err
        assert "check_failed" not in ending.out
    assert not (place.tmp / "~").exists()


def test_the_dashboard_s_port_is_taken_or_forbidden(
    place: Place, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        ending = call(f"dashboard --port {other.getsockname()[1]}")
    assert ending.problem(78) is None
    assert "in use" in ending.err
    assert call("dashboard --host no.such.host.invalid").problem(78) is None
    assert call("dashboard --host 0.0.0.0").problem(78) is None

    def forbidden(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")  # as root, all ports are allowed

    del place
    monkeypatch.setattr(socket, "create_server", forbidden)
    ending = call("dashboard --port 80")
    assert ending.problem(78) is None
    assert "Permission denied" in ending.err


# What nobody has foreseen


def test_a_defect_is_one_line_without_secrets(place: Place, call: Call) -> None:
    place.set("DATABASE_URL", f"postgresql://worker:{PASSWORD}@127.0.0.1:9/jobs")
    place.set("WEBHOOK_SECRET", f"{PASSWORD}-too")

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError(
            f"a defect\nthat tells {PASSWORD}-too and postgresql://worker:{PASSWORD}@127.0.0.1:9/jobs"
        )

    place.patch.setattr("worker.database.connect", fail)
    place.patch.setattr("worker.weights.verify", fail)
    place.patch.setattr("worker.weights.fetch", fail)
    place.patch.setattr("worker.weights.path", fail)
    place.patch.setattr("worker.database.migrate.upgrade", fail)
    expected = {name: 70 if each.settings else 0 for name, each in COMMANDS.items() if name != "doctor"}
    assert problems(call, expected, "RuntimeError: a defect that tells …") == {}
    place.set("WORKER_LOG_LEVEL", "debug")
    ending = call("status")
    assert ending.status == 70
    assert "Traceback" in ending.err
    assert PASSWORD not in ending.err


# Signals and streams


def test_ctrl_c_is_silent_in_every_command(place: Place, call: Call) -> None:
    place.patch.setattr(settings, "load", lambda: signal.raise_signal(signal.SIGINT))
    for name, each in COMMANDS.items():
        ending = call(each.arguments)
        assert ending.problem(130 if each.settings else 0) is None, name
        assert ending.err == "", name


@pytest.mark.parametrize("loaded", ["_pydantic_core", "_psycopg"])
def test_ctrl_c_while_a_command_starts(place: Place, loaded: str) -> None:
    """As soon as a library is loaded; after all of them it would wait for a server that never answers."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        place.set("DATABASE_URL", f"postgresql://worker:{PASSWORD}@127.0.0.1:{silent.getsockname()[1]}/jobs")
        started = subprocess.Popen(
            [sys.executable, "-m", "worker", "status"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        maps = Path(f"/proc/{started.pid}/maps")
        until(lambda: loaded in maps.read_text(), 60, loaded)
        started.send_signal(signal.SIGINT)
        out, err = started.communicate(timeout=60)
    assert (started.returncode, out, err) == (130, "", "")


@pytest.mark.parametrize(
    ("arguments", "words"), [("watch", "waiting"), ("dashboard --port 0", "The dashboard is at")]
)
def test_ctrl_c_ends_what_shows_or_serves(place: Place, arguments: str, words: str) -> None:
    """On a terminal, which `watch` needs to show anything before its end."""
    del place
    person, terminal = os.openpty()
    started = subprocess.Popen(
        [sys.executable, "-m", "worker", *arguments.split()],
        stderr=terminal,
        env=os.environ | {"COLUMNS": "200", "TERM": "xterm"},
    )
    os.close(terminal)
    said = b""
    while words.encode() not in said:
        said += os.read(person, 10_000)
    started.send_signal(signal.SIGINT)
    with suppress(OSError):  # the terminal is closed
        while more := os.read(person, 10_000):
            said += more
    os.close(person)
    assert started.wait(60) == 130
    assert b"Traceback" not in said


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
@pytest.mark.usefixtures("place")
def test_nobody_reads_any_more(call: Call, stream: str) -> None:
    """The stream is a pipe whose other end is closed, as that of `| head -0`."""
    for name, each in COMMANDS.items():
        prints_json = call(f"{name} --help").out.count("--json") > 0
        reading, writing = os.pipe()
        os.close(reading)
        before = getattr(sys, stream)
        with os.fdopen(writing, "w") as broken:
            setattr(sys, stream, broken)
            try:
                status = execute(f"{each.arguments} {'--json' if prints_json else ''}".split())
            finally:
                setattr(sys, stream, before)
        refused = each.arguments.startswith("batch ") and each.status == 1  # before it has anything to print
        assert status in (
            {141} if prints_json and stream == "stdout" and not refused else {141, each.status}
        ), name
        console.print()  # rich keeps what it could not write; a process would be over
        assert "Traceback" not in call("version").err


def test_a_closed_pipe_ends_a_process_in_silence(place: Place) -> None:
    del place
    for arguments in ("status --json", "--help", "weights path"):
        reading, writing = os.pipe()
        os.close(reading)
        found = subprocess.run(
            [sys.executable, "-m", "worker", *arguments.split()],
            stdout=writing,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        os.close(writing)
        assert (found.returncode, found.stderr) == (141, ""), arguments


@pytest.mark.parametrize("buffered", [True, False])
def test_a_full_disk_behind_stdout(place: Place, buffered: bool) -> None:
    place.set("PYTHONUNBUFFERED", "" if buffered else "1")
    with Path("/dev/full").open("w") as full:
        found = subprocess.run(
            [sys.executable, "-m", "worker", "status", "--json"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert Ending(found.returncode, "", found.stderr).problem(74) is None
    assert "No space left" in found.stderr


def test_streams_that_are_closed(place: Place) -> None:
    del place
    for arguments, status in {"status --json": 0, "weights path": 0, "x": 2}.items():
        script = f'exec "$0" -m worker {arguments} <&- >&- 2>&-'
        found = subprocess.run(["/bin/sh", "-c", script, sys.executable], check=False, capture_output=True)
        assert (found.returncode, found.stdout, found.stderr) == (status, b"", b""), arguments


def test_a_terminal_of_20_columns(place: Place, call: Call) -> None:
    place.sql(
        "INSERT INTO jobs (shop, product_id, image_urls) VALUES ('a.myshopify.com', 'gid://shopify/Product/1234567', '{https://a/b}')"
    )
    place.set("COLUMNS", "20")
    place.patch.setattr(console, "_width", 20)
    assert problems(call, {name: each.status for name, each in COMMANDS.items()}) == {}
    for arguments in ("doctor", "enqueue --watch no-such-file.jpg", *(f"{name} --help" for name in COMMANDS)):
        ending = call(arguments)
        assert "Traceback" not in ending.err + ending.out, arguments
        assert ending.status == (2 if "file" in arguments else 0), arguments
    # An error stays one line: whoever greps for it finds it whole.
    place.set("DATABASE_URL", "")
    assert call("status").problem(78) is None


def settings_malformed(place: Place) -> str:
    place.set("WORKER_LEASE_S", PASSWORD)
    return "WORKER_LEASE_S"


def weights_that_cannot_be_written(place: Place) -> str:
    place.set("WORKER_WEIGHTS_DIR", "/dev/null/weights")
    return "/dev/null/weights"


@pytest.mark.parametrize("name", LOCAL)
@pytest.mark.parametrize("spoil", [settings_malformed, weights_that_cannot_be_written])
def test_what_runs_on_this_machine_alone_does_not_start(
    place: Place, spoil: Callable[[Place], str], name: str
) -> None:
    words = spoil(place)
    ending = process(LOCAL[name].arguments, cwd=place.tmp)
    assert ending.problem(78, before="Fetching") is None
    assert words in ending.err


@pytest.mark.parametrize("name", ["dev", "demo"])
def test_the_folder_of_this_machine_s_stack_cannot_be_made(place: Place, name: str) -> None:
    (place.tmp / name).touch()
    ending = process(LOCAL[name].arguments, cwd=place.tmp)
    assert ending.problem(78) is None
    assert "cannot use the folder" in ending.err
    assert f"{name}: it is a file" in ending.err


RUN_STATES: list[tuple[Callable[[Place], object], str]] = [
    (database_unset, "DATABASE_URL"),
    (database_malformed, "DATABASE_URL"),
    (unmigrated, "worker migrate"),
    (schema_newer, "newer"),
    (schema_of_before_the_release, "before the first release"),
    (store_unset, "WORKER_STORAGE_DIR"),
    (store_that_cannot_be_written, "WORKER_STORAGE_DIR"),
    (lambda place: place.set("WORKER_LEASE_S", PASSWORD), "WORKER_LEASE_S"),
    (lambda place: place.set("WORKER_TEMP_DIR", "/dev/null/tmp"), "WORKER_TEMP_DIR"),
    (lambda place: place.set("BACKEND_URL", "not a URL"), "BACKEND_URL"),
    (lambda place: place.set("WEBHOOK_SECRET", f"{PASSWORD}!"), "WEBHOOK_SECRET"),
]


@pytest.mark.parametrize(("spoil", "words"), RUN_STATES)
def test_the_daemon_does_not_start(place: Place, spoil: Callable[[Place], object], words: str) -> None:
    """What it logs goes to stdout; the error is one line on stderr."""
    if spoil is RUN_STATES[-1][0]:
        place.set("BACKEND_URL", "http://127.0.0.1:9")
    spoil(place)
    ending = process(RUN.arguments)
    assert ending.problem(78) is None
    assert words in ending.err
