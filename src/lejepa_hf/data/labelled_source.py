"""open_labelled: a source whose labels are in the form that evaluations read."""

from collections.abc import Sequence
from typing import Any

from .image_source import ImageSource
from .label_columns import with_labels
from .label_kinds import LabelKind
from .sources import load_source


def open_labelled(
    dataset: Any,  # noqa: ANN401, what `load_source` opens
    split: str,
    label_column: str | Sequence[str] | None = None,
    label_kind: LabelKind | None = None,
    known: ImageSource | None = None,
    **source: Any,  # noqa: ANN401
) -> ImageSource:
    """
    Open a source by [`~data.sources.load_source`], whose other arguments `source` has, and bring its labels into their
    form by [`~data.label_columns.with_labels`].
    """
    columns = [label_column] if isinstance(label_column, str) else list(label_column or ())
    opened = load_source(dataset, split, label_column=columns[0] if columns else None, **source)
    return with_labels(opened, columns, label_kind, known)
