"""accelerate launch train.py RECIPE [--key value ...]"""

import sys

from lejepa_hf.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
