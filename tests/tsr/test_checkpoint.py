"""Weights are taken as a whole or refused by name."""

import json
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml  # type: ignore[import-untyped]  # ships no types
from safetensors.torch import load_file, save_file
from torch import Tensor

from worker.tsr import CheckpointError, Config, TripoSR, convert, layout, load
from worker.tsr.checkpoint import RENAMED

DATA = Path(__file__).parent.parent / "data"
TINY = DATA / "tsr-tiny"
BIAS = "backbone.norm.bias"
VIT = "image_tokenizer.model."


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint's configuration, without weights."""
    for name in ("config.yaml", "dino_config.json"):
        shutil.copyfile(TINY / name, tmp_path / name)
    return tmp_path


@pytest.fixture
def weights() -> dict[str, Tensor]:
    return load_file(TINY / "model.safetensors")


def code_of(model: TripoSR) -> Tensor:
    image = torch.linspace(0, 1, 50 * 70 * 3).reshape(50, 70, 3).numpy()
    return model.encode([image])


def refusal(folder: Path) -> str:
    with pytest.raises(CheckpointError) as refused:
        load(folder)
    message = str(refused.value)
    assert "\n" not in message
    return message.replace(str(folder), "FOLDER", 1)


def test_a_full_size_network_has_the_official_layout() -> None:
    lines = (DATA / "tsr-state-dict-keys.txt").read_text().splitlines()
    official = {}
    for line in lines:
        name, shape, _ = line.split("\t")
        official[name] = json.loads(shape)
    shapes = layout(Config())

    assert {name: list(shape) for name, shape in shapes.items()} == official
    assert len(shapes) == 549
    assert sum(shape.numel() for shape in shapes.values()) == 419_275_628


def test_nothing_of_the_network_is_lost_without_memory() -> None:
    with torch.device("meta"):
        assert not list(TripoSR(Config()).buffers())


def test_both_files_give_the_same_network(folder: Path) -> None:
    shutil.copyfile(TINY / "model.ckpt", folder / "model.ckpt")

    assert torch.equal(code_of(load(folder)), code_of(load(TINY)))


def test_the_names_of_transformers_5_are_understood(folder: Path, weights: dict[str, Tensor]) -> None:
    new_of = {old: new for new, old in RENAMED.items()}

    def renamed(name: str) -> str:
        layer = re.fullmatch(rf"{re.escape(VIT)}encoder\.layer\.(\d+)\.(.+)\.(weight|bias)", name)
        return f"{VIT}layers.{layer[1]}.{new_of[layer[2]]}.{layer[3]}" if layer else name

    save_file({renamed(name): tensor for name, tensor in weights.items()}, folder / "model.safetensors")

    assert torch.equal(code_of(load(folder)), code_of(load(TINY)))


def test_the_pooler_is_optional(folder: Path, weights: dict[str, Tensor]) -> None:
    kept = {name: tensor for name, tensor in weights.items() if "pooler" not in name}
    save_file(kept, folder / "model.safetensors")

    assert torch.equal(code_of(load(folder)), code_of(load(TINY)))


def rename(weights: dict[str, Tensor]) -> None:
    weights[f"{VIT}layers.0.attention.q_proj.bias"] = weights.pop(
        f"{VIT}encoder.layer.0.attention.attention.query.bias"
    )


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda weights: weights.pop(BIAS), [f"{BIAS} is missing"]),
        (lambda weights: weights.update(extra=torch.zeros(1)), ["extra is not known"]),
        (lambda weights: weights.update({BIAS: torch.zeros(63)}), [f"{BIAS} is (63,), must be (64,)"]),
        (
            lambda weights: weights.update({BIAS: torch.zeros(64, dtype=torch.int8)}),
            [f"{BIAS} is not of floating point"],
        ),
        # Half old, half new names: neither.
        (rename, ["query.bias is missing", "layers.0.attention.q_proj.bias is not known"]),
        (lambda weights: weights.clear(), ["embeddings.cls_token is missing", "and 91 more"]),
    ],
)
@pytest.mark.parametrize("name", ["model.safetensors", "model.ckpt"])
def test_what_does_not_fit_is_named(
    folder: Path, weights: dict[str, Tensor], name: str, spoil: Callable[[Any], Any], said: list[str]
) -> None:
    spoil(weights)
    save: Callable[[Any, Path], Any] = save_file if name == "model.safetensors" else torch.save
    save(weights, folder / name)

    message = refusal(folder)

    assert message.startswith(f"FOLDER/{name} does not fit config.yaml: ")
    assert all(part in message for part in said), message


@pytest.mark.parametrize("name", ["model.safetensors", "model.ckpt"])
@pytest.mark.parametrize("part", [0.0, 0.001, 0.3, 0.98, 0.9999])
def test_a_truncated_file_is_named(folder: Path, name: str, part: float) -> None:
    whole = (TINY / name).read_bytes()
    (folder / name).write_bytes(whole[: int(len(whole) * part)])

    assert re.match(rf"FOLDER/{name} is truncated", refusal(folder))


class Evil:
    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return Path.touch, (self.trace,)


@pytest.mark.parametrize("save", [torch.save, lambda what, path: path.write_bytes(pickle.dumps(what))])
def test_code_in_a_file_is_refused_and_not_run(
    folder: Path, tmp_path: Path, save: Callable[[Any, Path], Any]
) -> None:
    trace = tmp_path / "trace"
    save({BIAS: Evil(trace)}, folder / "model.ckpt")

    assert re.match(r"FOLDER/model.ckpt contains code \([\w.]+\), not only weights", refusal(folder))
    assert not trace.exists()


@pytest.mark.parametrize("content", [["a list"], {"state_dict": {}}])
def test_another_content_is_refused(folder: Path, content: Any) -> None:
    torch.save(content, folder / "model.ckpt")

    assert refusal(folder) == "FOLDER/model.ckpt is not a flat mapping of names to tensors."


def test_a_page_instead_of_weights_is_refused(folder: Path) -> None:
    (folder / "model.ckpt").write_text("<!doctype html>")

    assert "truncated or no checkpoint" in refusal(folder)


def test_missing_files_are_named(folder: Path, tmp_path: Path) -> None:
    assert refusal(folder) == "FOLDER has neither model.safetensors nor model.ckpt."
    assert refusal(tmp_path / "nowhere") == "FOLDER/config.yaml is missing."


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_converted_file_gives_the_same_network_in_its_precision(folder: Path, dtype: torch.dtype) -> None:
    shutil.copyfile(TINY / "model.ckpt", folder / "model.ckpt")

    written = convert(folder, folder, dtype)

    assert written == folder / "model.safetensors"
    assert torch.equal(code_of(load(folder, dtype=dtype)), code_of(load(TINY, dtype=dtype)))
    assert not [name for name in load_file(written) if "pooler" in name]
    assert load_file(written)["decoder.layers.0.weight"].dtype == torch.float32
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.yaml",
        "dino_config.json",
        "model.ckpt",
        "model.safetensors",
    ]


def test_what_does_not_fit_is_not_converted(folder: Path, weights: dict[str, Tensor]) -> None:
    del weights[BIAS]
    torch.save(weights, folder / "model.ckpt")

    with pytest.raises(CheckpointError, match=f"{BIAS} is missing"):
        convert(folder / "model.ckpt", folder)

    assert not (folder / "model.safetensors").exists()


def test_a_configuration_s_references_are_followed(folder: Path) -> None:
    tree = yaml.safe_load((folder / "config.yaml").read_text())
    tree["backbone"]["in_channels"] = "${tokenizer.num_channels}"
    tree["post_processor"]["in_channels"] = "${backbone.in_channels}"
    (folder / "config.yaml").write_text(yaml.safe_dump(tree))
    shutil.copyfile(TINY / "model.safetensors", folder / "model.safetensors")

    assert torch.equal(code_of(load(folder)), code_of(load(TINY)))


@pytest.mark.parametrize(
    ("part", "key", "value", "message"),
    [
        (
            None,
            "decoder_cls",
            "os.system",
            "decoder_cls is 'os.system', must be 'tsr.models.network_utils.NeRFMLP'.",
        ),
        (None, "decoder_cls", None, "decoder_cls is None, must be"),
        ("tokenizer", "plane_size", ..., "tokenizer.plane_size is missing."),
        ("tokenizer", "plane_size", "32", "tokenizer.plane_size is '32', must be a whole number above 0."),
        ("tokenizer", "plane_side", 4, "tokenizer.plane_side is not known."),
        (
            "backbone",
            "in_channels",
            "${tokenizer.width}",
            "refers to ${tokenizer.width}, which is not there.",
        ),
        ("backbone", "in_channels", "${backbone.in_channels}", "refers to itself"),
        ("backbone", "in_channels", 65, "backbone.in_channels is 65, must be 64."),
        ("backbone", "attention_bias", True, "backbone.attention_bias is True, must be False."),
        ("backbone", "norm_num_groups", 7, "64 channels cannot be split into 7 groups."),
        ("decoder", "in_channels", 8, "decoder.in_channels is 8, must be 24."),
        ("renderer", "density_activation", ..., "renderer.density_activation is missing."),
        ("renderer", "radius", "wide", "renderer.radius is 'wide', must be a number."),
    ],
)
def test_a_configuration_that_is_not_understood_is_refused(
    folder: Path, part: str | None, key: str, value: Any, message: str
) -> None:
    tree = yaml.safe_load((folder / "config.yaml").read_text())
    section = tree[part] if part else tree
    section[key] = value
    if value is ...:
        del section[key]
    (folder / "config.yaml").write_text(yaml.safe_dump(tree))

    said = refusal(folder)

    assert said.startswith("FOLDER/config.yaml: ")
    assert message in said


def test_another_vit_must_be_described(folder: Path) -> None:
    (folder / "dino_config.json").unlink()
    assert "cross_attention_dim is 32, must be 768" in refusal(folder)

    (folder / "dino_config.json").write_text('{"hidden_size": 32, "hidden_act": "relu"}')
    assert refusal(folder) == "FOLDER/dino_config.json: hidden_act is 'relu', must be 'gelu'."


@pytest.mark.parametrize("content", ["[1]", "a: [", ""])
def test_a_damaged_configuration_is_named(folder: Path, content: str) -> None:
    (folder / "config.yaml").write_text(content)

    assert refusal(folder).startswith("FOLDER/config.yaml ")
