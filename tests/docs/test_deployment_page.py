"""docs/deployment.md: the settings in its worker.env work together."""

from pathlib import Path

import pytest

from worker.cli import preflight
from worker.core import settings
from worker.core.finding import Level
from worker.core.settings import Settings

PAGE = (Path(__file__).parents[2] / "docs" / "deployment.md").read_text()


def test_the_settings_of_the_first_host_take_the_photo_of_the_first_job(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def configured() -> Settings:
        for name in settings.variables():
            monkeypatch.delenv(name, raising=False)
        for name, value in written.items():
            monkeypatch.setenv(name, value)
        return settings.load()

    lines = PAGE.partition("worker.env <<'END'\n")[2].partition("END\n")[0].splitlines()
    written = dict(line.split("=", 1) for line in lines)
    photo = f"{written['WORKER_STORAGE_URL']}/uploads/duck.jpg"
    assert preflight.check_photo(photo, configured()).level is Level.OK
    del written["WORKER_PHOTO_LOOPBACK"]
    refused = preflight.check_photo(photo, configured())
    assert refused.level is Level.FAIL
    assert refused.fix.endswith("WORKER_PHOTO_LOOPBACK=true")
