"""An `.npz`, HDF5 or zarr container -> a dataset: one array has the images, others of its length are columns."""

import os
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from .dataset_files import as_stream, joined, parts_of_split, resolve_files
from .dataset_kinds import Opened
from .label_kinds import described
from .readers.addresses import Part, with_part
from .readers.arrays import ArrayReader, Stored
from .readers.known_readers import find_reader

_SPLITS = {"train": "train", "val": "validation", "valid": "validation", "validation": "validation", "test": "test"}
_AXES_OF_IMAGES = (3, 4)  # (N, H, W) and (N, H, W, C)
_SHOWN = 20  # arrays in a message


class _Split(NamedTuple):
    """One split of a file: the array of images, all arrays, and their names in the file by those of the columns."""

    file: str
    images: str
    arrays: Mapping[str, Stored]
    names: Mapping[str, str]

    @property
    def num_images(self) -> int:
        """Length of the array of images."""
        return self.arrays[self.images].shape[0]


def open_arrays(name: str, split: str, streaming: bool, image_column: str | None = None) -> Opened:
    """
    Open a container. Images are the rows of an array `(N, H, W)` or `(N, H, W, C)`, read one by one when they are
    needed; arrays of N numbers or texts, `(N,)` or `(N, 1)`, are further columns. If all names begin with those of
    splits (`train_images`, `test_labels`), these are the splits; else everything is `train`. Several containers are
    read one after the other.

    Args:
        name (`str`): Path of the file, or of the folder of zarr; a glob of those with the same arrays.
        split (`str`): As in [`~data.sources.load_source`].
        streaming (`bool`): Return a stream.
        image_column (`str`, *optional*): The array of images, without the split; if missing, the only one there is.

    Raises:
        ValueError: If a file cannot be read, or the array is not known; the message names the arrays.
    """
    splits: dict[str, list[_Split]] = {}
    for file in resolve_files(name):
        for key, found in _splits(file, image_column).items():
            splits.setdefault(key, []).append(found)
    parts = parts_of_split(name, split, {key: sum(one.num_images for one in found) for key, found in splits.items()})
    chosen = [rows for part in parts for rows in _rows(splits[part.splitname], part.from_, part.to)]
    tables = [_table(*rows) for rows in chosen]
    for (of_split, _), table in zip(chosen, tables, strict=True):
        if table.features != tables[0].features:
            first, other = (
                ", ".join(f"{key}: {described(kind)}" for key, kind in one.features.items())
                for one in (tables[0], table)
            )
            raise ValueError(
                f"`dataset` {name!r}: the columns of {of_split.file!r} are {other}, not {first} as in "
                f"{chosen[0][0].file!r}: give all files the same arrays, or name one of them."
            )
    return as_stream(joined(tables), streaming)


def _rows(splits: list[_Split], begin: int, end: int) -> Iterator[tuple[_Split, range]]:
    """The rows of each file that are between two rows of all of them."""
    for found in splits:
        if rows := range(found.num_images)[max(0, begin) : max(0, end)]:
            yield found, rows
        begin, end = begin - found.num_images, end - found.num_images


def _splits(file: str, image_column: str | None) -> dict[str, _Split]:
    """The splits of a file by the beginnings of the names."""
    reader = find_reader(file)
    assert isinstance(reader, ArrayReader), "the ending of the file was checked"
    try:
        arrays = reader.arrays(os.path.abspath(file))
    except (ValueError, OSError) as error:
        raise ValueError(f"`dataset` {file!r} cannot be read: {error}") from error
    parted = {name: name.rsplit("/", 1)[-1].partition("_") for name in arrays}
    names: dict[str, dict[str, str]] = {"train": {name: name for name in arrays}}
    if arrays and all(rest and first.lower() in _SPLITS for first, _, rest in parted.values()):
        names = {}
        for name, (first, _, rest) in parted.items():
            names.setdefault(_SPLITS[first.lower()], {})[rest] = name
    found = {key: {column: arrays[name] for column, name in own.items()} for key, own in names.items()}
    return {key: _Split(file, _image_column(file, found[key], image_column), found[key], names[key]) for key in names}


def _image_column(name: str, arrays: Mapping[str, Stored], given: str | None) -> str:
    """The array of images."""
    candidates = [column for column, array in arrays.items() if _may_be_images(array)]
    if given is None and len(candidates) == 1:
        return candidates[0]
    if given in candidates:
        return given
    shapes = [f"{column} {array.dtype} {tuple(array.shape)}" for column, array in arrays.items()]
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


def _table(found: _Split, rows: range) -> Any:  # noqa: ANN401, a Dataset
    from datasets import Dataset, Features, Value
    from datasets import Image as ImageFeature

    path, images, length = os.path.abspath(found.file), found.images, found.num_images
    first = found.arrays[images][rows.start : rows.start + 1]  # decompresses an npz, in this process only
    assert len(first) == min(1, len(rows)), "an array is as long as its shape says"
    columns: dict[str, Any] = {images: [with_part(path, Part(found.names[images], (row,))) for row in rows]}
    features = Features({images: ImageFeature(decode=False)})
    for name, array in found.arrays.items():
        if tuple(array.shape) in ((length,), (length, 1)) and array.dtype.kind in "buifUST":
            values = np.asarray(array[rows.start : rows.stop]).reshape(-1)
            is_text = values.dtype.kind not in "buif"
            columns[name] = [_text(value) for value in values.tolist()] if is_text else values
            features[name] = Value("string" if is_text else values.dtype.name)
    return Dataset.from_dict(columns, features=features)


def _text(value: object) -> str:
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)
