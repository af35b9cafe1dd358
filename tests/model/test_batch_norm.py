from pathlib import Path

import pytest
import torch
from torch import nn

from lejepa_hf.model.batch_norm import SynchronizedBatchNorm, batch_statistics


def test_is_torchs_in_one_process():
    ours, theirs = SynchronizedBatchNorm(7), nn.BatchNorm1d(7)
    rows = torch.randn(10, 7) * 3 + 2
    torch.testing.assert_close(ours(rows), theirs(rows))
    torch.testing.assert_close(ours.running_var, theirs.running_var)
    torch.testing.assert_close(ours.eval()(rows), theirs.eval()(rows))


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    convolution = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    return nn.Sequential(*convolution, nn.Linear(8, 6), SynchronizedBatchNorm(6), nn.Dropout(0.5)).eval()


def test_outputs_are_those_of_training_without_dropout(network):
    pixels = 2 + torch.randn(16, 3, 8, 8)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with batch_statistics(network):
        found = network(pixels)
    assert {name: value.tolist() for name, value in network.state_dict().items()} == {
        name: value.tolist() for name, value in before.items()
    }
    assert not network.training and not torch.allclose(network(pixels), found, atol=0.1)
    network.train()[-1].eval()
    torch.testing.assert_close(network(pixels), found)


def test_statistics_are_back_after_an_error(network):
    pixels = torch.randn(4, 3, 8, 8)
    expected = network(pixels)
    with pytest.raises(RuntimeError), batch_statistics(network):
        network(pixels[:, :2])
    assert torch.equal(network(pixels), expected)


def test_over_the_batch_of_two_processes(two_processes):
    assert two_processes(Path(__file__).parents[1] / "batch_norm_run.py").strip().endswith("agree")
