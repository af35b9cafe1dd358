"""Counts of right and wrong pixels of segmented images, and the figures that follow from them."""

import numpy as np
import torch

from ..figures import Figures
from ..intervals import over_resamples
from ..metrics.mean_iou import MeanIoU, count_pixels, miou_and_accuracy

IGNORED = -1  # in masks of class numbers


def check_scores(scores: torch.Tensor) -> torch.Tensor:
    """The scores of the classes of an image, as they are; ValueError if one is NaN or infinite."""
    if not scores.isfinite().all():
        raise ValueError(
            "The segmentation layer gives an image NaN or infinite scores, of which no figure can be made: use "
            "another checkpoint, whose features are finite."
        )
    return scores


class PixelCounts:
    """
    Pixels of images by class, collected image by image, see [`count_pixels`].

    Args:
        num_classes (`int`): Number of classes; masks have class numbers below it, or `IGNORED`.
    """

    def __init__(self, num_classes: int) -> None:
        self._num_classes = num_classes
        self._predictions: list[list[list[int]]] = []
        self._references: list[list[int]] = []

    def __len__(self) -> int:
        return len(self._references)

    def add(self, predicted: torch.Tensor, mask: torch.Tensor) -> None:
        """Count the pixels of an image, from class numbers of the same shape `(height, width)`."""
        prediction, reference = count_pixels(predicted.cpu().numpy(), mask.numpy(), self._num_classes, IGNORED)
        self._predictions.append(prediction)
        self._references.append(reference)

    def miou(self) -> float:
        """Mean intersection over union, see [`MeanIoU`]."""
        return MeanIoU().compute(predictions=self._predictions, references=self._references)["miou"]

    def figures(self, name: str) -> Figures:
        """
        `<name>_miou` and `<name>_accuracy`, the share of pixels, see [`MeanIoU`], and their 95 % intervals over draws
        of images with replacement.
        """
        predictions, references = np.array(self._predictions), np.array(self._references)
        results = Figures()
        for metric in ("miou", "accuracy"):

            def figure(images: np.ndarray, metric: str = metric) -> float:
                return miou_and_accuracy(predictions[images], references[images])[metric]

            results |= over_resamples(f"{name}_{metric}", figure, len(references))
        return results
