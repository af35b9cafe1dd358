"""`metadata.csv` beside the images of a folder, as the imagefolder of `datasets` has it -> further columns."""

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import NamedTuple

import pyarrow as pa

from .dataset_kinds import Opened
from .tables import joined_tables, read_table, rows_of_splits, split_column

logger = logging.getLogger("lejepa_hf")

METADATA_ENDINGS = {".csv", ".jsonl", ".parquet"}
_KEY = "file_name"


class Metadata(NamedTuple):
    """The rows of the metadata of a folder, and their numbers by the paths of their images within the folder."""

    name: str  # of the folder
    table: pa.Table
    row: Mapping[str, int]

    def columns_of(self, images: Sequence[str]) -> pa.Table:
        """The columns for some images, in their order; nothing for an image without a row."""
        return self.table.take(pa.array([self.row.get(image) for image in images], pa.int64()))

    def splits(self, splits: dict[str, list[str]]) -> dict[str, list[str]]:
        """
        The images of each split, where these are those by folders. A column called `split` wins, in the spellings of
        [`~data.tables.open_table`]; an image without a value keeps its folder's split, or is left out if there is
        only `train`.
        """
        column = split_column(self.table)
        if column is None:
            return splits
        of_folder = {image: split for split, images in splits.items() for image in images if len(splits) > 1}
        listed = sorted(image for images in splits.values() for image in images)
        told = self.columns_of(listed)[column].to_pylist()
        filled = [
            of_folder.get(image) if value is None else str(value) for image, value in zip(listed, told, strict=True)
        ]
        rows = rows_of_splits(pa.table({column: pa.array(filled, pa.string())}), self.name)
        return {split: [listed[row] for row in numbers] for split, numbers in rows.items()}

    def added_to(self, dataset: Opened, images: Sequence[str]) -> Opened:
        """The dataset of these images with further columns. A column `label` stands in place of that of folders."""
        from datasets import Dataset, concatenate_datasets

        columns = self.columns_of(images)
        kept = [column for column in dataset.column_names or () if column not in columns.column_names]
        return concatenate_datasets([dataset.select_columns(kept), Dataset(columns)], axis=1)


def read_metadata(name: str, listed: Sequence[str]) -> Metadata | None:
    """
    Read `metadata.csv`, `metadata.jsonl` or `metadata.parquet` of a folder of images, None if there is none. The file
    lies in the folder or in one of the folders right below it; its column `file_name` has paths that start there. A
    file that cannot be read, or has no such column, is left out with a warning. Others tell of rows without an image
    and of images without a row.

    Args:
        name (`str`): The folder.
        listed (`Sequence[str]`): Paths of all images within the folder.
    """
    tables = [_keyed(name, folder, file) for folder, file in _files(name, listed)]
    found = [table for table in tables if table is not None]
    if not found:
        return None
    table = joined_tables(found, name)
    row = {path: number for number, path in enumerate(table[_KEY].to_pylist())}
    if len(row) < len(table):
        _warn_once(
            f"{name}: metadata has {len(table) - len(row):,} further rows for the same images; the last one counts"
        )
    _warn_of_differences(name, set(row), set(listed))
    return Metadata(name, table.drop_columns([_KEY]), row)


def _files(name: str, listed: Sequence[str]) -> Iterator[tuple[str, str]]:
    """The folders within the folder that have such a file, and its path."""
    for folder in ["", *sorted({image.split(os.sep, 1)[0] for image in listed if os.sep in image})]:
        for ending in sorted(METADATA_ENDINGS):
            file = os.path.join(name, folder, f"metadata{ending}")
            if os.path.isfile(file):
                yield folder, file
                break


def _keyed(name: str, folder: str, file: str) -> pa.Table | None:
    """A table whose `file_name` is the path within the folder; None for a file that is not about images."""
    try:
        table = read_table(file, name)
    except ValueError as error:
        _warn_once(f"{error}; the file is not used")
        return None
    if _KEY not in table.column_names or "image" in table.column_names:
        reason = f"no column `{_KEY}`" if _KEY not in table.column_names else "a column `image`, as the images have"
        _warn_once(f"{file} has {reason}, and is not used: rename its columns")
        return None
    paths = [
        None if path is None else os.path.normpath(os.path.join(folder, str(path))) for path in table[_KEY].to_pylist()
    ]
    return table.set_column(table.column_names.index(_KEY), _KEY, pa.array(paths, pa.string()))


def _warn_of_differences(name: str, described: set[str | None], listed: set[str]) -> None:
    """Warn of rows without an image, and of images without a row."""
    strange, silent = sorted(map(str, described - listed)), sorted(listed - described)
    if strange:
        _warn_once(f"{name}: {len(strange):,} rows of metadata name no image, the first one is {strange[0]}")
    if silent:
        _warn_once(f"{name}: {len(silent):,} images have no row in metadata, the first one is {silent[0]}")


@cache
def _warn_once(message: str) -> None:
    """Warn the first time: a folder is listed several times in a run."""
    logger.warning(message)
