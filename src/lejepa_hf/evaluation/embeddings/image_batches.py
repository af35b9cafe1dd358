"""Images of a source in batches, decoded and preprocessed by a few threads ahead of who needs them."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

from tqdm.auto import tqdm

from ...data.decoding import DECODING_ERRORS
from ...data.network import read_through
from ...data.sources import ImageSource

_MOST_THREADS = 8


@dataclass
class ImageBatch:
    """
    Some consecutive rows of a source.

    Args:
        stop (`int`): Number of the row behind the last one.
        numbers (`list[int]`): Of the rows whose image could be decoded.
        labels (`list`): Of these rows, None each where the source has no labels.
        paths (`list`): Of their files, None where there is none.
        images: What was made of the images, None if all are broken.
        broken (`dict[int, str]`): Why the others could not be decoded, by row.
    """

    stop: int
    numbers: list[int]
    labels: list
    paths: list
    images: object
    broken: dict[int, str]


def image_batches(
    source: ImageSource,
    batch_size: int,
    decode: Callable[[object], object],
    prepare: Callable[[list], object],
    description: str,
    rows: Iterable[dict] | None = None,
    start: int = 0,
) -> Iterator[ImageBatch]:
    """
    Args:
        source ([`ImageSource`]): Where the images are.
        batch_size (`int`): Rows of a batch; broken images leave it smaller.
        decode (`Callable`): [`~data.decoding.decode_image`] for the channels that are wanted. Called in threads.
        prepare (`Callable`): Makes of a batch's images what is wanted. Called in threads.
        description (`str`): Beside the progress bar.
        rows (`Iterable[dict]`, *optional*): Those of the source, from row `start` on; all of them if missing.
        start (`int`, *optional*, defaults to 0): Number of the first row.

    Returns:
        `Iterator`: [`ImageBatch`] in the order of the rows. At most ten batches are in memory, whatever the source.
    """

    def make(numbered: list[tuple[int, dict]]) -> ImageBatch:
        batch, images = ImageBatch(numbered[-1][0] + 1, [], [], [], None, {}), []
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

    numbered = enumerate(source.dataset if rows is None else rows, start)
    num_threads = min(_MOST_THREADS, os.cpu_count() or 1)
    pending: deque = deque()
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


def rows_from(source: ImageSource, start: int) -> Iterator[dict]:
    """
    Args:
        source ([`ImageSource`]): Where the images are.
        start (`int`): Number of the first row.

    Returns:
        `Iterator`: Undecoded rows with nothing that is not needed, read on after lost connections.
    """
    wanted = [column for column in (source.image_column, source.label_column) if column is not None]
    dataset = source.dataset
    dataset = dataset.select_columns(wanted)
    if not source.is_stream and start >= len(dataset):
        return  # killed between the last part and the end: a map-style dataset does not skip all it has
    if start:
        dataset = dataset.skip(start)
    way_out = "Repeat the command when the network is back: it goes on there."
    yield from read_through(lambda: iter(dataset), source.name, way_out=way_out)
