import numpy as np
import pytest
from scipy.stats import bootstrap, ttest_rel

from lejepa_hf.evaluation.figures import Figures
from lejepa_hf.evaluation.intervals import over_draws, over_images, over_resamples
from lejepa_hf.evaluation.paired_differences import difference, differences_to_first, format_differences, mcnemar_p


def hits(*wrong: int) -> Figures:
    """Of 60 images, those that are right."""
    right = np.ones(60)
    right[list(wrong)] = 0
    return Figures({"eval_knn_top1": right.mean()}, {"eval_knn_top1": right})


def test_equals_scipys_paired_t():
    rng = np.random.default_rng(0)
    one, two = rng.normal(0.6, 0.1, 50), rng.normal(0.65, 0.1, 50)
    found = difference(Figures({}, {"x": one}), Figures({}, {"x": two}), "x")
    interval = ttest_rel(two, one).confidence_interval()
    assert found["difference"] == pytest.approx((interval.high + interval.low) / 2)
    assert found["ci95"] == pytest.approx((interval.high - interval.low) / 2)
    assert "mcnemar_p" not in found


def test_mcnemars_p():
    """Eight images only the second has right, one only the first: 2 (1 + 9) / 2^9."""
    found = difference(hits(*range(8), 20), hits(30, 20), "eval_knn_top1")
    assert found["difference"] == pytest.approx(7 / 60)
    assert found["mcnemar_p"] == pytest.approx(2 * (1 + 9) / 2**9)
    assert mcnemar_p(np.ones(3), np.ones(3)) == 1


def test_paired_images_are_surer_than_two_intervals():
    one = hits(*range(30))
    two = hits(*range(2, 30))
    assert difference(one, two, "eval_knn_top1")["ci95"] < 0.1  # half of Wilson's for each is 0.12


def test_figures_that_are_no_means_equal_scipys_paired_bootstrap():
    rng = np.random.default_rng(0)
    first = rng.normal(size=60)
    values = first, first + rng.normal(0.2, 0.1, 60)
    one, two = (over_resamples("x", lambda images, of=of: float(np.median(of[images])), 60) for of in values)
    found = difference(one, two, "x")
    ends = bootstrap(
        values, lambda a, b: np.median(b) - np.median(a), paired=True, vectorized=False, n_resamples=1000,
        method="percentile", rng=1,
    ).confidence_interval  # fmt: skip
    assert found["difference"] == pytest.approx(two["x"] - one["x"])
    assert found["ci95"] == pytest.approx((ends.high - ends.low) / 2, rel=0.1)
    assert found["ci95"] < one["x_ci95"] / 2
    assert difference(one, over_resamples("x", lambda images: 0.5, 59), "x") is None, "of other images"
    assert list(differences_to_first({"a": hits() | one, "b": hits() | two})["b"]) == ["eval_knn_top1", "x"]


def test_errors_are_compared_in_the_unit_of_the_labels():
    one, two = (over_images("eval_ridge_mae", values) for values in ([1.0, 2.0], [1.5, 2.75]))
    table = format_differences("a", differences_to_first({"a": one, "b": two}))
    assert table.splitlines()[-1] == "| ridge mae (in the label's unit) | +0.625 ± 1.588 |"


def test_what_cannot_be_paired_is_left_out():
    fewer = Figures({"eval_knn_top1": 1.0}, {"eval_knn_top1": np.ones(59)})
    assert difference(hits(1), fewer, "eval_knn_top1") is None
    assert difference(hits(1), hits(1), "eval_knn_macro_f1") is None


def test_table_of_differences():
    draws = over_draws("eval_1shot_top1", [0.5, 0.6, 0.7])
    better = over_draws("eval_1shot_top1", [0.6, 0.7, 0.8])
    found = differences_to_first({"a": hits(1, 2) | draws, "b": hits(1) | better, "c": hits(1, 2)})
    assert list(found) == ["b", "c"] and list(found["b"]) == ["eval_knn_top1", "eval_1shot_top1"]
    assert format_differences("a", found).splitlines() == [
        "| points more than a | b               | c               |",
        "| ------------------ | --------------- | --------------- |",
        "| knn top1           | +1.7 ± 3.3, p 1 | +0.0 ± 0.0, p 1 |",
        "| 1shot top1         | +10.0 ± 0.0     | –               |",
    ]
    assert differences_to_first({}) == {} and differences_to_first({"a": hits()}) == {}
