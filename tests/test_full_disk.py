"""A disk without room for a checkpoint."""

import os
import resource
import subprocess
import sys
from pathlib import Path

from lejepa_hf.training.checkpoints import complete_checkpoints

ROOT = Path(__file__).parent.parent
RUN = ["train.py", "recipes/digits/resnet_tiny.yaml", "--per_device_train_batch_size", "8", "--save_steps", "2"]
RUN += ["--eval_strategy", "no", "--eval_split", "null", "--dataloader_num_workers", "0"]
ROOM = 200_000  # bytes a file: enough for every file of a run but weights and moments


def run(folder: Path, *arguments: str, room: int | None = None) -> subprocess.CompletedProcess:
    def limit() -> None:
        if room is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))

    return subprocess.run(
        [sys.executable, *RUN, "--output_dir", str(folder), *arguments], preexec_fn=limit,
        cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=100,
    )  # fmt: skip


def test_the_last_good_checkpoint_stays_and_the_error_says_what_to_do(tmp_path):
    folder = tmp_path / "run"
    assert run(folder, "--max_steps", "2").returncode == 0
    before = {path: path.read_bytes() for path in (folder / "checkpoint-2").iterdir()}
    done = run(folder, "--max_steps", "6", "--save_total_limit", "1", "--resume", room=ROOM)
    assert done.returncode == 1
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and "checkpoint-4 could not be written" in errors[0]
    assert f"the last complete one is {folder}/checkpoint-2. Make room" in errors[0] and "MiB are free" in errors[0]
    assert "Traceback" not in done.stderr
    assert {path: path.read_bytes() for path in (folder / "checkpoint-2").iterdir()} == before
    assert [path.name for path in complete_checkpoints(folder)] == ["checkpoint-2"]
    assert not list(folder.glob("*being_written*"))

    done = run(folder, "--max_steps", "6", "--save_total_limit", "1", "--resume")
    assert done.returncode == 0, done.stderr[-3000:]
    assert [path.name for path in folder.glob("checkpoint-*")] == ["checkpoint-6"]
