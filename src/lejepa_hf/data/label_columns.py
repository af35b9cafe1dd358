"""The labels of a source as evaluations read them: classes with numbers, lists of classes, or numbers."""

import copy
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np

from .dataset_files import with_length
from .dataset_kinds import Opened
from .image_source import ImageSource
from .label_kinds import LABEL_KINDS, POSSIBLE_LABELS, LabelKind, described, is_numbered, is_text, kind_of_labels
from .origins import Origin
from .row_groups import column_values

logger = logging.getLogger("lejepa_hf")

_SEPARATOR = "|"  # between the classes in a text
_BINARY = {"0": False, "0.0": False, "false": False, "1": True, "1.0": True, "true": True}
_values_of_streams: dict[tuple, set[object]] = {}  # a stream is read once for them, a run opens it several times


def with_labels(
    source: ImageSource,
    columns: Sequence[str] = (),
    kind: LabelKind | None = None,
    known: ImageSource | None = None,
) -> ImageSource:
    """
    Bring the labels of a source into one of three forms: a class number for each image, a list of class numbers, or a
    float; None for an image without a label. Texts are numbered, and integers that do not count from 0 without gaps,
    such as ids, except in streams. Names of classes are those of the source, and `label_column` is the
    column of this form, which is a new one for several columns of 0 and 1. Masks are left as they are.

    Args:
        source ([`ImageSource`]): For a stream of texts, the column is read once from beginning to end.
        columns (`Sequence[str]`, *optional*): Columns of the labels; that of the source if missing. If several ones
            all hold only 0, 1, true, false or nothing, each of them is a class; nothing counts as 0 beside other
            values. Other columns of classes become `several_labels`, for which streams are refused.
        kind (`str`, *optional*): `"class"` to number integers or floats like texts, `"number"` for integers that are
            no classes, `"multi-label"` for texts in which `|` separates classes. Follows from the type if missing.
        known ([`ImageSource`], *optional*): Images to fit protocols on, with the same columns of labels: its classes
            keep their numbers, and further ones follow them; without names of classes, integers stay as they are. If
            missing, names are sorted and numbered from 0.

    Raises:
        ValueError: If there is no such column, or its values do not fit.
    """
    columns = list(dict.fromkeys(columns)) or ([source.label_column] if source.label_column is not None else [])
    if kind is not None and kind not in LABEL_KINDS:
        raise ValueError(f"`label_kind` {kind!r} is unknown: choose one of {', '.join(LABEL_KINDS)}.")
    for column in columns:
        if column not in source.features:
            known_columns = ", ".join(source.features)
            raise ValueError(f"`label_column` {column!r} is not in `dataset` {source.name!r}: it has {known_columns}.")
    if not columns or not source.features:
        return source
    if len(columns) > 1:
        return _of_several(source, columns, kind, known)
    return _of_column(source, columns[0], kind, None if known is None else known.class_names or ())


def _of_column(source: ImageSource, column: str, kind: str | None, known: Sequence[str] | None) -> ImageSource:
    """`known` has the names of classes that are known, nothing if their numbers are those of the source."""
    source = replace(source, label_column=column)
    feature = source.features[column]
    found = kind or kind_of_labels(feature)
    if found == "number":
        return _of_numbers(source, feature)
    if found == "multi-label":
        return _of_lists(source, feature, known)
    return _of_classes(source, feature, kind, known) if found == "class" else source


def _of_classes(source: ImageSource, feature: Any, kind: str | None, known: Sequence[str] | None) -> ImageSource:  # noqa: ANN401
    from datasets import ClassLabel

    column = str(source.label_column)
    if isinstance(feature, ClassLabel):
        return source
    if is_numbered(feature) and kind is None and (_count_from_0(source) if known is None else not known):
        return source
    if kind_of_labels(feature) not in ("class", "number"):
        raise _unfitting("class", source, column, feature)
    names = _names(_values(source, (column,)), known)
    encode = _Encoding((column,), column, "class", _places(names))
    return _encoded(source, encode, ClassLabel(names=names), names)


def _count_from_0(source: ImageSource) -> bool:
    """
    Whether the integers of a column are class numbers, from 0 on without gaps; others are names of classes. A stream
    is not read to know it. Negative ones stand for missing labels, and are refused where labels are needed.
    """
    from pyarrow.compute import count_distinct, min_max

    if source.is_stream:
        return True
    dataset: Any = source.dataset
    numbers = dataset.data.column(source.label_column)
    low, high = min_max(numbers).as_py().values()
    return low is None or low < 0 or high + 1 == count_distinct(numbers).as_py()


def _of_lists(source: ImageSource, feature: Any, known: Sequence[str] | None) -> ImageSource:  # noqa: ANN401
    from datasets import ClassLabel, List

    column = str(source.label_column)
    is_list = kind_of_labels(feature) == "multi-label"
    if not is_list and not is_text(feature):
        raise _unfitting("multi-label", source, column, feature)
    if is_list and isinstance(feature.feature, ClassLabel):
        return replace(source, class_names=feature.feature.names)
    names = _names((one for value in _values(source, (column,)) for one in _parts(value)), known)
    encode = _Encoding((column,), column, "multi-label", _places(names))
    return _encoded(source, encode, List(ClassLabel(names=names)), names)


def _of_several(source: ImageSource, columns: list[str], kind: str | None, known: ImageSource | None) -> ImageSource:
    """Columns of 0 and 1 as classes that an image may have together, or other columns one by one."""
    from datasets import ClassLabel, List

    if all(map(_is_binary_or_missing, _values(source, columns))) and kind in (None, "multi-label"):
        target = ", ".join(columns)
        encode = _Encoding(tuple(columns), target, "binary", {})
        return _encoded(replace(source, label_column=target), encode, List(ClassLabel(names=columns)), columns)
    if source.is_stream:
        raise ValueError(
            f"`label_column` {', '.join(columns)} of `dataset` {source.name!r}: several columns that do not hold only "
            "0, 1, true, false or nothing are evaluated one by one, for which streams cannot be used: leave "
            "`streaming` out, or name one column."
        )
    names: dict[str, list[str] | None] = {}
    for column in columns:
        own = None if known is None else known.several_labels.get(column) or ()
        source = _of_column(source, column, kind, own)
        if source.label_kind != "class":
            raise ValueError(
                f"`label_column` {column!r} of `dataset` {source.name!r} holds {described(source.features[column])}: "
                "several columns must all hold classes, or only 0, 1, true, false or nothing. Evaluate this one alone."
            )
        names[column] = source.class_names
        source = replace(source, class_names=None)
    return replace(source, label_column=columns[0], class_names=names[columns[0]], several_labels=names)


def _of_numbers(source: ImageSource, feature: Any) -> ImageSource:  # noqa: ANN401
    from datasets import ClassLabel, Value

    column = str(source.label_column)
    is_number = kind_of_labels(feature) == "number" or (is_numbered(feature) and not isinstance(feature, ClassLabel))
    if not is_number:
        raise _unfitting("number", source, column, feature)
    return _encoded(source, _Encoding((column,), column, "number", {}), Value("float64"), None)


def _unfitting(kind: str, source: ImageSource, column: str, feature: object) -> ValueError:
    return ValueError(
        f"`label_kind` {kind!r} does not fit `label_column` {column!r} of `dataset` {source.name!r}, which holds "
        f"{described(feature)}: {POSSIBLE_LABELS}."
    )


@dataclass(frozen=True)
class _Encoding:
    """The label of a row in its final form, as the column `target`; workers of a loader get it as a copy."""

    columns: tuple[str, ...]
    target: str
    kind: str
    number: Mapping[str, int]

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        return {self.target: self.label(*(row[column] for column in self.columns))}

    def label(self, *values: Any) -> Any:  # noqa: ANN401
        """The label from the values in the columns, None for a missing one."""
        if all(as_text(value) is None for value in values):
            return None
        if self.kind == "binary":
            return [place for place, value in enumerate(values) if _BINARY.get(str(as_text(value)).lower())]
        if self.kind == "multi-label":
            return sorted({self.number[one] for part in _parts(values[0]) if (one := as_text(part)) is not None})
        return float(values[0]) if self.kind == "number" else self.number[str(as_text(values[0]))]


def as_text(label: object) -> str | None:
    """The name of a class, None for a missing one."""
    if label is None or (isinstance(label, float) and math.isnan(label)):
        return None
    return str(label).strip() or None


def _parts(value: object) -> Iterable[object]:
    """The classes in a list, or in a text with separators."""
    if isinstance(value, str):
        return value.split(_SEPARATOR)
    return value if isinstance(value, Iterable) else ()


def _is_binary_or_missing(value: object) -> bool:
    text = as_text(value)
    return text is None or text.lower() in _BINARY


def _names(values: Iterable[object], known: Sequence[str] | None) -> list[str]:
    """Names of classes, those that are known first; numbers are sorted as numbers."""
    found = {text: value for value in values if (text := as_text(value)) is not None}
    new = found.keys() - set(known or ())
    return [*(known or ()), *sorted(new, key=lambda text: (_number_in(found[text]), text))]


def _number_in(value: object) -> float:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else 0.0


def _places(names: Sequence[str]) -> dict[str, int]:
    return {name: place for place, name in enumerate(names)}


def _values(source: ImageSource, columns: Sequence[str]) -> set[object]:
    """The different values in some columns; lists as tuples."""
    dataset: Any = source.dataset
    if not source.is_stream:
        rows = _all_rows(dataset).with_format(None)
        return {_hashable(value) for column in columns for value in rows.select_columns([column])[:][column]}
    key = (*source.origins, *columns)
    if not source.origins or key not in _values_of_streams:
        _log_once(f"{source.name}: the classes in {', '.join(columns)} are read from the whole stream first")
        rows = dataset.select_columns(list(columns))
        _values_of_streams[key] = {_hashable(row[column]) for row in rows for column in columns}
    return _values_of_streams[key]


def _hashable(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


def _all_rows(dataset: Any) -> Any:  # noqa: ANN401, of `datasets`
    """The table of a map-style dataset, without the choice and order of its rows, so that no image is copied."""
    rows = copy.copy(dataset)
    rows._indices = None
    return rows


def _encoded(source: ImageSource, encode: _Encoding, feature: object, names: list[str] | None) -> ImageSource:
    """The source with its labels in the column `encode.target`."""
    from datasets import Features

    dataset: Any = source.dataset
    target = encode.target
    if source.is_stream:
        encoded = dataset.map(encode, features=Features({**dataset.features, target: feature}))
        if source.num_images is not None:
            encoded = with_length(encoded, source.num_images)
    else:
        rows = _all_rows(dataset)
        read = rows.with_format(None).select_columns(list(encode.columns))[:]
        labels = [encode.label(*values) for values in zip(*(read[column] for column in encode.columns), strict=True)]
        rows = rows.remove_columns([target]) if target in rows.column_names else rows
        encoded = rows.add_column(target, labels, feature=feature)
        encoded._indices = dataset._indices
    return replace(source, dataset=encoded, class_names=names, opened=_reopened(source, encoded))


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
    columns = list(source.several_labels) or [column]
    if not all(dataset.data.column(one).null_count for one in columns):
        return source
    labels = zip(*(column_values(source, one) for one in columns), strict=True)
    has_label = np.array([any(label is not None for label in of_image) for of_image in labels], dtype=bool)
    missing = int((~has_label).sum())
    if missing in (0, len(has_label)):
        return source
    split, shown = f" of {source.split}" if source.split else "", ", ".join(columns)
    _log_once(
        f"{source.name}: {missing:,} of {len(has_label):,} images{split} have no label in {shown!r} and are left out "
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
