"""Top-k accuracy as an `evaluate` metric."""

from .in_memory_metric import InMemoryMetric


class TopKAccuracy(InMemoryMetric):
    """
    Share of images whose label is among the k best guesses: `top1`, and with at least 5 guesses an image `top5`.

    `predictions` are lists of class numbers, best first, not scores; `references` are class numbers.
    """

    def _compute(self, predictions: list[list[int]], references: list[int]) -> dict[str, float]:
        pairs = list(zip(predictions, references, strict=True))
        depths = (k for k in (1, 5) if k <= len(predictions[0]))
        return {f"top{k}": sum(label in guesses[:k] for guesses, label in pairs) / len(pairs) for k in depths}
