from types import SimpleNamespace

import pytest
import torch

from lejepa_hf.model.pooling import final_states, pool


def outputs(**values):
    return SimpleNamespace(**values)


def test_tokens_and_feature_maps():
    tokens, feature_map = torch.randn(2, 5, 3), torch.randn(2, 3, 4, 4)
    assert torch.equal(pool(outputs(last_hidden_state=tokens), "cls"), tokens[:, 0])
    torch.testing.assert_close(pool(outputs(last_hidden_state=tokens), "mean"), tokens.mean(1))
    torch.testing.assert_close(pool(outputs(last_hidden_state=feature_map), "mean"), feature_map.mean((2, 3)))
    pooled = torch.randn(2, 3, 1, 1)
    assert torch.equal(pool(outputs(pooler_output=pooled), "pooler"), pooled[:, :, 0, 0])


def test_the_last_map_of_a_class_for_detectors():
    maps = (torch.randn(2, 3, 8, 8), torch.randn(2, 6, 4, 4))
    assert final_states(outputs(feature_maps=maps)) is maps[1]
    assert pool(outputs(feature_maps=maps), "mean").shape == (2, 6)


@pytest.mark.parametrize("states", [None, [torch.ones(1), torch.ones(2)]])
def test_no_states_or_several_branches(states):
    assert final_states(outputs(last_hidden_state=states)) is None
