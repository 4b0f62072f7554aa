"""`python -m worker` is the same as `worker`."""

import sys

from worker.cli.main import main

sys.exit(main())
