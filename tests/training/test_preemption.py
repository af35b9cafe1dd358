"""SIGTERM, as a cluster sends it before it takes the machine away, and SIGINT, as Ctrl+C sends it."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from processes import Script

from lejepa_hf.training.preemption import Preemption

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


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
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


def interrupted(folder: Path) -> Script:
    """A run in the middle of training that has received SIGINT, as from Ctrl+C, with its data worker."""
    process = start(folder, 1)
    while len(rows(folder)) < 5:
        assert process.poll() is None, folder.with_suffix(".txt").read_text()[-3000:]
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    return process


def test_an_interrupt_saves_and_ends(tmp_path):
    process = interrupted(tmp_path / "run")
    assert process.wait(60) == 128 + signal.SIGINT
    (checkpoint,) = (tmp_path / "run").glob("checkpoint-*")
    step, said = checkpoint.name.removeprefix("checkpoint-"), (tmp_path / "run.txt").read_text()
    assert f"SIGINT: saving step {step}" in said and "Traceback" not in said
    assert said.rstrip().endswith(f"Stopped by SIGINT. The same command with `--resume` continues at step {step}.")


@pytest.mark.slow
def test_a_second_interrupt_ends_at_once(tmp_path):
    process = interrupted(tmp_path / "run")
    while "Ctrl+C again ends at once" not in (tmp_path / "run.txt").read_text():
        assert process.poll() is None, (tmp_path / "run.txt").read_text()[-3000:]
        time.sleep(0.001)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(60) in (-signal.SIGINT, 128 + signal.SIGINT)  # the second one if the first was done already
    assert "Traceback" not in (tmp_path / "run.txt").read_text()


def test_an_interrupt_before_training(tmp_path):
    process = start(tmp_path / "run", 1)
    while "digits: " not in (tmp_path / "run.txt").read_text() if (tmp_path / "run.txt").exists() else True:
        time.sleep(0.001)
    os.killpg(process.pid, signal.SIGINT)
    said = (tmp_path / "run.txt").read_text()
    assert process.wait(60) == 128 + signal.SIGINT and "Traceback" not in said
    assert not list((tmp_path / "run").glob("checkpoint-*")) or "Stopped by SIGINT" in said


def test_an_interrupt_stays_one_in_python_and_ignored_signals_stay_ignored(request):
    preemption = Preemption()
    request.addfinalizer(partial(signal.signal, signal.SIGINT, signal.getsignal(signal.SIGINT)))
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a job in the background has not
    with pytest.raises(KeyboardInterrupt), preemption.listening():
        os.kill(os.getpid(), signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler  # for a second one
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with preemption.listening():
        os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
