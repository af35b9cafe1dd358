"""Segmentation by one linear layer as DINOv2 measures it: crops in training, a sliding window in evaluation."""

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F
from transformers import BaseImageProcessor, PreTrainedModel, get_linear_schedule_with_warmup

from ...data.errors import DataError
from ...data.sources import ImageSource
from ...model.architecture import patch_size
from ...system.devices import default_device
from ..feature_extractor import FeatureExtractor
from ..labelled_sources import map_style
from .linear_probe import layer_of_zeros
from .pixel_counts import IGNORED, PixelCounts, check_scores
from .protocol import OnImages, passes_and_steps, require_positive
from .segmentation_crops import SegmentationCrops
from .segmentation_maps import find_classes, try_size
from .sliding_window import average_windows, classes_at_size, window_corners

logger = logging.getLogger("lejepa_hf")

_LEARNING_RATE, _WEIGHT_DECAY = 1e-3, 1e-4
_WARMUP = 1500 / 40_000  # of the steps
_BATCH, _LEAST_STEPS, _PASSES = 16, 600, 10
_WINDOWS = 8  # of a forward pass


@dataclass(frozen=True)
class SegmentationDinov2(OnImages):
    """
    BatchNorm and one linear layer on each patch token of the last layer, or on each position of the feature map,
    trained on random crops and flips and measured by a sliding window.

    Images are resized so that their shorter side is `crop_size`. Training: a random square of that size, half of them
    flipped; logits are resized to it bilinearly; cross-entropy, AdamW with learning rate 1e-3 and weight decay 1e-4,
    which falls linearly after 3.75 % of warmup; batches of 16. Evaluation: windows of the same size, two thirds of it
    apart; the mean of their logits is resized to the mask, which keeps its full size. Test images choose nothing.

    Args:
        crop_size (`int`, *optional*, defaults to 512): Side of crops and windows in pixels; the nearest multiple of
            the encoder's patches is used.
        ignore_labels (`Sequence[int]`, *optional*, defaults to `(255,)`): Values of the masks that are ignored. All
            others are classes.
        num_epochs (`int`, *optional*): Passes over the images. If missing, 10, or as many as make 600 steps.

    Source: the linear setting of DINOv2, arXiv 2304.07193, and its published code. Differs: 10 passes for 40,000 steps
    (32 passes over ADE20K); no random scale of 0.5 to 2, no photometric distortion; sizes that patches do not divide
    are rounded, where theirs are padded.
    """

    name = "segmentation-dinov2"
    labels = "masks"
    crop_size: int = 512
    ignore_labels: Sequence[int] = (255,)
    num_epochs: int | None = None

    def __post_init__(self) -> None:
        require_positive("crop_size", self.crop_size)
        require_positive("num_epochs", self.num_epochs)

    def run(
        self, encoder: PreTrainedModel, processor: BaseImageProcessor, train: ImageSource, test: ImageSource
    ) -> dict[str, float]:
        """`eval_segmentation_dinov2_miou` and `eval_segmentation_dinov2_accuracy`, see [`PixelCounts.figures`]."""
        extractor = FeatureExtractor(encoder, processor)
        side = _whole_patches(encoder, self.crop_size)
        try_size(extractor, side, self.name, "crop_size")  # before the long work of reading all masks
        classes = sorted(find_classes(train, self.ignore_labels) | find_classes(test, self.ignore_labels))
        head = self._fit(SegmentationCrops(extractor, train, classes, side))
        counts, crops = PixelCounts(len(classes)), SegmentationCrops(extractor, test, classes, side)
        for windows, size, mask in crops.windows():
            corners = window_corners(*size, side, crops.stride)
            logits = average_windows(window_logits(extractor, head, windows), corners, *size)
            counts.add(classes_at_size(check_scores(logits), *mask.shape), mask)
        if not len(counts):
            raise DataError(f"{test.name}: none of its images and masks can be read.")
        test.num_read = len(counts)
        return counts.figures("eval_segmentation_dinov2")

    def _fit(self, crops: SegmentationCrops) -> nn.Module:
        device, number = default_device(), len(map_style(crops.source))
        num_epochs, num_steps = passes_and_steps(number, _BATCH, self.num_epochs, _PASSES, _LEAST_STEPS)
        dim = _maps(crops.extractor, crops.extractor.try_as_they_are(self.name, crops.side)).shape[1]
        head = nn.Sequential(nn.BatchNorm2d(dim), layer_of_zeros(nn.Conv2d, dim, len(crops.classes), 1)).to(device)
        optimizer = torch.optim.AdamW(head.parameters(), lr=_LEARNING_RATE, weight_decay=_WEIGHT_DECAY)
        schedule = get_linear_schedule_with_warmup(optimizer, round(_WARMUP * num_steps), num_steps)
        num_read = 0
        for pixels, masks in crops.random(num_epochs, _BATCH):
            num_read += len(masks)
            maps, masks = _maps(crops.extractor, pixels).to(device), masks.to(device)
            if (masks == IGNORED).all():
                continue
            logits = F.interpolate(head(maps), size=masks.shape[-2:], mode="bilinear")
            optimizer.zero_grad()
            F.cross_entropy(logits, masks, ignore_index=IGNORED).backward()
            optimizer.step()
            schedule.step()
        if not num_read:
            raise DataError(f"{crops.source.name}: none of its images and masks can be read.")
        return head.eval()


def window_logits(extractor: FeatureExtractor, head: nn.Module, windows: torch.Tensor) -> Iterator[torch.Tensor]:
    """Logits `(num_classes, side, side)` of windows, from their pixel values `(num_windows, channels, side, side)`."""
    for some in windows.split(_WINDOWS):
        with torch.no_grad():
            of_windows = head(_maps(extractor, some).to(default_device()))
        for logits in of_windows:
            yield F.interpolate(logits[None], size=windows.shape[-2:], mode="bilinear")[0]


def _maps(extractor: FeatureExtractor, pixels: torch.Tensor) -> torch.Tensor:
    return extractor.as_maps(extractor.last_state(pixels), pixels)


def _whole_patches(encoder: PreTrainedModel, crop_size: int) -> int:
    """The nearest size that the encoder's patches divide."""
    patch = patch_size(encoder) or 1
    side = max(1, math.ceil(crop_size / patch - 0.5)) * patch
    if side != crop_size:
        logger.info(f"`crop_size` {crop_size} becomes {side}, the nearest multiple of the encoder's patches.")
    return side
