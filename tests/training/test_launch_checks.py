"""Launches that would quietly run something else than asked, by the launchers themselves."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
RUN = ["train.py", "recipes/digits/resnet_tiny.yaml", "--max_steps", "2", "--per_device_train_batch_size", "8"]
RUN += ["--save_strategy", "no", "--eval_split", "null", "--dataloader_num_workers", "0"]
ACCELERATE = ["-m", "accelerate.commands.launch", "--main_process_port", "0"]

pytestmark = pytest.mark.skipif(torch.accelerator.is_available(), reason="for machines without an accelerator")


def launch(folder: Path, *command: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *command, "--output_dir", str(folder)],
        cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=100,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("launcher", "message"),
    [
        pytest.param(
            ["--cpu", "--num_processes", "2", "--num_machines", "1"],
            "was set to several processes but started one",
            id="one process for two",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ["--config_file", "recipes/accelerate/fsdp2.yaml", "--num_processes", "2"],
            "FSDP is requested, but",
            id="DDP for FSDP",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_refused_with_the_command_that_does_it(tmp_path, launcher, message):
    done = launch(tmp_path / "run", *ACCELERATE, *launcher, *RUN)
    assert done.returncode != 0
    error = next(line for line in done.stderr.splitlines() if line.startswith("error: "))
    assert message in error and "`torchrun --nproc-per-node N -m lejepa_hf train RECIPE --use_cpu`" in error
    assert not list((tmp_path / "run").glob("*"))


@pytest.mark.slow
def test_two_processes_train_together(tmp_path):
    """By accelerate; by torchrun in test_pretraining.py."""
    done = launch(tmp_path / "run", *ACCELERATE, "--config_file", "recipes/accelerate/cpu.yaml", *RUN)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Training on 2 processes, DDP over gloo on cpu, fp32." in done.stdout
    assert done.stdout.count("Everything is in") == 1


def test_ranks_that_are_set_to_different_values_are_refused(two_processes):
    said = two_processes(ROOT / "tests" / "two_process_failure.py", "settings")
    for rank in (0, 1):
        assert f"rank {rank}: `seed` is 0 on rank 0, but 1 on rank 1: start all processes with the same" in said
        assert f"rank {rank}: `seed` is None on rank 0, but 0 on rank 1" in said


@pytest.mark.slow
def test_a_run_folder_on_one_node_alone_is_refused(tmp_path):
    train = shlex.join([sys.executable, *RUN, "--output_dir"])
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone", "--no-python",
         "bash", "-c", f"exec {train} {tmp_path}/node$RANK"],
        cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert done.returncode != 0
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert errors and all("rank 1 does not see what rank 0 writes there" in error for error in errors)
