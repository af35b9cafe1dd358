"""MetricsFile: every logged row in `metrics.jsonl`, one JSON object a line."""

import json

from transformers import TrainerCallback, TrainerState

from ...system.durable_files import write_text
from ...system.run_folder import RunFolder
from .monitor import Row


class MetricsFile(TrainerCallback):
    """Writes every logged row to a file; a resumed run first drops the rows of the steps that it will repeat."""

    def __init__(self, run: RunFolder) -> None:
        self.run = run

    def on_train_begin(self, args: object, state: TrainerState, control: object, **kwargs: object) -> None:
        """Drop the rows after the step at which the run continues, and a line that was cut short."""
        if state.is_world_process_zero and self.run.metrics.exists():
            rows = self.run.read_rows() if state.global_step else []
            kept = [json.dumps(row) + "\n" for row in rows if row["step"] <= state.global_step]
            write_text(self.run.metrics, "".join(kept))

    def on_log(
        self, args: object, state: TrainerState, control: object, logs: Row | None = None, **kwargs: object
    ) -> None:
        """Append the row."""
        if state.is_world_process_zero and logs:
            self.run.path.mkdir(parents=True, exist_ok=True)
            with self.run.metrics.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": state.global_step, **logs}) + "\n")
