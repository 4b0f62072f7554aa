"""Count the lanes that a host gets, and name its GPUs. The driver's answers are planted: no GPU is needed here."""

import ctypes
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from worker.compute import gpus, lanes
from worker.compute.environment import child_environment
from worker.compute.gpus import Gpu
from worker.compute.lanes import Host
from worker.compute.process import Child
from worker.core.settings import ConfigError, Settings
from worker.engines import ENGINES

GIB = 1 << 30
L4: dict[str, Any] = {"name": "NVIDIA L4", "memory_gb": 23.7, "capability": "8.9", "uuid": "a"}
T1000: dict[str, Any] = {"name": "NVIDIA T1000 8GB", "memory_gb": 8.3, "capability": "7.5", "uuid": "b"}
H100 = {"name": "NVIDIA H100", "memory_gb": 85.0, "capability": "9.0", "uuid": "c"}
MIG = {"name": "NVIDIA H100 MIG 1g.10gb", "memory_gb": 10.5, "capability": "9.0", "uuid": "d"}


def settings(**changes: Any) -> Settings:
    return Settings().model_copy(
        update={"engine": "triposr", "device": "auto", "lanes": "auto", "cuda_visible_devices": None}
        | changes
    )


@pytest.fixture(autouse=True)
def no_kernel_module(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(gpus, "KERNEL", tmp_path / "gpus")
    return tmp_path / "gpus"


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> dict[Any, Any]:
    """What the driver answers for each value of CUDA_VISIBLE_DEVICES; None is the key for an unset one."""
    known: dict[Any, Any] = {}

    def ask(visible: dict[Any, str | None]) -> dict[Any, Any]:
        return {key: {"gpus": known.get(key, []), "error": known.get("error", "")} for key in visible}

    monkeypatch.setattr(gpus, "_ask", ask)
    return known


@pytest.mark.parametrize(
    ("cores", "memory_gb", "gpu", "found", "reason"),
    [
        (2, 21, None, (1, None), "2 cores"),
        (1, 1, None, (1, None), "1 cores"),
        (16, 128, None, (8, 2), "16 cores"),
        (64, 32, None, (5, 12), "32 GB of free memory for 6 GB a lane"),
        (8, 64, L4, (8, 1), "8 cores"),
        (32, 128, L4, (11, 2), "24 GB on the GPU for 2 GB a lane"),
        (16, 64, T1000, (4, 4), "8 GB on the GPU for 2 GB a lane"),
        (64, 40, H100, (11, 5), "40 GB of free memory for 3.5 GB a lane"),
        (64, 512, MIG, (5, 12), "10 GB on the GPU for 2 GB a lane"),
    ],
)
def test_auto_goes_by_what_is_scarcest(
    driver: dict[Any, Any],
    cores: int,
    memory_gb: float,
    gpu: dict[str, Any] | None,
    found: tuple[int, int | None],
    reason: str,
) -> None:
    driver[None] = [gpu] if gpu else []
    (device,) = lanes.plan(settings(), Host(cores=cores, memory_gb=memory_gb)).devices
    assert (device.lanes, device.threads) == found
    assert device.reason == reason
    assert device.names[0] == ("0.0" if gpu else "cpu.0")


def test_gpus_share_the_host() -> None:
    usable = [Gpu("0", **L4), Gpu("GPU-b", **T1000)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpus, "find", lambda _wanted: gpus.Found(usable))
        plan = lanes.plan(settings(), Host(cores=16, memory_gb=128))
        by_hand = lanes.plan(settings(lanes=3), Host(cores=16, memory_gb=128))
    assert [(each.id, each.lanes, each.threads) for each in plan.devices] == [("0", 8, 1), ("GPU-b", 4, 2)]
    assert plan.devices[1].names == ["GPU-b.0", "GPU-b.1", "GPU-b.2", "GPU-b.3"]
    assert [(each.lanes, each.reason) for each in by_hand.devices] == [(3, "WORKER_LANES")] * 2


def test_an_engine_for_cpus_alone_asks_no_driver(driver: dict[Any, Any]) -> None:
    driver[None] = [L4, H100]
    for changes in ({"engine": "relief"}, {"device": "cpu"}, {"cuda_visible_devices": ""}):
        plan = lanes.plan(settings(**changes), Host(cores=4, memory_gb=64))
        assert [(each.id, each.lanes) for each in plan.devices] == [("cpu", 2)]


def test_each_id_is_asked_of_the_driver_and_used_once(driver: dict[Any, Any]) -> None:
    driver |= {"1": [L4], "GPU-a": [L4], "MIG-d": [MIG], "2": [H100], "3": [H100]}
    found = gpus.find("1, ,MIG-d,1,GPU-a,2,-1,3")
    assert [gpu.id for gpu in found.gpus] == ["1", "MIG-d", "2"]
    assert [gpu.name for gpu in found.gpus] == [L4["name"], MIG["name"], H100["name"]]
    empty, twice, same = found.warnings
    assert "an empty entry" in empty
    assert "GPU 1 twice" in twice
    assert "WORKER_LANES" in twice
    assert "as 1 and as GPU-a" in same
    with pytest.raises(
        ConfigError, match=r"names GPU 7, which CUDA does not find: no such device.*nvidia-smi -L"
    ):
        gpus.find("1,7")
    assert gpus.find("-1").gpus == []
    assert [each.id for each in lanes.plan(settings(cuda_visible_devices="-1")).devices] == ["cpu"]


@pytest.mark.parametrize("wanted", [None, ""])
def test_a_host_without_a_gpu_has_the_cpu(
    driver: dict[Any, Any], no_kernel_module: Path, wanted: str | None
) -> None:
    """Also where the kernel module is loaded and lists none, which was once no lane at all."""
    for _ in range(2):
        plan = lanes.plan(settings(cuda_visible_devices=wanted), Host(cores=2, memory_gb=20))
        assert not plan.warnings
        assert [each.names for each in plan.devices] == [["cpu.0"]]
        no_kernel_module.mkdir(exist_ok=True)
    assert not driver


def test_a_container_without_its_host_s_gpus_is_told_so(
    driver: dict[Any, Any], no_kernel_module: Path
) -> None:
    """/proc is the host's, and lists them; CUDA finds none. It must not become lanes on the CPU."""
    (no_kernel_module / "0000:01:00.0").mkdir(parents=True)
    driver["error"] = "libcuda.so.1: cannot open shared object file"
    with pytest.raises(
        ConfigError, match=r"lists 1 GPUs, and CUDA finds none: libcuda.*--gpus all.*WORKER_DEVICE=cpu"
    ):
        lanes.plan(settings())
    assert lanes.plan(settings(device="cpu")).devices[0].id == "cpu"


def test_a_container_without_proc_uses_what_cuda_finds(
    driver: dict[Any, Any], no_kernel_module: Path
) -> None:
    """As on WSL 2."""
    assert not no_kernel_module.exists()
    driver[None] = [L4]
    (device,) = lanes.plan(settings(), Host(cores=4, memory_gb=64)).devices
    assert device.names == ["0.0", "0.1", "0.2", "0.3"]


class Cuda:
    """CUDA's driver API with two GPUs, called as ctypes calls it."""

    code = 0

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments: self.call(name, *[getattr(each, "_obj", each) for each in arguments])

    def call(self, name: str, *arguments: Any) -> int:
        match name, arguments:
            case "cuInit", (0,):
                return self.code
            case "cuDeviceGetCount", (count,):
                count.value = 2
            case "cuDeviceGet", (device, n):
                device.value = n + 10
            case "cuDeviceGetName", (name, size, device):
                assert size == len(name)
                name.value = b"GPU %d" % device.value
            case "cuDeviceTotalMem_v2", (memory, device):
                memory.value = device.value * GIB
            case "cuDeviceGetUuid_v2", (identity, device):
                identity[15] = device.value
            case "cuDeviceGetAttribute", (value, attribute, device):
                value.value = {75: 8, 76: device.value - 10}[attribute]
            case _:
                return 1
        return 0


def test_the_driver_is_asked_by_its_c_api() -> None:
    assert isinstance(ctypes.byref(ctypes.c_int()), object)
    first, second = gpus.list_gpus(Cuda())
    assert first == {
        "name": "GPU 10",
        "memory_gb": 10.7,
        "capability": "8.0",
        "uuid": "00000000-0000-0000-0000-00000000000a",
    }
    assert (second["capability"], second["memory_gb"]) == ("8.1", 11.8)
    none, broken = Cuda(), Cuda()
    none.code, broken.code = 100, 803
    assert gpus.list_gpus(none) == []
    with pytest.raises(OSError, match="cuInit failed with CUDA's error 803"):
        gpus.list_gpus(broken)


@pytest.mark.integration  # a process
def test_the_process_that_asks_answers_also_where_there_is_no_driver() -> None:
    said = subprocess.run([sys.executable, "-m", "worker.compute.gpus"], stdout=subprocess.PIPE, check=True)
    answer = json.loads(said.stdout)
    assert answer["gpus"] or answer["error"].startswith("libcuda.so.1")
    found: dict[Any, Any] = getattr(gpus, "_ask")({"0": "0"})  # noqa: B009 - private to its module
    assert found.keys() == {"0"}


def test_containers_share_out_what_they_may_use(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(lanes, "CGROUP", tmp_path)
    monkeypatch.setattr(lanes, "MEMORY", tmp_path / "meminfo")
    (tmp_path / "meminfo").write_text(
        "MemTotal: 64000000 kB\nMemAvailable: 32000000 kB\nHugePages_Total: 0\n"
    )
    whole = Host.measure()
    assert whole.memory_gb == pytest.approx(32.768)
    (tmp_path / "cpu.max").write_text("100000 100000\n")
    (tmp_path / "memory.max").write_text("8000000000\n")
    assert Host.measure() == Host(cores=1, memory_gb=8)
    (tmp_path / "cpu.max").write_text("max 100000\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert Host.measure() == whole


def test_the_cores_of_a_lane_reach_its_child(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)

    def environment(child: Child) -> dict[str, str]:
        found: dict[str, str] = getattr(child, "_environment")()  # noqa: B009 - private to its module
        return found

    alone, shared = Child(Settings(), "cpu"), Child(Settings(), "MIG-d", 3)
    assert "OMP_NUM_THREADS" not in environment(alone)
    assert environment(alone)["CUDA_VISIBLE_DEVICES"] == ""
    assert environment(shared) == child_environment() | {
        "OMP_NUM_THREADS": "3",
        "CUDA_VISIBLE_DEVICES": "MIG-d",
    }
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert environment(shared)["OMP_NUM_THREADS"] == "7", "whoever sets it knows better"


def test_the_table_of_engines_says_what_a_lane_on_a_gpu_needs() -> None:
    for spec in ENGINES.values():
        if "cuda" in spec.devices:
            assert spec.gpu_ram_gb > 0
            assert spec.vram_gb > 0
