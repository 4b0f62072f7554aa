"""Plan the lanes of this host: their number on each device, their cores, and why."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from worker import engines
from worker.compute import gpus
from worker.compute.gpus import Gpu
from worker.core.settings import Settings
from worker.engines import EngineSpec

CGROUP = Path("/sys/fs/cgroup")  # the limits of a container
MEMORY = Path("/proc/meminfo")
CPU = "cpu"
CORES_OF_A_CPU_LANE = 2  # without a GPU the engine itself computes on several


@dataclass(frozen=True, kw_only=True)
class Device:
    """A device, and the lanes on it."""

    id: str  # a GPU as CUDA_VISIBLE_DEVICES names it, or `cpu`
    lanes: int
    threads: (
        int | None
    )  # of each lane, for libraries that compute with several; None: what they take by themselves
    reason: str
    gpu: Gpu | None = None

    @property
    def names(self) -> list[str]:
        """The names of the lanes: `0.0`, `0.1`, `cpu.0`."""
        return [f"{self.id}.{n}" for n in range(self.lanes)]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The devices of this host, and what is wrong with the settings that name them, in sentences."""

    devices: Sequence[Device]
    warnings: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class Host:
    """What the lanes share out."""

    cores: int
    memory_gb: float  # free

    @classmethod
    def measure(cls) -> "Host":
        """Read what this process may use: of the machine, or of its container."""
        return cls(cores=_cores(), memory_gb=_free_memory_gb())


def plan(settings: Settings, host: Host | None = None) -> Plan:
    """Share the host out between lanes. Does not import torch. Raises: ConfigError."""
    spec = engines.find(settings.engine)
    host = host or Host.measure()
    found = gpus.Found([])
    if "cuda" in spec.devices and settings.device in {"auto", "cuda"}:
        found = gpus.find(settings.cuda_visible_devices)
    usable: list[Gpu | None] = [*found.gpus] or [None]
    return Plan(
        devices=[_share(settings, spec, host, gpu, devices=len(usable)) for gpu in usable],
        warnings=found.warnings,
    )


def _share(settings: Settings, spec: EngineSpec, host: Host, gpu: Gpu | None, *, devices: int) -> Device:
    """Give one of so many devices its lanes."""
    ram_gb = spec.gpu_ram_gb if gpu else spec.ram_gb
    limits = {
        f"{host.cores} cores": host.cores // devices // (1 if gpu else CORES_OF_A_CPU_LANE),
        f"{host.memory_gb:.0f} GB of free memory for {ram_gb:g} GB a lane": int(
            host.memory_gb / devices / ram_gb
        ),
    }
    if gpu:
        limits[f"{gpu.memory_gb:.0f} GB on the GPU for {spec.vram_gb:g} GB a lane"] = int(
            gpu.memory_gb / spec.vram_gb
        )
    decides = min(limits, key=lambda limit: limits[limit])
    lanes, reason = max(1, limits[decides]), decides if devices == 1 else f"{decides}, {devices} GPUs"
    if settings.lanes != "auto":
        lanes, reason = settings.lanes, "WORKER_LANES"
    return Device(
        id=gpu.id if gpu else CPU,
        lanes=lanes,
        threads=max(1, host.cores // (lanes * devices)) if lanes * devices > 1 else None,
        reason=reason,
        gpu=gpu,
    )


def _cores() -> int:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    match _read(CGROUP / "cpu.max").split():
        case [quota, period] if quota.isdigit() and period.isdigit():
            return max(1, min(usable, round(int(quota) / int(period))))
    return usable


def _free_memory_gb() -> float:
    lines = dict(line.split(":", 1) for line in _read(MEMORY).splitlines() if ":" in line)
    free = (
        int(lines["MemAvailable"].split()[0]) * 1024
        if "MemAvailable" in lines
        else os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    )
    limit = _read(CGROUP / "memory.max").strip()
    return min(free, int(limit) if limit.isdigit() else free) / 1e9


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""
