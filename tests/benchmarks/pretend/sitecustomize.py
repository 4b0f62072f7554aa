"""Give a daemon's children an engine that waits where a GPU would compute. Python imports this because the folder is on PYTHONPATH.

PYTHON_GPU_S: seconds of the GPU a job, which one child at a time has. PYTHON_WAIT_S: seconds of its downloads and uploads
beyond those of a server next door. PYTHON_GPU_LOCK: a file that stands for the GPU.
"""

import os
import sys
import traceback


def install() -> None:
    """Replace the engine of this child: relief, whose computing stands for that around a network, and the two waits."""
    import fcntl
    import time
    from collections.abc import Sequence
    from pathlib import Path
    from typing import Any

    from worker import engines
    from worker.compute import sandbox
    from worker.core import landlock
    from worker.engines.presets import Preset
    from worker.engines.relief import Relief
    from worker.engines.surface import PosedView, Surface

    class Pretend(Relief):
        def reconstruct(self, views: Sequence[PosedView], preset: Preset) -> Surface:
            time.sleep(float(os.environ["PYTHON_WAIT_S"]))
            with open(os.environ["PYTHON_GPU_LOCK"], "wb") as lock:  # noqa: PTH123 - closed by the block
                fcntl.flock(lock, fcntl.LOCK_EX)
                time.sleep(float(os.environ["PYTHON_GPU_S"]))
            return super().reconstruct(views, preset)

    def load(*_: Any) -> Pretend:
        return Pretend()

    allowed, lock = sandbox.allowed, Path(os.environ["PYTHON_GPU_LOCK"])
    sandbox.allowed = lambda start: allowed(start) | {lock.parent: landlock.WRITE}
    engines.load = load  # type: ignore[assignment]  # its parameters are of no use here


try:
    if "worker.compute.main" in sys.orig_argv:
        install()
except Exception:  # noqa: BLE001 - whatever it is
    # Python would only print the error and go on without the change.
    traceback.print_exc()
    os._exit(70)
