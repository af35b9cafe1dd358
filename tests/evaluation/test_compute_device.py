import torch

from lejepa_hf.evaluation.compute_device import default_device


def test_something_can_be_computed_there():
    assert torch.ones(2, device=default_device()).sum() == 2
    assert (default_device().type == "cpu") == (not torch.accelerator.is_available())
