import subprocess
import sys
from pathlib import Path

import pytest
from error_line import one_line

from lejepa_hf.cli.train_command import run_training

ROOT = Path(__file__).parents[2]


def test_what_needs_no_run(capsys):
    assert run_training(["digits/vit_tiny", "--help"]) == 0 and "usage: lejepa train" in capsys.readouterr().out
    assert run_training([]) == 2 and "usage: lejepa train" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["digits/resnet_tinny"], ["digits/vit_tiny", "--max_steps", "0"]])
def test_a_mistake_is_one_line(arguments, capsys):
    assert run_training(arguments) == 2
    assert one_line(capsys.readouterr().err).startswith("error: ")


@pytest.mark.slow
def test_a_mistake_is_all_that_a_quiet_launch_prints():
    launcher = ["-m", "accelerate.commands.launch", "--quiet", "--config_file", "recipes/accelerate/single_cpu.yaml"]
    command = [sys.executable, *launcher, "train.py", "digits/resnet_tinny"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode != 0 and done.stdout == ""
    assert one_line(done.stderr).startswith("error: No recipe 'digits/resnet_tinny'")
