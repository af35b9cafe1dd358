"""Two nodes on one machine, each with its own torchrun: what ends one ends or restarts both, and no step is lost."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image
from processes import run_script

ROOT = Path(__file__).parent.parent
STEPS = 60
RUN = ["digits/vit_tiny", "--max_steps", str(STEPS), "--save_steps", "4", "--save_total_limit", "100"]
RUN += ["--logging_steps", "1", "--eval_strategy", "no", "--eval_split", "null", "--dataloader_num_workers", "0"]
RUN += ["--projector_norm", "layer", "--projector_dims", "16", "8", "--train_split", "train[:200]", "--use_cpu"]

# What the batch script needs of SLURM: its tasks, one on each node, all get a signal that srun gets.
SRUN = """#!/bin/bash
shift  # its option
for node in $(seq "$SLURM_NNODES"); do "$@" >>"$NODES/node$node.txt" 2>&1 & tasks+=($!); done
trap 'kill -TERM "${tasks[@]}"' TERM
for task in "${tasks[@]}"; do
  while wait "$task"; status=$?; kill -0 "$task" 2>/dev/null; do :; done
  [ "$status" = 0 ] || failed=$status
done
exit "${failed:-0}"
"""
SCONTROL = """#!/bin/bash
if [ "$1" = show ]; then echo localhost; else echo "$@" >>"$NODES/requeued.txt"; fi
"""


def free_port() -> int:
    """One of those that the batch script may choose by the number of its job."""
    for port in range(20000 + os.getpid() % 5000, 30000):
        with socket.socket() as found:
            if found.connect_ex(("localhost", port)):
                return port
    raise AssertionError("no free port")


@pytest.fixture
def submit(tmp_path):
    """Start the batch script of docs/imagenet.md as SLURM does; what is left of it is killed at the end."""
    (tmp_path / "bin").mkdir()
    for name, text in {"srun": SRUN, "scontrol": SCONTROL}.items():
        (tmp_path / "bin" / name).write_text(text, encoding="utf-8")
        (tmp_path / "bin" / name).chmod(0o755)
    page = (ROOT / "docs" / "imagenet.md").read_text(encoding="utf-8")
    (script,) = [block for block in re.findall(r"```bash\n(.*?)```", page, re.DOTALL) if "#SBATCH" in block]
    (tmp_path / "pretrain.sh").write_text(script, encoding="utf-8")
    path = os.pathsep.join([str(tmp_path / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]])
    job = {"SLURM_JOB_ID": str(free_port() - 20000), "SLURM_NNODES": "2", "SLURM_JOB_NODELIST": "localhost"}
    environment = os.environ | job | {"PATH": path, "NODES": str(tmp_path), "OMP_NUM_THREADS": "1"}
    started = []

    def start(*arguments: str) -> subprocess.Popen:
        command = ["bash", str(tmp_path / "pretrain.sh"), *arguments]
        started.append(subprocess.Popen(command, cwd=tmp_path, env=environment, start_new_session=True))
        return started[-1]

    yield start
    for job in started:
        for process in [*descendants(job.pid), job.pid] if job.poll() is None else []:
            os.kill(process, signal.SIGKILL)
        job.wait()


def descendants(process: int) -> list[int]:
    tasks = Path(f"/proc/{process}/task").glob("*/children")
    children = [int(child) for task in tasks for child in task.read_text(encoding="utf-8").split()]
    return [*children, *(one for child in children for one in descendants(child))]


def workers(job: subprocess.Popen) -> list[int]:
    """The training processes of a job, which torchrun has started."""
    commands = {one: Path(f"/proc/{one}/cmdline").read_text(encoding="utf-8") for one in descendants(job.pid)}
    return [one for one, command in commands.items() if "\0lejepa_hf\0train" in command and "torchrun" not in command]


def said(folder: Path) -> str:
    return "".join(path.read_text(encoding="utf-8") for path in sorted(folder.glob("node*.txt")))


def losses(run: Path) -> dict[int, float]:
    path = run / "metrics.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return {row["step"]: row["loss"] for row in map(json.loads, lines) if "loss" in row}


def wait_for_step(run: Path, step: int, job: subprocess.Popen) -> None:
    end = time.monotonic() + 120
    while max(losses(run), default=0) < step:
        assert job.poll() is None and time.monotonic() < end, said(run.parent)[-5000:]
        time.sleep(0.05)


@pytest.mark.slow
def test_a_killed_process_and_a_preempted_job_lose_no_step(tmp_path, submit):
    expected, output = tmp_path / "undisturbed", tmp_path / "undisturbed.txt"
    run, half = tmp_path / "run", tmp_path / "half"
    two = [*RUN, "--per_device_train_batch_size", "8", "--output_dir"]
    codes = run_script(ROOT / "train.py", [*two, expected], output, processes=2)
    assert codes == [0, 0], output.read_text(encoding="utf-8")[-5000:]

    job = submit(*two, str(run))
    wait_for_step(run, 6, job)
    os.kill(workers(job)[1], signal.SIGKILL)
    end = time.monotonic() + 120
    while said(tmp_path).count("Training on 2 processes") < 2:  # torchrun starts all of them again
        assert job.poll() is None and time.monotonic() < end, said(tmp_path)[-5000:]
        time.sleep(0.05)
    reached = max(losses(run))
    wait_for_step(run, reached + 3, job)
    job.terminate()
    assert job.wait(60) == 0 and (tmp_path / "requeued.txt").is_file(), said(tmp_path)[-5000:]
    newest = max(int(path.name.removeprefix("checkpoint-")) for path in run.glob("checkpoint-*"))
    assert f"SIGTERM: saving step {newest} and stopping" in said(tmp_path)
    assert not (run / "encoder").exists()

    shutil.copytree(run, half)  # goes on with one process instead of two
    one = [*RUN, "--per_device_train_batch_size", "16", "--output_dir", half, "--resume"]
    assert run_script(ROOT / "train.py", one, tmp_path / "half.txt", processes=1) == [0]

    assert submit(*two, str(run)).wait(120) == 0, said(tmp_path)[-5000:]
    assert (run / "encoder").is_dir()
    assert losses(run) == losses(expected)
    assert losses(half) == pytest.approx(losses(expected), rel=1e-5)


@pytest.mark.slow
def test_what_one_node_refuses_ends_both_in_one_line(tmp_path):
    """Before the processes are joined, for which the other node would wait half an hour."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"]
    torchrun += ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"localhost:{free_port()}", "--rdzv-id", "1"]
    train = ["-m", "lejepa_hf", "train", *RUN, "--dataset", "./photos", "--output_dir", str(tmp_path / "run")]
    disks = [tmp_path / "first", tmp_path / "second"]
    for folder in (disks[0] / "photos", disks[1]):
        folder.mkdir(parents=True)
    for number in range(20):
        Image.new("L", (16, 16), number).save(disks[0] / "photos" / f"{number}.png")
    nodes = [subprocess.Popen([*torchrun, *train], cwd=disk, stderr=subprocess.PIPE, text=True) for disk in disks]
    for node, start in zip(nodes, ("rank [01], ValueError: ", ""), strict=True):
        (error,) = [line for line in node.communicate(timeout=60)[1].splitlines() if line.startswith("error: ")]
        assert node.returncode != 0 and re.match(rf"error: {start}`dataset` '\./photos': no such folder", error)
    assert not (tmp_path / "run").exists()
