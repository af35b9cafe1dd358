import pytest
import torch

from lejepa_hf import SIGReg
from lejepa_hf.losses.objective import objective, objective_sums
from lejepa_hf.losses.prediction import prediction_loss


def projections(num_images=12):
    return torch.randn(5, num_images, 6, generator=torch.Generator().manual_seed(0)).exp()


@pytest.mark.parametrize("views", ["per_view", "pooled"])
@pytest.mark.parametrize("statistic", ["epps_pulley", "cramer_von_mises"])
def test_is_both_losses(views, statistic):
    sigreg = SIGReg(num_slices=20, views=views, statistic=statistic)
    found = objective(projections(), 2, sigreg, step=3)
    expected = prediction_loss(projections(), 2), sigreg(projections(), 3)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("views", ["per_view", "pooled"])
@pytest.mark.parametrize("sizes", [[6, 6], [1, 7, 4], [12]])
def test_parts_average_to_the_whole(views, sizes):
    sigreg = SIGReg(num_slices=20, views=views)
    whole = projections().requires_grad_()
    prediction, regularisation = objective(whole, 2, sigreg, step=3)
    (prediction + 0.3 * regularisation).backward()
    parts = [part.detach().clone().requires_grad_() for part in whole.split(sizes, dim=1)]
    total = sum(objective_sums(part.detach(), 2, sigreg, step=3) for part in parts)
    for part in parts:
        found = objective(part, 2, sigreg, 3, batch_sums=total, num_parts=len(parts))
        torch.testing.assert_close(found, (prediction, regularisation), rtol=1e-5, atol=1e-6)
        ((found[0] + 0.3 * found[1]) / len(parts)).backward()  # as a Trainer averages micro-batches
    gradient = torch.cat([part.grad for part in parts], dim=1)
    assert (gradient - whole.grad).norm() < 1e-5 * whole.grad.norm()


def test_a_batch_needs_two_images():
    with pytest.raises(ValueError, match="at least 2 images, got 1"):
        objective(projections(1), 2, SIGReg(num_slices=4), step=0)


def test_parts_need_a_function_of_sums():
    with pytest.raises(ValueError, match="'vcreg' cannot be computed from sums"):
        objective(projections(), 2, SIGReg(statistic="vcreg"), 0, batch_sums=torch.zeros(3))
