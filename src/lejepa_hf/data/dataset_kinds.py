"""What a dataset of rows is: map-style, a stream or a mixture; how many rows and classes it has."""

import logging
from collections.abc import Sized
from dataclasses import dataclass, field
from math import inf
from numbers import Real
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from .origins import Origin

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

Stream: TypeAlias = "IterableDataset"
Opened: TypeAlias = "Dataset | IterableDataset"


logger = logging.getLogger("lejepa_hf")

_FEW = 1000  # numbers below it cost little, even if most of them are not used


class MapStyle(Protocol):
    """Rows with numbers from 0 on: `datasets.Dataset`, a `torch.utils.data.Dataset` with a length, or a list."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...  # noqa: ANN401, what `as_row` takes


@dataclass
class Mixture:
    """
    Several datasets whose rows are mixed.

    Args:
        datasets (`list`): All map-style or all streams; rows have one column, `image`, undecoded.
        weights (`list[float]`): Share of each dataset in the rows that are drawn, positive; normalised to sum 1.
        origins (`list[Origin]`, *optional*): Where the rows of each dataset come from, if known.
    """

    datasets: "list[MapStyle | Stream]"
    weights: list[float]
    origins: list[Origin] = field(default_factory=list)

    def __post_init__(self) -> None:
        number = len(self.datasets)
        if number != len(self.weights) or not number:
            raise ValueError(f"`weights` must have one number for each of the {number} datasets, got {self.weights}.")
        if not all(isinstance(weight, Real) and 0 < weight < inf for weight in self.weights):
            raise ValueError(f"`weights` must be positive numbers, got {self.weights}.")
        total = sum(self.weights)
        self.weights = [weight / total for weight in self.weights]


Rows: TypeAlias = "MapStyle | IterableDataset | Mixture"


def is_stream(dataset: Rows) -> bool:
    """Whether rows can only be read one after the other: the dataset has neither a length nor row numbers."""
    if isinstance(dataset, Mixture):
        return any(is_stream(member) for member in dataset.datasets)
    return not isinstance(dataset, Sized)


def count_rows(dataset: Rows) -> int | None:
    """Number of rows, None for a stream that does not say."""
    if isinstance(dataset, Mixture):
        counts = [count_rows(member) for member in dataset.datasets]
        known = [count for count in counts if count is not None]
        return sum(known) if len(known) == len(counts) else None
    if isinstance(dataset, Sized):
        return len(dataset)
    split = (dataset.info.splits or {}).get(str(dataset.split))
    return (split.num_examples or None) if split is not None else None


def count_classes(dataset: Rows, label_column: str) -> int | None:
    """
    Number of classes in the labels of a dataset, None if they are not class numbers, the dataset does not say how
    many, or [`has_gaps`].
    """
    from datasets import ClassLabel, Dataset, IterableDataset, Value

    if not isinstance(dataset, Dataset | IterableDataset):
        return None
    feature = (dataset.features or {}).get(label_column)
    if isinstance(feature, ClassLabel) and feature.names:
        return len(feature.names)
    is_number = isinstance(feature, ClassLabel | Value) and feature.dtype.startswith(("int", "uint"))
    if not isinstance(dataset, Dataset) or not is_number:
        return None
    labels = {label for label in dataset[label_column] if label is not None}
    largest = max(labels, default=0)
    if has_gaps(largest, len(labels)):
        logger.warning(
            f"`label_column` {label_column!r} holds {largest:,}, but only {len(labels):,} different numbers: they are "
            "not used as class numbers while training. Number the classes from 0, or write them as texts."
        )
        return None
    return max(2, 1 + largest)


def has_gaps(largest: int, num_different: int) -> bool:
    """Whether labels are far too large for class numbers that count from 0: classifiers have a row for each number."""
    return largest >= max(_FEW, 10 * num_different)
