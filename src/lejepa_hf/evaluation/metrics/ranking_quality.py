"""Recall and average precision of rankings as an `evaluate` metric that needs no network: called directly."""

import datasets
import evaluate

from ..intervals import is_spread, over_images, with_interval


class RankingQuality(evaluate.Metric):
    """
    Recall at k, a relevant item among the first k, and mean average precision.

    `predictions` are the places of a query's relevant items in its full ranking, from 1, ascending; `references` say
    how many items are relevant to it. Neither has the length of the ranking. `compute` takes `depths`, the k of
    recall, and `intervals`, with which 95 % intervals stand beside the figures, `map_ci95` and so on.
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

    def _compute(self, predictions, references, depths=(1, 5, 10), intervals=False):
        precisions = [
            sum(found / place for found, place in enumerate(places, 1)) / number
            for places, number in zip(predictions, references, strict=True)
        ]
        results = over_images("map", precisions)
        for k in depths:
            recall = sum(bool(places) and places[0] <= k for places in predictions) / len(predictions)
            results |= with_interval(f"recall{k}", recall, len(predictions))
        return {name: value for name, value in results.items() if intervals or not is_spread(name)}
