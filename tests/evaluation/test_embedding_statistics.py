import math

import pytest
import torch
from torch.nn import functional as F

from lejepa_hf import SIGReg
from lejepa_hf.evaluation import embedding_statistics as module
from lejepa_hf.evaluation.embedding_statistics import (
    embedding_statistics,
    format_statistics,
    quantile_band,
    worst_slices,
)
from lejepa_hf.losses.sigreg import draw_directions, epps_pulley

NULL_MEAN = 1.0525  # of the statistic with 17 knots on [0, 3], whatever the number of images
COLLAPSED = 0.402048  # the statistic over the number of images where all values are 0


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def with_covariance(eigenvalues: list[float], num_images: int = 200) -> torch.Tensor:
    """A centred sample whose covariance has exactly these eigenvalues, on axes turned at random."""
    dim = len(eigenvalues)
    centred = normal(num_images, dim).double()
    white = torch.linalg.qr(centred - centred.mean(0)).Q * math.sqrt(num_images - 1)
    turn = torch.linalg.qr(normal(dim, dim, seed=1).double()).Q
    return (white * torch.tensor(eigenvalues).double().sqrt() @ turn.T).float()


@pytest.mark.parametrize("shape", [(3, 512, 16), (2, 40, 64), (600, 2), (2, 3)])
def test_a_gaussian_sample_is_told_from_none(shape):
    found = embedding_statistics(normal(*shape), num_slices=128)
    assert len(found.sigreg) == (shape[0] if len(shape) == 3 else 1)
    assert all(abs(z) < 4 for z in found.z_scores)
    assert found.null_mean == pytest.approx(NULL_MEAN, abs=4 * found.null_std / math.sqrt(32))


def test_sigreg_is_that_of_the_loss():
    samples = normal(2, 100, 8) * torch.tensor([[[1.0]], [[2.0]]])
    found = embedding_statistics(samples, num_slices=64, num_knots=9, t_max=2.0, seed=3)
    loss = SIGReg(num_slices=64, num_knots=9, t_max=2.0, seed=3)
    assert found.sigreg == pytest.approx([loss(view, step=0).item() for view in samples], rel=1e-5)
    assert found.z_scores[1] > found.z_scores[0] + 10
    for value, z in zip(found.sigreg, found.z_scores, strict=True):
        assert z == pytest.approx((value - found.null_mean) / found.null_std)


def test_the_null_spread_knows_that_slices_of_one_sample_are_dependent():
    """With one dimension all slices are the same, whatever their number; the variance of the statistic is known."""
    one, many = (embedding_statistics(normal(100, dim), num_slices=256).null_std for dim in (1, 64))
    knots = torch.linspace(0, 3, 17, dtype=torch.float64)
    weights = torch.exp(-knots.square() / 2) * 2 * (knots[1] - knots[0])
    weights[[0, -1]] /= 2
    product = knots[:, None] * knots
    damping = torch.exp(-(knots[:, None].square() + knots.square()) / 2)
    covariances = (damping * (product.cosh() - 1)).square() + (damping * product.sinh()).square()
    assert one == pytest.approx((2 * weights @ covariances @ weights).sqrt().item(), rel=0.4)
    assert 0.05 < many < 0.2


@pytest.mark.parametrize("value", [0.0, 0.3, -70.0])
@pytest.mark.parametrize(("num_images", "dim"), [(300, 8), (5, 20)])
def test_collapsed(value, num_images, dim):
    found = embedding_statistics(torch.full((2, num_images, dim), value), num_slices=32)
    if value == 0:
        assert found.sigreg == pytest.approx([COLLAPSED * num_images] * 2, rel=1e-4)
    assert found.effective_rank == found.top_eigenvalue_share == 0
    assert not found.eigenvalues.any() and found.eigenvalues.shape == (dim,)
    assert found.mean_norm == pytest.approx(abs(value) * math.sqrt(dim), rel=1e-5)
    for worst in found.worst_slices:
        assert (worst.skewness, worst.excess_kurtosis) == (0, 0)
        assert worst.std < 1e-6 * max(1, abs(value))
        assert worst.mean == pytest.approx(value * worst.direction.sum().item(), rel=1e-4, abs=1e-6)
    assert all(math.isfinite(number) for number in found.metrics().values())


def test_rounding_is_no_variance():
    """A collapsed network's outputs may differ in their last bit, in every dimension for itself."""
    last_bit = (normal(300, 8) > 0) * torch.finfo(torch.float32).eps / 4
    found = embedding_statistics(0.3 + last_bit, num_slices=8)
    assert len((0.3 + last_bit).unique()) == 2
    assert found.effective_rank == 0


@pytest.mark.parametrize(
    ("eigenvalues", "rank", "share"),
    [
        ([1.0] * 4, 4, 0.25),
        ([9.0, 9.0], 2, 0.5),
        ([4.0, 2.0, 1.0, 1.0], 2**1.75, 0.5),
        ([5.0, 0.0, 0.0], 1, 1),
        ([1e-6, 1e-6, 0.0], 2, 0.5),
    ],
)
def test_spectrum(eigenvalues, rank, share):
    samples = with_covariance(eigenvalues)
    for shape in (samples.shape, (2, 100, len(eigenvalues))):  # views are pooled
        found = embedding_statistics(samples.reshape(shape), num_slices=8)
        expected = torch.tensor(eigenvalues).double()
        torch.testing.assert_close(found.eigenvalues, expected, rtol=1e-5, atol=1e-5 * max(eigenvalues))
        assert found.effective_rank == pytest.approx(rank, rel=1e-5)
        assert found.top_eigenvalue_share == pytest.approx(share, rel=1e-5)


def test_spectrum_of_fewer_images_than_dimensions():
    found = embedding_statistics(torch.eye(5, 64), num_slices=8)  # a regular simplex: four equal axes
    torch.testing.assert_close(found.eigenvalues, F.pad(torch.full((4,), 0.25), (0, 60)).double())
    assert found.effective_rank == pytest.approx(4)


def test_spectrum_in_parts(monkeypatch):
    samples = 5 + normal(100, 6) * torch.arange(1, 7)
    monkeypatch.setattr("lejepa_hf.evaluation.rank._CHUNK_ROWS", 7)
    found = embedding_statistics(samples, num_slices=8)
    torch.testing.assert_close(found.eigenvalues, torch.linalg.eigvalsh(samples.double().T.cov()).flip(0))


def test_mean_is_over_images_and_views():
    samples = with_covariance([1.0, 1.0, 1.0]) + torch.tensor([0.0, 3.0, 4.0])
    assert embedding_statistics(samples, num_slices=8).mean_norm == pytest.approx(5, rel=1e-5)
    both = torch.stack([samples, -samples])
    assert embedding_statistics(both, num_slices=8).mean_norm == pytest.approx(0, abs=1e-5)


def test_quantiles_and_random_slices():
    found = embedding_statistics(2 * normal(2, 2000, 8), num_slices=100)
    levels, (low, median, high) = found.quantile_levels, found.quantile_band
    assert (levels.diff() > 0).all() and 0 < levels[0] < 0.01 and 0.99 < levels[-1] < 1
    assert (low < median).all() and (median < high).all()
    inner = (levels > 0.05) & (levels < 0.95)
    expected = 2 * torch.distributions.Normal(0, 1).icdf(levels)
    torch.testing.assert_close(median[inner], expected[inner], atol=0.1, rtol=0)
    assert (low < expected)[inner].all() and (expected < high)[inner].all()
    directions = draw_directions(8, 100, seed=0, step=0)
    torch.testing.assert_close(found.random_slices, (2 * normal(2, 2000, 8)[0] @ directions[:, :3]).T)


def test_repeats_and_leaves_everything_alone():
    samples = normal(30, 4).requires_grad_()
    before, state = samples.detach().clone(), torch.get_rng_state()
    first = embedding_statistics(samples, num_slices=16)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(samples, before) and not first.random_slices.requires_grad
    assert embedding_statistics(samples, num_slices=16).metrics() == first.metrics()
    assert embedding_statistics(samples[None], num_slices=16).metrics() == first.metrics()
    assert embedding_statistics(samples.double(), num_slices=16).metrics() == first.metrics()
    assert embedding_statistics(samples, num_slices=16, seed=1).metrics() != first.metrics()


def test_half_precision_embeddings():
    samples = normal(50, 6).bfloat16()
    assert embedding_statistics(samples).metrics() == embedding_statistics(samples.float()).metrics()


def test_metric_names_are_an_interface():
    found = embedding_statistics(torch.stack([normal(50, 6), 2 * normal(50, 6)]), num_slices=16)
    metrics = found.metrics()
    assert list(metrics) == [
        "effective_rank",
        "top_eigenvalue_share",
        "mean_norm",
        "sigreg_view0",
        "sigreg_view1",
        "sigreg_null_mean",
        "sigreg_null_std",
        "sigreg_z",
        "worst_slice",
    ]
    assert all(type(value) is float for value in metrics.values())
    assert metrics["sigreg_z"] == found.z_scores[1] > found.z_scores[0]
    assert metrics["sigreg_view1"] == found.sigreg[1]


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (torch.zeros(5), r"got shape \(5,\)"),
        (torch.zeros(1, 2, 3, 4), r"got shape \(1, 2, 3, 4\)"),
        (torch.zeros(0, 4), r"got shape \(0, 4\)"),
        (torch.zeros(5, 0), r"got shape \(5, 0\)"),
        (torch.zeros(1, 4), "`samples` must hold at least 2 images, got 1"),
        (torch.zeros(3, 1, 4), "`samples` must hold at least 2 images, got 1"),
        (torch.tensor([[1.0, math.nan], [0.0, -math.inf], [math.nan, 0.0]]), "got -inf, nan in 3 of 6 values"),
    ],
)
def test_unusable_samples_are_named(samples, message):
    with pytest.raises(ValueError, match=message):
        embedding_statistics(samples)


def test_refuses_to_wait_for_other_processes(monkeypatch):
    monkeypatch.setattr(module, "world_size", lambda: 2)
    with pytest.raises(RuntimeError, match="2 form a group.*end_training"):
        embedding_statistics(normal(10, 2))


def test_table():
    found = embedding_statistics(torch.stack([normal(60, 3), 3 * normal(60, 3)]), num_slices=7)
    views, spectrum, worst = format_statistics(found).split("\n\n")
    header, *rows, null = views.splitlines()
    assert header.split() == ["view", "SIGReg", "z"]
    expected = [[str(view), f"{found.sigreg[view]:.3f}", f"{z:.1f}"] for view, z in enumerate(found.z_scores)]
    assert [row.split() for row in rows] == expected
    assert null.split() == f"normal {found.null_mean:.3f} ± {found.null_std:.3f} for 60 images".split()
    assert spectrum.startswith(f"effective rank {found.effective_rank:.1f} of 3, largest eigenvalue ")
    rows = worst.splitlines()[1:]
    assert len(rows) == 5
    assert [float(row.split()[0]) for row in rows] == [round(w.statistic, 3) for w in found.worst_slices]


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
