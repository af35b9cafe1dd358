"""Images and masks -> feature maps of a frozen encoder with class numbers, kept in memory or computed again."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import torch

from ...data.decoding import Encoded, Pixels, resized
from ...data.errors import DataError
from ...data.masks import decode_mask, resize_mask
from ...data.sources import ImageSource
from ...model.tracing import TRACING_ERRORS
from ...system.error_text import reason_of
from ..embeddings.image_batches import image_batches
from ..feature_extractor import FeatureExtractor
from ..labelled_sources import map_style, select_rows
from .pixel_counts import IGNORED

logger = logging.getLogger("lejepa_hf")

_BATCH = 64  # images of a forward pass
_KEPT = 2**30  # bytes
_LARGEST_MASK = 512  # pixels on a side: logits of 150 classes at that size are 157 MB


class SegmentationMaps:
    """
    Feature maps of a source, and its masks as class numbers, `IGNORED` for all other values.

    Images are squeezed to a square, so that the encoder sees every pixel of the mask. Up to 1 GiB of maps and masks is
    kept in memory, in half precision; more than that is computed again each time it is needed.

    Args:
        extractor ([`FeatureExtractor`]): The encoder with its processor; its pooling is not used.
        source ([`ImageSource`]): Images with masks as labels; map-style.
        classes (`Sequence[int]`): Values of the masks that are classes, ascending; all others are ignored.
        side (`int`): Side of the square in pixels.
        scale (`float`, *optional*): Divides the features, which might be too large for half precision. If missing,
            their standard deviation in some images of the source.
    """

    def __init__(
        self, extractor: FeatureExtractor, source: ImageSource, classes: Sequence[int], side: int,
        scale: float | None = None,
    ) -> None:  # fmt: skip
        self._extractor, self._source, self._side = extractor, source, side
        self._classes, self.scale = classes, scale

    def __len__(self) -> int:
        return len(map_style(self._source))

    def batches(self, rows: np.ndarray, size: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """
        Batches of the images with these numbers, in this order, without broken ones: maps (size, dim, rows, columns),
        fp32, and masks (size, side, side), int64, on the host.
        """
        if self._kept is None:
            for some_maps, some_masks, _ in self._computed(rows, size):
                yield some_maps, torch.stack(some_masks)
            return
        maps, masks, places = self._kept
        for chunk in places[rows][places[rows] >= 0].split(size):
            yield maps[chunk].float(), masks[chunk].long()

    def with_whole_masks(self) -> Iterator[tuple[torch.Tensor, list[torch.Tensor]]]:
        """All images once, with masks of their own size, reduced to 512 pixels on sides that are longer."""
        for maps, masks, _ in self._computed(np.arange(len(self)), _BATCH, squeeze_masks=False):
            yield maps, masks

    @cached_property
    def _kept(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None:
        """Maps, masks, and the place of each image among them, -1 for broken ones; None if they are too large."""
        maps: list[torch.Tensor] = []
        masks: list[torch.Tensor] = []
        numbers: list[int] = []
        for some_maps, some_masks, some_numbers in self._computed(np.arange(len(self)), _BATCH):
            size = 2 * (some_maps[0].numel() + some_masks[0].numel()) * len(self)
            if size > _KEPT:  # known from the first batch on
                logger.info(
                    f"{self._source.name}: feature maps would take {size / 2**30:.1f} GiB; they are computed again "
                    "for each pass."
                )
                return None
            maps.append(some_maps.half())
            masks += [mask.short() for mask in some_masks]
            numbers += some_numbers
        if not numbers:
            raise DataError(f"{self._source.name}: none of its images and masks can be read.")
        places = torch.full((len(self),), -1)
        places[numbers] = torch.arange(len(numbers))
        return torch.cat(maps), torch.stack(masks), places

    def _computed(
        self, rows: np.ndarray, size: int, squeeze_masks: bool = True
    ) -> Iterator[tuple[torch.Tensor, list[torch.Tensor], list[int]]]:
        """Maps, masks and numbers of the images that can be read."""
        source, extractor = self._source, self._extractor
        chosen = map_style(select_rows(source, rows)).select_columns([source.image_column, source.label_column])
        pairs = ({"pair": (row[source.image_column], row[source.label_column])} for row in chosen)

        def decode(pair: tuple[Encoded, Encoded]) -> tuple[Pixels, torch.Tensor]:
            image = extractor.decode(pair[0], source.max_image_pixels)
            mask = decode_mask(pair[1], source.max_image_pixels)
            sides = (self._side,) * 2 if squeeze_masks else [min(side, _LARGEST_MASK) for side in mask.shape]
            return resized(image, (self._side, self._side)), class_numbers(resize_mask(mask, *sides), self._classes)

        def prepare(decoded: list[tuple[Any, torch.Tensor]]) -> tuple[torch.Tensor, list[torch.Tensor]]:
            images, masks = zip(*decoded, strict=True)
            return extractor.as_they_are(list(images)), list(masks)

        of_pairs = replace(source, dataset=chosen, image_column="pair", label_column=None)
        for batch in image_batches(of_pairs, size, decode, prepare, "feature maps", pairs):
            if batch.broken:
                number, reason = next(iter(batch.broken.items()))
                logger.warning(f"{source.name}: row {rows[number]} is broken and left out: {reason}")
            if batch.images is not None:
                pixels, masks = batch.images
                maps = extractor.as_maps(extractor.last_state(pixels), pixels)
                if self.scale is None:
                    self.scale = float(maps.std().clamp_min(1e-12))
                yield maps / self.scale, masks, [int(rows[number]) for number in batch.numbers]


def class_numbers(mask: np.ndarray, classes: Sequence[int]) -> torch.Tensor:
    """The place of each value of a mask among `classes`, which ascend; `IGNORED` for all others."""
    known = np.asarray(classes)
    found = np.searchsorted(known, mask).clip(max=len(known) - 1)
    return torch.from_numpy(np.where(known[found] == mask, found, IGNORED))


def find_classes(source: ImageSource, ignore: Sequence[int]) -> set[int]:
    """The values of all masks of a map-style source except those to ignore; no image is read."""
    column = str(source.label_column)
    dataset = map_style(source).select_columns([column])
    masks = replace(source, dataset=dataset, image_column=column, label_column=None)
    found: set[int] = set()
    broken: dict[int, str] = {}

    def decode(value: Encoded) -> np.ndarray:
        return np.unique(decode_mask(value, source.max_image_pixels))

    for batch in image_batches(masks, 256, decode, np.concatenate, "masks"):
        found |= set() if batch.images is None else set(batch.images.tolist())
        broken |= batch.broken
    found -= set(ignore)
    if not found:
        reason = f"the first one: {next(iter(broken.values()))}" if broken else "all their pixels are ignored"
        raise ValueError(f"`label_column` {column!r} of `dataset` {source.name!r} holds no usable mask: {reason}.")
    return found


def try_size(extractor: FeatureExtractor, side: int, protocol: str, setting: str) -> None:
    """
    Refuse a size that the processor always changes or the encoder cannot take, by one grey image of it; `setting` of
    the protocol chose the size.
    """
    pixels = extractor.try_as_they_are(protocol, side)
    try:
        extractor.as_maps(extractor.last_state(pixels), pixels)
    except TRACING_ERRORS as error:
        own = max(extractor.try_pixels().shape[-2:])
        raise ValueError(
            f"`{setting}` {side}: this {extractor.encoder.config.model_type} encoder cannot make a feature map of "
            f"images of {side} x {side} pixels ({reason_of(error)}); use the encoder's own size, {own}."
        ) from error
