"""Images of a source in batches, decoded and preprocessed ahead by a few threads."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from tqdm.auto import tqdm

from ...data.decoding import DECODING_ERRORS
from ...data.network import read_through
from ...data.sources import ImageSource

if TYPE_CHECKING:
    from datasets import IterableDataset

_MOST_THREADS = 8
Decoded = TypeVar("Decoded")
Prepared = TypeVar("Prepared")


@dataclass
class ImageBatch(Generic[Prepared]):
    """
    Some consecutive rows of a source.

    Args:
        stop (`int`): Number of the row after the last one.
        numbers (`list[int]`): Numbers of the rows whose image could be decoded.
        labels (`list`): Labels of these rows; each None if the source has no labels.
        paths (`list[str | None]`): Paths of their image files, None for images without a file.
        images: What `prepare` made of the images, None if all are broken.
        broken (`dict[int, str]`): Why the other images could not be decoded, by row.
    """

    stop: int
    numbers: list[int] = field(default_factory=list)
    labels: list = field(default_factory=list)
    paths: list[str | None] = field(default_factory=list)
    images: Prepared | None = None
    broken: dict[int, str] = field(default_factory=dict)


def image_batches(
    source: ImageSource,
    batch_size: int,
    decode: Callable[[Any], Decoded],
    prepare: Callable[[list[Decoded]], Prepared],
    description: str,
    rows: Iterable[dict[str, Any]] | None = None,
    start: int = 0,
) -> Iterator[ImageBatch[Prepared]]:
    """
    Read, decode and preprocess images, with a progress bar.

    Args:
        source ([`ImageSource`]): Source of the images.
        batch_size (`int`): Rows of a batch; broken images leave it smaller.
        decode (`Callable`): Decodes the value of an image column. Called in threads.
        prepare (`Callable`): Preprocesses the decoded images of a batch. Called in threads.
        description (`str`): Text beside the progress bar.
        rows (`Iterable[dict]`, *optional*): Rows of the source, from row `start` on; all of them if missing.
        start (`int`, *optional*, defaults to 0): Number of the first row.

    Returns:
        `Iterator`: [`ImageBatch`] in the order of the rows. At most ten batches are in memory, whatever the source.
    """

    def make(numbered: list[tuple[int, dict[str, Any]]]) -> ImageBatch[Prepared]:
        batch: ImageBatch[Prepared] = ImageBatch(numbered[-1][0] + 1)
        images = []
        for number, row in numbered:
            value = row[source.image_column]
            try:
                images.append(decode(value))
            except DECODING_ERRORS as error:
                batch.broken[number] = " ".join(f"{type(error).__name__}: {error}".split())
                continue
            batch.numbers.append(number)
            batch.labels.append(row[source.label_column] if source.label_column is not None else None)
            batch.paths.append(value.get("path") if isinstance(value, dict) else None)
        batch.images = prepare(images) if images else None
        return batch

    numbered = enumerate(cast("Iterable[dict[str, Any]]", source.dataset) if rows is None else rows, start)
    num_threads = min(_MOST_THREADS, os.cpu_count() or 1)
    pending: deque[tuple[int, Future[ImageBatch[Prepared]]]] = deque()
    executor = ThreadPoolExecutor(num_threads)
    bar = tqdm(total=source.num_images, initial=start, desc=description, unit=" images", leave=False)
    try:
        while True:
            while len(pending) <= num_threads and (batch := list(islice(numbered, batch_size))):
                pending.append((len(batch), executor.submit(make, batch)))
            if not pending:
                return
            num_rows, future = pending.popleft()
            yield future.result()
            bar.update(num_rows)
    finally:
        bar.close()
        executor.shutdown(cancel_futures=True)


def rows_from(source: ImageSource, start: int) -> Iterator[dict[str, Any]]:
    """
    Read rows, also after lost connections.

    Args:
        source ([`ImageSource`]): Source of the images.
        start (`int`): Number of the first row.

    Returns:
        `Iterator`: Undecoded rows, with the columns of images and labels alone.
    """
    dataset = source.dataset
    if isinstance(dataset, list):  # of rows that were read before
        yield from dataset[start:]
        return
    if source.num_images is not None and start >= source.num_images:
        return  # after a kill between the last part and the end: a map-style dataset cannot skip all its rows
    wanted = [column for column in (source.image_column, source.label_column) if column is not None]
    remaining = cast("IterableDataset", dataset).select_columns(wanted)
    if start:
        remaining = remaining.skip(start)
    way_out = "Repeat the command when the network is back: it continues there."
    yield from read_through(lambda: iter(remaining), source.name, way_out=way_out)
