"""Columns of `datasets.Array2D` and `Array3D` as images, without turning rows into nested lists."""

import io
from typing import TYPE_CHECKING

import numpy as np

from .dataset_kinds import Opened, Stream, is_stream

if TYPE_CHECKING:
    import pyarrow

_ROWS = 32  # rows encoded at a time; more only cost memory


def is_array(feature: object) -> bool:
    """Whether a feature of `datasets` holds an array of two or three axes."""
    from datasets import Array2D, Array3D

    return isinstance(feature, Array2D | Array3D)


def with_arrays(dataset: Opened, column: str, name: str) -> Opened:
    """
    Read a column of arrays as arrays of its declared type, not as lists of Python numbers, which take ten times as
    long and twenty times the memory. A stream gets the `.npy` bytes of each array as an image column. A map-style
    dataset with missing arrays is refused: they would look like black images.
    """
    dtype = dataset.features[column].dtype
    if is_stream(dataset):
        return _as_npy_bytes(dataset, column, dtype)
    missing = dataset.data.column(column).null_count
    if missing:
        found = f"`image_column` {column!r} of `dataset` {name!r} has {missing} rows without an array"
        raise ValueError(f"{found}: leave them out, or set `streaming: true`, which counts them as broken images.")
    return dataset.with_format("numpy", columns=[column], output_all_columns=True, dtype=dtype)


def _as_npy_bytes(stream: Stream, column: str, dtype: str) -> Stream:
    from datasets import Image as ImageFeature

    features = stream.features.copy()
    features[column] = ImageFeature(decode=False)

    def encode(table: "pyarrow.Table") -> "pyarrow.Table":
        import pyarrow as pa

        rows = [row for chunk in table[column].chunks for row in _npy_rows(chunk, dtype)]
        place = table.column_names.index(column)
        return table.set_column(place, column, pa.array(rows, features[column].pa_type))

    encoded = stream.with_format("arrow").map(encode, batched=True, batch_size=_ROWS, features=features)
    return encoded.with_format(None)


def _npy_rows(chunk: "pyarrow.Array", dtype: str) -> list[dict[str, bytes | None]]:
    """The rows of an Arrow column, stored as `datasets` stores images."""
    import pyarrow as pa

    present = chunk.is_valid().to_pylist()
    # The arrays of a generator come as nested lists, those of files as a type of `datasets`, which is quicker.
    is_typed = isinstance(chunk.type, pa.ExtensionType)
    values = chunk.to_numpy(zero_copy_only=False) if is_typed else chunk.to_pylist()
    return [
        {"bytes": _npy(np.asarray(value, dtype=dtype)) if there else None, "path": None}
        for value, there in zip(values, present, strict=True)
    ]


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()
