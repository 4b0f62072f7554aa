"""One photo of a job, and what became of it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from worker.core.errors import JobError, redact_url
from worker.engines.surface import Role, View
from worker.pipeline.choose import PhotoScore

EXCLUDED = "It was left out on request."


class ScoredView(NamedTuple):
    """A photo that can be used: its framed view, and how well it shows the product."""

    view: View
    score: PhotoScore
    warnings: tuple[str, ...] = ()  # of the cut-out


@dataclass(frozen=True)
class Photo:
    """One photo of a job. After the cut-out `scored`, `error` or `excluded` is set."""

    url: str
    file: Path
    scored: ScoredView | None = None
    error: JobError | None = None
    excluded: bool = False  # it was left out on request: neither downloaded nor used
    sha256: str = ""  # of the file, as hexadecimal digits; empty if it was not downloaded
    incomplete: bool = False  # the end of the file is missing, and with it a small part of the picture

    def report(self, role: Role | None, reason: str | None) -> dict[str, Any]:
        """Return the JSON-able entry for `metadata.worker.photos`.

        Args:
            role: the side that the model was given this photo for; None if it is not used.
            reason: why the photo is not used as the side that was stated for it. A photo that is used has none.
        """
        entry: dict[str, Any] = {
            "url": redact_url(self.url),
            "status": "used" if role else "spare",
            "view": role,
        }
        if self.excluded:
            entry["reason"] = EXCLUDED
        elif reason and not role:
            entry["reason"] = reason
        if self.scored:
            entry["score"] = {name: round(value, 3) for name, value in self.scored.score._asdict().items()}
        if self.incomplete:
            entry["warning"] = (
                "The photo's file is incomplete. A small part of the photo is missing: upload it again."
            )
        if self.error:
            entry |= {"status": "refused", "error_code": self.error.code, "error_message": self.error.message}
        return entry
