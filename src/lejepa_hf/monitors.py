"""Callbacks that watch a run."""

import json
from pathlib import Path

from transformers import TrainerCallback


class MetricsFile(TrainerCallback):
    """
    Writes every logged row to `metrics.jsonl` in the run folder, one JSON object a line.

    A resumed run first drops the rows of steps it is about to repeat.

    Args:
        path (`str` or `Path`): The file.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)

    def on_train_begin(self, args, state, control, **kwargs):
        if state.is_world_process_zero and self.path.exists():
            rows = [json.loads(line) for line in self.path.read_text().splitlines() if line.endswith("}")]
            kept = [json.dumps(row) + "\n" for row in rows if row["step"] <= state.global_step and state.global_step]
            self.path.write_text("".join(kept))

    def on_log(self, args, state, control, logs=None, **kwargs):
        if state.is_world_process_zero and logs:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a") as file:
                file.write(json.dumps({"step": state.global_step, **logs}) + "\n")
