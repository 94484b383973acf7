"""Converts a published checkpoint into weights that flowhelm opens: `python -m flowhelm.priors.published.convert`, whose help says how."""

import sys

from flowhelm.priors.published.convert import main

if __name__ == "__main__":
    sys.exit(main())
