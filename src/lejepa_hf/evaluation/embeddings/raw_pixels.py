"""raw_pixels: the baseline without a network."""

from typing import Any

import numpy as np
import torch
from PIL import Image

from ...data.decoding import Encoded, decode_image, stored_size
from ...data.sources import ImageSource
from .extraction import LabelledEmbeddings, log_broken
from .image_batches import image_batches

_SIDE = 32


def raw_pixels(source: ImageSource, channels: int = 3, pixel_range: list[float] | None = None) -> LabelledEmbeddings:
    """
    Take the pixels of each image in [0, 1] as one vector, at the image's own size up to 32 pixels on a side; images of
    several sizes are resized to 32 x 32.

    Args:
        source ([`ImageSource`]): Images with labels.
        channels (`int`, *optional*, defaults to 3): Channels of the encoder that is compared; with 3, greyscale images
            keep their single channel.
        pixel_range (`list[float]`, *optional*): Values of black and white, as for the encoder.

    Returns:
        [`LabelledEmbeddings`]
    """

    def decode(value: Encoded) -> Image.Image | np.ndarray:
        return decode_image(value, channels, pixel_range)

    images: list[Any] = []  # all of PIL, or all arrays
    labels: list[int] = []
    broken: dict[int, str] = {}
    for batch in image_batches(source, 256, decode, list, "raw pixels"):
        images += batch.images or []
        labels += batch.labels
        broken |= batch.broken
    log_broken(source, broken)
    sizes = {stored_size(image) for image in images}
    size = next(iter(sizes)) if len(sizes) == 1 and max(next(iter(sizes))) <= _SIDE else (_SIDE, _SIDE)
    if channels in (1, 3):
        mode = "L" if {image.mode for image in images} == {"L"} else "RGB"
        pixels = [np.asarray(image.convert(mode).resize(size)) for image in images]
    else:
        pixels = [
            np.dstack([np.asarray(Image.fromarray(band).resize(size)) for band in np.moveaxis(image, -1, 0)])
            for image in images
        ]
    vectors = np.stack([of_one.ravel() for of_one in pixels])
    return LabelledEmbeddings(torch.from_numpy(vectors).float() / 255, torch.tensor(labels))
