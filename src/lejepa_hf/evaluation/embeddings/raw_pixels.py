"""raw_pixels: the baseline without a network."""

import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from ...data.decoding import Encoded, Pixels, decode_image, resized, stored_size
from ...data.pixel_ranges import PixelRange
from ...data.sources import ImageSource
from .extraction import LabelledEmbeddings, as_table, read_embeddings
from .image_batches import ImageBatch, image_batches
from .parts import EmbeddingParts
from .store import join_columns

_SIDE = 32
_BATCH = 256
_READ_WHOLE = 2**26  # bytes; larger files stay on disk, and protocols read them in parts


class _Layout(NamedTuple):
    """What all vectors have in common; the channels of arrays are known before."""

    size: tuple[int, int]
    is_grey: bool


def raw_pixels(source: ImageSource, channels: int = 3, pixel_range: PixelRange | None = None) -> LabelledEmbeddings:
    """
    Take the pixels of each image in [0, 1] as one vector, at the image's own size up to 32 pixels on a side; images of
    several sizes are resized to 32 x 32.

    Each image is reduced when it is decoded, and the vectors are in a file, which is mapped into memory if it has more
    than 64 MiB. If a later image has another size, or is the first one in colour, the images before it are read again.

    `channels` and `pixel_range`, the values of black and white, are those of the encoder that is compared; with 3
    channels, greyscale images keep their single one. A DataError is raised if no image can be read.
    """

    def decode(value: Encoded) -> Pixels:
        image = decode_image(value, channels, pixel_range, source.max_image_pixels)
        return image if max(stored_size(image)) <= _SIDE else resized(image, (_SIDE, _SIDE))

    layout: _Layout | None = None
    while True:
        # A mapped file stays readable after it is deleted; on Windows it cannot be deleted, and the folder stays.
        with tempfile.TemporaryDirectory(prefix="lejepa-", ignore_cleanup_errors=True) as folder:
            parts = EmbeddingParts(Path(folder) / "parts")
            layout = _fill(parts, source, image_batches(source, _BATCH, decode, list, "raw pixels"), layout)
            if layout is None:
                join_columns(Path(folder), [parts.folder])
                return read_embeddings(Path(folder), source, _READ_WHOLE)


def _fill(
    parts: EmbeddingParts, source: ImageSource, batches: Iterator[ImageBatch[list[Pixels]]], layout: _Layout | None
) -> _Layout | None:
    """
    Gather vectors of the images of a source in this layout, that of the first images if missing. Stops at an image
    that needs another one, and returns the layout that fits all images which were read; None if all images fit.
    """
    for batch in batches:
        images = batch.images or []
        fitting = _layout_of(images, layout)
        if parts.num_images and fitting != layout:
            return fitting
        layout = fitting
        vectors = torch.stack([_vector(image, layout) for image in images]) if layout and images else torch.empty(0)
        parts.add(batch, as_table(batch, {"embeddings": vectors}, source))
    parts.save()
    return None


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
    return torch.from_numpy(np.array(resized(image, layout.size)).ravel()).float() / 255
