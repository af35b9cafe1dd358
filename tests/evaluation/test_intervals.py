import numpy as np
import pytest
from scipy.stats import ttest_1samp

from lejepa_hf.evaluation.intervals import (
    is_spread,
    over_classes,
    over_draws,
    over_images,
    over_resamples,
    with_interval,
)


@pytest.mark.parametrize(
    ("hits", "number", "farther_end"),
    [
        (0, 20, 0.16112515805281938),
        (13, 20, 0.21714572331476378),
        (20, 20, 0.16112515805281938),
        (445, 450, 0.014632251525749557),
        (900, 10_000, 0.005767631280713801),
    ],
)
def test_reaches_wilsons_farther_end(hits, number, farther_end):
    """Golden values of his formula, computed by hand in an earlier version."""
    accuracy = hits / number
    assert with_interval("top1", accuracy, number) == {
        "top1": accuracy, "top1_ci95": pytest.approx(farther_end, rel=1e-12),
    }  # fmt: skip


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
    values = np.random.default_rng(0).normal(0.7, 0.1, 400)
    found = over_resamples("miou", lambda images: values[images].mean(), len(values))
    assert found == {"miou": pytest.approx(values.mean()), "miou_ci95": pytest.approx(1.96 * 0.1 / 20, rel=0.1)}
    assert found == over_resamples("miou", lambda images: values[images].mean(), len(values))
    assert over_resamples("miou", lambda images: values[images].mean(), 1) == {"miou": values[0]}, "no interval of one"
    assert is_spread("miou_ci95")


@pytest.mark.slow
@pytest.mark.parametrize("accuracy", [0.5, 0.9, 0.97, 0.99, 0.995])
def test_it_covers_what_it_says(accuracy):
    """Of many test sets drawn from one population, at least about 95 in 100 intervals hold its accuracy."""
    rng = np.random.default_rng(0)
    counts = np.bincount(rng.binomial(450, accuracy, size=4000), minlength=451)
    reaches = [with_interval("top1", hits / 450, 450)["top1_ci95"] for hits in range(451)]
    covered = np.abs(np.arange(451) / 450 - accuracy) <= reaches
    assert counts[covered].sum() / 4000 > 0.94


def test_names_of_spreads():
    assert is_spread("eval_knn_top1_ci95") and is_spread("eval_1shot_top1_std")
    assert not is_spread("eval_knn_top1")


def test_interval_of_a_mean_over_classes():
    """Of one class it is Wilson's; of several that of the mean of independent shares, about 1.96 standard errors."""
    labels = np.array([0] * 40 + [1] * 10)
    hits = np.array([True] * 30 + [False] * 10 + [True] * 4 + [False] * 6)
    found = over_classes("x", hits, labels)
    assert found["x"] == pytest.approx((0.75 + 0.4) / 2)
    error = np.sqrt(0.75 * 0.25 / 40 + 0.4 * 0.6 / 10) / 2
    assert found["x_ci95"] == pytest.approx(1.96 * error, rel=0.1)
    assert found.samples["x"].mean() == pytest.approx(found["x"])
    assert found.samples["x"].std() / np.sqrt(50) == pytest.approx(error)
    assert over_classes("x", hits[:40], labels[:40])["x_ci95"] == with_interval("x", 0.75, 40)["x_ci95"]
