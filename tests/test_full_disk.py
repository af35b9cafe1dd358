"""A disk without room for a checkpoint."""

from pathlib import Path

import pytest
from processes import Script

from lejepa_hf.training.checkpoints import complete_checkpoints

ROOT = Path(__file__).parent.parent
RUN = [ROOT / "recipes/digits/resnet_tiny.yaml", "--per_device_train_batch_size", "8", "--save_steps", "2"]
RUN += ["--eval_strategy", "no", "--eval_split", "null", "--dataloader_num_workers", "0", "--use_cpu"]
ROOM = 200_000  # bytes a file: enough for every file of a run but weights and moments


def run(folder: Path, *arguments: str, room: int = 0) -> tuple[int, str]:
    """Exit code and what was printed."""
    output = folder.with_name(f"output-{room}.txt")
    output.unlink(missing_ok=True)
    process = Script(ROOT / "train.py", [*RUN, "--output_dir", folder, *arguments], output, room=room)
    return process.wait(100), output.read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_last_good_checkpoint_stays_and_the_error_says_what_to_do(tmp_path):
    folder = tmp_path / "run"
    code, printed = run(folder, "--max_steps", "2")
    assert code == 0, printed[-3000:]
    code, printed = run(folder, "--max_steps", "2", "--resume", room=ROOM)  # no step left, only the model to save
    assert code == 1 and "Traceback" not in printed, printed[-3000:]
    (error,) = [line for line in printed.splitlines() if line.startswith("error: ")]
    assert "File too large" in error and "Make room, then continue with `--resume`" in error
    before = {path: path.read_bytes() for path in (folder / "checkpoint-2").iterdir()}
    code, printed = run(folder, "--max_steps", "6", "--save_total_limit", "1", "--resume", room=ROOM)
    assert code == 1, printed[-3000:]
    errors = [line for line in printed.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and "checkpoint-4 could not be written" in errors[0]
    assert f"the last complete one is {folder}/checkpoint-2. Make room" in errors[0] and "MiB are free" in errors[0]
    assert "Traceback" not in printed
    assert {path: path.read_bytes() for path in (folder / "checkpoint-2").iterdir()} == before
    assert [path.name for path in complete_checkpoints(folder)] == ["checkpoint-2"]
    assert not list(folder.glob("*being_written*"))

    code, printed = run(folder, "--max_steps", "6", "--save_total_limit", "1", "--resume")
    assert code == 0, printed[-3000:]
    assert [path.name for path in folder.glob("checkpoint-*")] == ["checkpoint-6"]
