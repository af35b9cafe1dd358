import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytestmark = [] if torch.cuda.is_available() else [pytest.mark.slow]  # the interpreter takes its time


def test_fused_kernels():
    """On a GPU where there is one, else through Triton's interpreter."""
    pytest.importorskip("triton", reason="Triton is made for Linux")
    environment = dict(os.environ) if torch.cuda.is_available() else os.environ | {"TRITON_INTERPRET": "1"}
    script = Path(__file__).with_name("fused_photometric.py")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(script)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
