"""`python -m flowhelm` is the same as `flowhelm`."""

import sys

from .app.cli import main

sys.exit(main())
