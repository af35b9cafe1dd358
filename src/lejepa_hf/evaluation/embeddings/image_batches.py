"""Images of a source in batches, decoded and preprocessed ahead by a few threads."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Generic, TypeVar

from ...data.decoding import DECODING_ERRORS
from ...data.errors import described
from ...data.network import read_through
from ...data.sources import ImageSource
from ...system.devices import cores_of_this_process
from ...system.progress_bars import progress_bar

_MOST_THREADS = 8
_WAITS = (0.5, 1.0, 2.0, 4.0)  # seconds between attempts to read a file
_LONGEST_WAIT = 15.0  # seconds in all for files that stay away
Decoded = TypeVar("Decoded")
Prepared = TypeVar("Prepared")


@dataclass
class ImageBatch(Generic[Prepared]):
    """Consecutive rows of a source: numbers, labels and file paths of the images that could be decoded."""

    stop: int  # number of the row after the last one
    numbers: list[int] = field(default_factory=list)
    labels: list = field(default_factory=list)  # of None if the source has no labels
    paths: list[str | None] = field(default_factory=list)
    images: Prepared | None = None  # what `prepare` made of them, None if all are broken
    broken: dict[int, str] = field(default_factory=dict)  # why the other images could not be decoded, by row
    kept: dict[str, list] = field(default_factory=dict)  # values of the source's `kept_columns`


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
    Read, decode and preprocess images in batches of `batch_size` rows, with `description` beside a progress bar.

    Threads call `decode` for each value of the image column and `prepare` for the decoded images of a batch. `rows`
    are those of the source from row `start` on, all of them if missing. Batches come in the order of the rows; at
    most ten are in memory, whatever the source. An image whose file is away for some seconds is waited for.
    """
    patience = _Patience()

    def make(numbered: list[tuple[int, dict[str, Any]]]) -> ImageBatch[Prepared]:
        batch: ImageBatch[Prepared] = ImageBatch(numbered[-1][0] + 1, kept={name: [] for name in source.kept_columns})
        images = []
        for number, row in numbered:
            value = row[source.image_column]
            try:
                images.append(patience.call(decode, value))
            except DECODING_ERRORS as error:
                batch.broken[number] = described(error, value)
                continue
            batch.numbers.append(number)
            batch.labels.append(row[source.label_column] if source.label_column is not None else None)
            batch.paths.append(value.get("path") if isinstance(value, dict) else None)
            for name, values in batch.kept.items():
                values.append(row[name])
        batch.images = prepare(images) if images else None
        return batch

    numbered = enumerate(source.dataset if rows is None else rows, start)
    num_threads = min(_MOST_THREADS, cores_of_this_process())
    pending: deque[tuple[int, Future[ImageBatch[Prepared]]]] = deque()
    executor = ThreadPoolExecutor(num_threads)
    bar = progress_bar(total=source.num_images, initial=start, desc=description, unit=" images")
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


class _Patience:
    """
    Reads files again that the file system refuses, as a network drive does for a moment. Waiting for files that stay
    away takes 15 seconds in all; the time for those that come back is not counted.
    """

    def __init__(self) -> None:
        self._left = _LONGEST_WAIT

    def call(self, decode: Callable[[Any], Decoded], value: object) -> Decoded:
        """`decode(value)`; errors of the image itself, which have no `errno`, are raised at once."""
        waited = 0.0
        for wait in _WAITS:
            try:
                found = decode(value)
            except OSError as error:  # noqa: PERF203, once per image
                if error.errno is None or self._left < wait:
                    raise
                self._left, waited = self._left - wait, waited + wait
                time.sleep(wait)
            else:
                self._left += waited
                return found
        found = decode(value)
        self._left += waited
        return found


def rows_from(source: ImageSource, start: int) -> Iterator[dict[str, Any]]:
    """Read undecoded rows from number `start` on, without columns nobody needs, also after lost connections."""
    if isinstance(source.dataset, list):  # of rows that were read before
        yield from source.dataset[start:]
        return
    if source.num_images is not None and start >= source.num_images:
        return  # after a kill between the last part and the end: a map-style dataset cannot skip all its rows
    wanted = [source.image_column, source.label_column, *source.kept_columns]
    remaining = source.dataset.select_columns(list(dict.fromkeys(column for column in wanted if column is not None)))
    if start:
        remaining = remaining.skip(start)
    way_out = "Repeat the command when the network is back: it continues there."
    yield from read_through(lambda: iter(remaining), source.name, way_out=way_out)
