"""Images and masks for DINOv2's segmentation: random squares to train on, overlapping windows to measure."""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch
from PIL import Image, ImageOps

from ...data.decoding import Encoded, Pixels, check_size, resized, stored_size
from ...data.masks import decode_mask, resize_mask
from ...data.sources import ImageSource
from ..embeddings.image_batches import image_batches
from ..feature_extractor import FeatureExtractor
from ..labelled_sources import map_style, select_rows
from .segmentation_maps import class_numbers
from .sliding_window import window_corners

logger = logging.getLogger("lejepa_hf")

_IMAGES = 4  # whole ones that are prepared together
_SEED = 0  # of the order, the crops and the flips

Decoded = TypeVar("Decoded")
Prepared = TypeVar("Prepared")
AnyPixels = TypeVar("AnyPixels", Image.Image, np.ndarray, Pixels)


@dataclass(frozen=True)
class SegmentationCrops:
    """
    Squares of the images of a source, whose shorter side is resized to that of the squares.

    Args:
        extractor ([`FeatureExtractor`]): Decodes images and makes pixel values.
        source ([`ImageSource`]): Images with masks as labels; map-style.
        classes (`Sequence[int]`): Values of the masks that are classes, ascending; all others are ignored.
        side (`int`): Side of the squares in pixels.
    """

    extractor: FeatureExtractor
    source: ImageSource
    classes: Sequence[int]
    side: int

    @property
    def stride(self) -> int:
        """Pixels from one window to the next: two thirds of their side, 341 of 512."""
        return max(1, 2 * self.side // 3)

    def random(self, num_epochs: int, batch_size: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Batches of random squares, one of each image in an epoch: pixel values, and masks `(size, side, side)`."""
        rng, number = np.random.default_rng([_SEED, 1]), len(map_style(self.source))
        order = np.concatenate([rng.permutation(number) for _ in range(num_epochs)])

        def decode(drawn: tuple[Encoded, Encoded, int]) -> tuple[Pixels, torch.Tensor]:
            image, mask = self._decoded(*drawn[:2])
            crop, mask = random_square(image, mask, self.side, drawn[2])
            return crop, class_numbers(mask, self.classes)

        def prepare(crops: list[tuple[Pixels, torch.Tensor]]) -> tuple[torch.Tensor, torch.Tensor]:
            images, masks = zip(*crops, strict=True)
            return self.extractor.as_they_are(list(images)), torch.stack(masks)

        return self._read(select_rows(self.source, order), batch_size, decode, prepare)

    def windows(self) -> Iterator[tuple[torch.Tensor, tuple[int, int], torch.Tensor]]:
        """
        Of each image once the pixel values of its windows, see [`window_corners`], its height and width after
        resizing, and its whole mask.
        """

        def decode(drawn: tuple[Encoded, Encoded, int]) -> tuple[torch.Tensor, tuple[int, int], torch.Tensor]:
            image, mask = self._decoded(*drawn[:2])
            width, height = stored_size(image)
            corners = window_corners(height, width, self.side, self.stride)
            windows = self.extractor.as_they_are([_square(image, *corner, self.side) for corner in corners])
            return windows, (height, width), class_numbers(mask, self.classes)

        for images in self._read(self.source, _IMAGES, decode, list):
            yield from images

    def _decoded(self, image: Encoded, mask: Encoded) -> tuple[Pixels, np.ndarray]:
        """An image with the shorter side of squares, and its mask at its own size."""
        limit = self.source.max_image_pixels
        decoded = self.extractor.decode(image, limit)
        shape = stored_size(decoded)
        width, height = (max(self.side, round(self.side * length / min(shape))) for length in shape)
        check_size(width, height, limit, f" with a shorter side of {self.side}")
        return resized(decoded, (width, height)), decode_mask(mask, limit)

    def _read(
        self,
        source: ImageSource,
        batch_size: int,
        decode: Callable[[tuple[Encoded, Encoded, int]], Decoded],
        prepare: Callable[[list[Decoded]], Prepared],
    ) -> Iterator[Prepared]:
        """What `prepare` makes of batches; `decode` gets image, mask and place. Broken images are left out."""
        columns = [source.image_column, str(source.label_column)]
        rows = (
            {"drawn": (row[columns[0]], row[columns[1]], place)}
            for place, row in enumerate(map_style(source).select_columns(columns))
        )
        drawn = replace(source, image_column="drawn", label_column=None)
        for batch in image_batches(drawn, batch_size, decode, prepare, "segmentation-dinov2", rows):
            if batch.broken:
                reason = next(iter(batch.broken.values()))
                logger.warning(f"{source.name}: an image or its mask is broken and left out: {reason}")
            if batch.images is not None:
                yield batch.images


def random_square(image: Pixels, mask: np.ndarray, side: int, number: int) -> tuple[Pixels, np.ndarray]:
    """
    A square of `side` pixels of an image, and of its mask, which is resized to the image; both flipped or not.
    `number`, from 0 on, decides which.
    """
    rng = np.random.default_rng([_SEED, 2, number])
    width, height = stored_size(image)
    upper, left = (int(rng.integers(length - side + 1)) for length in (height, width))
    crop = _square(image, upper, left, side)
    mask = _square(resize_mask(mask, height, width), upper, left, side)
    if rng.random() < 0.5:
        return crop, mask
    flipped = np.ascontiguousarray(crop[:, ::-1]) if isinstance(crop, np.ndarray) else ImageOps.mirror(crop)
    return flipped, np.ascontiguousarray(mask[:, ::-1])


def _square(image: AnyPixels, upper: int, left: int, side: int) -> AnyPixels:
    """The square of an image or a mask that begins at these pixels."""
    if isinstance(image, np.ndarray):
        return image[upper : upper + side, left : left + side]
    return image.crop((left, upper, left + side, upper + side))
