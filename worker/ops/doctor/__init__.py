"""What a first deployment gets wrong, looked at in one go: each check says what it found, and how to mend it.

Checks run at the same time, each in a thread of its own and for a bounded time: one that fails or hangs hides no other.
"""

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from pydantic import SecretStr
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from worker.core import settings
from worker.core.finding import Finding, Level, good, line, told
from worker.core.settings import ConfigError, Settings
from worker.ops.doctor import database, host, models, services

__all__ = ["CHECKS", "Check", "Finding", "Level", "examine", "exit_status", "line"]


class Check(NamedTuple):
    name: str
    look: Callable[[Settings], Iterable[Finding]]
    limit_s: float = 20
    after: str = ""  # the check without which this one would only say the same


CHECKS = (
    Check("python", host.python),
    Check("libraries", host.libraries),
    Check("memory", host.memory),
    Check("disk", host.disk),
    Check("temp folder", host.temp_folder),
    Check("gpu", host.gpu),
    Check("torch", models.torch, 180),
    Check("weights", models.weights, 600),
    Check("database", database.reachable, 30),
    Check("pooler", database.pooler, after="database"),
    Check("rights", database.rights, after="database"),
    Check("schema", database.schema, after="rights"),
    Check("listen", database.listen, 30, after="database"),
    Check("clock", database.clock, after="database"),
    Check("bucket", services.bucket, 90),
    Check("photos", services.photos),
    Check("webhook", services.webhook),
    Check("webhook secret", services.secret),
)


@dataclass
class _Run:
    check: Check
    found: list[Finding] = field(default_factory=list)
    thread: threading.Thread | None = None


def examine(checks: Iterable[Check] = CHECKS) -> Iterator[tuple[str, Finding]]:
    """The findings, each under its check's name, in the order of `checks`; none of them holds a secret."""
    try:
        configured = settings.load()
    except ConfigError as error:
        yield "settings", Finding(Level.WRONG, str(error), "Correct it and look again: the rest hangs on it.")
        return
    yield "settings", good("well-formed")
    runs: dict[str, _Run] = {}
    for check in checks:
        run = runs[check.name] = _Run(check)
        run.thread = threading.Thread(target=_look, args=(run, runs, configured), daemon=True)
        run.thread.start()
    secrets = _secrets(configured)
    for name, run in runs.items():
        for finding in _wait(run):
            yield name, finding.without(secrets)


def exit_status(findings: Iterable[Finding]) -> int:
    """0 all is well, 78 something is wrong with the configuration, 75 something does not answer, 1 a check has failed."""
    statuses = {Level.WRONG: 78, Level.AWAY: 75, Level.BROKEN: 1}
    worst = max((finding.level for finding in findings), default=Level.GOOD)
    return statuses.get(worst, 0)


def _look(run: _Run, runs: Mapping[str, _Run], configured: Settings) -> None:
    before = runs.get(run.check.after)
    if before and any(finding.level not in {Level.GOOD, Level.ADVICE} for finding in _wait(before)):
        run.found.append(Finding(Level.SKIPPED, f"not looked at: see {before.check.name}"))
        return
    try:
        for finding in run.check.look(configured):
            run.found.append(finding)
    except ConfigError as error:
        run.found.append(told(str(error), Level.WRONG))
    except BaseException as error:  # noqa: BLE001 - whatever it is, the other checks go on
        run.found.append(
            Finding(
                Level.BROKEN, f"the check itself has failed: {type(error).__name__}: {error}", "Report it."
            )
        )


def _wait(run: _Run) -> list[Finding]:
    assert run.thread  # noqa: S101 - started before anybody waits for it
    run.thread.join(run.check.limit_s)
    if not run.thread.is_alive():
        return run.found
    hung = Finding(Level.AWAY, f"no answer within {run.check.limit_s:g} s", "Look again; it hangs there.")
    return [*run.found, hung]


def _secrets(configured: Settings) -> list[str]:
    """What must not be shown: the settings that are kept as secrets, and the passwords in them."""
    values = [value.get_secret_value() for _, value in configured if isinstance(value, SecretStr)]
    hidden = values + [
        key.removeprefix("whsec_") for value in values for key in value.replace(",", " ").split()
    ]
    for value in values:
        try:
            hidden.append(make_url(value).password or "")
        except (ArgumentError, ValueError):
            continue
    # A part of a word would be replaced everywhere.
    return [secret for secret in hidden if len(secret) > 3]
