"""`worker migrate`: the same as `alembic upgrade head`, without a checkout."""

from importlib.resources import files
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy.engine import URL

from worker.core.settings import ConfigError


def upgrade(database: URL, revision: str = "head") -> None:
    """Raises: ConfigError where there is no way from the database's revision to this one; sqlalchemy's errors."""
    config = Config()
    config.set_main_option("script_location", str(_scripts()))
    config.attributes["url"] = database
    try:
        command.upgrade(config, revision)
    except CommandError as error:
        raise ConfigError(str(error)) from None


def _scripts() -> Path:
    """In an installed package the migrations lie inside it, in a checkout beside it."""
    package = Path(str(files("worker")))
    inside = package / "migrations"
    return inside if inside.is_dir() else package.parent / "migrations"
