"""Parquet and tar files, names of tables and splits, and folders that `save_to_disk` wrote -> datasets."""

import glob
import os
import re
from pathlib import Path
from typing import Any

from .dataset_kinds import Opened, Stream, is_stream
from .opening_errors import nearby, unknown_split
from .readers.addresses import ARRAY_ENDINGS, FOLDER_ENDING
from .readers.known_readers import READERS, TIFF_ENDINGS, ending_of

DIGITS = "digits"  # the dataset that comes with scikit-learn
# Names of the file readers in `datasets`, and the endings by which their files are recognised.
FILE_KINDS = {
    "parquet": (".parquet",),
    "webdataset": (".tar", ".tar.gz", ".tgz"),
    "csv": (".csv", ".tsv"),
    "json": (".jsonl",),
}
ARRAYS = "arrays"  # kind of npz, HDF5 and zarr containers, which `datasets` does not read
IMAGES = "images"  # kind of a glob of images, and of a single file with several of them
# Spellings of the usual splits, as names of folders and in tables.
SPLIT_NAMES = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_MARKS = (("dataset_dict.json",), ("state.json", "dataset_info.json"))  # of `save_to_disk`: several splits, one
_MAX_SHARDS = 64  # shards of a map-style dataset that is read as a stream


def kind_of_files(name: str) -> str | None:
    """
    `"parquet"`, `"webdataset"`, `"csv"`, `"json"`, `"arrays"`, `"images"`, or None for a name that is not such a file,
    glob or url. Folders are None too, but for those of zarr.
    """
    if "://" in name:
        path = name.split("?")[0]
    else:
        path = os.path.expanduser(name).rstrip("/" + os.sep)
        if os.path.isdir(path):
            return ARRAYS if path.lower().endswith(FOLDER_ENDING) else None
    if path.lower().endswith(ARRAY_ENDINGS):
        return ARRAYS
    kind = next((kind for kind, endings in FILE_KINDS.items() if path.endswith(endings)), None)
    if kind is not None or "://" in name:
        return kind
    holds_several = ending_of(path) in (*READERS, *TIFF_ENDINGS) and os.path.isfile(path)
    return IMAGES if holds_several or _is_pattern(path) else None


def _is_pattern(path: str) -> bool:
    """Whether a path of this machine stands for several files."""
    return not os.path.exists(path) and (glob.has_magic(path) or _RANGE.search(path) is not None)


def folder_of(name: str) -> str:
    """The folder of the images or the table by the name of a source, above the first star of a glob; or the name."""
    if os.path.isfile(name):
        return os.path.dirname(os.path.abspath(name))
    if kind_of_files(name) != IMAGES:
        return name
    while _is_pattern(name):
        name = os.path.dirname(name)
    return name or os.curdir


def open_files(kind: str, patterns: str | list[str], name: str, split: str, streaming: bool) -> Opened:
    """
    Open Parquet or WebDataset tar files (`kind`) as one split, whatever they are called. Patterns are paths, globs or
    urls, in which `{000..123}` stands for that range of numbers; `name` is what the user gave. The split must be
    `"train"`, or without streaming a slice of it: an encoder would be evaluated on the rows that fitted its probe.
    """
    from .dataset_builders import load_split

    # `datasets` takes files for patterns, in which a bracket is special.
    files = resolve_files(patterns)
    data_files = {"train": [file if "://" in file else glob.escape(file) for file in files]}
    return load_split(kind, name, split, streaming, data_files=data_files)


def resolve_files(patterns: str | list[str]) -> list[str]:
    """The files that paths, globs or urls stand for; one that two patterns match is there once."""
    patterns = [patterns] if isinstance(patterns, str | Path) else patterns
    return list(dict.fromkeys(file for pattern in patterns for file in _resolve(os.fspath(pattern))))


def _resolve(pattern: str) -> list[str]:
    """The files that match a pattern; `datasets` resolves patterns in urls."""
    pattern = os.path.expanduser(pattern)
    spread = _RANGE.search(pattern)
    if spread:
        first, last = spread.groups()
        numbers = (f"{number:0{len(first)}d}" for number in range(int(first), int(last) + 1))
        return [file for number in numbers for file in _resolve(pattern.replace(spread[0], number, 1))]
    if pattern.startswith(("http://", "https://")) and "*" in pattern:
        way_out = "Name them in `data_files`, or as a range like `{000..123}`."
        raise ValueError(f"`dataset` {pattern!r}: a web server does not list its files. {way_out}")
    if "://" in pattern or _is_file(pattern):
        return [pattern]
    files = sorted(filter(_is_file, glob.glob(pattern, recursive=True)))
    if not files:
        raise ValueError(f"`dataset` {pattern!r}: no such file. {nearby(pattern)}")
    return files


def _is_file(path: str) -> bool:
    """Not a pipe or a device, nor a folder except of zarr."""
    return os.path.isfile(path) or (path.lower().endswith(FOLDER_ENDING) and os.path.isdir(path))


def with_length(stream: Stream, rows: int) -> Stream:
    """Write the number of rows into the description of the stream's split, which may have no name."""
    import datasets

    split = str(stream.split)
    stream.info.splits = datasets.SplitDict({split: datasets.SplitInfo(name=split, num_examples=rows)})
    return stream


def as_stream(dataset: Opened, streaming: bool) -> Opened:
    """A map-style dataset as a stream of up to 64 shards, if `streaming` is set; a stream or an empty one as it is."""
    if not streaming or is_stream(dataset) or not len(dataset):
        return dataset
    return with_length(dataset.to_iterable_dataset(num_shards=min(_MAX_SHARDS, len(dataset))), len(dataset))


def joined(parts: list[Opened]) -> Opened:
    """Datasets one after the other."""
    from datasets import concatenate_datasets

    return parts[0] if len(parts) == 1 else concatenate_datasets(parts)


def parts_of_split(name: str, split: str, lengths: dict[str, int]) -> list[Any]:
    """Resolve a split, a name, a slice like `"train[:1000]"` or several joined by `+`, to `ReadInstruction`s."""
    from datasets import ReadInstruction

    try:
        parts = ReadInstruction.from_spec(split).to_absolute(lengths)
    except (ValueError, AssertionError) as error:
        raise unknown_split(name, split, error) from error
    if not any(part.to > part.from_ for part in parts):
        raise ValueError(f"`dataset` {name!r} has no images: the split {split!r} is empty.")
    return parts


def is_saved_dataset(folder: str) -> bool:
    """Whether `datasets.load_from_disk` reads it."""
    return any(all(os.path.isfile(os.path.join(folder, mark)) for mark in marks) for marks in _MARKS)


def open_saved_dataset(name: str, split: str, streaming: bool) -> Opened:
    """Open a folder that `save_to_disk` wrote, without a copy in the cache. One without split names is `train`."""
    from datasets import load_from_disk

    try:
        found = load_from_disk(name)
    except (OSError, ValueError, KeyError) as error:
        reason = f"{type(error).__name__}: {error}. Save it again with `save_to_disk`."
        raise ValueError(f"`dataset` {name!r} cannot be read: {reason}") from error
    if not isinstance(found, dict):
        own = str(found.split)
        found = {own if found.split is not None and re.fullmatch(r"\w+", own) else "train": found}
    found = {str(key): dataset.with_format(None) for key, dataset in found.items()}
    parts = parts_of_split(name, split, {key: len(dataset) for key, dataset in found.items()})
    taken = [found[part.splitname].select(range(part.from_, part.to)) for part in parts]
    return as_stream(joined(taken), streaming)
