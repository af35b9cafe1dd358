"""raw_pixels: the baseline without a network."""

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from ...data.decoding import Encoded, Pixels, decode_image, stored_size
from ...data.errors import DataError
from ...data.sources import ImageSource
from .extraction import LabelledEmbeddings, log_broken
from .image_batches import image_batches
from .store import EmbeddingStore

_SIDE = 32
_BATCH = 256


class _Layout(NamedTuple):
    """What all vectors have in common; the channels of arrays are known before."""

    size: tuple[int, int]
    is_grey: bool


def raw_pixels(source: ImageSource, channels: int = 3, pixel_range: list[float] | None = None) -> LabelledEmbeddings:
    """
    Take the pixels of each image in [0, 1] as one vector, at the image's own size up to 32 pixels on a side; images of
    several sizes are resized to 32 x 32.

    Each image is reduced when it is decoded, and the vectors are in a file, which is mapped into memory if it has more
    than 1 GiB. If a later image has a new size or the first colours, the images before it are read again.

    `channels` and `pixel_range`, the values of black and white, are those of the encoder that is compared; with 3
    channels, greyscale images keep their single one. A DataError is raised if no image can be read.
    """

    def decode(value: Encoded) -> Pixels:
        image = decode_image(value, channels, pixel_range, source.max_image_pixels)
        return image if max(stored_size(image)) <= _SIDE else _resized(image, (_SIDE, _SIDE))

    layout, is_complete = None, False
    while not is_complete:
        with tempfile.TemporaryDirectory(prefix="lejepa-") as folder:  # a mapped file stays readable afterwards
            store = EmbeddingStore(Path(folder))
            for batch in image_batches(source, _BATCH, decode, list, "raw pixels"):
                before, layout = layout, _layout_of(batch.images or [], layout)
                if store.num_images and layout != before:
                    break
                vectors = torch.stack([_vector(image, layout) for image in batch.images or []] or [torch.empty(0)])
                store.add(batch, vectors, vectors.shape[1])
            else:
                is_complete = True
                store.save(is_complete)
                log_broken(source, store.broken)
                if not store.num_images:
                    raise DataError(f"{source.name}: none of its images can be read.")
                found = LabelledEmbeddings(*store.read(), frozenset(store.broken))
    return found


def _layout_of(images: Iterable[Pixels], before: _Layout | None) -> _Layout | None:
    """The layout that fits these images, and those that had the one before."""
    sizes, is_grey = ({before.size}, before.is_grey) if before is not None else (set(), True)
    for image in images:
        sizes.add(stored_size(image))
        is_grey = is_grey and isinstance(image, Image.Image) and image.mode == "L"
    if not sizes:
        return None
    return _Layout(sizes.pop() if len(sizes) == 1 else (_SIDE, _SIDE), is_grey)


def _vector(image: Pixels, layout: _Layout) -> torch.Tensor:
    if isinstance(image, Image.Image) and not layout.is_grey:
        image = image.convert("RGB")
    return torch.from_numpy(np.array(_resized(image, layout.size)).ravel()).float() / 255


def _resized(image: Pixels, size: tuple[int, int]) -> Pixels:
    if isinstance(image, Image.Image):
        return image.resize(size)
    return np.dstack([np.asarray(Image.fromarray(band).resize(size)) for band in np.moveaxis(image, -1, 0)])
