"""``python -m ops.testbed``; ``ops/testbed/run`` makes the environment first."""

import sys

from .cli import main

sys.exit(main(sys.argv[1:]))
