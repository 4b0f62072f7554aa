"""`worker doctor`: find the usual mistakes of a first deployment. Each check reports its finding and the fix.

Checks run at the same time, each in its own thread and for a limited time: one that fails or hangs hides no other.
"""

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from worker import engines
from worker.core import settings
from worker.core.finding import Finding, Level, from_error, ok, unreachable
from worker.core.settings import ConfigError, Settings
from worker.ops.doctor import database, host, models, services

__all__ = ["BEFORE_A_JOB", "CHECKS", "Check", "examine", "exit_status", "run_checks"]


class Check(NamedTuple):
    """One check. `run` yields findings under this name."""

    name: str
    run: Callable[[Settings], Iterable[Finding]]
    limit_s: float = 20
    after: str = ""  # skipped unless this check has passed, because it would only repeat its finding


CHECKS = (
    Check("python", host.python),
    Check("libraries", host.libraries),
    Check("memory", host.memory),
    Check("disk", host.disk),
    Check("temp folder", host.temp_folder),
    Check("sandbox", host.sandbox),
    Check("gpu", host.gpu),
    Check("lanes", host.lanes, 90),
    Check("torch", models.torch, 180),
    Check("weights", models.weights, 600),
    Check("database", database.reachable, 30),
    Check("pooler", database.pooler, after="database"),
    Check("rights", database.rights, after="database"),
    Check("schema", database.schema, after="rights"),
    Check("listen", database.listen, 30, after="database"),
    Check("clock", database.clock, after="database"),
    Check("store", services.store, 90),
    Check("photos", services.photos),
    Check("webhook", services.webhook),
    Check("webhook secret", services.secret),
)

# The requirements of a single job: `worker enqueue --watch` runs these first.
BEFORE_A_JOB = (
    Check("database", database.reachable, 30),
    Check("worker", database.workers, after="database"),
    Check("store", services.store, 90),
)


@dataclass
class _Run:
    check: Check
    found: list[Finding] = field(default_factory=list)
    thread: threading.Thread | None = None


def examine(checks: Iterable[Check] = CHECKS) -> Iterator[Finding]:
    """Load the settings, run the checks, and yield the findings in the order of `checks`. None of them holds a secret."""
    try:
        configured = settings.load()
        engines.find(configured.engine)
    except ConfigError as error:
        yield Finding(
            Level.FAIL, "settings", str(error), "Correct it and run this again: all checks depend on it."
        )
        return
    yield ok("settings", "well-formed")
    yield from run_checks(checks, configured)


def run_checks(checks: Iterable[Check], configured: Settings) -> Iterator[Finding]:
    """Run the checks at the same time and yield their findings in order. None of them holds a secret."""
    runs: dict[str, _Run] = {}
    for check in checks:
        run = runs[check.name] = _Run(check)
        run.thread = threading.Thread(target=_perform, args=(run, runs, configured), daemon=True)
        run.thread.start()
    for run in runs.values():
        for finding in _wait(run):
            # A library may have repeated a secret.
            yield replace(finding, text=configured.redact(finding.text), fix=configured.redact(finding.fix))


def exit_status(findings: Iterable[Finding]) -> int:
    """Return 0 if all is well, 78 if something fails, 75 if something does not answer, 1 if a check has a defect."""
    statuses = {Level.FAIL: os.EX_CONFIG, Level.UNREACHABLE: os.EX_TEMPFAIL, Level.CHECK_FAILED: 1}
    worst = max((finding.level for finding in findings), default=Level.OK)
    return statuses.get(worst, os.EX_OK)


def _perform(run: _Run, runs: Mapping[str, _Run], configured: Settings) -> None:
    name = run.check.name
    before = runs.get(run.check.after)
    if before and any(finding.level not in {Level.OK, Level.ADVICE} for finding in _wait(before)):
        run.found.append(Finding(Level.SKIPPED, name, f"skipped: see {before.check.name}"))
        return
    try:
        for finding in run.check.run(configured):
            run.found.append(finding)
    except ConfigError as error:
        run.found.append(from_error(name, error))
    except BaseException as error:  # noqa: BLE001 - whatever it is, the other checks go on
        text = f"the check itself failed: {type(error).__name__}: {error}"
        run.found.append(Finding(Level.CHECK_FAILED, name, text, "Report it."))


def _wait(run: _Run) -> list[Finding]:
    assert run.thread  # noqa: S101 - started before anybody waits for it
    run.thread.join(run.check.limit_s)
    if not run.thread.is_alive():
        return run.found
    limit = f"no answer within {run.check.limit_s:g} s"
    return [
        *run.found,
        unreachable(run.check.name, limit, "Run this again; if it repeats, something hangs there."),
    ]
