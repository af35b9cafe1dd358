"""The builders of `datasets` -> one split; works around faults of its readers. Imported where first needed."""

import logging
from typing import Any

import datasets
import pyarrow.dataset
import pyarrow.parquet
from datasets.packaged_modules.parquet.parquet import ParquetConfig
from datasets.packaged_modules.webdataset.webdataset import WebDataset

from .dataset_files import FILE_KINDS, with_length
from .dataset_kinds import Opened
from .opening_errors import explained

logger = logging.getLogger("lejepa_hf")

# Endings of files in a tar that hold no images: pickles, those of torch too, and formats that need other packages.
_OBJECTS = ("pth", "pyd", "pickle", "pkl", "mp", "msg", "cbor", "ten", "tb")


class ImageTars(WebDataset):
    """
    Reads WebDataset tar files in which one sample is a jpg and another a png. The reader of `datasets` refuses them if
    it notices at once, and otherwise drops samples. The only image of a sample is stored in the column of the first
    sample's image, whatever its own extension. Files of tensors and objects stay bytes.
    """

    DECODERS = {ending: decode for ending, decode in WebDataset.DECODERS.items() if ending not in _OBJECTS}

    _image_column: str | None = None  # known from the first tar on, before a stream is handed to workers

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


def load_split(
    path: str,
    name: str,
    split: str,
    streaming: bool,
    config: str | None = None,
    data_files: str | list[str] | dict[str, list[str]] | None = None,
    revision: str | None = None,
) -> Opened:
    """
    Load a split as `datasets.load_dataset` does; errors call it `name`. A stream of local Parquet files is split by
    row groups: readers get equal shares and need little memory.
    """
    files = str(data_files["train"] if isinstance(data_files, dict) else data_files)
    if path == "pandas":  # `datasets` before 5.2 reads them without protection
        raise ValueError(f"`dataset` {name!r} reads pickles, which could run code: write the images as Parquet files.")
    try:
        if path == "webdataset":
            builder = ImageTars(data_files=data_files)
        else:
            builder = datasets.load_dataset_builder(path, config, data_files=data_files, revision=revision)
        if not streaming:
            builder.download_and_prepare()
            return builder.as_dataset(split=split)
        is_parquet = isinstance(builder.config, ParquetConfig)
        if is_parquet:
            # By default Arrow keeps what it has read of a Parquet file until the file ends: gigabytes a worker.
            builder.config.fragment_scan_options = pyarrow.dataset.ParquetFragmentScanOptions(pre_buffer=False)
        stream = builder.as_streaming_dataset(split=split)
    except Exception as error:
        message = explained(error, name, split, path, files, on_hub=path not in FILE_KINDS)
        if message is None:
            raise
        raise message from error
    # Of several splits joined by `+` there is no list: their shards stay as they are.
    shards = builder.config.data_files.get(split, []) if is_parquet else []
    if not shards or any("://" in shard for shard in shards):
        return stream
    rows = _count_rows(shards, name)  # names a broken file, before `reshard` opens them
    return with_length(stream.reshard(), rows)


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
