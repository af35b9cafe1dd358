"""What the rows of a source are called, and which of them belong together: patients, plots, cameras."""

import os
import re
from collections.abc import Iterator, Sequence
from typing import Any

from .dataset_files import folder_of
from .image_source import ImageSource
from .readers.addresses import file_of_part


def row_names(source: ImageSource) -> list[str]:
    """
    A name for each row of a map-style source: the path of its file, from the folder on, which the slices of a volume
    have in common; or its number.
    """
    import pyarrow.compute as compute

    dataset: Any = source.dataset
    number = len(dataset)
    stored = dataset.data.column(source.image_column)
    if str(stored.type) != "struct<bytes: binary, path: string>":
        return [str(row) for row in range(number)]
    paths = compute.struct_field(stored, "path")
    if dataset._indices is not None:
        paths = paths.take(dataset._indices.column(0).to_numpy())
    if compute.struct_field(stored, "bytes").null_count < len(stored) or paths.null_count:
        return [str(row) for row in range(number)]
    folder = folder_of(source.name)
    return [file_of_part(path_within(path, folder)) for path in paths.to_pylist()]


def groups_of(source: ImageSource, group_column: str, names: Sequence[str] | None = None) -> list[str]:
    """
    The group of each row of a map-style source: the value of a column, or of a folder of images the name of one of the
    folders above each of them, as in [`~data.held_out_share.split_off`]. `names` are the source's [`row_names`], if
    they are known. ValueError if there is no such column or folder, or a row has no group.
    """
    dataset: Any = source.dataset
    if group_column in dataset.column_names:
        check_group_column(source, group_column)
        groups = column_values(source, group_column)
        absent = sum(group is None for group in groups)
        if absent:
            raise ValueError(
                f"`group_column` {group_column!r} of `dataset` {source.name!r} is empty in {absent:,} of "
                f"{len(groups):,} rows: give each image a group, or leave these rows out."
            )
        return [str(group) for group in groups]
    names = row_names(source) if names is None else names
    is_folder = os.path.isdir(folder_of(source.name)) and not names[0].isdecimal()  # else its rows have numbers
    if not (is_folder and re.fullmatch(r"-?[1-9][0-9]*", group_column)):
        raise _unknown_column(source, group_column, is_folder)
    return list(_folders(names, int(group_column), group_column, source.name))


def _folders(names: Sequence[str], level: int, group_column: str, source: str) -> Iterator[str]:
    for name in names:
        folders = name.split("/")[:-1]
        if abs(level) > len(folders):
            raise ValueError(
                f"`group_column` {group_column!r}: the image {name!r} of {source!r} has only {len(folders)} folders "
                "above it; 1 is the first folder below `dataset`, -1 the one right above an image."
            )
        yield folders[level - 1 if level > 0 else level]


def check_group_column(source: ImageSource, group_column: str) -> None:
    """Refuse a column that a source does not have, or whose values cannot be compared."""
    from datasets import ClassLabel, Value

    if group_column not in source.features:
        raise _unknown_column(source, group_column, is_folder=False)
    if not isinstance(source.features[group_column], ClassLabel | Value):
        raise ValueError(
            f"`group_column` {group_column!r} of `dataset` {source.name!r} does not hold texts or numbers but "
            f"{type(source.features[group_column]).__name__}: name a column with a name or number for each group."
        )


def _unknown_column(source: ImageSource, group_column: str, is_folder: bool) -> ValueError:
    levels = "; or give a level of folders, such as 1 for the first one below `dataset`" if is_folder else ""
    columns = ", ".join(source.features)
    return ValueError(
        f"`group_column` {group_column!r} is not in `dataset` {source.name!r}; its columns are: {columns}{levels}."
    )


def column_values(source: ImageSource, column: str) -> list:
    """All values of a column, without reading an image."""
    dataset: Any = source.dataset
    return dataset.with_format(None).select_columns([column])[:][column]


def path_within(path: str, folder: str) -> str:
    """A path from a folder on, as on any machine; as it is if it lies elsewhere."""
    root = os.path.join(os.path.abspath(folder), "")
    return path.removeprefix(root).replace(os.sep, "/")
