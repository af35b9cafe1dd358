"""Segmentation by one linear layer on the patch features of a frozen encoder."""

import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from transformers import BaseImageProcessor, PreTrainedModel, get_cosine_schedule_with_warmup

from ...data.sources import ImageSource
from ...system.devices import default_device
from ...system.progress_bars import progress_bar
from ..feature_extractor import FeatureExtractor
from .linear_probe import layer_of_zeros
from .pixel_counts import IGNORED, PixelCounts, check_scores
from .protocol import OnImages, require_positive
from .segmentation_maps import SegmentationMaps, find_classes, try_size

logger = logging.getLogger("lejepa_hf")

LEARNING_RATES = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
_WEIGHT_DECAY = 1e-4
_BATCH, _LEAST_STEPS, _LEAST_EPOCHS = 16, 600, 10
_SEED = 0  # of the order and of the tenth; the layer starts at zero


@dataclass(frozen=True)
class Segmentation(OnImages):
    """
    BatchNorm and one linear layer on each patch token of the last layer, or on each position of the feature map. Its
    logits are resized to the mask bilinearly; cross-entropy, AdamW with weight decay 1e-4, warmup and cosine, ten
    passes over the images in batches of 16, or as many as make 600 steps.

    Whole images are squeezed to a square. Predictions are compared with masks of their own size, reduced to 512 pixels
    on sides that are longer. The learning rate with the best mean intersection over union on a tenth of the training
    images, set aside, is fitted again on all of them. Test images choose nothing.

    Args:
        resolution (`int`, *optional*): Side of the square in pixels. That of the processor's crop if missing.
        ignore_labels (`Sequence[int]`, *optional*, defaults to `(255,)`): Values of the masks that are ignored. All
            others are classes.

    Source: linear layer on the last layer's patch tokens, logits upsampled: DINOv2, arXiv 2304.07193; BatchNorm, batch
    of 16, AdamW and its weight decay: its published code. Ours: whole images at the size of training where DINOv2 has
    crops of 512 pixels and a sliding window, no augmentation, the number of steps, the sweep.
    """

    name = "segmentation"
    labels = "masks"
    resolution: int | None = None
    ignore_labels: Sequence[int] = (255,)

    def __post_init__(self) -> None:
        require_positive("resolution", self.resolution)

    def run(
        self, encoder: PreTrainedModel, processor: BaseImageProcessor, train: ImageSource, test: ImageSource
    ) -> dict[str, float]:
        """`eval_segmentation_miou` and `eval_segmentation_accuracy`, see [`PixelCounts.figures`]."""
        extractor = FeatureExtractor(encoder, processor)
        side = self.resolution or max(extractor.preprocess([extractor.grey_image()]).shape[-2:])
        try_size(extractor, side, self.name, "resolution")  # before the long work of reading all masks
        classes = sorted(find_classes(train, self.ignore_labels) | find_classes(test, self.ignore_labels))
        fitted_on = SegmentationMaps(extractor, train, classes, side)
        order = np.random.default_rng(_SEED).permutation(len(fitted_on))
        aside, others = order[: len(order) // 10], order[len(order) // 10 :]
        rate = LEARNING_RATES[0]
        if len(aside):
            heads = _fit(fitted_on, others, LEARNING_RATES, len(classes))
            found = [_counts(head, fitted_on.batches(aside, _BATCH), len(classes)).miou() for head in heads]
            rate = LEARNING_RATES[found.index(max(found))]
            logger.info(f"segmentation: learning rate {rate:g}, best of {len(heads)} on {len(aside)} training images")
        (head,) = _fit(fitted_on, np.arange(len(order)), [rate], len(classes))
        measured_on = SegmentationMaps(extractor, test, classes, side, fitted_on.scale)
        counts = _counts(head, measured_on.with_whole_masks(), len(classes))
        test.num_read = len(counts)
        return counts.figures("eval_segmentation")


def _fit(maps: SegmentationMaps, rows: np.ndarray, rates: Sequence[float], num_classes: int) -> list[nn.Module]:
    """Heads that see the same batches of these rows, each with its own learning rate."""
    device, steps_an_epoch = default_device(), math.ceil(len(rows) / _BATCH)
    num_epochs = max(_LEAST_EPOCHS, math.ceil(_LEAST_STEPS / steps_an_epoch))
    num_steps = num_epochs * steps_an_epoch
    rng = np.random.default_rng([_SEED, 1])
    heads: list[nn.Module] = []
    with progress_bar(total=num_steps, desc="segmentation", unit=" steps") as bar:
        for _ in range(num_epochs):
            for batch, masks in maps.batches(rng.permutation(rows), _BATCH):
                batch, masks = batch.to(device), masks.to(device)
                if not heads:
                    dim = batch.shape[1]
                    layers = [layer_of_zeros(nn.Conv2d, dim, num_classes, 1) for _ in rates]
                    heads = [nn.Sequential(nn.BatchNorm2d(dim), layer).to(device) for layer in layers]
                    groups = [
                        {"params": list(head.parameters()), "lr": rate}
                        for head, rate in zip(heads, rates, strict=True)
                    ]
                    optimizer = torch.optim.AdamW(groups, weight_decay=_WEIGHT_DECAY)
                    schedule = get_cosine_schedule_with_warmup(optimizer, num_steps // 10, num_steps)
                if (masks == IGNORED).all():
                    continue
                optimizer.zero_grad()
                for head in heads:  # one after the other, since logits at the size of the masks are large
                    logits = F.interpolate(head(batch), size=masks.shape[-2:], mode="bilinear")
                    F.cross_entropy(logits, masks, ignore_index=IGNORED).backward()
                optimizer.step()
                schedule.step()
                bar.update()
    return [head.eval() for head in heads]


def _counts(
    head: nn.Module, batches: Iterable[tuple[torch.Tensor, Iterable[torch.Tensor]]], num_classes: int
) -> PixelCounts:
    """Pixels of all images by class."""
    counts = PixelCounts(num_classes)
    for maps, masks in batches:
        with torch.inference_mode():
            for logits, mask in zip(check_scores(head(maps.to(default_device()))), masks, strict=True):
                predicted = F.interpolate(logits[None], size=tuple(mask.shape), mode="bilinear").argmax(1)[0]
                counts.add(predicted, mask)
    return counts
