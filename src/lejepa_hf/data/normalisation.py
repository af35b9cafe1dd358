"""The normalisation that images ask for, measured on a sample: `pixel_range`, `image_mean` and `image_std`."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ..system.progress_bars import progress_bar
from .decoding import DECODING_ERRORS, decode_image
from .file_values import values_in_file
from .image_contents import image_values
from .image_source import ImageSource
from .pixel_ranges import PixelRange

_SAMPLE = 512  # images
_VALUES = 4096  # of an image that are sorted for the range
_SIDE = 256  # pixels of an image along each axis that are averaged
_BEYOND = 0.001  # share of the values below the range, and above it
_DIGITS = 3


@dataclass(frozen=True)
class Normalisation:
    """
    Settings of [`~data.view_settings.ViewSettings`], measured.

    Args:
        num_images (`int`): Number of images that were read.
        pixel_range (`list[float]`, *optional*): Values of black and white in the files; None if these have 8 bits, or
            say themselves what is black and white.
        image_mean, image_std (`list[float]`): Mean and standard deviation of each channel, for pixels in [0, 1].
    """

    num_images: int
    pixel_range: PixelRange | None
    image_mean: list[float]
    image_std: list[float]


def measure_normalisation(
    source: ImageSource, num_channels: int = 3, pixel_range: PixelRange | None = None
) -> Normalisation:
    """
    Read up to 512 images, evenly spread over a map-style source or the first ones of a stream, and measure how to
    normalise them. Each image counts alike; of large ones every n-th pixel is read, so that at most 512 x 512 count.
    Pixels without a value (no-data, NaN, padding) are left out.

    Args:
        source ([`~data.image_source.ImageSource`]): The images to train on.
        num_channels (`int`, *optional*, defaults to 3): Channels of the network.
        pixel_range (`list[float]`, *optional*): Values of black and white in the files, if they are known. If
            missing, one in a thousand values of the sample lies below the measured range, and one in a thousand above.

    Raises:
        ValueError: If none of the images can be read.
    """
    values = list(progress_bar(image_values(source.dataset, source.image_column, _SAMPLE), desc="reading images"))
    shown = progress_bar(values, desc="reading values", unit="images")
    samples = [_sample_of(value, num_channels, source.max_image_pixels) for value in shown]
    pixel_range = pixel_range or _range_of(samples)
    moments: list[np.ndarray] = []
    reason: Exception | None = None
    for value, sample in zip(progress_bar(values, desc="measuring", unit="images"), samples, strict=True):
        try:
            decoded = decode_image(value, num_channels, pixel_range, source.max_image_pixels)
        except DECODING_ERRORS as error:
            reason = reason or error
            continue
        moments += _moments(np.asarray(decoded), num_channels, sample.empty)
    if not moments:
        raise ValueError(f"`dataset` {source.name!r}: none of {len(values)} images can be read: {reason}")
    mean, square = np.mean(moments, axis=0)
    std = np.sqrt(np.maximum(square - mean**2, 1e-6))
    return Normalisation(
        len(moments), pixel_range, *([round(float(one), _DIGITS) for one in of] for of in (mean, std))
    )


def format_normalisation(found: Normalisation, name: str) -> str:
    """Lines for a recipe."""
    lines = [f"# measured on {found.num_images:,} images of {name}"]
    if found.pixel_range is not None:
        lines.append(f"pixel_range: [{', '.join(f'{end:.6g}' for end in found.pixel_range)}]")
    return "\n".join([*lines, f"image_mean: {found.image_mean}", f"image_std: {found.image_std}"])


class _Sample(NamedTuple):
    """
    Of one image: some of the values of a file that leaves open what is black and white; and `(H, W)`, with every n-th
    row and column, where no channel has a value, None if there is no such pixel.
    """

    values: np.ndarray | None = None
    empty: np.ndarray | None = None


def _sample_of(value: object, num_channels: int, max_image_pixels: int | None) -> _Sample:
    try:
        found = values_in_file(value, num_channels, max_image_pixels).values
    except DECODING_ERRORS:
        return _Sample()
    is_known, is_open = found.is_known, found.array.dtype not in (np.uint8, np.bool_) and found.pixel_range is None
    known = found.array[is_known] if is_open else None
    values = None if known is None else known[:: max(1, len(known) // _VALUES)].astype(np.float64)
    is_empty = np.asarray(~is_known.reshape(*is_known.shape[:2], -1).any(axis=-1))
    return _Sample(values, _thinned(is_empty) if is_empty.any() else None)


def _range_of(samples: list[_Sample]) -> list[float] | None:
    """Ends of the values of files that leave open what is black and white; None if there are none."""
    found = [sample.values for sample in samples if sample.values is not None and len(sample.values)]
    if not found:
        return None
    low, high = np.quantile(np.concatenate(found), [_BEYOND, 1 - _BEYOND]).tolist()
    return [low, high] if low < high else None


def _thinned(image: np.ndarray) -> np.ndarray:
    """Every n-th row and column of a large image."""
    return image[tuple(slice(None, None, max(1, side // _SIDE)) for side in image.shape[:2])]


def _moments(image: np.ndarray, num_channels: int, empty: np.ndarray | None) -> list[np.ndarray]:
    """Means of the pixels and of their squares, `(2, num_channels)`, none if there are no pixels but `empty` ones."""
    pixels = _thinned(image)
    if empty is not None and empty.shape == pixels.shape[:2]:  # not in a JPEG, which is smaller in a sample
        pixels = pixels[~empty]
    scaled = pixels.reshape(-1, image.shape[2] if image.ndim == 3 else 1).astype(np.float64) / 255
    return [np.broadcast_to([scaled.mean(0), (scaled**2).mean(0)], (2, num_channels))] if len(scaled) else []
