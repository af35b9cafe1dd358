"""How many held-out images are training images too, by their content."""

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from .dataset_kinds import Mixture, Rows, is_stream
from .errors import DataError
from .image_contents import digest_of, image_values, spread_rows, undecoded, whole_digest_of

logger = logging.getLogger("lejepa_hf")

_MOST_FILES = 2_000_000  # training files whose size is asked for
_MOST_READ = 20_000  # training images of the size of a held-out one
_TRIED = 8  # held-out images, since single ones may be broken
_UNKNOWN_SIZE = 2_000  # training images that are read where sizes are not known, and first rows of a stream


@dataclass(frozen=True)
class SharedImages:
    """Of `compared` held-out images, `number` are training images too, byte for byte."""

    number: int
    compared: int

    def __str__(self) -> str:
        return f"{self.number:,} of {self.compared:,} held-out images are also training images, byte for byte"

    def warn(self, name: str) -> None:
        """Warn if there are any, with the name of the held-out images."""
        if self.number:
            logger.warning(f"{name}: {self}. Figures on them are not held out: take them out of one of the splits.")


def shared_images(
    trained_on: Sequence[tuple[Rows, str]], held_out: Rows, image_column: str, most: int = 2_000
) -> SharedImages:
    """
    Count held-out images that are training images too: the same encoded bytes, under whatever name.

    Few images are read. At most `most` held-out ones are compared, evenly spread over the rows; of the training images
    only those that have the size of one of them, and whole files only if both ends are alike. Where no sizes are
    known, as in a stream, some training images are read; the count then is a lower bound.

    Args:
        trained_on: Datasets with training images, mixtures and streams too, each with its image column.
        held_out: Dataset or stream of held-out images.
        image_column (`str`): Their column.
        most (`int`, *optional*, defaults to 2,000): Largest number of held-out images to compare.
    """
    try:
        digests = map(digest_of, image_values(held_out, image_column, most))
        found = list(islice(digests, _TRIED))
        if all(digest is None for digest in found):  # opened already, at the cost of reading them
            return SharedImages(0, 0)
        found += digests
        wanted = set(found) - {None}
        sizes = _sizes_of_held_out(held_out, image_column, most)
        alike, there = set[bytes | None](), set[bytes | None]()  # digests of both ends, and of the whole
        for dataset, column in trained_on:
            for member in dataset.datasets if isinstance(dataset, Mixture) else [dataset]:
                for value in _values(member, column, sizes):
                    if (digest := digest_of(value)) in wanted:
                        alike.add(digest)
                        there.add(whole_digest_of(value))
        again = image_values(held_out, image_column, most) if alike else ()
        number = sum(digest_of(value) in alike and whole_digest_of(value) in there for value in again)
    except (DataError, OSError) as error:  # reading goes on with retries where it has to succeed
        logger.warning(f"Held-out images could not be compared with training images: {error}")
        return SharedImages(0, 0)
    return SharedImages(number, sum(digest is not None for digest in found))


def _sizes_of_held_out(dataset: Rows, column: str, most: int) -> np.ndarray | None:
    if is_stream(dataset):
        return None
    sizes = _sizes(undecoded(dataset, column), column, spread_rows(len(dataset), most))  # type: ignore[arg-type]
    return None if sizes is None else np.unique(sizes)


def _values(dataset: Any, column: str, wanted: np.ndarray | None) -> Iterator[object]:  # noqa: ANN401
    """Training images, those only that have a wanted size where sizes are known."""
    rows = undecoded(dataset, column)
    sizes = None if is_stream(dataset) else _sizes(rows, column, None)
    if sizes is None or wanted is None:
        yield from image_values(dataset, column, _UNKNOWN_SIZE)
        return
    chosen = np.flatnonzero(np.isin(sizes, wanted))
    for place in spread_rows(len(chosen), _MOST_READ):
        yield rows[int(chosen[place])][column]


def _sizes(dataset: Any, column: str, numbers: list[int] | None) -> np.ndarray | None:  # noqa: ANN401
    """
    Bytes of the encoded image of each row, of those with `numbers` if given, without reading an image; None where the
    dataset does not say.
    """
    if not hasattr(dataset, "column_names"):
        return None
    import pyarrow.compute as compute
    from datasets import Dataset

    if not isinstance(dataset, Dataset):
        return None
    stored = dataset.data.column(column)
    if str(stored.type) != "struct<bytes: binary, path: string>":
        return None
    # Arrow keeps lengths apart from the bytes, which stay on the disk.
    lengths = compute.binary_length(compute.struct_field(stored, "bytes")).to_numpy()
    places = np.arange(len(lengths)) if dataset._indices is None else dataset._indices.column(0).to_numpy()
    places = places if numbers is None else places[numbers]
    sizes = np.nan_to_num(lengths[places], nan=-1).astype(np.int64)
    in_files = np.flatnonzero(sizes < 0)
    if len(in_files) > _MOST_FILES:
        return None
    if len(in_files):
        paths = compute.struct_field(stored, "path").take(places[in_files]).to_pylist()
        sizes[in_files] = [_size_of_file(path) for path in paths]
    return sizes


def _size_of_file(path: str | None) -> int:
    try:
        return os.stat(path).st_size if path and "://" not in path else -1
    except OSError:
        return -1
