"""Prepare the processes of a daemon that a test starts. Python imports this at its start because the folder is on PYTHONPATH,
which reaches the child as well.

The child gets the smallest models of `small`. With PYTHON_ROGUE set, daemon and child obey the orders of `rogue` too.
"""

import os
import sys
import traceback

try:
    if "worker.compute.main" in sys.orig_argv:
        import small

        small.install()
    if "PYTHON_ROGUE" in os.environ:
        import rogue

        rogue.install()
except Exception:  # noqa: BLE001 - whatever it is
    # Python would only print the error and go on without the changes.
    traceback.print_exc()
    os._exit(70)
