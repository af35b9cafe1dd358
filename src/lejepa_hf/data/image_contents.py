"""What an image is, wherever it lies: digests of its encoded bytes, and a checksum of the rows of a dataset."""

import hashlib
import os
from collections.abc import Iterator
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from .dataset_kinds import Mixture, Rows, is_stream
from .decoding import DECODING_ERRORS
from .errors import DataError
from .network import read_through
from .pixel_arrays import array_of, is_tensor
from .readers.addresses import split_address
from .readers.arrays import ArrayReader
from .readers.known_readers import find_reader
from .rows import as_row

_PART = 1 << 16  # bytes at both ends of a file: the middle of a large one need not be read
_DIGEST = 16  # bytes
_FILES = 16  # whose digests are kept
_ROWS, _STREAMED = 64, 4  # rows in a checksum; a stream is only read from its beginning


def digest_of(value: object) -> bytes | None:
    """
    A digest of the value of an image column, from the length and both ends of its encoded bytes: those of a file equal
    those that a Parquet file holds. None for an opened image, a url, and a file that cannot be read. Values of another
    digest are different images; whether large ones of the same digest are alike, [`whole_digest_of`] says.
    """
    return _digest_of(value, _PART)


def whole_digest_of(value: object) -> bytes | None:
    """As [`digest_of`], but from all bytes of a value, which are read for it."""
    return _digest_of(value, None)


def _digest_of(value: object, most: int | None) -> bytes | None:
    """A digest from the first and the last `most` bytes, or from all."""
    if isinstance(value, dict):
        value = value["bytes"] if value.get("bytes") is not None else value.get("path")
    if isinstance(value, str | Path):
        return _digest_of_path(str(value), most)
    if isinstance(value, list):  # several images of one object
        parts = [_digest_of(part, most) for part in value]
        return None if None in parts or not parts else _digest(len(parts), *(part or b"" for part in parts))
    if is_tensor(value):
        value = array_of(value)
    if isinstance(value, np.ndarray):
        value = repr((value.shape, value.dtype.str)).encode() + value.tobytes()
    if not isinstance(value, bytes):
        return None
    most = len(value) if most is None else most
    return _digest(len(value), value[:most], value[max(most, len(value) - most) :])


def _digest_of_path(path: str, most: int | None) -> bytes | None:
    if "://" in path:
        return None
    try:
        file, part = split_address(path)
        reader = None if part is None else find_reader(file, part)
        if isinstance(reader, ArrayReader):  # the numbers in a row
            return _digest_of(reader.values(file, part, None).array, most)
        status = os.stat(file)
        of_file = _digest_of_file(file, status.st_size, status.st_mtime_ns, most)
    except DECODING_ERRORS:
        return None
    return of_file if part is None else _digest(0, of_file, str(part).encode())  # by the file and the place in it


@lru_cache(_FILES)
def _digest_of_file(file: str, size: int, time: int, most: int | None) -> bytes:  # noqa: ARG001
    """That of a file of this size and time; its parts come one after the other."""
    found = hashlib.blake2b(size.to_bytes(8, "little"), digest_size=_DIGEST)
    with open(file, "rb") as opened:
        if most is None:
            while piece := opened.read(1 << 20):
                found.update(piece)
        else:
            found.update(opened.read(most))
            opened.seek(max(most, size - most))
            found.update(opened.read())
    return found.digest()


def _digest(size: int, *parts: bytes) -> bytes:
    return hashlib.blake2b(b"".join([size.to_bytes(8, "little"), *parts]), digest_size=_DIGEST).digest()


def undecoded(dataset: Any, image_column: str) -> Any:  # noqa: ANN401, of any class with rows
    """A dataset of `datasets` without its own decoding, format or transform; any other as it is."""
    if not hasattr(dataset, "column_names"):
        return dataset
    from datasets import Dataset, IterableDataset
    from datasets import Image as ImageFeature

    if isinstance(dataset, Dataset | IterableDataset) and isinstance(
        (dataset.features or {}).get(image_column), ImageFeature
    ):
        return dataset.with_format(None).cast_column(image_column, ImageFeature(decode=False))
    return dataset


def spread_rows(number: int, most: int) -> list[int]:
    """Numbers of at most `most` of `number` rows, evenly spread, the first one among them."""
    return sorted({place * number // most for place in range(most)} if number > most else range(number))


def image_values(dataset: Rows, image_column: str, most: int) -> Iterator[object]:
    """Images of at most `most` rows, evenly spread, or the first ones of a stream; None for broken ones."""
    rows = undecoded(dataset, image_column)
    if is_stream(dataset):
        if hasattr(rows, "select_columns") and rows.features is not None:
            rows = rows.select_columns([image_column])
        read = read_through(lambda: iter(rows), "the first rows of the dataset", max_retries=0)
        yield from (row.get(image_column) for row in islice(read, most))
        return
    for number in spread_rows(len(rows), most):
        try:
            # A collator of the caller's own may not need the column.
            value = as_row(rows[number], image_column).get(image_column)
        except DECODING_ERRORS:  # a class of the user's own may decode broken images
            value = None
        yield value


def checksum_of_rows(dataset: Rows, image_column: str) -> str | None:
    """
    Identify a dataset by the content of a few rows, the same ones each time, and by their number; not by its path. It
    takes as long for a million rows as for a hundred. Of a stream only the first rows count. None if the images are
    not encoded or cannot be read.
    """
    if isinstance(dataset, Mixture):
        found = [checksum_of_rows(member, image_column) for member in dataset.datasets]
        return None if None in found else _digest(0, *(str(one).encode() for one in found)).hex()
    number, most = (0, _STREAMED) if is_stream(dataset) else (len(dataset), _ROWS)
    try:
        digests = [digest_of(value) for value in image_values(dataset, image_column, most)]
    except (DataError, OSError):
        return None
    if all(digest is None for digest in digests):
        return None
    return _digest(number, *(digest or b"" for digest in digests)).hex()
