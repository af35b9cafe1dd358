"""Mean intersection over union as an `evaluate` metric that needs no network: called directly."""

import datasets
import evaluate
import numpy as np


class MeanIoU(evaluate.Metric):
    """
    Intersection over union of each class over all images, its mean, and the share of pixels classified rightly.

    An image is counted by class, never listed by pixel, see [`count_pixels`]: `predictions` are pairs for each class,
    the pixels predicted as it and those of them that are; `references` are the pixels of each class. Classes that are
    neither there nor predicted anywhere do not count.
    """

    def _info(self):
        return evaluate.MetricInfo(
            description="Mean intersection over union, and the share of pixels classified rightly.",
            citation="",
            inputs_description="predictions: (predicted, rightly predicted) pixels by class; references: its pixels.",
            features=datasets.Features(
                {
                    "predictions": datasets.List(datasets.List(datasets.Value("int64"))),
                    "references": datasets.List(datasets.Value("int64")),
                }
            ),
        )

    def _compute(self, predictions, references):
        pairs, there = np.asarray(predictions), np.asarray(references)
        return {
            name: float(value) for name, value in miou_and_accuracy(pairs[..., 0], pairs[..., 1], there, None).items()
        }


def count_pixels(predicted: np.ndarray, mask: np.ndarray, num_classes: int, ignore: int = 255):
    """
    One image for [`MeanIoU`].

    Args:
        predicted (`np.ndarray`): Class numbers, below `num_classes`.
        mask (`np.ndarray` of the same shape): Those that are right.
        num_classes (`int`): How many there are.
        ignore (`int`, *optional*, defaults to 255): Of the mask: these pixels are counted nowhere.

    Returns:
        `tuple[list[list[int]], list[int]]`: Its prediction and its reference.
    """
    kept = mask != ignore
    predicted, mask = predicted[kept], mask[kept]
    as_class = np.bincount(predicted, minlength=num_classes)
    rightly = np.bincount(mask[predicted == mask], minlength=num_classes)
    return np.stack([as_class, rightly], axis=1).tolist(), np.bincount(mask, minlength=num_classes).tolist()


def miou_and_accuracy(predicted: np.ndarray, hits: np.ndarray, there: np.ndarray, weights) -> dict:
    """
    Args:
        predicted, hits, there (`np.ndarray` of shape `(num_images, num_classes)`): Pixels, see [`MeanIoU`].
        weights (`np.ndarray` of shape `(num_draws, num_images)`, *optional*): How often each image counts in each
            draw; once if missing.

    Returns:
        `dict`: `miou` and `accuracy`, in [0, 1]; arrays of `num_draws` with weights.
    """
    totals = [part.sum(0) if weights is None else weights @ part for part in (predicted, hits, there)]
    predicted, hits, there = totals
    union = predicted + there - hits
    is_there = union > 0
    ratios = hits / np.where(is_there, union, 1)
    return {
        "miou": ratios.sum(-1) / is_there.sum(-1).clip(1),
        "accuracy": hits.sum(-1) / there.sum(-1).clip(1),
    }
