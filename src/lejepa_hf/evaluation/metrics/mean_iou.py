"""Mean intersection over union as an `evaluate` metric."""

import datasets
import numpy as np

from .in_memory_metric import InMemoryMetric


class MeanIoU(InMemoryMetric):
    """
    Mean over classes of their intersection over union, taken over all images, and the share of pixels that are
    classified correctly: `miou` and `accuracy`.

    Images are passed as counts of pixels by class, see [`count_pixels`]. `predictions` hold a pair for each class: the
    pixels predicted as this class, and those of them that are correct; `references` hold the pixels of each class.
    Classes that are neither present nor predicted anywhere do not count.
    """

    columns = {
        "predictions": datasets.List(datasets.List(datasets.Value("int64"))),
        "references": datasets.List(datasets.Value("int64")),
    }

    def _compute(self, predictions: list[list[list[int]]], references: list[list[int]]) -> dict[str, float]:
        return miou_and_accuracy(np.asarray(predictions), np.asarray(references))


def count_pixels(
    predicted: np.ndarray, mask: np.ndarray, num_classes: int, ignore: int = 255
) -> tuple[list[list[int]], list[int]]:
    """
    Count the pixels of one image: its prediction and reference for [`MeanIoU`], from predicted class numbers below
    `num_classes` and a mask of the same shape, whose pixels of value `ignore` are left out.
    """
    kept = mask != ignore
    predicted, mask = predicted[kept], mask[kept]
    as_class = np.bincount(predicted, minlength=num_classes)
    correct = np.bincount(mask[predicted == mask], minlength=num_classes)
    return np.stack([as_class, correct], axis=1).tolist(), np.bincount(mask, minlength=num_classes).tolist()


def miou_and_accuracy(predictions: np.ndarray, references: np.ndarray) -> dict[str, float]:
    """Compute both figures of [`MeanIoU`], in [0, 1], from arrays (images, classes, 2) and (images, classes)."""
    (predicted, correct), present = predictions.sum(0).T, references.sum(0)
    union = predicted + present - correct
    counted = union > 0
    miou = (correct[counted] / union[counted]).sum() / max(1, counted.sum())
    return {"miou": float(miou), "accuracy": float(correct.sum() / max(1, present.sum()))}
