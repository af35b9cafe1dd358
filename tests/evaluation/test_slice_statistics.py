import math

import pytest
import torch
from test_embedding_statistics import normal
from torch.nn import functional as F

from lejepa_hf.evaluation.embedding_statistics import embedding_statistics
from lejepa_hf.evaluation.slice_statistics import quantile_band, worst_slices
from lejepa_hf.losses.sigreg import draw_directions, epps_pulley


def test_a_planted_bimodal_direction_is_the_worst_slice():
    planted = F.normalize(normal(4, seed=5), dim=0)
    samples = normal(3, 500, 4)
    along = samples[1] @ planted
    samples[1] += torch.outer(along.sign() - along, planted)  # in one view only two points are left along it
    found = embedding_statistics(samples)
    worst = found.worst_slices[0]
    assert worst.view == 1
    assert abs(worst.direction @ planted) > 0.95
    assert worst.excess_kurtosis < -1.5
    assert worst.std == pytest.approx(1, abs=0.1) and worst.mean == pytest.approx(0, abs=0.15)
    torch.testing.assert_close(worst.sample, samples[1] @ worst.direction)
    assert found.z_scores[1] > 4 > max(found.z_scores[0], found.z_scores[2])


def test_worst_slices_are_the_largest_statistics():
    samples = normal(2, 60, 6) * 1.5
    statistics = epps_pulley(samples, draw_directions(6, 40, seed=2, step=0))
    found = embedding_statistics(samples, num_slices=40, seed=2)
    expected = statistics.amax(0).sort(descending=True).values[:5]
    assert [worst.statistic for worst in found.worst_slices] == pytest.approx(expected.tolist())
    assert found.metrics()["worst_slice"] == pytest.approx(statistics.max().item())
    assert len({tuple(worst.direction.tolist()) for worst in found.worst_slices}) == 5
    for worst in found.worst_slices:
        own = epps_pulley(samples[worst.view][None], worst.direction[:, None])
        assert own.item() == pytest.approx(worst.statistic, rel=1e-4)
    assert len(embedding_statistics(samples, num_slices=3).worst_slices) == 3


def test_moments():
    points = torch.tensor([0.0, 0.0, 0.0, 4.0])
    (worst,) = worst_slices(points[None, :, None], torch.full((1, 1), -1.0), torch.tensor([[0.25]]))
    assert worst.sample.tolist() == [0, 0, 0, -4] and (worst.statistic, worst.view) == (0.25, 0)
    found = [worst.mean, worst.std, worst.skewness, worst.excess_kurtosis]
    assert found == pytest.approx([-1, math.sqrt(3), -2 / math.sqrt(3), 7 / 3 - 3], rel=1e-5)


def test_quantile_band_is_over_slices_of_all_views():
    apart = torch.stack([torch.zeros(20, 1), torch.ones(20, 1)])
    directions = torch.tensor([1.0, -1.0]).repeat(32)[None]  # values -1, 0 and 1
    band = quantile_band(apart, directions, torch.tensor([0.1, 0.5, 0.9]))
    assert band.tolist() == [[-1.0] * 3, [0.0] * 3, [1.0] * 3]
    found = embedding_statistics(apart, num_slices=64)
    assert found.quantile_levels.shape == (20,)
    assert (found.quantile_band == band[:, :1]).all()


def test_quantiles_of_one_slice_are_values_of_its_sample():
    samples = torch.arange(10.0).flip(0)[None, :, None]
    band = quantile_band(samples, torch.full((1, 1), 0.5), torch.tensor([0.0, 0.3, 0.95]))
    assert band.tolist() == [[0.0, 1.5, 4.5]] * 3


def test_each_direction_is_described_once_in_its_worst_view():
    statistics = torch.tensor([[1.0, 5.0, 2.0], [4.0, 6.0, 0.0]])
    found = worst_slices(normal(2, 10, 3), torch.eye(3), statistics)
    assert [(worst.statistic, worst.view) for worst in found] == [(6.0, 1), (4.0, 1), (2.0, 0)]
    assert [worst.direction.argmax().item() for worst in found] == [1, 0, 2]


@pytest.mark.parametrize("value", [0.0, 0.3, -70.0])
def test_rounding_of_a_constant_slice_is_no_shape(value):
    samples = torch.full((1, 50, 4), value)
    direction = F.normalize(normal(4, 1), dim=0)
    (worst,) = worst_slices(samples, direction, torch.ones(1, 1))
    assert (worst.skewness, worst.excess_kurtosis) == (0, 0)
