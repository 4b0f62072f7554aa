"""`worker migrate` does what `alembic upgrade head` does, and needs no checkout."""

from importlib.resources import files
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy.engine import URL

from worker.core.settings import ConfigError


def upgrade(database: URL, revision: str = "head") -> None:
    """Migrate to a revision. Raises: ConfigError if no way leads there from the database's revision; sqlalchemy's errors."""
    config = Config()
    config.set_main_option("script_location", str(_scripts()))
    config.attributes["url"] = database
    try:
        command.upgrade(config, revision)
    except CommandError as error:
        raise ConfigError(str(error)) from None


def _scripts() -> Path:
    """Return the migrations' folder: inside an installed package, beside it in a checkout."""
    package = Path(str(files("worker")))
    inside = package / "migrations"
    return inside if inside.is_dir() else package.parent / "migrations"
