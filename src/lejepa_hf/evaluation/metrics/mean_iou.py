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

    summary = "Mean intersection over union, and the share of pixels classified correctly."
    inputs = "predictions: (predicted, correctly predicted) pixels by class; references: pixels by class."
    columns = {
        "predictions": datasets.List(datasets.List(datasets.Value("int64"))),
        "references": datasets.List(datasets.Value("int64")),
    }

    def _compute(self, predictions: list[list[list[int]]], references: list[list[int]]) -> dict[str, float]:
        pairs, present = np.asarray(predictions), np.asarray(references)
        found = miou_and_accuracy(pairs[..., 0], pairs[..., 1], present)
        return {name: float(value) for name, value in found.items()}


def count_pixels(
    predicted: np.ndarray, mask: np.ndarray, num_classes: int, ignore: int = 255
) -> tuple[list[list[int]], list[int]]:
    """
    Count the pixels of one image for [`MeanIoU`].

    Args:
        predicted (`np.ndarray`): Predicted class numbers, below `num_classes`.
        mask (`np.ndarray` of the same shape): Correct class numbers.
        num_classes (`int`): Number of classes.
        ignore (`int`, *optional*, defaults to 255): Value of the mask whose pixels are not counted.

    Returns:
        `tuple[list[list[int]], list[int]]`: The image's prediction and its reference.
    """
    kept = mask != ignore
    predicted, mask = predicted[kept], mask[kept]
    as_class = np.bincount(predicted, minlength=num_classes)
    correct = np.bincount(mask[predicted == mask], minlength=num_classes)
    return np.stack([as_class, correct], axis=1).tolist(), np.bincount(mask, minlength=num_classes).tolist()


def miou_and_accuracy(
    predicted: np.ndarray, correct: np.ndarray, present: np.ndarray, weights: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """
    Compute both figures from counts of pixels.

    Args:
        predicted (`np.ndarray` of shape `(num_images, num_classes)`): Pixels predicted as each class.
        correct (`np.ndarray` of the same shape): Those of them that are correct.
        present (`np.ndarray` of the same shape): Pixels of each class in the masks.
        weights (`np.ndarray` of shape `(num_draws, num_images)`, *optional*): How often each image counts in each
            draw. Once if missing.

    Returns:
        `dict[str, np.ndarray]`: `miou` and `accuracy`, in [0, 1]; of shape `(num_draws,)` with weights.
    """
    totals = [part.sum(0) if weights is None else weights @ part for part in (predicted, correct, present)]
    predicted, correct, present = totals
    union = predicted + present - correct
    counts = union > 0
    ratios = correct / np.where(counts, union, 1)
    return {
        "miou": ratios.sum(-1) / counts.sum(-1).clip(1),
        "accuracy": correct.sum(-1) / present.sum(-1).clip(1),
    }
