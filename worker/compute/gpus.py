"""The GPUs as NVIDIA's driver lists them to a program. Each question is asked in a process of its own.

Torch would keep a context on each GPU, and a driver may crash or hang. `CUDA_VISIBLE_DEVICES` has many forms (numbers,
UUIDs, parts of a GPU by MIG), so the driver itself is asked what they mean.
"""

import ctypes
import json
import subprocess
import sys
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from worker.compute.environment import child_environment
from worker.core.settings import ConfigError

KERNEL = Path("/proc/driver/nvidia/gpus")  # a folder for each GPU, where NVIDIA's kernel module is loaded
ANSWER_S = 60  # a driver that was not in use starts the GPU first
NO_DEVICE = 100  # CUDA's own error codes
ATTRIBUTES = (75, 76)  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and …_MINOR


class Gpu(NamedTuple):
    """One GPU, or a part of one."""

    id: str  # as CUDA_VISIBLE_DEVICES names it
    name: str
    memory_gb: float
    capability: str  # "8.9"
    uuid: str


class Found(NamedTuple):
    """The GPUs that may be used, and what is wrong with the list of them, in sentences."""

    gpus: Sequence[Gpu]
    warnings: Sequence[str] = ()


def find(wanted: str | None) -> Found:
    """Find the GPUs of this host, or those that `wanted` names as CUDA_VISIBLE_DEVICES does.

    Raises: ConfigError for a GPU that is not there, and where the kernel lists GPUs of which CUDA finds none.
    """
    if wanted is None:
        answer = _ask({None: None})[None]
        gpus = [Gpu(str(n), **gpu) for n, gpu in enumerate(answer["gpus"])]
        if not gpus and (there := _in_kernel()):
            raise ConfigError(
                f"NVIDIA's kernel module lists {there} GPUs, and CUDA finds none: {answer['error'] or 'no device'}. "
                "Give them to the container (docker run --gpus all), or set WORKER_DEVICE=cpu."
            )
        return Found(gpus)
    ids, warnings = _parse(wanted)
    answers = _ask({name: name for name in ids})
    gpus = []
    for name in ids:
        answer = answers[name]
        if not answer["gpus"]:
            raise ConfigError(
                f"CUDA_VISIBLE_DEVICES names GPU {name}, which CUDA does not find: {answer['error'] or 'no such device'}. "
                "Name GPUs that `nvidia-smi -L` lists, unset it to use all of them, or set WORKER_DEVICE=cpu."
            )
        gpu = Gpu(name, **answer["gpus"][0])
        if same := [other.id for other in gpus if other.uuid == gpu.uuid]:
            warnings.append(
                f"CUDA_VISIBLE_DEVICES names one GPU as {same[0]} and as {name}: it is used once."
            )
        else:
            gpus.append(gpu)
    return Found(gpus, warnings)


def _parse(wanted: str) -> tuple[list[str], list[str]]:
    """Return the ids in CUDA_VISIBLE_DEVICES, each once, and a warning for each entry that is left out."""
    ids: list[str] = []
    warnings: list[str] = []
    if not wanted.strip():
        return ids, warnings  # empty: no GPU
    for entry in (part.strip() for part in wanted.split(",")):
        if not entry:
            warnings.append(f"CUDA_VISIBLE_DEVICES has an empty entry, which is left out: '{wanted}'.")
        elif entry.startswith("-") or entry == "NoDevFiles":
            break  # CUDA ends the list there: the usual way to name no GPU
        elif entry in ids:
            warnings.append(
                f"CUDA_VISIBLE_DEVICES names GPU {entry} twice: it is used once, and WORKER_LANES sets its lanes."
            )
        else:
            ids.append(entry)
    return ids, warnings


def _in_kernel() -> int:
    try:
        return sum(1 for _ in KERNEL.iterdir())
    except OSError:
        return 0


def _ask(visible: Mapping[Any, str | None]) -> dict[Any, dict[str, Any]]:
    """Ask the driver once for each value of CUDA_VISIBLE_DEVICES, all at the same time."""
    asked = {}
    for key, value in visible.items():
        environment = child_environment()
        environment.pop("CUDA_VISIBLE_DEVICES", None)
        if value is not None:
            environment["CUDA_VISIBLE_DEVICES"] = value
        asked[key] = subprocess.Popen(
            [sys.executable, "-m", "worker.compute.gpus"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
        )
    return {key: _answer(process) for key, process in asked.items()}


def _answer(process: "subprocess.Popen[bytes]") -> dict[str, Any]:
    try:
        output, _ = process.communicate(timeout=ANSWER_S)
        found: dict[str, Any] = json.loads(output)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return {"gpus": [], "error": f"the driver did not answer within {ANSWER_S} s"}
    except ValueError:
        return {"gpus": [], "error": f"the driver ended the process, exit status {process.returncode}"}
    return found


def main() -> None:
    """Print what the driver says, as JSON."""
    try:
        print(json.dumps({"gpus": list_gpus(ctypes.CDLL("libcuda.so.1")), "error": ""}))  # noqa: T201 - the answer
    except OSError as error:
        print(json.dumps({"gpus": [], "error": str(error)}))  # noqa: T201 - the answer


def list_gpus(cuda: Any) -> list[dict[str, Any]]:
    """List the GPUs that CUDA's driver API shows to this process. Raises: OSError with its error code."""

    def call(name: str, *arguments: object) -> None:
        if code := getattr(cuda, name)(*arguments):
            raise OSError(f"{name} failed with CUDA's error {code}")

    if (code := cuda.cuInit(0)) == NO_DEVICE:
        return []
    if code:
        raise OSError(f"cuInit failed with CUDA's error {code}")
    count = ctypes.c_int()
    call("cuDeviceGetCount", ctypes.byref(count))
    gpus = []
    for n in range(count.value):
        device, memory = ctypes.c_int(), ctypes.c_size_t()
        name, identity = ctypes.create_string_buffer(256), (ctypes.c_ubyte * 16)()
        call("cuDeviceGet", ctypes.byref(device), n)
        call("cuDeviceGetName", name, len(name), device)
        call("cuDeviceTotalMem_v2", ctypes.byref(memory), device)
        call("cuDeviceGetUuid_v2", ctypes.byref(identity), device)
        capability = [ctypes.c_int() for _ in ATTRIBUTES]
        for value, attribute in zip(capability, ATTRIBUTES, strict=True):
            call("cuDeviceGetAttribute", ctypes.byref(value), attribute, device)
        gpus.append(
            {
                "name": name.value.decode(errors="replace"),
                "memory_gb": round(memory.value / 1e9, 1),
                "capability": ".".join(str(value.value) for value in capability),
                "uuid": str(uuid.UUID(bytes=bytes(identity))),
            }
        )
    return gpus


if __name__ == "__main__":
    main()
