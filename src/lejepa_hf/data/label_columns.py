"""The labels of a source: classes that are texts get numbers, and rows without a label are left out."""

import copy
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np

from .dataset_files import with_length
from .dataset_kinds import Opened
from .image_source import ImageSource
from .label_kinds import is_class, is_numbered
from .origins import Origin
from .row_groups import column_values

logger = logging.getLogger("lejepa_hf")

_texts_of_streams: dict[tuple, frozenset[str]] = {}  # a stream is read once for them, a run opens it several times


def number_classes(source: ImageSource, known: Sequence[str] | None = None) -> ImageSource:
    """
    Number the classes of a source whose labels are texts, or true and false; any other source is returned as it is.

    Args:
        source ([`ImageSource`]): Its texts become class numbers; spaces around a text do not count, and an empty one
            is a missing label. For a stream, the column is read once from beginning to end.
        known (`Sequence[str]`, *optional*): Names of classes that have numbers already, those of the images to fit
            protocols on. Further ones follow them. If missing, names are sorted and numbered from 0.
    """
    from datasets import ClassLabel

    column = source.label_column
    feature = source.features.get(column) if column is not None else None
    if column is None or not is_class(feature) or is_numbered(feature):
        return source
    found = _texts(source, column)
    names = [*(known or ()), *sorted(found.difference(known or ()))]
    number = {name: place for place, name in enumerate(names)}
    encoded = _with_column(source, column, _Numbered(column, number), ClassLabel(names=names))
    return replace(encoded, class_names=names)


@dataclass(frozen=True)
class _Numbered:
    """The class number of the text in a row; workers of a loader get it as a copy."""

    column: str
    number: Mapping[str, int]

    def __call__(self, row: Mapping[str, Any]) -> dict[str, int | None]:
        text = as_text(row[self.column])
        return {self.column: None if text is None else self.number[text]}


def as_text(label: object) -> str | None:
    """The name of a class, None for a missing one."""
    return (str(label).strip() or None) if label is not None else None


def _texts(source: ImageSource, column: str) -> frozenset[str]:
    """The different names in a column."""
    dataset: Any = source.dataset
    if not source.is_stream:
        values = _all_rows(dataset).with_format(None).unique(column)
        return frozenset(text for value in values if (text := as_text(value)) is not None)
    key = (*source.origins, column)
    if not source.origins or key not in _texts_of_streams:
        _log_once(f"{source.name}: the names of the classes in {column!r} are read from the whole stream first")
        texts = (as_text(row[column]) for row in dataset.select_columns([column]))
        _texts_of_streams[key] = frozenset(text for text in texts if text is not None)
    return _texts_of_streams[key]


def _all_rows(dataset: Any) -> Any:  # noqa: ANN401, of `datasets`
    """The table of a map-style dataset, without the choice and order of its rows, so that no image is copied."""
    rows = copy.copy(dataset)
    rows._indices = None
    return rows


def _with_column(
    source: ImageSource, column: str, encode: Callable[[Mapping[str, Any]], dict[str, Any]], feature: object
) -> ImageSource:
    """The source with another column of labels, which `encode` makes of its rows."""
    from datasets import Features

    dataset: Any = source.dataset
    features = Features({**dataset.features, column: feature})
    if source.is_stream:
        encoded = dataset.map(encode, features=features)
        if source.num_images is not None:
            encoded = with_length(encoded, source.num_images)
    else:
        rows = _all_rows(dataset)
        values = [
            encode({column: value})[column] for value in rows.with_format(None).select_columns([column])[:][column]
        ]
        encoded = rows.remove_columns([column]).add_column(column, values, feature=feature)
        encoded._indices = dataset._indices
    return replace(source, dataset=encoded, opened=_reopened(source, encoded))


def _reopened(source: ImageSource, dataset: Opened) -> tuple[Opened, Origin] | None:
    return (dataset, source.origins[0]) if source.origins else None


def with_labels_only(source: ImageSource) -> ImageSource:
    """
    The rows that have a label, which probes and evaluations use; all rows of a source without a label column, or
    without any label. The number of the others is logged once.
    """
    column = source.label_column
    dataset: Any = source.dataset
    if column is None:
        return source
    if source.is_stream:
        labelled = dataset.filter(_HasLabel(column))
        if source.num_images is not None:
            labelled = with_length(labelled, source.num_images)
        return replace(source, dataset=labelled, opened=_reopened(source, labelled))
    if not dataset.data.column(column).null_count:
        return source
    has_label = np.array([label is not None for label in column_values(source, column)], dtype=bool)
    missing = int((~has_label).sum())
    if missing in (0, len(has_label)):
        return source
    split = f" of {source.split}" if source.split else ""
    _log_once(
        f"{source.name}: {missing:,} of {len(has_label):,} images{split} have no label in {column!r} and are left out "
        "of probes and evaluations; training uses them"
    )
    labelled = dataset.select(np.flatnonzero(has_label))
    return replace(source, dataset=labelled, opened=_reopened(source, labelled))


@dataclass(frozen=True)
class _HasLabel:
    """Whether a row of a stream has a label."""

    column: str

    def __call__(self, row: Mapping[str, Any]) -> bool:
        return row[self.column] is not None


@cache
def _log_once(message: str) -> None:
    """Log a message the first time: a source is opened several times in a run."""
    logger.info(message)
