"""raw_pixels: the baseline without a network."""

from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image

from ...data.decoding import decode_image, stored_size
from ...data.sources import ImageSource
from .extraction import LabelledEmbeddings, log_broken
from .image_batches import image_batches

_SIDE = 32


def raw_pixels(source: ImageSource, channels: int = 3, pixel_range: list[float] | None = None) -> LabelledEmbeddings:
    """
    Take the pixels of each image in [0, 1] as one vector, at the image's own size up to 32 pixels on a side; images of
    several sizes are resized to 32 x 32.

    `channels` and `pixel_range`, the values of black and white, are those of the encoder that is compared; with 3
    channels, greyscale images keep their single one.
    """
    decode = partial(decode_image, num_channels=channels, pixel_range=pixel_range)
    images: list[Any] = []  # all of PIL, or all arrays
    labels: list[int] = []
    broken: dict[int, str] = {}
    for batch in image_batches(source, 256, decode, list, "raw pixels"):
        images += batch.images or []
        labels += batch.labels
        broken |= batch.broken
    log_broken(source, broken)
    size, *others = {stored_size(image) for image in images}
    if others or max(size) > _SIDE:
        size = (_SIDE, _SIDE)
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
