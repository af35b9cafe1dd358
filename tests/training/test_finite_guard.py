import pytest
import torch

from lejepa_hf.training.finite_guard import FiniteGuard


def test_names_what_was_not_finite_and_when(tmp_path):
    guard = FiniteGuard(tmp_path)
    guard.watch(3, loss=torch.tensor(1.0), norm=torch.tensor(2.0))
    guard.check()
    guard.watch(4, loss=torch.tensor(float("nan")), norm=torch.tensor(2.0))
    guard.watch(5, loss=torch.tensor(1.0), norm=torch.tensor(float("inf")))
    with pytest.raises(FloatingPointError, match="^Step 4: `loss` is nan. The run stopped"):
        guard.check()
    guard.check(wait=True)  # reported once


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_does_not_wait_for_the_device(tmp_path):
    guard = FiniteGuard(tmp_path)
    matrix = torch.randn(8192, 8192, device="cuda")
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(10):
            matrix = matrix @ matrix / 100
        guard.watch(0, loss=matrix.sum() * float("nan"))
        guard.check()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    with pytest.raises(FloatingPointError):
        guard.check(wait=True)
