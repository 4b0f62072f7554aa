"""A command starts quickly: it loads only what it needs."""

import subprocess
import sys

HEAVY = {"PIL", "alembic", "httpx", "numpy", "onnxruntime", "scipy", "supabase", "torch", "uvicorn"}


def test_no_command_waits_for_the_libraries_of_another() -> None:
    """`worker status` and all others load these modules, and no part of the daemon's."""
    code = "import sys, worker.cli.app; print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(found.stdout.split())
    assert loaded & HEAVY == set()
    assert [name for name in loaded if name.startswith("worker.daemon")] == []
