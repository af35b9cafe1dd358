"""The builders of `datasets` -> one split; works around faults of its readers. Imported where first needed."""

import logging
import os
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any, TypeAlias

import datasets
import pyarrow.dataset
import pyarrow.parquet
from datasets.packaged_modules.parquet.parquet import ParquetConfig
from datasets.packaged_modules.webdataset.webdataset import WebDataset

from ..system.progress_bars import are_drawn
from .dataset_files import FILE_KINDS, joined, with_length
from .dataset_kinds import Opened, count_rows
from .network import is_network_error
from .opening_errors import explained
from .parquet_branch import PARQUET_BRANCH, choose_configuration, holds_program, list_parquet_branch
from .pixel_arrays import is_npy, read_npy

logger = logging.getLogger("lejepa_hf")

_INTEGER = re.compile(r"[-+]?\d+")
_SHOWN = 40  # letters of a value in a message

DataFiles: TypeAlias = str | list[str] | dict[str, str] | dict[str, list[str]]
# Endings of files in a tar that are not decoded here: arrays, pickles, those of torch too, and formats that need other
# packages.
_ARRAYS = ("npy", "dcm")  # images, if a sample has no other one
_OBJECTS = ("npy", "pth", "pyd", "pickle", "pkl", "mp", "msg", "cbor", "ten", "tb")
_CLASSES = ("cls", "cls2", "index", "inx", "id")  # files of one number, in which people write names of classes too


class ImageTars(WebDataset):
    """
    Reads WebDataset tar files in which one sample is a jpg and another a png. The reader of `datasets` refuses them if
    it notices at once, and otherwise drops samples. The only image of a sample is stored in the column of the first
    sample's image, whatever its own extension. Files of tensors and objects stay bytes. If the first sample has no
    other image, `.npy` and `.dcm` files are images; beside an image they may be anything. A `.cls` file holds a class
    number or a text; if that of the first sample is a text, all are.
    """

    DECODERS = {
        ending: decode for ending, decode in WebDataset.DECODERS.items() if ending not in (*_OBJECTS, *_CLASSES)
    }

    # All are known from the first tar on, before a stream is handed to workers.
    _image_column: str | None = None
    _takes_arrays: bool | None = None
    _texts: frozenset[str] | None = None  # those of `_CLASSES` that hold texts

    def _get_pipeline_from_tar(self, tar_path: object, tar_iterator: object) -> Any:  # noqa: ANN401, that of `datasets`
        known, incomplete = set(), 0
        for sample in super()._get_pipeline_from_tar(tar_path, tar_iterator):
            key = sample["__key__"]
            if key in known:
                raise ValueError(
                    f"the files of the sample {key!r} are not next to each other in {tar_path}: pack them sorted by "
                    "name, with `tar --sort=name -cf NEW.tar -C FOLDER .` for example"
                )
            known.add(key)
            self._take_arrays(sample)
            self._take_classes(sample, tar_path)
            images = [field for field in sample if field.lower() in self.IMAGE_EXTENSIONS]
            if len(images) == 1:
                self._image_column = self._image_column or images[0]
                if images[0] != self._image_column:
                    sample[self._image_column] = sample.pop(images[0])
            elif not images and self._image_column is not None:
                incomplete += 1
                if incomplete == 1:
                    way_out = "It and others like it count as broken images: add their images, or remove their files."
                    logger.warning(f"{tar_path}: the sample {key!r} has no image. {way_out}")
            yield sample

    def _take_arrays(self, sample: dict[str, Any]) -> None:
        """Decide by the first sample whether arrays are images; if not, decode them as `datasets` does."""
        arrays = [field for field in sample if field.rsplit(".", 1)[-1].lower() in _ARRAYS]
        if self._takes_arrays is None:
            endings = {field.rsplit(".", 1)[-1].lower() for field in sample}
            self._takes_arrays = bool(arrays) and not endings.intersection(WebDataset.IMAGE_EXTENSIONS)
            if self._takes_arrays:
                self.IMAGE_EXTENSIONS = [*WebDataset.IMAGE_EXTENSIONS, *_ARRAYS]
        for field in arrays:
            if not self._takes_arrays and is_npy(sample[field]):
                sample[field] = read_npy(sample[field])

    def _take_classes(self, sample: dict[str, Any], tar_path: object) -> None:
        """Decode numbers and names of classes; by the first sample it is decided which are names."""
        told = {
            field: sample[field].decode("utf-8", "backslashreplace").strip()
            for field in sample
            if field.rsplit(".", 1)[-1].lower() in _CLASSES and isinstance(sample[field], bytes)
        }
        if self._texts is None:
            self._texts = frozenset(field for field, text in told.items() if text and not _INTEGER.fullmatch(text))
        for field, text in told.items():
            if text and field not in self._texts and not _INTEGER.fullmatch(text):
                raise ValueError(
                    f"the file {sample['__key__']}.{field} in {tar_path} holds {text[:_SHOWN]!r}, not an integer as "
                    "in the first sample: write integers into all of them, or texts"
                )
            sample[field] = None if not text else text if field in self._texts else int(text)


def load_split(
    path: str,
    name: str,
    split: str,
    streaming: bool,
    config: str | None = None,
    data_files: DataFiles | None = None,
    revision: str | None = None,
) -> Opened:
    """
    Load a split as `datasets.load_dataset` does; errors call it `name`. A stream of local Parquet files is split by
    row groups: readers get equal shares and need little memory.
    """
    files = str(data_files.get("train") if isinstance(data_files, dict) else data_files)
    if path == "pandas":  # `datasets` before 5.2 reads them without protection
        raise ValueError(f"`dataset` {name!r} reads pickles, which could run code: write the images as Parquet files.")
    explaining = partial(_explaining, name, split, path, files)
    if path == "webdataset":
        with explaining():
            builder = ImageTars(data_files=data_files)
    else:
        builder = _find_builder(path, name, config, data_files, revision, explaining)
    with explaining():
        if not streaming:
            with _bars_where_they_are_seen():
                builder.download_and_prepare()
            return builder.as_dataset(split=split)
        is_parquet = isinstance(builder.config, ParquetConfig)
        if is_parquet:
            # By default Arrow keeps what it has read of a Parquet file until the file ends: gigabytes a worker.
            builder.config.fragment_scan_options = pyarrow.dataset.ParquetFragmentScanOptions(pre_buffer=False)
        splits = split.split("+")
        streams = [builder.as_streaming_dataset(split=part) for part in splits]
        stream = joined(streams)
    shards = [file for part in splits for file in builder.config.data_files.get(part, [])] if is_parquet else []
    if not shards or any("://" in shard for shard in shards):
        lengths = [length for part in streams if (length := count_rows(part)) is not None]
        return with_length(stream, sum(lengths)) if 1 < len(streams) == len(lengths) else stream
    num_rows = _count_rows(shards, name)  # names a broken file, before `reshard` opens them
    return with_length(stream.reshard(), num_rows)


@contextmanager
def _bars_where_they_are_seen() -> Iterator[None]:
    """Hide the bars of `datasets` in a log file; afterwards they are as the caller has set them."""
    hides = not are_drawn() and datasets.is_progress_bar_enabled()
    if hides:
        datasets.disable_progress_bars()
    try:
        yield
    finally:
        if hides:
            datasets.enable_progress_bars()


@contextmanager
def _explaining(name: str, split: str, path: str, files: str) -> Iterator[None]:
    """Turn errors of `datasets` and the Hub's client into one line with the way out."""
    try:
        yield
    except Exception as error:
        message = explained(error, name, split, path, files, on_hub=path not in FILE_KINDS)
        if message is None:
            raise
        raise message from error


def _find_builder(
    path: str,
    name: str,
    config: str | None,
    data_files: DataFiles | None,
    revision: str | None,
    explaining: Callable[[], AbstractContextManager],
) -> datasets.DatasetBuilder:
    """
    The builder of a Hub dataset, a folder or files. If a repository holds a program instead of images, the Parquet
    files that the Hub made of them are read, as with `revision` [`PARQUET_BRANCH`].
    """
    if revision != PARQUET_BRANCH or data_files is not None:
        is_fixed = data_files is not None or revision is not None or os.path.isdir(path)
        with explaining():
            try:
                builder = datasets.load_dataset_builder(path, config, data_files=data_files, revision=revision)
            except (RuntimeError, ValueError):
                if is_fixed or not holds_program(path):
                    raise
            else:
                # Instead of refusing a program, `datasets` returns what its cache holds under that name.
                if is_fixed or builder.name != "cache" or not holds_program(path):
                    return builder
            logger.info(f"{name} is a program: its images are read from Parquet files, `revision: {PARQUET_BRANCH}`")
    with explaining():
        try:
            files = list_parquet_branch(path)
        except Exception as error:
            if not is_network_error(error):
                raise
            return datasets.load_dataset_builder(path, config)  # from its cache
    chosen, splits = choose_configuration(files, name, config)
    with explaining():
        # Under the name of the configuration, so that `datasets` finds it in its cache when the Hub cannot be reached.
        builder = datasets.load_dataset_builder(path, data_files=splits, revision=PARQUET_BRANCH, config_id=chosen)
        builder.info.config_name = chosen
    return builder


def _count_rows(files: list[str], name: str) -> int:
    """Number of rows of local Parquet files, from their footers: a stream does not know it."""
    rows, file = 0, ""
    try:
        for file in files:
            rows += pyarrow.parquet.read_metadata(file).num_rows
    except (OSError, ValueError) as error:
        raise ValueError(f"`dataset` {name!r} cannot be read: {file}: {error}") from error
    if not rows:
        raise ValueError(f"`dataset` {name!r} has no images: its files have no rows.")
    return rows
