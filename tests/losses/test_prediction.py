import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lejepa_hf.losses.prediction import prediction_loss


def test_is_the_mean_square_distance_from_the_global_centre():
    projections = torch.randn(5, 4, 3, generator=torch.Generator().manual_seed(0))
    expected = torch.stack(
        [(projections[view, n] - projections[:2, n].mean(0)).square().mean() for view in range(5) for n in range(4)]
    ).mean()
    assert prediction_loss(projections, 2).item() == pytest.approx(expected.item(), rel=1e-6)


def test_one_view_has_nothing_to_predict():
    assert prediction_loss(torch.randn(1, 4, 3), 1) == 0


def test_local_views_do_not_move_the_centre():
    projections = torch.randn(4, 6, 3, generator=torch.Generator().manual_seed(0))
    moved = projections.clone()
    moved[3] += 1
    change = prediction_loss(moved, 2) - prediction_loss(projections, 2)
    centre = projections[:2].mean(0)
    expected = ((moved[3] - centre).square().mean() - (projections[3] - centre).square().mean()) / 4
    assert change.item() == pytest.approx(expected.item(), rel=1e-5)


def test_gradient_reaches_the_globals_through_the_centre():
    projections = torch.zeros(3, 2, 1)
    projections[2] = 1.0  # both global views coincide: without the path through the centre their gradient is zero
    projections.requires_grad_()
    prediction_loss(projections, 2).backward()
    assert projections.grad[0].abs().min() > 0
    assert projections.grad.sum(0) == pytest.approx(torch.zeros(2, 1), abs=1e-6)  # no force on a common shift


def test_is_fp32_for_half_precision_inputs():
    projections = torch.randn(3, 8, 4, generator=torch.Generator().manual_seed(0)).bfloat16()
    loss = prediction_loss(projections, 2)
    assert loss.dtype is torch.float32
    assert loss.item() == pytest.approx(prediction_loss(projections.float(), 2).item(), rel=1e-6)


class Computations(TorchDispatchMode):
    """Counts operations that compute something: on a GPU each of them is a launch."""

    number = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        self.number += name not in ("slice", "expand", "detach", "view", "unsqueeze", "alias", "empty_like")
        return func(*args, **(kwargs or {}))


def test_one_process_computes_five_things_forward():
    """Centre, distance, square, sum, mean: no number of images on the device, as several processes need it."""
    projections = torch.randn(3, 8, 4, requires_grad=True)
    with Computations() as forward:
        loss = prediction_loss(projections, 2)
    with Computations() as backward:
        loss.backward()
    assert forward.number == 5 and backward.number <= 10


@pytest.mark.parametrize(
    ("shape", "num_global", "message"), [((4, 3), 1, "shape"), ((2, 4, 3), 0, "got 0"), ((2, 4, 3), 3, "got 3")]
)
def test_refuses_what_has_no_meaning(shape, num_global, message):
    with pytest.raises(ValueError, match=message):
        prediction_loss(torch.zeros(shape), num_global)
