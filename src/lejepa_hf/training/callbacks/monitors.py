"""
Callbacks that watch a run.

One that has `observe(embeddings, labels)` is shown the detached embeddings of every training batch, on all ranks; what
its `measure()` returns joins the logged row, as the mean over ranks. `save_state(folder)` and `load_state(folder)` are
called with the checkpoint.
"""

import json
import logging
import time
from pathlib import Path

import torch
from transformers import TrainerCallback
from transformers.trainer_callback import ProgressCallback

from ...evaluation.rank import rank_and_spread
from ...system.durable_files import write_text
from ...training_args import cores_of_this_process
from .health import HealthWatch
from .online_probe import OnlineProbe

__all__ = [
    "DataHint", "EmbeddingMonitor", "HealthWatch", "MetricsFile", "MonitorCost", "OnlineProbe", "ProgressBar",
]  # fmt: skip

logger = logging.getLogger("lejepa_hf")

_TOLERATED_WAIT = 0.1


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
            write_text(self.path, "".join(kept))

    def on_log(self, args, state, control, logs=None, **kwargs):
        if state.is_world_process_zero and logs:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a") as file:
                file.write(json.dumps({"step": state.global_step, **logs}) + "\n")


class EmbeddingMonitor(TrainerCallback):
    """
    `effective_rank`, `embedding_spread` and `smallest_spread` of the global views of the batch at hand when a row is
    logged, see [`~evaluation.rank.rank_and_spread`]. Between rows it does nothing that the device would notice.

    Args:
        num_global_views (`int`): The first so many views.
    """

    def __init__(self, num_global_views: int):
        self.num_global_views = num_global_views
        self._embeddings: torch.Tensor | None = None

    def observe(self, embeddings: torch.Tensor, labels: torch.Tensor | None) -> None:
        self._embeddings = embeddings[: self.num_global_views].detach()

    def measure(self) -> dict[str, float]:
        return {} if self._embeddings is None else rank_and_spread(self._embeddings.flatten(0, 1))


class MonitorCost:
    """
    Time that goes into monitors, as a context manager around them: `monitor_seconds`, since the last row, and
    `monitor_fraction`, their share of the run since this process began to train, in [0, 1].
    """

    def __init__(self):
        self._run_begin = time.perf_counter()
        self._window, self._total = 0.0, 0.0

    def __enter__(self):
        self._begin = time.perf_counter()

    def __exit__(self, *_):
        self.last = time.perf_counter() - self._begin
        self._window += self.last

    def measure(self) -> dict[str, float]:
        """The figures; begins a new window."""
        self._total += self._window
        window, self._window = self._window, 0.0
        return {
            "monitor_seconds": window,
            "monitor_fraction": self._total / (time.perf_counter() - self._run_begin),
        }


class ProgressBar(ProgressCallback):
    """The Trainer's bar, with the loss, the speed and the share of the time spent waiting for data beside it."""

    def on_log(self, args, state, control, logs=None, **kwargs):
        super().on_log(args, state, control, logs=logs, **kwargs)
        if self.training_bar is not None and logs and "images_per_second" in logs:
            self.training_bar.set_postfix_str(
                f"loss {logs['loss']:.4g}, {logs['images_per_second']:.0f} images/s, "
                f"{logs['data_wait_fraction']:.0%} waiting for data"
            )


class DataHint(TrainerCallback):
    """Says once what to do when more than a tenth of the time goes into waiting for data."""

    def __init__(self):
        self._windows = 0

    def on_train_begin(self, args, state, control, **kwargs):
        self._windows = 0

    def on_log(self, args, state, control, logs=None, **kwargs):
        if not state.is_world_process_zero or not logs or "data_wait_fraction" not in logs:
            return
        self._windows += logs["data_wait_fraction"] > _TOLERATED_WAIT
        # The first steps wait for workers to start and buffers to fill.
        if logs["data_wait_fraction"] > _TOLERATED_WAIT and self._windows == 3:
            logger.warning(
                f"{logs['data_wait_fraction']:.0%} of the time goes into waiting for data (`data_wait_fraction`). "
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
