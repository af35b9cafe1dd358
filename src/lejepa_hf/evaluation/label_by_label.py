"""Several columns of labels of the same images, which protocols use one by one."""

import re
from collections.abc import Mapping

import numpy as np
import torch

from ..data.image_source import ImageSource
from ..data.label_columns import with_labels_only
from ..data.row_groups import column_values
from .embeddings.extraction import LabelledEmbeddings
from .embeddings.label_arrays import label_array
from .figures import Figures

Pair = tuple[ImageSource, ImageSource]


def pairs_of_columns(pair: Pair) -> dict[str, Pair]:
    """
    Training and test images by column of labels, those that have a label there; a single column has no name.
    ValueError for columns whose figures could not be told apart.
    """
    columns = list(pair[1].several_labels)
    if not columns:
        return {"": pair}
    names = [_in_figures(column) for column in columns]
    if len(set(names)) < len(names) or "" in names:
        raise ValueError(
            f"`label_column` {', '.join(map(repr, columns))}: figures would be named {', '.join(map(repr, names))} "
            "after them, in small letters and with `_` for other signs, and be mixed up: rename one of the columns."
        )
    return {column: (_labelled(pair[0], column), _labelled(pair[1], column)) for column in columns}


def _labelled(source: ImageSource, column: str) -> ImageSource:
    return with_labels_only(source.with_label(column))


def embeddings_of_columns(embedded: LabelledEmbeddings, source: ImageSource) -> dict[str, LabelledEmbeddings]:
    """The embeddings of all images of a source, by column of labels; those of a single column as they are."""
    if not source.several_labels:
        return {"": embedded}
    rows = np.asarray(embedded.rows())
    return {column: _part(embedded, rows, source.with_label(column)) for column in source.several_labels}


def _part(embedded: LabelledEmbeddings, rows: np.ndarray, source: ImageSource) -> LabelledEmbeddings:
    """The embeddings of the images that have a label in a column."""
    values = column_values(source, str(source.label_column))
    labels = [values[row] for row in rows]
    kept = torch.tensor([place for place, label in enumerate(labels) if label is not None])
    numbers = torch.from_numpy(label_array([labels[place] for place in kept.tolist()], source))
    is_same = embedded.probe_features is embedded.embeddings
    part = LabelledEmbeddings(embedded.embeddings[kept], numbers, class_names=source.class_names)
    if not is_same:
        part.probe_features = embedded.probe_features[kept]
    return part


def named_by_column(figures: Mapping[str, float], column: str) -> Figures:
    """Figures with the column in their names: `eval_linear_top1` of `Age group` is `eval_age_group_linear_top1`."""
    known = figures if isinstance(figures, Figures) else Figures(figures)
    if not column:
        return known
    name = _in_figures(column)
    parts: tuple[Mapping, ...] = (known, known.samples, known.resamples)
    return Figures(
        *({key.replace("eval_", f"eval_{name}_", 1): value for key, value in part.items()} for part in parts)
    )


def _in_figures(column: str) -> str:
    """The name of a column within names of figures."""
    return re.sub(r"\W+", "_", column).strip("_").lower()
