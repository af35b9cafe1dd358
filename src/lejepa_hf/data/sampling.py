"""A sample of a source, drawn at random: folders and shards come class by class."""

from collections.abc import Iterator
from itertools import islice, takewhile

from .sources import ImageSource
from .streaming import EndlessRows


def some_rows(source: ImageSource, num_images: int, seed: int = 0) -> Iterator[dict]:
    """
    Args:
        source ([`ImageSource`]): Map-style or a stream, which fills a buffer no larger than needed.
        num_images (`int`): At most so many.
        seed (`int`, *optional*, defaults to 0): The same rows for the same seed.

    Returns:
        `Iterator[dict]`: Rows of the first epoch of [`~data.streaming.EndlessRows`], undecoded.
    """
    rows = EndlessRows(
        source.dataset, batch_size=1, seed=seed, image_column=source.image_column, shuffle_buffer_size=num_images
    )
    return islice(takewhile(lambda row: row["epoch"] == 0, rows), num_images)
