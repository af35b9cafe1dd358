import pytest
import torch

from lejepa_hf.losses.sigreg import draw_directions
from lejepa_hf.ops import epps_pulley_eager, epps_pulley_reference
from lejepa_hf.ops.epps_pulley_reference import quadrature, statistic_from_sums


def value_and_gradient(op, projections, directions, num_knots, t_max):
    projections = projections.clone().requires_grad_()
    knots, weights = quadrature(num_knots, t_max, "cpu")
    knots, weights = knots.to(projections.dtype), weights.to(projections.dtype)
    sums = op(projections, directions, knots)
    value = statistic_from_sums(sums, projections.shape[1], knots, weights)
    value.square().sum().backward()  # not the plain mean, so that each slice has its own gradient
    return value.detach(), projections.grad


@pytest.mark.parametrize(
    ("shape", "num_slices", "num_knots", "t_max"),
    [((1, 2, 1), 1, 2, 3.0), ((3, 7, 5), 11, 3, 1.0), ((2, 64, 16), 33, 17, 3.0), ((8, 33, 24), 65, 65, 5.0)],
)
def test_equals_the_reference(monkeypatch, shape, num_slices, num_knots, t_max):
    monkeypatch.setattr(epps_pulley_eager, "_CHUNK_ELEMENTS", 8 * shape[0] * shape[1])  # several uneven chunks
    projections = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    directions = draw_directions(shape[-1], num_slices, seed=0, step=0).double()
    expected = value_and_gradient(epps_pulley_reference.characteristic_sums, projections, directions, num_knots, t_max)
    found = value_and_gradient(epps_pulley_eager.characteristic_sums, projections, directions, num_knots, t_max)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10)
    single = value_and_gradient(
        epps_pulley_eager.characteristic_sums, projections.float(), directions.float(), num_knots, t_max
    )
    scale = expected[1].norm()
    assert (single[0] - expected[0]).norm() / expected[0].norm() < 1e-5
    assert (single[1] - expected[1]).norm() / scale < 1e-5


def test_gradient_by_finite_differences():
    projections = torch.randn(
        2, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    ).requires_grad_()
    directions = draw_directions(3, 5, seed=1, step=0).double()
    knots = quadrature(6, 2.0, "cpu")[0].double()
    # Float32 knots: the op derives its rotation from the second one, so hand it exactly equispaced ones.
    knots = torch.arange(6, dtype=torch.float64) * knots[1]
    assert torch.autograd.gradcheck(
        lambda x: epps_pulley_eager.characteristic_sums(x, directions, knots), projections, atol=1e-7
    )


def test_keeps_nothing_larger_than_the_projections():
    projections = torch.randn(4, 32, 8, requires_grad=True)
    directions = draw_directions(8, 500, seed=0, step=0)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor.numel()) or tensor, lambda x: x):
        epps_pulley_eager.characteristic_sums(projections, directions, quadrature(17, 3.0, "cpu")[0])
    # images x slices alone would be 64,000
    assert sum(kept) == projections.numel() + directions.numel() + 17


@pytest.mark.parametrize("scale", [0.0, 1e-3, 1.0, 1e4])
def test_finite_at_any_scale(scale):
    projections = scale * torch.randn(1, 16, 4, generator=torch.Generator().manual_seed(0))
    value, gradient = value_and_gradient(
        epps_pulley_eager.characteristic_sums, projections, draw_directions(4, 8, 0, 0), 17, 3.0
    )
    assert value.isfinite().all() and gradient.isfinite().all()
