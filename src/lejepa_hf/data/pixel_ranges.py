"""Values of black and white in files: one pair for all channels, or one for each."""

from typing import TypeAlias, cast

# Values of black and white, [low, high]: for all channels, or a pair for each of them.
PixelRange: TypeAlias = list[float] | list[list[float]]


def ranges_of(pixel_range: PixelRange | None) -> list[list[float]]:
    """The pair, or the pairs of all channels, of a range; empty if it is missing."""
    if pixel_range is None:
        return []
    return cast("list[list[float]]", [pixel_range] if isinstance(pixel_range[0], int | float) else pixel_range)


def range_of_channels(pixel_range: PixelRange | None, first: int, number: int) -> PixelRange | None:
    """The range of `number` channels from `first` on."""
    if pixel_range is None or isinstance(pixel_range[0], int | float):
        return pixel_range
    chosen = ranges_of(pixel_range)[first : first + number]
    return chosen[0] if number == 1 and chosen else chosen


def is_range_of_bytes(pixel_range: PixelRange | None, largest: float = 255) -> bool:
    """
    Whether a range is one of 8-bit values up to the `largest`, other than all of them; of several, whether they are so
    together.
    """
    pairs = ranges_of(pixel_range)
    is_within = all(low >= 0 and 1 < high <= largest for low, high in pairs)
    return is_within and any((low, high) != (0, largest) for low, high in pairs)


def check_ranges(pixel_range: PixelRange | None, channels: int) -> None:
    """Refuse ranges of other channels than an image has."""
    number = len(ranges_of(pixel_range))
    if number > 1 and number != channels:
        raise ValueError(
            f"`pixel_range` has {number} pairs, one for each channel, but the image has {channels} channels: give one "
            "pair for all channels, or convert the image."
        )
