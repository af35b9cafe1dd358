"""Top-k accuracy as an `evaluate` metric."""

import numpy as np

from .in_memory_metric import InMemoryMetric


class TopKAccuracy(InMemoryMetric):
    """
    Share of images whose label is among the k best guesses: `top1`, and with at least 5 guesses an image `top5`.

    `predictions` are lists of class numbers, best first, not scores; `references` are class numbers.
    """

    def _compute(self, predictions: list[list[int]], references: list[int]) -> dict[str, float]:
        return top_k_shares(np.asarray(predictions), np.asarray(references))


def top_k_shares(predictions: np.ndarray, references: np.ndarray) -> dict[str, float]:
    """The figures of [`TopKAccuracy`], from arrays `(num_images, guesses)` and `(num_images,)`."""
    hits = predictions == references[:, None]
    return {f"top{k}": float(hits[:, :k].any(1).mean()) for k in (1, 5) if k <= predictions.shape[1]}
