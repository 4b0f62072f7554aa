"""Replay a day of jobs with the scaling rule of docs/kubernetes/keda.yaml and with fixed fleets: `python tests/benchmarks/scaling.py [--json]`.

A model, computed and not measured: a pod has some lanes, a job takes its seconds in one, a pod is ready some time after it was
wanted, and one that is taken away finishes its jobs first. It gives the seconds that jobs wait, and the hours of all hosts.
"""

import argparse
import json
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
DAY_S = 86_400


@dataclass(frozen=True)
class Rule:
    """The autoscaler's settings."""

    target: float  # jobs for each pod
    least: int
    most: int
    every_s: int
    calm_s: int  # a pod is taken away only if none was wanted more for so long

    @classmethod
    def read(cls) -> "Rule":
        """Read docs/kubernetes/keda.yaml."""
        yaml: Any = import_module("yaml")  # comes with the manifests' validator
        documents = yaml.safe_load_all((ROOT / "docs" / "kubernetes" / "keda.yaml").read_text())
        spec = next(each["spec"] for each in documents if each["kind"] == "ScaledObject")
        behaviour = spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
        return cls(
            target=float(spec["triggers"][0]["metadata"]["targetQueryValue"]),
            least=spec["minReplicaCount"],
            most=spec["maxReplicaCount"],
            every_s=spec["pollingInterval"],
            calm_s=behaviour["scaleDown"]["stabilizationWindowSeconds"],
        )

    @classmethod
    def fixed(cls, pods: int) -> "Rule":
        """Keep so many pods."""
        return cls(target=1, least=pods, most=pods, every_s=DAY_S, calm_s=0)


@dataclass(frozen=True)
class Host:
    """What a pod can do: figures of docs/operations.md, by arithmetic."""

    lanes: int = 4
    job_s: float = 16.0
    start_s: int = 120  # a node with a GPU is there; the weights are fetched and loaded


@dataclass
class Pod:
    """A pod, and when each of its lanes is free."""

    ready_at: float
    free_at: list[float] = field(default_factory=list)
    leaving: bool = False


def replay(arrivals: Sequence[float], rule: Rule, host: Host) -> dict[str, float]:
    """Do the jobs that arrive at these seconds of a day. Returns waits and host-hours."""
    pods = [Pod(-1.0, [0.0] * host.lanes) for _ in range(rule.least)]
    waiting: list[float] = []
    waits: list[float] = []
    wanted_lately: list[tuple[float, int]] = []
    host_s, now, n = 0.0, 0.0, 0
    while n < len(arrivals) or waiting:
        while n < len(arrivals) and arrivals[n] <= now:
            waiting.append(arrivals[n])
            n += 1
        for pod in pods:
            if pod.leaving or pod.ready_at > now:
                continue
            for lane, free_at in enumerate(pod.free_at):
                if waiting and free_at <= now:
                    waits.append(now - waiting.pop(0))
                    pod.free_at[lane] = now + host.job_s
        if now % rule.every_s == 0:
            running = sum(free_at > now for pod in pods for free_at in pod.free_at)
            wanted = min(rule.most, max(rule.least, math.ceil((len(waiting) + running) / rule.target)))
            wanted_lately = [(at, pods_) for at, pods_ in wanted_lately if at > now - rule.calm_s]
            wanted_lately.append((now, wanted))
            staying = [pod for pod in pods if not pod.leaving]
            new = max(0, wanted - len(staying))
            pods += [Pod(now + host.start_s, [0.0] * host.lanes) for _ in range(new)]
            for pod in staying[max(pods_ for _, pods_ in wanted_lately) :]:
                pod.leaving = True
        pods = [pod for pod in pods if not pod.leaving or any(free_at > now for free_at in pod.free_at)]
        host_s += len(pods)
        now += 1
    host_s += max(0.0, DAY_S - now) * rule.least
    waits.sort()
    return {
        "jobs": len(waits),
        "wait_p50_s": round(waits[len(waits) // 2], 1),
        "wait_p95_s": round(waits[len(waits) * 95 // 100], 1),
        "wait_max_s": round(waits[-1], 1),
        "host_hours": round(host_s / 3600, 1),
    }


def steady(seed: int, jobs: int = 20_000) -> list[float]:
    """Merchants add products all day, most of them in the afternoon."""
    chance = random.Random(seed)
    return sorted(chance.gauss(15 * 3600, 4 * 3600) % DAY_S for _ in range(jobs))


def imports(seed: int) -> list[float]:
    """Some shops import their whole catalogue at once."""
    chance = random.Random(seed)
    whole = [hour * 3600 + chance.uniform(0, 60) for hour in (3, 9, 10, 19) for _ in range(1500)]
    return sorted([*steady(seed, 4_000), *whole])


TRACES: dict[str, Callable[[int], list[float]]] = {"steady": steady, "imports": imports}


def run() -> list[dict[str, Any]]:
    """Replay each trace with the rule and with fixed fleets."""
    host = Host()
    rules = {"keda.yaml": Rule.read()} | {f"{pods} hosts": Rule.fixed(pods) for pods in (1, 2, 4, 8)}
    return [
        {"trace": trace, "fleet": name, **replay(make(1), rule, host)}
        for trace, make in TRACES.items()
        for name, rule in rules.items()
    ]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    found = run()
    if parser.parse_args().json:
        print(json.dumps(found, indent=2))
        return
    for row in found:
        print(
            f"{row['trace']:8} {row['fleet']:10} p50 {row['wait_p50_s']:8} s  p95 {row['wait_p95_s']:8} s  "
            f"longest {row['wait_max_s']:8} s  {row['host_hours']:6} host-hours"
        )


if __name__ == "__main__":
    main()
