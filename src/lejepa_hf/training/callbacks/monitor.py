"""Monitor: base of callbacks that watch the embeddings of a run, the time they take, and the first of them."""

import time
from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from transformers import TrainerCallback

from ...evaluation.rank import rank_and_spread
from ...modeling_lejepa import LeJEPAForPreTraining

Row = dict[str, float]  # what is logged at a step, by name


class MonitoredRun(NamedTuple):
    """Facts about a run from which monitors are built."""

    model: LeJEPAForPreTraining  # not wrapped
    num_global_views: int  # they come first among the embeddings
    num_classes: int | None  # of the training images, None without labels
    images_per_statistic: int  # in one SIGReg statistic, over all processes
    device: torch.device  # of the embeddings


class Monitor(TrainerCallback, ABC):
    """A callback that sees the embeddings of every training batch, and adds figures to the logged rows."""

    @abstractmethod
    def observe(self, embeddings: torch.Tensor, labels: torch.Tensor | None) -> None:
        """
        Take in a batch. Called on every rank, in every step; must not wait for the device.

        Args:
            embeddings (`torch.Tensor` of shape `(num_views, batch_size, dim)`): Embeddings of this rank's images,
                detached, global views first.
            labels (`torch.Tensor` of shape `(batch_size,)`, *optional*): Class numbers, -1 for an unknown one.
        """

    @abstractmethod
    def measure(self) -> dict[str, float]:
        """Figures since the last call, the same names on every rank; the logged row has their mean over ranks."""


class HeldOutMonitor(Monitor):
    """A monitor that also measures the labelled held-out images of each evaluation during training."""

    @abstractmethod
    def measure_held_out(self, embeddings: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        """
        A number or truth value for each image, `(num_images,)`, by name, the same names on every rank; the logged row
        has the mean over the images of all ranks, which may hold unequal numbers. Called without gradients on every
        rank; must change neither training nor random numbers.

        Args:
            embeddings (`torch.Tensor` of shape `(num_images, dim)`): Embeddings of this rank's images without
                augmentation, fp32, of the encoder in evaluation mode.
            labels (`torch.Tensor` of shape `(num_images,)`): Class numbers, at least 0, on the device of `embeddings`.
        """


class MonitorCost:
    """Measures, as a context manager around monitors, their seconds and their share of the time of the run so far."""

    def __init__(self) -> None:
        self._run_begin = time.perf_counter()
        self._window, self._total, self.last = 0.0, 0.0, 0.0

    def __enter__(self) -> None:
        self._begin = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.last = time.perf_counter() - self._begin
        self._window += self.last

    def measure(self) -> dict[str, float]:
        """`monitor_seconds` since the last call, and `monitor_fraction` of the run's time, in [0, 1]."""
        self._total += self._window
        window, self._window = self._window, 0.0
        fraction = self._total / (time.perf_counter() - self._run_begin)
        return {"monitor_seconds": window, "monitor_fraction": fraction}


class EmbeddingMonitor(Monitor):
    """
    `effective_rank`, `embedding_spread` and `smallest_spread` of the global views of the last batch before a row is
    logged, see [`~evaluation.rank.rank_and_spread`]. Between rows it computes nothing.
    """

    def __init__(self, num_global_views: int) -> None:
        self.num_global_views = num_global_views
        self._embeddings: torch.Tensor | None = None

    def observe(self, embeddings: torch.Tensor, labels: torch.Tensor | None) -> None:
        """Keep the global views of the last batch."""
        self._embeddings = embeddings[: self.num_global_views].detach()

    def measure(self) -> dict[str, float]:
        """Rank and spread of the last batch; nothing before the first."""
        return {} if self._embeddings is None else rank_and_spread(self._embeddings.flatten(0, 1))
