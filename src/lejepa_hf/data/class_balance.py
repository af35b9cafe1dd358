"""Rows drawn by class: every class with the same probability, however many images it has."""

from dataclasses import dataclass
from textwrap import shorten
from typing import Any

import numpy as np

from .dataset_kinds import MapStyle, Mixture, Rows, is_stream
from .rows import as_row, class_number


@dataclass(frozen=True)
class ClassBalanced:
    """
    A map-style dataset of which each row drawn is of any class with equal probability. Each class passes over its own
    rows, in its own epochs.

    Args:
        dataset: Rows by number.
        classes (`list[np.ndarray]`): For each class the numbers of its rows; at least two, none empty.
    """

    dataset: MapStyle
    classes: list[np.ndarray]

    def __len__(self) -> int:
        return sum(map(len, self.classes))


def balance_classes(dataset: Rows, label_column: str | None, image_column: str = "image") -> ClassBalanced:
    """
    Find the rows of each class, without reading an image if the dataset is one of `datasets`; others are read once.

    Raises:
        ValueError: If the rows are a stream or a mixture, or their labels are not one class each, of at least two.
    """
    if isinstance(dataset, Mixture) or is_stream(dataset):
        kind = "a mixture" if isinstance(dataset, Mixture) else "a stream"
        raise ValueError(
            f"`class_balanced` needs the class of each training image before it is read, and the images are {kind}: "
            f"leave {'`mixture`' if isinstance(dataset, Mixture) else '`streaming`'} or `class_balanced` out."
        )
    if label_column is None:
        raise ValueError(
            "`class_balanced` needs labels, and the training images have none: set `label_column`, or leave it out."
        )
    rows_of: dict[int | str, list[int]] = {}
    others: list[object] = []
    for number, label in enumerate(_labels(dataset, label_column, image_column)):
        if _is_class(label):
            rows_of.setdefault(label, []).append(number)
        else:
            others.append(label)
    if others:
        raise ValueError(
            f"`class_balanced`: {len(others):,} of {len(dataset):,} training images have not one class in "
            f"`label_column` {label_column!r} but {shorten(repr(others[0]), 40)}, for example: name a column of class "
            "numbers or names, or leave these images or `class_balanced` out."
        )
    if len(rows_of) < 2:
        raise ValueError(
            f"`class_balanced`: all training images are of one class in `label_column` {label_column!r}: name another "
            "column, or leave it out."
        )
    return ClassBalanced(dataset, [np.array(rows_of[label]) for label in sorted(rows_of, key=_order)])


def _labels(dataset: Any, label_column: str, image_column: str) -> Any:  # noqa: ANN401
    from datasets import Dataset

    if isinstance(dataset, Dataset):
        return dataset[label_column]
    return (as_row(dataset[number], image_column).get(label_column) for number in range(len(dataset)))


def _is_class(label: object) -> bool:
    return isinstance(label, str) or class_number(label) >= 0


def _order(label: int | str) -> tuple[bool, int | str]:
    return isinstance(label, str), label
