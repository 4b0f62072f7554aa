"""The shapes of a checkpoint: `config.yaml` as published, and `dino_config.json` if the ViT is not the official one."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]  # ships no types

Section = Mapping[str, Any]


class CheckpointError(Exception):
    """The weights cannot be used. The message is one line that names the file and what is wrong with it."""


@dataclass(frozen=True, kw_only=True)
class ViTConfig:
    """The image tokenizer, with the names of `dino_config.json`. The defaults are those of facebook/dino-vitb16."""

    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    patch_size: int = 16  # pixels
    image_size: int = 224  # of its own training; the stored position embeddings belong to it
    layer_norm_eps: float = 1e-12


@dataclass(frozen=True, kw_only=True)
class Config:
    """The whole network. The defaults are those of the official checkpoint."""

    vit: ViTConfig = ViTConfig()
    image_size: int = 512  # pixels a side, after resizing
    plane_size: int = 32  # triplane tokens a side
    channels: int = 1024  # of a triplane token
    num_heads: int = 16
    head_dim: int = 64
    num_layers: int = 16
    norm_groups: int = 32
    plane_channels: int = 40  # of the scene code; its planes have twice as many texels a side as tokens
    neurons: int = 64  # of the decoder
    hidden_layers: int = 9
    radius: float = 0.87  # half the side of the world's cube
    density_bias: float = -1.0

    @property
    def width(self) -> int:
        """The channels of a token inside the backbone."""
        return self.num_heads * self.head_dim


# The class that each part must have. The names are compared and never imported.
CLASSES = {
    "image_tokenizer": "tsr.models.tokenizers.image.DINOSingleImageTokenizer",
    "tokenizer": "tsr.models.tokenizers.triplane.Triplane1DTokenizer",
    "backbone": "tsr.models.transformer.transformer_1d.Transformer1D",
    "post_processor": "tsr.models.network_utils.TriplaneUpsampleNetwork",
    "decoder": "tsr.models.network_utils.NeRFMLP",
    "renderer": "tsr.models.nerf_renderer.TriplaneNeRFRenderer",
}
# Options of the reference that no checkpoint uses. A checkpoint with another value would need code that is not here.
FIXED: dict[str, Any] = {
    "backbone.activation_fn": "geglu",
    "backbone.attention_bias": False,
    "backbone.double_self_attention": False,
    "backbone.norm_elementwise_affine": True,
    "backbone.norm_type": "layer_norm",
    "backbone.only_cross_attention": False,
    "backbone.out_channels": None,
    "decoder.activation": "silu",
    "decoder.bias": True,
    "renderer.color_activation": "sigmoid",
    "renderer.density_activation": "exp",
    "renderer.feature_reduction": "concat",
}
# Options without a default in the reference, or with a default that its code does not support.
STATED = ("decoder.activation", "renderer.density_activation")
# Options of training and of previews: they do not change the results.
IGNORED = (
    "image_tokenizer.pretrained_model_name_or_path",  # if dino_config.json has the shapes
    "image_tokenizer.enable_gradient_checkpointing",
    "backbone.dropout",
    "backbone.gradient_checkpointing",
    "backbone.upcast_attention",
    "decoder.bias_init",
    "decoder.weight_init",
    "renderer.num_samples_per_ray",
    "renderer.randomized",
)


def read(folder: Path) -> Config:
    """Read `config.yaml` of a checkpoint's folder, and `dino_config.json` if it is there.

    Raises: CheckpointError, which names the file and the key that is missing, unknown or not supported.
    """
    path = folder / "config.yaml"
    try:
        tree = yaml.safe_load(path.read_text("utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing.") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise CheckpointError(f"{path} cannot be read: {one_line(error)}") from None
    if not isinstance(tree, dict):
        raise CheckpointError(f"{path} is not a mapping.")
    try:
        config = _parse(_flatten(tree), _read_vit(folder / "dino_config.json"))
    except _Wrong as error:
        raise CheckpointError(f"{path}: {error}") from None
    return config


class _Wrong(Exception):
    """Says what is wrong in the file that is being read."""


def _parse(flat: dict[str, Any], vit: ViTConfig | None) -> Config:
    values = _Values({key: _resolve(flat, key) for key in flat})
    if vit is None:
        values.must_be("image_tokenizer.pretrained_model_name_or_path", "facebook/dino-vitb16", stated=False)
        vit = ViTConfig()
    for part, name in CLASSES.items():
        values.must_be(f"{part}_cls", name, stated=True)
    for key, value in FIXED.items():
        values.must_be(key, value, stated=key in STATED)
    config = Config(
        vit=vit,
        image_size=values.count("cond_image_size"),
        plane_size=values.count("tokenizer.plane_size"),
        channels=values.count("tokenizer.num_channels"),
        num_heads=values.count("backbone.num_attention_heads"),
        head_dim=values.count("backbone.attention_head_dim"),
        num_layers=values.count("backbone.num_layers"),
        norm_groups=values.count("backbone.norm_num_groups", 32),
        plane_channels=values.count("post_processor.out_channels"),
        neurons=values.count("decoder.n_neurons"),
        hidden_layers=values.count("decoder.n_hidden_layers"),
        radius=values.number("renderer.radius"),
        density_bias=values.number("renderer.density_bias", -1.0),
    )
    # Present twice in the file, and once in the network.
    values.must_be("backbone.in_channels", config.channels, stated=True)
    values.must_be("backbone.cross_attention_dim", vit.hidden_size, stated=True)
    values.must_be("post_processor.in_channels", config.channels, stated=True)
    values.must_be("decoder.in_channels", 3 * config.plane_channels, stated=True)
    values.nothing_but(IGNORED)
    if config.channels % config.norm_groups:
        raise _Wrong(f"{config.channels} channels cannot be split into {config.norm_groups} groups.")
    if config.radius <= 0:
        raise _Wrong(f"renderer.radius is {config.radius}, must be above 0.")
    if config.image_size < vit.patch_size:
        raise _Wrong(f"cond_image_size is {config.image_size}, less than a patch of {vit.patch_size}.")
    return config


class _Values:
    """The values by dotted key. It remembers which keys were read."""

    def __init__(self, values: dict[str, Any]) -> None:
        self.values = values
        self.asked: set[str] = set()

    def must_be(self, key: str, wanted: Any, *, stated: bool) -> None:
        value = self._get(key, None if stated else (wanted,))
        if value != wanted or isinstance(value, bool) != isinstance(wanted, bool):
            raise _Wrong(f"{key} is {value!r}, must be {wanted!r}.")

    def count(self, key: str, default: int | None = None) -> int:
        value = self._get(key, default and (default,))
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise _Wrong(f"{key} is {value!r}, must be a whole number above 0.")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        value = self._get(key, default and (default,))
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise _Wrong(f"{key} is {value!r}, must be a number.")
        return float(value)

    def nothing_but(self, ignored: tuple[str, ...]) -> None:
        for key in self.values:
            if key not in self.asked and key not in ignored:
                raise _Wrong(f"{key} is not known.")

    def _get(self, key: str, default: Any) -> Any:
        """Return a key's value. `default` holds the value of a missing key; None means that the key is required."""
        self.asked.add(key)
        if key in self.values:
            return self.values[key]
        if default is None:
            raise _Wrong(f"{key} is missing.")
        return default[0]


def _read_vit(path: Path) -> ViTConfig | None:
    """Read the ViT's shapes; a missing key has its official value. Other keys that transformers writes are ignored."""
    if not path.exists():
        return None
    try:
        stated = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {one_line(error)}") from None
    if not isinstance(stated, dict):
        raise CheckpointError(f"{path} is not a mapping.")
    try:
        return _parse_vit(_Values(stated))
    except _Wrong as error:
        raise CheckpointError(f"{path}: {error}") from None


def _parse_vit(values: "_Values") -> ViTConfig:
    for key, wanted in {"hidden_act": "gelu", "qkv_bias": True, "num_channels": 3}.items():
        values.must_be(key, wanted, stated=False)
    vit = ViTConfig(
        hidden_size=values.count("hidden_size", ViTConfig.hidden_size),
        num_hidden_layers=values.count("num_hidden_layers", ViTConfig.num_hidden_layers),
        num_attention_heads=values.count("num_attention_heads", ViTConfig.num_attention_heads),
        intermediate_size=values.count("intermediate_size", ViTConfig.intermediate_size),
        patch_size=values.count("patch_size", ViTConfig.patch_size),
        image_size=values.count("image_size", ViTConfig.image_size),
        layer_norm_eps=values.number("layer_norm_eps", ViTConfig.layer_norm_eps),
    )
    if vit.hidden_size % vit.num_attention_heads:
        raise _Wrong(f"hidden_size {vit.hidden_size} cannot be split into {vit.num_attention_heads} heads.")
    return vit


def _flatten(tree: Section, prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def _resolve(flat: dict[str, Any], key: str) -> Any:
    """Return a key's value, with OmegaConf's references `${another.key}` resolved."""
    value, seen = flat[key], [key]
    while isinstance(value, str) and "${" in value:
        reference = re.fullmatch(r"\$\{([\w.]+)\}", value)
        if not reference or reference[1] not in flat:
            raise _Wrong(f"{seen[-1]} refers to {value}, which is not there.")
        if reference[1] in seen:
            raise _Wrong(f"{key} refers to itself through {value}.")
        seen.append(reference[1])
        value = flat[reference[1]]
    return value


def one_line(error: Exception) -> str:
    """Return an error's text on one line, at most 300 characters; its type's name if it has none.

    worker.core.errors has one that shortens nothing. This room imports nothing of the worker.
    """
    return " ".join(str(error).split())[:300] or type(error).__name__
