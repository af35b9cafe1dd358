"""accelerate launch train.py RECIPE [--key value ...]"""

import sys

from lejepa_hf.runs.pretraining import main

if __name__ == "__main__":
    sys.exit(main())
