"""What a run reports while it trains: progress bar, `metrics.jsonl`, last row, and a hint if it waits for data."""

import json
import logging
from typing import Any

from tqdm.auto import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ProgressCallback

from ...system.devices import cores_of_this_process
from ...system.durable_files import write_text
from ...system.progress_bars import are_drawn
from ...system.run_folder import RunFolder
from .monitor import Row

logger = logging.getLogger("lejepa_hf")

_TOLERATED_WAIT = 0.1
_TOLERATED_ALONE = 0.5  # without workers: up to here a worker would take more of the cores than it gives back


class ProgressBar(ProgressCallback):
    """
    The progress bar of transformers, with loss, speed and the share of time spent waiting for data, where it can be
    seen. It prints no logs: [`LogLines`] does.
    """

    def on_train_begin(self, args: object, state: TrainerState, control: object, **kwargs: object) -> None:
        """Begin the bar."""
        self.current_step = 0
        if state.is_world_process_zero:
            self.training_bar: Any = tqdm(total=state.max_steps, dynamic_ncols=True, disable=not are_drawn())

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: object, logs: Row | None = None, **kwargs: object
    ) -> None:
        """Refresh the figures."""
        if self.training_bar is not None and logs and "images_per_second" in logs:
            doing = "waiting for data" if args.dataloader_num_workers else "cutting views"
            self.training_bar.set_postfix_str(
                f"loss {logs['loss']:.4g}, {logs['images_per_second']:.0f} images/s, "
                f"{logs['data_wait_fraction']:.0%} {doing}"
            )


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
            if not self.run.path.is_dir():
                logger.warning(
                    f"`output_dir` {str(self.run.path)!r} was deleted or moved while the run trains. It is made again "
                    f"for what comes from step {state.global_step} on."
                )
                self.run.path.mkdir(parents=True)
            with self.run.metrics.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": state.global_step, **logs}) + "\n")


class LastRow(TrainerCallback):
    """Logs the last step too, where the last epoch ends before its number of steps, which is rounded up."""

    def on_step_end(self, args: object, state: TrainerState, control: TrainerControl, **kwargs: object) -> None:
        """Request the row."""
        control.should_log = control.should_log or state.global_step >= state.max_steps


class DataHint(TrainerCallback):
    """
    Warns once, with a remedy, when more than a tenth of the time is spent waiting for data, or, on a CPU without
    workers, more than half of it.
    """

    def __init__(self) -> None:
        self._windows = 0

    def on_train_begin(self, args: object, state: TrainerState, control: object, **kwargs: object) -> None:
        """Reset the count."""
        self._windows = 0

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: object, logs: Row | None = None, **kwargs: object
    ) -> None:
        """Warn at the third row that waited too long."""
        waited = (logs or {}).get("data_wait_fraction", 0.0)
        is_alone = args.device.type == "cpu" and not args.dataloader_num_workers
        if not state.is_world_process_zero or waited <= (_TOLERATED_ALONE if is_alone else _TOLERATED_WAIT):
            return
        self._windows += 1
        if self._windows == 3:  # in the first steps workers start and buffers fill
            logger.warning(
                f"{waited:.0%} of the time is spent waiting for data (`data_wait_fraction`). "
                + _remedy(args.dataloader_num_workers, cores_of_this_process(), args.device.type)
            )


def _remedy(num_workers: int, cores: int, device: str) -> str:
    if device == "cpu" and not num_workers and cores > 1:
        return "Set `dataloader_num_workers` to 1, which reads images and cuts views beside training."
    if device == "cpu":
        return "Training and cutting views share the CPU: fewer or smaller views, or an accelerator, speed it up."
    if num_workers < cores:
        return f"Raise `dataloader_num_workers` from {num_workers} to {cores}, the cores this process has."
    return (
        f"All {cores} cores of this process are at work: give it more cores, store images no larger than the crops "
        "need, or cut fewer views."
    )
