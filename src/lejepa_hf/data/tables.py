"""Tables of images: CSV, TSV, JSON Lines or Parquet files with a column of paths -> a dataset of these images."""

import logging
import os
import re
from collections.abc import Iterable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from .dataset_files import SPLIT_NAMES, as_stream, joined, parts_of_split, resolve_files
from .dataset_kinds import Opened

if TYPE_CHECKING:
    from pyarrow import Table

logger = logging.getLogger("lejepa_hf")

TABLE_KINDS = ("csv", "json")  # those of `FILE_KINDS` that hold no images themselves
_DELIMITERS = ",;\t"
_MISSING = ["", "NA", "N/A", "NaN", "nan", "null", "NULL"]  # in CSV files
_USUAL = ("file_name", "filename", "image", "image_path", "path", "filepath", "file")  # names of columns of paths
_CODE = r"^\s*0\d"  # 007 is the name of a patient, not the number 7
_FIRST = 20  # values that show whether a column holds paths
_SHOWN = 5


def open_table(patterns: str | list[str], name: str, split: str, streaming: bool, image_column: str | None) -> Opened:
    """
    Open a split of tables with a row for each image.

    Args:
        patterns (`str` or `list[str]`): Files as paths or globs, with the same columns; urls are refused.
        name (`str`): What the user gave, for messages.
        split (`str`): One of the values of a column called `split`, in the usual spellings of train, validation and
            test, slices and sums of them too. Without such a column all rows are `train`.
        streaming (`bool`): Whether the images are read as a stream. The table is read as a whole anyway.
        image_column (`str`, *optional*): Column of paths, absolute or relative to the folder of the table. If missing,
            the only one whose first values are files.

    Raises:
        ValueError: If a table cannot be read, has no column of paths, or an image does not exist.
    """
    from datasets import Dataset
    from datasets import Image as ImageFeature

    tables = []
    for file in resolve_files(patterns):
        table = read_table(file, name)
        root, image_column = _find_paths(table, file, name, image_column)
        tables.append(_with_places(table, image_column, root, name))
    assert image_column is not None, "`resolve_files` finds at least one file"
    table = joined_tables(tables, name)
    rows = rows_of_splits(table, name)
    parts = parts_of_split(name, split, {key: len(numbers) for key, numbers in rows.items()})
    chosen = [rows[part.splitname][part.from_ : part.to] for part in parts]
    datasets: list[Any] = [Dataset(table.take(pa.array(numbers, pa.int64()))) for numbers in chosen]
    dataset = joined(datasets).cast_column(image_column, ImageFeature(decode=False))
    return as_stream(dataset, streaming)


def joined_tables(tables: Sequence["Table"], name: str) -> "Table":
    """Tables one after the other; ValueError if a column has values of other types in one of them."""
    try:
        return pa.concat_tables(tables, promote_options="default")
    except (pa.ArrowInvalid, TypeError) as error:
        raise ValueError(
            f"`dataset` {name!r}: its tables do not fit together: {' '.join(str(error).split())}. Write the same "
            "type of values into columns of one name."
        ) from error


def is_table_of_paths(pattern: str | list[str], image_column: str | None) -> bool:
    """Whether a Parquet file of this machine holds paths of images and no images."""
    if not isinstance(pattern, str) or not os.path.isfile(pattern):
        return False
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(pattern) as file:
            schema = file.schema_arrow
            texts = [field.name for field in schema if _is_text(field.type)]
            if image_column is not None or any(_holds_images(field.type) for field in schema):
                return image_column in texts
            first = next(file.iter_batches(_FIRST, columns=texts), None) if texts else None
    except (OSError, ValueError):
        return False  # the message about a broken file comes from its reader
    return first is not None and bool(_columns_of_paths(pa.Table.from_batches([first]), os.path.dirname(pattern)))


def read_table(file: str, name: str) -> "Table":
    """Read a CSV, TSV, JSON Lines or Parquet file of this machine; ValueError if it is none or cannot be read."""
    if "://" in file:
        raise ValueError(f"`dataset` {name!r}: download the table and its images, to read it from this machine.")
    try:
        table = _READERS[os.path.splitext(file)[1].lower()](file)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"`dataset` {name!r} cannot be read as a table in UTF-8: {file}: {reason}") from error
    twice = sorted({column for column in table.column_names if table.column_names.count(column) > 1})
    if twice:
        raise ValueError(f"`dataset` {name!r} has several columns called {twice[0]!r}: rename them in {file}.")
    return table


def _read_csv(file: str) -> "Table":
    from pyarrow import compute, csv

    with open(file, encoding="utf-8-sig") as opened:
        head = opened.readline()
    delimiter = max(_DELIMITERS, key=head.count)
    parsing = csv.ParseOptions(delimiter=delimiter, newlines_in_values=True)
    converting = csv.ConvertOptions(strings_can_be_null=True, null_values=_MISSING)
    table = csv.read_csv(file, parse_options=parsing, convert_options=converting)
    kinds = {field.name: field.type for field in table.schema}
    numbers = [name for name, kind in kinds.items() if pa.types.is_integer(kind) or pa.types.is_floating(kind)]
    if numbers and len(kinds) == len(table.column_names):
        converting.column_types, converting.include_columns = dict.fromkeys(numbers, pa.string()), numbers
        texts = csv.read_csv(file, parse_options=parsing, convert_options=converting)
        for name in numbers:
            if compute.any(compute.match_substring_regex(texts[name], _CODE)).as_py():
                table = table.set_column(table.column_names.index(name), name, texts[name])
    table = table.rename_columns([name.strip() for name in table.column_names])
    folder = os.path.dirname(os.path.abspath(file))
    if first := [name for name in table.column_names if name and os.path.isfile(os.path.join(folder, name))]:
        raise ValueError(f"its first row names a file, {first[0]!r}, instead of columns: add a row with their names")
    return table


def _read_json(file: str) -> "Table":
    from pyarrow import json

    return json.read_json(file)


def _read_parquet(file: str) -> "Table":
    from pyarrow import parquet

    return parquet.read_table(file)


_READERS = {".csv": _read_csv, ".tsv": _read_csv, ".jsonl": _read_json, ".parquet": _read_parquet}


def _find_paths(table: "Table", file: str, name: str, image_column: str | None) -> tuple[str, str]:
    """The folder from which paths start, that of the table or else the current one, and their column."""
    described = ", ".join(f"{field.name}: {field.type}" for field in table.schema)
    folder = os.path.dirname(os.path.abspath(file))
    texts = [field.name for field in table.schema if _is_text(field.type)]
    if image_column is not None and image_column not in texts:
        raise ValueError(
            f"`image_column` {image_column!r} is not a column of paths in `dataset` {name!r}; its columns are: "
            f"{described}."
        )
    for root in (folder, os.path.abspath(os.curdir)):
        found = _columns_of_paths(table, root) if image_column is None else _of_files(table, [image_column], root)
        usual = [column for column in found if column.lower() in _USUAL]
        if len(found) == 1 or len(usual) == 1:
            return root, (found if len(found) == 1 else usual)[0]
        if found:
            raise ValueError(
                f"`dataset` {name!r} has {len(found)} columns of paths ({', '.join(found)}): set `image_column` to "
                f"one of them; its columns are: {described}."
            )
    expected = [column for column in texts if column.lower() in _USUAL] if image_column is None else [image_column]
    if not expected:
        raise ValueError(
            f"`dataset` {name!r} has no column whose first values are files, by their absolute paths or from the "
            f"folder of the table on: set `image_column` to the column of paths; its columns are: {described}."
        )
    return folder, expected[0]  # its files are missing, or urls


def _columns_of_paths(table: "Table", root: str) -> list[str]:
    """Columns of texts among whose first values there are files, seen from the folder `root`."""
    return _of_files(table, [field.name for field in table.schema if _is_text(field.type)], root)


def _of_files(table: "Table", columns: Sequence[str], root: str) -> list[str]:
    first = {column: [value for value in table[column][:_FIRST].to_pylist() if value] for column in columns}
    return [
        column for column, paths in first.items() if any(os.path.isfile(os.path.join(root, path)) for path in paths)
    ]


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _holds_images(kind: pa.DataType) -> bool:
    """Whether a column of this type may hold images, or several of them in each row, instead of their paths."""
    kind = kind.value_type if pa.types.is_list(kind) else kind
    return pa.types.is_struct(kind) or pa.types.is_binary(kind) or isinstance(kind, pa.BaseExtensionType)


def _with_places(table: "Table", column: str, root: str, name: str) -> "Table":
    """The table with the complete paths of its images, all of which exist; urls stay as they are."""
    places = [_place(path, root) for path in table[column].to_pylist()]
    missing = [place or "a row without a path" for place in _not_there(places)]
    if missing:
        raise ValueError(
            f"`dataset` {name!r}: {len(missing):,} of {len(places):,} images in column {column!r} do not exist, the "
            f"first one is {missing[0]}. Paths are absolute, or start in the folder of the table: put the images "
            "there, or take these rows out."
        )
    return table.set_column(table.column_names.index(column), column, pa.array(places, pa.string()))


def _place(path: str | None, root: str) -> str | None:
    return path if not path or "://" in path else os.path.normpath(os.path.join(root, path))


def _not_there(places: Iterable[str | None]) -> list[str | None]:
    """Those that are not files; each folder is listed once, which on a network drive is faster than many questions."""

    @cache
    def names_in(folder: str) -> frozenset[str]:
        try:
            return frozenset(os.listdir(folder))
        except OSError:
            return frozenset()

    def is_there(place: str) -> bool:
        return "://" in place or os.path.basename(place) in names_in(os.path.dirname(place))

    return [place for place in places if not place or not is_there(place)]


def split_column(table: "Table") -> str | None:
    """The column that names the split of each row, if there is one."""
    return next((column for column in table.column_names if column.lower() == "split"), None)


def rows_of_splits(table: "Table", name: str) -> dict[str, Sequence[int]]:
    """
    The numbers of the rows of each split, by [`split_column`] and in its usual spelling; all rows are `train` without
    such a column. Rows without a value are left out with a warning.
    """
    column = split_column(table)
    if column is None:
        return {"train": range(len(table))}
    usual = {spelling: split for split, spellings in SPLIT_NAMES.items() for spelling in spellings}
    rows: dict[str, list[int]] = {}
    for number, value in enumerate(table[column].to_pylist()):
        split = "" if value is None else str(value).strip()
        rows.setdefault(usual.get(split.lower(), split), []).append(number)
    if without := rows.pop("", []):
        _warn_once(f"{name}: {len(without):,} of {len(table):,} rows have no value in {column!r} and are left out")
    if strange := [split for split in rows if not re.fullmatch(r"\w+", split)]:
        shown = ", ".join(map(repr, strange[:_SHOWN]))
        raise ValueError(
            f"`dataset` {name!r}: the column {column!r} names the split of each image, but holds {shown}: write "
            "train, validation, test or other words of letters and digits, or rename the column."
        )
    return dict(rows)


@cache
def _warn_once(message: str) -> None:
    """Warn the first time: a table is read several times in a run."""
    logger.warning(message)
