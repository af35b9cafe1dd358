"""
Checks of the Triton kernels, run by tests/ops/test_epps_pulley_triton.py in a process of their own: whether kernels
are interpreted is decided when Triton is imported.
"""

import pytest
import torch

from lejepa_hf.losses.sigreg import SIGReg, draw_directions
from lejepa_hf.ops import epps_pulley_reference, epps_pulley_triton
from lejepa_hf.ops.epps_pulley_reference import quadrature, statistic_from_sums

DEVICE = "cpu" if epps_pulley_triton.INTERPRETED else "cuda"


def sample(*shape, scale=1.0):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def value_and_gradient(operators, projections, directions, num_knots, t_max=3.0, dtype=torch.float32):
    projections = projections.to(DEVICE).clone().requires_grad_()
    rule = quadrature(num_knots, t_max, projections.device, dtype)
    sums = operators.deviation_sums(projections, directions.to(DEVICE, dtype), rule)
    value = statistic_from_sums(sums, projections.shape[1], rule)
    value.square().sum().backward()
    return value.detach(), projections.grad


def relative_error(found, expected):
    return ((found.double() - expected).norm() / expected.norm()).item()


def exact(projections, directions, num_knots, t_max=3.0):
    return value_and_gradient(epps_pulley_reference, projections.double(), directions, num_knots, t_max, torch.float64)


@pytest.mark.parametrize(
    ("shape", "num_slices", "num_knots", "t_max"),
    [
        ((1, 1, 1), 1, 2, 3.0),
        ((2, 3, 70), 17, 3, 1.0),
        ((1, 130, 5), 9, 4, 5.0),
        ((3, 40, 16), 33, 17, 3.0),
        ((2, 300, 3), 70, 33, 3.0),
        ((1, 20, 8), 12, 65, 3.0),
    ],
)
def test_equals_the_reference(shape, num_slices, num_knots, t_max):
    projections, directions = sample(*shape), draw_directions(shape[-1], num_slices, 0, 0)
    expected = exact(projections, directions, num_knots, t_max)
    found = value_and_gradient(epps_pulley_triton, projections, directions, num_knots, t_max)
    for ours, theirs in zip(found, expected, strict=True):
        assert relative_error(ours, theirs) < 1e-5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_inputs(dtype):
    projections, directions = sample(2, 30, 8).to(dtype), draw_directions(8, 12, 0, 0)
    expected = exact(projections, directions, 17)
    value, gradient = value_and_gradient(epps_pulley_triton, projections, directions, 17)
    assert value.dtype is torch.float32 and gradient.dtype is dtype
    assert relative_error(value, expected[0]) < 1e-5 and relative_error(gradient, expected[1]) < 1e-2


@pytest.mark.parametrize("num_images", [2, 64])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize("num_knots", [17, 33])
def test_as_accurate_as_the_plain_formula(num_images, scale, constant, num_knots):
    # Enough samples to average out the rounding of the projection, which differs between products.
    projections = sample(max(2, 16 // num_images), num_images, 16, scale=scale)
    if constant:
        projections = projections[:, :1].expand(-1, num_images, -1).contiguous()
    directions = draw_directions(16, 48, 1, 0)
    expected = exact(projections, directions, num_knots)
    plain = value_and_gradient(epps_pulley_reference, projections, directions, num_knots)
    found = value_and_gradient(epps_pulley_triton, projections, directions, num_knots)
    for ours, theirs, right in zip(found, plain, expected, strict=True):
        assert relative_error(ours, right) <= 2 * max(relative_error(theirs, right), 1.2e-7)


def test_chunks_and_strides_change_nothing(monkeypatch):
    wide, directions = sample(6, 40, 3), draw_directions(6, 70, 0, 0)
    plain = value_and_gradient(epps_pulley_triton, wide.permute(2, 1, 0).contiguous(), directions, 17)
    monkeypatch.setattr(epps_pulley_triton, "_CHUNK_NUMBERS", 3000)
    strided = value_and_gradient(epps_pulley_triton, wide.permute(2, 1, 0), directions.T.contiguous().T, 17)
    torch.testing.assert_close(strided, plain, rtol=1e-4, atol=1e-5)


def test_keeps_the_projections_alone_when_directions_are_redrawn():
    projections = sample(2, 30, 8).to(DEVICE).requires_grad_()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        rule, directions = quadrature(17, 3.0, projections.device), draw_directions(8, 12, 0, 0, projections.device)
        epps_pulley_triton.deviation_sums(projections, directions, rule, lambda: directions)
    assert [tensor.shape for tensor in kept] == [projections.shape]


def test_behind_sigreg():
    projections = sample(2, 30, 8).to(DEVICE)
    fused = SIGReg(num_slices=20, backend="triton")(projections, step=1)
    plain = SIGReg(num_slices=20, backend="reference")(projections, step=1)
    assert fused.item() == pytest.approx(plain.item(), rel=1e-5)
