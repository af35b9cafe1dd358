"""A name, or the entries of a mixture -> datasets with their columns, map-style or streamed."""

import difflib
import io
import os
import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from PIL import Image

from .array_files import open_arrays
from .dataset_files import (
    ARRAYS,
    DIGITS,
    FILE_KINDS,
    IMAGES,
    as_stream,
    is_saved_dataset,
    joined,
    kind_of_files,
    open_files,
    open_saved_dataset,
    parts_of_split,
    resolve_files,
)
from .dataset_kinds import Mixture, Opened, count_rows, is_stream
from .image_folder import open_files_of_images, open_folder
from .image_source import ImageSource, find_columns
from .missing_paths import refuse_missing_path
from .opening_errors import without_secrets
from .origins import Origin, real_place
from .readers.reader import Cut
from .tables import TABLE_KINDS, is_table_of_paths, open_table
from .view_settings import MOST_PIXELS

if TYPE_CHECKING:
    from datasets import Dataset

_TEST_SHARE = 0.25
_ENTRY_KEYS = (
    "dataset", "weight", "config", "split", "revision", "data_files", "image_column", "pages", "slice_axis",
    "window_size",
)  # fmt: skip

Built: TypeAlias = "Opened | dict[str, Opened]"  # a DatasetDict is a dict


def load_source(
    name: "str | Path | Built",
    split: str = "train",
    config: str | None = None,
    streaming: bool = False,
    image_column: str | None = None,
    label_column: str | None = None,
    revision: str | None = None,
    data_files: str | list[str] | dict[str, str] | None = None,
    max_image_pixels: int | None = None,
    pages: str = "channels",
    slice_axis: int | None = None,
    window_size: int | None = None,
) -> ImageSource:
    """
    Open a source of images.

    Args:
        name: `"digits"`; a dataset id of the Hub; a folder of images, or one that `save_to_disk` wrote; a table of
            paths as [`~data.tables.open_table`] reads it (.csv, .tsv, .jsonl, .parquet); Parquet or WebDataset tar
            files as a path, a glob or a url (`hf://datasets/user/name/*.parquet` too), where `{000..123}` stands for a
            range; a container of arrays as [`~data.array_files.open_arrays`] reads it, or a glob of them; a glob of
            images, or a file of several, such as a volume; `"parquet"`, `"webdataset"`, `"csv"` or `"json"` with such
            files in `data_files`; or a dataset that `datasets` has built already.
        split (`str`, *optional*, defaults to `"train"`): Name of the split, or several joined as in
            `"train+validation"`; a slice like `"train[:1000]"` works without streaming.
        config (`str`, *optional*): Configuration of a Hub dataset.
        streaming (`bool`, *optional*, defaults to `False`): Read while training instead of downloading first.
        image_column (`str`, *optional*): Column of the images. Found by its type if missing: images, or where there
            are none `datasets.Array2D` or `Array3D`. Columns of encoded bytes (`.npy` too) or paths must be named.
        label_column (`str`, *optional*): Column of the labels, of which there may be none. Found by its type if
            missing: `datasets.ClassLabel`, or where there is none the only column of integers, unless it is called
            `id`, `index`, `width` or `height`; of tables and of `metadata.csv` in a folder the column called `label`.
            Masks, which are images beside the images, must be named.
        revision (`str`, *optional*): Branch, tag or commit of a Hub dataset.
        data_files (`str` or `list[str]`, *optional*): The files to read, as paths or globs; for a Hub dataset also one
            for each split (`dict[str, str]`), where the repository has other large files.
        max_image_pixels (`int`, *optional*): Largest width times height of an image that an evaluation decodes; PIL's
            limit if missing. Larger images count as broken.
        pages (`str`, *optional*, defaults to `"channels"`): What the pages of a TIFF in a folder or glob are,
            `channels` of one image or `images`.
        slice_axis (`int`, *optional*): Axis of volumes along which each slice is an image, 0, 1 or 2; 2 if missing.
        window_size (`int`, *optional*): Side in pixels of the windows into which each file of a folder is cut.

    Raises:
        ValueError: If there is no such source, split, column or image, which the message names with what was found, or
            `max_image_pixels` is below 1.
    """
    MOST_PIXELS.check("max_image_pixels", max_image_pixels)
    split = split.replace(" ", "")  # `datasets` takes none around a `+`
    settings = {"config": config, "revision": revision, "data_files": data_files}
    cut = Cut(pages, slice_axis, window_size)
    if not isinstance(name, str | Path):
        _refuse("a dataset built already", {**settings, **cut.given})
        source = _given_source(name, split, streaming, image_column, label_column)
        return replace(source, max_image_pixels=max_image_pixels)
    name = os.path.expanduser(name)
    if kind_of_files(name) is not None:
        name = name.rstrip("/")  # of a container that is a folder
    is_table = _is_table(name, data_files, image_column)
    dataset = _open_named(name, split, streaming, settings, cut, image_column)

    def open_split(part: str) -> Opened:
        return _open_named(name, part, False, settings, cut, image_column)

    shown = resolve_files(data_files)[0] if is_table and name in FILE_KINDS else name  # type: ignore[arg-type]
    is_plain = is_table or _are_images(name)
    source = find_columns(dataset, without_secrets(shown), image_column, label_column, finds_integers=not is_plain)
    return replace(
        source,
        split=split,
        config=config,
        revision=revision,
        max_image_pixels=max_image_pixels,
        opened=(source.dataset, _origin(name, split, settings, dataset, open_split)),
    )


def _are_images(name: str) -> bool:
    """Whether a name is a folder of images, a glob of them, or a file of several."""
    kind = kind_of_files(name)
    return kind == IMAGES or (kind is None and os.path.isdir(name) and not is_saved_dataset(name))


def _is_table(name: str, data_files: Any, image_column: str | None) -> bool:  # noqa: ANN401, of whatever type
    """Whether the files are tables of paths."""
    kind = name if name in FILE_KINDS else kind_of_files(name)
    files = data_files if name in FILE_KINDS else name
    return kind in TABLE_KINDS or (kind == "parquet" and is_table_of_paths(files, image_column))


def _open_named(
    name: str, split: str, streaming: bool, settings: dict[str, Any], cut: Cut, image_column: str | None
) -> Opened:
    """Open what has a name; `settings` of [`load_source`] that have no meaning for it are refused."""
    shown = without_secrets(name)
    if cut.given and not _are_images(name):
        _refuse(f"`dataset` {shown!r}, which is not a folder of images", cut.given)
    if name in FILE_KINDS:
        _refuse(f"`dataset` {name!r}", settings, but="data_files")
        if not settings["data_files"]:
            raise ValueError(
                f"`data_files` is missing: `dataset` {name!r} gives the type of the files, not their paths."
            )
        return _open_files(name, settings["data_files"], shown, split, streaming, image_column)
    if kind_of_files(name) == ARRAYS:
        _refuse(f"`dataset` {shown!r}", {**settings, **cut.given})
        return open_arrays(name, split, streaming, image_column)
    if kind_of_files(name) == IMAGES:
        _refuse(f"`dataset` {shown!r}", settings)
        return open_files_of_images(name, split, streaming, cut)
    if kind := kind_of_files(name):
        _refuse(f"`dataset` {shown!r}", settings)
        return _open_files(kind, name, shown, split, streaming, image_column)
    if name == DIGITS:
        _refuse(f"`dataset` {name!r}", settings)
        return as_stream(_open_digits(split), streaming)
    if os.path.isdir(name):
        _refuse(f"the folder {name!r}", settings)
        if is_saved_dataset(name):
            return open_saved_dataset(name, split, streaming)
        return open_folder(name, split, streaming, cut)
    if "://" in name:
        way_out = "end it in .parquet or .tar, or name it in `data_files` with `dataset: parquet or webdataset`"
        raise ValueError(f"`dataset` {shown!r} does not name its file type: {way_out}.")
    refuse_missing_path(name)
    from .dataset_builders import load_split

    return load_split(name, name, split, streaming, **settings)


def _open_files(
    kind: str, files: str | list[str], shown: str, split: str, streaming: bool, image_column: str | None
) -> Opened:
    if _is_table(kind, files, image_column):
        return open_table(files, shown, split, streaming, image_column)
    return open_files(kind, files, shown, split, streaming)


def _open_digits(split: str) -> Opened:
    """Splits of digits, slices of them too."""
    names = re.findall(r"(?:^|\+)(\w+)", split)
    found = {name: load_digits_split(name) for name in names}
    parts = parts_of_split(DIGITS, split, {name: len(dataset) for name, dataset in found.items()})
    taken = [(found[part.splitname], range(part.from_, part.to)) for part in parts]
    return joined([whole if len(rows) == len(whole) else whole.select(rows) for whole, rows in taken])


@cache  # a run opens them several times
def load_digits_split(split: str) -> "Dataset":
    """scikit-learn's 8x8 scans as PNG bytes in `image`, digits in `label`; a stratified quarter is the test split."""
    from datasets import ClassLabel, Dataset, Features
    from datasets import Image as ImageFeature
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    if split not in ("train", "test"):
        raise ValueError(f"`dataset` 'digits' has the splits train and test, got {split!r}.")
    scans, labels = load_digits(return_X_y=True)
    parts = train_test_split(scans, labels, test_size=_TEST_SHARE, random_state=0, stratify=labels)
    pixels, labels = (parts[0], parts[2]) if split == "train" else (parts[1], parts[3])
    pixels = (pixels.reshape(-1, 8, 8) * (255 / 16)).round().astype("uint8")
    return Dataset.from_dict(
        {"image": [{"bytes": png_bytes(scan), "path": None} for scan in pixels], "label": labels.tolist()},
        features=Features({"image": ImageFeature(), "label": ClassLabel(names=[str(digit) for digit in range(10)])}),
    )


def png_bytes(pixels: np.ndarray) -> bytes:
    """A uint8 array as PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def _origin(
    name: str, split: str, settings: dict[str, Any], dataset: Opened, open_split: Callable[[str], Opened]
) -> Origin:
    """Where the rows of an opened source with a name come from; `open_split` opens another split of it."""

    def length_of(part: str) -> int | None:
        told = (dataset.info.splits or {}).get(part)
        return told.num_examples if told is not None else count_rows(open_split(part))

    if name in FILE_KINDS or kind_of_files(name) in FILE_KINDS:
        files = resolve_files(settings["data_files"] if name in FILE_KINDS else name)
        return Origin(frozenset(map(real_place, files)), split, length_of=length_of)
    chosen = {**settings, "revision": settings["revision"] or "main"}
    return Origin(real_place(name), split, tuple(str(value) for value in chosen.values()), length_of)


def load_mixture(entries: list[dict[str, Any]], streaming: bool = False) -> Mixture:
    """
    Open several sources to be mixed.

    Args:
        entries (`list[dict]`): One for each source: its `dataset`, its `weight` (1 if missing), and `config`, `split`,
            `revision`, `data_files`, `image_column` as in [`load_source`].
        streaming (`bool`, *optional*, defaults to `False`): Read all sources while training.

    Returns:
        [`Mixture`]: Rows have the one column `image`.
    """
    if not entries:
        raise ValueError("`mixture` is empty: give at least one source, as `- dataset: ...`.")
    datasets, origins = [], []
    for number, entry in enumerate(entries):
        place = f"entry {number} of `mixture`"
        if not isinstance(entry, dict) or "dataset" not in entry:
            raise ValueError(f"`dataset` is missing in {place}: {entry}.")
        unknown = [key for key in entry if key not in _ENTRY_KEYS]
        if unknown:
            close = difflib.get_close_matches(str(unknown[0]), _ENTRY_KEYS, n=1)
            hint = f"did you mean `{close[0]}`?" if close else f"known are {', '.join(_ENTRY_KEYS)}."
            raise ValueError(f"`{unknown[0]}` in {place} is not a known key; {hint}")
        settings = {key: value for key, value in entry.items() if key not in ("dataset", "weight")}
        source = load_source(entry["dataset"], streaming=streaming, **settings)
        if source.is_stream and not streaming:
            raise ValueError(f"`dataset` in {place} is a stream: set `streaming: true`, for all entries.")
        dataset = source.dataset.select_columns([source.image_column])
        is_named = source.image_column == "image"
        datasets.append(dataset if is_named else dataset.rename_column(source.image_column, "image"))
        origins += source.origins
    return Mixture(datasets, [entry.get("weight", 1.0) for entry in entries], origins)


def _refuse(what: str, settings: dict[str, Any], but: str | None = None) -> None:
    """Refuse settings that would be ignored."""
    for field, value in settings.items():
        if value is not None and field != but:
            raise ValueError(f"`{field}` {value!r} has no meaning for {what}: leave it out.")


def _given_source(
    given: Built, split: str, streaming: bool, image_column: str | None, label_column: str | None
) -> ImageSource:
    """A dataset that was built elsewhere, or one split of several."""
    from datasets import Dataset, IterableDataset

    several = isinstance(given, dict)
    parts = split.split("+")
    missing = [part for part in parts if several and part not in given]
    if missing:
        raise ValueError(f"`dataset` has no split {missing[0]!r}: it has {', '.join(map(str, given))}.")
    dataset = joined([given[part] for part in parts]) if several else given
    if not isinstance(dataset, Dataset | IterableDataset):
        got = f"got {type(dataset).__name__}; several files go into `data_files`"
        raise ValueError(f"`dataset` must be a name or a dataset of `datasets`, {got}.")
    stored = dataset.with_format(None)  # rows as they are stored: no tensors, no transform
    name = dataset.info.dataset_name or "the given dataset"
    source = find_columns(as_stream(stored, streaming), name, image_column, label_column)
    source.split = split if several else None
    source.opened = source.dataset, Origin(dataset)
    if is_stream(dataset):
        source.dataset.info.splits = None  # of the whole set; what was taken or filtered is not known
    return source
