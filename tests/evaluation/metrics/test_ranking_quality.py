import pytest

from lejepa_hf.evaluation.metrics.ranking_quality import RankingQuality


def test_by_hand():
    # Relevant items at 1 and 3 of a ranking, at 2 of another one.
    found = RankingQuality().compute(predictions=[[1, 3], [2]], references=[2, 1], depths=[1, 2])
    assert found == pytest.approx({"map": ((1 + 2 / 3) / 2 + 1 / 2) / 2, "recall1": 0.5, "recall2": 1.0})


def test_batches_add_up():
    metric = RankingQuality()
    metric.add_batch(predictions=[[1, 3]], references=[2])
    metric.add_batch(predictions=[[2]], references=[1])
    assert metric.compute() == RankingQuality().compute(predictions=[[1, 3], [2]], references=[2, 1])
