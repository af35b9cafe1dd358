"""BrokenImages: how many images of a run could not be decoded, and when that is too many."""

import logging

from .errors import TooManyBrokenImages

logger = logging.getLogger("lejepa_hf")

_NAMED = 20
_FEWEST = 1000  # images; before, one broken image of a first small batch would stop the run


class BrokenImages:
    """
    Counts and names broken images of one process.

    Args:
        max_fraction (`float`): Largest share of all images seen so far, and of at least a thousand, in [0, 1].
    """

    def __init__(self, max_fraction: float):
        self.max_fraction, self.num_images, self.num_broken = max_fraction, 0, 0

    def count(self, num_images: int, broken: list[str]) -> None:
        """
        Args:
            num_images (`int`): Images of a batch, broken ones included.
            broken (`list[str]`): Where each broken one stands, and why it cannot be decoded.

        Raises:
            TooManyBrokenImages: If the share is too large.
        """
        self.num_images += num_images
        for message in broken:
            self.num_broken += 1
            if self.num_broken <= _NAMED:
                logger.warning(f"broken image replaced by the next good one: {' '.join(message.split())}")
            if self.num_broken == _NAMED:
                logger.warning("further broken images are counted only, as `broken_images` in the log")
        if broken and self.num_broken > self.max_fraction * max(self.num_images, _FEWEST):
            raise TooManyBrokenImages(
                f"{self.num_broken} of {self.num_images} images are broken, more than `max_bad_fraction` "
                f"{self.max_fraction} allows. The last one: {broken[-1]}. Repair the data, or raise that share."
            )
