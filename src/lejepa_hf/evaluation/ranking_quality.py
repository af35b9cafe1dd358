"""Recall and average precision of rankings as an `evaluate` metric that needs no network: called directly."""

from collections.abc import Sequence

import datasets
import evaluate


def average_precision(places: Sequence[int], number: int) -> float:
    """
    Args:
        places (`Sequence[int]`): Of a query's relevant items in its full ranking, from 1, ascending.
        number (`int`): How many items are relevant.
    """
    return sum(found / place for found, place in enumerate(places, 1)) / number


class RankingQuality(evaluate.Metric):
    """
    Recall at k, a relevant item among the first k, and mean average precision.

    `predictions` are the places of a query's relevant items in its full ranking, from 1, ascending; `references` say
    how many items are relevant to it. Neither has the length of the ranking.
    """

    def _info(self):
        return evaluate.MetricInfo(
            description="Recall at k and mean average precision of rankings.",
            citation="",
            inputs_description="predictions: places of the relevant items, from 1; references: their number.",
            features=datasets.Features(
                {"predictions": datasets.List(datasets.Value("int64")), "references": datasets.Value("int64")}
            ),
        )

    def _compute(self, predictions, references, depths=(1, 5, 10)):
        precisions = [average_precision(*query) for query in zip(predictions, references, strict=True)]
        recalls = {
            f"recall{k}": sum(bool(places) and places[0] <= k for places in predictions) / len(predictions)
            for k in depths
        }
        return {"map": sum(precisions) / len(precisions), **recalls}
