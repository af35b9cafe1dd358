"""Top-k accuracy as an `evaluate` metric."""

from .in_memory_metric import InMemoryMetric


class TopKAccuracy(InMemoryMetric):
    """
    Share of images whose label is among the k best guesses: `top1`, and with at least 5 guesses an image `top5`.

    `predictions` are lists of class numbers, best first, not scores; `references` are class numbers.
    """

    def _compute(self, predictions: list[list[int]], references: list[int]) -> dict[str, float]:
        ranks = [
            guess.index(label) if label in guess else None
            for guess, label in zip(predictions, references, strict=True)
        ]
        depth = len(predictions[0])
        hits = {k: sum(rank is not None and rank < k for rank in ranks) / len(ranks) for k in (1, 5) if k <= depth}
        return {f"top{k}": value for k, value in hits.items()}
