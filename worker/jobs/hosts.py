"""The register of hosts: this daemon's entry, and what people see and change of all. The rules are in migrations/sql/hosts.sql."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from uuid import UUID, uuid4

from sqlalchemy.engine import Engine

from worker.database import Row, execute, fetch_all, fetch_value, queries

QUERIES = queries("worker.jobs")


@dataclass(frozen=True, kw_only=True)
class Host:
    """A daemon, as it enters itself. `instance` tells its process from others of the same name."""

    name: str
    version: str
    engine: str
    pools: Sequence[str]
    lanes: int
    devices: Sequence[str]
    memory_mb: int
    instance: UUID = field(default_factory=uuid4)


@dataclass(frozen=True, kw_only=True)
class CheckIn:
    """The work that is due for a host now, the time until there is more, and what the register says of the host."""

    due: bool  # a job may be claimed
    expired: bool  # a job's lease has run out
    late: bool  # a job has not begun by its start_by
    files_due: bool  # files of a version must be written or removed
    batches_due: bool  # changes of batches are to be folded
    seconds: float | None  # until one of these; None if nothing will
    paused: bool
    shared: bool  # another daemon has entered itself under this name within three beats


def check_in(engine: Engine, host: Host) -> CheckIn:
    """Write the host's entry, and return what there is to do in the queue as a whole."""
    row = fetch_all(
        engine,
        QUERIES["check_in"],
        name=host.name,
        instance=host.instance,
        version=host.version,
        runs=host.engine,
        pools=list(host.pools),
        lanes=host.lanes,
        devices=list(host.devices),
        memory_mb=host.memory_mb,
    )[0]
    return CheckIn(**row)


def check_out(engine: Engine, host: Host) -> None:
    """Remove the entry of a daemon that stops. That of a paused host stays, and says that it has stopped."""
    execute(engine, QUERIES["check_out"], name=host.name, instance=host.instance)


def list_hosts(engine: Engine) -> list[Row]:
    """Return all hosts: their entries, `state` (live, paused or gone), `up` (its daemon runs), `seen_s` seconds ago, and their jobs `running` and `ended` in the last hour.

    The first are those with the most running jobs.
    """
    return fetch_all(engine, QUERIES["list_hosts"])


def pause(engine: Engine, name: str) -> bool:
    """Let a host claim no more jobs. False if there is no host of this name."""
    return bool(fetch_value(engine, QUERIES["pause_host"], name=name))


def resume(engine: Engine, name: str) -> bool:
    """Let a paused host claim jobs again, or forget a host that is gone. False if there is no host of this name."""
    return bool(fetch_value(engine, QUERIES["resume_host"], name=name))


def can_take(host: Row, pool: str, job_engine: str | None) -> bool:
    """True if a listed host, once it is live and not paused, claims jobs of this pool and engine."""
    return pool in host["pools"] and job_engine in {None, host["engine"]}


def forget(engine: Engine) -> int:
    """Delete the entries of hosts that have been gone for a day, except paused ones. Returns how many."""
    return len(fetch_all(engine, QUERIES["forget_hosts"]))
