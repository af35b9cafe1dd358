"""Recall and average precision of rankings as an `evaluate` metric."""

from collections.abc import Sequence

from .in_memory_metric import InMemoryMetric


class RankingQuality(InMemoryMetric):
    """
    Recall at k, the share of queries with a relevant item among the first k, and mean average precision: `recall1` and
    so on, and `map`.

    `predictions` are the places of a query's relevant items in its full ranking, from 1, ascending; `references` are
    the numbers of items that are relevant to each query. Neither has the length of the ranking. `compute` takes
    `depths`, the k of recall.
    """

    def _compute(
        self, predictions: list[list[int]], references: list[int], depths: Sequence[int] = (1, 5, 10)
    ) -> dict[str, float]:
        precisions = average_precisions(predictions, references)
        return {"map": sum(precisions) / len(precisions)} | {
            f"recall{k}": sum(bool(places) and places[0] <= k for places in predictions) / len(predictions)
            for k in depths
        }


def average_precisions(predictions: list[list[int]], references: list[int]) -> list[float]:
    """Average precision of each query, in [0, 1], see [`RankingQuality`]."""
    return [
        sum(found / place for found, place in enumerate(places, 1)) / number
        for places, number in zip(predictions, references, strict=True)
    ]
