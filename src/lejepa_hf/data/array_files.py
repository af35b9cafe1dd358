"""An `.npz`, HDF5 or zarr container -> a dataset: one array has the images, others of its length are columns."""

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from .dataset_files import as_stream, joined, parts_of_split
from .dataset_kinds import Opened
from .opening_errors import nearby
from .readers.addresses import Part, with_part
from .readers.arrays import ArrayReader, Stored
from .readers.known_readers import find_reader

_SPLITS = {"train": "train", "val": "validation", "valid": "validation", "validation": "validation", "test": "test"}
_AXES_OF_IMAGES = (3, 4)  # (N, H, W) and (N, H, W, C)
_SHOWN = 20  # arrays in a message


class _Split(NamedTuple):
    """The arrays of one split, and their names in the file by those of the columns."""

    arrays: Mapping[str, Stored]
    names: Mapping[str, str]


def open_arrays(name: str, split: str, streaming: bool, image_column: str | None = None) -> Opened:
    """
    Open a container. Images are the rows of an array `(N, H, W)` or `(N, H, W, C)`, read one by one when they are
    needed; arrays of N numbers or texts, `(N,)` or `(N, 1)`, are further columns. If all names begin with those of
    splits (`train_images`, `test_labels`), these are the splits; else everything is `train`.

    Args:
        name (`str`): Path of the file, or of the folder of zarr.
        split (`str`): As in [`~data.sources.load_source`].
        streaming (`bool`): Return a stream.
        image_column (`str`, *optional*): The array of images, without the split; if missing, the only one there is.

    Raises:
        ValueError: If the file cannot be read, or the array is not known; the message names the arrays.
    """
    reader = find_reader(name)
    assert isinstance(reader, ArrayReader), "the ending of the file was checked"
    if not os.path.exists(name):
        raise ValueError(f"`dataset` {name!r}: no such file. {nearby(name)}")
    try:
        splits = _splits(reader.arrays(os.path.abspath(name)))
    except (ValueError, OSError) as error:
        raise ValueError(f"`dataset` {name!r} cannot be read: {error}") from error
    columns = {key: _image_column(name, found, image_column) for key, found in splits.items()}
    lengths = {key: found.arrays[columns[key]].shape[0] for key, found in splits.items()}
    tables = [
        _table(os.path.abspath(name), splits[part.splitname], columns[part.splitname], range(part.from_, part.to))
        for part in parts_of_split(name, split, lengths)
    ]
    return as_stream(joined(tables), streaming)


def _splits(arrays: Mapping[str, Stored]) -> dict[str, _Split]:
    """The splits by the beginnings of the names."""
    parted = {name: name.rsplit("/", 1)[-1].partition("_") for name in arrays}
    if not arrays or not all(rest and first.lower() in _SPLITS for first, _, rest in parted.values()):
        return {"train": _Split(arrays, {name: name for name in arrays})}
    found: dict[str, _Split] = {}
    for name, (first, _, rest) in parted.items():
        of_split = found.setdefault(_SPLITS[first.lower()], _Split({}, {}))
        found[_SPLITS[first.lower()]] = _Split({**of_split.arrays, rest: arrays[name]}, {**of_split.names, rest: name})
    return found


def _image_column(name: str, found: _Split, given: str | None) -> str:
    """The array of images."""
    candidates = [column for column, array in found.arrays.items() if _may_be_images(array)]
    if given is None and len(candidates) == 1:
        return candidates[0]
    if given in candidates:
        return given
    shapes = [f"{column} {array.dtype} {tuple(array.shape)}" for column, array in found.arrays.items()]
    held = ", ".join(shapes[:_SHOWN]) + (", ..." if len(shapes) > _SHOWN else "") or "no arrays"
    wanted = "images are arrays of numbers (N, height, width) or (N, height, width, channels)"
    if given is not None:
        raise ValueError(
            f"`image_column` {given!r} is not an array of images in `dataset` {name!r}: {wanted}; it holds {held}."
        )
    number = f"{len(candidates)} arrays of images" if candidates else "no array of images"
    way_out = "set `image_column` to one of them" if candidates else wanted
    raise ValueError(f"`dataset` {name!r} has {number}: {way_out}; it holds {held}.")


def _may_be_images(array: Stored) -> bool:
    return len(array.shape) in _AXES_OF_IMAGES and 0 not in array.shape and array.dtype.kind in "buif"


def _table(path: str, found: _Split, images: str, rows: range) -> Any:  # noqa: ANN401, a Dataset
    from datasets import Dataset, Features, Value
    from datasets import Image as ImageFeature

    first = found.arrays[images][rows.start : rows.start + 1]  # decompresses an npz, in this process only
    assert len(first) == min(1, len(rows)), "an array is as long as its shape says"
    columns: dict[str, Any] = {images: [with_part(path, Part(found.names[images], (row,))) for row in rows]}
    features = Features({images: ImageFeature(decode=False)})
    length = found.arrays[images].shape[0]
    for name, array in found.arrays.items():
        if tuple(array.shape) in ((length,), (length, 1)) and array.dtype.kind in "buifUST":
            values = np.asarray(array[rows.start : rows.stop]).reshape(-1)
            is_text = values.dtype.kind not in "buif"
            columns[name] = [_text(value) for value in values.tolist()] if is_text else values
            features[name] = Value("string" if is_text else values.dtype.name)
    return Dataset.from_dict(columns, features=features)


def _text(value: object) -> str:
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)
