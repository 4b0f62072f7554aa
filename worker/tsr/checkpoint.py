"""The weights' files: read strictly, never executed, and converted to a file that loads fast."""

import contextlib
import os
import pickle
import pickletools
import re
import warnings
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import IO

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from worker.tsr import config as configuration
from worker.tsr.config import CheckpointError, Config, one_line
from worker.tsr.model import TripoSR

SAFETENSORS = "model.safetensors"  # preferred to CKPT
CKPT = "model.ckpt"
LISTED = 4  # keys in a message; of another network all keys are wrong

# Present in the files and unused: the last layer of a classifier on the ViT's class token.
POOLER = re.compile(r"image_tokenizer\.model\.pooler\.dense\.(weight|bias)")

VIT = "image_tokenizer.model."
# The names of the ViT's parts in transformers 5, and in the official checkpoint.
RENAMED = {
    "attention.q_proj": "attention.attention.query",
    "attention.k_proj": "attention.attention.key",
    "attention.v_proj": "attention.attention.value",
    "attention.o_proj": "attention.output.dense",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
    "layernorm_before": "layernorm_before",
    "layernorm_after": "layernorm_after",
}
NEW_NAME = re.compile(rf"{re.escape(VIT)}layers\.(\d+)\.({'|'.join(map(re.escape, RENAMED))})\.(weight|bias)")


def load(
    folder: str | Path, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> TripoSR:
    """Load the network with the weights of a folder.

    `config.yaml` has the shapes, and `dino_config.json` those of the ViT if they are not the official ones. On the CPU,
    in the precision of the file, the weights of `model.safetensors` or `model.ckpt` stay mapped to the file: they load
    at once, and the system may drop them from memory. So replace such a file, and never write into it.

    Args:
        folder: the folder of the files.
        device: the device of the network.
        dtype: the precision of the transformers: float32, float16 or bfloat16. The field is always float32.

    From here on this process computes float32 without TF32, whose ten bits of mantissa would move vertices.

    Raises:
        CheckpointError: a file is missing or damaged, contains code, or does not fit config.yaml key by key.
    """
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = (
        False  # the convolutions have a switch of their own, which is on by default
    )
    config = configuration.read(Path(folder))
    path = weights_file(Path(folder))
    model, weights = _fit(path, config, dtype)
    placed = {name: tensor.to(device) for name, tensor in weights.items()}
    model.load_state_dict(placed, strict=True, assign=True)
    return model.eval()


def convert(source: str | Path, target: str | Path, dtype: torch.dtype = torch.float32) -> Path:
    """Write `model.safetensors`, whole or not at all. Return its path.

    Args:
        source: a folder as for `load`, or the file in it to convert.
        target: the folder or the file to write. The configuration is read from `source`'s folder.
        dtype: the precision of the transformers' matrices. All other tensors are float32.

    Raises:
        CheckpointError: as `load`.
    """
    path = Path(source) if Path(source).is_file() else weights_file(Path(source))
    target = Path(target) / SAFETENSORS if Path(target).is_dir() else Path(target)
    _, weights = _fit(path, configuration.read(path.parent), dtype)
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        save_file({name: tensor.contiguous() for name, tensor in weights.items()}, part, {"format": "pt"})
        with part.open("rb") as written:
            os.fsync(written.fileno())
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
    return target


def layout(config: Config) -> dict[str, torch.Size]:
    """Return the name and shape of each tensor in a published checkpoint, the unused ones included."""
    width = config.vit.hidden_size
    pooler = {"weight": torch.Size([width, width]), "bias": torch.Size([width])}
    shapes = {name: tensor.shape for name, tensor in _empty(config, torch.float32).state_dict().items()}
    return shapes | {f"{VIT}pooler.dense.{name}": shape for name, shape in pooler.items()}


def _empty(config: Config, dtype: torch.dtype) -> TripoSR:
    """Build the network without memory for its weights. It has no buffers, whose values this would lose."""
    with torch.device("meta"):
        return TripoSR(config, dtype)


def weights_file(folder: Path) -> Path:
    """Return the file from which `load` takes the weights. Raises: CheckpointError if there is none."""
    for name in (SAFETENSORS, CKPT):
        if (folder / name).is_file():
            return folder / name
    raise CheckpointError(f"{folder} has neither {SAFETENSORS} nor {CKPT}.")


def _fit(path: Path, config: Config, dtype: torch.dtype) -> tuple[TripoSR, dict[str, Tensor]]:
    """Return the network without weights, and the file's weights under the network's names, in its precisions."""
    found = _official_names(_read_safetensors(path) if path.suffix == ".safetensors" else _read_ckpt(path))
    wanted = layout(config)
    wrong = [
        *_listed("is missing", (name for name in wanted if name not in found and not POOLER.fullmatch(name))),
        *_listed("is not known", (name for name in found if name not in wanted)),
        *_listed(
            "",
            (
                f"{name} is {tuple(found[name].shape)}, must be {tuple(shape)}"
                for name, shape in wanted.items()
                if name in found and found[name].shape != shape
            ),
        ),
        *_listed("is not of floating point", (name for name in found if not found[name].is_floating_point())),
    ]
    if wrong:
        raise CheckpointError(f"{path} does not fit config.yaml: {'; '.join(wrong)}.")
    model = _empty(config, dtype)
    return model, {name: found[name].to(tensor.dtype) for name, tensor in model.state_dict().items()}


def _listed(what: str, names: Iterable[str]) -> list[str]:
    named = [f"{name} {what}".rstrip() for name in names]
    more = len(named) - LISTED
    return [*named[:LISTED], f"and {more} more"] if more > 0 else named


def _official_names(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the tensors of a file that has no official name of a layer. It is checked as strictly as any other."""
    if any(name.startswith(f"{VIT}encoder.layer.") for name in tensors):
        return tensors
    return {
        NEW_NAME.sub(lambda new: f"{VIT}encoder.layer.{new[1]}.{RENAMED[new[2]]}.{new[3]}", name): tensor
        for name, tensor in tensors.items()
    }


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as opened:
            return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - not iterable itself
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} is truncated or damaged, {path.stat().st_size:,} bytes: {one_line(error)}"
        ) from None


def _read_ckpt(path: Path) -> dict[str, Tensor]:
    """Read a pickle without executing it. Raises: CheckpointError, which names the code if the file contains any."""
    archive = zipfile.is_zipfile(path)
    with path.open("rb") as opened:
        beginning = opened.read(4)
    if not archive and beginning == b"PK\x03\x04":
        raise CheckpointError(f"{path} is truncated, {path.stat().st_size:,} bytes: its end is missing.")
    try:
        with warnings.catch_warnings(action="ignore"):  # of an unusual pickle: it loads, or raises
            tensors = torch.load(path, map_location="cpu", weights_only=True, mmap=archive)
    except pickle.UnpicklingError:
        if code := _code(path):
            raise CheckpointError(
                f"{path} contains code ({code}), not only weights, and was not executed."
            ) from None
        raise CheckpointError(
            f"{path} is truncated or no checkpoint, {path.stat().st_size:,} bytes; it was not executed."
        ) from None
    except (RuntimeError, OSError, ValueError, EOFError, KeyError, AttributeError, TypeError) as error:
        raise CheckpointError(
            f"{path} is truncated or damaged, {path.stat().st_size:,} bytes: {one_line(error)}"
        ) from None
    if not isinstance(tensors, dict) or not all(isinstance(tensor, Tensor) for tensor in tensors.values()):
        raise CheckpointError(f"{path} is not a flat mapping of names to tensors.")
    return tensors


def _code(path: Path) -> str | None:
    """Return the first function that a refused pickle would have called, without executing it; None if there is none."""
    strings: list[str] = []
    try:
        with contextlib.ExitStack() as stack:
            opened: IO[bytes] = stack.enter_context(path.open("rb"))
            if zipfile.is_zipfile(path):
                archive = stack.enter_context(zipfile.ZipFile(path))
                pickled = next(name for name in archive.namelist() if name.endswith("data.pkl"))
                opened = stack.enter_context(archive.open(pickled))
            for operation, argument, _ in pickletools.genops(opened):
                if operation.name in {"GLOBAL", "INST"}:
                    strings += str(argument).split(" ")
                elif isinstance(argument, str):
                    strings.append(argument)
                if operation.name in {"GLOBAL", "INST", "STACK_GLOBAL"}:
                    module, name = strings[-2:]
                    if module.split(".")[0] not in {"torch", "collections"}:
                        return f"{module}.{name}"
    except (ValueError, StopIteration, OSError):
        return None
    return None
