import numpy as np
import pytest
from scipy.stats import binomtest, ttest_1samp

from lejepa_hf.evaluation.intervals import is_spread, over_draws, over_images, over_resamples, with_interval


@pytest.mark.parametrize(("hits", "number"), [(0, 20), (13, 20), (20, 20), (445, 450), (900, 10_000)])
def test_reaches_wilsons_farther_end(hits, number):
    accuracy = hits / number
    found = with_interval("top1", accuracy, number)
    expected = binomtest(hits, number).proportion_ci(method="wilson")
    assert found == {
        "top1": accuracy,
        "top1_ci95": pytest.approx(max(accuracy - expected.low, expected.high - accuracy)),
    }


def test_interval_of_a_mean_over_images():
    found = over_images("map", [0.2, 0.5, 0.9])
    assert found == {"map": pytest.approx(1.6 / 3), "map_ci95": over_draws("map", [0.2, 0.5, 0.9])["map_ci95"]}
    assert over_images("map", [0.5]) == {"map": 0.5}


def test_interval_of_a_mean_is_students():
    accuracies = [0.6, 0.7, 0.65, 0.72, 0.58]
    found = over_draws("shots", accuracies)
    interval = ttest_1samp(accuracies, 0).confidence_interval()
    assert found["shots"] == pytest.approx(np.mean(accuracies))
    assert found["shots_ci95"] == pytest.approx((interval.high - interval.low) / 2)
    assert found["shots_std"] == pytest.approx(np.std(accuracies, ddof=1))


def test_interval_over_resamples_is_that_of_their_spread():
    draws = np.random.default_rng(0).normal(0.7, 0.1, 100_000)
    found = over_resamples("miou", 0.71, draws)
    assert found == {"miou": 0.71, "miou_ci95": pytest.approx(1.96 * 0.1, rel=0.02)}
    assert is_spread("miou_ci95")


@pytest.mark.parametrize("accuracy", [0.5, 0.9, 0.97, 0.99, 0.995])
def test_it_covers_what_it_says(accuracy):
    """Of many test sets drawn from one population, at least about 95 in 100 intervals hold its accuracy."""
    rng = np.random.default_rng(0)
    hits = rng.binomial(450, accuracy, size=4000) / 450
    covered = [abs(value - accuracy) <= with_interval("top1", value, 450)["top1_ci95"] for value in hits]
    assert np.mean(covered) > 0.94


def test_names_of_spreads():
    assert is_spread("eval_knn_top1_ci95") and is_spread("eval_1shot_top1_std")
    assert not is_spread("eval_knn_top1")
