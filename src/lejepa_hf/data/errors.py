"""Errors of the data that end a run, with a message of one line, and the count of broken images before one does."""

import logging
from pathlib import Path

logger = logging.getLogger("lejepa_hf")

_NAMED = 20  # broken images that are logged one by one
_FEWEST = 1000  # images; otherwise a single broken image in the first small batch would stop the run


class DataError(Exception):
    """
    The data cannot be read any further.

    Args:
        message (`str`): What happened, where, and the way out. Only the last line of a worker's traceback is kept.
    """

    def __init__(self, message: str) -> None:
        if "Traceback" in message:
            message = message.rstrip().splitlines()[-1].partition(": ")[2]
        super().__init__(" ".join(message.split()))


class StreamInterrupted(DataError):
    """The connection to a remote source was lost, and the last retry failed."""


class TooManyBrokenImages(DataError):
    """The share of images that cannot be decoded is above `max_bad_fraction`."""


def described(error: Exception, value: object, place: str = "") -> str:
    """Say why what a row holds is no image: by its path if it has one, and by its place."""
    path = value.get("path") if isinstance(value, dict) else value if isinstance(value, str | Path) else None
    named = f"{path} ({place})" if path and place else str(path or place)
    return " ".join(f"{named}: {type(error).__name__}: {error}".removeprefix(": ").split())


class BrokenImages:
    """
    Counts and logs the broken images of one process.

    Args:
        max_fraction (`float`): Largest share of broken ones among all images, at least a thousand, so far.
    """

    def __init__(self, max_fraction: float) -> None:
        self.max_fraction, self.num_images, self.num_broken = max_fraction, 0, 0

    def count(self, num_images: int, broken: list[str]) -> None:
        """Count a batch of `num_images`, broken ones included; `broken` has the place and error of each of these."""
        self.num_images += num_images
        for message in broken:
            self.num_broken += 1
            if self.num_broken <= _NAMED:
                logger.warning(f"broken image replaced by the next good one: {' '.join(message.split())}")
            if self.num_broken == _NAMED:
                logger.warning("further broken images are counted only, as `broken_images` in the log")
        if broken and self.num_broken > self.max_fraction * max(self.num_images, _FEWEST):
            found = f"{self.num_broken} of {self.num_images} images are broken, more than `max_bad_fraction`"
            way_out = f"The last one: {broken[-1]}. Repair the data, or raise that share."
            raise TooManyBrokenImages(f"{found} {self.max_fraction} allows. {way_out}")
