"""SIGTERM, as a cluster sends it before it takes the machine away."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from processes import Script

ROOT = Path(__file__).parents[2]
STEPS = 24
RUN = ["recipes/digits/resnet_tiny.yaml", "--max_steps", str(STEPS), "--save_steps", "1000"]
RUN += ["--logging_steps", "1", "--eval_strategy", "no", "--eval_split", "null", "--dataloader_num_workers", "1"]
RUN += ["--use_cpu", "true"]


def start(folder: Path, processes: int, *arguments: str) -> subprocess.Popen | Script:
    """One process has imported already; several are started by torchrun, whose way with signals is tested as well."""
    batch = ["--per_device_train_batch_size", str(16 // processes)]
    command = [str(ROOT / RUN[0]), *RUN[1:], *batch, "--output_dir", str(folder), *arguments]
    if processes == 1:
        return Script(ROOT / "train.py", command, folder.with_suffix(".txt"))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes), "--standalone"]
    with folder.with_suffix(".txt").open("a") as output:
        return subprocess.Popen(
            [*launcher, "train.py", *command], cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=output, stderr=output, start_new_session=True,
        )  # fmt: skip


def rows(folder: Path) -> list[dict]:
    path = folder / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def losses(folder: Path) -> list[tuple[int, float]]:
    return [(row["step"], row["loss"]) for row in rows(folder) if "loss" in row]


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_checkpoint_at_once_and_the_run_goes_on_as_if_nothing_had_happened(tmp_path, processes):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert start(whole, processes).wait(200) == 0, whole.with_suffix(".txt").read_text()[-3000:]

    process = start(stopped, processes)
    while len(rows(stopped)) < 5:
        assert process.poll() is None, stopped.with_suffix(".txt").read_text()[-3000:]
        time.sleep(0.02)
    if processes == 1:
        os.killpg(process.pid, signal.SIGTERM)  # as a terminal or a container does: its data worker is hit as well
        assert process.wait(60) == 128 + signal.SIGTERM
    else:
        process.terminate()  # the launcher hands it on
        assert process.wait(60) != 0
    (checkpoint,) = stopped.glob("checkpoint-*")
    step = int(checkpoint.name.removeprefix("checkpoint-"))
    said = stopped.with_suffix(".txt").read_text()
    assert 5 <= step < STEPS and f"SIGTERM: saving step {step}" in said
    assert f"Stopped by SIGTERM. The same command with `--resume` continues at step {step}." in said
    assert processes > 1 or "Traceback" not in said  # torchrun shows its own
    assert not (stopped / "pretraining").exists()

    assert start(stopped, processes, "--resume").wait(200) == 0, stopped.with_suffix(".txt").read_text()[-3000:]
    assert losses(stopped) == losses(whole)
    weights = "pretraining/model.safetensors"
    assert (stopped / weights).read_bytes() == (whole / weights).read_bytes()
    shutil.rmtree(stopped)
