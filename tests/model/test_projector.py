import pytest
import torch
from torch import nn

from lejepa_hf.model.projector import Projector


@pytest.mark.parametrize(
    ("norm", "kind"),
    [("batch", nn.BatchNorm1d), ("batch_per_size", nn.BatchNorm1d), ("layer", nn.LayerNorm), ("none", nn.Identity)],
)
def test_layers(norm, kind):
    projector = Projector(12, [20, 16, 4], norm)
    assert projector(torch.randn(6, 12)).shape == (6, 4)
    assert [layer.linear.out_features for layer in projector.hidden] == [20, 16]
    assert all(isinstance(layer.norm, kind) for layer in projector.hidden)
    assert isinstance(projector.out, nn.Linear) and projector.out.bias is not None


def test_names_of_weights_are_those_of_published_checkpoints():
    names = set(Projector(12, [20, 4], "batch").state_dict())
    norm = {
        f"hidden.0.norm.{name}" for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    }
    assert names == {"hidden.0.linear.weight", "out.weight", "out.bias"} | norm


def test_batch_norm_over_all_views_or_over_those_of_a_size():
    global_rows, local_rows = torch.randn(6, 5), 3 * torch.randn(9, 5) + 2
    together, per_size = Projector(5, [8, 3], "batch"), Projector(5, [8, 3], "batch_per_size")
    per_size.load_state_dict(together.state_dict())
    both = torch.cat([global_rows, local_rows])
    torch.testing.assert_close(together(global_rows, local_rows), together(both))
    apart = torch.cat([together(global_rows), together(local_rows)])
    torch.testing.assert_close(per_size(global_rows, local_rows), apart)
    assert not torch.allclose(apart, together(both), atol=0.01)
    torch.testing.assert_close(per_size(global_rows), together(global_rows))  # crops of one size


def test_one_layer_is_linear():
    projector = Projector(5, [3], "batch")
    x, y = torch.randn(2, 4, 5)
    torch.testing.assert_close(projector(x + y) - projector(y), projector(x) - projector(torch.zeros(4, 5)))
