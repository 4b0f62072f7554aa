"""The benchmark of the queue at its smallest: it measures, and what must not happen does not happen."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest
from conftest import files_below, until

BENCHMARK = Path(__file__).parents[1] / "benchmarks" / "queue.py"


@pytest.mark.long
def test_the_bench_prints_what_the_queue_promises_as_one_document(u2netp: Path) -> None:
    done = subprocess.run(
        [sys.executable, BENCHMARK, "--quick", "--json"],
        env=os.environ | {"WORKER_WEIGHTS_DIR": str(u2netp)},
        cwd="/",
        stdout=subprocess.PIPE,
        check=True,
    )
    found = json.loads(done.stdout)
    assert set(found["pickup_ms"]["listen"]) == {"p50", "p95"}
    assert set(found["pickup_ms"]["poll"]) == {"interval", "p95"}
    assert set(found["statements_per_s"]) == {"idle", "busy"}
    assert isinstance(found["commit_ms"], float)
    assert set(found["settled_per_s"]) == {"1", "4"}
    assert set(found["settled_per_s"]["1"]) == {
        "bare",
        "claim_and_end",
        "whole_job",
        "ratio",
        "wal_kb",
    }
    assert len(found["retaken_s"]) == 1
    assert found["lease_s"] == 3
    assert found["frozen_writes"] == 0
    assert [(outage["lost"], outage["exits"]) for outage in found["outages"]] == [(0, 0)]
    assert found["fair_after_claims"] <= 2


@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells what runs")
@pytest.mark.parametrize("starting", ["postmaster.pid", "bench-0.log"])
def test_sigterm_leaves_nothing_behind(u2netp: Path, starting: str) -> None:
    # Not in pytest's folder, into which Postgres cannot look: as root it runs as nobody.
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        folder.chmod(0o755)

        def left() -> list[Path]:
            """Processes whose command or environment names the folder."""
            found = []
            for file in (*Path("/proc").glob("[0-9]*/environ"), *Path("/proc").glob("[0-9]*/cmdline")):
                with suppress(OSError):
                    if name.encode() in file.read_bytes():
                        found.append(file)
            return found

        bench = subprocess.Popen(
            [sys.executable, BENCHMARK, "--quick"],
            env=os.environ | {"WORKER_WEIGHTS_DIR": str(u2netp), "TMPDIR": name},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        until(lambda: any(file.name == starting for file in files_below(folder)), 60)
        assert left()
        bench.send_signal(signal.SIGTERM)
        assert bench.wait(60) != 0
        # A child that was just beginning has yet to see that its daemon is gone.
        until(lambda: not left(), 60)
        assert list(folder.iterdir()) == []
