"""`worker bench queue`, at its smallest: it measures, and what must not happen does not happen."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.long
def test_the_bench_prints_what_the_queue_promises_as_one_document(u2netp: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "worker", "bench", "queue", "--quick", "--json"],
        env=os.environ | {"WORKER_WEIGHTS_DIR": str(u2netp)},
        cwd="/",
        stdout=subprocess.PIPE,
        check=True,
    )
    found = json.loads(done.stdout)
    assert set(found["pickup_ms"]["listen"]) == {"p50", "p95"}
    assert set(found["pickup_ms"]["poll"]) == {"interval", "p95"}
    assert set(found["statements_per_s"]) == {"idle", "busy"}
    assert set(found["settled_per_s"]) == {"bare", "ours"}
    assert len(found["retaken_s"]) == 1
    assert found["lease_s"] == 3
    assert found["frozen_writes"] == 0
    assert [(outage["lost"], outage["exits"]) for outage in found["outages"]] == [(0, 0)]
    assert found["fair_after_claims"] <= 2
