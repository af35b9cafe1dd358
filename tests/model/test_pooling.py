from dataclasses import dataclass

import pytest
import torch
from transformers.utils import ModelOutput

from lejepa_hf.model.pooling import final_states, pool


@dataclass
class Outputs(ModelOutput):
    last_hidden_state: object = None
    pooler_output: object = None
    feature_maps: object = None


def test_tokens_and_feature_maps():
    tokens, feature_map = torch.randn(2, 5, 3), torch.randn(2, 3, 4, 4)
    assert torch.equal(pool(Outputs(last_hidden_state=tokens), "cls"), tokens[:, 0])
    torch.testing.assert_close(pool(Outputs(last_hidden_state=tokens), "mean"), tokens.mean(1))
    torch.testing.assert_close(pool(Outputs(last_hidden_state=feature_map), "mean"), feature_map.mean((2, 3)))
    pooled = torch.randn(2, 3, 1, 1)
    assert torch.equal(pool(Outputs(pooler_output=pooled), "pooler"), pooled[:, :, 0, 0])


def test_the_last_map_of_a_class_for_detectors():
    maps = (torch.randn(2, 3, 8, 8), torch.randn(2, 6, 4, 4))
    assert final_states(Outputs(feature_maps=maps)) is maps[1]
    assert pool(Outputs(feature_maps=maps), "mean").shape == (2, 6)


@pytest.mark.parametrize("states", [None, [torch.ones(1), torch.ones(2)]])
def test_no_states_or_several_branches(states):
    assert final_states(Outputs(last_hidden_state=states)) is None
    with pytest.raises(ValueError, match="`pooling` 'mean' needs tokens or a feature map"):
        pool(Outputs(last_hidden_state=states), "mean")
