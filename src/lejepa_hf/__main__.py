"""`python -m lejepa_hf`, which launchers of several processes can start."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
