"""The progress of a job and the steps of an attempt: the only list of each."""

from collections.abc import Mapping
from enum import IntEnum, StrEnum


class Stage(IntEnum):
    """The progress of a running job. The value is the row's `progress`; `title` is its `stage`.

    `worker.claim_job()` writes CLAIMED and `worker.complete_job()` writes COMPLETED; a test holds them to this table.
    """

    CLAIMED = 5
    DOWNLOADING = 10
    FRAMED = 40
    GENERATING = 50
    SURFACE = 60  # the engine has made it
    TEXTURED = 70
    WRITTEN = 80
    UPLOADING = 85
    UPLOADED = 95
    COMPLETED = 100

    @property
    def title(self) -> str:
        """The name in the row, in events and in logs."""
        return self.name.lower()


class Step(StrEnum):
    """The parts of an attempt whose time is measured, in order: the keys of the report's `seconds` and the metrics' label `step`."""

    DOWNLOAD = "download"
    CUTOUT = "cutout"
    GENERATE = "generate"
    FINISH = "finish"
    POSTER = "poster"
    TURNTABLE = "turntable"
    USDZ = "usdz"
    QUALITY = "quality"
    UPLOAD = "upload"


STEPS = tuple(Step)


def in_order(seconds: Mapping[str, float]) -> dict[str, float]:
    """Sort seconds by step, since jsonb keeps no order. Unknown steps come last."""
    position = {step.value: n for n, step in enumerate(STEPS)}
    return dict(sorted(seconds.items(), key=lambda item: position.get(item[0], len(STEPS))))
