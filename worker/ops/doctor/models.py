"""The models: their weights on the disk, and torch on the device that shall run them."""

import json
import subprocess
import sys
from collections.abc import Iterator

from worker import engines
from worker import weights as on_disk
from worker.compute.environment import child_environment
from worker.compute.lanes import plan
from worker.core.finding import Finding, advice, fail, from_error, ok, unreachable
from worker.core.settings import ConfigError, Settings

TORCH_S = 150

# In a process of its own: torch is large, keeps a context on each GPU, and may crash where a driver does not fit.
PROBE = """
import json, torch
gpus = []
if torch.cuda.is_available():
    for n in range(torch.cuda.device_count()):
        a = torch.rand(256, 256, device=f"cuda:{n}")
        assert torch.isfinite(a @ a).all().item()
        free, total = torch.cuda.mem_get_info(n)
        gpus.append({"name": torch.cuda.get_device_name(n), "free_gb": free / 1e9, "total_gb": total / 1e9})
mps = torch.backends.mps.is_available()
print(json.dumps({"version": torch.__version__, "cuda": torch.version.cuda, "gpus": gpus, "mps": mps}))
"""


def weights(settings: Settings) -> Iterator[Finding]:
    """Check that the weights are present and unchanged."""
    for name in engines.weights_needed(settings.engine, settings.background_model):
        try:
            path = on_disk.verify(settings.weights_dir, name)
        except on_disk.NotOfficial as error:
            yield advice("weights", str(error), "Nothing to do if this is intended.")
        except on_disk.WeightsMissing as error:
            yield from_error("weights", error)
        else:
            yield ok("weights", f"{name}: verified, {path}")


def _lanes_on_gpus(settings: Settings) -> bool:
    """True if the daemon would give lanes to GPUs: those that CUDA finds, whether or not torch can use them."""
    try:
        return any(device.gpu for device in plan(settings).devices)
    except ConfigError:
        return False  # the check `lanes` says so


def torch(settings: Settings) -> Iterator[Finding]:
    """Compute something on each GPU with torch, in a process of its own."""
    spec = engines.find(settings.engine)
    if spec.devices == ("cpu",):
        yield ok("torch", f"not used by the engine {settings.engine}")
        return
    devices = "" if settings.device == "cpu" else settings.cuda_visible_devices
    seen = child_environment() | ({} if devices is None else {"CUDA_VISIBLE_DEVICES": devices})
    try:
        answer = subprocess.run(
            [sys.executable, "-c", PROBE],
            capture_output=True,
            text=True,
            timeout=TORCH_S,
            env=seen,
            check=False,
        )
    except subprocess.TimeoutExpired:
        yield unreachable(
            "torch",
            f"no answer within {TORCH_S} s",
            "Check that nvidia-smi answers; a GPU that hangs needs a reset.",
        )
        return
    if answer.returncode:
        last = (answer.stderr.strip().splitlines() or [f"exit status {answer.returncode}"])[-1][:300]
        yield fail(
            "torch",
            f"it does not work: {last}",
            "Update NVIDIA's driver to one that supports this torch, or install a torch for this driver.",
        )
        return
    found = json.loads(answer.stdout)
    for gpu in found["gpus"]:
        text = f"{found['version']} computes on {gpu['name']}, {gpu['free_gb']:.1f} of {gpu['total_gb']:.1f} GB free"
        if gpu["total_gb"] < spec.vram_gb:
            yield advice(
                "torch",
                f"{text}; {settings.engine} needs about {spec.vram_gb:g} GB",
                "Name another GPU in CUDA_VISIBLE_DEVICES, or set WORKER_DEVICE=cpu.",
            )
        else:
            yield ok("torch", text)
    if found["gpus"]:
        return
    if (
        settings.device == "cuda"
        or devices
        or _lanes_on_gpus(settings)
        or (settings.device == "mps" and not found["mps"])
    ):
        built = f"built for CUDA {found['cuda']}" if found["cuda"] else "built without CUDA"
        yield fail(
            "torch",
            f"torch {found['version']}, {built}, sees no GPU",
            "Install the lock's torch from the package index (not its CPU build) and NVIDIA's driver, or set "
            "WORKER_DEVICE=cpu.",
        )
    else:
        yield ok(
            "torch",
            f"{found['version']} on {'MPS' if found['mps'] and settings.device != 'cpu' else 'the CPU'}",
        )
