"""`lejepa demo` with the arguments of this script, for a process that has imported already."""

import sys

from lejepa_hf.cli import main

raise SystemExit(main(["demo", *sys.argv[1:]]))
