"""The entry of the child process: it gives up what no job needs, and then loads the models and serves the daemon.

Nothing of the models is imported before that: a library starts threads, and Linux would leave to them what we give up.
"""

import gc
import os
import signal
import sys

from worker.compute import linux, protocol, sandbox
from worker.compute.protocol import Start


def main() -> None:
    """Serve the daemon whose process id is the argument, until it closes standard input."""
    linux.die_with_parent()
    if os.getppid() != int(sys.argv[1]):
        sys.exit("The daemon that started this child is gone.")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a person's Ctrl-C is for the daemon, which tells us
    # Standard output is for the daemon alone: what libraries print goes to standard error.
    output = os.dup(1)
    os.dup2(2, 1)
    start = protocol.decode_to_child(sys.stdin.buffer.readline())
    if not isinstance(start, Start):
        sys.exit("The first message is not Start.")
    if start.sandbox:
        sandbox.shut_in(start)
    gc.disable()  # imports leave no garbage, and looking for it takes a fifth of the start
    from worker.compute import child  # noqa: PLC0415 - see above

    gc.enable()
    child.serve(start, sys.stdin.buffer, output)


if __name__ == "__main__":
    main()
