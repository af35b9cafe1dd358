"""The builders of `datasets` -> one split; works around faults of its readers. Imported where first needed."""

from typing import Any

import datasets
import pyarrow.dataset
from datasets.packaged_modules.parquet.parquet import ParquetConfig
from datasets.packaged_modules.webdataset.webdataset import WebDataset

from .opening_errors import explained

# Endings in a tar that nothing here needs: pickles, those of torch too, and formats whose packages may be missing.
_OBJECTS = ("pth", "pyd", "pickle", "pkl", "mp", "msg", "cbor", "ten", "tb")


class ImageTars(WebDataset):
    """
    Reads WebDataset tar files in which one sample is a jpg and another a png. The reader of `datasets` refuses them if
    it notices at once, and otherwise drops samples. The only image of a sample is stored in the column of the first
    sample's image, whatever its own extension. Files of tensors and objects stay the bytes that they are.
    """

    DECODERS = {ending: decode for ending, decode in WebDataset.DECODERS.items() if ending not in _OBJECTS}

    _image_column: str | None = None  # known from the first tar on, before a stream is handed to workers

    def _get_pipeline_from_tar(self, tar_path: object, tar_iterator: object) -> Any:  # noqa: ANN401, that of `datasets`
        for sample in super()._get_pipeline_from_tar(tar_path, tar_iterator):
            images = [field for field in sample if field.lower() in self.IMAGE_EXTENSIONS]
            if len(images) == 1:
                self._image_column = self._image_column or images[0]
                if images[0] != self._image_column:
                    sample[self._image_column] = sample.pop(images[0])
            yield sample


def load_split(
    path: str,
    name: str,
    split: str,
    streaming: bool,
    on_hub: bool = True,
    config: str | None = None,
    data_files: str | list[str] | dict[str, list[str]] | None = None,
    revision: str | None = None,
) -> datasets.Dataset | datasets.IterableDataset:
    """Load a split as `datasets.load_dataset` does; errors call it `name`, and speak of the Hub if it is `on_hub`."""
    files = str(data_files["train"] if isinstance(data_files, dict) else data_files)
    if path == "pandas":  # read with the protection off by `datasets` before 5.2
        raise ValueError(f"`dataset` {name!r} reads pickles, which could run code: write the images as Parquet files.")
    try:
        if path == "webdataset":
            builder = ImageTars(data_files=data_files)
        else:
            builder = datasets.load_dataset_builder(path, config, data_files=data_files, revision=revision)
        if not streaming:
            builder.download_and_prepare()
            return builder.as_dataset(split=split)
        if isinstance(builder.config, ParquetConfig):
            # By default Arrow keeps what it has read of a Parquet file until the file ends: gigabytes a worker.
            builder.config.fragment_scan_options = pyarrow.dataset.ParquetFragmentScanOptions(pre_buffer=False)
        return builder.as_streaming_dataset(split=split)
    except Exception as error:
        message = explained(error, name, split, path, files, on_hub)
        if message is None:
            raise
        raise message from error
