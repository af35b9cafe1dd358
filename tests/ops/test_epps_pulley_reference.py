import math

import pytest
import torch

from lejepa_hf.ops.epps_pulley_reference import (
    Quadrature,
    deviation_sums,
    quadrature,
    statistic_from_sums,
)

SAMPLES = {
    (0.0,): (0.408923, 0.408921, 0.402048),
    (1.0,): (1.193054, 1.193052, 1.186006),
    (3.0,): (3.580200, 3.580184, 3.573160),
    (-1.0, 1.0): (0.218715, 0.218714, 0.205659),
    (-1.0, 0.0, 1.0): (0.035060, 0.035058, 0.032947),
    (-2.0, -1.0, 0.0, 1.0, 2.0): (0.930233, 0.930232, 0.929236),
    (0.0,) * 8: (3.271385, 3.271366, 3.216381),
}  # whole line, [-5, 5] with 17 knots, [0, 3] with 17 knots


def closed_form(sample):
    """The statistic of one slice with the integral over the whole line done exactly."""
    pairs = torch.exp(-(sample[:, None] - sample[None, :]).square() / 2).sum()
    singles = torch.exp(-sample.square() / 4).sum()
    n = len(sample)
    return math.sqrt(2 * math.pi) / n * pairs - 2 * math.sqrt(math.pi) * singles + n * math.sqrt(2 * math.pi / 3)


def statistic(sample, rule):
    sums = deviation_sums(torch.tensor(sample)[None, :, None], torch.ones(1, 1), rule)
    return statistic_from_sums(sums, len(sample), rule).item()


def two_sided(num_knots, t_max):
    """The textbook rule, written out: trapezoid on [-t_max, t_max] with the window exp(-t^2 / 2)."""
    knots = torch.linspace(-t_max, t_max, num_knots)
    weights = torch.full_like(knots, 2 * t_max / (num_knots - 1))
    weights[[0, -1]] /= 2
    normal = torch.exp(-knots.square() / 2)
    return Quadrature(2 * t_max / (num_knots - 1), knots, normal, weights * normal)


@pytest.mark.parametrize("sample", SAMPLES)
def test_goldens(sample):
    exact, wide, package = SAMPLES[sample]
    assert closed_form(torch.tensor(sample, dtype=torch.float64)).item() == pytest.approx(exact, abs=2e-6)
    assert statistic(sample, two_sided(17, 5.0)) == pytest.approx(wide, abs=3e-6)
    assert statistic(sample, quadrature(17, 3.0, "cpu")) == pytest.approx(package, abs=3e-6)


@pytest.mark.parametrize("seed", range(3))
def test_quadrature_against_closed_form(seed):
    sample = torch.randn(40, generator=torch.Generator().manual_seed(seed)).tolist()
    exact = closed_form(torch.tensor(sample, dtype=torch.float64)).item()
    assert statistic(sample, two_sided(17, 5.0)) == pytest.approx(exact, abs=1e-4)
    assert statistic(sample, quadrature(17, 3.0, "cpu")) == pytest.approx(exact, abs=0.01 * len(sample))


@pytest.mark.parametrize("sample", SAMPLES)
def test_one_sided_rule_is_the_two_sided_one_with_twice_the_knots(sample):
    assert statistic(sample, quadrature(17, 3.0, "cpu")) == pytest.approx(
        statistic(sample, two_sided(33, 3.0)), rel=1e-5, abs=1e-6
    )


@pytest.mark.parametrize(
    ("num_knots", "t_max", "field"),
    [(1, 3.0, "num_knots"), (17, 0.0, "t_max"), (17, -1.0, "t_max"), (17, float("inf"), "t_max")],
)
def test_void_quadrature_is_refused(num_knots, t_max, field):
    with pytest.raises(ValueError, match=field):
        quadrature(num_knots, t_max, "cpu")


def test_tables_are_real_under_a_meta_default_device():
    # `from_pretrained` builds models that way.
    quadrature.cache_clear()
    with torch.device("meta"):
        rule = quadrature(17, 3.0, "cpu")
    assert rule.knots[-1] == 3 and rule.weights.sum() > 0
