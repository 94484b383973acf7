"""`python -m flowhelm` is the same as `flowhelm`."""

import sys

from .interfaces.cli import main

sys.exit(main())
