import re
from pathlib import Path

import pytest

from worker import database
from worker.core import settings
from worker.core.settings import ConfigError
from worker.storage import open_store

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in settings.variables():
        monkeypatch.delenv(name, raising=False)


def test_defaults_are_those_of_the_design() -> None:
    loaded = settings.load()
    assert (loaded.engine, loaded.supabase_bucket_name, loaded.background_model) == (
        "triposr",
        "3d-models",
        "isnet-general-use",
    )
    assert (loaded.soft_limit_s, loaded.hard_limit_s, loaded.lease_s, loaded.grace_s) == (1500, 1800, 30, 120)


def test_an_empty_variable_is_an_unset_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BACKEND_URL", "")
    assert settings.load().backend_url is None


def test_secrets_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://u:planted@h/d")
    monkeypatch.setenv("SUPABASE_SERVICE_ROLE_KEY", "planted")
    monkeypatch.setenv("WEBHOOK_SECRET", "planted")
    assert "planted" not in repr(settings.load())


def test_a_malformed_variable_is_named_without_its_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKER_POLL_S", "planted")
    monkeypatch.setenv("WORKER_LOG_LEVEL", "planted")
    with pytest.raises(ConfigError, match="WORKER_POLL_S: ") as error:
        settings.load()
    assert "WORKER_LOG_LEVEL: " in str(error.value)
    assert "planted" not in str(error.value)


def test_the_example_file_has_every_variable() -> None:
    text = (ROOT / ".env.example").read_text()
    assert [name for name in settings.variables() if name not in text] == []


def test_the_page_has_every_variable_with_its_description() -> None:
    rows = re.findall(
        r"^\| `(\w+)` \|.*?\| (.*) \|$", (ROOT / "docs" / "settings.md").read_text(), re.MULTILINE
    )
    written = {name: re.sub(r"\[([^]]+)\]\([^)]+\)", r"\1", description) for name, description in rows}
    assert written == settings.variables()


def test_hosts_of_photos_are_a_list_and_ours_are_among_them(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "cdn.shopify.com" in settings.load().all_photo_hosts()
    monkeypatch.setenv("WORKER_PHOTO_HOSTS", "CDN.example.com, *.example.org,")
    monkeypatch.setenv("SUPABASE_URL", "https://abc.supabase.co")
    assert settings.load().all_photo_hosts() == ["cdn.example.com", "*.example.org", "abc.supabase.co"]


def test_pools_are_a_list_of_names_each_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKER_POOLS", "large, a shop,large ,")
    monkeypatch.setenv("WORKER_LANES", "64")
    loaded = settings.load()
    assert (loaded.pools, loaded.lanes) == (("large", "a shop"), 64)


@pytest.mark.parametrize("value", ["https://cdn.example.com", "*example.com", "cdn.*.com", "a/b", "**"])
def test_hosts_of_photos_that_would_match_nothing_are_an_error(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("WORKER_PHOTO_HOSTS", value)
    with pytest.raises(ConfigError, match="WORKER_PHOTO_HOSTS: "):
        settings.load()


STARTS = {"DATABASE_URL": "postgresql://u@h/d", "WORKER_STORAGE_DIR": "/tmp"}


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({"DATABASE_URL": ""}, "DATABASE_URL is not set"),
        ({"DATABASE_URL": "mysql://a/b"}, "DATABASE_URL must begin with postgresql://"),
        ({"DATABASE_URL": "nonsense"}, "DATABASE_URL is not a URL"),
        ({"WORKER_STORAGE_DIR": ""}, "No place for the models: set SUPABASE_URL"),
        (
            {"WORKER_STORAGE_DIR": "", "SUPABASE_URL": "https://a.supabase.co"},
            "SUPABASE_SERVICE_ROLE_KEY is not set",
        ),
        ({"SUPABASE_URL": "https://a.supabase.co"}, "not both"),
        ({"WORKER_LEASE_S": "soon"}, "WORKER_LEASE_S: "),
        ({"WORKER_LANES": "0"}, "WORKER_LANES: write auto or a whole number from 1 to 64"),
        ({"WORKER_LANES": "many"}, "WORKER_LANES: write auto or a whole number from 1 to 64"),
        *(
            ({"WORKER_POOLS": value}, "WORKER_POOLS: write names of 1 to 100 characters, separated by commas")
            for value in (" , ", "a, " + "x" * 101, "a\tb")
        ),
        *(
            ({"WORKER_NAME": value}, "WORKER_NAME: write a name of visible characters")
            for value in ("  ", "a\tb")
        ),
        *(
            (
                {f"WORKER_KEEP_{what}_DAYS": "999999999"},
                f"WORKER_KEEP_{what}_DAYS: Input should be less than or equal to 36500",
            )
            for what in ("JOBS", "VERSIONS", "HISTORY")  # Postgres has no such time
        ),
        ({"WORKER_HARD_LIMIT_S": "1"}, "WORKER_HARD_LIMIT_S must not be less"),
        ({"WORKER_STORAGE_DIR": "/dev/null/store"}, "WORKER_STORAGE_DIR cannot be used"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
)
def test_a_wrong_setting_is_an_error_that_names_it(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], says: str
) -> None:
    """`tests/cli/test_every_command.py` shows what a start makes of the error."""
    for name, value in (STARTS | environment).items():
        monkeypatch.setenv(name, value)

    def begin() -> None:
        loaded = settings.load()
        open_store(loaded)
        database.url(loaded)

    with pytest.raises(ConfigError) as error:
        begin()
    assert says in str(error.value)
