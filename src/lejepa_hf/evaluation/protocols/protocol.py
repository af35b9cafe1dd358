"""Protocol: the shape that all evaluation protocols share."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

from transformers import BaseImageProcessor, PreTrainedModel

from ...data.sources import ImageSource
from ..embeddings.extraction import LabelledEmbeddings
from ..labelled_sources import check_labels, check_masks


@dataclass(frozen=True)
class Protocol(ABC):
    """
    A way to evaluate an encoder; subclasses derive from [`OnEmbeddings`] or [`OnImages`].

    The fields of a subclass, a frozen dataclass, are its settings, each with a default. `evaluate_encoder` takes them
    as arguments of the same names.

    Attributes:
        name (`str`): Name in `protocols` and on the command line, a line of the registry.
        labels (`str`): What the label column has to hold: `"classes"` or `"masks"`.
    """

    name: ClassVar[str]
    labels: ClassVar[Literal["classes", "masks"]] = "classes"

    def check(self, train: ImageSource, test: ImageSource) -> None:
        """
        Refuse sources and settings that do not fit together, before any work on images.

        Raises:
            ValueError: If the labels are not of the kind that the protocol needs.
        """
        for source in (train, test):
            (check_masks if self.labels == "masks" else check_labels)(source)


class OnEmbeddings(Protocol):
    """A protocol on frozen embeddings, which all protocols share. It runs in the first process."""

    @abstractmethod
    def run(self, train: LabelledEmbeddings, test: LabelledEmbeddings) -> dict[str, float]:
        """
        Fit on one set of embeddings, measure on the other.

        Returns:
            `dict[str, float]`: Figures in [0, 1] as `eval_<name>`, with their intervals, see
                [`~evaluation.intervals`].
        """


class OnImages(Protocol):
    """
    A protocol that needs the encoder itself and its images, which it may read several times in any order.

    Attributes:
        shared_by_processes (`bool`): Whether every process runs it; otherwise the first one does.
    """

    shared_by_processes: ClassVar[bool] = False

    def check(self, train: ImageSource, test: ImageSource) -> None:
        """
        As [`Protocol.check`].

        Raises:
            ValueError: Also if a source is a stream.
        """
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
        """
        Fit on one source of images, measure on the other; the encoder stays as it is.

        Returns:
            `dict[str, float]`: As of [`OnEmbeddings.run`].
        """


def require_positive(name: str, value: float | None) -> None:
    """
    Check a setting that may be left out.

    Raises:
        ValueError: If it is 0 or less.
    """
    if value is not None and value <= 0:
        raise ValueError(f"`{name}` must be more than 0, got {value}.")
