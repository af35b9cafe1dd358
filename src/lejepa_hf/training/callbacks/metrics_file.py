"""MetricsFile: every logged row in `metrics.jsonl`, one JSON object a line."""

import json
from pathlib import Path

from transformers import TrainerCallback, TrainerState

from ...system.durable_files import write_text
from .monitor import Row


class MetricsFile(TrainerCallback):
    """Writes every logged row to a file; a resumed run first drops the rows of the steps that it will repeat."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def on_train_begin(self, args: object, state: TrainerState, control: object, **kwargs: object) -> None:
        """Drop the rows after the step at which the run continues, and a line that was cut short."""
        if state.is_world_process_zero and self.path.exists():
            lines = self.path.read_text(encoding="utf-8").splitlines()
            rows = [json.loads(line) for line in lines if line.endswith("}")]
            kept = [json.dumps(row) + "\n" for row in rows if row["step"] <= state.global_step and state.global_step]
            write_text(self.path, "".join(kept))

    def on_log(
        self, args: object, state: TrainerState, control: object, logs: Row | None = None, **kwargs: object
    ) -> None:
        """Append the row."""
        if state.is_world_process_zero and logs:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": state.global_step, **logs}) + "\n")
