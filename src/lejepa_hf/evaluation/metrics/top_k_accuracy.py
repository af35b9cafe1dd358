"""Top-k accuracy as an `evaluate` metric that needs no network: called directly, never through `evaluate.load`."""

import datasets
import evaluate


class TopKAccuracy(evaluate.Metric):
    """
    Share of images whose label is among the k best guesses.

    `predictions` are lists of class numbers, best first, not scores: every batch goes through Arrow.
    """

    def _info(self):
        return evaluate.MetricInfo(
            description="Share of references among the first k predictions.",
            citation="",
            inputs_description="predictions: class numbers, best first; references: class numbers.",
            features=datasets.Features(
                {"predictions": datasets.List(datasets.Value("int64")), "references": datasets.Value("int64")}
            ),
        )

    def _compute(self, predictions, references):
        ranks = [
            guess.index(label) if label in guess else None
            for guess, label in zip(predictions, references, strict=True)
        ]
        depth = len(predictions[0])
        hits = {k: sum(rank is not None and rank < k for rank in ranks) / len(ranks) for k in (1, 5) if k <= depth}
        return {f"top{k}": value for k, value in hits.items()}
