"""What a run shows while it trains: the progress bar, the row of the last step, and a hint if it waits for data."""

import logging

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ProgressCallback

from ...system.devices import cores_of_this_process
from .monitor import Row

logger = logging.getLogger("lejepa_hf")

_TOLERATED_WAIT = 0.1


class ProgressBar(ProgressCallback):
    """The progress bar of transformers, with loss, speed and the share of time spent waiting for data."""

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: object, logs: Row | None = None, **kwargs: object
    ) -> None:
        """Refresh the figures."""
        super().on_log(args, state, control, logs=logs, **kwargs)
        if self.training_bar is not None and logs and "images_per_second" in logs:
            self.training_bar.set_postfix_str(
                f"loss {logs['loss']:.4g}, {logs['images_per_second']:.0f} images/s, "
                f"{logs['data_wait_fraction']:.0%} waiting for data"
            )


class LastRow(TrainerCallback):
    """Logs the last step too, where the last epoch ends before its number of steps, which is rounded up."""

    def on_step_end(self, args: object, state: TrainerState, control: TrainerControl, **kwargs: object) -> None:
        """Request the row."""
        control.should_log = control.should_log or state.global_step >= state.max_steps


class DataHint(TrainerCallback):
    """Warns once, with a remedy, when more than a tenth of the time is spent waiting for data."""

    def __init__(self) -> None:
        self._windows = 0

    def on_train_begin(self, args: object, state: TrainerState, control: object, **kwargs: object) -> None:
        """Reset the count."""
        self._windows = 0

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: object, logs: Row | None = None, **kwargs: object
    ) -> None:
        """Warn at the third row that waited too long."""
        if not state.is_world_process_zero or not logs or "data_wait_fraction" not in logs:
            return
        self._windows += logs["data_wait_fraction"] > _TOLERATED_WAIT
        # In the first steps workers start and buffers fill.
        if logs["data_wait_fraction"] > _TOLERATED_WAIT and self._windows == 3:
            logger.warning(
                f"{logs['data_wait_fraction']:.0%} of the time is spent waiting for data (`data_wait_fraction`). "
                + _remedy(args.dataloader_num_workers, cores_of_this_process(), args.device.type)
            )


def _remedy(num_workers: int, cores: int, device: str) -> str:
    if device == "cpu":
        return "Training and cutting views share the CPU: fewer or smaller views, or an accelerator, speed it up."
    if num_workers < cores:
        return f"Raise `dataloader_num_workers` from {num_workers} to {cores}, the cores this process has."
    return (
        f"All {cores} cores of this process are at work: give it more cores, store images no larger than the crops "
        "need, or cut fewer views."
    )
