"""Protocol: the shape that all evaluation protocols share."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from transformers import BaseImageProcessor, PreTrainedModel

from ...data.label_kinds import LabelKind
from ...data.sources import ImageSource
from ..classification import ClassPredictions, check_metrics
from ..embeddings.extraction import LabelledEmbeddings
from ..labelled_sources import check_classes, check_labels, check_masks


@dataclass(frozen=True)
class Protocol(ABC):
    """
    A way to evaluate an encoder; subclasses derive from [`OnEmbeddings`] or [`OnImages`].

    The fields of a subclass that is a frozen dataclass are its settings, each with a default. `evaluate_encoder` takes
    them as arguments of the same names.
    """

    name: ClassVar[str]  # in `protocols` and on the command line, a line of the registry
    labels: ClassVar[Literal["classes", "masks"]] = "classes"  # what the label column has to hold: `kinds`, or masks
    kinds: ClassVar[tuple[LabelKind, ...]] = ("class",)  # of labels that are not masks
    needs_known_classes: ClassVar[bool] = True  # whether each held-out class must be among those that it is fitted on
    shared_by_processes: ClassVar[bool] = False  # whether every process runs it, not only the first one

    def check(self, train: ImageSource, test: ImageSource) -> None:
        """Refuse sources and settings that do not fit together, before any work on images."""
        for source in (train, test):
            (check_masks if self.labels == "masks" else check_labels)(source)
        if self.labels == "classes":
            check_classes(train)


class OnEmbeddings(Protocol):
    """A protocol on frozen embeddings, which all protocols share."""

    @abstractmethod
    def run(self, train: LabelledEmbeddings, test: LabelledEmbeddings) -> dict[str, float]:
        """
        Fit on one set of embeddings, measure on the other: figures in [0, 1] as `eval_<name>`, with their intervals,
        see [`~evaluation.intervals`].
        """


class OnImages(Protocol):
    """A protocol that needs the encoder itself and its images, which it may read several times in any order."""

    def check(self, train: ImageSource, test: ImageSource) -> None:
        """Also refuse streams."""
        for source in (train, test):
            if source.is_stream:
                raise ValueError(
                    f"`protocols` {self.name}: `dataset` {source.name!r} is a stream, and this protocol reads images "
                    "several times in any order: leave `streaming` out."
                )
        super().check(train, test)

    @abstractmethod
    def run(
        self, encoder: PreTrainedModel, processor: BaseImageProcessor, train: ImageSource, test: ImageSource
    ) -> dict[str, float]:
        """Fit on one source of images, measure on the other, as [`OnEmbeddings.run`]; the encoder stays as it is."""


@dataclass(frozen=True)
class OfClasses(Protocol):
    """
    A protocol that guesses classes.

    Args:
        metrics (`Sequence[str]`, *optional*): Figures to report, any of [`~evaluation.classification.METRICS`]. If
            missing, `top1` and `top5`, and for unbalanced test labels all of them.
        held_out_classes_only (`bool`, *optional*, defaults to `False`): Whether only classes of the held-out images
            are guessed, as papers do on ImageNet-A and ImageNet-R. Protocols are fitted on all classes nevertheless.
    """

    metrics: Sequence[str] | None = field(default=None, kw_only=True)
    held_out_classes_only: bool = field(default=False, kw_only=True)

    def check(self, train: ImageSource, test: ImageSource) -> None:
        """Also refuse unknown metrics."""
        check_metrics(self.metrics)
        super().check(train, test)

    def predictions(self, labels: torch.Tensor, usual: Sequence[str] = ("top1", "top5")) -> ClassPredictions:
        """What collects the guesses for held-out images with these labels; `usual` metrics suit all labels."""
        return ClassPredictions(labels, self.metrics, usual, self.held_out_classes_only)


def require_positive(name: str, value: float | None) -> None:
    """Refuse a setting of 0 or less; None stands for the default."""
    if value is not None and value <= 0:
        raise ValueError(f"`{name}` must be more than 0, got {value}.")


def passes_and_steps(
    number: int, batch_size: int, num_epochs: int | None, least_epochs: int, least_steps: int
) -> tuple[int, int]:
    """
    How often `number` images are read, `num_epochs` times or, if that is missing, `least_epochs` times or as often as
    makes `least_steps`; and the number of batches, where each but the last one is full, whatever pass it is from.
    """
    num_epochs = num_epochs or max(least_epochs, math.ceil(least_steps * batch_size / number))
    return num_epochs, math.ceil(num_epochs * number / batch_size)
